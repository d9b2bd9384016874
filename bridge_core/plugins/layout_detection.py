"""Which layout the names of a state show: a framework's, the neutral one, or neither for certain.

A neutral file that another library wrote again has lost its metadata. Most of its names are Flax's as well;
layers whose leaves only the neutral form has, or has with these axes, show that it may be neutral.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from bridge_core.errors import UsageError
from bridge_core.messages import listed
from bridge_core.state import FlatState, Key, TensorSpec, join_key, leaf_path

if TYPE_CHECKING:
    from bridge_core.layers import LayerKind, LayerTransform
    from bridge_core.plugins.registry import Registry

__all__ = ["composite_layers", "neutral_keys", "undetermined_layout"]

_LISTED = 3
_UNDETERMINED = "cannot determine the layout"


def neutral_keys(specs: Mapping[Key, TensorSpec], framework: str, registry: Registry) -> tuple[Key, ...]:
    """Return a key of each layer that has the neutral form's names and axes, and not the framework's.

    Args:
        specs: The state's tensors.
        framework: The framework that the names look like.
        registry: Where kinds and transforms are found.
    """
    transforms = registry.transforms_of.get(framework, ())
    native: dict[str, list[LayerTransform]] = {}
    for transform in transforms:
        native.setdefault(transform.kind, []).append(transform)
    native_leaves = {leaf.parts for transform in transforms for leaf in transform.leaves}
    kinds = [registry.kinds[name] for name in native if name in registry.kinds]
    auxiliary = {
        role: kind for kind in kinds for role in kind.auxiliary_tensors if (role,) not in native_leaves
    }
    differing = [kind for kind in kinds if not any(_is_neutral(t, kind) for t in native[kind.name])]
    keys = [
        key
        for key in specs
        if key
        and (kind := auxiliary.get(key[-1])) is not None
        and any((*key[:-1], role) in specs for role in kind.leaves.keys() - kind.auxiliary_tensors.keys())
    ]
    paths = {key[:-1] for key in keys}
    for path, form in _neutral_layers(specs, _neutral_forms(differing, registry)):
        if path not in paths and not _is_native(path, form, native[form.kind], specs):
            keys.append(leaf_path(path, form.leaves[0].name))
    return tuple(keys)


def composite_layers(specs: Mapping[Key, TensorSpec], registry: Registry) -> dict[Key, str]:
    """Return the paths that hold all leaves of a composite kind, with the kinds.

    Leaves are compared in neutral form.

    Args:
        specs: Tensors in neutral names and axes.
        registry: Where kinds and transforms are found.
    """
    kinds = [kind for kind in registry.kinds.values() if kind.composite]
    return {path: form.kind for path, form in _neutral_layers(specs, _neutral_forms(kinds, registry))}


def _neutral_forms(kinds: Iterable[LayerKind], registry: Registry) -> list[LayerTransform]:
    """Return a transform in neutral names for each kind that needs several leaves; those come first."""
    from bridge_core.layers import LayerTransform, Leaf

    equal_axes: dict[str, dict[tuple[str, str], None]] = {}
    for transform in registry.transforms.values():
        equal_axes.setdefault(transform.kind, {}).update(dict.fromkeys(transform.equal_axes))
    uses = Counter(role for kind in registry.kinds.values() for role in kind.leaves)
    forms = []
    for kind in kinds:
        leaves = [
            Leaf(role, role, axes, optional=role.endswith("bias") or role in kind.auxiliary_tensors)
            for role, axes in kind.leaves.items()
        ]
        if sum(not leaf.optional for leaf in leaves) > 1:
            # Layers are looked up by their first leaf: one that few others have saves time.
            leaves.sort(key=lambda leaf: (leaf.optional, uses[leaf.name]))
            same = tuple(equal_axes.get(kind.name, ()))
            forms.append(LayerTransform(f"neutral.{kind.name}", kind.name, tuple(leaves), equal_axes=same))
    return forms


def _neutral_layers(
    specs: Mapping[Key, TensorSpec], forms: Iterable[LayerTransform]
) -> Iterator[tuple[Key, LayerTransform]]:
    """Yield the paths whose leaves fit one of the forms, each with the form."""
    by_tail: dict[Key, list[LayerTransform]] = {}
    for form in forms:
        by_tail.setdefault(form.leaves[0].parts, []).append(form)
    first_parts: dict[int, set[str]] = {}
    for tail in by_tail:
        first_parts.setdefault(len(tail), set()).add(tail[0])
    lookups = sorted(first_parts.items())
    for key in specs:
        for width, names in lookups:
            if len(key) < width or key[-width] not in names:
                continue
            for form in by_tail.get(key[-width:], ()):
                if form.fits(_shapes(form, key[:-width], specs)):
                    yield key[:-width], form


def _is_native(
    path: Key, form: LayerTransform, native: Iterable[LayerTransform], specs: Mapping[Key, TensorSpec]
) -> bool:
    """Return whether a framework's own transform takes all leaves at a path that the neutral form takes."""
    neutral = _shapes(form, path, specs)
    shapes = ((transform, _shapes(transform, path, specs)) for transform in native)
    return any(taken.keys() >= neutral.keys() and transform.fits(taken) for transform, taken in shapes)


def _is_neutral(transform: LayerTransform, kind: LayerKind) -> bool:
    """Return whether a transform has every leaf of its kind with the neutral name and the neutral axes."""
    leaves = transform.by_name()
    return all(
        role in leaves
        and leaves[role].roles == (role,)
        and not leaves[role].flip
        and leaves[role].axes.replace("+", "*") == axes.replace("+", "*")
        for role, axes in kind.leaves.items()
    )


def _shapes(
    transform: LayerTransform, path: Key, specs: Mapping[Key, TensorSpec]
) -> dict[str, tuple[int, ...]]:
    return {
        leaf.name: specs[key].shape
        for leaf in transform.leaves
        if (key := leaf_path(path, leaf.name)) in specs
    }


def undetermined_layout(state: FlatState, registry: Registry) -> UsageError:
    """Return the error for a state of undetermined layout.

    Args:
        state: The state.
        registry: Where adapters, kinds and transforms are found.
    """
    specs = state.specs()
    owners = registry.owners_of(specs)
    path = state.metadata.provenance.get("path")
    first, *others = (*owners, *(name for name in registry.frameworks if name not in owners), "neutral")
    options = f'Pass layout="{first}" (--layout {first}){"".join(f", or {name}" for name in others)}'
    usual = owners[0] if len(owners) == 1 else _usual_layout(state, registry)
    neutral = neutral_keys(specs, usual, registry) if usual else ()
    if neutral:
        names = listed((join_key(key) for key in neutral), _LISTED)
        return UsageError(
            f"{_UNDETERMINED}: the keys look like those of {usual}, but {names} and the tensors next to them "
            "have the names and axes of the neutral layout.",
            path=path,
            hint=(
                'Pass layout="neutral" (--layout neutral) if ckptbridge wrote them and another program '
                f'stored them again, layout="{usual}" (--layout {usual}) if a {usual} model has these names.'
            ),
        )
    names = listed(map(join_key, state), _LISTED)
    matches = (
        f"match {' and '.join(owners)}" if owners else f"match neither {' nor '.join(registry.frameworks)}"
    )
    return UsageError(
        f"{_UNDETERMINED}: {f'the keys ({names}) {matches}' if names else 'there is no tensor'}.",
        path=path,
        hint=f"{options}.{_ways_without(owners, registry)}",
    )


def _ways_without(owners: Iterable[str], registry: Registry) -> str:
    """Return how to do without the frameworks of other plugins that own names which others own as well."""
    plugins = [registry.foreign_plugin("frameworks", name) for name in owners]
    ways = [
        f" To do without {name} of {plugin.origin}, {plugin.way_without}."
        for name, plugin in zip(owners, plugins, strict=True)
        if plugin is not None and plugin.way_without
    ]
    return "".join(ways) if len(plugins) > 1 else ""


def _usual_layout(state: FlatState, registry: Registry) -> str | None:
    """Return the layout that files of the state's format usually have."""
    file_format = registry.formats.get(state.metadata.provenance.get("format", ""))
    return file_format.layout if file_format is not None else None
