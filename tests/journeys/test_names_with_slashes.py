"""Files whose names are joined with slashes, as Flax's ``flatten_dict(sep="/")`` gives them."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import bridge_flax
import bridge_torch
from bridge_core import FlatState, as_state, convert, open_state, save_state

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
NAMES = {"params/Dense_0/kernel": KERNEL, "params/Dense_0/bias": KERNEL[0]}
KEYS = {("params", "Dense_0", "kernel"), ("params", "Dense_0", "bias")}


def foreign(path, names):
    if path.suffix == ".npz":
        np.savez(path, **names)
    else:
        save_file({name: np.ascontiguousarray(value) for name, value in names.items()}, path)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_the_separator_of_a_foreign_file_is_seen(tmp_path, suffix):
    path = foreign(tmp_path / f"f.{suffix}", NAMES)
    with open_state(path) as state:
        assert set(state) == KEYS
        assert state.layout == "flax"
    convert(path, tmp_path / "t.safetensors", to="torch")
    with open_state(tmp_path / "t.safetensors") as made:
        np.testing.assert_array_equal(made["Dense_0.weight"], KERNEL.T)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a.Dense_0/kernel/scale", "b"], [("a", "Dense_0/kernel/scale"), ("b",)]),
        (["mlp/~/linear_0/w"], [("mlp", "~", "linear_0", "w")]),
        (["/a/b"], [("/a/b",)]),
        (["a/b", "c//d"], [("a/b",), ("c//d",)]),
        (["a", "a/b"], [("a",), ("a", "b")]),
    ],
)
def test_names_are_split_alike_or_not_at_all(tmp_path, suffix, names, keys):
    path = foreign(tmp_path / f"f.{suffix}", dict.fromkeys(names, KERNEL))
    with open_state(path) as state:
        assert sorted(state) == sorted(keys)


def test_a_file_that_says_it_is_of_torch_joins_with_dots(tmp_path):
    save_file(NAMES, tmp_path / "t.safetensors", metadata={"format": "pt"})
    with open_state(tmp_path / "t.safetensors") as state:
        assert set(state) == {(name,) for name in NAMES}


@pytest.mark.parametrize("layout", [None, "torch", "flax", "neutral"])
@pytest.mark.parametrize("name", ["s.safetensors", "s.npz", "folder/"])
def test_files_of_ours_keep_parts_that_hold_slashes(tmp_path, layout, name):
    state = FlatState({("Dense_0/kernel",): KERNEL, ("x",): KERNEL}, layout=layout)
    limit = 48 if name.endswith("/") else None
    save_state(
        state,
        str(tmp_path / name) + "/" * name.endswith("/"),
        format="safetensors" if limit else None,
        max_shard_size=limit,
    )
    with open_state(tmp_path / name) as back:
        assert set(back) == set(state)


@pytest.mark.parametrize(
    ("shards", "keys"),
    [
        (
            [["params/A/kernel", "x"], ["params/B/kernel"]],
            [("params", "A", "kernel"), ("x",), ("params", "B", "kernel")],
        ),
        ([["params/A/kernel", "x"], ["y"]], [("params", "A", "kernel"), ("x",), ("y",)]),
        ([["params/A/kernel", "x"], ["a.b"]], [("params/A/kernel",), ("x",), ("a", "b")]),
    ],
)
def test_the_separator_of_a_sharded_set_is_that_of_all_its_names(tmp_path, shards, keys):
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        foreign(tmp_path / file, dict.fromkeys(names, KERNEL))
        weight_map.update(dict.fromkeys(names, file))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with open_state(tmp_path) as state:
        assert list(state) == keys


def test_a_plain_mapping_is_read_like_a_file():
    assert set(as_state(NAMES)) == KEYS


def test_a_live_flat_mapping_is_the_tree_that_it_was_made_of(tmp_path):
    made = bridge_torch.from_neutral(bridge_flax.to_neutral({k: jnp.asarray(v) for k, v in NAMES.items()}))
    np.testing.assert_array_equal(made["Dense_0.weight"], KERNEL.T)
    convert(NAMES, tmp_path / "t.safetensors", to="torch")
    with open_state(tmp_path / "t.safetensors") as state:
        np.testing.assert_array_equal(state["Dense_0.weight"], KERNEL.T)


@pytest.mark.parametrize(
    "names",
    [
        {"fc": {"kernel": KERNEL, "bias": KERNEL[0]}},
        {"fc.kernel": KERNEL, "fc.bias": KERNEL[0]},
        {"fc/kernel": KERNEL, "fc/bias": KERNEL[0]},
        {("fc", "kernel"): KERNEL, ("fc", "bias"): KERNEL[0]},
    ],
)
def test_the_layout_of_a_mapping_is_believed_whatever_it_looks_like(tmp_path, names):
    report = convert(names, tmp_path / "t.safetensors", to="torch", layout="neutral")
    assert report.source_layout == "neutral"
    with open_state(tmp_path / "t.safetensors") as state:
        np.testing.assert_array_equal(state["fc.weight"], KERNEL.T)
