#!/usr/bin/env python3
"""Checks what the wheels and sdists of all distributions contain; `.ci/release` runs it.

    python .ci/release_check.py DIST FROM_TREE [TAG]

DIST has a wheel and an sdist of each distribution, FROM_TREE the wheels that were built without an sdist.
Every difference is printed; the exit code is 1 if there is one.
"""

from __future__ import annotations

import email
import email.message
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version
from readme_renderer import markdown

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"ckptbridge": ROOT, **{place.name: place for place in sorted(ROOT.glob("plugins/*"))}}
URLS = {"Homepage", "Documentation", "Repository", "Changelog", "Issues"}
NEVER = re.compile(r"(^|/)(tests?|__pycache__|build|dist|node_modules|\.[^/]+)(/|$)|\.(pyc|pyo|orig|rej)$|~$")


def tracked(place: Path, *below: str) -> set[str]:
    """Return the paths below ``place`` of the files in git; new ones that are not ignored count, too."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *below]
    listed = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if name and (place / name).exists()}


def contents(wheel: Path) -> dict[str, bytes]:
    """Return name -> bytes of everything in a wheel but the list of its own files."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/RECORD")]
        return {name: archive.read(name) for name in names}


def sdist_contents(path: Path) -> dict[str, bytes]:
    """Return name -> bytes of the files of an sdist, without its folder."""
    with tarfile.open(path) as archive:
        files = [member for member in archive if member.isfile()]
        return {
            member.name.partition("/")[2]: stream.read()
            for member in files
            if (stream := archive.extractfile(member))
        }


def different(what: str, expected: set[str], got: set[str]) -> Iterator[str]:
    """Yield the names that only one of two sets has."""
    if missing := expected - got:
        yield f"{what} does not have {', '.join(sorted(missing))}"
    if more := got - expected:
        yield f"{what} has {', '.join(sorted(more))}, which should not be there"


def check_files(name: str, project: dict, wheel: dict[str, bytes], sdist: dict[str, bytes]) -> Iterator[str]:
    """Yield what is wrong with the files: they are those in git with the licence, and no others."""
    place = PLACES[name]
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    expected = tracked(place, *packages)
    inside = {path for path in wheel if ".dist-info/" not in path}
    yield from different(f"the wheel of {name}", expected, inside)
    yield from (
        f"{name}: {path} differs in wheel and tree"
        for path in sorted(expected & inside)
        if wheel[path] != (place / path).read_bytes()
    )
    code = [path for path in sorted(inside) if not path.endswith(".template")]
    yield from (f"the wheel of {name} has {path}" for path in code if NEVER.search(path))
    yield from (
        f"{package}/py.typed of {name} is missing"
        for package in packages
        if f"{package}/py.typed" not in inside
    )
    made = {"PKG-INFO", "pyproject.toml", ".gitignore"}
    included = project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    listed = tracked(place, *(pattern.lstrip("/") for pattern in included))
    yield from different(f"the sdist of {name}", listed, set(sdist) - made)
    licence = (ROOT / "LICENSE").read_bytes()
    held = [data for path, data in wheel.items() if path.endswith(".dist-info/licenses/LICENSE")]
    if held != [licence] or sdist.get("LICENSE") != licence:
        yield f"{name} has another LICENSE than the project, or none"


def check_metadata(name: str, told: email.message.Message, version: str) -> Iterator[str]:
    """Yield what is wrong with the metadata that an index shows."""
    if told["Version"] != version:
        yield f"{name} has version {told['Version']}, and ckptbridge has {version}"
    labels = {url.partition(",")[0] for url in told.get_all("Project-URL", [])}
    yield from different(f"the project.urls of {name}", URLS, labels)
    yield from (
        f"{name} has no {field}"
        for field in ("Summary", "Keywords", "License-Expression", "Requires-Python")
        if not told[field]
    )
    if told["Requires-Python"] != ">=3.11":
        yield f"{name} asks for Python {told['Requires-Python']}"
    here = Version(version)
    for text in told.get_all("Requires-Dist", []):
        needed = Requirement(text)
        if needed.name.startswith("ckptbridge"):
            later = f"{here.major}.{here.minor + 1}.0"
            if here not in needed.specifier or needed.specifier.contains(later):
                yield f"{name} asks for {needed}; it must accept {version} and not {later}"
    yield from check_readme(name, str(told.get_payload()))


def check_readme(name: str, text: str) -> Iterator[str]:
    """Yield what is wrong with the long description: that it is not shown, or that a link leads nowhere."""
    shown = markdown.render(text)
    if not shown or "<h1" not in shown:
        yield f"the README of {name} is not rendered"
        return
    for link in re.findall(r'(?:href|src)="([^"]*)"', shown):
        if not link.startswith(("https://", "#", "mailto:")):
            yield f"the README of {name} links to {link!r}, which is nowhere on an index's page"


def check_changelog(version: str, tag: str | None) -> Iterator[str]:
    """Yield what is wrong with the first heading of CHANGELOG.md and with the tag."""
    headings = re.findall(r"^## +(\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if tag is not None and tag != f"v{version}":
        yield f"the tag {tag} is not v{version}, the version in pyproject.toml"
    if tag is not None and headings[:1] != [version]:
        yield f"CHANGELOG.md begins with {headings[:1]}; a release has a section '## {version} (DATE)'"
    if tag is None and headings[:1] not in (["Unreleased"], [version]):
        yield f"CHANGELOG.md begins with {headings[:1]}, not with 'Unreleased' or {version}"


def problems(dist: Path, from_tree: Path, tag: str | None) -> Iterator[str]:
    """Yield everything that is wrong."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    yield from check_changelog(version, tag)
    names = {f"{name.replace('-', '_')}-{version}" for name in PLACES}
    expected = {f"{name}{end}" for name in names for end in ("-py3-none-any.whl", ".tar.gz")}
    yield from different("the folder of distributions", expected, {path.name for path in dist.iterdir()})
    for name, place in PLACES.items():
        project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))
        file_name = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        if not (dist / file_name).exists():
            continue
        wheel, other = contents(dist / file_name), contents(from_tree / file_name)
        yield from different(f"the wheel from the sdist of {name}", set(other), set(wheel))
        yield from (
            f"{name}: {path} differs in the wheels from the sdist and from the tree"
            for path in sorted(set(wheel) & set(other))
            if wheel[path] != other[path]
        )
        sdist = sdist_contents(dist / f"{name.replace('-', '_')}-{version}.tar.gz")
        yield from check_files(name, project, wheel, sdist)
        metadata = next(data for path, data in wheel.items() if path.endswith(".dist-info/METADATA"))
        yield from check_metadata(name, email.message_from_bytes(metadata), version)


def main() -> int:
    """Print what is wrong; return the exit code."""
    dist, from_tree, *tag = sys.argv[1:]
    lines = list(problems(Path(dist), Path(from_tree), tag[0] if tag else None))
    print(*lines, sep="\n", file=sys.stderr) if lines else print(f"{len(PLACES)} wheels and sdists are right")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
