"""Each broken format fails the one test that is for its fault, and is told what to change."""

from __future__ import annotations

import pytest
from support import (
    broken_files as files,
    broken_folders as folders,
    broken_formats as formats,
    broken_rarely as rarely,
)
from support.broken_plugins import check_caught, check_fault, check_healthy, every, fault, parameters
from support.plain_formats import PlainFolders, PlainFormat

from bridge_core.testing import FolderFormatContract, FormatContract


class Healthy(FormatContract):
    format = PlainFormat()
    times_damage = 0.2
    many = 270


class HealthyFolders(FolderFormatContract):
    format = PlainFolders()
    times_damage = 0.2


def of(test, *entries):
    """Return the entries of one test: classes, each with words of its message."""
    return [fault(Healthy, test, *words, format=broken()) for broken, *words in entries]


def of_folders(test, *entries, **attributes):
    return [fault(HealthyFolders, test, *words, format=broken(), **attributes) for broken, *words in entries]


FILES = [
    *of(
        "test_every_bit_pattern_of_every_declared_dtype_survives",
        (formats.QuietsNaNs, "float32", "0x7f800001", "NaN payloads"),
        (formats.LosesNegativeZeros, "float64", "0x8000000000000000", "negative zeros"),
        (formats.ClearsSubnormals, "float16", "bytes, not numbers"),
    ),
    *of(
        "test_every_declared_dtype_is_stored",
        (formats.WidensBfloat16, "bfloat16[4] was written", "float32[4]"),
        (formats.SignsBytes, "uint8[4] was written", "int8[4]"),
        (formats.DeclaresTooMuch, "declares complex128", "take it out of capabilities.dtypes"),
    ),
    *of(
        "test_a_dtype_it_lacks_is_refused_before_a_byte_is_written",
        (formats.NarrowsWhatItLacks, "complex128", "was not refused"),
        (formats.WritesBeforeItRefuses, "complex128", "before the first byte"),
        (formats.RaisesKeyErrorForDtypes, "KeyError", "UnsupportedFeature"),
        (formats.RefusesWithoutTheKey, "does not name the tensor", "key=key"),
    ),
    *of(
        "test_tensors_without_axes_survive",
        (formats.GivesScalarsAnAxis, "[] was written", "number of axes"),
        (formats.ReadsScalarsAsNumbers, "not a numpy array"),
    ),
    *of("test_tensors_without_elements_survive", (formats.FlattensEmpties, "[3, 0, 2]", "complete shape")),
    *of("test_axes_of_size_one_and_many_axes_survive", (formats.Squeezes, "[1, 2, 1, 3, 1, 2]", "size 1")),
    *of(
        "test_every_memory_order_is_written_exactly",
        (formats.TakesMemoryAsItLies, "fortran", "row-major"),
        (formats.ForgetsStrides, "reversed", "row-major"),
    ),
    *of("test_big_endian_arrays_are_written_by_value", (formats.ForgetsByteOrder, "byte order")),
    *of(
        "test_the_input_is_not_changed",
        (formats.ClearsTheInput, "caller's array", "Copy"),
        (formats.FreezesTheInput, "read-only"),
        (formats.ClearsTheMetadata, "metadata", "Change copies"),
    ),
    *of("test_large_tensors_survive", (formats.CountsElementsInTwoBytes, "counters, buffers")),
    *of("test_random_states_survive", (formats.AlignsOnlyWhenReading, "offsets", "odd sizes")),
    *of(
        "test_a_region_is_a_slice_of_the_whole",
        (formats.IgnoresSteps, "other values", "step"),
        (formats.IgnoresStarts, "other values", "start"),
        (formats.RaisesForEmptyParts, "IndexError", "may be empty"),
    ),
    *of(
        "test_reading_from_several_threads_gives_the_same",
        (formats.SharesThePosition, "threads", "Read by position"),
    ),
    *of(
        "test_the_order_of_keys_is_kept_or_the_formats_own",
        (formats.ReversesKeys, "zeta.w", "order of the file"),
        (formats.ShufflesKeys, "different orders"),
    ),
    *of("test_values_stay_with_their_keys", (formats.SortsNamesOnly, "names and values in one order")),
    *of("test_dots_in_parts_are_no_separators", (formats.SplitsAtDots, "a.b", "nested")),
    *of("test_slashes_in_parts_are_no_separators", (formats.SplitsAtSlashes, "a/b", "nested")),
    *of("test_keys_that_look_alike_stay_apart", (formats.LowersKeys, "'W'", "each part of a key exactly")),
    *of(
        "test_parts_of_keys_may_hold_any_text",
        (formats.StripsKeys, "each part of a key exactly"),
        (formats.RefusesOddKeys, "declares nested", "refuses"),
    ),
    *of("test_long_keys_survive", (formats.CutsLongKeys, "ppp", "each part of a key exactly")),
    *of("test_many_tensors_survive", (formats.CountsInOneByte, "270 tensors", "counters")),
    *of("test_a_key_may_begin_with_another", (formats.LosesBeginnings, "('a',)", "exactly, or refuse")),
    *of(
        "test_metadata_survives",
        (formats.LosesLayers, "metadata.layers", "dump_metadata"),
        (formats.LosesCollections, "metadata.collections", "batch_stats"),
        (formats.LosesAuxiliaryTensors, "metadata.auxiliary_tensors"),
    ),
    *of(
        "test_ties_survive",
        (formats.LosesTies, "ties", "dump_metadata"),
        (formats.LosesTiedKeys, "('lm', 'weight')", "every key of a tie"),
    ),
    *of("test_equal_tensors_are_not_tied", (formats.TiesEqualTensors, "Take ties from metadata")),
    *of("test_empty_nodes_survive", (formats.LosesEmptyNodes, "metadata.empty", "dump_metadata")),
    *of("test_every_layout_survives", (formats.LosesLayouts, "layout 'torch'", "'neutral' was read")),
    *of("test_two_readings_share_no_metadata", (formats.SharesMetadata, "new metadata in each open")),
    *of(
        "test_is_a_format_with_usable_declarations",
        (formats.DeclaresUnknownDtypes, "float99"),
        (formats.ExtensionsWithoutDots, "begin with a dot"),
    ),
    *of(
        "test_names_of_shards_differ",
        (formats.ShardsOfOneName, "{index:05d}"),
        (formats.ShardNamedAsTheIndex, "model.plain"),
        (formats.ShardsOfAnotherSuffix, ".bin", "extensions"),
    ),
    *of("test_tied_tensors_take_the_space_that_is_declared", (formats.MisdeclaresTies, "'copied'", "of 1")),
    *of(
        "test_sniffing_knows_its_own_files_and_no_others",
        (formats.TakesAllFiles, "for its own", "marker"),
        (formats.KnowsNoFiles, "does not know a file", "marker"),
        (formats.KnowsNoEmptyStates, "with 0 tensors"),
    ),
    *of("test_sniffing_ignores_the_name", (formats.SniffsNames, "content only")),
    *of(
        "test_sniffing_raises_nothing",
        (formats.SniffsWithoutLooking, "TruncatedFile", "file.size"),
        (formats.SniffsByMatching, "expected True or False"),
    ),
    *of("test_sniffing_reads_little", (formats.SniffsEverything, "bytes for a file of")),
    *of(
        "test_sniffing_leaves_the_file_as_it_was",
        (formats.SniffsByPosition, "position", "file.read"),
        (formats.SniffsAndCloses, "closed the file"),
    ),
    *of(
        "test_opening_reads_no_values",
        (files.ReadsOnOpen, "declares lazy", "headers"),
        (files.LoadsByName, "Opening read", "declares lazy"),
    ),
    *of("test_a_slice_reads_about_its_own_bytes", (files.ReadsAllForAPart, "declares sliceable")),
    *of("test_reading_one_tensor_leaves_the_others", (files.ReadsTheWholeFile, "only the bytes")),
    *of("test_values_are_not_kept_after_they_were_read", (files.KeepsWhatWasRead, "still in use")),
    *of("test_writing_asks_for_bounded_blocks", (files.WritesWholeTensors, "at once", "target.blocks")),
    *of(
        "test_writing_holds_only_a_block",
        (files.CollectsBlocks, "one large tensor", "streaming_write"),
        (files.CollectsTheFile, "many small tensors", "each block before"),
    ),
    *of(
        "test_equal_states_give_equal_bytes",
        (files.WritesRandomNames, "differs from byte", "random numbers"),
        (files.WritesTheDate, "at another time", "no times"),
    ),
    *of("test_a_write_depends_on_nothing_that_was_written_before", (files.KeepsALargerBuffer, "larger one")),
    *of(
        "test_nothing_is_written_beside_the_target",
        (files.WritesBeside, "plain.index in the target folder"),
        (files.WritesToTheWorkingFolder, "plain.log in the working folder"),
        (files.LeavesTemporaryFiles, "in the temporary folder"),
    ),
    *of("test_a_moved_checkpoint_reads_the_same", (files.NotesItsFolder, "Store no paths")),
    *of("test_what_was_read_can_be_written_again", (files.GrowsWithEachCopy, "and no more")),
    *of(
        "test_an_error_of_the_source_ends_the_write",
        (files.WritesZerosForErrors, "as if nothing had happened"),
        (files.RenamesErrors, "became ValueError"),
    ),
    *of("test_writing_leaves_the_source_open", (files.ClosesTheSource, "Its owner closes it")),
    *of(
        "test_no_file_stays_open_after_a_write",
        (files.LeavesTheTargetOpen, "After a write,", "with block"),
        (files.LeavesTheTargetOpenOnErrors, "After a write that failed"),
    ),
    *of("test_values_stay_valid_after_the_next_read", (files.ReusesABuffer, "new array from each read")),
    *of(
        "test_a_change_of_what_was_read_reaches_nothing_else",
        (files.HandsOutItsArrays, "the next read gave the change", "read-only"),
        (files.SharesArraysBetweenFiles, "next opening", "Keep no arrays"),
    ),
    *of("test_a_second_file_at_the_same_path_is_read_afresh", (files.RemembersPaths, "nothing about paths")),
    *of("test_two_states_can_be_open_at_once", (files.KeepsTheFileOnItself, "on the format object")),
    *of("test_closing_the_state_closes_the_file", (files.NeverClosesTheFile, "close=file.close")),
    *of("test_no_file_stays_open_after_closing", (files.OpensAnotherHandle, "stayed open", "close function")),
    *of("test_closing_twice_is_harmless", (files.ClosesOnlyOnce, "IndexError", "the second time")),
    *of("test_reading_after_closing_is_refused_or_right", (files.ReadsZerosWhenClosed, "after closing")),
    *of(
        "test_values_that_were_read_outlive_the_state", (files.TakesValuesBack, "After the state was closed")
    ),
    *of("test_opening_needs_no_path", (files.OpensByName, "needs_path")),
    *of(
        "test_damage_raises_only_bridge_errors",
        (files.RaisesValueErrors, "ValueError", "MalformedFile"),
        (files.ChecksNoRows, "Error", "MalformedFile"),
    ),
    *of(
        "test_claimed_sizes_are_not_believed",
        (files.BelievesTheHeadersLength, "size of the file before allocating"),
        (files.BelievesShapes, "size of the file before allocating"),
    ),
    *of("test_a_file_cut_off_anywhere_is_refused", (files.ReadsWhatIsLeft, "file.size")),
    *of("test_an_empty_file_is_refused", (files.TakesNothingForEmpty, "zero bytes")),
    *of(
        "test_bytes_after_the_end_are_refused_or_harmless",
        (files.CountsFromTheEnd, "offsets from the beginning"),
    ),
]

FOLDERS = [
    *of_folders(
        "test_steps_are_listed_and_the_latest_is_read",
        (folders.LatestAsText, "as numbers"),
        (folders.ReadsTheLatestStep, "step=3"),
    ),
    *of_folders("test_items_are_listed_and_read_by_name", (folders.TakesAnyItem, "absent", "UsageError")),
    *of_folders("test_a_folder_by_itself_is_one_item", (folders.ListsNoTensors, "has_tensors")),
    *of_folders(
        "test_a_file_that_is_missing_or_cut_off_is_found_or_harmless",
        (folders.SkipsMissingFiles, "is missing", "without"),
        (folders.FillsUpCutFiles, "cut off", "other values"),
    ),
    *of_folders("test_damage_raises_only_bridge_errors", (folders.RaisesRaw, "KeyError", "MalformedFile")),
    *of_folders(
        "test_claimed_sizes_are_not_believed", (folders.BelievesShapesInFolders, "before allocating")
    ),
    *of_folders(
        "test_nothing_is_written_beside_the_target",
        (folders.WritesBesideTheFolder, "folders.index", "target.file"),
        has_steps=False,
        has_items=False,
    ),
    *of_folders(
        "test_a_moved_checkpoint_reads_the_same",
        (folders.NotesItsPath, "Store no paths"),
        has_steps=False,
        has_items=False,
    ),
    *of_folders("test_empty_nodes_survive", (folders.LeavesTheSidecarOut, "nothing but an empty node")),
    *of_folders("test_sniffing_ignores_the_name", (folders.SniffsFolderNames, "content only")),
    *of_folders(
        "test_sniffing_knows_its_own_folders_and_no_others", (folders.TakesAllFolders, "for its own")
    ),
    *of_folders("test_sniffing_raises_nothing", (folders.SniffsDamage, "sniff_folder raised")),
    *of_folders("test_sniffing_changes_nothing", (folders.MarksWhatItSniffs, "changed the folder")),
    *of_folders("test_opening_reads_no_values", (folders.ReadsFoldersOnOpen, "declares lazy")),
    *of_folders("test_no_file_stays_open_after_closing", (folders.LeavesFilesOpen, "close function")),
    *of_folders("test_writing_holds_only_a_block", (folders.CollectsBlocksInFolders, "streaming_write")),
    *of_folders("test_values_stay_with_their_keys", (folders.NumbersFilesByOrder, "in one order")),
    *of_folders("test_equal_states_give_equal_bytes", (folders.WritesRandomFiles, "run.txt")),
]

RARELY = [
    *of("test_large_tensors_survive", (rarely.WidensLargeBfloat16, "bfloat16[257, 300] was written")),
    *of("test_every_bit_pattern_of_every_declared_dtype_survives", (rarely.QuietsLaterNaNs, "NaN payloads")),
    *of(
        "test_every_memory_order_is_written_exactly",
        (rarely.StoresGridsAsTheyLie, "grid", "row-major"),
        (rarely.ForgetsTheLastAxis, "last axis reversed", "row-major"),
        (rarely.ForgetsStepsOfRows, "row", "reversed"),
    ),
    *of("test_big_endian_arrays_are_written_by_value", (rarely.ForgetsByteOrderOfViews, "byte order")),
    *of("test_the_input_is_not_changed", (rarely.ClearsFortranArrays, "caller's array", "Copy")),
    *of(
        "test_a_region_is_a_slice_of_the_whole",
        (rarely.OffByOneInLargeTensors, "[300, 100]", "other values"),
        (rarely.IgnoresStepsOfFloat16, "float16", "step"),
    ),
    *of("test_values_stay_with_their_keys", (rarely.ExchangesPairs, "bfloat16", "one order")),
    *of(
        "test_the_order_of_keys_is_kept_or_the_formats_own",
        (rarely.ReversesManyKeys, "order of the file"),
        (rarely.ReversesTheThirdTime, "different orders"),
    ),
    *of(
        "test_keys_that_look_alike_stay_apart",
        (rarely.WritesCompatibleForms, "each part of a key exactly"),
        (rarely.LowersForeignLetters, "each part of a key exactly"),
    ),
    *of(
        "test_ties_survive",
        (rarely.KeepsTheFirstTies, "dump_metadata"),
        (rarely.TiesOnlyBackwards, "dump_metadata"),
    ),
    *of("test_empty_nodes_survive", (rarely.SplitsEmptyNodesAtDots, "a.b", "dump_metadata")),
    *of("test_all_metadata_survives_together", (rarely.LosesEmptyNodesWithTies, "metadata.empty")),
    *of("test_large_metadata_survives", (rarely.LosesLargeMetadata, "2600 layers", "limits")),
    *of(
        "test_a_layout_that_it_does_not_record_is_refused",
        (rarely.ForgetsTheLayout, "'flax'", "state.layout"),
    ),
    *of(
        "test_opening_reads_no_values",
        (rarely.ReadsSmallTensorsOnOpen, "declares lazy", "headers"),
        (rarely.ReadsPastTheCount, "declares lazy", "headers"),
    ),
    *of("test_writing_holds_only_a_block", (rarely.CollectsOneDtype, "of another dtype", "streaming_write")),
    *of("test_a_change_of_what_was_read_reaches_nothing_else", (rarely.CachesOneDtype, "the next read")),
    *of(
        "test_nothing_is_written_beside_the_target",
        (rarely.WritesTiesBeside, "ties.json in the target folder"),
        (rarely.WritesAnIndexOfMany, "index.json in the target folder"),
        (rarely.LeavesTemporaryFilesAfterErrors, "in the temporary folder", "after an error"),
        (rarely.CachesAtHome, "cache in the home folder"),
        (rarely.IndexesWhatItReads, "weights.index in the target folder"),
    ),
    *of(
        "test_equal_states_give_equal_bytes",
        (rarely.NamesTheProcess, "in another process"),
        (rarely.NamesTheFolder, "working folder"),
    ),
    *of("test_no_file_stays_open_after_a_write", (rarely.LeavesManyOpen, "After a write,", "with block")),
    *of("test_two_states_can_be_open_at_once", (rarely.SharesAHandle, "on the format object")),
    *of(
        "test_no_file_stays_open_after_a_refusal", (rarely.LeaksWhenItRefuses, "cut off and refused", "Close")
    ),
    *of(
        "test_sniffing_knows_its_own_files_and_no_others",
        (rarely.KnowsOnlySmallFiles, "with 1 tensors"),
        (rarely.TakesJson, "for its own", "marker"),
    ),
    *of(
        "test_a_dtype_it_lacks_is_refused_before_a_byte_is_written",
        (rarely.DeclaresTooLittle, "bfloat16", "was not refused"),
    ),
    *of("test_claimed_sizes_are_not_believed", (rarely.LoopsOverAClaim, "was stopped", "Loop over")),
    *of_folders("test_steps_are_listed_and_the_latest_is_read", (rarely.TakesZeroForNone, "step=0")),
    *of_folders(
        "test_a_file_that_is_missing_or_cut_off_is_found_or_harmless",
        (rarely.NeedsNoSidecar, "about.json is missing", "MalformedFile"),
    ),
    *of_folders(
        "test_other_files_in_the_folder_are_harmless_or_refused",
        (rarely.ReadsAllNames, "ValueError", "Look only for"),
    ),
]
TABLE = [*FILES, *FOLDERS, *RARELY]

SAMPLE = ["SniffsNames"]


@pytest.mark.parametrize("one", every(TABLE))
def test_each_fault_fails_its_own_test(one, tmp_path):
    check_caught(one, tmp_path)


TWICE = ("LosesLayers", "RemembersPaths", "LeavesTheSidecarOut")


@pytest.mark.parametrize("one", parameters(TABLE, SAMPLE, TWICE))
def test_no_fault_fails_another_test(one, tmp_path):
    check_fault(one, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("contract", [Healthy, HealthyFolders])
def test_the_healthy_formats_pass_every_test(contract, tmp_path):
    check_healthy(contract, tmp_path, [one for one in TABLE if one.name != "ForgetsTheLayout"])


def test_the_table_has_a_fault_for_most_tests():
    def tests(contract):
        return {name for name in dir(contract) if name.startswith("test_")}

    without = tests(FormatContract) - {one.test for one in (*FILES, *RARELY)}
    assert without == {"test_an_empty_state_survives"}
