from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from bridge_core import BridgeError, SourceFile, as_state
from ckptbridge_hdf5 import Hdf5Format
from ckptbridge_hdf5.layout import Guard, Index, gaps, structure_digest


class Target:
    """A write target as the core gives one, with blocks of a chosen size."""

    def __init__(self, path, elements=1000):
        self.path = path
        self.elements = elements
        path.write_bytes(b"")

    def fill(self, state, image):
        raise AssertionError("this format writes blocks")

    def blocks(self, state, key):
        size = state.spec(key).size
        flat = np.ascontiguousarray(state[key]).reshape(-1)
        for start in range(0, size, self.elements):
            yield flat[start : start + self.elements]


@pytest.fixture
def save(tmp_path):
    def save(tensors, name="model.h5", *, elements=1000, **options):
        target = Target(tmp_path / name, elements)
        state = as_state(tensors)
        Hdf5Format().write(state.replace(**options) if options else state, target)
        return target.path

    return save


@pytest.fixture
def load():
    opened = []

    def load(path):
        file = SourceFile(path)
        opened.append(file)
        return Hdf5Format().open(file)

    yield load
    for file in opened:
        file.close()


@pytest.fixture
def forge():
    """Edit a file's index or guard, and sign it again, as a hostile author would."""

    def forge(path, edit=None, **guard_fields):
        data = path.read_bytes()
        with SourceFile(path) as file:
            guard = Guard.read(file)
            index = guard.read_index(file)
        if edit is not None:
            document = json.loads(index)
            signed = document["structure"]
            edited = edit(document)
            if not isinstance(edited, bytes):
                # The old index becomes structure, which is signed again unless the edit was about it.
                with contextlib.suppress(BridgeError):
                    text = json.dumps(document).encode()
                    guard = Guard(len(data), len(text), len(data) + len(text), b"")
                    with SourceFile(path) as file:
                        ranges = gaps(guard, Index.decode(text, file).entries, "")
                        structure = structure_digest((data + text)[a:b] for a, b in ranges).hex()
                    document["structure"] = (
                        structure if document["structure"] == signed else document["structure"]
                    )
                edited = json.dumps(document).encode()
            guard = Guard(len(data), len(edited), len(data + edited), hashlib.sha256(edited).digest())
            data += edited
        guard = replace(guard, **guard_fields)
        path.write_bytes(guard.pack() + data[512:])
        return path

    return forge
