"""The contract of layer transforms: for every shape that fits, values go to neutral form and come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge_core.keys import Key, Pattern
from bridge_core.layers import LayerKind, LayerTransform, bind_axes
from bridge_core.metadata import ModuleInfo, StateMetadata
from bridge_core.ops import chain_specs, chain_tensors, inverse_chain
from bridge_core.plan import Plan
from bridge_core.plugins import Registry, default_registry
from bridge_core.regions import full
from bridge_core.resolve import plan_from_neutral, plan_to_neutral
from bridge_core.resolve.axes import from_neutral_ops, to_neutral_ops
from bridge_core.rules import Rule
from bridge_core.state import FlatState
from bridge_core.tensors import Array, ArrayTensor, Tensor, TensorSpec
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
    """One layer of random shape and values, in the framework's spelling."""

    transform: LayerTransform
    kind: LayerKind
    values: Mapping[str, Array]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self.values.items()}

    @property
    def rank(self) -> int:
        return max((len(shape) for shape in self.shapes.values()), default=0)

    def state(self) -> FlatState:
        """Return the layer as a model's state, with its module's type where the transform names one."""
        tensors = {(*_PATH, *name.split(".")): value for name, value in self.values.items()}
        modules = {}
        if self.transform.modules:
            types = self.transform.modules[:1]
            modules[_PATH] = ModuleInfo(types, self.transform.settings, tuple(self.values))
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
            assert {leaf.role for leaf in transform.leaves} <= set(kind.leaves)
            for name in transform.certain_with or ():
                assert name in transform.by_name()

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
            axes = layer.kind.leaves[leaf.role]
            moved = to_neutral_ops(leaf, axes, value.shape)
            assert moved is not None, f"{leaf} cannot be brought to {axes!r}"
            ops, shape = moved
            assert chain_specs((TensorSpec(value.shape, value.dtype),), ops)[0].shape == shape
            assert bind_axes(axes, shape) is not None
            (there,) = chain_tensors((ArrayTensor(value),), ops)
            (back,) = chain_tensors((there,), inverse_chain(ops))
            assert same_bits(_read(back), value)
            undone = from_neutral_ops(leaf, axes, shape, layer.rank)
            assert undone is not None
            assert undone[1] == value.shape
            (again,) = chain_tensors((there,), undone[0])
            assert same_bits(_read(again), value)

    @_EXAMPLES
    @given(st.data())
    def test_a_model_comes_back_bit_for_bit(self, data: st.DataObject) -> None:
        """With the layer's own shapes as the template, and with every leaf claimed exactly once."""
        registry = self._registry()
        layer = self._layer(data)
        state = layer.state()
        there = plan_to_neutral(state, registry, rules=layer.rules()).check()
        _check_once(there, state)
        neutral = there.apply(state)
        assert neutral.metadata.layers[_PATH].kind == layer.kind.name
        assert {key[-1] for key in neutral} <= set(layer.kind.leaves)
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
    """Draw one size for each axis name, one rank for each variadic name, and build the leaves' shapes."""
    sizes: dict[str, int] = {}
    ranks: dict[str, list[int]] = {}
    least = {
        token[1:]: 1
        for leaf in transform.leaves
        if leaf.name in names
        for token in leaf.axes.split()
        if token[0] == "+"
    }
    shapes: dict[str, tuple[int, ...]] = {}
    padded: list[str] = []
    for name in names:
        tokens = transform.by_name()[name].axes.split()
        if any(token[0] in "*+" and token[1:] == "1" for token in tokens):
            padded.append(name)
            continue
        shapes[name] = tuple(n for token in tokens for n in _sizes_of(token, sizes, ranks, least, data))
    rank = max((len(shape) for shape in shapes.values()), default=1)
    for name in padded:
        tokens = transform.by_name()[name].axes.split()
        spare = max(0, rank - sum(token[0] not in "*+" for token in tokens))
        parts: list[int] = []
        for token in tokens:
            parts.extend([1] * spare if token[0] in "*+" else _sizes_of(token, sizes, ranks, least, data))
        shapes[name] = tuple(parts)
    return {name: shapes[name] for name in names}


def _sizes_of(
    token: str,
    sizes: dict[str, int],
    ranks: dict[str, list[int]],
    least: Mapping[str, int],
    data: st.DataObject,
) -> list[int]:
    side = st.integers(1, 4)
    if token == "1":
        return [1]
    if token[0] in "*+":
        name = token[1:]
        if name not in ranks:
            ranks[name] = data.draw(st.lists(side, min_size=least.get(name, 0), max_size=3), label=name)
        return ranks[name]
    if token not in sizes:
        sizes[token] = data.draw(side, label=token)
    return [sizes[token]]


def _shared_axes(layer: _Layer) -> list[tuple[str, int]]:
    """Return the leaves and positions of axes that stand in another leaf, too."""
    places: dict[str, list[tuple[str, int]]] = {}
    for name, shape in layer.shapes.items():
        tokens = layer.transform.by_name()[name].axes.split()
        if any(token[0] in "*+" for token in tokens):
            continue
        for axis, token in enumerate(tokens):
            if token != "1":
                places.setdefault(token, []).append((name, axis))
        assert len(shape) == len(tokens)
    return [place for found in places.values() if len(found) > 1 for place in found]


def _check_once(plan: Plan, state: FlatState) -> None:
    taken = [key for step in plan.steps for key in step.sources]
    made = [key for step in plan.steps for key in step.targets]
    assert sorted(taken) == sorted(state), "a leaf is left over, or is taken twice"
    assert len(set(made)) == len(made), "two leaves go to one place"


def _read(tensor: Tensor) -> Array:
    return tensor.read(full(tensor.spec.shape))
