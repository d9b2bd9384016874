from __future__ import annotations

import os
import sys

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from support.errors import refused

from bridge_core import (
    IntegrityError,
    LimitExceeded,
    MalformedFile,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)


def trap(path):
    """Return the path of a FIFO: whoever opens it to read hangs."""
    fifo = path.with_name("fifo")
    if not fifo.exists():
        os.mkfifo(fifo)
    return str(fifo)


def external_link(file, path):
    file["a"] = h5py.ExternalLink(trap(path), "/x")


def intermediate_external_link(file, path):
    file.create_group("deep/er")["out"] = h5py.ExternalLink(trap(path), "/")
    file["deep/weight"] = h5py.SoftLink("/deep/er/out/weight")


def user_defined_link_behind_soft_links(file, path):
    file["z"] = h5py.ExternalLink(trap(path), "/")
    file["a"] = h5py.SoftLink("b/c")
    file["b"] = h5py.SoftLink("/z")


def external_storage(file, path):
    file.create_dataset("a", (10,), "u1", external=[(trap(path), 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file, path):
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource(trap(path), "x", (10,))
    file.create_virtual_dataset("a", layout)


def unlimited_virtual_dataset(file, path):
    layout = h5py.VirtualLayout((10, 4), "f4", maxshape=(None, 4))
    source = h5py.VirtualSource(trap(path), "x", (10, 4), maxshape=(None, 4))
    layout[: h5py.h5s.UNLIMITED, :] = source[: h5py.h5s.UNLIMITED, :]
    file.create_virtual_dataset("a", layout)


def soft_link_cycle(file, path):
    file["a"] = h5py.SoftLink("/b")
    file["b"] = h5py.SoftLink("/a")


def soft_link_to_itself(file, path):
    file["a"] = h5py.SoftLink("a/x")


def hard_link_cycle(file, path):
    group = file.create_group("a/b/c")
    group["up"] = file["a"]


def hard_link_to_the_root(file, path):
    file["a"] = file["/"]


def bomb_shape_contiguous(file, path):
    file.create_dataset("a", (1 << 40,), "f4")


def bomb_shape_chunked(file, path):
    file.create_dataset("a", (1 << 20, 1 << 20), "f4", chunks=(1 << 10, 1 << 10))


def gzip_bomb(file, path):
    file.create_dataset("a", data=np.zeros(1 << 24, "u1"), compression="gzip")


def unknown_filter(file, path):
    settings = h5p.create(h5p.DATASET_CREATE)
    settings.set_chunk((10,))
    settings.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    h5d.create(file.id, b"a", h5t.IEEE_F32LE, h5s.create_simple((10,)), settings)


def vlen_attribute(file, path):
    file.create_group("layers").attrs["weight_names"] = "kernel"


def vlen_attribute_of_a_dataset(file, path):
    file["a"] = np.zeros(3)
    file["a"].attrs["names"] = ["kernel", "bias"]


def vlen_values(file, path):
    file.create_dataset("a", data=["x", "y"])


def nothing_stored(file, path):
    file.create_dataset("a", (10,), "f4")


def keras_like(file, path):
    file["layers/dense/vars/0"] = np.zeros((3, 4), "f4")
    file["layers/dense/vars/alias"] = h5py.SoftLink("0")
    file["layers/dense/vars/dangling"] = h5py.SoftLink("/not/there")
    file["layers/shared"] = file["layers/dense"]
    file["compressed"] = h5py.Empty("f4")
    file.create_dataset("gzip", data=np.arange(1 << 18), compression="gzip", shuffle=True)


DANGERS = [
    (external_link, UnsafeFile, "another file"),
    (intermediate_external_link, UnsafeFile, "another file"),
    (user_defined_link_behind_soft_links, UnsafeFile, "another file"),
    (external_storage, UnsafeFile, "external storage"),
    (virtual_dataset, UnsafeFile, "virtual"),
    (unlimited_virtual_dataset, UnsafeFile, "virtual"),
    (soft_link_cycle, MalformedFile, "cycle"),
    (soft_link_to_itself, MalformedFile, "cycle"),
    (hard_link_cycle, MalformedFile, "cycle"),
    (hard_link_to_the_root, MalformedFile, "cycle"),
    (bomb_shape_contiguous, LimitExceeded, "4398046511104 bytes"),
    (bomb_shape_chunked, LimitExceeded, "4398046511104 bytes"),
    (gzip_bomb, LimitExceeded, "would grow"),
    (unknown_filter, UnsafeFile, "filter 32099"),
    (vlen_attribute, UnsupportedFeature, "attribute of variable length"),
    (vlen_attribute_of_a_dataset, UnsupportedFeature, "attribute of variable length"),
    (vlen_values, UnsupportedFeature, "values of variable length"),
    (nothing_stored, IntegrityError, "stores none"),
    (keras_like, UnsupportedFeature, "Keras"),
]


IN_BOTH = (external_link, external_storage, soft_link_cycle, gzip_bomb, vlen_attribute, nothing_stored)
"""One danger of each kind of object; the others in the newer layout of files run with the slow tests."""


@pytest.mark.parametrize(
    ("build", "error", "text", "libver"),
    [
        pytest.param(
            *danger,
            libver,
            id=f"{libver}-{danger[0].__name__}",
            marks=() if libver == "earliest" or danger[0] in IN_BOTH else pytest.mark.slow,
        )
        for libver in ("earliest", "latest")
        for danger in DANGERS
    ],
)
def test_a_foreign_file_is_refused_with_its_danger_named(
    tmp_path, load, monkeypatch, build, error, text, libver
):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w", libver=libver) as file:
        build(file, path)
    monkeypatch.setattr("ckptbridge_hdf5.examine._SECONDS", 20)
    with refused(error, str(path), text):
        load(path)


def test_many_groups_in_each_other_are_walked_without_recursion(tmp_path, load):
    path = tmp_path / "deep.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(3000):
            group = group.create_group("g")
        group["out"] = h5py.ExternalLink("other.h5", "/")
    with pytest.raises(UnsafeFile):
        load(path)


@pytest.mark.parametrize("keep", [700, 0.5, 0.99])
def test_a_truncated_foreign_file(tmp_path, load, keep):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(100_000)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep > 1 else len(data) * keep)])
    with refused(TruncatedFile, "libhdf5", "truncated file"):
        load(path)


def edit_values(file):
    file["t/000000"][0] = 9


def edit_structure(file):
    file["added"] = np.zeros(3)


def edit_link(file):
    del file["t/000000"]
    file["t/000000"] = h5py.ExternalLink("/etc/passwd", "/x")


def edit_cycle(file):
    file["t/up"] = file["/"]


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (edit_structure, IntegrityError),
        (edit_link, UnsafeFile),
        (edit_cycle, MalformedFile),
    ],
)
def test_a_file_of_ours_that_was_edited_is_refused(save, load, edit, error):
    path = save({("a",): np.arange(5.0), ("b",): np.arange(7)})
    with h5py.File(path, "r+") as file:
        edit(file)
    with refused(error, str(path)):
        load(path)


def test_a_value_edited_by_another_tool_is_refused_when_read(save, load):
    path = save({("a",): np.arange(5.0), ("b",): np.arange(7)})
    with h5py.File(path, "r+") as file:
        edit_values(file)
    state = load(path)
    with refused(IntegrityError, "/t/000000", key=("a",)):
        state[("a",)]
    assert state[("b",)].tolist() == list(range(7))


def test_a_copy_without_the_guard_is_refused(tmp_path, save, load):
    path = save({("a",): np.arange(5.0)})
    copy = tmp_path / "copy.h5"
    with h5py.File(path) as file, h5py.File(copy, "w") as other:
        for name in file:
            file.copy(name, other)
    with refused(IntegrityError, "guard", "bytes 0 to 511", hint="ckptbridge"):
        load(copy)


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ("kill -SEGV $$", MalformedFile, "exit status -11"),
        ("echo nonsense", MalformedFile, "exit status 0"),
        ("exec sleep 60", LimitExceeded, "1 seconds"),
        (None, MalformedFile, "No such file"),
    ],
)
def test_a_crash_or_hang_of_libhdf5_stays_in_the_child(tmp_path, load, monkeypatch, script, error, text):
    path = tmp_path / "foreign.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3)
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", os.fspath(python))
    monkeypatch.setattr("ckptbridge_hdf5.examine._SECONDS", 1)
    with refused(error, str(path), text):
        load(path)
