"""Finds the first module whose inputs are equal on both sides and whose outputs are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bridge_core.conversion import plan_conversion
from bridge_core.errors import BridgeError
from bridge_core.plugins import ModuleCall, ModuleSettings, Registry
from bridge_core.proof.causes import ModuleView, Site
from bridge_core.proof.running.models import Side, module_path
from bridge_core.proof.running.module_pairs import ModuleError
from bridge_core.state import Array, FlatState, Key

__all__ = ["Place", "SideOfSite", "first_place", "site_of"]


@dataclass(frozen=True, eq=False)
class Place:
    """Where two models part.

    Args:
        outer: The innermost pair whose inputs are equal and whose outputs are not.
        at: The first pair directly inside it whose outputs and inputs differ, or have other sizes; None if
            there is none.
        inner: The pairs directly inside it, in order.
        sure: Whether the inputs of ``outer`` were seen to be equal.
    """

    outer: ModuleError
    at: ModuleError | None
    inner: tuple[ModuleError, ...]
    sure: bool = True


def first_place(errors: Sequence[ModuleError], limit: float) -> Place | None:
    """Return where two models part; None if their own outputs are equal, or nothing was recorded.

    Args:
        errors: The errors of all pairs; the models' own come first.
        limit: The error up to which arrays are equal.
    """
    if not errors:
        return None
    current, sure = errors[0], True
    errors = [one for one in errors if not one.pair.near or _is_one_place(one, errors, limit)]
    while True:
        inner = _directly_inside(current, errors)
        differing = [
            one
            for one in inner
            if one.outputs is not None and not one.outputs <= limit and not _made_up_for(one, inner, limit)
        ]
        if not differing:
            unfit = next((one for one in inner if one.outputs is None and _takes_other_sizes(one)), None)
            return Place(current, unfit, tuple(inner), sure)
        first = differing[0]
        if first.inputs is not None and not first.inputs <= limit:
            return Place(current, first, tuple(inner), sure)
        sure = sure and first.inputs is not None
        if not first.pair.single:
            return Place(first, None, (), sure)
        current = first


def _is_one_place(near: ModuleError, errors: Sequence[ModuleError], limit: float) -> bool:
    """Return whether modules with other weights do the same: from equal inputs, and no output is made up for.

    Where the next module has equal inputs although the outputs differ, one module does more than the other.
    """
    if near.inputs is None or not near.inputs <= limit or not near.pair.single:
        return False
    if near.outputs is not None and near.outputs <= limit:
        return True
    around = [one for one in errors if _is_inside(near, one)]
    outer = max(around, key=lambda one: one.pair.source[0].began, default=errors[0])
    ended = near.pair.source[0].ended
    return not any(
        one.inputs is not None and one.inputs <= limit
        for one in _directly_inside(outer, errors)
        if one.pair.source[0].began > ended
    )


def _takes_other_sizes(one: ModuleError) -> bool:
    ours, theirs = (
        next(iter(call.inputs.values()), None) for call in (one.pair.source[0], one.pair.target[0])
    )
    return one.pair.single and ours is not None and theirs is not None and ours.size != theirs.size


def _made_up_for(one: ModuleError, inner: Sequence[ModuleError], limit: float) -> bool:
    """Return whether outputs of other sizes become equal before the next module: a token is added outside."""
    if one.outputs != float("inf"):
        return False
    ended = one.pair.source[0].ended
    later = [other for other in inner if other.pair.source[0].began > ended]
    if not later or later[0].inputs is None or not later[0].inputs <= limit:
        return False
    mine, following = (list(each.pair.source[0].inputs.values()) for each in (one, later[0]))
    # The next module may run in parallel to this one, on the same input.
    return not (mine and following and np.array_equal(mine[0], following[0]))


def _directly_inside(outer: ModuleError, errors: Sequence[ModuleError]) -> list[ModuleError]:
    """Return the pairs inside a pair that no other pair inside it holds."""
    within = [one for one in errors if one is not outer and _is_inside(one, outer)]
    return [one for one in within if not any(_is_inside(one, other) for other in within if other is not one)]


def _is_inside(inner: ModuleError, outer: ModuleError) -> bool:
    return all(
        big.began < small.began and small.ended < big.ended
        for smalls, bigs in ((inner.pair.source, outer.pair.source), (inner.pair.target, outer.pair.target))
        for small in smalls
        for big in bigs[:1]
    )


@dataclass(frozen=True, eq=False)
class SideOfSite:
    """What is known of one model, to show a module of it.

    Args:
        side: The model.
        weights: Its weights, values in memory.
        calls: All calls of its traced run.
        settings: Path -> settings of its modules.
        layers: Path -> layer kind and neutral values.
        stacked: Keys of weights that hold several tensors of the other model.
    """

    side: Side
    weights: FlatState
    calls: Sequence[ModuleCall]
    settings: Mapping[Key, ModuleSettings] = field(default_factory=dict)
    layers: Mapping[Key, tuple[str, Mapping[str, Array]]] = field(default_factory=dict)
    stacked: frozenset[Key] = frozenset()

    @classmethod
    def of(
        cls,
        side: Side,
        weights: FlatState,
        calls: Sequence[ModuleCall],
        settings: Mapping[Key, ModuleSettings] | None,
        registry: Registry,
        stacked: frozenset[Key] = frozenset(),
    ) -> SideOfSite:
        """Return one with the layers that module types, names and shapes show."""
        return cls(side, weights, calls, settings or {}, _layers(weights, registry), stacked)

    def view(self, call: ModuleCall, paired: Sequence[ModuleCall]) -> ModuleView:
        """Return a call with its weights and the calls inside it.

        Args:
            call: The call.
            paired: Calls that must be among the direct children; what only wraps them is left out.
        """
        children = [self.view(child, ()) for child in self.children(call, paired)]
        kind, neutral = self.layers.get(call.path, (None, {}))
        place, number = self._place_in_stack(call)
        if number > 1:
            neutral = {}  # its leaves are those of all layers
        known = self.settings.get(call.path)
        size = len(call.path)
        weights = {}
        for key in self.weights:
            plain = module_path(key, self.weights, self.side.framework)
            if plain[:size] == call.path and len(plain) > size:
                value = self.weights.read(key)
                is_stack = key in self.stacked and value.ndim and number == len(value) > 1
                weights[plain[size:]] = value[place] if is_stack else value
        return ModuleView(
            call.path,
            call.type,
            self.side.layout,
            call.inputs,
            call.outputs,
            call.plain,
            known.values if known is not None else {},
            weights,
            kind,
            neutral,
            tuple(children),
            self.side.channels,
        )

    def _place_in_stack(self, call: ModuleCall) -> tuple[int, int]:
        """Return the place of a call among those of its module, and their number; (0, 1) without a stack."""
        size = len(call.path)
        same = [one for one in self.calls if one.path == call.path]
        stacked = len(same) > 1 and any(
            module_path(key, self.weights, self.side.framework)[:size] == call.path for key in self.stacked
        )
        return (same.index(call), len(same)) if stacked else (0, 1)

    def children(self, call: ModuleCall, paired: Sequence[ModuleCall]) -> list[ModuleCall]:
        """Return the calls directly inside a call; one that only wraps paired calls is replaced by these."""
        within = [one for one in self.calls if call.began < one.began and one.ended < call.ended]
        direct = [
            one
            for one in within
            if not any(other.began < one.began and one.ended < other.ended for other in within)
        ]
        children: list[ModuleCall] = []
        for one in direct:
            holds = any(one.began < other.began and other.ended < one.ended for other in paired)
            children += self.children(one, paired) if holds and one not in paired else [one]
        return children


def site_of(place: Place, source: SideOfSite, target: SideOfSite, control: float) -> Site | None:
    """Return what is to be explained; None where the place is not one module of each side.

    Args:
        place: Where the models part.
        source: The source's side.
        target: The target's side.
        control: Relative error that is rounding.
    """
    if not place.outer.pair.single:
        return None
    ours = [call for inner in place.inner for call in inner.pair.source]
    theirs = [call for inner in place.inner for call in inner.pair.target]
    one, other = place.outer.pair.source[0], place.outer.pair.target[0]
    source_children, target_children = source.children(one, ours), target.children(other, theirs)
    pairs: list[tuple[int, int]] = []
    at: int | None = None
    for inner in place.inner:
        if inner is place.at:
            at = len(pairs)
        for call in inner.pair.source:
            for twin in inner.pair.target:
                if call in source_children and twin in target_children:
                    pairs.append((source_children.index(call), target_children.index(twin)))
    if at is not None and at >= len(pairs):
        at = None
    return Site(
        source.view(one, ours),
        target.view(other, theirs),
        tuple(pairs),
        at,
        control,
        source.side.inputs,
        target.side.inputs,
    )


def _layers(weights: FlatState, registry: Registry) -> dict[Key, tuple[str, Mapping[str, Array]]]:
    """Return the layers of a model by path, with neutral values."""
    try:
        plan = plan_conversion(weights, to="neutral", registry=registry, recipe="none", check=False)
        if not plan.ok:
            return {}
        neutral = plan.apply(weights)
    except BridgeError:
        return {}
    layers: dict[Key, tuple[str, Mapping[str, Array]]] = {}
    for path, info in neutral.metadata.layers.items():
        if info.kind is None or info.kind == "parameter":
            continue
        values = {
            leaf: neutral.read(key) for leaf in info.leaves if (key := (*path, *leaf.split("."))) in neutral
        }
        layers[path] = (info.kind, values)
    return layers
