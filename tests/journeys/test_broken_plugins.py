"""With many broken plugins installed every command works on ordinary files, and says once what is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from support.commands import assert_refused
from support.errors import refused
from support.strange_plugins import BROKEN, LIBRARY, format_source, install, installed

import bridge_core
import bridge_torch
from bridge_core import (
    MalformedFile,
    PluginConflict,
    PluginError,
    PluginWarning,
    UsageError,
    default_registry,
)
from bridge_core.cli import main
from bridge_core.plugins import loaded_registry

WEIGHT = np.arange(6, dtype="f4").reshape(3, 2)
BIAS = np.arange(3, dtype="f4") + 10
RULES = 'source = "torch"\ntarget = "flax"\n\n[[rule]]\nsource = "fc.weight"\nrename = "head.weight"\n'


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return install(tmp_path_factory.mktemp("site"), BROKEN)


@pytest.fixture
def broken(site):
    with installed(site):
        yield site


@pytest.fixture
def source(tmp_path):
    save_file({"fc.weight": WEIGHT, "fc.bias": BIAS}, tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def run(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def warned(err):
    return [line for line in err.splitlines() if line.startswith("warning: ")]


FORMATS_AND_IMPORTS = [
    ("broken_import_plugin", "broken-import", "ImportError", "no cuda here"),
    ("broken_exit_plugin", "broken-exit", "SystemExit", "0"),
    ("broken_exit_text_plugin", "broken-exit-text", "SystemExit", "no licence"),
    ("broken_base_plugin", "broken-base", "Odd", "odd"),
    ("broken_hook_plugin", "broken-hook", "bridge_formats", "SystemExit"),
    ("broken_own_name_plugin", "broken-own-name", "bridge_formats", "'safetensors'"),
    ("'twin'", "broken-twin-a", "broken-twin-b", "--disable-plugin"),
    ("broken_sniff_plugin", "broken-sniff", "sniffs.sniff", "ValueError"),
]
LAYERS = [
    ("broken_list_plugin", "broken-list", "bridge_layer_kinds", "3"),
    ("broken_transform_plugin", "broken-transform", "bridge_layer_transforms", "'inn'"),
    ("broken_values_plugin", "broken-values", "bridge_frameworks", "'not a framework'"),
    ("broken_framework_plugin", "broken-framework", "strange.owns", "LookupError", "names"),
]
"""What the warning about each plugin names, besides its version."""


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("inspect", "{a}", "--json"), "json"),
        (("plan", "{a}", "--to", "flax", "--json"), "json"),
        (("convert", "{a}", "{folder}/b.msgpack", "--to", "flax", "--json"), "json"),
        (("verify", "{a}", "{a}", "--json"), "json"),
        (("diff", "{a}", "{a}", "--json"), "json"),
        (("explain", "{a}", "fc.weight", "--to", "flax"), "permute"),
        (("rules", "check", "{rules}", "--source", "{a}", "--json"), "json"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_command_works_and_reports_each_failure_once(broken, source, tmp_path, command, expected):
    (tmp_path / "rules.toml").write_text(RULES)
    names = {"a": source, "folder": tmp_path, "rules": tmp_path / "rules.toml"}
    result = run(*(part.format(**names) for part in command))
    assert result.code == 0, result.err
    if expected == "json":
        json.loads(result.out)
    else:
        assert expected in result.out
    lines = warned(result.err)
    assert len(lines) == len(set(lines))
    assert all(line.endswith(f"[{PluginWarning.code}]") for line in lines)
    for named in [*FORMATS_AND_IMPORTS, *LAYERS]:
        telling = [line for line in lines if all(thing in line for thing in (*named, "2.5"))]
        assert len(telling) == 1, (named, result.err)
    assert len(lines) == len(FORMATS_AND_IMPORTS) + len(LAYERS)


def test_what_is_converted_among_broken_plugins_is_exact(broken, source, tmp_path):
    assert run("convert", source, tmp_path / "b.safetensors", "--to", "flax").code == 0
    made = load_file(tmp_path / "b.safetensors")
    assert made["fc.kernel"].tobytes() == np.ascontiguousarray(WEIGHT.T).tobytes()
    assert made["fc.bias"].tobytes() == BIAS.tobytes()


def test_the_list_names_them_all_and_why(broken):
    result = run("plugins", "--json")
    document = json.loads(result.out)
    assert result.code == 0
    assert not warned(result.err)
    failed = {failure["distribution"]: failure for failure in document["failures"]}
    assert failed["broken-exit"].pop("reason").startswith("SystemExit: 0")
    assert failed["broken-exit"] == {
        "name": "broken_exit_plugin",
        "distribution": "broken-exit",
        "version": "2.5",
    }
    assert failed["broken-transform"]["hook"] == "bridge_layer_transforms"
    (conflict,) = document["conflicts"]
    assert (conflict["what"], conflict["name"]) == ("format", "twin")
    assert [p["distribution"] for p in conflict["plugins"]] == ["broken-twin-a", "broken-twin-b"]
    text = run("plugins").out
    for name in BROKEN:
        assert f"({name} 2.5)" in text, name


def test_a_name_that_two_provide_can_be_used_once_one_is_disabled(broken, source, tmp_path):
    asked = ("convert", source, tmp_path / "b.twin", "--to", "flax", "--format", "twin")
    assert_refused(
        run(*asked), UsageError, "'twin'", "broken-twin-a", "2.5", "--disable-plugin broken-twin-b"
    )
    used = run(*asked, "--disable-plugin", "broken-twin-b")
    assert_refused(used, PluginError, "broken-twin-a", "2.5", "b.twin", "SystemExit")


@pytest.mark.parametrize("write", ["sys.exit(0)", "raise KeyError('x')", "raise GeneratorExit"])
def test_a_format_that_fails_to_write_leaves_nothing_behind(tmp_path, source, write):
    opened = "return FlatState({}, close=file.close)"
    site = install(tmp_path / "site", {"acme": format_source("acme", write=write, open=opened)})
    with installed(site):
        result = run("convert", source, tmp_path / "b.acme", "--to", "flax")
        assert_refused(result, PluginError, "acme", "2.5", "b.acme", "--disable-plugin acme")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "site"]


def test_a_file_of_a_format_that_cannot_look_is_refused_with_its_name(tmp_path):
    sources = {"acme": format_source("acme", sniff="raise ValueError('oh')")}
    (tmp_path / "x.acme").write_bytes(b"not of any other format")
    with installed(install(tmp_path / "site", sources)):
        result = run("inspect", tmp_path / "x.acme")
    assert_refused(result, PluginError, "'acme'", "2.5", "x.acme", "ValueError: oh", "--disable-plugin acme")
    assert not warned(result.err)


def test_a_file_that_only_a_greedy_format_claims_is_refused_with_its_name(broken, tmp_path):
    (tmp_path / "x.dat").write_bytes(b"not of any other format")
    named = ("x.dat", "greedy", "2.5", "RuntimeError: not mine", "--disable-plugin broken-greedy")
    assert_refused(run("inspect", tmp_path / "x.dat"), MalformedFile, *named)
    without = run("inspect", tmp_path / "x.dat", "--disable-plugin", "all")
    assert_refused(without, MalformedFile, "x.dat", "safetensors", "npz")
    assert "broken-greedy" not in without.err


def test_a_greedy_formats_own_error_names_the_way_without_it(tmp_path):
    opened = "from bridge_core import MalformedFile; raise MalformedFile('is bad.', path=file.name)"
    sources = {"acme": format_source("acme", sniff="return True", open=opened)}
    (tmp_path / "x.dat").write_bytes(b"not of any other format")
    named = ("x.dat", "is bad.", "acme", "2.5", "--disable-plugin acme")
    with installed(install(tmp_path / "site", sources)), refused(MalformedFile, *named):
        bridge_core.open_state(tmp_path / "x.dat")


def test_a_library_that_exits_is_named_and_can_be_left_out(broken, tmp_path):
    save_file({"fc.weight": WEIGHT, "fc.bias": BIAS}, tmp_path / "model.safetensors")
    ways = ("--model none", "--disable-plugin broken-library")
    assert_refused(
        run("plan", tmp_path, "--to", "flax"), PluginError, "broken-library", "2.5", "no licence", *ways
    )
    for way in ways:
        assert run("plan", tmp_path, "--to", "flax", *way.split()).code == 0


@pytest.mark.parametrize(
    "command", [("inspect",), ("plan", "--to", "flax"), ("convert", "--to", "flax", "OUT")]
)
def test_a_file_system_that_exits_is_named_and_shows_no_password(broken, tmp_path, command):
    first, *more = (str(tmp_path / "b.npz") if word == "OUT" else word for word in command)
    given = (first, "strange://me:hunter2@host/w.npz?sign=abc123", *more)
    named = ("strange://host/w.npz", "broken-filesystem", "2.5", "no licence", "--disable-plugin")
    result = run(*given)
    assert_refused(result, PluginError, *named)
    assert not [secret for secret in ("hunter2", "abc123") if secret in result.err + result.out]
    without = run(*given, "--disable-plugin", "broken-filesystem")
    assert_refused(without, UsageError, "no file system has strange:// URLs")
    assert not list(tmp_path.iterdir())


def test_live_objects_convert_beside_a_framework_that_fails(broken):
    layer = torch.nn.Linear(2, 3)
    named = ("broken-framework", "2.5", "strange.accepts", "SystemExit")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        neutral = bridge_torch.to_neutral(layer)
        for _ in range(2):
            with refused(UsageError, "set", "flax", "torch", "strange"):
                bridge_core.to_neutral({1}, framework="torch")
    assert sum(all(thing in str(warning.message) for thing in named) for warning in seen) == 1
    assert torch.equal(torch.from_numpy(np.array(neutral["kernel"])), layer.weight.detach().T)


STEALS = """
import sys
from bridge_core import FlatState, hookimpl

class Steals:
    name = "steals"
    collections = {}
    default_format = "npz"
    def owns(self, names):
        return False
    def accepts(self, value):
        return type(value) is set
    def state(self, value):
        BODY
    def build(self, state, like):
        sys.exit(1)

@hookimpl
def bridge_frameworks():
    return [Steals()]
"""


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("sys.exit(0)", ("SystemExit",)),
        ("return {}", ("TypeError", "dict")),
        ("raise KeyError('x')", ("KeyError: 'x'",)),
    ],
)
def test_a_framework_whose_code_fails_is_named(tmp_path, body, named):
    site = install(tmp_path / "site", {"acme": STEALS.replace("BODY", body)})
    with installed(site), refused(PluginError, "steals", "acme", "2.5", "set", *named):
        bridge_core.to_neutral({1}, framework="steals")
    with installed(site), refused(PluginError, "steals", "acme", "2.5", "SystemExit"):
        bridge_core.from_neutral({("w",): BIAS}, framework="steals", allow_unclaimed=True)


def test_a_framework_that_owns_all_names_is_named_where_the_layout_is_asked_for(tmp_path, source):
    greedy = STEALS.replace("return False", "return True").replace("return type(value) is set", "return True")
    with installed(install(tmp_path / "site", {"acme": greedy})):
        answer = run("plan", source, "--to", "flax")
        ways = ("--layout", "--disable-plugin acme")
        assert_refused(answer, UsageError, "a.safetensors", "torch", "steals", "acme", "2.5", *ways)
        assert run("plan", source, "--to", "flax", "--layout", "torch").code == 0
        assert run("plan", source, "--to", "flax", "--disable-plugin", "acme").code == 0
        layer = torch.nn.Linear(2, 3)
        assert np.array_equal(bridge_torch.to_neutral(layer)["bias"], layer.bias.detach().numpy())


READS_WRONG = """import numpy as np
from bridge_core import TensorSpec
from bridge_core.state import LazyTensor
def read(region):
    READ
"""


@pytest.mark.parametrize(
    ("read", "named"),
    [
        ("import sys; sys.exit(0)", ("SystemExit: 0",)),
        ("raise IndexError('lost')", ("IndexError: lost",)),
        ("return np.zeros(2, 'f4')", ("float32[3]", "float32[2]")),
        ("return np.zeros(3, 'f8')", ("float32[3]", "float64[3]")),
        ("return [0.0, 0.0, 0.0]", ("float32[3]", "list")),
    ],
)
def test_a_tensor_that_a_plugin_reads_wrongly_names_it(tmp_path, read, named):
    opened = (
        "return FlatState({'w': LazyTensor(TensorSpec((3,), np.dtype('f4')), read)}, layout='neutral', "
        "close=file.close)"
    )
    source = READS_WRONG.replace("READ", read) + format_source("acme", sniff="return True", open=opened)
    (tmp_path / "x.acme").write_bytes(b"0123456789")
    named = ("x.acme", "acme", "2.5", *named, "--disable-plugin acme")
    with installed(install(tmp_path / "site", {"acme": source})):
        with (
            bridge_core.open_state(tmp_path / "x.acme") as state,
            refused(MalformedFile, *named, key=("w",)),
        ):
            state["w"]
        result = run("convert", tmp_path / "x.acme", tmp_path / "b.npz", "--to", "neutral")
        assert_refused(result, MalformedFile, "'w'", *named)
    assert not (tmp_path / "b.npz").exists()


# -- adding and disabling ---------------------------------------------------------------------------


def test_a_plugin_of_the_current_folder_is_added_before_or_after_the_command(tmp_path, monkeypatch, source):
    helper = "def opened(file):\n    from bridge_core import FlatState\n    return FlatState({'w': [1.0]}, "
    (tmp_path / "acme_helper.py").write_text(helper + "layout='neutral', close=file.close)\n")
    body = "import acme_helper; return acme_helper.opened(file)"
    (tmp_path / "acme_added.py").write_text(format_source("added", sniff="return True", open=body))
    (tmp_path / "x.added").write_bytes(b"0123456789")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        assert run("inspect", "x.added").code == 3
        for args in (
            ("--plugin", "acme_added", "inspect", "x.added", "--json"),
            ("inspect", "x.added", "--json", "--plugin", "acme_added"),
        ):
            result = run(*args)
            assert result.code == 0, result.err
            assert json.loads(result.out)["format"] == "added"
        assert "acme_added (--plugin)" in run("plugins", "--plugin", "acme_added").out
    finally:
        for name in ("acme_added", "acme_helper"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("text", "error", "named"),
    [
        (None, UsageError, ("--plugin",)),
        ("raise ValueError('oh')", PluginError, ("ValueError: oh",)),
        ("import sys; sys.exit(0)", PluginError, ("SystemExit: 0",)),
        ("import no_such_module_of_its_own", PluginError, ("'no_such_module_of_its_own'",)),
        ("x = 1", PluginError, ("@hookimpl",)),
        (format_source("npz"), PluginConflict, ("'npz'", "--plugin", "ckptbridge")),
    ],
)
def test_an_added_plugin_that_fails_is_an_error(tmp_path, monkeypatch, source, text, error, named):
    if text is not None:
        (tmp_path / "acme_wrong.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        result = run("inspect", source, "--plugin", "acme_wrong")
    finally:
        sys.modules.pop("acme_wrong", None)
    assert_refused(result, error, "acme_wrong", *named)
    assert not result.out


@pytest.mark.parametrize("name", ["acme-dist", "ACME.Dist", "acme_dist_plugin", "acme_dist", "all", "*"])
@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_plugin_is_disabled_by_any_of_its_names_without_importing_it(tmp_path, monkeypatch, name, how):
    site = install(tmp_path / "site", {"acme-dist": "raise SystemError('imported')"})
    with installed(site):
        if how == "environment":
            monkeypatch.setenv("CKPTBRIDGE_DISABLE_PLUGINS", f"nothing-such, {name},")
            registry = default_registry()
        else:
            registry = loaded_registry(disabled=[name])
    assert not registry.failures
    assert "acme-dist" in [plugin.distribution for plugin in registry.disabled]
    assert {"torch", "flax"} <= set(registry.frameworks)
    assert ("hdf5" in registry.formats) == (name not in ("all", "*"))


@pytest.mark.parametrize("name", ["torch", "bridge_core", "ckptbridge", "bridge-flax"])
def test_what_ckptbridge_consists_of_cannot_be_disabled(name, monkeypatch):
    with refused(UsageError, "--disable-plugin", name):
        loaded_registry(disabled=[name])
    monkeypatch.setenv("CKPTBRIDGE_DISABLE_PLUGINS", name)
    assert {"torch", "flax"} <= set(loaded_registry().frameworks)


def test_a_name_that_no_plugin_has_is_refused_with_the_nearest(tmp_path):
    with installed(install(tmp_path / "site", {"acme-dist": LIBRARY})):
        result = run("plugins", "--disable-plugin", "acme-dits")
    assert_refused(result, UsageError, "acme-dits", "'acme-dist'")


def test_a_disabled_plugin_is_listed(tmp_path, source):
    with installed(install(tmp_path / "site", {"acme-dist": LIBRARY})):
        result = run("plugins", "--json", "--disable-plugin", "acme-dist")
        assert json.loads(result.out)["disabled"] == [
            {"name": "acme_dist_plugin", "distribution": "acme-dist", "version": "2.5"}
        ]
        assert (
            "disabled:\n  acme_dist_plugin (acme-dist 2.5)\n"
            in run("plugins", "--disable-plugin", "acme-dist").out
        )


def test_what_a_plugin_does_to_the_filters_of_warnings_ends_with_its_import(tmp_path):
    sources = {"acme": f"import warnings\nwarnings.simplefilter('error')\n{LIBRARY}", "bcme": "1 / 0"}
    with installed(install(tmp_path / "site", sources)), warnings.catch_warnings():
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
            default_registry()
        assert warnings.filters == before


def test_an_interrupt_is_not_a_plugins_failure(tmp_path):
    with (
        installed(install(tmp_path / "site", {"acme": "raise KeyboardInterrupt"})),
        pytest.raises(KeyboardInterrupt),
    ):
        default_registry()


def test_a_model_that_exits_is_an_error_and_nothing_is_written(tmp_path, monkeypatch, source):
    (tmp_path / "exits_at_once.py").write_text("import sys\ndef make():\n    sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    result = run("convert", source, tmp_path / "b.msgpack", "--to", "flax", "--model", "exits_at_once:make")
    assert_refused(result, UsageError, "exits_at_once:make", "SystemExit: 0")
    assert not (tmp_path / "b.msgpack").exists()


def test_in_a_process_of_its_own_the_exit_code_is_that_of_the_command(site, source, tmp_path):
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bridge_core.cli",
            "convert",
            source,
            tmp_path / "b.npz",
            "--to",
            "flax",
            "--json",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == [str(tmp_path / "b.npz")]
    assert done.stderr.count("printed while it was imported") == 1
    assert (tmp_path / "b.npz").is_file()
