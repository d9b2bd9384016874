"""A small format of the tests' own: proves that storage needs nothing of a format but the protocol."""

import json
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np

from bridge_core import (
    Capabilities,
    FileTensor,
    FlatState,
    MalformedFile,
    Registry,
    StateMetadata,
    TensorSpec,
    TruncatedFile,
    hookimpl,
)
from bridge_core.formats.base import ShardNames
from bridge_core.formats.safetensors import SafetensorsFormat
from bridge_core.state.dtypes import DTYPES

MAGIC = b"TOYTOY1\n"


class ToyFormat:
    """A JSON line of ``[key, dtype, shape, offset]``, then the tensors; tied keys share an offset."""

    name = "toy"
    extensions = (".toy", ".bin")
    layout = "toy"
    names = ShardNames(
        "toy_model.toy", "toy_model-{index:05d}-of-{count:05d}.toy", "toy_model.toy.index.json", ties="shared"
    )
    capabilities = Capabilities(
        lazy=True,
        sliceable=True,
        streaming_write=True,
        dtypes=frozenset(DTYPES) - {"float64"},
        nested=True,
    )

    def sniff(self, file):
        return file.read(0, min(8, file.size)) == MAGIC

    def open(self, file):
        if file.read(0, min(8, file.size)) != MAGIC:
            raise MalformedFile("is no toy.", path=file.name)
        length = int.from_bytes(file.read(8, 8), "little")
        document = json.loads(file.read(16, min(length, file.size - 16)))
        if document["end"] != file.size:
            raise TruncatedFile("has another size.", path=file.name)
        tensors = {}
        shared = {}
        for key, dtype, shape, offset in document["tensors"]:
            tensor = FileTensor(file, offset, TensorSpec(tuple(shape), DTYPES[dtype]))
            tensors[tuple(key)] = shared.setdefault((offset, str(tensor.spec)), tensor)
        ties = {tuple(a): tuple(b) for a, b in document["ties"]}
        return FlatState(
            tensors,
            layout=document["layout"],
            metadata=StateMetadata(ties=ties),
            close=file.close,
        )

    def write(self, state, target):
        rows, position, ties = [], 0, state.metadata.ties
        offsets = {}
        for key in state:
            if key not in ties:
                offsets[key] = position
                position += state.spec(key).nbytes
        for key, spec in state.specs().items():
            rows.append([key, spec.dtype.name, spec.shape, offsets[ties.get(key, key)] + (1 << 16)])
        header = json.dumps(
            {
                "tensors": rows,
                "ties": list(ties.items()),
                "layout": state.layout,
                "end": position + (1 << 16),
            }
        ).encode()
        with target.path.open("wb") as out:
            out.write(MAGIC + len(header).to_bytes(8, "little") + header)
            out.write(bytes((1 << 16) - out.tell()))
            for key in offsets:
                for block in target.blocks(state, key):
                    out.write(np.ascontiguousarray(block).view(np.uint8).data)


def plugin(*formats, frameworks=()):
    """Return a plugin that provides these."""
    return SimpleNamespace(
        bridge_formats=hookimpl(lambda: formats), bridge_frameworks=hookimpl(lambda: frameworks)
    )


def registry(*extra, frameworks=()):
    """Return a registry of safetensors, the toy and more."""
    formats = (SafetensorsFormat(), ToyFormat(), *extra)
    return Registry().extend(plugin(*formats, frameworks=frameworks), name="toys", distribution="tests")


class ToyFramework:
    """Owns every name that begins with ``toy``."""

    name = "toyland"
    collections = MappingProxyType({})
    default_format = "toy"

    def owns(self, names):
        return bool(names) and all(key[0].startswith("toy") for key in names)

    def accepts(self, value):
        return False

    def state(self, value):
        raise AssertionError("it accepts no live object")

    def build(self, state, like):
        raise AssertionError("nobody asks for a live object")


def assert_same(got, wanted):
    """Compare keys, order left aside, and every bit."""
    assert set(got) == set(wanted)
    for key in wanted:
        one, other = np.asarray(got[key]), np.asarray(wanted[key])
        assert (one.dtype, one.shape) == (other.dtype, other.shape), key
        assert one.tobytes() == other.tobytes(), key


def descriptors():
    """Count the open files of this process."""
    folders = [folder for folder in (Path("/proc/self/fd"), Path("/dev/fd")) if folder.is_dir()]
    return len(list(folders[0].iterdir())) if folders else 0  # Windows shows no process its files
