"""A healthy format of files and one of folders, in small methods that faults replace one by one."""

from __future__ import annotations

import json

import numpy as np

from bridge_core import Capabilities, FileTensor, FlatState, MalformedFile, TensorSpec, UnsupportedFeature
from bridge_core.formats import ShardNames
from bridge_core.io import parse_json
from bridge_core.state import (
    DTYPES,
    MAX_RANK,
    Ties,
    checked_bools,
    dump_metadata,
    load_metadata,
)
from support.folder_format import RAW_FOLDERS, StepFolders

MAGIC = b"PLAIN\1\r\n"
HELD = frozenset({"bool", "bfloat16", "float16", "float32", "float64", "int4", "int8", "int64", "uint8"})


class PlainFormat:
    """MAGIC, the sizes of the header and of the file, a JSON header, and the values."""

    name = "plain"
    extensions = (".plain",)
    layout = None
    names = ShardNames(
        "model.plain", "model-{index:05d}-of-{count:05d}.plain", "model.plain.index.json", ties="shared"
    )
    capabilities = Capabilities(lazy=True, sliceable=True, streaming_write=True, dtypes=HELD, nested=True)

    def sniff(self, file):
        return self.marked(file)

    def marked(self, file):
        return file.size >= len(MAGIC) and file.read(0, len(MAGIC)) == MAGIC

    # Reading

    def open(self, file):
        header, start = self.header(file)
        layout, metadata = self.metadata(header, file.name)
        rows = self.rows(header, file)
        return self.opened(file, self.tensors(file, rows, start), layout, metadata)

    def opened(self, file, tensors, layout, metadata):
        return FlatState(tensors, layout=layout, metadata=metadata, close=file.close)

    def header(self, file):
        if not self.marked(file) or file.size < 24:
            raise MalformedFile("expected a plain file.", path=file.name)
        length, size = (int.from_bytes(file.read(at, 8), "little") for at in (8, 16))
        self.check_size(file, size)
        return parse_json(file.read(24, length), path=file.name, what="the header"), 24 + length

    def check_size(self, file, size):
        if size != file.size:
            raise MalformedFile(f"expected {size} bytes, got {file.size}.", path=file.name)

    def rows(self, header, file):
        rows = header.get("tensors") if isinstance(header, dict) else None
        if not isinstance(rows, list):
            raise MalformedFile("expected a list of tensors.", path=file.name)
        return [self.row(row, file.name) for row in rows]

    def row(self, row, path):
        try:
            key, dtype, shape, offset = row
            numbers = [*shape, offset]
            right = (
                len(shape) <= MAX_RANK
                and all(type(n) is int and 0 <= n < 1 << 60 for n in numbers)
                and all(type(part) is str and part for part in key)
                and key
                and dtype in self.capabilities.dtypes
            )
        except (TypeError, ValueError):
            right = False
        if not right:
            raise MalformedFile("expected a key, a dtype, a shape and an offset.", path=path)
        return tuple(key), TensorSpec(tuple(shape), DTYPES[dtype]), offset

    def tensors(self, file, rows, start):
        tensors, shared = {}, {}
        for key, spec, offset in rows:
            if start + offset + spec.nbytes > file.size:
                raise MalformedFile(f"{key} ends after the file.", path=file.name)
            if key in tensors:
                raise MalformedFile(f"{key} is there twice.", path=file.name)
            place = (offset, str(spec))
            if spec.size and place in shared:
                tensors[key] = shared[place]
            else:
                tensors[key] = shared[place] = self.tensor(file, start + offset, key, spec)
        return tensors

    def tensor(self, file, offset, key, spec):
        if spec.dtype == np.bool_:
            raw = FileTensor(file, offset, TensorSpec(spec.shape, np.uint8))
            return checked_bools(raw, path=file.name, key=key)
        return FileTensor(file, offset, spec)

    def metadata(self, header, path):
        text = header.get("about") if isinstance(header, dict) else None
        if not isinstance(text, str):
            raise MalformedFile("expected a text of metadata.", path=path)
        layout, metadata, _ = load_metadata(text, path=path)
        return layout, metadata

    # Writing

    def check(self, state):
        for key, spec in state.specs().items():
            if spec.dtype.name not in self.capabilities.dtypes:
                raise UnsupportedFeature(f"the format has no {spec.dtype.name}.", key=key)

    def plan(self, state):
        """Return the rows, the keys of the values in order, and how many bytes these have."""
        ties = Ties.within(state.metadata.ties, state)
        places, position = {}, 0
        for key, spec in state.specs().items():
            if ties.root(key) == key:
                places[key] = position
                position += spec.nbytes
        rows = [
            [key, spec.dtype.name, self.stored_shape(spec), places[ties.root(key)]]
            for key, spec in state.specs().items()
        ]
        return rows, list(places), position

    def stored_shape(self, spec):
        return spec.shape

    def about(self, state):
        return dump_metadata(state.layout, state.metadata)

    def document(self, state, rows):
        return {"tensors": rows, "about": self.about(state)}

    def head(self, state, rows, nbytes):
        text = json.dumps(self.document(state, rows)).encode()
        sizes = (len(text), 24 + len(text) + nbytes)
        return MAGIC + b"".join(size.to_bytes(8, "little") for size in sizes) + text

    def write(self, state, target):
        self.check(state)
        rows, keys, nbytes = self.plan(state)
        with target.path.open("wb") as out:
            out.write(self.head(state, rows, nbytes))
            for key in keys:
                self.write_values(out, state, key, target)

    def write_values(self, out, state, key, target):
        for block in self.blocks(state, key, target):
            out.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)

    def blocks(self, state, key, target):
        return target.blocks(state, key)


class _Leaves(RAW_FOLDERS):
    """One file of bytes for each tensor, and a list of them with the metadata."""

    rows = PlainFormat.rows
    row = PlainFormat.row
    metadata = PlainFormat.metadata
    tensor = PlainFormat.tensor
    check = PlainFormat.check
    about = PlainFormat.about
    document = PlainFormat.document
    blocks = PlainFormat.blocks
    write_values = PlainFormat.write_values

    def open_folder(self, folder, *, step=None, item=None):
        header = self.header(folder)
        layout, metadata = self.metadata(header, folder.name)
        tensors, files, shared = {}, [], {}
        try:
            for key, spec, number in self.rows(header, folder):
                if key in tensors:
                    raise MalformedFile(f"{key} is there twice.", path=folder.name)
                if number not in shared:
                    files.append(self.file(folder, number))
                    self.check_file(files[-1], spec)
                    shared[number] = self.tensor(files[-1], 0, key, spec)
                tensors[key] = self.again(shared[number], spec, folder)
        except BaseException:
            self.close(files)
            raise
        return FlatState(tensors, layout=layout, metadata=metadata, close=lambda: self.close(files))

    def again(self, tensor, spec, folder):
        if tensor.spec != spec:
            raise MalformedFile("tied tensors differ.", path=folder.name)
        return tensor

    def header(self, folder):
        return parse_json(folder.read("tensors.json", 10_000_000), path=folder.name, what="tensors.json")

    def file(self, folder, number):
        return folder.open(self.file_name(number))

    def file_name(self, number):
        return f"{number}.bin"

    def check_file(self, file, spec):
        if file.size != spec.nbytes:
            raise MalformedFile(f"expected {spec.nbytes} bytes, got {file.size}.", path=file.name)

    def close(self, files):
        for file in files:
            file.close()

    def write_folder(self, state, target, *, step=None, item=None):
        self.check(state)
        ties = Ties.within(state.metadata.ties, state)
        numbers = {}
        for key in state:
            numbers.setdefault(ties.root(key), len(numbers))
        rows = [[k, s.dtype.name, s.shape, numbers[ties.root(k)]] for k, s in state.specs().items()]
        for key, number in numbers.items():
            file = target.file(self.file_name(number))
            with file.path.open("wb") as out:
                self.write_values(out, state, key, file)
        with target.file("tensors.json").path.open("w") as out:
            json.dump(self.document(state, rows), out)


class PlainFolders(StepFolders, _Leaves):
    """The same in folders, with steps and items."""

    name = "plainfolder"
    extensions = (".plainfolder",)
    layout = None
    capabilities = Capabilities(lazy=True, sliceable=True, streaming_write=True, dtypes=HELD, nested=True)
