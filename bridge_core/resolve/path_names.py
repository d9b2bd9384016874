"""The names of layer paths, without the ways in which frameworks number the items of a list."""

from __future__ import annotations

import functools
import re

from bridge_core.state import Key

__all__ = ["DEPTH", "normal_form", "renamed"]

DEPTH = 4
"""How many parts a prefix has at most."""

_NUMBERED = re.compile(r"(.+)_(\d+)")


def renamed(path: Key, removed: Key, added: Key) -> Key:
    """Return the normal form of a path, a prefix exchanged for another; unchanged without that prefix."""
    name = normal_form(path)
    if removed:
        if name[: len(removed)] != removed:
            return name
        name = name[len(removed) :]
    return added + name


@functools.lru_cache(maxsize=1 << 18)
def normal_form(path: Key) -> Key:
    """Return the path with list indices as parts of their own.

    >>> normal_form(("layers_0", "Dense_12"))
    ('layers', '0', 'Dense', '12')
    """
    parts: list[str] = []
    for part in path:
        tail: list[str] = []
        while match := _NUMBERED.fullmatch(part):
            part = match[1]
            tail.append(match[2])
        parts.append(part)
        parts.extend(reversed(tail))
    return tuple(parts)
