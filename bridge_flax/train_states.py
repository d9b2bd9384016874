"""Train states: which branches of a tree are a model's weights, and what the others are.

Training programs keep parameters next to the state of an optimizer, counters, random keys and averages of the
parameters. What a branch is follows from its name and from its leaves: those of an optimizer and of a copy
have the names and shapes of the weights' own. This module does not import JAX.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from bridge_core import ConversionError, Key, TensorSpec
from bridge_core.messages import listed
from bridge_core.plugins import WeightsChoice
from bridge_flax.branch_names import (
    PARAMS,
    WEIGHTS,
    is_optimizer,
    may_be_copy,
    may_be_counter,
    may_be_optimizer,
)
from bridge_flax.branch_trees import (
    FACTORED,
    Tree,
    has_slots,
    is_factored,
    is_optimizer_of,
    is_random,
    is_step,
)
from bridge_flax.train_branches import read_branches, several_states, unclear_weights
from bridge_flax.tree_names import is_collection, is_parameter

__all__ = ["choose_weights", "holds_training"]

_OF_OPTIMIZERS = frozenset({"OptState", "OptArray", "OptVariable"})
"""Classes of variables of an `nnx.Optimizer`."""

_ADAM = {"count", "mu", "nu"}
_DEEPEST = 4


def choose_weights(
    specs: Mapping[Key, TensorSpec], empty: Collection[Key] = (), entry: str = ""
) -> WeightsChoice | None:
    """Return which tensors of a tree are weights; None if the tree is not a train state.

    Args:
        specs: Key without box -> spec.
        empty: Paths of empty nodes.
        entry: Dotted path of another copy of the weights to take, with the collections that it does not have;
            None is returned if there is no such copy, or nothing to add to it.

    Raises:
        KeyConflict: The names do not show which branch holds the weights, or what another branch is.
        ConversionError: There are no weights, only the state of an optimizer.
    """
    if () in specs:
        return None
    if _is_optimizer_alone(specs):
        raise ConversionError(
            "the tree holds no weights: all of it is the state of an optimizer (mu, nu, count).",
            hint="Pass the parameters that the optimizer updates, or a train state with both.",
        )
    if not _may_be(specs, empty):
        return None
    levels, weights = _located(specs, empty)
    if not weights:
        return None
    return read_branches(levels, weights, entry)


def holds_training(names: Iterable[Key], types: Mapping[Key, str]) -> bool:
    """Return whether modules, not only their variables, may belong to a training program.

    Args:
        names: The names of all variables.
        types: Name -> class of the variable, if that is not `nnx.Param`.
    """
    parts = {part for name in names for part in name[:_DEEPEST]}
    return any(kind in _OF_OPTIMIZERS for kind in types.values()) or any(
        is_optimizer(part) or may_be_optimizer(part) for part in parts
    )


def _is_optimizer_alone(specs: Mapping[Key, TensorSpec]) -> bool:
    """Return whether a tree is what optax's Adam stores, below positions in tuples or at the top."""
    first = {name[0] for name in specs if name}
    if not all(part.isdigit() or part in _ADAM for part in first):
        return False
    slots: dict[str, set[Key]] = {}
    for name in specs:
        start = next((at for at, part in enumerate(name) if not part.isdigit()), len(name) - 1)
        slots.setdefault(name[start], set()).add(name[start + 1 :])
    return slots.keys() == _ADAM and slots["mu"] == slots["nu"] and any(map(is_parameter, slots["mu"]))


def _may_be(specs: Mapping[Key, TensorSpec], empty: Collection[Key]) -> bool:
    """Return whether any name shows that a tree may be a train state; most trees are none."""
    first = {name[0] for name in (*specs, *empty) if name}
    if PARAMS in first:
        return len(first) > 1
    if any(len(name) == 1 and may_be_counter(name[0]) for name in specs):
        return True
    counted = {(*name[:-1], PARAMS) for name in specs if len(name) <= _DEEPEST and may_be_counter(name[-1])}
    if counted and any(name[:depth] in counted for name in specs for depth in range(2, _DEEPEST + 1)):
        return True
    parts = {part for name in (*specs, *empty) for part in name[:_DEEPEST]}
    return any(part == FACTORED or is_optimizer(part) or may_be_optimizer(part) for part in parts)


def _located(specs: Mapping[Key, TensorSpec], empty: Collection[Key]) -> tuple[list[Tree], str]:
    """Return the trees from the root to the one that holds the weights, and the name of their branch."""
    hints = frozenset(
        part
        for part in {part for name in (*specs, *empty) for part in name[: 2 * _DEEPEST]}
        if part == FACTORED or is_optimizer(part) or may_be_counter(part)
    )
    levels: list[Tree] = []
    names: Iterable[Key] = specs
    path: Key = ()
    for depth in range(_DEEPEST):
        tree = Tree.of(specs, names, empty, path)
        levels.append(tree)
        if tree.branches.get(PARAMS):
            return levels, PARAMS
        states = [name for name in tree.branches if _is_state(tree, name, empty, _DEEPEST - depth, hints)]
        weights = _weights_branch(tree, states, empty)
        if weights:
            return levels, weights
        if len(states) > 1:
            raise several_states(tree, states)
        if not states:
            break
        path, names = tree.at(states[0]), tree.branches[states[0]]
    return [], ""


def _is_state(tree: Tree, branch: str, empty: Collection[Key], deeper: int, hints: frozenset[str]) -> bool:
    """Return whether a branch holds a train state, at its top or further down.

    Args:
        tree: The tree.
        branch: The branch.
        empty: Paths of empty nodes.
        deeper: How many levels further down to look.
        hints: Parts of names, one of which every train state has.
    """
    if not deeper or is_collection(branch):
        return False
    start = len(tree.path) + 1
    below_hints = (name[start:] for name in (*tree.branches[branch], *empty))
    if all(map(hints.isdisjoint, below_hints)) or not tree.branches[branch]:
        return False
    below = Tree.of(tree.specs, tree.branches[branch], empty, tree.at(branch))
    if any(below.branches.get(name) for name in WEIGHTS) and (
        any(is_optimizer(name) or is_factored(below, name) for name in below.branches)
        or any(is_step(below, name) for name in below.tensors)
    ):
        return True
    return any(_is_state(below, name, empty, deeper - 1, hints) for name in below.branches if name != PARAMS)


def _weights_branch(tree: Tree, states: Collection[str], empty: Collection[Key]) -> str:
    """Return the branch of a tree without ``params`` that holds the weights; an empty name if none does.

    Args:
        tree: The tree.
        states: Its branches that hold train states of their own.
        empty: Paths of empty nodes.

    Raises:
        KeyConflict: There is an optimizer, and several branches may be the weights.
        ConversionError: There is an optimizer, and no other branch.
    """
    certain = [name for name in tree.branches if name not in states and is_optimizer(name)]
    others = [
        name
        for name in tree.branches
        if name not in (*certain, *states) and (may_be_optimizer(name) or is_factored(tree, name))
    ]
    candidates = {
        name: shapes
        for name in tree.branches
        if name not in (*certain, *others, *states)
        and not (is_collection(name) or is_random(tree, name))
        and (shapes := tree.shapes(name))
    }
    certain += [
        name
        for name in others
        if has_slots(tree, name)
        and (
            {part for key in tree.branches[name] for part in key} >= _ADAM
            or any(is_optimizer_of(shapes, tree.shapes(name)) for shapes in candidates.values())
        )
    ]
    named = [name for name in WEIGHTS if name in candidates]
    if not certain and not others:
        counted = any(is_step(tree, name) for name in tree.tensors)
        alone = named and all(name == named[0] or may_be_copy(name) for name in candidates)
        return named[0] if counted and alone else ""
    mirrored = [
        name
        for name, shapes in candidates.items()
        if any(is_optimizer_of(shapes, tree.shapes(other)) for other in (*certain, *others))
    ]
    named = [name for name in named if not mirrored or name in mirrored]
    if named and (certain or mirrored or not any(map(is_parameter, tree.branches[others[0]]))):
        if certain and _is_module(tree, named[0], certain):
            raise unclear_weights(tree, [*candidates], certain)
        return named[0]
    if states or not certain:
        return ""
    if len(mirrored) == 1 and not _is_module(tree, mirrored[0], certain):
        return mirrored[0]
    if candidates:
        raise unclear_weights(tree, [*candidates], certain)
    if tree.path or not any(is_parameter(key) for name in certain for key in tree.branches[name]):
        return ""
    raise ConversionError(
        f"the tree holds no weights: {listed(map(repr, certain))} is the state of an optimizer, and no other "
        "branch holds tensors of a model.",
        hint="Pass the model's weights: of an nnx.Optimizer the module that it updates, of a train state all "
        "of it or its params.",
    )


def _is_module(tree: Tree, branch: str, optimizers: Iterable[str]) -> bool:
    """Return whether an optimizer has a branch under its own name: then it is one of a model's modules."""
    shapes = {(branch, *rest): shape for rest, shape in tree.shapes(branch).items()}
    return any(is_optimizer_of(shapes, tree.shapes(name)) for name in optimizers)
