"""The contract of layer transforms: for every shape that fits, values go to neutral form and come back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bridge_core.axes import bind_axes, parse_axes
from bridge_core.errors import BridgeError
from bridge_core.layers import LayerKind, LayerTransform, cut_of, from_neutral_ops, to_neutral_ops
from bridge_core.ops import chain_specs, chain_tensors, inverse_chain
from bridge_core.plan import Plan
from bridge_core.plugins import Relocating
from bridge_core.resolve import plan_from_neutral, plan_to_neutral
from bridge_core.state import Array, ArrayTensor, FlatState, Tensor, full
from bridge_core.testing.layer_harness import EXAMPLES, PATH, DrawnLayer, LayerHarness, distinct_shapes
from bridge_core.testing.layer_neighbours import LayerNeighbours
from bridge_core.testing.live_objects import shown_key
from bridge_core.testing.strategies import same_bits

__all__ = ["LayerContract"]


class LayerContract(LayerNeighbours, LayerHarness):
    """Subclass it as ``Test...`` and set ``transforms``.

    Attributes:
        transforms: The transforms under test.
        registry: Where they, their kinds and their framework are registered; by default everything
            installed.
    """

    # Declarations

    def test_everything_that_is_named_is_registered(self) -> None:
        """Kind, framework, and every leaf's role."""
        registry = self._registry()
        assert self.transforms, "transforms is empty: name those to test"
        for transform in self.transforms:
            name = transform.name
            assert registry.transforms.get(name) == transform, (
                f"{name}: not registered, or registered with other values: return it from "
                "bridge_layer_transforms, or set registry="
            )
            assert transform.framework in registry.frameworks, (
                f"{name}: unknown framework {transform.framework!r}"
            )
            assert transform.kind in registry.kinds, (
                f"{name}: unknown kind {transform.kind!r}: return it from bridge_layer_kinds"
            )
            kind = registry.kinds[transform.kind]
            for leaf in transform.leaves:
                for role in filter(None, (*leaf.roles, *leaf.added_leaves)):
                    assert role in kind.leaves, (
                        f"{name}: leaf {leaf.name!r} has the role {role!r}, and the kind {kind.name!r} only "
                        f"{', '.join(kind.leaves)}"
                    )
            for role in transform.unsupported_leaves:
                assert role in kind.leaves, (
                    f"{name}: unsupported_leaves names {role!r}, which is not of the kind"
                )
            for leaf_name in transform.identifying_leaves or ():
                assert leaf_name in transform.by_name(), (
                    f"{name}: identifying_leaves names {leaf_name!r}, which is not one of its leaves"
                )
            assert transform.modules or not transform.needs_module, (
                f"{name}: needs_module is set, and modules names no type"
            )

    def test_every_role_has_its_own_leaf(self) -> None:
        """No leaf is taken for another of the kind, and each leaf of the kind is dealt with."""
        registry = self._registry()
        for transform in self.transforms:
            kind = registry.kinds.get(transform.kind)
            if kind is None:
                continue
            roles = {role for leaf in transform.leaves for role in (*leaf.roles, *leaf.added_leaves)}
            for leaf in transform.leaves:
                assert leaf.name not in kind.leaves or leaf.name in leaf.roles or "." in leaf.name, (
                    f"{transform.name}: the leaf {leaf.name!r} has the role {leaf.roles[0]!r}, and the kind "
                    f"has a leaf {leaf.name!r} of its own: exchange the roles"
                )
            optional = {*kind.auxiliary_tensors, *kind.zeros, *transform.unsupported_leaves}
            hidden = [role for role in kind.leaves if role not in roles | optional]
            assert not hidden or transform.needs_module, (
                f"{transform.name}: no leaf has the role {hidden[0]!r} of the kind {kind.name!r}: add the "
                f"leaf, or say why there is none, unsupported_leaves={{{hidden[0]!r}: ...}}"
            )
            both = roles & set(transform.unsupported_leaves)
            assert not both, (
                f"{transform.name}: {sorted(both)[0]!r} is the role of a leaf and is in unsupported_leaves, "
                "too"
            )

    def test_leaves_have_the_axes_of_their_layer(self) -> None:
        """An axis that one leaf has, and another leaf of the kind needs, is not missing there."""
        kinds = self._registry().kinds
        for transform in self.transforms:
            kind = kinds.get(transform.kind)
            missing = "" if kind is None else _missing_axis(transform, kind)
            assert not missing, f"{transform.name}: {missing}"

    def test_optional_leaves_are_those_that_a_layer_may_lack(self) -> None:
        """A layer has one leaf always, and what every other framework requires is required."""
        transforms = self._registry().transforms.values()
        for transform in self.transforms:
            assert not all(leaf.optional for leaf in transform.leaves), (
                f"{transform.name}: every leaf is optional, so that any leaf by itself is such a layer: "
                "leave out optional=True of those that each layer has"
            )
            for leaf in transform.leaves:
                required = [
                    other.optional
                    for one in transforms
                    if one.kind == transform.kind and one != transform
                    for other in one.leaves
                    if set(other.roles) & set(leaf.roles)
                ]
                assert not (leaf.optional and len(required) > 1 and not any(required)), (
                    f"{transform.name}: leaf {leaf.name!r} is optional, and all other transforms of the kind "
                    f"{transform.kind!r} require the role {leaf.roles[0]!r}: leave out optional=True"
                )

    def test_axes_that_others_split_name_their_setting(self) -> None:
        """Else only a template shows how many heads there are."""
        transforms = self._registry().transforms.values()
        for transform in self.transforms:
            others = [one for one in transforms if one.kind == transform.kind and one != transform]
            split = _split_axes(transform)
            named = {
                axis: one.name for one in others for axis in one.axis_splits if axis not in _split_axes(one)
            }
            for axis, other in named.items() if transform.modules else ():
                assert axis in split or axis in transform.axis_splits, (
                    f"{transform.name}: other frameworks split the axis {axis!r}, and {other} names the "
                    f"setting with the number of parts: axis_splits={{{axis!r}: ...}}"
                )

    # Shapes

    @EXAMPLES
    @given(st.data())
    def test_shapes_that_belong_together_fit(self, data: st.DataObject) -> None:
        """Of any rank, with optional leaves or without; names are compared by value."""
        layer = self._layer(data)
        shapes = {"".join(list(name)): tuple(list(shape)) for name, shape in layer.shapes.items()}
        for offered in (shapes, dict(reversed(shapes.items())), shapes):
            before = dict(offered)
            assert layer.transform.fits(offered), (
                f"{layer.transform.name}: does not fit {before}: these follow from the axes of its leaves, "
                "so compare names with ==, take them in any order, and remember nothing"
            )
            assert offered == before, f"{layer.transform.name}: `fits` changed the shapes that it was offered"

    def test_large_shapes_fit(self) -> None:
        """Axes of hundreds of elements, as real models have them."""
        for transform in self.transforms:
            names = [leaf.name for leaf in transform.leaves]
            for longest in (False, True):
                shapes = distinct_shapes(transform, names, longest=longest, smallest=130)
                assert transform.fits(shapes), (
                    f"{transform.name}: does not fit {shapes}: these follow from the axes of its leaves"
                )

    @EXAMPLES
    @given(st.data())
    def test_shapes_that_do_not_belong_together_do_not_fit(self, data: st.DataObject) -> None:
        """An axis that two leaves share has one size, and a leaf has as many axes as its text.

        Names of other leaves do not fit.
        """
        layer = self._layer(data)
        wrong = [
            {**layer.shapes, name: (*shape, 3)}
            for name, shape in layer.shapes.items()
            if not any(axis.variable for axis in parse_axes(layer.transform.by_name()[name].axes))
        ]
        shared = _shared_axes(layer)
        if shared:
            name, axis = data.draw(st.sampled_from(shared))
            shape = layer.shapes[name]
            wrong.append({**layer.shapes, name: (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])})
        for shapes in wrong:
            assert not layer.transform.fits(shapes), (
                f"{layer.transform.name}: fits {shapes}, which its axes do not allow"
            )
        if layer.transform.has_names(("no_such_leaf",)):
            return  # a leaf that is needed is another test's matter
        try:
            fits = layer.transform.fits({"no_such_leaf": (3,)})
        except Exception as err:
            pytest.fail(
                f"{layer.transform.name}: fits raised {type(err).__name__}: {err} for the leaf "
                "'no_such_leaf': return False"
            )
        assert not fits, f"{layer.transform.name}: fits the leaf 'no_such_leaf', which is not its own"

    @EXAMPLES
    @given(st.data())
    def test_a_layer_that_lacks_a_leaf_does_not_fit(self, data: st.DataObject) -> None:
        """Unless the leaf is optional."""
        layer = self._layer(data)
        for leaf in layer.transform.leaves:
            if not leaf.optional and leaf.name in layer.shapes:
                rest = {name: shape for name, shape in layer.shapes.items() if name != leaf.name}
                assert not layer.transform.fits(rest), (
                    f"{layer.transform.name}: fits without {leaf.name!r}, which is not optional"
                )

    # Values

    @EXAMPLES
    @given(st.data())
    def test_every_leaf_goes_to_the_axes_of_its_kind_and_back(self, data: st.DataObject) -> None:
        """No element is lost, and the shape without a template is the one it had."""
        layer = self._layer(data)
        problem = _unmoved(layer)
        assert not problem, f"{layer.transform.name}: {problem}"

    @EXAMPLES
    @given(st.data())
    def test_a_model_comes_back_bit_for_bit(self, data: st.DataObject) -> None:
        """With the layer's own shapes as the template, and with every leaf matched exactly once."""
        registry = self._registry()
        layer = self._layer(data)
        if not self._is_sound(layer):
            return
        transform = layer.transform
        state = layer.state()
        neutral, back = self._converted(layer, like=True)
        info = neutral.metadata.layers[PATH]
        if transform.unsupported:
            assert (info.kind, info.candidates) == (None, (transform.name,)), (
                f"{transform.name}: a layer that is unsupported elsewhere was taken for "
                f"{info.kind or info.candidates}"
            )
            assert set(neutral) == set(state), (
                "the leaves of a layer that no other framework has are copied unchanged"
            )
        else:
            assert info.kind == layer.kind.name, (
                f"{transform.name}: the layer was taken for {info.kind or 'none of'} {info.candidates}, "
                f"expected {layer.kind.name}: its module's type and settings {dict(transform.settings)} have "
                "to decide"
            )
            assert {".".join(key[len(PATH) :]) for key in neutral} <= set(layer.kind.leaves)
        assert registry.frameworks.get(transform.framework) is not None
        _check_back(layer, state, back)

    @EXAMPLES
    @given(st.data())
    def test_a_layer_comes_back_without_a_template(self, data: st.DataObject) -> None:
        """Where it is the first of its kind, and no template is needed."""
        layer = self._layer(data)
        transform = layer.transform
        own = self._registry().transforms_of.get(transform.framework, ())
        first = next((one for one in own if one.kind == transform.kind), None)
        if (
            transform.needs_template
            or transform.unsupported
            or first != transform
            or not self._is_sound(layer)
        ):
            return
        state = layer.state()
        _, back = self._converted(layer, like=False)
        relocates = isinstance(self._registry().frameworks.get(transform.framework), Relocating)
        if not (relocates and set(back) != set(state)):  # its leaves are elsewhere in real models
            _check_back(layer, state, back)

    def _is_sound(self, layer: DrawnLayer) -> bool:
        """Return whether a layer passes the tests before this one, so that a fault fails only its own."""
        ill = _missing_axis(layer.transform, layer.kind) or any(_unmoved(layer) for _ in range(2))
        return not ill and layer.transform.fits(layer.shapes) and self._rival(layer) is None

    def _converted(self, layer: DrawnLayer, *, like: bool) -> tuple[FlatState, FlatState]:
        """Return the neutral form of a layer, and what comes back from it."""
        registry, state = self._registry(), layer.state()
        try:
            there = plan_to_neutral(state, registry, rules=layer.rules()).check()
            _check_once(there, state)
            neutral = there.apply(state)
            template = state if like else None
            back = plan_from_neutral(neutral, registry, layer.transform.framework, like=template).check()
            _check_once(back, neutral)
            return neutral, back.apply(neutral)
        except BridgeError as err:
            pytest.fail(f"{layer.transform.name}: a layer {layer.shapes} is not converted: {err}")


def _split_axes(transform: LayerTransform) -> set[str]:
    axes = (axis for leaf in transform.leaves for axis in parse_axes(leaf.axes))
    return {axis.name for axis in axes if axis.split != 1}


def _missing_axis(transform: LayerTransform, kind: LayerKind) -> str:
    """Return which axis of a kind a leaf does not have and another leaf has; empty if there is none."""
    present = {name for leaf in transform.leaves for axis in parse_axes(leaf.axes) for name in axis.members}
    for leaf in transform.leaves:
        for part, role in enumerate(leaf.roles):
            own = {axis.name for axis in parse_axes(leaf.axes_of(part))}
            for axis in parse_axes(kind.leaves.get(role, "")):
                if not axis.spread and axis.name in present - own:
                    return (
                        f"leaf {leaf.name!r} has the axes {leaf.axes!r}, and {role!r} needs {axis.name!r}, "
                        "which other leaves of the layer have: add it"
                    )
    return ""


def _unmoved(layer: DrawnLayer) -> str:
    """Return which leaf does not go to its kind's axes and come back; empty if all do."""
    for name, value in layer.values.items():
        leaf = layer.transform.by_name()[name]
        cut = cut_of(leaf, value.shape)
        parts = chain_tensors((ArrayTensor(value),), (cut,) if cut is not None else ())
        restored: list[Tensor] = []
        for part, (role, tensor) in enumerate(zip(leaf.roles, parts, strict=True)):
            if role not in layer.kind.leaves:
                continue  # the registered names are another test's matter
            axes = layer.kind.leaves[role]
            options = {"part": part, "axis_splits": layer.axis_splits}
            moved = to_neutral_ops(leaf, axes, tensor.spec.shape, **options)
            if moved is None:
                return (
                    f"leaf {name!r}: its axes {leaf.axes!r} cannot be brought to {axes!r}, those of {role!r} "
                    f"in the kind {layer.kind.name!r}: use the same names"
                )
            ops, shape = moved
            if chain_specs((tensor.spec,), ops)[0].shape != shape or bind_axes(axes, shape) is None:
                return f"leaf {name!r}: gets the shape {list(shape)} in neutral form, expected {axes!r}"
            (there,) = chain_tensors((tensor,), ops)
            (back,) = chain_tensors((there,), inverse_chain(ops))
            undone = from_neutral_ops(leaf, axes, shape, layer.rank, **options)
            if undone is None or undone[1] != tensor.spec.shape or not same_bits(_read(back), _read(tensor)):
                got = "nothing" if undone is None else f"{list(undone[1])}"
                return (
                    f"leaf {name!r}: expected {list(tensor.spec.shape)} on the way back from {list(shape)}, "
                    f"got {got}: `axes` and `flip` must not change"
                )
            restored += chain_tensors((there,), undone[0])
        if cut is not None and len(restored) == len(leaf.roles):
            restored = list(chain_tensors(restored, (cut.inverse(),)))
        if restored and not same_bits(_read(restored[0]), value):
            return f"leaf {name!r}: comes back with other values: `axes` and `flip` must not change"
    return ""


def _check_back(layer: DrawnLayer, state: FlatState, back: FlatState) -> None:
    assert set(back) == set(state), (
        f"{layer.transform.name}: the leaves {sorted(set(state) ^ set(back))} are missing or too many after "
        "the way back"
    )
    for key, value in state.items():
        assert same_bits(back[key], value), f"{layer.transform.name}: {shown_key(key)} came back changed"


def _shared_axes(layer: DrawnLayer) -> list[tuple[str, int]]:
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
