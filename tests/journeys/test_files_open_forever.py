"""Files that version 0.1.0 wrote, in every format and layout, open and convert for ever."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from bridge_core import AmbiguousLayerError, Rule, convert, join_key, open_state, save_state, verify

DATA = Path(__file__).parents[1] / "data" / "forever"
EXPECTED = json.loads((DATA / "expected.json").read_text())
LOOKUP = (Rule.layer("lookup", "embedding"),)
"""What Flax must be told of the one layer that is left open."""

without_hdf5 = pytest.mark.skipif(
    importlib.util.find_spec("ckptbridge_hdf5") is None, reason="the plugin for HDF5 is not installed"
)
every_file = pytest.mark.parametrize(
    ("layout", "name"),
    [
        pytest.param(layout, name, id=f"{layout}/{name}", marks=without_hdf5 if name.endswith(".h5") else ())
        for layout in EXPECTED["layouts"]
        for name in EXPECTED["files"]
    ],
)


def digests(state):
    found = {}
    for key in state:
        array = state[key]
        text = f"{array.dtype.name} {list(array.shape)} ".encode()
        found[join_key(key)] = hashlib.sha256(text + np.ascontiguousarray(array).tobytes()).hexdigest()
    return found


def known(path):
    with safe_open(path, "numpy") as file:
        told = json.loads(file.metadata()["ckptbridge"])
    told["layers"] = {
        path: {name: value for name, value in group.items() if name != "paths"}
        for group in told.pop("layers", [])
        for path in group["paths"]
    }
    return told


def rules_for(layout, to):
    return LOOKUP if to == "flax" and layout != "flax" else ()


@functools.cache
def holds(layout):
    return EXPECTED["tables"][EXPECTED["layouts"][layout]["holds"]]


def test_no_file_is_left_out():
    layouts = EXPECTED["layouts"]
    found = {path.relative_to(DATA).as_posix() for layout in layouts for path in DATA.glob(f"{layout}/*")}
    assert found == {f"{layout}/{name}" for layout in layouts for name in EXPECTED["files"]}


@every_file
def test_it_holds_its_layout_and_every_tensor(layout, name):
    with open_state(DATA / layout / name) as state:
        assert state.layout == layout
        assert digests(state) == holds(layout)


@every_file
def test_it_knows_its_layers_ties_and_residuals(layout, name, tmp_path):
    copy = tmp_path / "copy.safetensors"
    with open_state(DATA / layout / name) as state:
        save_state(state, copy)
    assert known(copy) == EXPECTED["layouts"][layout]["knows"]


@every_file
@pytest.mark.parametrize("to", ["torch", "flax", "neutral"])
def test_it_converts_to_every_layout(layout, name, to, tmp_path):
    source, made, rules = DATA / layout / name, tmp_path / "made.safetensors", rules_for(layout, to)
    report = convert(source, made, to=to, rules=rules)
    assert report.exact
    with open_state(made) as state:
        assert state.layout == to
        assert digests(state) == EXPECTED["tables"][EXPECTED["layouts"][layout]["becomes"][to]]
    assert verify(source, made, rules=rules).equal


@every_file
def test_what_it_becomes_in_flax_comes_back_whole(layout, name, tmp_path):
    there, back = tmp_path / "there.msgpack", tmp_path / "back.safetensors"
    convert(DATA / layout / name, there, to="flax", rules=rules_for(layout, "flax"))
    convert(there, back, to="torch")
    with open_state(back) as state:
        assert digests(state) == holds("torch")
    assert known(back)["ties"] == {"head.weight": "embed.weight"}


@every_file
def test_what_it_leaves_open_is_refused_by_name(layout, name, tmp_path):
    if layout == "flax":  # there a rule settled it
        convert(DATA / layout / name, tmp_path / "made.msgpack", to="flax")
        return
    with pytest.raises(AmbiguousLayerError) as caught:
        convert(DATA / layout / name, tmp_path / "made.msgpack", to="flax")
    assert set(caught.value.candidates) == {"lookup.weight"}
    assert not (tmp_path / "made.msgpack").exists()
