"""Which format a file is given to, where formats of other plugins claim what they should not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from support.errors import refused
from support.strange_plugins import format_source, install, installed

from bridge_core import (
    Capabilities,
    FlatState,
    MalformedFile,
    UsageError,
    default_registry,
    hookimpl,
    open_state,
    save_state,
)
from bridge_core.cli import main

VALUES = {("layer", "kernel"): np.arange(12, dtype="f4").reshape(3, 4), ("layer", "bias"): np.ones(4, "f4")}


def foreign(name, *extensions, claims=lambda _file: True):
    """A format of another plugin; what it opens holds one tensor, named as the format."""

    class Foreign:
        layout = "neutral"
        names = None
        capabilities = Capabilities(
            lazy=True, sliceable=True, streaming_write=True, dtypes=frozenset({"float32"}), metadata=False
        )

        def __init__(self):
            self.name, self.extensions = name, extensions

        def sniff(self, file):
            return claims(file)

        def open(self, file):
            return FlatState({name: np.ones(1, "f4")}, layout="neutral", close=file.close)

        def write(self, state, target):
            target.path.write_bytes(b"written")

    return Foreign()


def with_formats(*formats):
    registry = default_registry()
    for added in formats:
        plugin = SimpleNamespace(bridge_formats=hookimpl(lambda added=added: [added]))
        registry = registry.extend(plugin, name=f"{added.name}-plugin", distribution=f"{added.name}-dist")
    return registry


def used(path, registry):
    with open_state(path, registry=registry) as state:
        return state.metadata.provenance["format"]


@pytest.fixture
def stored(tmp_path):
    """Write neutral weights under a name, in a format of ckptbridge's own."""

    def store(name, format="safetensors"):
        save_state(VALUES, tmp_path / name, format=format, layout="neutral")
        return tmp_path / name

    return store


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.safetensors", "safetensors"),
        ("a.npz", "npz"),
        ("a.pt", "torch"),
        ("a", "safetensors"),
        ("a.other", "npz"),
    ],
)
def test_a_format_that_claims_everything_gets_no_file_of_ckptbridges(stored, name, format):
    path = stored(name, format)
    assert used(path, with_formats(foreign("greedy", ".greedy"))) == format
    assert (
        used(path, with_formats(foreign("greedy", *default_registry().format(format).extensions))) == format
    )


@pytest.mark.parametrize(
    ("extension", "name", "wanted"),
    [
        (".acme", "a.acme", "acme"),
        (".acme", "a.ACME", "acme"),
        (".acme", "a.npz", "npz"),
        (".acme", "a", "npz"),
        (".acme.npz", "a.acme.npz", "acme"),
        (".acme.npz", "a.npz", "npz"),
    ],
)
def test_the_longer_extension_decides_between_a_container_and_what_is_built_on_it(
    stored, extension, name, wanted
):
    is_zip = foreign("acme", extension, claims=lambda file: file.read(0, 4) == b"PK\3\4")
    assert used(stored(name, "npz"), with_formats(is_zip)) == wanted


def test_what_does_not_claim_a_file_never_gets_it_by_its_extension(stored):
    registry = with_formats(foreign("acme", ".acme", claims=lambda _file: False))
    assert used(stored("a.acme"), registry) == "safetensors"


@pytest.mark.parametrize("name", ["a.one", "a.any"])
def test_several_foreign_formats_that_claim_one_file_are_an_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"of no format of ckptbridge")
    registry = with_formats(foreign("one", ".one"), foreign("two", ".two"))
    with refused(MalformedFile, tmp_path / name, "one, two", hint=("--format", "--disable-plugin two-dist")):
        open_state(tmp_path / name, registry=registry)
    with open_state(tmp_path / name, registry=registry, format="two") as state:
        assert list(state) == [("two",)]


def test_several_foreign_formats_with_an_extension_of_their_own_are_an_error(stored):
    path = stored("a.acme", "npz")
    registry = with_formats(foreign("one", ".acme"), foreign("two", ".acme"), foreign("greedy", ".greedy"))
    with refused(MalformedFile, path, "2 formats", "one, two."):
        open_state(path, registry=registry)


def test_a_foreign_format_takes_no_extension_of_ckptbridges_for_writing(tmp_path):
    registry = with_formats(foreign("acme", ".npz", ".acme"), foreign("bcme", ".acme", ".bcme"))
    assert save_state(VALUES, tmp_path / "a.npz", layout="neutral", registry=registry).format == "npz"
    with refused(UsageError, "'a.acme'", "acme, bcme", hint=("format=", "--format")):
        save_state(VALUES, tmp_path / "a.acme", layout="neutral", registry=registry)


@pytest.mark.parametrize("claims", ["return True", "raise ValueError('oh')"])
def test_sharded_sets_and_folders_are_read_beside_a_format_that_claims_or_fails(tmp_path, claims):
    save_state(VALUES, tmp_path / "set", max_shard_size=48, layout="neutral")
    (tmp_path / "odd").mkdir()
    save_state(VALUES, tmp_path / "odd" / "my-weights.safetensors", layout="neutral")
    (tmp_path / "odd" / "README.md").write_text("no weights, but a text that is long enough")
    site = install(tmp_path / "site", {"acme": format_source("acme", sniff=claims)})
    reported = ""
    with installed(site):
        for folder in ("set", "odd"):
            result = CliRunner().invoke(main, ["inspect", str(tmp_path / folder), "--json"])
            assert result.exit_code == 0, result.stderr
            tensors = json.loads(result.stdout)["tensors"]
            assert tensors.keys() == {"layer.kernel", "layer.bias"}
            assert len({tensor["file"] for tensor in tensors.values()}) == (2 if folder == "set" else 1)
            reported += result.stderr
    assert reported.count("acme.sniff was left out") == ("raise" in claims)
