"""The layer records of a neutral state's metadata, as far as they fit the tensors that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod

from bridge_core.axes import bind_axes
from bridge_core.layers import LayerKind, LayerTransform
from bridge_core.plugins import Registry, undecided_problem
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.state import FlatState, LayerInfo, TensorSpec

__all__ = ["NeutralRecords"]

_KNOWN_PARAMETERS = frozenset({"rule", "metadata", "template", "guess"})
"""Evidence of plain parameters that is believed of a record without an origin; the first version recorded
everything that it did not know as plain parameters, too."""


class NeutralRecords:
    """Reads the layer records of a neutral state.

    Args:
        state: The state.
        registry: Where kinds and transforms are found.
        neutral: The kinds' own layouts, by name.
    """

    def __init__(self, state: FlatState, registry: Registry, neutral: Mapping[str, LayerTransform]) -> None:
        self._registry = registry
        self._kinds = registry.kinds
        self._transforms = {**neutral, **registry.transforms}
        self._layers = state.metadata.layers
        self._usual_origin: str | None = None

    def fitted(self, info: LayerInfo, specs: Mapping[str, TensorSpec]) -> LayerInfo | None:
        """Return a record as far as it holds for the leaves at its path; None if it does not.

        Args:
            info: The record.
            specs: Leaf name -> spec, of all that is at the path.
        """
        is_edited = not (info.origin or specs.keys() >= set(info.leaves))
        info = self._with_origin(info, specs)
        if is_edited:  # the axes of what is there instead are not known
            info = replace(info, origin="")
        if not {*info.leaves, *info.unclaimed} <= specs.keys():
            leaves = tuple(name for name in info.leaves if name in specs)
            unclaimed = tuple(name for name in info.unclaimed if name in specs)
            info = replace(info, leaves=leaves, unclaimed=unclaimed)
            if not info.leaves:
                return replace(info, kind=None, evidence="unclaimed", candidates=()) if unclaimed else None
        if info.kind is None:
            return None if undecided_problem(info, self._registry) else info
        if info.kind == PARAMETER:
            return info
        if not info.leaves:
            return None
        kind = self._kinds.get(info.kind)
        return info if kind is None or _fits(kind, info, specs) else None

    def _with_origin(self, info: LayerInfo, specs: Mapping[str, TensorSpec]) -> LayerInfo:
        """Return a record of the first version, or one made by hand, with what it leaves open marked."""
        if info.origin:
            named = (*info.leaves, *info.unclaimed)
            new = tuple(name for name in specs if name not in named) if info.kind == PARAMETER else ()
            return replace(info, unclaimed=(*info.unclaimed, *new)) if new else info
        if info.kind == PARAMETER and info.evidence not in _KNOWN_PARAMETERS:
            return LayerInfo(None, "unclaimed", (), unclaimed=tuple(specs), origin=self._origin())
        if info.kind == PARAMETER or info.unclaimed:
            return info
        others = tuple(name for name in specs if name not in info.leaves)
        if not others and info.kind is not None:
            return info
        return replace(info, unclaimed=others, origin="" if self._are_neutral(others) else self._origin())

    def _are_neutral(self, names: Iterable[str]) -> bool:
        """Return whether leaves are called as in neutral form, so that they may have come later."""
        roles = {role for kind in self._kinds.values() for role in kind.leaves} - {"bias"}
        return any(name in roles for name in names)

    def _origin(self) -> str:
        """Return the framework that most layers come from; empty if none is recorded."""
        if self._usual_origin is None:
            names = Counter(name for info in self._layers.values() for name in info.transforms)
            names.update(
                transform.framework
                for info in self._layers.values()
                for name in info.candidates
                if (transform := self._transforms.get(name)) is not None
            )
            self._usual_origin = max(names, key=names.__getitem__, default="")
        return self._usual_origin

    def named(
        self, info: LayerInfo
    ) -> tuple[tuple[LayerTransform | None, ...], tuple[LayerTransform, ...], str]:
        """Return a record's candidates, the transforms that do not fit, and what no plugin provides."""
        if info.kind in self._kinds and not info.candidates:
            return (), (), ""
        missing = "" if info.kind in (None, PARAMETER) or info.kind in self._kinds else str(info.kind)
        named = [name for name in info.candidates if name != PARAMETER]
        missing = next((name for name in named if name not in self._transforms), missing)
        if info.evidence == "unclaimed":
            return (), tuple(self._transforms[name] for name in named if name in self._transforms), missing
        candidates = tuple(
            None if name == PARAMETER else self._transforms[name]
            for name in info.candidates
            if name == PARAMETER or name in self._transforms
        )
        return candidates, (), missing


def _fits(kind: LayerKind, info: LayerInfo, specs: Mapping[str, TensorSpec]) -> bool:
    """Return whether leaves have the axes of a kind, with sizes that agree with each other and the splits."""
    sizes: dict[str, tuple[int, ...]] = {}
    for name in info.leaves:
        axes = kind.leaves.get(name)
        binding = bind_axes(axes, specs[name].shape) if axes is not None else None
        if binding is None:
            return False
        if kind.composite:
            continue
        for axis, axis_sizes in binding.items():
            if sizes.setdefault(axis, axis_sizes) != axis_sizes:
                return False
    return kind.composite or all(
        prod(axis_sizes) == prod(sizes[axis])
        for axis, axis_sizes in info.axis_splits.items()
        if axis in sizes
    )
