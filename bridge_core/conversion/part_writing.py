"""Writes the files of a conversion in parts, and completes its destination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bridge_core.checkpoint import (
    FileWriter,
    PlannedFile,
    Saved,
    checked_filler,
    write_planned_file,
)
from bridge_core.conversion.prepared_work import PreparedWork
from bridge_core.conversion.report import Report
from bridge_core.conversion.rule_errors import naming_rule
from bridge_core.errors import ConversionError
from bridge_core.messages import count, listed
from bridge_core.state import join_key, split_name
from bridge_core.work import ListedFile, Manifest, Receipt, TensorSum, WorkFolder, WorkList, tensor_sums

__all__ = ["finish_files", "write_files"]


def write_files(
    prepared: PreparedWork, folder: WorkFolder, files: tuple[ListedFile, ...]
) -> tuple[dict[str, Receipt], dict[str, Receipt]]:
    """Write files that are not complete; return the receipts of those before, and of those written now."""
    known = {file: folder.receipt(file) for file in files}
    before = {file.name: receipt for file, receipt in known.items() if receipt is not None}
    planned = {file.name: file for file in prepared.files.files}
    remaining = [file for file, receipt in known.items() if receipt is None]
    keys = [key for file in remaining for key in planned[file.name].keys]
    # Progress and memory are those of what is written now.
    writer = FileWriter(prepared.state.select(keys), prepared.format, prepared.registry, prepared.writing)
    written: dict[str, Receipt] = {}
    with naming_rule(prepared.plan):
        for file in remaining:
            written[file.name] = folder.put(file, _filling(prepared, planned[file.name], writer))
    if remaining:
        writer.meter.finish()
    return before, written


def _filling(
    prepared: PreparedWork, planned: PlannedFile, writer: FileWriter
) -> Callable[[Path], tuple[Mapping[str, TensorSum], Mapping[str, int]]]:
    def fill(path: Path) -> tuple[Mapping[str, TensorSum], Mapping[str, int]]:
        saved = write_planned_file(
            prepared.state,
            planned,
            path,
            prepared.format,
            prepared.writing,
            prepared.registry,
            destination=prepared.place(planned.name),
            writer=writer,
        )
        keys = set(planned.keys)
        overflows = {join_key(key, escape=True): n for key, n in saved.overflows.items() if key in keys}
        return tensor_sums(prepared.state, saved.checksums), overflows

    return fill


def finish_files(prepared: PreparedWork, work: WorkList) -> Report:
    """Write the sidecar files, the index and the manifest; finished work is not changed.

    Args:
        prepared: The conversion.
        work: The list with its parts, for errors.

    Raises:
        ConversionError: A file is not complete.
    """
    folder = prepared.folder
    manifest = folder.finished()
    overflows: dict[str, int] = {}
    if manifest is None:
        folder.require_begun()
        receipts = folder.receipts()
        _require_complete(work, receipts)
        for receipt in receipts.values():
            overflows.update(receipt.overflows)
        others = [
            folder.put_other(name, checked_filler(source, read_again=True))
            for name, source in prepared.writing.sidecar_files.items()
        ]
        files = [receipts[file.name].file for file in work.files]
        if prepared.files.index_name is not None:
            files.append(folder.put_text(prepared.files.index_name, prepared.files.index_text or b""))
        manifest = Manifest.of_list(work, (*files, *others))
        folder.finish(manifest)
    else:
        folder.tidy()
    sizes = {file.name: file.size for file in manifest.files}
    saved = Saved(
        tuple(prepared.place(name) for name in prepared.files.names),
        prepared.format.name,
        sum(sizes[name] for name in prepared.files.names),
        {},
        {split_name(name, escaped=True): number for name, number in overflows.items()},
    )
    sidecar_files = tuple(prepared.place(name) for name in prepared.writing.sidecar_files)
    return Report.of(prepared.plan, saved, sidecar_files, verified=True)


def _require_complete(work: WorkList, receipts: Mapping[str, Receipt]) -> None:
    missing = [file.name for file in work.files if file.name not in receipts]
    if not missing:
        return
    parts = [
        number
        for number, files in enumerate(work.parts, 1)
        if any(work.files[file - 1].name in missing for file in files)
    ]
    raise ConversionError(
        f"{len(missing)} of {count(len(work.files), 'file')} of the work list "
        f"{'is' if len(missing) == 1 else 'are'} not complete: {listed(missing)}.",
        path=work.destination,
        hint=f"Run {'part' if len(parts) == 1 else 'parts'} {listed(map(str, parts))}: "
        f"ckptbridge work run FILE --part {parts[0]}.",
    )
