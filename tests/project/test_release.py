"""What a release needs, as far as that can be seen without building: versions, ranges, the workflow."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = {"ckptbridge": ROOT, **{path.name: path for path in sorted(ROOT.glob("plugins/*"))}}
PROJECTS = {
    name: tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))
    for name, place in PLACES.items()
}
WORKFLOWS = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob(".github/workflows/*.yml")}


@pytest.mark.parametrize("name", PLACES)
def test_each_distribution_is_one_of_the_release(name):
    first, project = (PROJECTS[of]["project"] for of in ("ckptbridge", name))
    assert project["name"] == name
    for field in ("version", "license", "license-files", "requires-python", "urls"):
        assert project[field] == first[field], field
    assert first["urls"].keys() == {"Homepage", "Documentation", "Repository", "Changelog", "Issues"}
    assert (PLACES[name] / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("name", PLACES)
def test_our_distributions_ask_for_each_other_with_the_same_second_number(name):
    project = PROJECTS[name]["project"]
    major, minor, _ = map(int, project["version"].split("."))
    texts = [
        *project["dependencies"],
        *(text for more in project.get("optional-dependencies", {}).values() for text in more),
    ]
    ours = [
        text for text in texts if text.startswith("ckptbridge") and not (name == "ckptbridge" and "[" in text)
    ]
    assert ours
    for text in ours:
        assert text.endswith(f">={major}.{minor},<{major}.{minor + 1}"), text


@pytest.mark.parametrize("name", PLACES)
def test_links_of_the_readme_become_those_of_the_tag(name):
    hook = PROJECTS[name]["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    (change,) = hook["substitutions"]
    hub = PROJECTS[name]["project"]["urls"]["Repository"]
    place = "" if name == "ckptbridge" else f"plugins/{name}/"
    links = "[a](docs/x.md#y) [b](https://example.org/z) [c](#here) [d](\nx)"
    changed = re.sub(change["pattern"], change["replacement"], links)
    expected = f"{hub}/blob/v$HFPR_VERSION/{place}"
    assert changed == f"[a]({expected}docs/x.md#y) [b](https://example.org/z) [c](#here) [d]({expected}\nx)"


def test_every_plugin_is_an_extra():
    extras = PROJECTS["ckptbridge"]["project"]["optional-dependencies"]
    for name in PLACES.keys() - {"ckptbridge"}:
        assert [re.split("[>[]", text)[0] for text in extras[name.removeprefix("ckptbridge-")]] == [name]


def test_the_workflow_publishes_every_distribution():
    listed = re.findall(r"^ +- (ckptbridge\w*)$", WORKFLOWS["release.yml"], flags=re.MULTILINE)
    assert listed == [name.replace("-", "_") for name in PLACES]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_those_of_a_commit(name):
    used = re.findall(r"uses: (.*)", WORKFLOWS[name])
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", action), action


CHANGES = """# Changelog

## 0.2.0 (2027-01-31)

- More, see [rules](docs/rules.md).

### Formats

- [One](https://example.org)

## 0.1.0

First.
"""


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("v0.1.0", "First."),
        (
            "v0.2.0",
            "- More, see [rules](https://github.com/ckptbridge/ckptbridge/blob/v0.2.0/docs/rules.md).\n\n"
            "### Formats\n\n- [One](https://example.org)",
        ),
        ("v0.2", None),
    ],
)
def test_the_notes_are_the_section_of_the_changelog(tmp_path, tag, expected):
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci/release_notes", tmp_path / ".ci")
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    done = subprocess.run([sys.executable, script, tag], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == ((0, expected) if expected else (1, ""))
