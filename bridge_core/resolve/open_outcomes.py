"""What remains open about a layer: the options to name, and what the words of its path suggest."""

from __future__ import annotations

from bridge_core.axes import bind_axes
from bridge_core.plugins import Registry
from bridge_core.resolve.evidence import PARAMETER, Detection, guess
from bridge_core.resolve.leaf_matching import Outcome
from bridge_core.resolve.neutral_layers import NeutralLayer

__all__ = ["differing_splits", "guessed", "is_order_open", "open_options"]


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


def is_order_open(layer: NeutralLayer, detection: Detection, outcome: Outcome, registry: Registry) -> bool:
    """Return whether a template leaves open in which order a layer's axes are.

    Where the order is in doubt on either side, two axes of one size look alike.

    Args:
        layer: The source's layer.
        detection: What its counterpart in the template is.
        outcome: What would become of it.
        registry: Where kinds are found.
    """
    source, target = outcome.source, outcome.target
    same_layout = target.transform and target.transform in (source.transform, *layer.transforms.values())
    if source.kind == PARAMETER or same_layout:
        return False
    is_doubted = layer.doubted and layer.kind is None and layer.evidence != "rule"
    if not (is_doubted or (detection.doubted and detection.transform is None)):
        return False
    kind = registry.kinds[source.kind]
    for (is_leaf, role), use in source.leaves.items():
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


def differing_splits(layer: NeutralLayer, detection: Detection, outcome: Outcome) -> str:
    """Return which axis, as heads, both sides split into other sizes; empty if there is none."""
    target_splits = {**detection.axis_splits, **outcome.target.axis_splits}
    for axis, sizes in layer.axis_splits.items():
        target_sizes = target_splits.get(axis, sizes)
        if outcome.source.kind == layer.kind and target_sizes != sizes:
            texts = [" x ".join(map(str, parts)) for parts in (sizes, target_sizes)]
            return f"expected {axis} split into {texts[1]} as in the target, got {texts[0]}"
    return ""
