"""Formats that are broken in rare cases only: some dtypes, sizes, orders, names. Each has one fault."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import unicodedata
from pathlib import Path

import numpy as np

from bridge_core import ArrayTensor, BridgeError, FlatState, MalformedFile, StateMetadata, TensorSpec
from bridge_core.io import parse_json
from bridge_core.state import LazyTensor, dump_metadata
from support.broken_formats import Reading, is_whole, whole
from support.plain_formats import HELD, MAGIC, PlainFolders, PlainFormat


class Stored(PlainFormat):
    """A base of faults that take some arrays' memory in another way."""

    def blocks(self, state, key, target):
        tensor = state.tensor(key)
        array = tensor.array if isinstance(tensor, ArrayTensor) and tensor.array.size > 1 else None
        changed = None if array is None else self.stored(array)
        return super().blocks(state, key, target) if changed is None else [changed]


# Values


class WidensLargeBfloat16(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)
        if spec.dtype.name != "bfloat16" or spec.nbytes <= 1 << 17:
            return usual
        return LazyTensor(TensorSpec(spec.shape, np.float32), lambda r: usual.read(r).astype(np.float32))


class QuietsLaterNaNs(PlainFormat):
    """Only in the second tensor of float32, and in those after it."""

    def blocks(self, state, key, target):
        first = next((k for k in state if state.spec(k).dtype == np.float32), key)
        for block in super().blocks(state, key, target):
            quiet = block.dtype == np.float32 and key != first
            yield np.where(np.isnan(block), np.float32("nan"), block) if quiet else block


class StoresGridsAsTheyLie(Stored):
    def stored(self, array):
        if array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous:
            flat = array.ravel(order="K")
            return flat.astype(flat.dtype.newbyteorder("="))
        return None


class ForgetsTheLastAxis(Stored):
    """A negative stride of only the last axis is forgotten."""

    def stored(self, array):
        if array.ndim > 1 and array.strides[0] > 0 > array.strides[-1]:
            return np.ascontiguousarray(array[..., ::-1])
        return None


class ForgetsStepsOfRows(Stored):
    """A row with a negative stride is stored as it lies."""

    def stored(self, array):
        if array.ndim == 1 and array.strides[0] < 0:
            return np.ascontiguousarray(array[::-1])
        return None


class ForgetsByteOrderOfViews(Stored):
    def stored(self, array):
        if not array.dtype.isnative and not array.flags.c_contiguous:
            return np.ascontiguousarray(array)
        return None


class ClearsFortranArrays(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        for tensor in state.tensors().values():
            flags = tensor.array.flags if isinstance(tensor, ArrayTensor) else None
            if flags and flags.writeable and flags.f_contiguous and not flags.c_contiguous:
                tensor.array[...] = 0


class OffByOneInLargeTensors(Reading):
    def read(self, tensor, region):
        spec = tensor.spec
        if spec.nbytes > 1 << 16 and region[0].start > 0 and not is_whole(region, spec):
            first = slice(region[0].start - 1, region[0].stop - 1, region[0].step)
            region = (first, *region[1:])
        return tensor.read(region)


class IgnoresStepsOfFloat16(Reading):
    def read(self, tensor, region):
        if tensor.spec.dtype.name == "float16":
            region = tuple(slice(s.start, s.start + len(range(s.start, s.stop, s.step)), 1) for s in region)
        return tensor.read(region)


# Keys


class ExchangesPairs(PlainFormat):
    """Two tensors of bfloat16 and one shape."""

    def plan(self, state):
        rows, keys, nbytes = super().plan(state)
        alike = {}
        for row in rows:
            alike.setdefault(tuple(row[2]), []).append(row) if row[1] == "bfloat16" else None
        for pair in alike.values():
            if len(pair) == 2:
                pair[0][3], pair[1][3] = pair[1][3], pair[0][3]
        return rows, keys, nbytes


class ReversesManyKeys(PlainFormat):
    def tensors(self, file, rows, start):
        found = super().tensors(file, rows, start)
        return dict(reversed(found.items())) if len(found) > 16 else found


class ReversesTheThirdTime(PlainFormat):
    """Each third opening of one file."""

    def __init__(self):
        self.opened_files = {}

    def tensors(self, file, rows, start):
        count = self.opened_files[file.identity] = self.opened_files.get(file.identity, 0) + 1
        found = super().tensors(file, rows, start)
        return found if count < 3 else dict(reversed(found.items()))


class WritesCompatibleForms(PlainFormat):
    def row(self, row, path):
        key, spec, offset = super().row(row, path)
        wide = tuple("".join(self.letter(c) for c in part) for part in key)
        return wide, spec, offset

    def letter(self, letter):
        same = unicodedata.normalize("NFC", letter) == letter
        return unicodedata.normalize("NFKC", letter) if same else letter


class LowersForeignLetters(WritesCompatibleForms):
    def letter(self, letter):
        return letter if letter.isascii() else letter.lower()


# Metadata


class KeepsTheFirstTies(PlainFormat):
    def about(self, state):
        ties = dict(state.metadata.ties)
        first = next(iter(ties.values()), None)
        kept = {key: other for key, other in ties.items() if other == first}
        return dump_metadata(state.layout, state.metadata.with_(ties=kept))


class TiesOnlyBackwards(PlainFormat):
    def about(self, state):
        places = {key: place for place, key in enumerate(state)}
        kept = {k: o for k, o in state.metadata.ties.items() if places.get(o, -1) < places.get(k, 0)}
        return dump_metadata(state.layout, state.metadata.with_(ties=kept))


class SplitsEmptyNodesAtDots(PlainFormat):
    def about(self, state):
        empty = tuple(tuple(".".join(path).split(".")) for path in state.metadata.empty)
        return dump_metadata(state.layout, state.metadata.with_(empty=empty))


class LosesEmptyNodesWithTies(PlainFormat):
    def about(self, state):
        metadata = state.metadata.with_(empty=()) if state.metadata.ties else state.metadata
        return dump_metadata(state.layout, metadata)


class LosesLargeMetadata(PlainFormat):
    def about(self, state):
        text = super().about(state)
        return text if len(text) < 1 << 16 else dump_metadata(state.layout, StateMetadata())


class ForgetsTheLayout(PlainFormat):
    """It records nothing, and does not say so when another layout is written."""

    layout = "torch"
    capabilities = dataclasses.replace(PlainFormat.capabilities, metadata=False)

    def about(self, state):
        return dump_metadata(None, StateMetadata())

    def metadata(self, header, path):
        return self.layout, StateMetadata()


# Memory, files and other places


class ReadsSmallTensorsOnOpen(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)
        if spec.nbytes > 1 << 19:
            return usual
        array = np.array(whole(usual))
        array.flags.writeable = False
        return ArrayTensor(array)


class ReadsPastTheCount(PlainFormat):
    """It reads all of the file when it is opened, in pieces, and keeps nothing."""

    def opened(self, file, tensors, layout, metadata):
        at = 0
        while piece := os.pread(file.fd, 1 << 18, at):
            at += len(piece)
        return super().opened(file, tensors, layout, metadata)


class CollectsOneDtype(PlainFormat):
    def blocks(self, state, key, target):
        blocks = target.blocks(state, key)
        return [b.copy() for b in blocks] if state.spec(key).dtype.name == "bfloat16" else blocks


class CachesOneDtype(PlainFormat):
    """Complete tensors of bfloat16 are one array for all reads."""

    def tensor(self, file, offset, key, spec):
        usual, known = super().tensor(file, offset, key, spec), []

        def read(region):
            if spec.dtype.name != "bfloat16" or not is_whole(region, spec):
                return usual.read(region)
            known.append(usual.read(region)) if not known else None
            return known[0]

        return LazyTensor(usual.spec, read)


class WritesTiesBeside(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        if state.metadata.ties:
            target.path.with_name("ties.json").write_text(str(len(state.metadata.ties)))


class WritesAnIndexOfMany(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        if len(state) > 40:
            target.path.with_name("index.json").write_text("{}")


class LeavesTemporaryFilesAfterErrors(PlainFormat):
    def write(self, state, target):
        number, name = tempfile.mkstemp()
        os.close(number)
        super().write(state, target)
        Path(name).unlink()


class CachesAtHome(PlainFormat):
    def write(self, state, target):
        super().write(state, target)
        home = Path(os.environ["HOME"])
        if home.name == "home" and home.parent == target.path.parent.parent:  # only in the test for this
            home.joinpath("cache").write_text("written")


class IndexesWhatItReads(PlainFormat):
    def tensor(self, file, offset, key, spec):
        usual = super().tensor(file, offset, key, spec)

        def read(region):
            if file.path.exists():
                file.path.with_suffix(".index").write_text("read")
            return usual.read(region)

        return LazyTensor(usual.spec, read)


class NamesTheProcess(PlainFormat):
    def document(self, state, rows):
        return {**super().document(state, rows), "process": os.getpid()}


class NamesTheFolder(PlainFormat):
    def document(self, state, rows):
        return {**super().document(state, rows), "folder": str(Path.cwd())}


class LeavesManyOpen(PlainFormat):
    """After a write of more than three tensors; it is closed by the next one."""

    kept = None

    def write(self, state, target):
        super().write(state, target)
        if self.kept is not None:
            self.kept.close()
        self.kept = target.path.open("rb") if len(state) > 3 else None

    def __del__(self):
        if self.kept is not None:
            self.kept.close()


class SharesAHandle(PlainFormat):
    """States of one file have one handle, which the first close closes."""

    def __init__(self):
        self.handles = {}

    def opened(self, file, tensors, layout, metadata):
        own = self.handles.get(file.identity)
        if own is None or not own._open:
            self.handles[file.identity] = own = file
        else:
            header, start = self.header(own)
            tensors = self.tensors(own, self.rows(header, own), start)

        def close():
            own.close()
            file.close()

        return FlatState(tensors, layout=layout, metadata=metadata, close=close)


class LeaksWhenItRefuses(PlainFormat):
    """Another handle stays open where the file is damaged, until the next opening."""

    left = None

    def open(self, file):
        if self.left is not None:
            self.left.close()
        self.left = file.duplicate()
        opened = super().open(file)
        self.left.close()
        self.left = None
        return opened


class KnowsOnlySmallFiles(PlainFormat):
    def sniff(self, file):
        return super().sniff(file) and file.size < 1 << 20


class TakesJson(PlainFormat):
    def sniff(self, file):
        return super().sniff(file) or (file.size > 0 and file.read(0, 1) in (b"{", b"["))


class DeclaresTooLittle(PlainFormat):
    capabilities = dataclasses.replace(PlainFormat.capabilities, dtypes=HELD - {"bfloat16"})

    def check(self, state):
        PlainFormat().check(state)

    def row(self, row, path):
        return PlainFormat().row(row, path)


class LoopsOverAClaim(PlainFormat):
    """The number of tensors is in the header, and is looped over."""

    def head(self, state, rows, nbytes):
        text = json.dumps(self.document(state, rows)).encode()
        sizes = (len(text), 32 + len(text) + nbytes, len(rows))
        return MAGIC + b"".join(size.to_bytes(8, "little") for size in sizes) + text

    def header(self, file):
        if not self.marked(file) or file.size < 32:
            raise MalformedFile("expected a plain file.", path=file.name)
        length, size, count = (int.from_bytes(file.read(at, 8), "little") for at in (8, 16, 24))
        self.check_size(file, size)
        document = parse_json(file.read(32, length), path=file.name, what="the header")
        rows = super().rows(document, file)
        kept = 0
        for number in range(count):
            kept += number < len(rows)
        return {**document, "tensors": document["tensors"][:kept]}, 32 + length


# Folders


class TakesZeroForNone(PlainFolders):
    def contents(self, folder, step=None):
        return super().contents(folder, step or None)


class NeedsNoSidecar(PlainFolders):
    """The metadata is in a file of its own, without which the folder is read all the same."""

    def write_folder(self, state, target, *, step=None, item=None):
        super().write_folder(state, target, step=step, item=item)
        name = f"{item}/about.json" if item else "about.json"
        target.file(name).path.write_text(self.about(state))

    def document(self, state, rows):
        return {
            "tensors": rows,
            "about": dump_metadata(state.layout, StateMetadata(ties=state.metadata.ties)),
        }

    def header(self, folder):
        header = super().header(folder)
        try:
            about = folder.read("about.json", 1 << 20).decode()
        except (BridgeError, UnicodeDecodeError) as err:
            if "about.json" in folder.files:
                raise MalformedFile("about.json is damaged.", path=folder.name) from err
            return header
        return {**header, "about": about} if isinstance(header, dict) else header


class ReadsAllNames(PlainFolders):
    """Each folder's name has to be a number."""

    def open_folder(self, folder, *, step=None, item=None):
        [int(name) for name in folder.folders if item is None and not folder.folder(name).folders]
        return super().open_folder(folder, step=step, item=item)
