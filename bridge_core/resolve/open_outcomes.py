"""What remains open about a layer: how to name it, and what the words of its path suggest."""

from __future__ import annotations

from bridge_core.axes import bind_axes
from bridge_core.plugins import Registry
from bridge_core.resolve.evidence import PARAMETER, guess
from bridge_core.resolve.leaf_matching import Outcome
from bridge_core.resolve.neutral_layers import NeutralLayer

__all__ = ["guessed", "is_order_open", "open_options"]


def guessed(layer: NeutralLayer, outcomes: tuple[Outcome, ...], registry: Registry) -> tuple[Outcome, ...]:
    """Choose among outcomes by the words of the layer's path."""
    named = {c.kind if c is not None else PARAMETER: c for c in layer.candidates}
    options = [named[o.source.kind] for o in outcomes if o.source.kind in named]
    if options:
        chosen = guess(layer.group.path, options)
        kind = chosen.kind if chosen is not None else PARAMETER
        fitting = [o for o in outcomes if o.source.kind == kind]
        return tuple(fitting[:1]) or outcomes[:1]
    transforms = [registry.transforms.get(o.target.transform or "") for o in outcomes]
    best = guess(layer.group.path, transforms)
    return (outcomes[transforms.index(best)],) if best in transforms else outcomes[:1]


def is_order_open(layer: NeutralLayer, outcome: Outcome, registry: Registry) -> bool:
    """Return whether a template leaves open in which order a layer's axes are.

    A module of an unknown type, or a sibling that denies the reading, shows that names are not to be trusted:
    the leaves may be those of a layer with exchanged axes. Two axes of one size look alike then.
    """
    candidates = [candidate for candidate in layer.candidates if candidate is not None]
    if layer.kind is not None or layer.evidence == "rule" or len(candidates) != 1:
        return False
    if outcome.source.kind == PARAMETER or len(layer.candidates) == 1:
        return False
    kind = registry.kinds[outcome.source.kind]
    for (is_leaf, role), use in outcome.source.leaves.items():
        axes = kind.leaves[role].split() if is_leaf else []
        binding = bind_axes(kind.leaves[role], use.shape) if len(axes) > 1 else None
        sizes = [n for name, (n, *_) in (binding or {}).items() if name in axes]
        if len(set(sizes)) < len(sizes):
            return True
    return False


def open_options(outcomes: tuple[Outcome, ...]) -> tuple[str, ...]:
    """Return what is ambiguous: kinds, or where they agree the layouts of either side."""
    for names in (
        [o.source.kind for o in outcomes],
        [o.source.transform or PARAMETER for o in outcomes],
        [o.target.transform or PARAMETER for o in outcomes],
    ):
        distinct = tuple(dict.fromkeys(names))
        if len(distinct) > 1:
            return distinct
    return (outcomes[0].source.kind,) if outcomes else ()
