"""What a site has on both sides or on one: its weights, paired, and the children without a partner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bridge_core.proof.causes.measures import alignment, comparable
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["SIDES", "alone_children", "before", "name_of", "unpaired_weights", "usable_array", "weight_pairs"]

MAX_VALUES = 1 << 25
"""Arrays with more values are not looked at: 256 MiB in float64, and there are a few copies."""

SIDES = ("source", "target")

WeightPair = tuple[str, Array | None, Array | None, tuple[str, str]]


def usable_array(array: Array) -> bool:
    """Return whether an array can be looked at."""
    return comparable(array) and array.size <= MAX_VALUES


def alone_children(site: Site) -> Iterator[tuple[int, int, ModuleView]]:
    """Yield the children before the observed array that have no pair: side, place and child."""
    for side, view in enumerate((site.source, site.target)):
        paired = {pair[side] for pair in site.pairs}
        for place, child in enumerate(view.children):
            if place not in paired and before(site, side, place):
                yield side, place, child


def before(site: Site, side: int, child: int) -> bool:
    """Return whether a child was called before the array that differs was there."""
    return site.at is None or child < site.pairs[site.at][side]


def name_of(view: ModuleView) -> str:
    """Return what people call a module."""
    return str(view.path[-1]) if view.path else view.type.rpartition(".")[2]


def unpaired_weights(site: Site) -> Iterator[WeightPair]:
    """Yield the weights of layers that only one side has: a head of its own, where the other's is tied."""
    for side, place, child in alone_children(site):
        for name, value in child.neutral.items():
            weight, text = np.asarray(value), f"{name_of(child)}.{name}"
            one, other = (weight, None) if side == 0 else (None, weight)
            if weight.ndim > 1:
                yield f"weight {SIDES[side]} {place} {name}", one, other, (text, text)


def weight_pairs(site: Site) -> Iterator[WeightPair]:
    """Yield weights: the neutral leaves, or the module's own ones, paired by shape and values.

    A weight that only one side has comes with None for the other.
    """
    left, right = _own_weights(site.source), _own_weights(site.target)
    if site.source.neutral and site.target.neutral:
        for leaf in dict.fromkeys([*left, *right]):
            yield f"weight {leaf}", left.get(leaf), right.get(leaf), (leaf, leaf)
        return
    rest = dict(right)
    for name, value in left.items():
        other = _same_values(value, rest) or _same_shape(value, left, rest)
        if other is None:
            yield f"weight {name}", value, None, (name, name)
        else:
            yield f"weight {name}", value, _as_shaped(rest.pop(other), value), (name, other)
    for name, value in rest.items():
        yield (f"weight {name}" if name not in left else f"weight {name} (target)"), None, value, (name, name)
    for place, (one, other_place) in enumerate(site.pairs):
        first, second = site.source.children[one], site.target.children[other_place]
        if "embedding" in first.neutral and "embedding" in second.neutral:
            texts = (f"{name_of(first)}.embedding", f"{name_of(second)}.embedding")
            tables = (np.asarray(first.neutral["embedding"]), np.asarray(second.neutral["embedding"]))
            yield f"weight child {place} embedding", *tables, texts
        elif not _alike(first, second):
            yield from _child_weights(place, first, second)


def _alike(first: ModuleView, second: ModuleView) -> bool:
    """Return whether a child returns arrays of the same sizes on both sides."""
    sizes = [sorted(sorted(np.shape(a)) for a in view.outputs.values()) for view in (first, second)]
    return sizes[0] == sizes[1]


def _child_weights(place: int, first: ModuleView, second: ModuleView) -> Iterator[WeightPair]:
    """Yield the weights of a child that only holds them on one side, where its parent computes with them."""
    left, right = _own_weights(first), dict(_own_weights(second))
    for name, value in list(left.items())[:4]:
        other = _same_values(value, right)
        if other is not None:
            shaped = _as_shaped(right.pop(other), value)
            yield (
                f"weight child {place} {name}",
                value,
                shaped,
                (f"{name_of(first)}.{name}", f"{name_of(second)}.{other}"),
            )


def _own_weights(view: ModuleView) -> dict[str, Array]:
    """Return the weights that are not a child's; neutral ones of a layer."""
    if view.neutral:
        return {name: np.asarray(value) for name, value in view.neutral.items()}
    inside = [child.path[len(view.path) :] for child in view.children]
    own = {
        ".".join(map(str, key)): np.asarray(value)
        for key, value in view.weights.items()
        if not any(key[: len(path)] == path for path in inside if path)
    }
    return {name: value for name, value in own.items() if usable_array(value) and value.dtype.kind != "i"}


def _same_values(value: Array, among: Mapping[str, Array]) -> str | None:
    alike = np.sort(value.reshape(-1).astype(np.float64))
    for name, other in among.items():
        if other.size == value.size and np.allclose(
            alike, np.sort(other.reshape(-1).astype(np.float64)), rtol=1e-5, atol=1e-6
        ):
            return name
    return None


def _same_shape(value: Array, own: Mapping[str, Array], among: Mapping[str, Array]) -> str | None:
    """Return the one weight of this shape, if there is one on each side."""
    here = [name for name, other in own.items() if sorted(other.shape) == sorted(value.shape)]
    there = [name for name, other in among.items() if sorted(other.shape) == sorted(value.shape)]
    return there[0] if len(here) == len(there) == 1 else None


def _as_shaped(other: Array, value: Array) -> Array:
    """Return a weight in the axes of its partner where only the order of axes differs."""
    order = alignment(other, value, 1e-5)
    if order is not None:
        return other.transpose(order)
    flat = other.reshape(-1)
    if flat.shape == value.reshape(-1).shape and np.allclose(flat, value.reshape(-1), rtol=1e-5, atol=1e-6):
        return flat.reshape(value.shape)
    return other
