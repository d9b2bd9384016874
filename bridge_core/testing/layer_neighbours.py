"""The contract of layer transforms next to those of other plugins: none takes another's layer."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, strategies as st

from bridge_core.layers import LayerTransform, describes, fits, leaves_of, same_order
from bridge_core.state import ModuleInfo
from bridge_core.testing.layer_harness import EXAMPLES, DrawnLayer, LayerHarness, distinct_shapes

__all__ = ["LayerNeighbours"]


class LayerNeighbours(LayerHarness):
    """The tests against other transforms of the same framework, those under test left out."""

    def _pairs(self) -> Iterator[tuple[LayerTransform, LayerTransform]]:
        """Yield each transform with each other one that another plugin provides."""
        registry = self._registry()
        for transform in self.transforms:
            for other in registry.transforms_of.get(transform.framework, ()):
                if other not in self.transforms:
                    yield transform, other

    def test_identifying_leaves_identify_no_other_layer(self) -> None:
        """What names and shapes are said to prove is not the layout of another layer as well."""
        for transform, other in self._pairs():
            names = [leaf.name for leaf in other.leaves]
            if transform.identifying_leaves is None or transform.needs_module or other.needs_module:
                continue
            if (transform.kind == other.kind and same_order(transform, other)) or not transform.has_names(
                names
            ):
                continue
            for longest in (False, True):
                shapes = distinct_shapes(other, names, longest=longest)
                proven = set(transform.identifying_leaves) <= set(leaves_of(transform, shapes))
                assert not (proven and fits(transform, shapes, False)), (
                    f"{transform.name}: a layer of {other.name}, {shapes}, has its identifying_leaves "
                    f"{transform.identifying_leaves} and fits: name a leaf that {other.name} does not have, "
                    "or set identifying_leaves=None (then a module, a template or a rule decides)"
                )

    @EXAMPLES
    @given(st.data())
    def test_types_of_modules_belong_to_one_transform(self, data: st.DataObject) -> None:
        """Unless settings or leaves differ."""
        layer = self._layer(data)
        other = self._rival(layer)
        assert other is None, (
            f"{layer.transform.name}: its modules {', '.join(layer.transform.modules)} are layers of "
            f"{other and other.name} as well: name another type, or the settings= in which they differ"
        )

    def _rival(self, layer: DrawnLayer) -> LayerTransform | None:
        """Return another transform that describes the same module as another layer."""
        for transform, other in self._pairs():
            shared = set(transform.modules) & set(other.modules)
            alike = transform.kind == other.kind and same_order(transform, other)
            if transform is layer.transform and shared and not alike:
                module = ModuleInfo((min(shared),), dict(transform.settings), tuple(layer.shapes))
                if describes(other, module, layer.shapes, False):
                    return other
        return None

    def test_nested_leaves_are_not_parts_of_other_layers(self) -> None:
        """A leaf of a nested module is taken together with what else that module's layer needs."""
        registry = self._registry()
        for transform in self.transforms:
            nested: dict[str, set[str]] = {}
            for leaf in transform.leaves:
                prefix, dot, name = leaf.name.rpartition(".")
                if dot and "/" not in name and not any("." in role for role in leaf.roles):
                    nested.setdefault(prefix, set()).add(name)
            for prefix, names in nested.items():
                others = [
                    other
                    for other in registry.transforms_of.get(transform.framework, ())
                    if other is not transform and names & {leaf.name for leaf in other.leaves}
                ]
                complete = [other for other in others if other.has_names(names)]
                assert complete or not others, (
                    f"{transform.name}: takes {min(names)!r} of the module {prefix!r}, which is a layer of "
                    f"its own ({others[0].name}): take its other leaves as well, or none"
                )
