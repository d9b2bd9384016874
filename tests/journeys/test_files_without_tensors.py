"""A file without a tensor opens, and converting it is refused: an empty result would look like success."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy
import torch
from flax import serialization
from support.errors import refused
from support.rule_files import nothing_written

from bridge_core import (
    BadInputError,
    ConversionError,
    FlatState,
    convert,
    open_state,
    plan_conversion,
    save_state,
)
from bridge_core.cli import main

EMPTY = {
    "a.msgpack": lambda path: path.write_bytes(serialization.msgpack_serialize({})),
    "b.msgpack": lambda path: path.write_bytes(serialization.msgpack_serialize({"a": {}, "b": "text"})),
    "checkpoint": lambda path: path.write_bytes(b"\x80"),
    "a.safetensors": lambda path: safetensors.numpy.save_file({}, path),
    "a.npz": lambda path: save_state({}, path),
    "a.pt": lambda path: torch.save({}, path),
}


@pytest.mark.parametrize("name", EMPTY)
def test_it_opens_and_is_not_converted(tmp_path, name):
    source = tmp_path / name
    EMPTY[name](source)
    with open_state(source, layout="flax") as state:
        assert len(state) == 0
    for call in (
        lambda: convert(source, tmp_path / "out.safetensors", to="torch", layout="flax"),
        lambda: plan_conversion(source, to="torch", layout="flax"),
    ):
        with refused(ConversionError) as caught:
            call()
        assert str(caught.value.path) == str(source)
    assert nothing_written(tmp_path, source)


def test_what_was_left_out_is_said(tmp_path):
    EMPTY["b.msgpack"](tmp_path / "b.msgpack")
    with refused(ConversionError, "b.msgpack", " b ", "string"):
        convert(tmp_path / "b.msgpack", tmp_path / "out.npz", to="flax")


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors", ".npz", ".h5", ".onnx"])
def test_one_byte_is_not_an_empty_checkpoint(tmp_path, suffix, capsys):
    source = tmp_path / f"x{suffix}"
    source.write_bytes(b"\x80")
    with pytest.raises(BadInputError) as caught:
        convert(source, tmp_path / "out.npz", to="flax")
    assert str(caught.value.path) == str(source)
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["convert", str(source), str(tmp_path / "out.npz"), "--to", "flax"]))
    assert ended.value.code == 3
    assert nothing_written(tmp_path, source)


def test_an_empty_state_of_ones_own_is_converted(tmp_path):
    convert(FlatState({}, layout="torch"), tmp_path / "out.safetensors", to="flax")
    with open_state(tmp_path / "out.safetensors") as state:
        assert len(state) == 0


def test_a_tensor_without_elements_is_a_tensor(tmp_path):
    save_state(FlatState({("a",): np.zeros((0, 2))}, layout="torch"), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "out.npz", to="torch")
