"""Plain tensors that cross from one framework to another, and what has to be known of them for that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.layers import LayerTransform
from bridge_core.plugins import Registry
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.leaf_names import LayerNames
from bridge_core.resolve.neutral_layers import NeutralLayer
from bridge_core.rules import Permissions
from bridge_core.state import Key

__all__ = ["Crossing"]


class Crossing:
    """Decides which leaves that no layer takes may be copied to a framework, and on what evidence.

    Args:
        registry: Where transforms are found.
        target: The framework.
        permissions: What may be copied unasked.
        origin: Neutral key -> key in the original source, which patterns also see.
    """

    def __init__(
        self, registry: Registry, target: str, permissions: Permissions, origin: Mapping[Key, Key]
    ) -> None:
        self.refused: dict[Key, str] = {}
        self._registry = registry
        self._target = target
        self._permissions = permissions
        self._origin = origin
        self._names: dict[str, LayerNames] = {}

    def evidence(self, layer: NeutralLayer, name: str, evidence: str, *, templated: bool) -> str:
        """Return the evidence on which a leaf is copied unchanged, and note it if it is refused.

        Args:
            layer: The layer at its path.
            name: The leaf.
            evidence: The evidence for the layer.
            templated: Whether a template has a tensor of this name and shape.
        """
        if name not in layer.unclaimed and not self._is_new(layer, name, evidence):
            return evidence
        if layer.origin == self._target:
            return "name"
        key = layer.group.keys[name]
        if templated and not self._may_be_turned(layer, name):
            return "template"
        why = self._why(layer, name)
        if why and not self.is_allowed(key):
            self.refused[key] = why
        return "unclaimed"

    def is_allowed(self, *keys: Key) -> bool:
        """Return whether the caller lets all of some neutral keys be copied, whatever they are."""
        return all(self._permissions.may_copy(key, self._origin.get(key, key)) for key in keys)

    def would_be_refused(self, layer: NeutralLayer, names: Iterable[str]) -> bool:
        """Return whether leaves that are known to be plain parameters would not be copied otherwise."""
        return any(self._why(layer, name) for name in names if name in layer.group.specs)

    def _is_new(self, layer: NeutralLayer, name: str, evidence: str) -> bool:
        """Return whether a leaf came to a layer's path later: a module vouches only for names of its own."""
        beside = layer.kind not in (None, PARAMETER) and evidence == "module"
        return beside and name not in layer.leaves and bool(self._why(layer, name))

    def _may_be_turned(self, layer: NeutralLayer, name: str) -> bool:
        """Return whether a leaf that got a layer's name later may have another order of axes."""
        shape = layer.group.specs[name].shape
        return layer.doubted and len(set(shape)) < len(shape) and bool(self._why(layer, name))

    def _why(self, layer: NeutralLayer, name: str) -> str:
        group = layer.group
        if layer.misfits:
            expected = "; or ".join(f"{t.name} with {', '.join(_described(t))}" for t in layer.misfits)
            found = ", ".join(f"{leaf} {list(spec.shape)}" for leaf, spec in group.specs.items())
            return f"its module is of a type that is described as {expected}, and holds {found}"
        if layer.origin not in self._names:
            self._names[layer.origin] = LayerNames(self._registry, layer.origin, self._target)
        return self._names[layer.origin].why(group.keys[name], group.specs, group.has_children)


def _described(transform: LayerTransform) -> list[str]:
    leaves = [f"{leaf.name} [{leaf.axes}]" for leaf in transform.leaves]
    return [*leaves, *(f"{name}={value!r}" for name, value in transform.settings.items())]
