"""The contract of layer transforms: for every shape that fits, values go to neutral form and come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st

from bridge_core.axes import Axis, bind_axes, parse_axes
from bridge_core.layers import Factors, LayerKind, LayerTransform, cut_of, from_neutral_ops, to_neutral_ops
from bridge_core.ops import chain_specs, chain_tensors, inverse_chain
from bridge_core.plan import Plan
from bridge_core.plugins import Registry, default_registry
from bridge_core.resolve import plan_from_neutral, plan_to_neutral
from bridge_core.rules import Pattern, Rule
from bridge_core.state import Array, ArrayTensor, FlatState, Key, ModuleInfo, StateMetadata, Tensor, full
from bridge_core.testing.strategies import same_bits

__all__ = ["LayerContract"]

_EXAMPLES = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[
        HealthCheck.differing_executors,  # every subclass runs the inherited test
        HealthCheck.too_slow,
    ],
)
_PATH: Key = ("block", "layer")


@dataclass(frozen=True)
class _Layer:
    """One layer of random shape and values, in the framework's native layout."""

    transform: LayerTransform
    kind: LayerKind
    values: Mapping[str, Array]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self.values.items()}

    @property
    def rank(self) -> int:
        return max((len(shape) for shape in self.shapes.values()), default=0)

    @property
    def axis_splits(self) -> Factors:
        """How its axes are split."""
        binding = self.transform.bindings(self.shapes)[0]
        return tuple(sorted(self.transform.split_axes(binding).items()))

    def state(self) -> FlatState:
        """Return the layer as a model's state, with its module's type where the transform names one."""
        tensors = {(*_PATH, *name.split(".")): value for name, value in self.values.items()}
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
            modules[_PATH] = ModuleInfo(types, {**self.transform.settings, **known}, tuple(self.values))
        metadata = StateMetadata(modules=modules)
        return FlatState(tensors, layout=self.transform.framework, metadata=metadata)

    def rules(self) -> tuple[Rule, ...]:
        """Return the rule that stands in for a type, where the transform names none."""
        if self.transform.modules:
            return ()
        return (Rule.layer(Pattern(_PATH), self.kind.name),)


class LayerContract:
    """Subclass it as ``Test...`` and set ``transforms``.

    Attributes:
        transforms: The transforms under test.
        registry: Where they, their kinds and their framework are registered; by default everything
            installed.
    """

    transforms: tuple[LayerTransform, ...]
    registry: Registry | None = None

    def _registry(self) -> Registry:
        return self.registry or default_registry()

    def _layer(self, data: st.DataObject) -> _Layer:
        transform = data.draw(st.sampled_from(self.transforms), label="transform")
        optional = [leaf.name for leaf in transform.leaves if leaf.optional]
        left_out = set(data.draw(st.lists(st.sampled_from(optional), unique=True))) if optional else set()
        names = [leaf.name for leaf in transform.leaves if leaf.name not in left_out]
        if not names:
            names = [transform.leaves[0].name]
        shapes = _draw_shapes(transform, names, data)
        values = {}
        offset = 1
        for name, shape in shapes.items():
            count = int(np.prod(shape, dtype=np.int64))
            values[name] = np.arange(offset, offset + count, dtype=np.int32).reshape(shape)
            offset += count
        return _Layer(transform, self._registry().kinds[transform.kind], values)

    # Declarations

    def test_everything_that_is_named_is_registered(self) -> None:
        """Kind, framework, and every leaf's role."""
        registry = self._registry()
        assert self.transforms
        for transform in self.transforms:
            assert registry.transforms.get(transform.name) is transform
            assert transform.framework in registry.frameworks
            assert transform.kind in registry.kinds
            kind = registry.kinds[transform.kind]
            roles = {role for leaf in transform.leaves for role in (*leaf.roles, *leaf.added_leaves)}
            assert (roles | set(transform.unsupported_leaves)) - {""} <= set(kind.leaves)
            for name in transform.identifying_leaves or ():
                assert name in transform.by_name()
            assert transform.modules or not transform.needs_module, "it needs a module, and names no module"

    # Shapes

    @_EXAMPLES
    @given(st.data())
    def test_shapes_that_belong_together_fit(self, data: st.DataObject) -> None:
        """Of any rank that the axes allow, optional leaves left out or not."""
        layer = self._layer(data)
        assert layer.transform.fits(layer.shapes)

    @_EXAMPLES
    @given(st.data())
    def test_shapes_that_do_not_belong_together_do_not_fit(self, data: st.DataObject) -> None:
        """An axis that two leaves share has one size."""
        layer = self._layer(data)
        shared = _shared_axes(layer)
        if not shared:
            return
        name, axis = data.draw(st.sampled_from(shared))
        shape = layer.shapes[name]
        wrong = (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])
        assert not layer.transform.fits({**layer.shapes, name: wrong})

    @_EXAMPLES
    @given(st.data())
    def test_a_layer_that_lacks_a_leaf_does_not_fit(self, data: st.DataObject) -> None:
        """Unless the leaf is optional."""
        layer = self._layer(data)
        for leaf in layer.transform.leaves:
            if not leaf.optional and leaf.name in layer.shapes:
                rest = {name: shape for name, shape in layer.shapes.items() if name != leaf.name}
                assert not layer.transform.fits(rest)

    # Values

    @_EXAMPLES
    @given(st.data())
    def test_every_leaf_goes_to_the_axes_of_its_kind_and_back(self, data: st.DataObject) -> None:
        """No element is lost, and the shape without a template is the one it had."""
        layer = self._layer(data)
        for name, value in layer.values.items():
            leaf = layer.transform.by_name()[name]
            cut = cut_of(leaf, value.shape)
            parts = chain_tensors((ArrayTensor(value),), (cut,) if cut is not None else ())
            restored: list[Tensor] = []
            for part, (role, tensor) in enumerate(zip(leaf.roles, parts, strict=True)):
                axes = layer.kind.leaves[role]
                moved = to_neutral_ops(
                    leaf, axes, tensor.spec.shape, part=part, axis_splits=layer.axis_splits
                )
                assert moved is not None, f"{leaf} cannot be brought to {axes!r}"
                ops, shape = moved
                assert chain_specs((tensor.spec,), ops)[0].shape == shape
                assert bind_axes(axes, shape) is not None
                (there,) = chain_tensors((tensor,), ops)
                (back,) = chain_tensors((there,), inverse_chain(ops))
                assert same_bits(_read(back), _read(tensor))
                undone = from_neutral_ops(
                    leaf, axes, shape, layer.rank, part=part, axis_splits=layer.axis_splits
                )
                assert undone is not None
                assert undone[1] == tensor.spec.shape
                restored += chain_tensors((there,), undone[0])
            if cut is not None:
                restored = list(chain_tensors(restored, (cut.inverse(),)))
            assert same_bits(_read(restored[0]), value)

    @_EXAMPLES
    @given(st.data())
    def test_a_model_comes_back_bit_for_bit(self, data: st.DataObject) -> None:
        """With the layer's own shapes as the template, and with every leaf matched exactly once."""
        registry = self._registry()
        layer = self._layer(data)
        state = layer.state()
        there = plan_to_neutral(state, registry, rules=layer.rules()).check()
        _check_once(there, state)
        neutral = there.apply(state)
        info = neutral.metadata.layers[_PATH]
        if layer.transform.unsupported:
            assert (info.kind, info.candidates) == (None, (layer.transform.name,))
            assert set(neutral) == set(state), (
                "the leaves of a layer that no other framework has are copied unchanged"
            )
        else:
            assert info.kind == layer.kind.name
            assert {".".join(key[len(_PATH) :]) for key in neutral} <= set(layer.kind.leaves)
        framework = layer.transform.framework
        back = plan_from_neutral(neutral, registry, framework, like=state).check()
        _check_once(back, neutral)
        found = back.apply(neutral)
        assert set(found) == set(state)
        for key, value in state.items():
            assert same_bits(found[key], value), f"{'.'.join(key)} came back changed"


def _draw_shapes(
    transform: LayerTransform, names: list[str], data: st.DataObject
) -> dict[str, tuple[int, ...]]:
    """Draw the sizes of each axis name once, and build the leaves' shapes."""
    drawn = _Drawn(transform, data)
    axes = {name: parse_axes(transform.by_name()[name].axes) for name in names}
    padded = [name for name in names if any(axis.spread and axis.name == "1" for axis in axes[name])]
    shapes = {name: drawn.shape(axes[name]) for name in names if name not in padded}
    rank = max((len(shape) for shape in shapes.values()), default=1)
    for name in padded:
        spare = max(0, rank - sum(not axis.spread for axis in axes[name]))
        shapes[name] = drawn.shape(axes[name], spare)
    return {name: shapes[name] for name in names}


class _Drawn:
    """The sizes of a layer's axes, each drawn when it is first needed."""

    def __init__(self, transform: LayerTransform, data: st.DataObject) -> None:
        self.data = data
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
            side = st.integers(1, 4)
            most = 3 if axis.variable else axis.fixed
            least = min(self.least.get(name, axis.fixed), most)
            self.sizes[name] = tuple(
                self.data.draw(st.lists(side, min_size=least, max_size=max(least, most)), label=name)
            )
        return self.sizes[name]


def _shared_axes(layer: _Layer) -> list[tuple[str, int]]:
    """Return the leaves and positions of axes that are in another leaf, too."""
    places: dict[str, list[tuple[str, int]]] = {}
    for name, shape in layer.shapes.items():
        axes = parse_axes(layer.transform.by_name()[name].axes)
        if any(axis.variable or axis.split > 1 or len(axis.members) > 1 for axis in axes):
            continue
        for position, axis in enumerate(axes):
            if axis.name != "1" and axis.name not in layer.transform.independent_axes:
                places.setdefault(axis.name, []).append((name, position))
        assert len(shape) == len(axes)
    return [place for found in places.values() if len(found) > 1 for place in found]


def _check_once(plan: Plan, state: FlatState) -> None:
    taken = [key for step in plan.steps for key in step.sources]
    made = [key for step in plan.steps for key in step.targets]
    assert sorted(taken) == sorted(state), "a leaf is left over, or is taken twice"
    assert len(set(made)) == len(made), "two leaves go to one place"


def _read(tensor: Tensor) -> Array:
    return tensor.read(full(tensor.spec.shape))
