"""Where a model may flatten a feature map into a linear layer, or unflatten what such a layer makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge_core.axes import parse_axes
from bridge_core.layers import LayerKind
from bridge_core.resolve.interpretations import Interpretation
from bridge_core.resolve.layer_order import is_sorted, natural_order
from bridge_core.state import Key

__all__ = ["Flattening", "Width", "flattenings", "width_of"]

_FEWEST_PLACES = 4
"""Places of a feature map that a linear layer makes: blocks that widen by two or three are too common."""


class Width(NamedTuple):
    """How wide a layer is.

    Args:
        role: ``conv``, ``dense``, ``norm`` (one value a channel), ``map`` (a norm over several axes),
            ``plain`` (parameters) or ``other``.
        inputs: Channels or features that it takes; 0 if that is unknown.
        outputs: Those it gives.
    """

    role: str
    inputs: int = 0
    outputs: int = 0


@dataclass(frozen=True)
class Flattening:
    """A linear layer beside a feature map.

    Args:
        layer: Path of the linear layer.
        axis: Its axis that may be a flattened feature map: ``in`` or ``out``.
        beside: Path of the convolution that gives the feature map, or takes it.
        channels: Channels of the feature map.
        places: Its places, e.g. height times width.
        norms: Paths of norms that see the same flattened axis.
    """

    layer: Key
    axis: str
    beside: Key
    channels: int
    places: int
    norms: tuple[Key, ...] = ()


def width_of(layer: Interpretation, kinds: Mapping[str, LayerKind]) -> Width | None:
    """Return how wide a layer is; None if it has no leaves of its own."""
    kind = kinds.get(layer.kind)
    if kind is None:
        return Width("plain")
    role, axes = _main_leaf(kind)
    shapes = [use.shape for (is_leaf, _), use in layer.leaves.items() if is_leaf]
    if axes == ("in", "out"):
        use = layer.leaves.get((True, role))
        if use is None or len(use.shape) < 2:
            return Width("other")
        return Width("conv" if len(use.shape) > 2 else "dense", *use.shape[-2:])
    if axes or not shapes:
        return Width("other")
    widest = max(shapes, key=len)
    if sum(size > 1 for size in widest) > 1:
        return Width("map")
    size = math.prod(widest)
    return Width("norm", size, size)


def _main_leaf(kind: LayerKind) -> tuple[str, tuple[str, ...]]:
    """Return the leaf with axes ``in out``; without one, other axes, or none where it scales channels."""
    others: tuple[str, ...] = ()
    for role, text in kind.leaves.items():
        axes = tuple(axis.name for axis in parse_axes(text))
        if axes[-2:] == ("in", "out"):
            return role, ("in", "out")
        if len(axes) > 1 or "." in role:
            others = axes
    return "", others


def flattenings(
    order: Callable[[], Sequence[Key]], widths: Mapping[Key, Width], ruled_sizes: Collection[int]
) -> list[Flattening]:
    """Return the linear layers that a flattened feature map seems to feed, or that seem to make one.

    Args:
        order: Gives the paths of all layers, in the order in which they run, or sorted by name.
        widths: Path -> width. A layer without one ends a chain.
        ruled_sizes: Sizes of tensors that rules rearrange: what has been dealt with feeds others, too.
    """
    if not {"conv", "dense"} <= {width.role for width in widths.values()}:
        return []
    given = order()
    by_name = is_sorted(given)
    paths = natural_order(given) if by_name else given
    found = [f for f in _fed(paths, widths) if f.channels * f.places not in ruled_sizes]
    found += [f for f in _made(paths, widths, found) if f.channels * f.places not in ruled_sizes]
    if by_name:
        found += _anywhere(paths, widths, found, ruled_sizes)
    places = {path: place for place, path in enumerate(given)}
    return sorted(found, key=lambda flat: places[flat.layer])


def _fed(paths: Sequence[Key], widths: Mapping[Key, Width]) -> list[Flattening]:
    """Return the linear layers that come next after a convolution and take a multiple of its channels."""
    found = []
    last: Key | None = None
    channels = 0
    for path in paths:
        width = widths.get(path, Width("other"))
        if width.role == "conv":
            last, channels = path, width.outputs
        elif width.role == "norm" and width.outputs > 1:
            # A norm of more channels follows what was joined, as in a DenseNet.
            channels = width.outputs
        elif width.role in ("dense", "other"):
            fits = width.role == "dense" and _is_multiple(width.inputs, channels)
            if last is not None and fits and not _joined(last, width.inputs, paths, widths):
                found.append(Flattening(path, "in", last, channels, width.inputs // channels))
            last = None
    return found


def _joined(last: Key, inputs: int, paths: Iterable[Key], widths: Mapping[Key, Width]) -> bool:
    """Return whether the branches beside a convolution give so many channels together, as in an Inception."""
    convs = [path for path in paths if widths.get(path, Width("other")).role == "conv"]
    for depth in range(1, len(last)):
        ends: dict[str, int] = {}
        for path in convs:
            if path[:depth] == last[:depth] and len(path) > depth:
                ends[path[depth]] = widths[path].outputs
        if len(ends) > 1 and sum(ends.values()) == inputs:
            return True
    return False


def _made(paths: Sequence[Key], widths: Mapping[Key, Width], fed: Sequence[Flattening]) -> list[Flattening]:
    """Return the linear layers right before a convolution that give a multiple of what it takes."""
    flattened = {flat.layer for flat in fed}
    found = []
    last: Key | None = None
    norms: list[Key] = []
    channels = 0
    for path in paths:
        width = widths.get(path, Width("other"))
        if width.role == "dense":
            last, norms, channels = path, [], 0
        elif width.role == "norm" and last is not None and width.outputs > 1:
            if width.outputs == widths[last].outputs:
                norms.append(path)
            else:
                channels = width.outputs
        elif width.role == "conv":
            if last is not None and channels in (0, width.inputs):
                flat = _unflattened(last, path, widths, flattened, norms)
                found += [flat] if flat is not None else []
            last = None
        elif width.role == "other":
            last = None
    return found


def _unflattened(
    layer: Key, conv: Key, widths: Mapping[Key, Width], flattened: Collection[Key], norms: Iterable[Key]
) -> Flattening | None:
    width, channels = widths[layer], widths[conv].inputs
    if not _is_multiple(width.outputs, channels, _FEWEST_PLACES) or width.outputs < width.inputs:
        return None
    # A grouped convolution shows the channels of one group; and what other layers take is no feature map.
    taken = {w.inputs for path, w in widths.items() if path not in flattened and path not in (layer, *norms)}
    if widths[conv].outputs == width.outputs or width.outputs in taken:
        return None
    return Flattening(layer, "out", conv, channels, width.outputs // channels, tuple(norms))


def _anywhere(
    paths: Sequence[Key],
    widths: Mapping[Key, Width],
    found: Sequence[Flattening],
    ruled_sizes: Collection[int],
) -> list[Flattening]:
    """Return the linear layers that nothing else feeds, of a convolutional network in no known order."""
    if any(widths.get(path, Width("other")).role == "other" for path in paths):
        return []
    known = {flat.layer for flat in found}
    makers = {flat.layer for flat in found if flat.axis == "out"}
    explained = {width.outputs // n for path, width in widths.items() if path not in makers for n in (1, 2)}
    convs = [path for path in paths if widths[path].role == "conv"]
    more = []
    for path in paths:
        width = widths[path]
        if width.role != "dense" or path in known or width.inputs in explained or width.inputs in ruled_sizes:
            continue
        fitting = [conv for conv in convs if _is_multiple(width.inputs, widths[conv].outputs)]
        fitting = [conv for conv in fitting if not _joined(conv, width.inputs, paths, widths)]
        if fitting:
            best = max(fitting, key=lambda conv: _likely(width.inputs, widths[conv].outputs))
            channels = widths[best].outputs
            more.append(Flattening(path, "in", best, channels, width.inputs // channels))
    sizes = {flat.channels * flat.places: flat for flat in (*found, *more) if flat.axis == "in"}
    fed = {flat.layer for flat in (*found, *more)}
    for path in paths:
        flat = sizes.get(widths[path].outputs) if widths[path].role == "dense" and path not in fed else None
        takers = [conv for conv in convs if flat is not None and widths[conv].inputs == flat.channels]
        if flat is not None and takers:
            made = _unflattened(path, takers[0], widths, fed, ())
            more += [made] if made is not None else []
    return more


def _likely(inputs: int, channels: int) -> tuple[bool, int]:
    """Return how likely a feature map has so many channels: most are square, and the last are the widest."""
    return math.isqrt(inputs // channels) ** 2 == inputs // channels, channels


def _is_multiple(size: int, channels: int, fewest: int = 2) -> bool:
    return channels > 1 and size % channels == 0 and size // channels >= fewest
