"""Formats of files that are broken on purpose: values, keys and metadata. Each has one fault."""

from __future__ import annotations

import dataclasses
import functools
import os
import time

import numpy as np

from bridge_core import ArrayTensor, BridgeError, MalformedFile, TensorSpec
from bridge_core.state import (
    DTYPES,
    LazyTensor,
    StateMetadata,
    dump_metadata,
    equal_values,
    full,
    load_metadata,
)
from support.plain_formats import HELD, PlainFormat


def whole(tensor):
    return tensor.read(full(tensor.spec.shape))


def is_whole(region, spec):
    return tuple((s.start, s.stop, s.step) for s in region) == tuple((0, n, 1) for n in spec.shape)


class Reading(PlainFormat):
    """A base of faults that change how a tensor is read."""

    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)
        return LazyTensor(usual.spec, lambda region: self.read(usual, region))

    def read(self, tensor, region):
        return tensor.read(region)


class Blockwise(PlainFormat):
    """A base of faults that change the values on their way."""

    def blocks(self, state, key, target):
        for block in super().blocks(state, key, target):
            yield self.change(block)


# Values


class QuietsNaNs(Blockwise):
    def change(self, block):
        return np.where(np.isnan(block), np.float32("nan"), block) if block.dtype == np.float32 else block


class LosesNegativeZeros(Blockwise):
    def change(self, block):
        return np.where(block == 0, np.float64(0), block) if block.dtype == np.float64 else block


class ClearsSubnormals(Blockwise):
    def change(self, block):
        if block.dtype != np.float16:
            return block
        bits = block.view(np.uint16)
        return np.where((bits & 0x7C00) == 0, bits & 0x8000, bits)


class WidensBfloat16(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)
        if spec.dtype.name != "bfloat16":
            return usual
        return LazyTensor(TensorSpec(spec.shape, np.float32), lambda r: usual.read(r).astype(np.float32))


class SignsBytes(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)
        if spec.dtype.name != "uint8":
            return usual
        return LazyTensor(TensorSpec(spec.shape, np.int8), lambda r: usual.read(r).view(np.int8))


class DeclaresTooMuch(PlainFormat):
    capabilities = dataclasses.replace(PlainFormat.capabilities, dtypes=HELD | {"complex128"})

    def check(self, state):
        PlainFormat().check(state)


class NarrowsWhatItLacks(PlainFormat):
    def check(self, state):
        pass

    def write(self, state, target):
        held = {
            key: t if t.spec.dtype.name in HELD else ArrayTensor(np.zeros(t.spec.shape, np.float32))
            for key, t in state.tensors().items()
        }
        super().write(state.replace(tensors=held), target)


class WritesBeforeItRefuses(PlainFormat):
    def write(self, state, target):
        target.path.write_bytes(b"PLAIN")
        super().write(state, target)


class RaisesKeyErrorForDtypes(PlainFormat):
    def check(self, state):
        for spec in state.specs().values():
            dict.fromkeys(HELD)[spec.dtype.name]


class RefusesWithoutTheKey(PlainFormat):
    def check(self, state):
        try:
            super().check(state)
        except BridgeError as err:
            raise type(err)(f"the format has no {sorted(set(DTYPES) - HELD)}.") from None


# Shapes and memory


class GivesScalarsAnAxis(PlainFormat):
    def stored_shape(self, spec):
        return spec.shape or (1,)


class ReadsScalarsAsNumbers(Reading):
    def read(self, tensor, region):
        return tensor.read(region) if region else tensor.read(region)[()]


class FlattensEmpties(PlainFormat):
    def stored_shape(self, spec):
        return spec.shape if spec.size else (0,)


class Squeezes(PlainFormat):
    def stored_shape(self, spec):
        return tuple(n for n in spec.shape if n != 1) if len(spec.shape) > 1 else spec.shape


class TakesMemoryAsItLies(PlainFormat):
    def blocks(self, state, key, target):
        tensor = state.tensor(key)
        if (
            not isinstance(tensor, ArrayTensor)
            or not tensor.array.flags.f_contiguous
            or tensor.array.ndim < 2
        ):
            return super().blocks(state, key, target)
        array = tensor.array.ravel(order="K")
        return [array.astype(array.dtype.newbyteorder("="))]


class ForgetsStrides(PlainFormat):
    def blocks(self, state, key, target):
        tensor = state.tensor(key)
        if isinstance(tensor, ArrayTensor) and min(tensor.array.strides, default=1) < 0:
            return [np.ascontiguousarray(whole(tensor))[::-1]]
        return super().blocks(state, key, target)


class ForgetsByteOrder(PlainFormat):
    def blocks(self, state, key, target):
        tensor = state.tensor(key)
        if isinstance(tensor, ArrayTensor) and not tensor.array.dtype.isnative:
            return [np.ascontiguousarray(tensor.array)]
        return super().blocks(state, key, target)


class ClearsTheInput(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        for tensor in state.tensors().values():
            if isinstance(tensor, ArrayTensor) and tensor.array.flags.writeable:
                tensor.array[...] = 0


class FreezesTheInput(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        for tensor in state.tensors().values():
            if isinstance(tensor, ArrayTensor):
                tensor.array.flags.writeable = False


class ClearsTheMetadata(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        if isinstance(state.metadata.extra, dict):
            state.metadata.extra.clear()


class CountsElementsInTwoBytes(PlainFormat):
    capabilities = dataclasses.replace(PlainFormat.capabilities, streaming_write=False)

    def blocks(self, state, key, target):
        values = whole(state.tensor(key)).reshape(-1).copy()
        values[1 << 16 :] = values[:1]
        return [values]


class AlignsOnlyWhenReading(PlainFormat):
    """Bytes after an odd size are left out of the file's offsets when several dtypes follow each other."""

    def tensors(self, file, rows, start):
        moved = []
        for key, spec, offset in rows:
            odd = moved and moved[-1][1].nbytes > 1 and moved[-1][1].nbytes % 2
            moved.append((key, spec, offset - (1 if odd and spec.dtype.itemsize > 1 else 0)))
        return super().tensors(file, moved, start)


class IgnoresSteps(Reading):
    def read(self, tensor, region):
        return tensor.read(
            tuple(slice(s.start, s.start + len(range(s.start, s.stop, s.step)), 1) for s in region)
        )


class IgnoresStarts(Reading):
    def read(self, tensor, region):
        return tensor.read(tuple(slice(0, s.stop - s.start, s.step) for s in region))


class RaisesForEmptyParts(Reading):
    def read(self, tensor, region):
        if any(s.start == s.stop and n for s, n in zip(region, tensor.spec.shape, strict=True)):
            raise IndexError("nothing to read")
        return tensor.read(region)


class SharesThePosition(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)

        def read(region):
            if not is_whole(region, spec) or spec.dtype != np.float32 or spec.nbytes != 8000:
                return usual.read(region)
            os.lseek(file.fd, offset, os.SEEK_SET)
            time.sleep(0.001)
            return np.frombuffer(os.read(file.fd, spec.nbytes), spec.dtype).reshape(spec.shape)

        return LazyTensor(usual.spec, read)


# Keys


class ReversesKeys(PlainFormat):
    def tensors(self, file, rows, start):
        return dict(reversed(super().tensors(file, rows, start).items()))


class ShufflesKeys(PlainFormat):
    turn = 0

    def tensors(self, file, rows, start):
        ShufflesKeys.turn += 1
        found = list(super().tensors(file, rows, start).items())
        return dict(found[self.turn % 2 :] + found[: self.turn % 2])


class SortsNamesOnly(PlainFormat):
    def plan(self, state):
        rows, keys, nbytes = super().plan(state)
        for kind in {(dtype, shape) for _, dtype, shape, _ in rows}:
            alike = [row for row in rows if (row[1], row[2]) == kind]
            for row, key in zip(alike, sorted(row[0] for row in alike), strict=True):
                row[0] = key
        return rows, keys, nbytes


class SplitsAtDots(PlainFormat):
    def row(self, row, path):
        key, spec, offset = super().row(row, path)
        return tuple(".".join(key).split(".")), spec, offset


class SplitsAtSlashes(PlainFormat):
    def row(self, row, path):
        key, spec, offset = super().row(row, path)
        return tuple("/".join(key).split("/")), spec, offset


class LowersKeys(PlainFormat):
    def row(self, row, path):
        key, spec, offset = super().row(row, path)
        return tuple("".join(c.lower() if c.isascii() else c for c in part) for part in key), spec, offset


class StripsKeys(PlainFormat):
    def row(self, row, path):
        key, spec, offset = super().row(row, path)
        return tuple(part.strip() or part for part in key), spec, offset


class RefusesOddKeys(PlainFormat):
    def check(self, state):
        super().check(state)
        if odd := [key for key in state if not all(part.isprintable() for part in key)]:
            raise MalformedFile(f"cannot store {odd}.")


class CutsLongKeys(PlainFormat):
    def document(self, state, rows):
        return super().document(state, [[[p[:255] for p in row[0]], *row[1:]] for row in rows])


class CountsInOneByte(PlainFormat):
    def document(self, state, rows):
        return super().document(state, rows[:255])


class LosesBeginnings(PlainFormat):
    def tensors(self, file, rows, start):
        found = super().tensors(file, rows, start)
        return {k: t for k, t in found.items() if not any(o != k and o[: len(k)] == k for o in found)}


# Metadata


class Losing(PlainFormat):
    """A base of faults that lose one field of the metadata."""

    lost = ""

    def about(self, state):
        empty = getattr(StateMetadata(), self.lost)
        return dump_metadata(state.layout, state.metadata.with_(**{self.lost: empty}))


class LosesLayers(Losing):
    lost = "layers"


class LosesCollections(Losing):
    lost = "collections"


class LosesAuxiliaryTensors(Losing):
    lost = "auxiliary_tensors"


class LosesTies(Losing):
    lost = "ties"


class LosesEmptyNodes(Losing):
    lost = "empty"


class LosesLayouts(PlainFormat):
    layout = "neutral"

    def about(self, state):
        return dump_metadata("neutral", state.metadata)


class LosesTiedKeys(PlainFormat):
    """It stores the names of only the first two keys of a tie."""

    def document(self, state, rows):
        third = list(state.metadata.ties)[1:]
        return super().document(state, [row for row in rows if row[0] not in third])


class TiesEqualTensors(PlainFormat):
    def about(self, state):
        metadata = state.metadata
        if not metadata.ties and len(state) == 2:
            (one, first), (other, second) = state.tensors().items()
            if first.spec == second.spec and first.spec.nbytes < 1000 and equal_values(first, second):
                metadata = metadata.with_(ties={other: one})
        return dump_metadata(state.layout, metadata)


@functools.cache
def _loaded(text, path):
    return load_metadata(text, path=path)


class SharesMetadata(PlainFormat):
    def metadata(self, header, path):
        super().metadata(header, path)
        layout, metadata, _ = _loaded(header["about"], "")
        return layout, metadata


# Declarations and sniffing


class DeclaresUnknownDtypes(PlainFormat):
    capabilities = dataclasses.replace(PlainFormat.capabilities, dtypes=HELD | {"float99"})


class ExtensionsWithoutDots(PlainFormat):
    extensions = ("plain",)


class ShardsOfOneName(PlainFormat):
    names = dataclasses.replace(PlainFormat.names, shard="model-of-{count:05d}.plain")


class ShardNamedAsTheIndex(PlainFormat):
    names = dataclasses.replace(PlainFormat.names, index="model.plain")


class ShardsOfAnotherSuffix(PlainFormat):
    names = dataclasses.replace(PlainFormat.names, shard="model-{index:05d}-of-{count:05d}.bin")


class MisdeclaresTies(PlainFormat):
    names = dataclasses.replace(PlainFormat.names, ties="copied")


class TakesAllFiles(PlainFormat):
    def sniff(self, file):
        return True


class KnowsNoFiles(PlainFormat):
    def sniff(self, file):
        return False


class KnowsNoEmptyStates(PlainFormat):
    def sniff(self, file):
        return super().sniff(file) and b'"tensors": []' not in file.read(0, min(file.size, 99))


class SniffsNames(PlainFormat):
    def sniff(self, file):
        return super().sniff(file) or file.path.suffix == ".plain"


class SniffsWithoutLooking(PlainFormat):
    def sniff(self, file):
        return file.read(0, 8)[:8] == b"PLAIN\1\r\n"


class SniffsByMatching(PlainFormat):
    def sniff(self, file):
        return (super().sniff(file) and b"PLAIN") or None


class SniffsEverything(PlainFormat):
    def sniff(self, file):
        return file.read(0, file.size).startswith(b"PLAIN\1\r\n")


class SniffsByPosition(PlainFormat):
    def sniff(self, file):
        os.read(file.fd, 8)
        return super().sniff(file)


class SniffsAndCloses(PlainFormat):
    def sniff(self, file):
        found = super().sniff(file)
        file.close()
        return found
