"""A Linen tree, an NNX module or an NNX state as a flat state, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from flax import nnx

from bridge_core import (
    BridgeError,
    FlatState,
    Key,
    MismatchError,
    StateMetadata,
    Tensor,
    TensorSpec,
    UnsupportedFeature,
    UsageError,
    join_key,
)
from bridge_core.messages import count, listed
from bridge_core.state import unflatten_tree
from bridge_flax.templates import Template
from bridge_flax.train_states import choose_weights, holds_training
from bridge_flax.tree_names import boxes, has_collections
from bridge_flax.trees.arrays import tensor_of
from bridge_flax.trees.loading import read_here
from bridge_flax.trees.module_types import nnx_modules
from bridge_flax.trees.nnx_split import split
from bridge_flax.trees.walk import is_empty, is_struct, rebuild, walk

__all__ = ["build", "flatten", "read_leaves", "state_of"]

ReadLeaves = Callable[[FlatState, list[tuple[Key, Any]]], dict[Key, Any]]


def state_of(value: Any) -> FlatState:
    """Return the tensors of a Linen tree, an NNX module or state, or a template.

    `bridge_flax.framework.FlaxFramework.state` documents it.
    """
    if isinstance(value, Template):
        return value.state
    if isinstance(value, nnx.Optimizer) and not hasattr(value, "model"):
        raise UsageError(
            f"expected weights, got the optimizer {type(value).__name__}, which holds none.",
            hint="Pass the model that it updates.",
        )
    if isinstance(value, nnx.Pytree):
        _, state = split(value)
        flat = flatten(state, form="nnx")
        modules = nnx_modules(value, tuple(flat))
        return flat.replace(metadata=flat.metadata.with_(modules=modules))
    if isinstance(value, nnx.State | nnx.GraphState):
        return flatten(value, form="nnx")
    if isinstance(value, Mapping) or is_struct(value):
        return flatten(value, form=None)
    raise UsageError(
        f"expected Flax weights, got {type(value).__name__}.",
        hint="Pass a dict of variables or params, a train state, an nnx.Module, an nnx.State, or a "
        "bridge_flax.template.",
    )


def flatten(tree: Any, *, form: str | None) -> FlatState:
    """Flatten anything that `walk` can walk.

    Args:
        tree: The tree.
        form: What the keys begin with: ``"variables"`` (collections), ``"params"`` or ``"nnx"`` (modules);
            None to determine it from the names.

    Raises:
        KeyConflict: Two entries have one name, or the names do not show whether they begin with
            collections.
        UnsupportedFeature: Some leaves are not arrays, or of unsupported dtypes; the first are listed. In a
            train state, those that are not weights are passed over.
        LimitExceeded: The tree is too deep.
    """
    tensors: dict[Key, Tensor] = {}
    collections: dict[Key, str] = {}
    empty: list[Key] = []
    bad: dict[Key, str] = {}
    for key, leaf, variable in walk(tree):
        if is_empty(leaf):
            if key:
                empty.append(key)
            continue
        try:
            tensors[key] = tensor_of(key, leaf)
        except UnsupportedFeature as err:
            bad[key] = f"{join_key(key)} ({err.message.rstrip('.')})"
            continue
        if variable is not None and variable.var_type is not nnx.Param:
            collections[key] = variable.var_type.__name__
    specs = {key: tensor.spec for key, tensor in tensors.items()}
    boxed = boxes(specs) if form is None else frozenset[Key]()
    names = {key[:-1] if key in boxed else key: spec for key, spec in specs.items()}
    may_train = form is None or (form == "nnx" and holds_training((*names, *bad), collections))
    left_out = _left_out(names, (*empty, *bad)) if may_train else None
    texts = [text for key, text in bad.items() if not left_out or not _is_below(key, left_out)]
    if texts:
        raise UnsupportedFeature(
            f"the tree holds {count(len(texts), 'value')} that cannot be converted: {', '.join(texts[:8])}"
            + (f" and {len(texts) - 8} more." if len(texts) > 8 else "."),
            hint="Remove them from the tree first.",
        )
    if form is None and left_out is None:
        form = "variables" if has_collections([*names, *((*key, "") for key in empty)]) else "params"
    tree_form = {"flax": form} if form else {}
    metadata = StateMetadata(collections=collections, empty=tuple(empty), tree_form=tree_form)
    return FlatState(tensors, layout="flax", metadata=metadata)


def _left_out(names: Mapping[Key, TensorSpec], empty: Collection[Key]) -> Collection[Key] | None:
    """Return the paths in a train state that hold no weights, none if unclear; None for another tree."""
    try:
        choice = choose_weights(names, empty)
    except BridgeError:  # raised again where the weights are chosen; an entry may be wanted
        return ()
    return None if choice is None else choice.left_out


def _is_below(key: Key, paths: Collection[Key]) -> bool:
    return any(key[:depth] in paths for depth in range(1, len(key) + 1))


def build(
    state: FlatState, like: Any, weights: Collection[Key] | None = None, read: ReadLeaves = read_here
) -> Any:
    """Return live tensors in the structure of ``like``.

    `bridge_flax.framework.FlaxFramework.build` documents it.

    Args:
        state: The tensors.
        like: The structure.
        weights: The keys of ``like`` that are filled, where the others stay unchanged; None for all.
        read: Reads the leaves.
    """
    if like is None:
        leaves = read_here(state, [(key, None) for key in state])
        return unflatten_tree(leaves, state.metadata.empty)
    if isinstance(like, Template):
        if like.kind == "linen":
            return _fill(state, like.tree, None, read)
        graphdef, abstract = like.tree
        return nnx.merge(graphdef, _fill(state, abstract, None, read))
    if isinstance(like, nnx.Pytree):
        graphdef, old = split(like)
        return nnx.merge(graphdef, _fill(state, old, weights, read))
    return _fill(state, like, weights, read)


def _fill(state: FlatState, like: Any, weights: Collection[Key] | None, read: ReadLeaves) -> Any:
    leaves = read_leaves(state, like, weights, read)
    return rebuild(like, lambda key, leaf: leaves.get(key, leaf))


def read_leaves(
    state: FlatState, like: Any, weights: Collection[Key] | None = None, read: ReadLeaves = read_here
) -> dict[Key, Any]:
    """Return a new leaf for each leaf of a tree, by key.

    Args:
        state: The tensors, with exactly the keys of ``like``.
        like: What `walk` can walk.
        weights: The keys of ``like`` that are read; None for all.
        read: Reads the leaves.

    Raises:
        MismatchError: Keys or shapes differ; its attributes list all of them.
    """
    leaves = [
        (key, leaf)
        for key, leaf, _ in walk(like)
        if not is_empty(leaf) and (weights is None or key in weights)
    ]
    specs = {key: tensor_of(key, leaf).spec for key, leaf in leaves}
    missing = tuple(join_key(key) for key in specs if key not in state)
    unexpected = tuple(join_key(key) for key in state if key not in specs)
    mismatched = tuple(
        f"{join_key(key)}: expected {spec}, got {state.spec(key)}"
        for key, spec in specs.items()
        if key in state and state.spec(key).shape != spec.shape
    )
    if missing or unexpected or mismatched:
        lists = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
        text = "; ".join(f"{len(names)} {what}: {listed(names)}" for what, names in lists.items() if names)
        raise MismatchError(
            f"the state does not match the tree to fill. {text}.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
        )
    return read(state, leaves)
