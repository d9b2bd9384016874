"""Which recurrent layers of a source belong to which of a template, by the names that stacks and cells have.

torch numbers the layers of a stack, ``gru.0`` and ``gru.0_reverse``. Other frameworks run cells: of one layer
``gru``, ``gru.cell`` or a ``cell`` next to the other layers, of both directions ``gru.forward_rnn.cell`` and
``gru.backward_rnn.cell``. A recurrent layer is matched entire or not at all: its two biases may be one
elsewhere, so its parts cannot be matched as layers of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bridge_core.layers import LayerTransform
from bridge_core.resolve.path_names import normal_form
from bridge_core.state import Key

__all__ = ["Stacks", "summed_kinds"]

T = TypeVar("T")

_CELL = "cell"

_DIRECTIONS = {"forward_rnn": "", "backward_rnn": "_reverse"}
"""The name of a direction in a layer that runs both ways -> what the number of a layer ends with."""

_ONE_LAYER = {"0", "0_reverse"}

_ITEM = re.compile(r"\d+(_reverse)?")


def summed_kinds(transforms: Iterable[LayerTransform]) -> frozenset[str]:
    """Return the composite kinds of which some layout adds leaves of two parts.

    Args:
        transforms: Every known layout.
    """
    return frozenset(
        transform.kind
        for transform in transforms
        if any("." in role for leaf in transform.leaves for role in leaf.added_leaves)
    )


@dataclass(frozen=True)
class _Stack:
    """The recurrent layers of one kind that share a name.

    Args:
        kind: Their kind.
        name: The name without the number and direction of a layer, in normal form.
        module: The path of the module that holds them, if they are only named as cells.
        layers: Number and direction, as ``0_reverse`` -> path.
    """

    kind: str
    name: Key
    module: Key | None
    layers: Mapping[str, Key]

    @property
    def places(self) -> set[Key]:
        """The modules of which this may be the only recurrent stack."""
        return {place for place in (self.module, self.name[:-1] if self.name else None) if place is not None}


class Stacks:
    """The recurrent stacks of one side.

    Args:
        kinds: Path of each recurrent layer -> its kind.
        transforms: The layouts whose classes name cells, as ``GRUCell_0``.
        names: Path -> name to compare, where a prefix is exchanged.
    """

    def __init__(
        self,
        kinds: Mapping[Key, str],
        transforms: Iterable[LayerTransform],
        names: Mapping[Key, Key] | None = None,
    ) -> None:
        cells = {module.rpartition(".")[2] for t in transforms for module in t.modules} | {_CELL}
        named_layers: dict[tuple[str, Key], dict[str, list[tuple[Key, Key | None]]]] = {}
        for path, kind in kinds.items():
            name, module, item = _read((names or {}).get(path) or normal_form(path), cells)
            named_layers.setdefault((kind, name), {}).setdefault(item, []).append((path, module))
        self._stacks = [
            _Stack(kind, name, _common(modules), {item: paths[0][0] for item, paths in layers.items()})
            for (kind, name), layers in _listed(named_layers).items()
            if all(len(paths) == 1 for paths in layers.values())
            for modules in [{module for paths in layers.values() for _, module in paths}]
        ]

    def paired(self, others: Stacks) -> dict[Key, Key]:
        """Return which path here is which there: stacks of one name, then the only ones of a module.

        Args:
            others: The stacks of the other side.
        """
        pairs: dict[Key, Key] = {}
        for places_of in (_name, _modules):
            ours, theirs = (
                _by_place((stack for stack in side if taken.isdisjoint(stack.layers.values())), places_of)
                for side, taken in ((self._stacks, {*pairs}), (others._stacks, {*pairs.values()}))
            )
            for place, (one, *further) in ours.items():
                other, *rivals = theirs.get(place, (one,))
                if other is one or further or rivals or {*one.layers} != {*other.layers}:
                    continue
                if places_of is _name or place[1] in (one.module, other.module):
                    pairs.update((path, other.layers[item]) for item, path in one.layers.items())
        return pairs


def _listed(found: Mapping[tuple[str, Key], dict[str, list[T]]]) -> dict[tuple[str, Key], dict[str, list[T]]]:
    """Return stacks of which those of one layer in a list, as ``gru.0.0`` and ``gru.1.0``, are one stack."""
    listed: dict[tuple[str, Key], dict[str, list[T]]] = {}
    for (kind, name), layers in found.items():
        is_item = (
            name[-1:] and name[-1].isdigit() and {*layers} <= _ONE_LAYER and (kind, name[:-1]) not in found
        )
        stack = listed.setdefault((kind, name[:-1] if is_item else name), {})
        for item, paths in layers.items():
            stack.setdefault(name[-1] + item[1:] if is_item else item, []).extend(paths)
    return listed


def _common(modules: Collection[Key | None]) -> Key | None:
    return next(iter(modules)) if len(modules) == 1 else None


def _name(stack: _Stack) -> set[Key]:
    return {stack.name}


def _modules(stack: _Stack) -> set[Key]:
    return stack.places


def _by_place(
    stacks: Iterable[_Stack], places_of: Callable[[_Stack], Collection[Key]]
) -> dict[tuple[str, Key], list[_Stack]]:
    by_place: dict[tuple[str, Key], list[_Stack]] = {}
    for stack in stacks:
        for place in places_of(stack):
            by_place.setdefault((stack.kind, place), []).append(stack)
    return by_place


def _read(name: Key, cells: Collection[str]) -> tuple[Key, Key | None, str]:
    """Return the name of a stack, the module of one that has no name of its own, and the layer in it.

    >>> _read(("gru", "0_reverse"), {"cell"})
    (('gru',), None, '0_reverse')
    >>> _read(("gru", "backward_rnn", "cell"), {"cell"})
    (('gru',), ('gru',), '0_reverse')
    """
    module: Key | None = None
    direction, item = "", "0"
    if name[-1:] == (_CELL,):
        name = name[:-1]
        if name and name[-1] in _DIRECTIONS:
            direction, name = _DIRECTIONS[name[-1]], name[:-1]
        module = name
    if name and _ITEM.fullmatch(name[-1]) is not None:
        name, item = name[:-1], name[-1]
    if module is None and name[-1:] and name[-1] in cells:
        module = name[:-1]
    return name, module, item + direction
