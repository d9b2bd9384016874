import numpy as np
import pytest
from support.errors import refused

from bridge_core import FlatState, StateMetadata, UsageError, VerificationError, as_state, open_state
from bridge_core.checkpoint import WriteOptions, checked_state, plan_files, write_planned_file
from bridge_core.checkpoint.open_save import save_state
from bridge_core.plugins import given_registry
from bridge_core.state.metadata import LayerInfo

REGISTRY = given_registry(None)


def weights(count=6):
    arrays = {
        ("layers", str(i), "weight"): np.arange(4 * i, 4 * i + 4, dtype="float32") for i in range(count)
    }
    first = FlatState(arrays)
    tensors = {key: first.tensor(key) for key in first}
    return FlatState(
        {**tensors, ("head", "weight"): tensors["layers", "0", "weight"]},
        layout="torch",
        metadata=StateMetadata(
            ties={("head", "weight"): ("layers", "0", "weight")},
            layers={("layers", "0"): LayerInfo(kind="norm", evidence="rule", leaves=("weight",))},
        ),
    )


def planned(state, name="safetensors", **options):
    options = WriteOptions(format=name, verify=True, **options)
    state, used = checked_state(state, "folder/", options, REGISTRY)
    return state, used, options, plan_files(state, used, options)


def test_one_file_holds_everything_and_needs_no_index():
    state, _, _, files = planned(weights())
    assert files.names == ("model.safetensors",)
    assert files.index_name is files.index_text is None
    only = files.files[0]
    assert (only.keys, only.nbytes, only.is_shard) == (tuple(state), 6 * 16, False)
    assert only.part_of(state) is state


def test_shards_hold_each_key_once_with_its_canonical_key_and_the_index_is_last():
    state, _, _, files = planned(weights(), max_shard_size=32)
    assert files.names == (
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    )
    assert sorted(key for file in files.files for key in file.keys) == sorted(state)
    assert ("head", "weight") in files.files[0].keys
    assert [file.nbytes for file in files.files] == [32, 32, 32]


def test_equal_states_give_equal_plans():
    assert planned(weights(), max_shard_size=32)[3] == planned(weights(), max_shard_size=32)[3]


def test_names_that_are_taken_are_not_given_again():
    state, used, options, files = planned(weights(), max_shard_size=32)
    second = plan_files(state, used, options, taken={files.names[1]})
    assert second.names[0] == "model-000001-of-000003.safetensors"
    third = plan_files(state, used, options, taken={*files.names, *second.names})
    assert third.names[0] == "model-0000001-of-0000003.safetensors"
    assert not {*third.names[:-1]} & {*files.names, *second.names}


def test_a_format_without_usual_names_fills_no_folder():
    with refused(UsageError, "npz", hint="format="):
        planned(weights(), "npz", max_shard_size=32)


@pytest.mark.parametrize("name", ["safetensors", "torch", "msgpack"])
@pytest.mark.parametrize("limit", [None, 32])
def test_files_written_one_by_one_are_those_of_a_folder(name, limit, tmp_path):
    state = weights()
    save_state(state, tmp_path / "at_once", format=name, max_shard_size=limit or 1 << 30)
    state, used, options, files = planned(state, name, max_shard_size=limit)
    folder = tmp_path / "by_one"
    folder.mkdir()
    for file in files.files:
        saved = write_planned_file(state, file, folder / file.name, used, options, REGISTRY)
        assert saved.files == (folder / file.name,)
        assert saved.total_bytes == (folder / file.name).stat().st_size
        assert {*saved.checksums} == {*file.keys}, "of every tensor, ties included"
    if files.index_name:
        (folder / files.index_name).write_bytes(files.index_text)
    at_once = {path.name: path.read_bytes() for path in (tmp_path / "at_once").iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == at_once
    with open_state(folder) as again:
        assert again.metadata.layers == state.metadata.layers
        assert all(np.array_equal(again[key], state[key]) for key in state)


def test_without_verification_there_are_no_checksums(tmp_path):
    state, used, _, files = planned(weights(), max_shard_size=32)
    saved = write_planned_file(
        state, files.files[0], tmp_path / "a", used, WriteOptions(max_shard_size=32), REGISTRY
    )
    assert saved.checksums == {}


def test_a_shard_that_differs_from_what_was_planned_is_refused(tmp_path, monkeypatch):
    state, used, options, files = planned(weights(), max_shard_size=32)

    write = type(used).write

    def damaging(self, state, target):
        write(self, state, target)
        content = target.path.read_bytes()
        target.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(type(used), "write", damaging)
    with refused(VerificationError, "model-00002", "layers.3.weight"):
        write_planned_file(
            state,
            files.files[1],
            tmp_path / "temporary",
            used,
            options,
            REGISTRY,
            destination=tmp_path / files.files[1].name,
        )


def test_shards_of_a_large_state_are_made_without_looking_at_the_others():
    keys = [("layers", str(number), "weight") for number in range(64)]
    state = as_state({key: np.zeros(1, "float32") for key in keys})
    state, _, _, files = planned(state, max_shard_size=4)
    seen = []

    class Watched(dict):
        def __iter__(self):
            seen.append(len(self))
            return super().__iter__()

        def items(self):
            seen.append(len(self))
            return super().items()

    state._tensors = Watched(state._tensors)
    assert tuple(files.files[5].part_of(state)) == (keys[5],)
    assert not seen, "the shard's keys are enough"
