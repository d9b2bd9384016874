"""The order in which a model runs its layers, as far as names and their order show it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping

from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.state import FlatState, Key, module_path

__all__ = ["is_sorted", "natural_order", "running_order"]

_NUMBER = re.compile(r"([0-9]{1,9})")


def running_order(
    layers: Mapping[Key, NeutralLayer], like: FlatState | None, targets: Mapping[Key, Key]
) -> list[Key]:
    """Return the paths of layers in the order in which they most likely run.

    A source has the order in which its model made its layers, unless a tool sorted it by name, as many do.
    Then the order of a template counts, if it has one.

    Args:
        layers: Path -> layer of the source, in its order.
        like: The template, if there is one.
        targets: Source path -> path in the template.
    """
    ordered = list(layers)
    # Collections may list norms separately, so that norms do not show the order.
    wide = (
        path for path, layer in layers.items() if any(len(s.shape) > 1 for s in layer.group.specs.values())
    )
    if not is_sorted(wide) or like is None:
        return ordered
    modules = list(like.metadata.modules) or list(dict.fromkeys(map(module_path, like)))
    if is_sorted(modules):
        return ordered
    places: dict[Key, int] = {}
    for place, path in enumerate(modules):
        for depth in range(len(path), 0, -1):
            places.setdefault(path[:depth], place)

    def place_of(path: Key) -> int:
        path = targets.get(path, path)
        return next((places[path[:n]] for n in range(len(path), 0, -1) if path[:n] in places), len(modules))

    return sorted(ordered, key=place_of)


def is_sorted(paths: Iterable[Key]) -> bool:
    """Return whether the order of paths is that of their names, so that it does not show the model's."""
    given = list(paths)
    # A module's own leaves are sorted among its children, so that its path may be anywhere between theirs.
    parents = {path[:depth] for path in given for depth in range(len(path))}
    given = [path for path in given if path not in parents]
    if all(one <= other for one, other in itertools.pairwise(given)):
        return True
    return all(one <= other for one, other in itertools.pairwise(map(_natural, given)))


def natural_order(paths: Iterable[Key]) -> list[Key]:
    """Return paths sorted by name, with the numbers in them as numbers.

    >>> natural_order([("conv10",), ("conv2",)])
    [('conv2',), ('conv10',)]
    """
    return sorted(paths, key=_natural)


def _natural(path: Key) -> list[list[tuple[int, int, str]]]:
    return [
        [(0, int(text), "") if i % 2 else (1, 0, text) for i, text in enumerate(_NUMBER.split(part))]
        for part in path
    ]
