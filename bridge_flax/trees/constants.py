"""Which leaves of a model are not weights: constants that it computes itself, such as rotary frequencies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from bridge_core import Key
from bridge_core.state import ModuleInfo

__all__ = ["with_constants"]


def with_constants(modules: Mapping[Key, ModuleInfo], keys: Iterable[Key]) -> dict[Key, ModuleInfo]:
    """Return the modules, with the setting ``constants`` where they own some.

    Args:
        modules: What is known of each module.
        keys: The keys of the constants, without collections.
    """
    own: dict[Key, list[str]] = {}
    for key in keys:
        path = next((key[:depth] for depth in range(len(key) - 1, -1, -1) if key[:depth] in modules), None)
        if path is not None:
            own.setdefault(path, []).append(".".join(key[len(path) :]))
    return {
        path: dataclasses.replace(info, settings={**info.settings, "constants": tuple(own[path])})
        if path in own
        else info
        for path, info in modules.items()
    }
