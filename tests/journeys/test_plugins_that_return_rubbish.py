"""What a plugin returns is looked at before it is used: names, endless hooks, states, files and guidance."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from support.commands import assert_names, assert_refused
from support.strange_plugins import LIBRARY, format_source, install, installed

from bridge_core import MalformedFile, PluginError, UsageError, VerificationError, open_state
from bridge_core.cli import main

WEIGHT = np.arange(6, dtype="f4").reshape(3, 2)
BIAS = np.arange(3, dtype="f4") + 10
ENDLESS = """
from bridge_core import LayerKind, hookimpl

@hookimpl
def bridge_layer_kinds():
    number = 0
    while True:
        number += 1
        yield LayerKind(f"kind_{number}", {"kernel": "in out"})
"""
WORD = """
class Word(str):
    __hash__ = str.__hash__

    def __eq__(self, other):
        raise RuntimeError("compared")
"""
STATES = """
import numpy as np
from bridge_core import TensorSpec
from bridge_core.state import AuxiliaryTensor, LayerInfo, LazyTensor, StateMetadata

TENSORS = {"fc.weight": np.ones((3, 2), "f4"), "fc.bias": np.ones(3, "f4")}

def state(file, layout="torch", **known):
    return FlatState(TENSORS, layout=layout, metadata=StateMetadata(**known), close=file.close)

def of_spec(spec, file):
    class Odd:
        def __init__(self):
            self.spec = spec
        def read(self, region):
            return np.ones((3, 2), "f4")[region]
    return FlatState({"fc.weight": Odd()}, layout="torch", close=file.close)

def big_endian(region):
    return np.ones((3, 2), ">f4")[region]
"""


@pytest.fixture
def source(tmp_path):
    save_file({"fc.weight": WEIGHT, "fc.bias": BIAS}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def run(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert "Traceback" not in result.stderr
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.mark.parametrize(
    ("plugin", "hook", "named"),
    [
        (ENDLESS, "bridge_layer_kinds", ("10000", "LayerKind")),
        (WORD + format_source("word").replace('"word"', 'Word("word")'), "bridge_formats", ("'word'",)),
    ],
)
def test_a_hook_whose_values_cannot_be_listed_is_left_out(tmp_path, source, plugin, hook, named):
    with installed(install(tmp_path / "site", {"acme": plugin})):
        made = run("plan", source, "--to", "flax", "--json")
        assert made.code == 0, made.err
        json.loads(made.out)
        failures = json.loads(run("plugins", "--json").out)["failures"]
    (failure,) = (failure for failure in failures if failure["distribution"] == "acme")
    assert failure["hook"] == hook
    assert_names(failure["reason"], *named)


def test_a_format_that_closes_the_file_it_looks_at_harms_no_other(tmp_path, source):
    site = install(tmp_path / "site", {"acme": format_source("acme", sniff="file.close(); return False")})
    with installed(site):
        made = run("inspect", source)
    assert (made.code, made.err) == (0, "")


@pytest.mark.parametrize(
    ("opened", "named"),
    [
        ("state(file, layout=[])", ("layout", "[]")),
        ("FlatState({}, metadata=3, close=file.close)", ("metadata", "int", "StateMetadata")),
        ("state(file, ties=3)", ("metadata", "int")),
        ("state(file, layers={('fc',): LayerInfo('linear', 'module', 3)})", ("metadata", "int")),
        ("state(file, modules={('fc',): 3})", ("modules", "3", "ModuleInfo")),
        ("state(file, notes=3)", ("notes", "3")),
        ("state(file, extra={'a': 3})", ("extra", "3", "str")),
        ("of_spec(3, file)", ("'fc.weight'", "int", "TensorSpec")),
        ("of_spec(TensorSpec((-3, 2), np.dtype('f4')), file)", ("'fc.weight'", "[-3, 2]")),
    ],
)
def test_a_state_that_is_not_one_is_refused_when_it_is_opened(tmp_path, opened, named):
    plugin = STATES + format_source("acme", sniff="return True", open=f"return {opened}")
    (tmp_path / "x.acme").write_bytes(b"0123456789")
    with installed(install(tmp_path / "site", {"acme": plugin})):
        for command in (("inspect", "--json"), ("convert", tmp_path / "out.npz", "--to", "neutral")):
            name, *rest = command
            refused = run(name, tmp_path / "x.acme", *rest)
            assert_refused(refused, MalformedFile, "x.acme", "2.5", *named, "--disable-plugin acme")
    assert not (tmp_path / "out.npz").exists()


def test_values_in_another_byte_order_are_named_so(tmp_path):
    opened = (
        "return FlatState({'w': LazyTensor(TensorSpec((3, 2), np.dtype('f4')), big_endian)}, layout='torch')"
    )
    plugin = STATES + format_source("acme", sniff="return True", open=opened)
    (tmp_path / "x.acme").write_bytes(b"0123456789")
    with installed(install(tmp_path / "site", {"acme": plugin})):
        refused = run("convert", tmp_path / "x.acme", tmp_path / "out.npz", "--to", "torch")
    assert_refused(refused, MalformedFile, "x.acme", "'w'", "float32[3, 2]", "byte order")


@pytest.mark.parametrize("close", ["raise RuntimeError('lost')", "sys.exit(0)", "pass"])
def test_a_state_that_does_not_close_its_file_is_reported_and_its_file_closed(tmp_path, close):
    body = f"def close():\n            {close}\n        "
    body += "FILES.append(file)\n        "
    body += "return FlatState(TENSORS, layout='torch', close=close)"
    plugin = STATES + "FILES = []\n" + format_source("acme", sniff="return True", open=body)
    (tmp_path / "x.acme").write_bytes(b"0123456789")
    with installed(install(tmp_path / "site", {"acme": plugin})):
        made = run("convert", tmp_path / "x.acme", tmp_path / "out.npz", "--to", "flax")
        assert made.code == 0, made.err
        assert made.err.count("acme.close") == (close != "pass")
        import acme

        assert acme.FILES
        assert not any(file._open for file in acme.FILES)
    with open_state(tmp_path / "out.npz") as state:
        assert np.array_equal(state["fc.kernel"], np.ones((2, 3), "f4"))


@pytest.mark.parametrize(
    ("write", "error", "named"),
    [
        ("target.path.unlink()", PluginError, ()),
        ("target.path.unlink(); target.path.symlink_to('/etc/hostname')", PluginError, ()),
        ("pass", VerificationError, ("fc.kernel",)),
    ],
)
def test_what_a_format_does_not_write_is_found_and_names_its_plugin(tmp_path, source, write, error, named):
    tensors = "{'fc.kernel': TENSORS['fc.weight'].T * 2, 'fc.bias': TENSORS['fc.bias']}"
    opened = f"return FlatState({tensors}, layout='flax')"
    plugin = STATES + format_source("acme", open=opened, write=write)
    (tmp_path / "out.acme").write_bytes(b"old")
    with installed(install(tmp_path / "site", {"acme": plugin})):
        refused = run("convert", source, tmp_path / "out.acme", "--to", "flax", "--overwrite")
    assert_refused(refused, error, "out.acme", "2.5", *named, "--disable-plugin acme")
    assert (tmp_path / "out.acme").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "out.acme", "site"]


@pytest.mark.parametrize(
    ("guidance", "named"),
    [
        ("return 3", ("int", "Guidance")),
        ("return type('Odd', (), {'__repr__': lambda self: 1 / 0})()", ("Odd", "Guidance")),
        ("from bridge_core.plugins import Guidance; return Guidance(notes=3)", ("notes=3",)),
    ],
)
def test_guidance_that_is_none_names_the_ways_without_it(tmp_path, source, guidance, named):
    source.rename(tmp_path / "model.safetensors")
    plugin = LIBRARY.replace('sys.exit("no licence")', guidance)
    with installed(install(tmp_path / "site", {"acme": plugin})):
        refused = run("plan", tmp_path, "--to", "flax")
        assert_refused(refused, PluginError, *named, "--model none", "--disable-plugin acme")
        assert run("plan", tmp_path, "--to", "flax", "--disable-plugin", "acme").code == 0


@pytest.mark.parametrize("name", ["", ":", ".x", "x.", "a..b:c"])
def test_a_plugin_that_cannot_be_a_module_is_a_mistake_of_the_caller(name):
    refused = run("plugins", "--plugin", name)
    assert_refused(refused, UsageError, "--plugin", repr(name))
