"""What proves that tensors which metadata calls tied are one: metadata may be older than an edited tensor.

Two tensors made from the very same one by ops need no look at their values. Others are compared while the
target is written.
"""

from __future__ import annotations

from bridge_core.layers import LayerTransform, from_neutral_ops, usual_transforms
from bridge_core.ops import Op, inverse_chain, made_by, simplify_chain
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key, LayerInfo

__all__ = ["is_one", "turn_between"]


def is_one(state: FlatState, key: Key, other: Key) -> bool:
    """Return whether two tensors of a state are made from one, so that each can be made from the other."""
    one, two = made_by(state.tensor(key)), made_by(state.tensor(other))
    return one.source == two.source and all(op.exact for op in (*one.ops, *two.ops))


def turn_between(state: FlatState, registry: Registry, key: Key, other: Key) -> tuple[Op, ...] | None:
    """Return the ops from a neutral tensor to the axes of another one that is one with it in a framework.

    None if the layers' kinds do not say in which framework the two can be one tensor, or if they can be in
    several ways.
    """
    (one, one_role), (two, two_role) = (_leaf(state, k) for k in (key, other))
    frameworks = set(one.transforms) & set(two.transforms) or set(registry.frameworks)
    turns: set[tuple[Op, ...]] = set()
    for framework in sorted(frameworks):
        there = _native_ops(registry, framework, one, one_role, state.spec(key).shape)
        back = _native_ops(registry, framework, two, two_role, state.spec(other).shape)
        if there is not None and back is not None and there[1] == back[1]:
            turns.add(simplify_chain((*there[0], *inverse_chain(back[0]))))
    return turns.pop() if len(turns) == 1 else None


def _leaf(state: FlatState, key: Key) -> tuple[LayerInfo, str]:
    path, leaf = state.metadata.owner(key)
    info = state.metadata.layers.get(path)
    known = info is not None and leaf in info.leaves
    return (info if info is not None and known else LayerInfo(None, "", ())), leaf


def _native_ops(
    registry: Registry, framework: str, info: LayerInfo, role: str, shape: tuple[int, ...]
) -> tuple[tuple[Op, ...], tuple[int, ...]] | None:
    """Return the ops from a neutral leaf to the tensor that a framework has for it, and that shape."""
    kind = registry.kinds.get(info.kind or "")
    if kind is None:
        return (), shape
    transform = registry.transforms.get(info.transforms.get(framework, ""))
    if transform is None:
        transform = _usual(registry, framework, kind.name)
    for leaf in transform.leaves if transform is not None else ():
        if leaf.roles == (role,):
            splits = tuple(sorted(info.axis_splits.items()))
            return from_neutral_ops(leaf, kind.leaves[role], shape, len(shape), axis_splits=splits)
    return None


def _usual(registry: Registry, framework: str, kind: str) -> LayerTransform | None:
    transforms = registry.transforms_of.get(framework, ())
    return next(iter(usual_transforms(transforms, kind)), None)
