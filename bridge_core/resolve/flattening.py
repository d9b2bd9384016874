"""Where a model may flatten a feature map into a linear layer, or unflatten what such a layer makes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from bridge_core.axes import parse_axes
from bridge_core.layers import LayerKind
from bridge_core.resolve.interpretations import Interpretation
from bridge_core.resolve.layer_order import is_sorted
from bridge_core.state import Key, natural_order

__all__ = ["Flattening", "Width", "flattenings", "width_of"]

_ITEM = re.compile(r"(.*?)[0-9]+")
"""The name of an item of a list."""

_MORE_LINEAR = 3
"""How many more linear layers than convolutions a plain convolutional network may have."""

_FEWEST_UNKNOWN = 8
"""Channels that a convolution takes from nowhere, more than those of images."""

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


_OTHER = Width("other")


@dataclass(frozen=True)
class Flattening:
    """A linear layer next to a feature map.

    Args:
        layer: Path of the linear layer.
        axis: Its axis that may be a flattened feature map: ``in`` or ``out``.
        neighbour: Path of the convolution that gives the feature map, or takes it.
        channels: Channels of the feature map.
        places: Its places, e.g. height times width.
        norms: Paths of norms that see the same flattened axis.
    """

    layer: Key
    axis: str
    neighbour: Key
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
    if is_sorted(_without_other_norms(given, widths)):
        candidates = _in_no_order(sorted(given, key=natural_order), widths)
    else:
        candidates = _fed(given, widths)
        candidates += _made(given, widths, candidates)
    places = {path: place for place, path in enumerate(given)}
    left = [flat for flat in candidates if flat.channels * flat.places not in ruled_sizes]
    return sorted(left, key=lambda flat: places[flat.layer])


def _without_other_norms(paths: Sequence[Key], widths: Mapping[Key, Width]) -> list[Key]:
    """Return the layers with weights and the norms between them; a collection may list norms separately."""
    roles = [widths.get(path, _OTHER).role for path in paths]
    ends = [place for place, role in enumerate(roles) if role in ("conv", "dense")]
    return [
        path
        for path, role in zip(paths[ends[0] : ends[-1] + 1], roles[ends[0] :], strict=False)
        if role in ("conv", "dense", "norm")
    ]


def _fed(paths: Sequence[Key], widths: Mapping[Key, Width]) -> list[Flattening]:
    """Return the linear layers that come next after a convolution and take a multiple of its channels."""
    flattenings = []
    last: Key | None = None
    channels = 0
    linear_outputs: set[int] = set()
    # The inputs of the last layer in the list: others right after it may take the same feature map.
    shared_inputs = 0
    flat_norms = _norms_of_flat_maps(widths)
    norms: list[Key] = []
    branches = _Branches(paths, widths)
    for path in paths:
        width = widths.get(path, _OTHER)
        if width.role == "conv":
            last, channels, norms = path, width.outputs, []
        elif path in flat_norms:
            norms.append(path)
        elif width.role == "norm" and width.outputs > 1:
            # A norm of more channels follows what was joined, as in a DenseNet.
            channels = width.outputs
        elif width.role in ("dense", "other"):
            fits = _is_multiple(width.inputs, channels) and width.inputs not in linear_outputs
            if last is not None and fits and not branches.are_joined(last, width.inputs):
                seen = tuple(norm for norm in norms if widths[norm].outputs == width.inputs)
                flattenings.append(Flattening(path, "in", last, channels, width.inputs // channels, seen))
                shared_inputs = width.inputs
            elif (
                width.role == "dense"
                and width.inputs == shared_inputs
                and shared_inputs not in linear_outputs
            ):
                flattenings.append(replace(flattenings[-1], layer=path, norms=()))
            elif width.role == "dense":
                shared_inputs = 0
            linear_outputs.add(width.outputs)
            last = None
    return flattenings


def _norms_of_flat_maps(widths: Mapping[Key, Width]) -> set[Key]:
    """Return the norms of more channels than all convolutions give together, and no linear layer gives."""
    total = sum(width.outputs for width in widths.values() if width.role == "conv")
    given = {width.outputs for width in widths.values() if width.role == "dense"}
    return {
        path
        for path, width in widths.items()
        if width.role == "norm" and width.outputs > total and width.outputs not in given
    }


class _Branches:
    """The branches of modules that end in convolutions, and how many channels they give together."""

    def __init__(self, paths: Iterable[Key], widths: Mapping[Key, Width]) -> None:
        ends: dict[Key, dict[str, int]] = {}
        for path in paths:
            width = widths.get(path, _OTHER)
            if width.role == "conv":
                for depth in range(1, len(path)):
                    ends.setdefault(path[:depth], {})[path[depth]] = width.outputs
        self._channels = {module: sum(last.values()) for module, last in ends.items() if len(last) > 1}

    def are_joined(self, conv: Key, inputs: int) -> bool:
        """Return whether the branches next to a convolution give so many channels together."""
        return any(self._channels.get(conv[:depth]) == inputs for depth in range(1, len(conv)))


def _made(paths: Sequence[Key], widths: Mapping[Key, Width], fed: Sequence[Flattening]) -> list[Flattening]:
    """Return the linear layers right before a convolution that give a multiple of what it takes."""
    flattened = {flat.layer for flat in fed}
    takers = _by_size((path for path in widths if path not in flattened), lambda path: widths[path].inputs)
    flattenings = []
    last: Key | None = None
    norms: list[Key] = []
    channels = 0
    for path in paths:
        width = widths.get(path, _OTHER)
        if width.role == "dense":
            last, norms, channels = path, [], 0
        elif width.role == "norm" and last is not None and width.outputs > 1:
            if width.outputs == widths[last].outputs:
                norms.append(path)
            else:
                channels = width.outputs
        elif width.role == "conv":
            if last is not None and channels in (0, width.inputs):
                flat = _unflattened(last, path, widths, takers, norms)
                flattenings += [flat] if flat is not None else []
            last = None
        elif width.role == "other":
            last = None
    return flattenings


def _unflattened(
    layer: Key,
    conv: Key,
    widths: Mapping[Key, Width],
    takers: Mapping[int, Iterable[Key]],
    norms: Iterable[Key],
) -> Flattening | None:
    width, channels = widths[layer], widths[conv].inputs
    if not _is_multiple(width.outputs, channels, _FEWEST_PLACES) or width.outputs < width.inputs:
        return None
    # A grouped convolution shows the channels of one group; and what other layers take is not a feature map.
    own = {layer, *norms}
    is_taken = any(path not in own for path in takers.get(width.outputs, ()))
    if widths[conv].outputs == width.outputs or is_taken:
        return None
    return Flattening(layer, "out", conv, channels, width.outputs // channels, tuple(norms))


def _in_no_order(paths: Sequence[Key], widths: Mapping[Key, Width]) -> list[Flattening]:
    """Return what names and widths show where layers are sorted by name.

    Items of one list are in their order, whatever the rest is. Otherwise only a plain convolutional network
    shows it: a linear layer that takes what no other layer gives is fed by a feature map.
    """
    flattenings = [flat for flat in _fed(paths, widths) if _in_one_list(flat.layer, flat.neighbour)]
    flattenings += [
        flat for flat in _made(paths, widths, flattenings) if _in_one_list(flat.layer, flat.neighbour)
    ]
    roles = Counter(widths.get(path, _OTHER).role for path in paths)
    if not roles["other"] and roles["dense"] <= roles["conv"] + _MORE_LINEAR:
        network = _PlainNetwork(paths, widths)
        network.add_fed(flattenings)
        network.add_made(flattenings)
    return flattenings


class _PlainNetwork:
    """The layers of a plain convolutional network by their sizes."""

    def __init__(self, paths: Sequence[Key], widths: Mapping[Key, Width]) -> None:
        self._widths = widths
        self._linear = [path for path in paths if widths[path].role == "dense"]
        self._number = {path: number for number, path in enumerate(self._linear)}
        self._takers = _by_size(self._linear, lambda path: widths[path].inputs)
        self._branches = _Branches(paths, widths)
        self._convs: dict[Width, Key] = {}  # the first of each width
        for path in paths:
            if widths[path].role == "conv":
                self._convs.setdefault(widths[path], path)
        self._conv_sizes = {size for width in self._convs for size in (width.inputs, width.outputs)}
        self._norms = _by_size(
            (path for path in paths if widths[path].role == "norm"), lambda path: widths[path].outputs
        )
        self._flat_norms = _norms_of_flat_maps(widths)
        others = {w for path, w in widths.items() if w.role != "dense" and path not in self._flat_norms}
        self._given = {width.outputs // n for width in others for n in (1, 2)}
        self._maps = {path: self._made_by(path) for path in self._linear}
        self._makers = _by_size(
            (path for path in self._linear if self._maps[path] is None), lambda path: widths[path].outputs
        )

    def add_fed(self, found: list[Flattening]) -> None:
        """Add the linear layers that take what no other layer gives, but for those that are found."""
        known = {flat.layer for flat in found}
        for path in self._linear:
            size = self._widths[path].inputs
            if path in known or size in self._given or self._is_given(path, size):
                continue
            neighbour = max(
                (conv for width, conv in self._convs.items() if _is_multiple(size, width.outputs)),
                key=lambda conv: _likely(size, self._widths[conv].outputs),
                default=None,
            )
            if neighbour is not None and not self._branches.are_joined(neighbour, size):
                channels = self._widths[neighbour].outputs
                norms = tuple(norm for norm in self._norms.get(size, ()) if norm in self._flat_norms)
                found.append(Flattening(path, "in", neighbour, channels, size // channels, norms))

    def _is_given(self, path: Key, size: int) -> bool:
        """Return whether a linear layer that makes no feature map may give another what it takes."""
        return any(
            maker != path and not (self._number[maker] > self._number[path] and _in_one_list(maker, path))
            for outputs in (size, 2 * size)
            for maker in self._makers.get(outputs, ())
        )

    def add_made(self, found: list[Flattening]) -> None:
        """Add the linear layers whose outputs only a feature map takes, but for those that are found."""
        known = {flat.layer for flat in found}
        fed = {flat.layer for flat in found if flat.axis == "in"}
        others = {size: {*takers} - fed for size, takers in self._takers.items()}
        for path in self._linear:
            flat = self._maps[path]
            if flat is None or path in known:
                continue
            size = self._widths[path].outputs
            if any(taker != path for taker in self._takers.get(size, ())):
                is_map = others[size] <= {path}
            else:
                is_map = flat.channels >= _FEWEST_UNKNOWN and flat.channels not in self._given
            if is_map:
                found.append(flat)

    def _made_by(self, layer: Key) -> Flattening | None:
        """Return what a linear layer makes if it ends in a feature map that some convolution takes."""
        _, inputs, outputs = self._widths[layer]
        # A layer that takes as many channels as convolutions have widens them for the next one.
        if outputs <= inputs or inputs in self._conv_sizes:
            return None
        fitting = [
            (width.inputs, path)
            for width, path in self._convs.items()
            if _is_multiple(outputs, width.inputs, _FEWEST_PLACES) and width.outputs != outputs
        ]
        if not fitting:
            return None
        channels, neighbour = max(fitting, key=lambda one: _likely(outputs, one[0]))
        # Where nothing shows the order, a norm of this width may see what the layer makes.
        norms = () if outputs in self._conv_sizes else tuple(self._norms.get(outputs, ()))
        return Flattening(layer, "out", neighbour, channels, outputs // channels, norms)


def _by_size(paths: Iterable[Key], size_of: Callable[[Key], int]) -> dict[int, list[Key]]:
    paths_of: dict[int, list[Key]] = {}
    for path in paths:
        paths_of.setdefault(size_of(path), []).append(path)
    return paths_of


def _in_one_list(one: Key, other: Key) -> bool:
    """Return whether two paths part at items of one list, as ``3`` and ``6`` or ``fc1`` and ``fc2`` are."""
    parted = next(((a, b) for a, b in zip(one, other, strict=False) if a != b), ("", ""))
    items = [_ITEM.fullmatch(part) for part in parted]
    stems = {item[1] for item in items if item is not None}
    return None not in items and len(stems) == 1


def _likely(inputs: int, channels: int) -> tuple[bool, int]:
    """Return how likely a feature map has so many channels: most are square, and the last are the widest."""
    return math.isqrt(inputs // channels) ** 2 == inputs // channels, channels


def _is_multiple(size: int, channels: int, fewest: int = 2) -> bool:
    return channels > 1 and size % channels == 0 and size // channels >= fewest
