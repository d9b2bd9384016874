"""Blocks that are several runs of a tensor: run by run, or merged into what the file has there."""

from __future__ import annotations

import os

import numpy as np
import pytest

from bridge_core.formats import Extent
from bridge_core.state import regions
from bridge_core.transfer import scatter


@pytest.mark.parametrize("short_stride", [0, 4096], ids=["run by run", "merged"])
@pytest.mark.parametrize("merged", [1, 16, 100, 4 << 20])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_fill_a_tensor_in_two_extents_and_nothing_else(
    tmp_path, monkeypatch, seed, merged, short_stride
):
    monkeypatch.setattr(scatter, "_MERGED", merged)
    monkeypatch.setattr(scatter, "_SHORT_STRIDE", short_stride)
    rng = np.random.default_rng(seed)
    shape = tuple(map(int, rng.integers(1, 9, rng.integers(1, 5))))
    values = rng.integers(0, 256, shape).astype(["u1", "u2", "f4", "c16"][seed % 4])
    box = tuple(int(rng.integers(1, n + 1)) for n in shape)
    cut = int(rng.integers(0, values.nbytes + 1))
    before, gap = b"before", b"between"
    extents = (
        Extent(0, cut, len(before)),
        Extent(cut, values.nbytes - cut, len(before) + cut + len(gap)),
    )
    path = tmp_path / "out"
    path.write_bytes(before + b"?" * cut + gap + b"?" * (values.nbytes - cut))
    fd = os.open(path, os.O_RDWR)
    try:
        for region in regions.boxes(shape, box):
            scatter.scatter_box(fd, np.ascontiguousarray(values[region]), shape, region, extents)
    finally:
        os.close(fd)
    data = values.tobytes()
    assert path.read_bytes() == before + data[:cut] + gap + data[cut:]
