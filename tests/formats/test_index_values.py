"""Names and sizes in an index of shards that no set of files can have."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.errors import refused

from bridge_core import (
    BadInputError,
    FlatState,
    MalformedFile,
    UnsafeFile,
    UnsupportedFeature,
    convert,
    open_state,
    save_state,
)

MAP = '"weight_map": {"a.weight": "s.safetensors"}'
BAD_SIZES = ["9" * 400, "-" + "9" * 400, "1e999", "1e30", "-1", "1.5", "true", '"16"', "[]", str(1 << 63)]
ANY_TEXT_BUT_DIGITS = ["9" * 5000, "NaN", "-Infinity"]


def index(folder, text):
    save_file({"a.weight": np.ones((2, 2), np.float32)}, folder / "s.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize("size", [*BAD_SIZES, *ANY_TEXT_BUT_DIGITS], ids=lambda size: size[:8])
def test_a_total_size_that_is_none_is_refused(tmp_path, size):
    path = index(tmp_path, f'{{"metadata": {{"total_size": {size}}}, {MAP}}}')
    named = ["'total_size'"] if size in BAD_SIZES else []
    with refused(MalformedFile, *named) as caught:
        convert(path, tmp_path / "out.npz", to="neutral")
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("size", ["16", "16.0", "null", "1.6e1"])
def test_a_total_size_that_is_one_is_read(tmp_path, size):
    with open_state(index(tmp_path, f'{{"metadata": {{"total_size": {size}}}, {MAP}}}')) as state:
        assert len(state) == 1


@pytest.mark.parametrize("name", ["s" * 256, "é" * 128, "\ud800.safetensors", "\udc80", "a/b", "", "s\0"])
def test_a_shard_that_no_file_can_be_is_refused(tmp_path, name):
    path = index(tmp_path, json.dumps({"weight_map": {"a.weight": name}}))
    with refused(UnsafeFile, repr(name[:255])):
        open_state(path)


def test_a_lone_surrogate_in_a_tensors_name_is_refused(tmp_path):
    path = index(
        tmp_path, json.dumps({"weight_map": {"a.weight": "s.safetensors", "\ud800": "s.safetensors"}})
    )
    with refused(MalformedFile, "'weight_map'", "'\\ud800'"):
        open_state(path)


@pytest.mark.parametrize("format", ["safetensors", "torch", "msgpack"])
def test_a_lone_surrogate_is_not_written_into_an_index(tmp_path, format):
    state = FlatState({("a\udcff",): np.ones(100), ("b",): np.ones(100)}, layout="torch")
    with refused(UnsupportedFeature, "a\\udcff"):
        save_state(state, tmp_path / "out/", format=format, max_shard_size=900)
    assert not list(tmp_path.iterdir())


def test_what_an_index_nests_is_no_traceback(tmp_path):
    path = index(tmp_path, f'{{{MAP}, "x": {"[" * 100_000}{"]" * 100_000}}}')
    with pytest.raises(BadInputError):
        open_state(path)
