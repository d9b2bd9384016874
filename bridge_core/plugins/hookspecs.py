"""The hooks: everything a plugin can add. Each docstring holds a complete plugin to copy.

A plugin is a module or object with functions marked by `hookimpl`, named in the entry-point group
``ckptbridge``. Hooks take nothing and return frozen values. The command takes a module that is not installed
with ``--plugin PKG.MOD``; in Python, ``default_registry().extend(...)`` takes a module with hooks, or what
its hooks return.

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
    from bridge_core.io import FileSystem
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

    A complete plugin, ``ckptbridge_crate.py``, for files of a magic, a header of JSON and the tensors' bytes;
    `HeaderFormat` derives ``sniff``, ``open``, ``write`` and the capabilities from its two methods::

        import json
        from bridge_core import HeaderFormat, StoredTensor, hookimpl

        class CrateFormat(HeaderFormat):
            """A magic, the length of a header, the header, and the tensors."""

            name = "crate"
            extensions = (".crate",)
            magic = b"CRATE-01"
            dtypes = {"bool": "bool", "i32": "int32", "i64": "int64", "f16": "float16", "f32": "float32"}

            def read_header(self, header):
                document = header.json(header.integer(8))
                tensors = [
                    StoredTensor(name, one["dtype"], one["shape"], one["offset"])
                    for name, one in document["tensors"].items()
                ]
                return tensors, document["texts"]

            def make_header(self, tensors, texts):
                entries = {
                    one.name: {"dtype": one.dtype, "shape": one.shape, "offset": one.offset}
                    for one in tensors
                }
                text = json.dumps({"tensors": entries, "texts": texts}).encode()
                return len(text).to_bytes(8, "little") + text

        @hookimpl
        def bridge_formats():
            return [CrateFormat()]

    with, in its ``pyproject.toml``::

        [project.entry-points.ckptbridge]
        crate = "ckptbridge_crate"

    A format whose checkpoints are folders has the methods of `bridge_core.formats.FolderFormat` in place of
    ``sniff``, ``open`` and ``write``; no name may be that of another format of either sort. A complete
    plugin, for folders with a file of bytes for each tensor::

        import json
        from contextlib import ExitStack
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
                tensors = {}
                with ExitStack() as files:  # closes them where the folder is refused
                    try:
                        for number, (key, dtype, shape) in enumerate(entries["tensors"]):
                            if dtype not in self.capabilities.dtypes:
                                raise UnsupportedFeature(f"{dtype!r} is not a dtype of this format.")
                            spec = TensorSpec(shape, np.dtype(dtype))
                            file = files.enter_context(folder.open(f"{number}.bin"))
                            if file.size != spec.nbytes:
                                raise MalformedFile(f"expected {spec.nbytes} bytes.", path=file.name)
                            tensors[tuple(key)] = FileTensor(file, 0, spec)
                    except (KeyError, TypeError, ValueError) as err:
                        raise MalformedFile("tensors.json is damaged.", path=folder.name) from err
                    return FlatState(tensors, layout="neutral", close=files.pop_all().close)

            def write_folder(self, state, target, *, step=None, item=None):
                if state.layout not in (None, self.layout):
                    raise UnsupportedFeature(f"the format does not record a layout {state.layout!r}.")
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

    A complete plugin, for flat dictionaries of numpy arrays such as ``{"fc.W": array}``, and for the linear
    layers in them; `FrameworkBase` derives the adapter from two methods, and checks what they do::

        import numpy as np
        from bridge_core import FrameworkBase, LayerTransform, Leaf, hookimpl

        class NumpyDicts(FrameworkBase):
            """``{"fc.W": array, "fc.b": array}`` dictionaries."""

            name = "numpy"
            own_leaves = ("W",)

            def flatten(self, value):
                flat = isinstance(value, dict) and all(
                    isinstance(name, str) and "." in name and isinstance(array, np.ndarray)
                    for name, array in value.items()
                )
                return value if flat else None

            def unflatten(self, arrays, like):
                named = {".".join(key): array for key, array in arrays.items()}
                return named if like is None else {name: named[name] for name in like}

        LINEAR = LayerTransform(
            "numpy.linear",
            kind="linear",
            leaves=(Leaf("W", "kernel", "in out"), Leaf("b", "bias", "out", optional=True)),
            identifying_leaves=("W",),
        )

        @hookimpl
        def bridge_frameworks():
            return [NumpyDicts()]

        @hookimpl
        def bridge_layer_transforms():
            return [LINEAR]

    An adapter may offer more, by methods that are looked for when they are needed: `Relocating`, `TreeNaming`
    and `TrainStates` for its names; `RunsModels` (``runs``, ``example_inputs``, ``model_weights``,
    ``run_model``) to call models and show what modules compute; `ReadsSettings` (``model_settings``) to
    read settings without a call; `ComputesPlans` (``array_ops``) to compile plans. What needs a missing
    method is refused with its name. `ModelRunContract` and `ArrayOpsContract` test running and primitives.
    '''


@hookspec
def bridge_layer_kinds() -> Iterable[LayerKind]:
    """Return layer kinds: the neutral layout of a layer type, axis by axis.

    A complete plugin, for a bilinear layer in both frameworks. `custom_layer` pairs their leaves by the names
    of the axes; modules are named by text, so that the plugin imports no framework::

        from bridge_core import custom_layer, hookimpl

        BILINEAR = custom_layer(
            "bilinear",
            torch=("torch.nn.modules.linear.Bilinear", {"weight": "out in1 in2", "bias?": "out"}),
            flax=("my_models.Bilinear", {"kernel": "in1 in2 out", "bias?": "out"}),
        )

        @hookimpl
        def bridge_layer_kinds():
            return [BILINEAR.kind]

        @hookimpl
        def bridge_layer_transforms():
            return BILINEAR.transforms
    """


@hookspec
def bridge_layer_transforms() -> Iterable[LayerTransform]:
    """Return layer transforms: how one framework's layer type maps to a kind.

    A complete plugin, for a module of one's own that is a linear layer, and holds its weight as ``in out``
    where `torch.nn.Linear` holds it as ``out in``. In a file it looks like that, so that only the type of a
    module, or metadata that was made with it, shows it::

        from bridge_core import Leaf, LayerTransform, hookimpl

        TURNED = LayerTransform(
            "torch.turned_linear",
            kind="linear",
            leaves=(Leaf("weight", "kernel", "in out"), Leaf("bias", "bias", "out", optional=True)),
            modules=("my_models.TurnedLinear",),
            needs_module=True,
        )

        @hookimpl
        def bridge_layer_transforms():
            return [TURNED]
    """


@hookspec
def bridge_libraries() -> Iterable[Library]:
    '''Return adapters of model libraries: what the sidecar files show of the weights.

    A complete plugin, for folders whose ``zoo.json`` names a class of the package ``zoo`` and its width. The
    files of a folder are untrusted: what they name is looked up in a table, and no code of theirs is run::

        from bridge_core import Guidance, MalformedFile, UsageError, hookimpl
        from bridge_core.io import parse_json

        class Zoo:
            """Folders with a ``zoo.json`` such as ``{"class": "Net", "width": 4}``."""

            name = "zoo"

            def guide(self, checkpoint):
                path = checkpoint.folder / "zoo.json"
                if not path.is_file():
                    return None
                config = parse_json(path.read_bytes(), path=str(path), what="the config")
                model = self.model(checkpoint.model or config.get("class"), config.get("width"), path)
                return Guidance(
                    model=model if checkpoint.state.layout == "torch" else None,
                    like=model if checkpoint.to == "torch" else None,
                    sidecar_files=("zoo.json",),
                )

            def model(self, name, width, path):
                import torch
                import zoo

                if not isinstance(name, str) or name not in zoo.CLASSES:
                    raise UsageError(f"{name!r:.80} is not a class of the zoo.", path=path)
                if type(width) is not int or not 0 < width < 100_000:
                    raise MalformedFile(f"expected a width below 100000, got {width!r:.80}.", path=path)
                with torch.device("meta"):  # shapes without memory
                    return zoo.CLASSES[name](width)

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


@hookspec
def bridge_filesystems() -> Iterable[FileSystem]:
    '''Return file systems, whose files are read by URL.

    A file system answers single requests, from several threads; joining ranges, repeating failed requests and
    comparing versions are done for all of them. It raises ``SourceNotFound``, ``AccessDenied`` and
    ``RemoteFailure``, without credentials in the text. `WritableFileSystem` has the methods for writing.

    A complete plugin, for files in zip archives, ``zip:///folder/weights.zip/model.safetensors``::

        import os
        import re
        import zipfile
        from pathlib import Path
        from urllib.parse import unquote
        from bridge_core import hookimpl
        from bridge_core.errors import RemoteFailure, SourceNotFound
        from bridge_core.io import RangeAnswer, RemoteEntry, shown_url

        class ZipArchives:
            """Files in zip archives of this machine."""

            name = "zip"
            schemes = ("zip",)

            def pinned(self, url):
                return url  # an archive has no versions to choose from

            def entry(self, url):
                return self.ask(url, self.entry_of)

            def entry_of(self, archive, name, members):
                if name in members:
                    return self.described(members[name])
                is_folder = any(path.startswith(f"{name}/") for path in members)
                return RemoteEntry(name.rpartition("/")[2]) if is_folder else None

            def entries(self, url):
                return self.ask(url, self.entries_of) or ()

            def entries_of(self, archive, name, members):
                inside = {path[len(name) + 1 :]: path for path in members if path.startswith(f"{name}/")}
                folders = {rest.partition("/")[0] for rest in inside if "/" in rest}
                files = [self.described(members[path]) for rest, path in inside.items() if "/" not in rest]
                return [*files, *map(RemoteEntry, sorted(folders))]

            def read(self, url, start, nbytes, entry):
                answer = self.ask(url, self.range_of, start, nbytes)
                if answer is None:
                    raise SourceNotFound("the file does not exist.", path=shown_url(url))
                return answer

            def range_of(self, archive, name, members, start, nbytes):
                if name not in members:
                    return None
                with archive.open(members[name]) as member:
                    member.seek(start)
                    return RangeAnswer(member.read(nbytes), self.described(members[name]).version)

            def described(self, info):
                name = info.filename.rpartition("/")[2]
                return RemoteEntry(name, info.file_size, f"{info.CRC:08x}-{info.file_size}")

            def ask(self, url, question, *given):
                path = Path(unquote(re.split("[?#]", url.removeprefix("zip://"))[0]))
                file = next((one for one in (path, *path.parents) if os.path.isfile(one)), None)
                if file is None:
                    return None
                name = f"/{path.relative_to(file).as_posix()}".removesuffix("/.")
                try:
                    with zipfile.ZipFile(file) as archive:  # one for each thread that asks
                        members = {f"/{one.filename}": one for one in archive.infolist() if not one.is_dir()}
                        return question(archive, name, members, *given)
                except Exception as err:  # what zipfile raises for damaged archives is not documented
                    cause = type(err).__name__
                raise RemoteFailure(f"the archive cannot be read: {cause}.", path=shown_url(url))

        @hookimpl
        def bridge_filesystems():
            return [ZipArchives()]
    '''
