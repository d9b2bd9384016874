"""Formats of folders that are broken on purpose. Each has one fault."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np

from bridge_core import ArrayTensor, BridgeError, MalformedFile, StateMetadata
from bridge_core.formats import FolderContents
from bridge_core.state import dump_metadata
from support.broken_formats import whole
from support.plain_formats import PlainFolders


class LatestAsText(PlainFolders):
    def contents(self, folder, step=None):
        known = super().contents(folder, step)
        latest = int(max(map(str, known.steps))) if known.steps and step is None else known.step
        return dataclasses.replace(known, step=latest)


class ReadsTheLatestStep(PlainFolders):
    def open_folder(self, folder, *, step=None, item=None):
        return super().open_folder(folder, item=item)


class TakesAnyItem(PlainFolders):
    def open_folder(self, folder, *, step=None, item=None):
        return super().open_folder(folder, step=step, item=None if item == "absent" else item)


class ListsNoTensors(PlainFolders):
    def contents(self, folder, step=None):
        known = super().contents(folder, step)
        items = tuple(dataclasses.replace(i, has_tensors=bool(i.name)) for i in known.items)
        return FolderContents(known.steps, known.step, items, known.item)


class SkipsMissingFiles(PlainFolders):
    def rows(self, header, folder):
        return [row for row in super().rows(header, folder) if f"{row[2]}.bin" in folder.files]


class FillsUpCutFiles(PlainFolders):
    def check_file(self, file, spec):
        if file.size < spec.nbytes < 1 << 20:
            os.truncate(file.path, spec.nbytes)
        else:
            super().check_file(file, spec)


class RaisesRaw(PlainFolders):
    def header(self, folder):
        try:
            return super().header(folder)
        except BridgeError as err:
            raise KeyError(str(err)) from err


class BelievesShapesInFolders(PlainFolders):
    def check_file(self, file, spec):
        pass


class WritesBesideTheFolder(PlainFolders):
    def write_folder(self, state, target, *, step=None, item=None):
        super().write_folder(state, target, step=step, item=item)
        if not item:
            (target.path.parent / "folders.index").write_text("written")


class NotesItsPath(PlainFolders):
    def write_folder(self, state, target, *, step=None, item=None):
        super().write_folder(state, target)
        target.file("path.txt").path.write_text(str(target.path.parent))

    def header(self, folder):
        path = folder.read("path.txt", 10_000).decode("utf-8", "replace")
        if path != str(folder.path.parent):
            raise MalformedFile(f"expected the folder at {path}.", path=folder.name)
        return super().header(folder)


class LeavesTheSidecarOut(PlainFolders):
    """The metadata is in a file of its own, which is not written for a state without tensors."""

    def document(self, state, rows):
        return {"tensors": rows}

    def write_folder(self, state, target, *, step=None, item=None):
        super().write_folder(state, target, step=step, item=item)
        if len(state):
            (target if not item else _Item(target, item)).file("about.json").path.write_text(
                self.about(state)
            )

    def header(self, folder):
        there = "about.json" in folder.files
        listed = super().header(folder)
        if not there and isinstance(listed, dict) and listed.get("tensors"):
            raise MalformedFile("about.json is missing.", path=folder.name)
        about = folder.read("about.json", 10_000_000).decode("utf-8", "replace") if there else None
        header = super().header(folder)
        return (
            {**header, "about": about or dump_metadata(None, StateMetadata())}
            if type(header) is dict
            else header
        )


class _Item:
    def __init__(self, target, item):
        self.target, self.item = target, item

    def file(self, name):
        return self.target.file(f"{self.item}/{name}")


class SniffsFolderNames(PlainFolders):
    def sniff_folder(self, folder):
        return super().sniff_folder(folder) or folder.path.suffix == ".plainfolder"


class TakesAllFolders(PlainFolders):
    def sniff_folder(self, folder):
        return True


class SniffsDamage(PlainFolders):
    def sniff_folder(self, folder):
        found = super().sniff_folder(folder)
        if "tensors.json" in folder.files:
            json.loads(folder.read("tensors.json", 10_000_000))
        return found


class MarksWhatItSniffs(PlainFolders):
    def sniff_folder(self, folder):
        found = super().sniff_folder(folder)
        if "tensors.json" in folder.files:
            (folder.path / "seen").touch()
        return found


class ReadsFoldersOnOpen(PlainFolders):
    def tensor(self, file, offset, key, spec):
        array = np.array(whole(super().tensor(file, offset, key, spec)))
        array.flags.writeable = False
        return ArrayTensor(array)


class LeavesFilesOpen(PlainFolders):
    def close(self, files):
        pass


class CollectsBlocksInFolders(PlainFolders):
    def blocks(self, state, key, target):
        return [block.copy() for block in target.blocks(state, key)]


class NumbersFilesByOrder(PlainFolders):
    """Files are numbered in the order of names, and read in that of the list."""

    def rows(self, header, folder):
        rows = super().rows(header, folder)
        for kind in {str(row[1]) for row in rows}:
            alike = [at for at, row in enumerate(rows) if str(row[1]) == kind]
            names = sorted(rows[at][0] for at in alike)
            for at, name in zip(alike, names, strict=True):
                rows[at] = (name, *rows[at][1:])
        return rows


class WritesRandomFiles(PlainFolders):
    def write_folder(self, state, target, *, step=None, item=None):
        super().write_folder(state, target, step=step, item=item)
        target.file("run.txt" if not item else f"{item}/run.txt").path.write_bytes(
            os.urandom(8).hex().encode()
        )
