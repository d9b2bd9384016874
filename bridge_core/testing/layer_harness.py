"""What the contract of layer transforms is made of: layers of random shape and values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, settings, strategies as st

from bridge_core.axes import Axis, parse_axes
from bridge_core.layers import Factors, LayerKind, LayerTransform
from bridge_core.plugins import Registry, default_registry
from bridge_core.rules import Pattern, Rule
from bridge_core.state import Array, FlatState, Key, ModuleInfo, StateMetadata

__all__ = ["EXAMPLES", "PATH", "DrawnLayer", "LayerHarness", "distinct_shapes"]

EXAMPLES = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[
        HealthCheck.differing_executors,  # every subclass runs the inherited test
        HealthCheck.too_slow,
    ],
)
PATH: Key = ("block", "layer")


@dataclass(frozen=True)
class DrawnLayer:
    """One layer of random shape and values, in the framework's native layout."""

    transform: LayerTransform
    kind: LayerKind
    values: Mapping[str, Array]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each leaf."""
        return {name: value.shape for name, value in self.values.items()}

    @property
    def rank(self) -> int:
        """Largest number of axes of a leaf."""
        return max((len(shape) for shape in self.shapes.values()), default=0)

    @property
    def axis_splits(self) -> Factors:
        """How its axes are split."""
        binding = self.transform.bindings(self.shapes)[0]
        return tuple(sorted(self.transform.split_axes(binding).items()))

    def state(self) -> FlatState:
        """Return the layer as a model's state, with its module's type where the transform names one."""
        tensors = {(*PATH, *name.split(".")): value for name, value in self.values.items()}
        modules = {}
        if self.transform.modules:
            types = self.transform.modules[:1]
            binding = self.transform.bindings(self.shapes)[0]
            known = {
                name: binding[axis]
                for axis, names in self.transform.axis_splits.items()
                for name in names.split()
                if len(binding.get(axis, ())) > 1
            }
            modules[PATH] = ModuleInfo(types, {**self.transform.settings, **known}, tuple(self.values))
        metadata = StateMetadata(modules=modules)
        return FlatState(tensors, layout=self.transform.framework, metadata=metadata)

    def rules(self) -> tuple[Rule, ...]:
        """Return the rule that stands in for a type, where the transform names none."""
        if self.transform.modules:
            return ()
        return (Rule.layer(Pattern(PATH), self.kind.name),)


class LayerHarness:
    """The transforms under test, and layers of theirs."""

    transforms: tuple[LayerTransform, ...]
    registry: Registry | None = None

    def _registry(self) -> Registry:
        return self.registry or default_registry()

    def _layer(self, data: st.DataObject) -> DrawnLayer:
        transform = data.draw(st.sampled_from(self.transforms), label="transform")
        optional = [leaf.name for leaf in transform.leaves if leaf.optional]
        left_out = set(data.draw(st.lists(st.sampled_from(optional), unique=True))) if optional else set()
        names = [leaf.name for leaf in transform.leaves if leaf.name not in left_out]
        if not names:
            names = [transform.leaves[0].name]

        def draw(label: str, least: int, most: int) -> tuple[int, ...]:
            sizes = st.lists(st.integers(1, 4), min_size=least, max_size=most)
            return tuple(data.draw(sizes, label=label))

        shapes = draw_shapes(transform, names, draw)
        values = {}
        offset = 1
        for name, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64))
            values[name] = np.arange(offset, offset + count, dtype=np.int32).reshape(shape)
            offset += count
        return DrawnLayer(transform, self._registry().kinds[transform.kind], values)


Draw = Callable[[str, int, int], tuple[int, ...]]
"""Returns sizes for an axis name: at least and at most so many."""


def draw_shapes(transform: LayerTransform, names: list[str], draw: Draw) -> dict[str, tuple[int, ...]]:
    """Draw the sizes of each axis name once, and build the leaves' shapes."""
    drawn = _Drawn(transform, draw)
    axes = {name: parse_axes(transform.by_name()[name].axes) for name in names}
    padded = [name for name in names if any(axis.spread and axis.name == "1" for axis in axes[name])]
    shapes = {name: drawn.shape(axes[name]) for name in names if name not in padded}
    rank = max((len(shape) for shape in shapes.values()), default=1)
    for name in padded:
        spare = max(0, rank - sum(not axis.spread for axis in axes[name]))
        shapes[name] = drawn.shape(axes[name], spare)
    return {name: shapes[name] for name in names}


def distinct_shapes(
    transform: LayerTransform, names: list[str], *, longest: bool, smallest: int = 2
) -> dict[str, tuple[int, ...]]:
    """Return shapes in which no two axes have one size, with as few or as many axes as can be."""
    sizes = itertools.count(smallest)

    def draw(label: str, least: int, most: int) -> tuple[int, ...]:
        return tuple(itertools.islice(sizes, most if longest else least))

    return draw_shapes(transform, names, draw)


class _Drawn:
    """The sizes of a layer's axes, each drawn when it is first needed."""

    def __init__(self, transform: LayerTransform, draw: Draw) -> None:
        self.draw = draw
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.alike = {other: one for one, other in transform.equal_axes}
        members = [axis.members for leaf in transform.leaves for axis in parse_axes(leaf.axes)]
        # Parts of one tensor are equal, and an axis of one or more that is split must be split somewhere.
        self.alike.update({name: group[0] for group in members for name in group[1:] if name != group[0]})
        self.least = {
            axis.name: max(axis.fixed, 2 * (axis.split == 0))
            for leaf in transform.leaves
            for axis in parse_axes(leaf.axes)
        }

    def shape(self, axes: tuple[Axis, ...], spare: int = 0) -> tuple[int, ...]:
        shape: list[int] = []
        for axis in axes:
            if axis.name == "1":
                shape.extend([1] * (spare if axis.spread else 1))
            else:
                sizes = self.of(axis.name, axis)
                shape.extend(sizes if len(axis.members) == 1 else [sizes[0] * len(axis.members)])
        return tuple(shape)

    def of(self, name: str, axis: Axis) -> tuple[int, ...]:
        name = self.alike.get(name, name)
        if name not in self.sizes:
            most = 3 if axis.variable else axis.fixed
            least = min(self.least.get(name, axis.fixed), most)
            self.sizes[name] = self.draw(name, least, max(least, most))
        return self.sizes[name]
