"""Formats of folders for tests: the example of the hook, and one with steps and items."""

import dataclasses
import inspect
import textwrap
import types

from bridge_core.errors import MalformedFile, UsageError
from bridge_core.formats import FolderContents, FolderItem
from bridge_core.plugins import hookspecs


def _example():
    """Run the last code block of the hook's docstring as a module."""
    text = inspect.getdoc(hookspecs.bridge_formats)
    block = text[text.rindex("    import json") :]
    module = types.ModuleType("example_of_folders")
    exec(compile(textwrap.dedent(block), "<bridge_formats>", "exec"), vars(module))
    return module


RAW_FOLDERS = _example().RawFolders


class StepFolders(RAW_FOLDERS):
    """The example, with steps that are folders named by numbers, and items in them."""

    name = "stepfolder"
    extensions = (".stepfolder",)
    capabilities = dataclasses.replace(RAW_FOLDERS.capabilities, dtypes=RAW_FOLDERS.capabilities.dtypes)

    def sniff_folder(self, folder):
        return bool(self._sorts(folder))

    def _sorts(self, folder, depth=2):
        """Return what a folder is: an item, a step or a root."""
        if "tensors.json" in folder.files:
            return "item"
        inner = [self._sorts(folder.folder(name), depth - 1) for name in folder.folders] if depth else []
        if "step" in inner or any(n.isdigit() and s for n, s in zip(folder.folders, inner, strict=False)):
            return "root"
        return "step" if "item" in inner else ""

    def contents(self, folder, step=None):
        steps = ()
        if self._sorts(folder) == "root":
            steps = tuple(sorted(int(name) for name in folder.folders if name.isdigit()))
            step = steps[-1] if step is None else step
            if step not in steps:
                raise UsageError(f"unknown step {step}.", path=folder.path)
            folder = folder.folder(str(step))
        elif step is not None:
            raise UsageError("there are no steps.", path=folder.path)
        names = [name for name in sorted(folder.folders) if not name.startswith(".")]
        if "tensors.json" in folder.files:
            return FolderContents(steps, step, (FolderItem("", "tensors"),), "")
        items = tuple(
            FolderItem(name, "tensors", has_tensors="tensors.json" in folder.folder(name).files)
            for name in names
        )
        usual = "params" if "params" in names else names[0] if len(names) == 1 else None
        return FolderContents(steps, step, items, usual)

    def open_folder(self, folder, *, step=None, item=None):
        known = self.contents(folder, step)
        if known.step is not None:
            folder = folder.folder(str(known.step))
        name = known.item if item is None else item
        if name not in [one.name for one in known.items]:
            raise UsageError(f"unknown item {name}.", path=folder.path)
        if not self._sorts(folder):
            raise MalformedFile("there is no checkpoint.", path=folder.path)
        return super().open_folder(folder.folder(name) if name else folder)

    def write_folder(self, state, target, *, step=None, item=None):
        super().write_folder(state, _Below(target, item) if item else target)


class _Below:
    """A target that is a folder of another one."""

    def __init__(self, target, name):
        self._target = target
        self._name = name
        self.boxes = target.boxes

    def file(self, name):
        return self._target.file(f"{self._name}/{name}")
