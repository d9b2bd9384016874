"""The order in which a model runs its layers, as far as names and their order show it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.state import FlatState, Key, module_path, natural_order

__all__ = ["is_sorted", "running_order"]


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
    return all(one <= other for one, other in itertools.pairwise(map(natural_order, given)))
