"""Plain tensors that cross from one framework to another, and what has to be known of them for that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from bridge_core.layers import LayerTransform
from bridge_core.messages import listed
from bridge_core.plugins import Registry
from bridge_core.resolve.leading_axis import leading_axis
from bridge_core.resolve.leaf_names import LayerNames
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.rules import Permissions
from bridge_core.state import Key, TensorSpec

__all__ = ["Crossing", "misfit_text", "misfit_ways"]

_MANY = 64
"""Leaves of one layer from which looking each of them up in a list would take too long."""


class Crossing:
    """Decides which leaves that no layer takes may be copied to a framework, and on what evidence.

    Args:
        registry: Where transforms are found.
        target: The framework.
        permissions: What may be copied unasked.
        names_of: Gives the names of a neutral key that patterns see.
        waiting: Keys of tensors that a rule was to move, and that go back to where they come from.
    """

    def __init__(
        self,
        registry: Registry,
        target: str,
        permissions: Permissions,
        names_of: Callable[[Key], tuple[Key, ...]],
        waiting: Collection[Key] = (),
    ) -> None:
        self.refused: dict[Key, str] = {}
        self.derived: set[Key] = set()
        self._registry = registry
        self._target = target
        self._permissions = permissions
        self._names_of = names_of
        self._waiting = waiting
        self._names: dict[str, LayerNames] = {}
        self._ways_back: dict[str, LayerNames] = {}
        self._many: tuple[NeutralLayer, frozenset[str], frozenset[str]] | None = None

    def evidence(self, layer: NeutralLayer, name: str, evidence: str, *, templated: bool) -> str:
        """Return the evidence on which a leaf is copied unchanged, and note it if it is refused.

        Args:
            layer: The layer at its path.
            name: The leaf.
            evidence: The evidence for the layer.
            templated: Whether a template has a tensor of this name and shape.
        """
        key = layer.group.keys[name]
        leaves, unclaimed = self._named(layer)
        if name in leaves or key in self._waiting:
            return evidence
        recorded = name in unclaimed
        if recorded and layer.origin and self._target in (layer.origin, *layer.transforms):
            return "name"
        if templated and not self._may_be_turned(layer, name):
            return "template"
        why = self._why(layer, name)
        if why and not self.is_allowed(key):
            self.refused[key] = why
            if LayerNames.mark(key):
                self.derived.add(key)
        # A live module vouched for what a record leaves out next to a layer: it does for own names only.
        return "unclaimed" if why or recorded else evidence

    def is_allowed(self, *keys: Key) -> bool:
        """Return whether the caller allows to copy all of some neutral keys, whatever they are."""
        if not self._permissions.allow_unclaimed:
            return not keys
        return all(self._permissions.may_copy(*self._names_of(key)) for key in keys)

    def returns(self, layer: NeutralLayer, names: Iterable[str]) -> bool:
        """Return whether leaves that no evidence explains would be copied back to where they come from."""
        if layer.origin not in self._ways_back:
            self._ways_back[layer.origin] = LayerNames(self._registry, self._target, layer.origin)
        back, group = self._ways_back[layer.origin], layer.group
        return not any(back.why(group.keys[name], group.specs, group.has_children) for name in names)

    def would_be_refused(self, layer: NeutralLayer, names: Iterable[str]) -> bool:
        """Return whether leaves that are known to be plain parameters would not be copied otherwise."""
        return any(self._why(layer, name) for name in names if name in layer.group.specs)

    def _may_be_turned(self, layer: NeutralLayer, name: str) -> bool:
        """Return whether a leaf that got a layer's name later may have another order of axes."""
        shape = layer.group.specs[name].shape
        return layer.doubted and len(set(shape)) < len(shape) and bool(self._why(layer, name))

    def _named(self, layer: NeutralLayer) -> tuple[Collection[str], Collection[str]]:
        """Return the leaves of a layer and its unclaimed ones, as sets where there are many of one layer."""
        if max(len(layer.leaves), len(layer.unclaimed)) < _MANY:
            return layer.leaves, layer.unclaimed
        if self._many is None or self._many[0] is not layer:
            self._many = (layer, frozenset(layer.leaves), frozenset(layer.unclaimed))
        return self._many[1:]

    def _why(self, layer: NeutralLayer, name: str) -> str:
        group = layer.group
        if layer.misfits:
            return LayerNames.mark(group.keys[name]) or misfit_text(layer.misfits, group.specs)
        # The origin of a leaf that came to a recorded layer later is not known.
        origin = layer.origin if any(name in names for names in self._named(layer)) else ""
        if origin not in self._names:
            self._names[origin] = LayerNames(self._registry, origin, self._target)
        why = self._names[origin].why(group.keys[name], group.specs, group.has_children)
        size = leading_axis(group.specs.values()) if why else None
        if size is not None:
            why += (
                f"; the tensors at its path share a first axis of {size}, as stacked layers or copies on "
                "several devices do: split them first"
            )
        return why


def misfit_text(misfits: Sequence[LayerTransform], specs: Mapping[str, TensorSpec]) -> str:
    """Return which leaves were expected for the type of a layer's module, and which it has.

    Args:
        misfits: The transforms for the type, one or more.
        specs: The layer's leaves.
    """
    usual, *others = misfits
    leaves = ", ".join(_described(usual))
    more = f", or {listed((transform.name for transform in others), 3)}" if others else ""
    got = ", ".join(f"{leaf} {list(spec.shape)}" for leaf, spec in specs.items())
    note = f"{usual.misfit_note}; " if usual.misfit_note else ""
    return f"{note}expected {leaves} for the type of its module ({usual.name}{more}), got {got}"


def misfit_ways(misfits: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what to do about layers that do not fit their types, for the refusal of a plan.

    Args:
        misfits: Text of `misfit_text` -> the first layer that it is true of.
    """
    way = "Correct the transform, if it is yours, or pass a model whose layer has these tensors."
    rows = (f"The layer {path!r} does not fit its type: {text}. {way}" for text, path in misfits.items())
    return tuple((row, "") for row in rows)[:2]


def _described(transform: LayerTransform) -> list[str]:
    leaves = [f"{leaf.name} [{leaf.axes}]" for leaf in transform.leaves]
    return [*leaves, *(f"{name}={value!r}" for name, value in transform.settings.items())]
