"""Leaf names that belong to layers: what crosses frameworks only where something says what it is.

A tensor called ``weight`` has other axes or another name on the other side, whatever its layer is; one
called ``cls_token`` is its module's own and the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from bridge_core.layers import LayerTransform, Leaf
from bridge_core.plugins import Registry
from bridge_core.state import Key, TensorSpec

__all__ = ["LayerNames"]

_OF_OTHER_LIBRARIES = frozenset({"embeddings", "moving_mean", "moving_variance", "w"})
"""Leaves of the layers of Haiku and Keras."""

_MARKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"parametrizations"), "a parametrization that torch works out when it runs"),
    (re.compile(r"lora|lora_.*|loha_.*|hada_.*|lokr_.*|ia3_.*", re.IGNORECASE), "a low-rank adapter"),
    (re.compile(r".*_?flat_param(_\d+)?"), "parameters that FSDP flattened and joined"),
    (re.compile(r".*_orig"), "a pruned layer"),
    (re.compile(r"qzeros|qscales|g_idx|(nested_)?absmax|quant_map|quant_state|scb", re.I), "a quantised layer"),
)
"""Parts of names that mark tensors which are not a layer's plain weights, and what they come from."""

_LAYER_OF_STACK = re.compile(r"(?<=_l)\d+(_reverse)?$")
"""What the name of a recurrent stack's tensor ends with."""

_SCALES = re.compile(r"scale|zero|absmax|scb", re.IGNORECASE)


class LayerNames:
    """The leaf names that a conversion between two frameworks does not copy without evidence.

    Args:
        registry: Where transforms are found.
        source: Framework whose names the leaves have; empty if unknown, then that of any.
        target: Framework to convert to.
    """

    def __init__(self, registry: Registry, source: str, target: str) -> None:
        others = [name for name in registry.frameworks if name != target]
        sources = [source] if source else others
        of = registry.transforms_of
        auxiliary = {(k.name, role) for k in registry.kinds.values() for role in k.auxiliary_tensors}
        self._source, self._target = source, target
        self._of_source: set[str] = set()
        self._of_target: set[str] = set()
        for name in sources:
            self._of_source |= _changed(of.get(name, ()), of.get(target, ()), auxiliary)
            self._of_target |= _changed(of.get(target, ()), of.get(name, ()), auxiliary)
        if not source:
            roles = {(kind.name, role) for kind in registry.kinds.values() for role in kind.leaves}
            self._of_source |= {role.rpartition(".")[2] for _, role in roles - auxiliary} - {"bias"}
            self._of_source |= self._of_target

    def why(self, key: Key, spec: TensorSpec, siblings: Iterable[TensorSpec] = ()) -> str:
        """Return why a tensor is not copied unless something says what it is; empty for a name of its own.

        Args:
            key: Its key, without a collection.
            spec: Its spec.
            siblings: Specs of the tensors at its path.
        """
        name = _LAYER_OF_STACK.sub("", key[-1])
        origin = self._source or "some framework"
        for mark, meaning in _MARKS:
            if any(mark.fullmatch(part) for part in key):
                return f"the name is that of {meaning}"
        if name in self._of_source or name in _OF_OTHER_LIBRARIES:
            return f"{name!r} is a layer's tensor in {origin}, with another name or other axes in {self._target}"
        if len(spec.shape) < 2 and name in self._of_target:
            return ""  # named as the target has it, and one axis cannot be turned
        lowered = name.lower()
        if "weight" in lowered or "kernel" in lowered:
            return f"{name!r} is named like a layer's tensor, whose axes differ between frameworks"
        if name in self._of_target:
            return f"{name!r} is a layer's tensor in {self._target}"
        if _SCALES.search(name) and any(_is_code(sibling) for sibling in siblings):
            return "it scales the quantised tensor at the same path"
        return ""


def _is_code(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and spec.dtype.itemsize == 1 and spec.dtype.kind != "b"


def _changed(
    source: Iterable[LayerTransform], target: Iterable[LayerTransform], auxiliary: set[tuple[str, str]]
) -> set[str]:
    """Return the names of leaves that some layer has under another name or with other axes in the target."""
    same: dict[str, set[object]] = {}
    for transform in target:
        same.setdefault(transform.kind, set()).update(map(_form, transform.leaves))
    return {
        leaf.parts[-1]
        for transform in source
        for leaf in transform.leaves
        if _form(leaf) not in same.get(transform.kind, ())
        and not all((transform.kind, role) in auxiliary for role in leaf.roles)
        and leaf.parts[-1] != "bias"
    }


def _form(leaf: Leaf) -> tuple[object, ...]:
    return (leaf.name, leaf.role, leaf.axes, leaf.flip)
