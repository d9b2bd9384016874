"""A part of an Orbax checkpoint: some of its tensors, and the first rows of chunked ones."""

import numpy as np
from safetensors.numpy import load_file

from bridge_core import FlatState, convert

RNG = np.random.default_rng(0)
WEIGHTS = {
    **{f"layers_{i}.fc.kernel": RNG.standard_normal((7, 5)).astype("f4") for i in range(3)},
    **{f"layers_{i}.fc.bias": RNG.standard_normal(5).astype("f4") for i in range(3)},
    "blocks.kernel": RNG.standard_normal((6, 5, 4)).astype("f4"),
}


def test_a_part_of_a_checkpoint(tmp_path):
    convert(FlatState(WEIGHTS, layout="flax"), tmp_path / "all", to="flax", format="orbax")
    only = ["layers=2", "layers_0.fc.kernel=3", "blocks.kernel[1]=2"]
    convert(tmp_path / "all", tmp_path / "o.safetensors", to="flax", only=only)
    found = {
        name.removeprefix("params."): array for name, array in load_file(tmp_path / "o.safetensors").items()
    }
    assert found.keys() == {name for name in WEIGHTS if "layers_2" not in name}
    for name, array in found.items():
        np.testing.assert_array_equal(array, WEIGHTS[name][tuple(map(slice, array.shape))])
    assert found["layers_0.fc.kernel"].shape == (3, 5)
    assert found["blocks.kernel"].shape == (6, 2, 4)
    convert(tmp_path / "all", tmp_path / "part", to="flax", format="orbax", only="layers_1")
    convert(tmp_path / "part", tmp_path / "p.safetensors", to="flax")
    assert len(load_file(tmp_path / "p.safetensors")) == 2
