"""Both sides of a site under common names and in one layout, so that forms are compared, not frameworks."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bridge_core.proof.causes.measures import comparable, relative_error, rounding
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["Side", "alignment", "both_sides", "unlike_weights"]

MAX_VALUES = 1 << 25
"""Arrays with more values are not looked at: 256 MiB in float64, and there are a few copies."""

SPATIAL = ("Conv", "BatchNorm", "GroupNorm", "InstanceNorm", "Pool", "batch_norm", "conv")
"""Parts of the names of layers whose feature maps have their channels where the framework has them."""


@dataclass(frozen=True, eq=False)
class Side:
    """What one side of a site shows.

    Args:
        view: The module.
        arrays: Common name -> float64 array (int64 for integers), in one layout for both sides:
            ``"input 0"``, ``"child i input 0"`` and ``"child i output"`` for the i-th of ``site.pairs``,
            ``"weight NAME"``. Only what comes before the observed array.
        observed: The array that differs; in the same layout.
        names: Common name -> what people call it on this side.
        dtypes: The dtypes of the observed array and of the floats among the inputs.
        where: What the observed array is, for people.
        children: The side's child of each pair.
    """

    view: ModuleView
    arrays: Mapping[str, Array]
    observed: Array
    names: Mapping[str, str] = field(default_factory=dict)
    dtypes: tuple[np.dtype, ...] = ()
    where: str = "output"
    children: tuple[ModuleView, ...] = ()

    @property
    def weights(self) -> dict[str, Array]:
        """The weights by their common names, without the word in front."""
        return {n.removeprefix("weight "): a for n, a in self.arrays.items() if n.startswith("weight ")}


def both_sides(site: Site) -> tuple[Side, Side] | None:
    """Return both sides of a site; None if the arrays that differ were not recorded.

    The observed array is that of the child's inputs (of the module's outputs) that differs first.
    """
    observed = _observed(site)
    if observed is None:
        return None
    _, first, second, where = observed
    dtypes = (first.dtype, second.dtype)
    inputs = list(_input_pairs(site))
    orders: dict[int, tuple[int, ...]] = {}
    arrays: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    names: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for common, left, right, texts in inputs:
        aligned = _in_one_layout(site, left, right, orders)
        if aligned is None:
            continue
        for side in (0, 1):
            arrays[side][common] = aligned[side]
            names[side][common] = texts[side]
    for side, common, value, text in _one_sided(site):
        if common not in arrays[side] and _usable(value):
            arrays[side][common] = _alone(site, side, _plain(value), orders)
            names[side][common] = text
    for common, one, other, texts in _weight_pairs(site):
        for side, weight in enumerate((one, other)):
            if weight is not None and _usable(weight):
                arrays[side][common] = _plain(weight)
                names[side][common] = texts[side]
    first, second = _plain(first), _plain(second)
    moved = _moved(site, first, second, orders)
    children = (
        tuple(site.source.children[one] for one, _ in site.pairs),
        tuple(site.target.children[other] for _, other in site.pairs),
    )
    return (
        Side(site.source, arrays[0], moved[0], names[0], dtypes, where, children[0]),
        Side(site.target, arrays[1], moved[1], names[1], dtypes, where, children[1]),
    )


def alignment(source: Array, target: Array, limit: float) -> tuple[int, ...] | None:
    """Return how to transpose the source's array so that it equals the target's; None if nothing does.

    Args:
        source: Array of any shape.
        target: Array of the same rank.
        limit: Relative error up to which they are equal.
    """
    if source.ndim != target.ndim or sorted(source.shape) != sorted(target.shape):
        return None
    rank = source.ndim
    likely: list[tuple[int, ...]] = [tuple(range(rank))]
    if rank > 2:
        likely += [(0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1)), (*range(1, rank), 0)]
    others = itertools.permutations(range(rank)) if rank <= 4 else ()
    orders: list[tuple[int, ...]] = [*likely, *others]
    for order in dict.fromkeys(orders):
        moved = source.transpose(order)
        if moved.shape == target.shape and relative_error(target, moved) <= limit:
            return order
    return None


def _plain(array: Array) -> Array:
    return np.asarray(array).astype(np.int64 if array.dtype.kind in "iub" else np.float64)


def _usable(array: Array) -> bool:
    return comparable(array) and array.size <= MAX_VALUES


def _observed(site: Site) -> tuple[str, Array, Array, str] | None:
    if site.at is None:
        left, right = site.source.outputs, site.target.outputs
        where = "output"
    else:
        one, other = site.pairs[site.at]
        left, right = site.source.children[one].inputs, site.target.children[other].inputs
        where = "input of a child"
    usable = [
        (name, a, b) for name, a, b in _paired(left, right) if _usable(a) and _usable(b) and a.size and b.size
    ]
    for name, a, b in usable:
        limit = rounding(site, a, b)
        if alignment(_plain(a), _plain(b), max(site.control, limit / 8)) is None:
            return name, a, b, where
    return (*usable[0], where) if usable else None


def _paired(left: Mapping[str, Array], right: Mapping[str, Array]) -> Iterator[tuple[str, Array, Array]]:
    """Yield arrays of both sides that belong together: those of one name, then the others in order."""
    shared = [name for name in left if name in right]
    rest = [[n for n in names if n not in shared] for names in (left, right)]
    for name in shared:
        yield name, np.asarray(left[name]), np.asarray(right[name])
    for one, other in zip(*rest, strict=False):
        yield one, np.asarray(left[one]), np.asarray(right[other])


Pair = tuple[str, Array, Array, tuple[str, str]]
WeightPair = tuple[str, Array | None, Array | None, tuple[str, str]]


def _input_pairs(site: Site) -> Iterator[Pair]:
    """Yield what was computed before the observed array on both sides."""
    for name, a, b in _paired(site.source.inputs, site.target.inputs):
        text = "the module's input" if name == "0" else f"the module's input {name!r}"
        yield f"input {name}", a, b, (text, text)
    for place, (one, other) in enumerate(site.pairs):
        if not (_before(site, 0, one) and _before(site, 1, other)):
            continue
        first, second = site.source.children[one], site.target.children[other]
        for what, left, right in (
            ("input", first.inputs, second.inputs),
            ("output", first.outputs, second.outputs),
        ):
            for name, a, b in _paired(left, right):
                texts = (f"the {what} of {_name(first)}", f"the {what} of {_name(second)}")
                yield f"child {place} {what}{' ' + name if name else ''}", a, b, texts


def _one_sided(site: Site) -> Iterator[tuple[int, str, Array, str]]:
    """Yield what one side computed before the observed array, and the other perhaps after it."""
    for place, pair in enumerate(site.pairs):
        for side, view in enumerate((site.source, site.target)):
            child = view.children[pair[side]]
            if not _before(site, side, pair[side]) or (site.at is not None and place == site.at):
                continue
            for what, values in (("input", child.inputs), ("output", child.outputs)):
                for name, value in values.items():
                    common = f"child {place} {what}{' ' + name if name else ''}"
                    yield side, common, np.asarray(value), f"the {what} of {_name(child)}"


def _before(site: Site, side: int, child: int) -> bool:
    """Return whether a child was called before the array that differs was there."""
    return site.at is None or child < site.pairs[site.at][side]


def _name(view: ModuleView) -> str:
    return str(view.path[-1]) if view.path else view.type.rpartition(".")[2]


def _weight_pairs(site: Site) -> Iterator[WeightPair]:
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
            tables = (np.asarray(first.neutral["embedding"]), np.asarray(second.neutral["embedding"]))
            yield f"weight child {place} embedding", *tables, ("embedding", "embedding")
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
                (f"{_name(first)}.{name}", f"{_name(second)}.{other}"),
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
    return {name: value for name, value in own.items() if _usable(value) and value.dtype.kind != "i"}


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


def unlike_weights(sides: tuple[Side, Side], limit: float) -> list[str]:
    """Return the common names of weights that differ between the sides."""
    source, target = sides[0].weights, sides[1].weights
    return [
        name
        for name, value in source.items()
        if name in target
        and (value.shape != target[name].shape or relative_error(value, target[name]) > limit)
    ]


def _in_one_layout(
    site: Site, left: Array, right: Array, orders: dict[int, tuple[int, ...]]
) -> tuple[Array, Array] | None:
    """Return an input of both sides with channels last; remember the source's order of this rank."""
    if not (_usable(left) and _usable(right)):
        return None
    first, second = _plain(left), _plain(right)
    if site.target.channels == "first" and site.source.channels == "last":
        turned = _in_one_layout(_turned(site), right, left, orders)
        return None if turned is None else (turned[1], turned[0])
    if site.source.channels == site.target.channels == "first" and _spatial(site.source) and first.ndim > 2:
        return np.moveaxis(first, 1, -1), np.moveaxis(second, 1, -1)
    order = alignment(first, second, max(10 * site.control, 32 * 2.0**-23))
    if order is None:
        order = _usual_order(site, first, second)
    if order is None:
        return (first, second)
    orders.setdefault(first.ndim, order)
    return first.transpose(order), second


def _alone(site: Site, side: int, array: Array, orders: Mapping[int, tuple[int, ...]]) -> Array:
    """Return an array of one side in the common layout, as other arrays of its rank are."""
    view, other = (site.source, site.target) if side == 0 else (site.target, site.source)
    if view.channels == "first" and other.channels == "last":
        order = orders.get(array.ndim) or ((0, *range(2, array.ndim), 1) if array.ndim > 3 else None)
        return array if order is None else array.transpose(order)
    return array


def _turned(site: Site) -> Site:
    return Site(site.target, site.source, control=site.control)


def _spatial(view: ModuleView) -> bool:
    name = view.type.rpartition(".")[2]
    return any(part in name or part == view.kind for part in SPATIAL)


def _usual_order(site: Site, first: Array, second: Array) -> tuple[int, ...] | None:
    """Return the order that moves channels of feature maps, if the frameworks have them elsewhere."""
    rank = first.ndim
    if rank != second.ndim or site.source.channels == site.target.channels:
        return None
    if rank > 3 or (rank == 3 and _spatial(site.source)):
        return (0, *range(2, rank), 1)
    return None


def _moved(
    site: Site, first: Array, second: Array, orders: Mapping[int, tuple[int, ...]]
) -> tuple[Array, Array]:
    """Return the observed arrays in the layout of the inputs: the order of their rank, or the usual one."""
    if site.target.channels == "first" and site.source.channels == "last":
        turned = _moved(_turned(site), second, first, orders)
        return turned[1], turned[0]
    if site.source.channels == site.target.channels == "first":
        if _spatial(site.source) and not site.pairs and first.ndim > 2:
            return np.moveaxis(first, 1, -1), np.moveaxis(second, 1, -1)
        return first, second
    order = orders.get(first.ndim) or _usual_order(site, first, second)
    if order is None or (first.transpose(order).shape != second.shape == first.shape):
        return first, second
    return first.transpose(order), second
