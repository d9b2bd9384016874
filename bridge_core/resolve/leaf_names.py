"""Leaf names that belong to layers: such leaves are converted only where there is evidence for what they are.

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

_NORM_OF_HAIKU = frozenset({"scale", "offset"})

_MARKS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"parametrizations"),
        "a parametrization, from which the model works the weight out when it runs; remove it first, which "
        "leaves the weight",
    ),
    (
        re.compile(r"lora|(lora|loha|hada|lokr|ia3|oft|boft|vera|hra|fourierft|vblora|randlora)_.*", re.I),
        "an adapter of another layer; merge it into that layer first",
    ),
    (
        re.compile(r".*_?flat_param(_\d+)?|.*fp32(_flat)?_groups"),
        "parameters that were flattened and joined; save the model's full state first",
    ),
    (
        re.compile(r"shadow_params"),
        "averages that were stored without the names of layers; save them under those names first",
    ),
    (re.compile(r".*_orig|(weight|bias)_mask"), "a pruned layer; make the pruning permanent first"),
    (re.compile(r"(.*/)?(mean_ema|var_ema)"), "the statistics of a batch norm of Haiku"),
    (
        re.compile(
            r"qzeros|qscales|g_idx|qidxs|(nested_)?absmax|quant_map|quant_state|scb|_packed_params|_data",
            re.I,
        ),
        "a quantised layer; dequantise it first",
    ),
)
"""Parts of names that mark tensors which are not a layer's plain weights, and what they come from."""

_LAYER_OF_STACK = re.compile(r"(?<=_l)\d+(_reverse)?$")
"""What the name of a recurrent stack's tensor ends with."""

_SCALES = re.compile(r"scale|zero|absmax|scb", re.IGNORECASE)

_OF_CODES = re.compile(r".*(scale|zero|absmax|scb|codebook).*|s|suh|svh", re.IGNORECASE)
"""Names of what quantised layers store next to their packed integers."""

_INDICES = re.compile(r"bias|mask|ind(ex|ices)|ids|pos", re.IGNORECASE)
"""Integers that a layer of plain weights may hold."""

_WITHIN_A_NAME = re.compile(r":\d+$|->|__|[^\w.-]+")
"""What separates parts that are joined into one, as in ``params|Dense_0|kernel`` or ``dense/kernel:0``."""


class LayerNames:
    """The leaf names that a conversion between two frameworks does not copy without evidence.

    Args:
        registry: Where transforms are found.
        source: Framework that the leaves' names are of; empty if unknown: then names of any framework count.
        target: Framework to convert to.
    """

    def __init__(self, registry: Registry, source: str, target: str) -> None:
        of = registry.transforms_of
        auxiliary = {(k.name, role) for k in registry.kinds.values() for role in k.auxiliary_tensors}
        self._source, self._target = source, target
        self._of_source: dict[str, list[LayerTransform]] = {}
        self._of_target: dict[str, list[LayerTransform]] = {}
        for name in [source] if source else [name for name in registry.frameworks if name != target]:
            _add_changed(self._of_source, of.get(name, ()), of.get(target, ()), auxiliary)
            _add_changed(self._of_target, of.get(target, ()), of.get(name, ()), auxiliary)
        self._neutral: set[str] = set()
        if not source:
            roles = {(kind.name, role) for kind in registry.kinds.values() for role in kind.leaves}
            self._neutral = {role.rpartition(".")[2] for _, role in roles - auxiliary} - {"bias"}

    def why(self, key: Key, specs: Mapping[str, TensorSpec], has_children: bool = False) -> str:
        """Return why a tensor is not copied without evidence of what it is; empty for a name of its own.

        Args:
            key: Its key, without a collection.
            specs: Specs of the leaves at its path, itself included.
            has_children: Whether there are layers below its path.
        """
        if marked := self.mark(key):
            return marked
        parts = [part for part in _WITHIN_A_NAME.split(key[-1]) if part]
        if parts and parts[-1] != key[-1] and self._is_named_like_any(parts[-1]):
            return (
                f"{key[-1]!r} holds {parts[-1]!r}, the name of a layer's tensor; rename it so that dots join "
                "its parts"
            )
        name = _LAYER_OF_STACK.sub("", key[-1])
        own = specs.get(key[-1])  # a search for each of very many leaves at one path would take too long
        if own is None:
            own = next((spec for leaf, spec in specs.items() if leaf.rpartition(".")[2] == key[-1]), None)
        rank = len(own.shape) if own is not None else 0
        if (
            self._is_a_layers(self._of_source.get(name, ()), specs, has_children)
            or name in _OF_OTHER_LIBRARIES
            or (name in self._of_source and name in _NORM_OF_HAIKU and specs.keys() >= _NORM_OF_HAIKU)
        ):
            origin = self._source or "another layout"
            return (
                f"{name!r} is a layer's tensor in {origin}, with another name or other axes in {self._target}"
            )
        if name in self._neutral:
            return f"{name!r} is a layer's tensor in neutral form"
        named_as_there = self._is_a_layers(self._of_target.get(name, ()), specs, has_children)
        if named_as_there and rank < 2 and self._source:
            return ""  # one axis cannot be turned
        if rank > 1 and len(specs) == 1 and not has_children and key[-2:-1] in (("weight",), ("kernel",)):
            return f"it may be the {key[-2]} of a layer, in a box; leave the last part out of its name"
        lowered = name.lower()
        if named_as_there or "weight" in lowered or "kernel" in lowered:
            return (
                f"{name!r} is named like a layer's tensor, and frameworks differ in the axes of such tensors"
            )
        if _SCALES.search(name) and any(map(_is_code, specs.values())):
            return "it scales the quantised tensor at the same path"
        if own is not None and _is_packed(own) and not _INDICES.search(name):
            scales = [n for n, spec in specs.items() if _OF_CODES.fullmatch(n) and spec.dtype.kind in "fV"]
            if scales:
                return (
                    f"it holds integers next to {scales[0]!r}, which may scale them as in a quantised layer"
                )
        return ""

    @staticmethod
    def mark(key: Key) -> str:
        """Return what a part of a name shows of its tensor; empty if no part is known."""
        for mark, meaning in _MARKS:
            if any(mark.fullmatch(part) for part in key):
                return f"the name is that of {meaning}"
        return ""

    def _is_named_like_any(self, name: str) -> bool:
        """Return whether a name is that of some layer's leaf, or of one with another name there."""
        named = name in self._of_source or name in self._of_target or name in _OF_OTHER_LIBRARIES
        return named or "weight" in name.lower() or "kernel" in name.lower()

    def _is_a_layers(
        self, transforms: Iterable[LayerTransform], specs: Mapping[str, TensorSpec], has_children: bool
    ) -> bool:
        """Return whether some layer may have a leaf; some names count only where no other leaf is."""
        for transform in transforms:
            if not transform.only_leaves:
                return True
            needed = {leaf.name for leaf in transform.leaves if not leaf.optional}
            if not has_children and needed <= specs.keys() <= transform.by_name().keys():
                return True
        return False


def _is_code(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and spec.dtype.itemsize == 1 and spec.dtype.kind != "b"


def _is_packed(spec: TensorSpec) -> bool:
    return len(spec.shape) > 1 and spec.dtype.itemsize < 8 and spec.dtype.kind in "iu"


def _add_changed(
    names: dict[str, list[LayerTransform]],
    source: Iterable[LayerTransform],
    target: Iterable[LayerTransform],
    auxiliary: set[tuple[str, str]],
) -> None:
    """Add the names of leaves that some layer has under another name or with other axes in the target.

    A name that counts only without other leaves in one layer does so in others where it is optional: Flax's
    norms and batch norms both have a ``scale``.
    """
    same: dict[str, set[object]] = {}
    for transform in target:
        same.setdefault(transform.kind, set()).update(map(_form, transform.leaves))
    source = tuple(source)
    only_names = {
        leaf.parts[-1] for transform in source if transform.only_leaves for leaf in transform.leaves
    }
    for transform in source:
        for leaf in transform.leaves:
            name = leaf.parts[-1]
            changed = _form(leaf) not in same.get(transform.kind, ())
            declared = not all((transform.kind, role) in auxiliary for role in leaf.roles)
            if changed and declared and name != "bias" and not (leaf.optional and name in only_names):
                names.setdefault(name, []).append(transform)


def _form(leaf: Leaf) -> tuple[object, ...]:
    return (leaf.name, leaf.role, leaf.axes, leaf.flip)
