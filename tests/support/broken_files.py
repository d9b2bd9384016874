"""Formats of files that are broken on purpose: memory, writing, open files and damage. Each has one fault."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import os
import tempfile
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from pathlib import Path

import numpy as np

from bridge_core import ArrayTensor, BridgeError, FlatState, MalformedFile
from bridge_core.io import parse_json
from bridge_core.state import LazyTensor
from support.broken_formats import Reading, is_whole, whole
from support.plain_formats import DTYPES, MAGIC, PlainFormat

EAGER = dataclasses.replace(PlainFormat.capabilities, lazy=False, sliceable=False)


def read_only(array):
    array = np.array(array)
    array.flags.writeable = False
    return array


# Memory


class ReadsOnOpen(PlainFormat):
    def tensor(self, file, offset, key, spec):
        return ArrayTensor(read_only(whole(super().tensor(file, offset, key, spec))))


class LoadsByName(PlainFormat):
    """It reads the file by its name, past the functions that count."""

    def opened(self, file, tensors, layout, metadata):
        with suppress(OSError):
            Path(file.path).read_bytes()
        return super().opened(file, tensors, layout, metadata)


class ReadsAllForAPart(Reading):
    def read(self, tensor, region):
        return whole(tensor)[(*region, ...)]


class ReadsTheWholeFile(PlainFormat):
    capabilities = dataclasses.replace(PlainFormat.capabilities, sliceable=False)

    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)

        def read(region):
            file.read(0, file.size)
            return usual.read(region)

        return LazyTensor(usual.spec, read)


class KeepsWhatWasRead(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual, held = super().tensor(file, offset, key, spec), []

        def read(region):
            if is_whole(region, spec) and not held:
                held.append(read_only(usual.read(region)))
            return held[0][(*region, ...)] if held else usual.read(region)

        return LazyTensor(usual.spec, read)


class WritesWholeTensors(PlainFormat):
    def blocks(self, state, key, target):
        return [whole(state.tensor(key))]


class CollectsBlocks(PlainFormat):
    def blocks(self, state, key, target):
        return [block.copy() for block in target.blocks(state, key)]


class CollectsTheFile(PlainFormat):
    def write(self, state, target):
        self.check(state)
        rows, keys, nbytes = self.plan(state)
        out = io.BytesIO()
        out.write(self.head(state, rows, nbytes))
        for key in keys:
            self.write_values(out, state, key, target)
        target.path.write_bytes(out.getbuffer())


# Writing


class WritesRandomNames(PlainFormat):
    def document(self, state, rows):
        return {**super().document(state, rows), "id": uuid.uuid4().hex}


class WritesTheDate(PlainFormat):
    def document(self, state, rows):
        return {**super().document(state, rows), "date": time.strftime("%Y-%m-%d")}


class KeepsALargerBuffer(PlainFormat):
    """What a larger state left in a buffer follows the values of a smaller one."""

    last = 0

    def write(self, state, target):
        self.check(state)
        rows, keys, nbytes = self.plan(state)
        more = self.last - nbytes if self.last - nbytes > 200_000 else 0
        self.last = nbytes
        with target.path.open("wb") as out:
            out.write(self.head(state, rows, nbytes + more))
            for key in keys:
                self.write_values(out, state, key, target)
            out.write(bytes(more))


class WritesBeside(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        target.path.with_name("plain.index").write_text("tensors")


class WritesToTheWorkingFolder(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        Path("plain.log").write_text("written")


class LeavesTemporaryFiles(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        os.close(tempfile.mkstemp()[0])


class NotesItsFolder(PlainFormat):
    def write(self, state, target):
        self.document = lambda state, rows: {
            **PlainFormat.document(self, state, rows),
            "home": str(target.path.parent),
        }
        super().write(state, target)

    def rows(self, header, file):
        if type(header) is dict and header.get("home") != str(file.path.parent):
            raise MalformedFile(f"expected the file in {header.get('home')}.", path=file.name)
        return super().rows(header, file)


class GrowsWithEachCopy(PlainFormat):
    def metadata(self, header, path):
        layout, metadata = super().metadata(header, path)
        return layout, metadata.with_(extra={"copies": f"{header.get('copies', '')}"})

    def document(self, state, rows):
        copies = state.metadata.extra.get("copies", "") + "x"
        return {**super().document(state, rows), "copies": copies}


class WritesZerosForErrors(PlainFormat):
    def blocks(self, state, key, target):
        try:
            yield from super().blocks(state, key, target)
        except BridgeError:
            spec = state.spec(key)
            yield np.zeros(spec.shape, spec.dtype)


class RenamesErrors(PlainFormat):
    def blocks(self, state, key, target):
        try:
            yield from super().blocks(state, key, target)
        except BridgeError as err:
            raise ValueError(str(err)) from err


class ClosesTheSource(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        state.close()


class _Handles:
    """Descriptors that are left open, but for the latest few."""

    def __init__(self):
        self._open = deque()

    def add(self, path):
        with suppress(OSError):
            self._open.append(os.open(path, os.O_RDONLY))
        if len(self._open) > 4:
            os.close(self._open.popleft())

    def __del__(self, close=os.close):
        for fd in self._open:
            close(fd)


class LeavesTheTargetOpen(PlainFormat):
    def __init__(self):
        self.handles = _Handles()

    def write(self, state, target):
        super().write(state, target)
        self.handles.add(target.path)


class LeavesTheTargetOpenOnErrors(LeavesTheTargetOpen):
    def write(self, state, target):
        try:
            PlainFormat.write(self, state, target)
        except MalformedFile:
            self.handles.add(target.path)
            raise


# States that were opened


class ReusesABuffer(Reading):
    local = threading.local()

    def read(self, tensor, region):
        part = tensor.read(region)
        buffers = self.local.__dict__.setdefault("buffers", {})
        buffer = buffers.setdefault((part.shape, part.dtype.name), np.empty(part.shape, part.dtype))
        buffer[...] = part
        return buffer


class HandsOutItsArrays(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual, held = super().tensor(file, offset, key, spec), []

        def read(region):
            if spec.nbytes > 100_000:
                return usual.read(region)
            if not held:
                held.append(whole(usual))
            return held[0][(*region, ...)]

        return LazyTensor(usual.spec, read)


class SharesArraysBetweenFiles(PlainFormat):
    """Files of one content have one array, whoever opens them."""

    capabilities = EAGER

    def __init__(self):
        self.kept = {}

    def tensor(self, file, offset, key, spec):
        array = np.array(whole(super().tensor(file, offset, key, spec)))
        if spec.nbytes == 2560:
            digest = hashlib.sha256(file.read(0, file.size)).digest()
            array = self.kept.setdefault((digest, key), array)
        return ArrayTensor(array)


class RemembersPaths(PlainFormat):
    capabilities = EAGER

    def __init__(self):
        self.kept = {}

    def open(self, file):
        status = os.fstat(file.fd)
        place = (str(file.path), status.st_size, status.st_mtime_ns)
        if place not in self.kept:
            with super().open(file.duplicate()) as opened:
                arrays = {key: read_only(whole(tensor)) for key, tensor in opened.tensors().items()}
                self.kept[place] = arrays, opened.layout, opened.metadata
        arrays, layout, metadata = self.kept[place]
        return FlatState(arrays, layout=layout, metadata=copy.deepcopy(metadata), close=file.close)


class KeepsTheFileOnItself(PlainFormat):
    def tensor(self, file, offset, key, spec):
        self.file = file

        def read(region):
            return PlainFormat.tensor(self, self.file, offset, key, spec).read(region)

        return LazyTensor(spec, read)


class NeverClosesTheFile(PlainFormat):
    def opened(self, file, tensors, layout, metadata):
        return FlatState(tensors, layout=layout, metadata=metadata)


class OpensAnotherHandle(PlainFormat):
    def __init__(self):
        self.handles = _Handles()

    def opened(self, file, tensors, layout, metadata):
        self.handles.add(file.path)
        return super().opened(file, tensors, layout, metadata)


class ClosesOnlyOnce(PlainFormat):
    def opened(self, file, tensors, layout, metadata):
        closers = [file.close]
        return FlatState(tensors, layout=layout, metadata=metadata, close=lambda: closers.pop()())


class ReadsZerosWhenClosed(Reading):
    def read(self, tensor, region):
        part = np.empty(np.broadcast_to(0, tensor.spec.shape)[region].shape, tensor.spec.dtype)
        base = getattr(tensor, "file", None)
        if base is not None and not base._open:
            part[...] = 0
            return part
        return tensor.read(region)


class TakesValuesBack(PlainFormat):
    """Closing clears the arrays that were read."""

    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)

        def read(region):
            part = usual.read(region)
            if part.nbytes < 100_000 and part.dtype != np.bool_:
                self.given.append(part)
            return part

        return LazyTensor(usual.spec, read)

    def open(self, file):
        self.given = []
        return super().open(file)

    def opened(self, file, tensors, layout, metadata):
        given = self.given

        def close():
            for part in given:
                part[...] = 0
            file.close()

        return FlatState(tensors, layout=layout, metadata=metadata, close=close)


class OpensByName(PlainFormat):
    def header(self, file):
        with file.path.open("rb") as named:
            head = named.read(24)
        if head[:8] != MAGIC:
            raise MalformedFile("expected a plain file.", path=file.name)
        return super().header(file)


# Damage


class RaisesValueErrors(PlainFormat):
    def open(self, file):
        try:
            return super().open(file)
        except BridgeError as err:
            raise ValueError(str(err)) from err


class ChecksNoRows(PlainFormat):
    def row(self, row, path):
        _, dtype, _, _ = row
        DTYPES[dtype]
        return super().row(row, path)


class BelievesTheHeadersLength(PlainFormat):
    def header(self, file):
        if not self.marked(file) or file.size < 24:
            raise MalformedFile("expected a plain file.", path=file.name)
        length, size = (int.from_bytes(file.read(at, 8), "little") for at in (8, 16))
        self.check_size(file, size)
        text = bytearray(length)
        file.read_into(24, text)
        return parse_json(bytes(text), path=file.name, what="the header"), 24 + length


class BelievesShapes(PlainFormat):
    def tensors(self, file, rows, start):
        return {key: self.tensor(file, start + offset, key, spec) for key, spec, offset in rows}


class ReadsWhatIsLeft(PlainFormat):
    def check_size(self, file, size):
        pass

    def tensors(self, file, rows, start):
        there = [row for row in rows if start + row[2] + row[1].nbytes <= file.size]
        return super().tensors(file, there, start)


class TakesNothingForEmpty(PlainFormat):
    def open(self, file):
        return super().open(file) if file.size else FlatState({}, layout="torch", close=file.close)


class CountsFromTheEnd(PlainFormat):
    def check_size(self, file, size):
        if file.size < size:
            super().check_size(file, size)

    def tensors(self, file, rows, start):
        nbytes = max((offset + spec.nbytes for _, spec, offset in rows), default=0)
        return super().tensors(file, rows, max(start, file.size - nbytes))
