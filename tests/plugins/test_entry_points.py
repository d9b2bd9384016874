"""Entry points: the same as Python's own library finds, without importing it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from zipfile import ZipFile

import pytest

from bridge_core.plugins.entry_points import entry_points


def by_metadata(group):
    found = metadata.entry_points(group=group)
    return {(point.name, point.value, point.dist.name, point.dist.version) for point in found}


def found_in(group):
    return {(p.name, p.value, p.distribution, p.version) for p in entry_points(group)}


def distribution(folder, name, version, *lines, info="dist-info", document="METADATA"):
    place = folder / f"{name.replace('-', '_')}-{version}.{info}"
    place.mkdir(parents=True)
    (place / document).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\ntext: x\n")
    (place / "entry_points.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("group", ["ckptbridge", "console_scripts", "pytest11", "nothing.of.this.name"])
def test_what_is_installed_here(group):
    assert found_in(group) == by_metadata(group)


def test_own_names_come_first_and_the_others_in_order():
    names = [point.name for point in entry_points("ckptbridge")]
    assert names[:2] == ["flax", "torch"]
    assert names[2:] == sorted(names[2:])


def test_the_first_of_two_installations_counts(tmp_path, monkeypatch):
    one, two = tmp_path / "one", tmp_path / "two"
    distribution(one, "my-dist", "2.0", "[some]", "a = first:thing", "[other]", "b = x")
    distribution(two, "My.Dist", "1.0", "[some]", "a = second", "c = second")
    distribution(
        two,
        "old",
        "1",
        "# a note",
        "[ckptbridge]",
        "[some]",
        "# d = no",
        "e=old",
        info="egg-info",
        document="PKG-INFO",
    )
    monkeypatch.setattr(sys, "path", [str(one), str(two), str(tmp_path / "missing"), str(one)])
    assert found_in("some") == {("a", "first:thing", "my-dist", "2.0"), ("e", "old", "old", "1")}
    assert found_in("some") == by_metadata("some")


def test_what_is_named_is_loaded(tmp_path, monkeypatch):
    distribution(tmp_path, "d", "1", "[some]", "a = json.decoder:JSONDecoder.decode [extra]", "b = json")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    import json

    first, second = entry_points("some")
    assert first.load() is json.JSONDecoder.decode
    assert second.load() is json


def test_an_archive_on_the_path_is_looked_into(tmp_path, monkeypatch):
    with ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("zipped-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1\n")
        archive.writestr("zipped-1.dist-info/entry_points.txt", "[some]\nz = zipped\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "a.zip")])
    assert found_in("some") == {("z", "zipped", "zipped", "1")}


def test_the_library_is_not_imported_for_it():
    code = (
        "import sys\nfrom bridge_core.plugins.entry_points import entry_points\n"
        "assert entry_points('ckptbridge')\nassert 'importlib.metadata' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
