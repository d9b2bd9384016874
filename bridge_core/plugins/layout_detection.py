"""Which layout the names of a state show: a framework's, the neutral one, or neither for certain.

A neutral file that another library wrote again has lost its metadata. Most of its names are Flax's as well;
layers whose leaves only the neutral form has, or has with these axes, show that it may be neutral.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bridge_core.errors import UsageError
from bridge_core.messages import listed
from bridge_core.state import FlatState, Key, TensorSpec, join_key, leaf_path

if TYPE_CHECKING:
    from bridge_core.layers import LayerKind, LayerTransform
    from bridge_core.plugins.registry import Registry

__all__ = ["neutral_keys", "undetermined_layout"]

_LISTED = 3


def neutral_keys(specs: Mapping[Key, TensorSpec], framework: str, registry: Registry) -> tuple[Key, ...]:
    """Return a key of each layer that has the neutral form's names and axes, and not the framework's.

    Args:
        specs: The state's tensors.
        framework: The framework whose layout the names look like.
        registry: Where kinds and transforms are found.
    """
    transforms = registry.transforms_of.get(framework, ())
    kinds = [
        _NeutralKind.of(kind, [t for t in transforms if t.kind == kind.name])
        for kind in registry.kinds.values()
    ]
    by_tail: dict[Key, list[_NeutralKind]] = {}
    for kind in kinds:
        if kind is not None:
            by_tail.setdefault(kind.anchor, []).append(kind)
    widths = sorted({len(tail) for tail in by_tail})
    native = {leaf.parts for t in transforms for leaf in t.leaves}
    auxiliary = {
        (role,): kind
        for kind in registry.kinds.values()
        for role in kind.auxiliary_tensors
        if (role,) not in native and any(t.kind == kind.name for t in transforms)
    }
    found: list[Key] = []
    for key in specs:
        kind_of_role = auxiliary.get(key[-1:])
        if kind_of_role is not None and any(
            (*key[:-1], role) in specs for role in kind_of_role.leaves if role != key[-1]
        ):
            found.append(key)
            continue
        for width in widths:
            path = key[:-width]
            if any(kind.is_at(path, specs) for kind in by_tail.get(key[-width:], ())):
                found.append(key)
                break
    return tuple(found)


@dataclass(frozen=True)
class _NeutralKind:
    """A kind whose neutral form differs from what a framework has.

    Args:
        neutral: Its leaves under neutral names.
        native: The framework's transforms of it.
        anchor: The leaf by which it is looked up.
    """

    neutral: LayerTransform
    native: tuple[LayerTransform, ...]
    anchor: Key

    @classmethod
    def of(cls, kind: LayerKind, native: Iterable[LayerTransform]) -> _NeutralKind | None:
        """Return None for a kind that a framework stores in the neutral form, or that has one leaf only."""
        from bridge_core.layers import LayerTransform, Leaf

        native = tuple(native)
        if not native or any(_is_neutral(t, kind) for t in native):
            return None
        leaves = tuple(
            Leaf(role, role, axes, optional=role.endswith("bias") or role in kind.auxiliary_tensors)
            for role, axes in kind.leaves.items()
        )
        required = [leaf for leaf in leaves if not leaf.optional]
        if len(required) < 2:
            return None
        equal_axes = tuple(dict.fromkeys(pair for t in native for pair in t.equal_axes))
        neutral = LayerTransform(f"neutral.{kind.name}", kind.name, leaves, equal_axes=equal_axes)
        return cls(neutral, native, required[0].parts)

    def is_at(self, path: Key, specs: Mapping[Key, TensorSpec]) -> bool:
        """Tell whether the leaves at a path are this kind in neutral form, and not in the framework's."""
        shapes = _shapes(self.neutral, path, specs)
        if not self.neutral.fits(shapes):
            return False
        for transform in self.native:
            taken = _shapes(transform, path, specs)
            if taken.keys() >= shapes.keys() and transform.fits(taken):
                return False
        return True


def _is_neutral(transform: LayerTransform, kind: LayerKind) -> bool:
    """Tell whether a transform has every leaf of its kind with the neutral name and the neutral axes."""
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
    """Return the error for a state whose layout neither its file nor its names determine.

    Args:
        state: The state.
        registry: Where adapters, kinds and transforms are found.
    """
    specs = state.specs()
    owners = [framework.name for framework in registry.frameworks.values() if framework.owns(specs)]
    path = state.metadata.provenance.get("path")
    options = ", ".join(f'"{name}"' for name in [*registry.frameworks, "neutral"])
    usual = owners[0] if len(owners) == 1 else _usual_layout(state, registry)
    neutral = neutral_keys(specs, usual, registry) if usual else ()
    if neutral:
        names = listed((join_key(key) for key in neutral), _LISTED)
        return UsageError(
            f"cannot determine the layout: the keys look like those of {usual}, but {names} and the tensors "
            "next to them have the names and axes of the neutral layout.",
            path=path,
            hint=(
                "If ckptbridge wrote the weights as neutral, and another program has stored them again, pass "
                f'layout="neutral" (--layout neutral); if they are those of a {usual} model, '
                f'layout="{usual}" (--layout {usual}).'
            ),
        )
    names = listed(map(join_key, state), _LISTED)
    matches = (
        f"match {' and '.join(owners)}" if owners else f"match neither {' nor '.join(registry.frameworks)}"
    )
    return UsageError(
        f"cannot determine the layout: the keys ({names}) {matches}.",
        path=path,
        hint=f"Pass the layout: layout= (--layout) with one of {options}.",
    )


def _usual_layout(state: FlatState, registry: Registry) -> str | None:
    """Return the layout that files of the state's format usually have."""
    file_format = registry.formats.get(state.metadata.provenance.get("format", ""))
    return file_format.layout if file_format is not None else None
