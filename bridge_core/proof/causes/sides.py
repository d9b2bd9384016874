"""Both sides of a site under common names and in one layout, so that forms are compared, not frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from bridge_core.proof.causes.measures import alignment, relative_error, rounding
from bridge_core.proof.causes.side_parts import (
    SIDES,
    alone_children,
    before,
    name_of,
    unpaired_weights,
    usable_array,
    weight_pairs,
)
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["Side", "both_sides", "inner_sites", "unlike_weights"]

SPATIAL = ("Conv", "BatchNorm", "GroupNorm", "InstanceNorm", "Pool", "batch_norm", "conv")
"""Parts of the names of layers whose feature maps have their channels where the framework has them."""


@dataclass(frozen=True, eq=False)
class Side:
    """What one side of a site shows.

    Args:
        view: The module.
        arrays: Common name -> float64 array (int64 for integers), in one layout for both sides:
            ``"input 0"``, ``"child i input 0"`` and ``"child i output"`` for the i-th of ``site.pairs``,
            ``"weight NAME"``; ``"source i output"`` of the source's i-th child if it has no pair, and so on.
            Only what comes before the observed array.
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
    for side, common, value, text in [*_one_sided(site), *_unpaired(site)]:
        if common not in arrays[side] and usable_array(value):
            arrays[side][common] = _alone(site, side, _plain(value), orders)
            names[side][common] = text
    for common, one, other, texts in [*weight_pairs(site), *unpaired_weights(site)]:
        for side, weight in enumerate((one, other)):
            if weight is not None and usable_array(weight):
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


def inner_sites(site: Site) -> Iterator[Site]:
    """Yield children whose inputs are equal and whose outputs have other sizes, as sites of their own."""
    for place, (one, other) in enumerate(site.pairs):
        first, second = site.source.children[one], site.target.children[other]
        if first.children or second.children or (site.at is not None and place >= site.at):
            continue
        inputs = list(_paired(first.inputs, second.inputs))
        outputs = list(_paired(first.outputs, second.outputs))
        if not inputs or not all(usable_array(a) and usable_array(b) for _, a, b in [*inputs, *outputs]):
            continue
        equal = all(
            alignment(_plain(a), _plain(b), max(10 * site.control, 1e-5)) is not None for _, a, b in inputs
        )
        if equal and any(sorted(a.shape) != sorted(b.shape) for _, a, b in outputs):
            yield Site(first, second, control=site.control)


def _plain(array: Array) -> Array:
    return np.asarray(array).astype(np.int64 if array.dtype.kind in "iub" else np.float64)


def _observed(site: Site) -> tuple[str, Array, Array, str] | None:
    if site.at is None:
        left, right = site.source.outputs, site.target.outputs
        where = "output"
    else:
        one, other = site.pairs[site.at]
        left, right = site.source.children[one].inputs, site.target.children[other].inputs
        where = "input of a child"
    usable = [
        (name, a, b)
        for name, a, b in _paired(left, right)
        if usable_array(a) and usable_array(b) and a.size and b.size
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


def _input_pairs(site: Site) -> Iterator[Pair]:
    """Yield what was computed before the observed array on both sides."""
    for name, a, b in _paired(site.source.inputs, site.target.inputs):
        text = "the module's input" if name == "0" else f"the module's input {name!r}"
        yield f"input {name}", a, b, (text, text)
    for place, (one, other) in enumerate(site.pairs):
        if not (before(site, 0, one) and before(site, 1, other)):
            continue
        first, second = site.source.children[one], site.target.children[other]
        for what, left, right in (
            ("input", first.inputs, second.inputs),
            ("output", first.outputs, second.outputs),
        ):
            for name, a, b in _paired(left, right):
                texts = (f"the {what} of {name_of(first)}", f"the {what} of {name_of(second)}")
                yield f"child {place} {what}{' ' + name if name else ''}", a, b, texts


def _one_sided(site: Site) -> Iterator[tuple[int, str, Array, str]]:
    """Yield what one side computed before the observed array, and the other perhaps after it."""
    for place, pair in enumerate(site.pairs):
        for side, view in enumerate((site.source, site.target)):
            child = view.children[pair[side]]
            if not before(site, side, pair[side]) or (site.at is not None and place == site.at):
                continue
            for what, values in (("input", child.inputs), ("output", child.outputs)):
                for name, value in values.items():
                    common = f"child {place} {what}{' ' + name if name else ''}"
                    yield side, common, np.asarray(value), f"the {what} of {name_of(child)}"


def _unpaired(site: Site) -> Iterator[tuple[int, str, Array, str]]:
    """Yield what was computed by children that only one side has."""
    for side, place, child in alone_children(site):
        own = _is_output((site.source, site.target)[side], child, site)
        for what, values in (("input", child.inputs), ("output", {} if own else child.outputs)):
            for name, value in values.items():
                common = f"{SIDES[side]} {place} {what}{' ' + name if name else ''}"
                yield side, common, np.asarray(value), f"the {what} of {name_of(child)}"


def _is_output(view: ModuleView, child: ModuleView, site: Site) -> bool:
    """Return whether a child returns the module's output itself, which explains nothing."""
    ours, theirs = list(view.outputs.values()), list(child.outputs.values())
    same = [np.shape(a) == np.shape(b) and np.array_equal(a, b) for a, b in zip(ours, theirs, strict=False)]
    return site.at is None and bool(same) and same[0]


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
    if not (usable_array(left) and usable_array(right)):
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
