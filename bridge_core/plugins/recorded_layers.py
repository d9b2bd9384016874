"""Checks that the layers which metadata records can be those of the tensors, by the layer kinds.

A record may name leaves that are not there: a part of a state may have been written. Kinds and transforms
that no plugin provides are left to the conversion, which names what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from bridge_core.errors import BridgeError
from bridge_core.messages import listed
from bridge_core.plugins.tree_names import names_of
from bridge_core.state import FlatState, Key, LayerInfo, TensorSpec, join_key, leaf_path, misfit

if TYPE_CHECKING:
    from bridge_core.axes import Shape
    from bridge_core.plugins.registry import Registry

__all__ = ["check_recorded_layers", "held_layers", "undecided_problem", "unnamed_parts"]

Form = Mapping[str, str]
"""Leaf name -> axes, of one layout of a kind."""


def check_recorded_layers(state: FlatState, registry: Registry, path: str) -> None:
    """Check the records of layers whose kinds are known against the tensors.

    Args:
        state: The state, in the layout that its file records.
        registry: Where kinds and transforms are found.
        path: The file, for errors.

    Raises:
        MalformedFile: A record contradicts the tensors, or its kind.
    """
    for layer, problem in _misfits(state, registry):
        where = f"'layers' records {join_key(layer)!r} as {state.metadata.layers[layer].kind or 'undecided'}"
        raise misfit(f"{where}: {problem}", path)


def held_layers(state: FlatState, registry: Registry) -> Mapping[Key, LayerInfo]:
    """Return the records of layers without those that contradict the tensors.

    The tensors may have been edited.
    """
    layers = state.metadata.layers
    gone = {layer for layer, _ in _misfits(state, registry)}
    return {layer: info for layer, info in layers.items() if layer not in gone} if gone else layers


def _misfits(state: FlatState, registry: Registry) -> Iterator[tuple[Key, str]]:
    """Yield the layers whose records do not fit, each with the reason."""
    if state.layout == "neutral":
        for path, info in state.metadata.layers.items():
            problem = undecided_problem(info, registry)
            if problem and info.candidates:  # a record without candidates contradicts nothing
                yield path, problem
    decided = {path: info for path, info in state.metadata.layers.items() if info.kind is not None}
    if not decided or not any(info.kind in registry.kinds for info in decided.values()):
        return
    specs = _specs(state, registry)
    forms: dict[tuple[str, str], tuple[Form, ...]] = {}
    known: dict[object, str] = {}
    for path, info in decided.items():
        kind = info.kind or ""
        recorded = info.transforms.get(state.layout or "", "")
        if (kind, recorded) not in forms:
            forms[kind, recorded] = _forms(kind, recorded, state.layout, registry)
        present = {
            leaf: spec for leaf in info.leaves if (spec := specs.get(leaf_path(path, leaf))) is not None
        }
        if path and not present and path in specs:
            yield path, f"expected a layer, got a tensor of that name, {specs[path]}"
            continue
        unnamed = unnamed_parts(path, info, state, registry)
        if unnamed:
            yield path, f"the record does not name its {listed(unnamed)}"
            continue
        shapes = tuple((leaf, spec.shape) for leaf, spec in present.items())
        signature = (kind, recorded, info.leaves, tuple(info.axis_splits.items()), shapes)
        if signature not in known:
            known[signature] = _problem(info, present, forms[kind, recorded], registry)
        if known[signature]:
            yield path, known[signature]


def undecided_problem(info: LayerInfo, registry: Registry) -> str:
    """Return why the record of an undecided layer contradicts itself; empty if it does not.

    Without candidates, the layer would be copied as if there were evidence that it is a plain parameter.

    Args:
        info: The record, of a neutral state.
        registry: Where kinds and transforms are found.
    """
    if info.kind is not None or not info.leaves:
        return ""
    known: dict[str, None] = {}
    for name in info.candidates:
        transform, (framework, _, kind) = registry.transforms.get(name), name.partition(".")
        if transform is not None:
            known.update(dict.fromkeys(transform.by_name()))
        elif framework == "neutral" and kind in registry.kinds:
            known.update(dict.fromkeys(registry.kinds[kind].leaves))
        elif name != "parameter":  # no plugin provides it: the conversion reports that
            return ""
    if not known:
        return "the record names no layer that it may be"
    leaf = next((leaf for leaf in info.leaves if leaf not in known), None)
    return "" if leaf is None else f"no layer that it may be has a leaf {leaf!r}; they have {listed(known)}"


def unnamed_parts(path: Key, info: LayerInfo, state: FlatState, registry: Registry) -> list[str]:
    """Return the leaves of a neutral composite layer that its record does not name.

    Each would be read as a layer of its own, in addition to the one that it belongs to.

    Args:
        path: The layer's path.
        info: Its record.
        state: The state.
        registry: Where kinds are found.
    """
    kind = registry.kinds.get(info.kind or "")
    if kind is None or not kind.composite or state.layout != "neutral":
        return []
    named = {*info.leaves, *info.unclaimed}
    return [role for role in kind.leaves if role not in named and leaf_path(path, role) in state]


def _specs(state: FlatState, registry: Registry) -> Mapping[Key, TensorSpec]:
    """Return the specs by the names that the records use; nothing where the names are not known."""
    specs = state.specs()
    framework = registry.frameworks.get(state.layout or "")
    if framework is None:
        return specs
    try:
        names = names_of(state, framework).names(state)
    except BridgeError:  # the conversion reports what is unclear about them
        return {}
    return {name: specs[key] for key, name in names.items()}


def _forms(kind: str, recorded: str, layout: str | None, registry: Registry) -> tuple[Form, ...]:
    """Return the layouts that a layer of a kind may have; nothing where no plugin provides the kind."""
    if kind not in registry.kinds or (recorded and recorded not in registry.transforms):
        return ()
    if layout not in registry.frameworks:
        return (registry.kinds[kind].leaves,) if layout == "neutral" else ()
    transforms = registry.transforms_of.get(layout or "", ())
    return tuple({leaf.name: leaf.axes for leaf in t.leaves} for t in transforms if t.kind == kind)


def _problem(
    info: LayerInfo, specs: Mapping[str, TensorSpec], forms: tuple[Form, ...], registry: Registry
) -> str:
    """Return why a record does not fit; empty if it does, or if its kind is not known."""
    if not forms:
        return ""
    for leaf in info.leaves:
        if not any(leaf in form for form in forms):
            return f"that kind has no leaf {leaf!r}; it has {listed(_names(forms))}"
    bound = {leaf: tuple(_ways(leaf, spec.shape, forms)) for leaf, spec in specs.items()}
    for leaf, ways in bound.items():
        if not ways:
            axes = " or ".join(dict.fromkeys(form[leaf] for form in forms if leaf in form))
            return f"expected {leaf!r} with the axes {axes!r}, got {specs[leaf]}"
    return _split_problem(info, tuple(bound.values()), registry)


def _names(forms: Iterable[Form]) -> list[str]:
    return list(dict.fromkeys(leaf for form in forms for leaf in form))


def _ways(leaf: str, shape: Shape, forms: Iterable[Form]) -> Iterator[Mapping[str, Shape]]:
    from bridge_core.axes import bind

    for form in forms:
        if leaf in form:
            yield from map(dict, bind(form[leaf], shape))


def _split_problem(
    info: LayerInfo, bound: tuple[tuple[Mapping[str, Shape], ...], ...], registry: Registry
) -> str:
    """Return which axis is not split as the record requires; empty if none is."""
    from bridge_core.axes import parse_axes

    if not info.axis_splits:
        return ""
    leaves = registry.kinds[info.kind or ""].leaves.values()
    axes = dict.fromkeys(axis.name for text in leaves for axis in parse_axes(text))
    for axis, sizes in info.axis_splits.items():
        if axis not in axes:
            return f"that kind has no axis {axis!r} to split; it has {', '.join(axes)}"
        for ways in bound:
            found = [prod(way[axis]) for way in ways if axis in way]
            if found and prod(sizes) not in found:
                got = f"{list(sizes)}, which makes {prod(sizes)}"
                return f"expected the axis {axis!r} of size {found[0]}, got {got}"
    return ""
