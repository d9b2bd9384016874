"""The hooks: everything a plugin can add. Each docstring holds a complete plugin to copy.

A plugin is a module or object with functions marked by `hookimpl`, named in the entry-point group
``ckptbridge``. Hooks take nothing and return frozen values. The command takes a module that is not installed
with ``--plugin PKG.MOD``.

A plugin whose import fails, or ends the program, is left out with a warning, and so is what a hook returns if
one value in it is wrong. A name that ckptbridge itself provides stays ckptbridge's; of a name that several
other plugins provide none is used until all but one of them are disabled: ``--disable-plugin NAME``, or
``CKPTBRIDGE_DISABLE_PLUGINS=NAME,...`` in the environment, with the name of a plugin, its module or its
distribution. ``ckptbridge plugins`` lists what is left out, and why.
"""

# mypy: disable-error-code="empty-body"
# A hook's specification is its signature and its docstring; pluggy never calls it.

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:  # a plugin that imports `hookimpl` needs none of these yet
    from collections.abc import Iterable

    from bridge_core.formats import FolderFormat, Format
    from bridge_core.layers import LayerKind, LayerTransform
    from bridge_core.plugins.framework import Framework
    from bridge_core.plugins.library import Library
    from bridge_core.plugins.recipe import Recipe

__all__ = ["ENTRY_POINT_GROUP", "hookimpl", "hookspec"]

ENTRY_POINT_GROUP = "ckptbridge"

hookspec = pluggy.HookspecMarker("ckptbridge")
hookimpl = pluggy.HookimplMarker("ckptbridge")


@hookspec
def bridge_formats() -> Iterable[Format | FolderFormat]:
    '''Return formats of files, and formats whose checkpoints are folders.

    A file is opened by the format whose ``sniff`` returns True for it. Where ``sniff`` of one of ckptbridge's
    own formats does so too, as for a format that is built on zip archives or safetensors files, the longer
    extension that ends the file's name decides, and ckptbridge's own format where both are equally long or
    neither fits. Where several other formats return True, the user has to choose. So ``sniff`` looks for a
    marker of its own, and raises nothing. An exception of ``open`` or ``write`` that is not a
    `BridgeError` is reported with the distribution.

    A complete plugin, ``ckptbridge_raw.py``, for files that hold one float32 vector::

        import numpy as np
        from bridge_core import (
            Capabilities, FileTensor, FlatState, TensorSpec, UnsupportedFeature, hookimpl
        )

        class RawFormat:
            """One float32 vector, nothing else."""

            name = "raw"
            extensions = (".raw",)
            layout = "neutral"
            names = None
            capabilities = Capabilities(
                lazy=True, sliceable=True, streaming_write=True,
                dtypes=frozenset({"float32"}), metadata=False,
            )

            def sniff(self, file):
                return file.path.suffix == ".raw"

            def open(self, file):
                spec = TensorSpec((file.size // 4,), np.dtype("float32"))
                return FlatState(
                    {("vector",): FileTensor(file, 0, spec)}, layout="neutral", close=file.close
                )

            def write(self, state, target):
                if list(state) != [("vector",)]:
                    raise UnsupportedFeature("a raw file holds only one tensor, named 'vector'.")
                with target.path.open("wb") as out:
                    for block in target.blocks(state, ("vector",)):
                        out.write(block.astype("<f4").tobytes())

        @hookimpl
        def bridge_formats():
            return [RawFormat()]

    with, in its ``pyproject.toml``::

        [project.entry-points.ckptbridge]
        raw = "ckptbridge_raw"

    A format whose checkpoints are folders has the methods of `bridge_core.formats.FolderFormat` in place of
    ``sniff``, ``open`` and ``write``; no name may be that of another format of either sort. A complete
    plugin, for folders with a file of bytes for each tensor::

        import json
        import numpy as np
        from bridge_core import Capabilities, FileTensor, FlatState, TensorSpec, hookimpl
        from bridge_core.errors import MalformedFile, UnsupportedFeature
        from bridge_core.formats import FolderContents, FolderItem
        from bridge_core.io import parse_json

        class RawFolders:
            """One file of bytes for each tensor, and a list of them."""

            name = "rawfolder"
            extensions = (".rawfolder",)
            layout = "neutral"
            capabilities = Capabilities(
                lazy=True, sliceable=True, streaming_write=True,
                dtypes=frozenset({"float32", "int32"}), metadata=False, nested=True,
            )

            def sniff_folder(self, folder):
                return "tensors.json" in folder.files

            def contents(self, folder, step=None):
                return FolderContents(items=(FolderItem("", "tensors"),), item="")

            def open_folder(self, folder, *, step=None, item=None):
                text = folder.read("tensors.json", 10_000_000)
                entries = parse_json(text, path=folder.name, what="tensors.json")
                tensors, files = {}, []
                try:
                    for number, (key, dtype, shape) in enumerate(entries["tensors"]):
                        if dtype not in self.capabilities.dtypes:
                            raise UnsupportedFeature(f"{dtype!r} is not a dtype of this format.")
                        spec = TensorSpec(shape, np.dtype(dtype))
                        files.append(folder.open(f"{number}.bin"))
                        if files[-1].size != spec.nbytes:
                            raise MalformedFile(f"expected {spec.nbytes} bytes.", path=files[-1].name)
                        tensors[tuple(key)] = FileTensor(files[-1], 0, spec)
                except (KeyError, TypeError, ValueError) as err:
                    raise MalformedFile("tensors.json is damaged.", path=folder.name) from err
                return FlatState(
                    tensors, layout="neutral", close=lambda: [file.close() for file in files]
                )

            def write_folder(self, state, target, *, step=None, item=None):
                for key, spec in state.specs().items():
                    if spec.dtype.name not in self.capabilities.dtypes:
                        raise UnsupportedFeature(f"the format has no {spec.dtype.name}.", key=key)
                entries = [[key, s.dtype.name, s.shape] for key, s in state.specs().items()]
                for number, key in enumerate(state):
                    file = target.file(f"{number}.bin")
                    with file.path.open("wb") as out:
                        for block in file.blocks(state, key):
                            out.write(block.astype(block.dtype.newbyteorder("<")).tobytes())
                with target.file("tensors.json").path.open("w") as out:
                    json.dump({"tensors": entries}, out)

        @hookimpl
        def bridge_formats():
            return [RawFolders()]
    '''


@hookspec
def bridge_frameworks() -> Iterable[Framework]:
    '''Return framework adapters.

    A complete plugin, for plain dictionaries of numpy arrays in torch's naming::

        import numpy as np
        from bridge_core import FlatState, hookimpl

        class NumpyDicts:
            """``{"a.weight": array}`` dictionaries."""

            name = "numpy"
            collections = {}
            default_format = "npz"

            def owns(self, names):
                return False

            def accepts(self, value):
                return isinstance(value, dict) and all(
                    isinstance(v, np.ndarray) for v in value.values()
                )

            def state(self, value):
                return FlatState(value, layout="numpy")

            def build(self, state, like):
                return {".".join(key): array for key, array in state.items()}

        @hookimpl
        def bridge_frameworks():
            return [NumpyDicts()]

    An adapter may offer more, by methods that are looked for when they are needed: `Relocating`, `TreeNaming`
    and `TrainStates` for its names; `RunsModels` (``runs``, ``example_inputs``, ``model_weights``,
    ``run_model``) if it can call its models and show what their modules compute; `ReadsSettings`
    (``model_settings``) if it can read the settings of modules without a call. What needs a method that an
    adapter does not have is refused with its name. `bridge_core.testing.ModelRunContract` tests the last two.
    '''


@hookspec
def bridge_layer_kinds() -> Iterable[LayerKind]:
    """Return layer kinds: the neutral layout of a layer type, axis by axis.

    A complete plugin, for a bilinear layer::

        from bridge_core import LayerKind, hookimpl

        BILINEAR = LayerKind("bilinear", {"kernel": "in1 in2 out", "bias": "out"})

        @hookimpl
        def bridge_layer_kinds():
            return [BILINEAR]
    """


@hookspec
def bridge_layer_transforms() -> Iterable[LayerTransform]:
    """Return layer transforms: how one framework's layer type maps to a kind.

    A complete plugin, for `torch.nn.Bilinear`::

        from bridge_core import Leaf, LayerTransform, hookimpl

        @hookimpl
        def bridge_layer_transforms():
            return [
                LayerTransform(
                    "torch.bilinear",
                    kind="bilinear",
                    leaves=(
                        Leaf("weight", "kernel", "out in1 in2"),
                        Leaf("bias", "bias", "out", optional=True),
                    ),
                    modules=("torch.nn.modules.linear.Bilinear",),
                )
            ]
    """


@hookspec
def bridge_libraries() -> Iterable[Library]:
    '''Return adapters of model libraries: what the sidecar files show of the weights.

    A complete plugin, for folders whose ``model.txt`` names a factory of the model::

        import importlib
        from bridge_core import Guidance, UsageError, hookimpl

        class Zoo:
            """Folders with a ``model.txt``."""

            name = "zoo"

            def guide(self, checkpoint):
                note = checkpoint.folder / "model.txt"
                if checkpoint.state.layout != "torch" or not note.is_file():
                    return None
                name = checkpoint.model or note.read_text().strip()
                factory = getattr(importlib.import_module("zoo"), name, None)
                if factory is None:
                    raise UsageError(f"unknown model {name!r} of the zoo.", path=note)
                return Guidance(model=factory(), sidecar_files=("model.txt",))

        @hookimpl
        def bridge_libraries():
            return [Zoo()]
    '''


@hookspec
def bridge_recipes() -> Iterable[Recipe]:
    """Return recipes: rules for families of real models, as files.

    A recipe is a rule file with a table ``[recipe]`` before its rules; ``docs/recipes.md`` has its keys. A
    complete plugin, with its recipes in files next to it::

        from pathlib import Path
        from bridge_core import hookimpl
        from bridge_core.plugins import load_recipe

        @hookimpl
        def bridge_recipes():
            return [load_recipe(path) for path in sorted(Path(__file__).parent.glob("recipes/*.toml"))]
    """
