"""Links of the documents: each relative one points to a file that exists, and to a heading in it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = (".", ".github", "benchmarks", "docs", "docs/*", "plugins/*", "tests/data", "tests/data/*")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
PACKAGES = ("", "bridge_core", "bridge_torch", "bridge_flax")


def prose(path: Path) -> str:
    """Return a document's text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ +(.*)$", prose(path), flags=re.MULTILINE)
    words = (re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings)
    return frozenset(text.replace(" ", "-") for text in words)


def links(path: Path) -> list[str]:
    """Return the link targets of a document that are not addresses."""
    targets = re.findall(r"\]\(<?([^)>\s]+)>?\)", prose(path))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def broken_links(path: Path) -> list[str]:
    """Return the link targets of a document that do not exist."""
    broken = []
    for target in links(path):
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    return broken


def test_the_documents_are_there():
    assert {"README.md", "CHANGELOG.md"} <= {path.name for path in DOCUMENTS}
    assert sum(len(links(path)) for path in DOCUMENTS) > 50


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_point_to_files_and_headings_that_exist(path):
    assert broken_links(path) == []


def test_a_broken_link_is_found(tmp_path):
    document = tmp_path / "a.md"
    document.write_text(
        "# One `two`, three\n[a](#one-two-three) [b](#four) [c](b.md) [d](https://example.org)\n"
    )
    assert broken_links(document) == ["#four", "b.md"]


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/security.md", "docs/contributing.md"])
def test_source_files_that_are_named_exist(name):
    text = prose(ROOT / name)
    paths = re.findall(r"`([\w.]+(?:/[\w.-]+)*/(?:[\w-]+\.(?:py|md|json|toml))?)`", text)
    packages = [ROOT / package for package in PACKAGES]
    missing = [path for path in paths if not any((package / path).exists() for package in packages)]
    assert paths
    assert missing == []
    folders = (*PACKAGES[1:], "benchmarks", "plugins", "tests")
    modules = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert {name for name in re.findall(r"`(\w+\.py)`", text)} <= modules
