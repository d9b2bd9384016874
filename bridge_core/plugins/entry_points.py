"""Entry points of installed distributions, found without loading any of them.

`importlib.metadata` reads the same files, but importing it takes longer than a small conversion's own work,
and only one group of names is asked for.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EntryPoint", "entry_points"]

_ENDINGS = (".dist-info", ".egg-info")
_SEPARATORS = re.compile(r"[-_.]+")


@dataclass(frozen=True)
class EntryPoint:
    """One name that an installed distribution offers.

    Args:
        name: Its name in the group.
        value: ``"package.module"``, or ``"package.module:attribute"``.
        distribution: Name of the distribution.
        version: Its version.
    """

    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> Any:
        """Import what it names; whatever that raises comes through."""
        module, _, attribute = self.value.partition("[")[0].partition(":")
        loaded: Any = importlib.import_module(module.strip())
        for part in filter(None, attribute.strip().split(".")):
            loaded = getattr(loaded, part)
        return loaded


def entry_points(group: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, those of the core's own distribution first, then by name.

    Of two installations of one distribution the first on ``sys.path`` counts, as everywhere in Python.
    """
    folders = tuple(map(Path, dict.fromkeys(sys.path)))
    in_archives = any(folder.is_file() for folder in folders)  # a zip file on the path
    found = _by_metadata(group) if in_archives else _in_folders(folders, group)
    return tuple(sorted(found, key=lambda point: (point.distribution != "ckptbridge", point.name)))


def _in_folders(folders: Iterable[Path], group: str) -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for folder in folders:
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(_ENDINGS))
        except OSError:
            continue
        for name in names:
            distribution = _SEPARATORS.sub("-", name.partition("-")[0]).lower()
            if distribution not in seen:
                seen.add(distribution)
                yield from _of_distribution(folder / name, group)


def _of_distribution(folder: Path, group: str) -> Iterator[EntryPoint]:
    header = f"[{group}]"
    try:
        text = (folder / "entry_points.txt").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return
    if header not in text:
        return
    distribution, version = _name_and_version(folder)
    within = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            within = line == header
        elif within and "=" in line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield EntryPoint(name.strip(), value.strip(), distribution, version)


def _name_and_version(folder: Path) -> tuple[str, str]:
    """Return the distribution's name and version by its metadata; its folder's name may differ."""
    known = {"Name": "(unknown distribution)", "Version": ""}
    for file_name in ("METADATA", "PKG-INFO"):
        try:
            with (folder / file_name).open(encoding="utf-8") as file:
                for line in file:
                    name, colon, value = line.partition(":")
                    if not colon:
                        break
                    if name in known:
                        known[name] = value.strip()
        except (OSError, UnicodeDecodeError):
            continue
    return known["Name"], known["Version"]


def _by_metadata(group: str) -> Iterator[EntryPoint]:
    from importlib import metadata

    for point in metadata.entry_points(group=group):
        known = (point.dist.name, point.dist.version) if point.dist else ("(unknown distribution)", "")
        yield EntryPoint(point.name, point.value, *known)
