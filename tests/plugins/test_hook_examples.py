"""The examples in the hooks' docstrings are complete plugins, and fulfil the contracts of what they provide.

Their text is taken from the docstrings. What they name and do not hold, as the modules of a user, is here.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import textwrap
import tomllib
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bridge_core import convert, default_registry, open_state, save_state
from bridge_core.plugins import hookspecs
from bridge_core.testing import (
    FileSystemContract,
    FolderFormatContract,
    FormatContract,
    FrameworkContract,
    LayerContract,
    LibraryContract,
    RecipeContract,
    RecipeSample,
)

HOOKS = [name for name in vars(hookspecs) if name.startswith("bridge_")]
RECIPES = Path(__file__).parents[1] / "data" / "example_plugin" / "recipes"


def blocks(hook):
    """Return the indented texts after each ``::`` of a hook's docstring."""
    text = inspect.getdoc(getattr(hookspecs, hook))
    found = re.findall(r"::\n\n((?:(?: {4}.*)?\n)+)", f"{text}\n")
    return [textwrap.dedent(block).strip() + "\n" for block in found]


def example(hook, number=0, folder=RECIPES.parent):
    """Run a code block of a hook's docstring as a module of its own."""
    module = types.ModuleType(f"example_of_{hook}_{number}")
    module.__file__ = str(folder / "plugin.py")
    exec(compile(blocks(hook)[number], f"<{hook}>", "exec"), vars(module))
    sys.modules[module.__name__] = module
    return module


FILES, FOLDERS = example("bridge_formats"), example("bridge_formats", 2)
FRAMEWORK = example("bridge_frameworks")
KINDS, TRANSFORMS = example("bridge_layer_kinds"), example("bridge_layer_transforms")
LIBRARY, RECIPE = example("bridge_libraries"), example("bridge_recipes")

SYSTEM = example("bridge_filesystems")

OF_FRAMEWORK = default_registry().extend(FRAMEWORK)
OF_LAYERS = default_registry().extend(KINDS, TRANSFORMS)
OF_LIBRARY = default_registry().with_tables(libraries={}).extend(LIBRARY)
OF_RECIPE = default_registry().extend(RECIPE)
OF_SYSTEM = default_registry().extend(SYSTEM)


def test_every_hook_has_an_example():
    for hook in HOOKS:
        python = [block for block in blocks(hook) if not block.startswith("[")]
        assert python, hook
        assert all("@hookimpl" in block for block in python)
    entry = tomllib.loads(blocks("bridge_formats")[1])
    assert entry == {"project": {"entry-points": {"ckptbridge": {"crate": "ckptbridge_crate"}}}}


@pytest.mark.slow
class TestFormatExample(FormatContract):
    """Files."""

    format = FILES.CrateFormat()


@pytest.mark.slow
class TestFolderFormatExample(FolderFormatContract):
    """Folders."""

    format = FOLDERS.bridge_formats()[0]
    has_steps = False
    has_items = False


class TestFrameworkExample(FrameworkContract):
    """Objects in memory."""

    framework = OF_FRAMEWORK.frameworks["numpy"]
    registry = OF_FRAMEWORK

    def samples(self):
        shared = np.ones((3, 4), "f4")
        yield {"fc.W": np.arange(12, dtype="f4").reshape(3, 4), "fc.b": np.ones(4, "f4")}
        yield {"a.W": shared, "b.W": shared, "c.half": np.zeros(3, "f2"), "c.other": np.ones(3, "f2")}


@pytest.mark.slow
class TestFrameworkLayers(LayerContract):
    """The layer in the framework's example."""

    transforms = (FRAMEWORK.LINEAR,)
    registry = OF_FRAMEWORK


@pytest.mark.slow
class TestLayerExamples(LayerContract):
    """A layer of both frameworks, and a transform by itself."""

    transforms = (*KINDS.BILINEAR.transforms, TRANSFORMS.TURNED)
    registry = OF_LAYERS


class Net(torch.nn.Module):
    """A projection to the same width: names and shapes do not show how it is turned."""

    def __init__(self, width):
        super().__init__()
        self.words = torch.nn.Embedding(2 * width, width)
        self.mix = torch.nn.Linear(width, width, bias=False)


@pytest.mark.slow
class TestLibraryExample(LibraryContract):
    """Folders of a model library."""

    library = OF_LIBRARY.libraries["zoo"]
    registry = OF_LIBRARY

    @pytest.fixture(autouse=True)
    def _zoo(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "zoo", types.SimpleNamespace(CLASSES={"Net": Net}))

    def folders(self, place):
        folder = place / "net"
        folder.mkdir()
        weights = {
            name: np.arange(value.numel(), dtype="f4").reshape(tuple(value.shape))
            for name, value in Net(4).state_dict().items()
        }
        save_state(weights, folder / "model.safetensors")
        (folder / "zoo.json").write_text(json.dumps({"class": "Net", "width": 4}))
        return [(folder, "flax")]


class TestFileSystemExample(FileSystemContract):
    """Files in zip archives."""

    system = OF_SYSTEM.filesystems["zip"]
    registry = OF_SYSTEM

    def put(self, place, files):
        place.mkdir(exist_ok=True)
        archive = place / "archive.zip"
        stored = {}
        if archive.exists():
            with zipfile.ZipFile(archive) as opened:
                stored = {name: opened.read(name) for name in opened.namelist()}
        with zipfile.ZipFile(archive, "w") as opened:
            for name, content in {**stored, **files}.items():
                opened.writestr(name, content)
        return f"zip://{archive.as_posix()}"


@pytest.mark.slow
class TestRecipeExample(RecipeContract):
    """Recipes in files next to the plugin."""

    recipe = OF_RECIPE.recipes["tiny-mlp"]
    registry = OF_RECIPE

    def samples(self):
        random = np.random.default_rng(0)
        source, target = {}, {}
        for layer, (into, out) in enumerate([(3, 5), (5, 2)]):
            weight, bias = random.normal(size=(out, into)), random.normal(size=out)
            source |= {f"net.{2 * layer}.weight": weight, f"net.{2 * layer}.bias": bias}
            target |= {f"Dense_{layer}/kernel": weight.T, f"Dense_{layer}/bias": bias}
        return [RecipeSample(source, target)]


def test_the_example_of_a_format_reads_and_writes(tmp_path):
    registry = default_registry().extend(FILES)
    weights = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.arange(2, dtype=np.float32)}
    save_state(weights, tmp_path / "a.crate", registry=registry)
    assert (tmp_path / "a.crate").read_bytes().startswith(b"CRATE-01")
    convert(tmp_path / "a.crate", tmp_path / "b.msgpack", layout="torch", to="flax", registry=registry)
    with open_state(tmp_path / "b.msgpack", registry=registry) as state:
        assert state["fc.bias"].tolist() == [0.0, 1.0]


def test_the_examples_of_layers_convert_live_modules():
    import bridge_torch

    class Turned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 3))

    Turned.__module__, Turned.__qualname__ = "my_models", "TurnedLinear"
    model = torch.nn.ModuleDict({"mix": torch.nn.Bilinear(2, 3, 4), "turned": Turned()})
    neutral = bridge_torch.to_neutral(model, registry=OF_LAYERS)
    assert neutral.metadata.layers["mix",].kind == "bilinear"
    assert neutral.spec("mix.kernel").shape == (2, 3, 4)
    assert neutral.spec("turned.kernel").shape == (2, 3)
    back = bridge_torch.from_neutral(neutral, like=model, registry=OF_LAYERS)
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
