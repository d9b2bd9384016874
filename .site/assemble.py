"""Assembles the site's sources in .site/out: docs/ with its links made to fit, and the Python reference."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

from reference import Reference

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / ".site"
DOCS = ROOT / "docs"
BUILD = HERE / "out"

LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s]+)(?P<after>\))")
FENCE = re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2`*~*[ ]*$", re.DOTALL | re.MULTILINE)


def addresses() -> tuple[str, str]:
    """Return where the project's files are read, and where the site is."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    return urls["Repository"].rstrip("/"), f"{urls['Documentation'].rstrip('/')}/"


def outside_prose(text: str) -> list[tuple[str, bool]]:
    """Split a page into parts, each with whether it is a block of code."""
    parts, at = [], 0
    for fence in FENCE.finditer(text):
        parts += [(text[at : fence.start()], False), (fence[0], True)]
        at = fence.end()
    return [*parts, (text[at:], False)]


def rewritten(page: Path, text: str, repository: str, site: str) -> str:
    """Return a page's text, where each link leads to another page, or to a file of the repository.

    On GitHub the Python reference, which only the site has, is linked to by the site's address.
    """

    def target(match: re.Match[str]) -> str:
        name, sign, anchor = match["target"].partition("#")
        if name.startswith(site):
            place = name.removeprefix(site)
            place = f"{place}README.md" if place.endswith("/") else f"{place[:-5] or 'index'}.md"
            return (
                f"{match['before']}{os.path.relpath(DOCS / place, page.parent)}{sign}{anchor}{match['after']}"
            )
        if not name or re.match(r"[a-z]+:", name):
            return match[0]
        path = (page.parent / name).resolve()
        if path.is_dir() and path.is_relative_to(DOCS) and (path / "README.md").exists():
            return f"{match['before']}{name.rstrip('/')}/README.md{sign}{anchor}{match['after']}"
        if path.is_file() and path.is_relative_to(DOCS):
            return match[0]
        if not path.exists():
            raise SystemExit(f"{page.relative_to(ROOT)}: {match['target']} does not exist")
        kind = "tree" if path.is_dir() else "blob"
        place = path.relative_to(ROOT).as_posix()
        return f"{match['before']}{repository}/{kind}/main/{place}{sign}{anchor}{match['after']}"

    parts = outside_prose(text)
    return "".join(part if code else LINK.sub(target, part) for part, code in parts)


def in_navigation(entries: object) -> set[str]:
    """Return the pages that a navigation names."""
    if isinstance(entries, str):
        return {entries}
    values = entries.values() if isinstance(entries, dict) else entries
    return {page for entry in values for page in in_navigation(entry)}  # type: ignore[attr-defined]


def main() -> None:
    """Fill .site/out/docs, and refuse pages that the navigation does not name."""
    configuration = tomllib.loads((HERE / "zensical.toml").read_text(encoding="utf-8"))
    reference = {f"reference/{name}": text for name, text in Reference().pages().items()}
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")} | reference.keys()
    named = in_navigation(configuration["project"]["nav"])
    wrong = [f"{page}: is not in the navigation of .site/zensical.toml" for page in sorted(pages - named)]
    wrong += [f"{page}: is in the navigation, and does not exist" for page in sorted(named - pages)]
    if wrong:
        sys.exit("\n".join(wrong))
    for name in ("docs", "site", ".cache"):
        shutil.rmtree(BUILD / name, ignore_errors=True)
    shutil.copytree(DOCS, BUILD / "docs")
    (BUILD / "docs" / "reference").mkdir()
    for name, text in reference.items():
        (BUILD / "docs" / name).write_text(text, encoding="utf-8")
    for path in DOCS.rglob("*.md"):
        text = rewritten(path, path.read_text(encoding="utf-8"), *addresses())
        (BUILD / "docs" / path.relative_to(DOCS)).write_text(text, encoding="utf-8")
    for name in ("site.css", "file-worker.js"):
        shutil.copy(HERE / name, BUILD / "docs" / name)
    shutil.copy(HERE / "zensical.toml", BUILD)


if __name__ == "__main__":
    main()
