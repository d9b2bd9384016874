"""What the branches of a train state are, once the branch with the weights is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from bridge_core import Key, KeyConflict, join_key
from bridge_core.messages import listed
from bridge_core.plugins import WeightsChoice
from bridge_flax.branch_names import (
    PARAMS,
    SLOTS,
    is_gradients,
    is_metrics,
    is_optimizer,
    is_scaling,
    may_be_copy,
    may_be_counter,
    may_be_optimizer,
    may_be_random,
)
from bridge_flax.branch_trees import (
    Tree,
    depths,
    has_slots,
    is_factored,
    is_key,
    is_optimizer_of,
    is_random,
    is_step,
)
from bridge_flax.tree_names import is_collection, is_parameter

__all__ = ["read_branches", "several_states", "unclear_weights"]

_OPTIMIZER = "optimizer state"
_COPY = "another copy of the weights"
_PART = "a copy of some of the weights"


@dataclass(slots=True)
class _Known:
    """What is known of a train state while its branches are read.

    Args:
        shapes: Path of each weight, without a collection -> its shape.
        parameters: The number of those in the parameters.
        leaves: Last parts of the weights that are matrices.
        optimizer: Whether there is the state of an optimizer.
        training: Whether there is one, or a counter.
        updated: Last parts of the scalars that the optimizer has slots for.
    """

    shapes: dict[Key, tuple[int, ...]]
    parameters: int
    leaves: frozenset[str]
    optimizer: bool = False
    training: bool = False
    updated: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Collections:
    """The names of collections other than the parameters: name in the tree -> name in the conversion."""

    names: dict[Key, Key] = field(default_factory=dict)

    def add(self, level: Tree, branch: str) -> None:
        """Add a collection, or the collections in a branch that holds nothing else."""
        nested = _holds_collections(level, branch)
        for name, rest in level.rest(branch).items():
            self.names[name] = rest if nested else (branch, *rest)


def read_branches(levels: list[Tree], weights: str, entry: str) -> WeightsChoice | None:
    """Return which names are weights; None if the tree holds nothing else.

    Args:
        levels: The trees from the root to the one with the branch that holds the weights.
        weights: The name of that branch.
        entry: As for `choose_weights`.

    Raises:
        KeyConflict: A branch may be a second model.
    """
    tree = levels[-1]
    on_the_way = {level.path for level in levels} | {tree.at(weights)}
    others = [
        (level, name) for level in levels for name in level.branches if level.at(name) not in on_the_way
    ]
    known = _known(tree, weights, others)
    reasons: dict[Key, str] = {}
    for level, name in others:
        if _is_optimizer(level, name, known):
            reasons[level.at(name)] = _OPTIMIZER
    known.optimizer = bool(reasons)
    known.updated = frozenset(
        name[-1]
        for level, branch in others
        if level.at(branch) in reasons
        for name in level.branches[branch]
        if name[-2] in SLOTS and not level.specs[name].shape
    )
    known.training = known.optimizer or any(is_step(level, key) for level in levels for key in level.tensors)
    inner = _has_collections(tree, weights) and (weights != PARAMS or known.training)
    if inner:
        known = _with_inner(known, tree, weights)
    collections, unknown = _Collections(), dict[Key, Key]()
    for level, name in others:
        path = level.at(name)
        if path in reasons or not level.branches[name]:
            continue
        reason = _reason(level, name, known)
        if reason:
            reasons[path] = reason
        elif _may_be_model(level, name, known):
            unknown[path] = next(
                (key for key in level.branches[name] if is_parameter(key)), level.branches[name][0]
            )
        else:
            collections.add(level, name)
    for level in levels:
        for key in level.tensors:
            reason = _reason_of_tensor(level, key, known)
            if reason:
                reasons[key] = reason
            else:
                unknown[key] = key
    if not reasons and not inner and tree.at(weights) == (PARAMS,):
        return None
    if unknown:
        if not known.training and not reasons:
            return None
        raise _unknown_branches(tree.at(weights), unknown)
    bare = not inner and weights != PARAMS and not collections.names
    start: Key = () if inner or bare else (PARAMS,)
    names = {name: (*start, *rest) for name, rest in tree.rest(weights).items()}
    choice = WeightsChoice(
        {**names, **collections.names},
        reasons,
        wrapper=tree.path if weights == PARAMS and not inner else tree.at(weights),
        collections=not bare,
        copies=frozenset(path for path, reason in reasons.items() if reason in (_COPY, _PART)),
    )
    return _of_copy(choice, levels, tree.at(weights), entry) if entry else choice


def _known(tree: Tree, weights: str, others: Iterable[tuple[Tree, str]]) -> _Known:
    shapes = tree.shapes(weights)
    leaves = frozenset(path[-1] for path, shape in shapes.items() if len(shape) > 1)
    known = _Known(shapes, len(shapes), leaves)
    for level, name in others:
        if is_collection(name):
            known.shapes |= level.shapes(name)
        elif _holds_collections(level, name):
            known.shapes |= {path[1:]: shape for path, shape in level.shapes(name).items()}
    return known


def _with_inner(known: _Known, tree: Tree, weights: str) -> _Known:
    """Return what is known where the branch of the weights holds collections itself."""
    shapes = {path[1:]: shape for path, shape in tree.shapes(weights).items()}
    number = sum(path[0] == PARAMS for path in tree.shapes(weights))
    return replace(known, shapes={**known.shapes, **shapes}, parameters=number)


def _has_collections(tree: Tree, weights: str) -> bool:
    """Return whether the branch of the weights holds ``params``, and else only collections without layers."""
    rest = tree.rest(weights).values()
    return any(path[0] == PARAMS and len(path) > 1 for path in rest) and all(
        len(path) > 1 and (path[0] == PARAMS or not is_parameter(path)) for path in rest
    )


def _holds_collections(level: Tree, branch: str) -> bool:
    rest = level.rest(branch).values()
    return not is_collection(branch) and bool(rest) and all(len(p) > 1 and is_collection(p[0]) for p in rest)


def _is_optimizer(level: Tree, branch: str, known: _Known) -> bool:
    if is_optimizer(branch):
        return True
    if not may_be_optimizer(branch) and not is_factored(level, branch):
        return False
    if not any(map(is_parameter, level.branches[branch])):
        return True
    return has_slots(level, branch) and is_optimizer_of(known.shapes, level.shapes(branch))


def _reason(level: Tree, branch: str, known: _Known) -> str:
    """Return what a branch is, if it holds no weights; else an empty text."""
    if is_random(level, branch):
        return "random keys"
    if is_collection(branch):
        return ""
    shapes = level.shapes(branch)
    if known.training and not any(map(is_parameter, shapes)):
        if is_scaling(branch):
            return "scale of the loss"
        if is_metrics(branch):
            return "metrics"
        if not shapes and may_be_counter(branch):
            return "counters"
        arrays = (spec for name in level.branches[branch] if (spec := level.specs[name]).shape)
        if known.optimizer and all(spec.dtype.kind in "iub" and len(spec.shape) == 1 for spec in arrays):
            return "values of the training"
    if not shapes:
        return "scale of the loss" if is_scaling(branch) else ""
    depth_of = {
        name: at for name, at in zip(shapes, depths(known.shapes, shapes), strict=True) if at is not None
    }
    if len(depth_of) < len(shapes):
        return ""
    if is_gradients(branch):
        return "gradients"
    above = {name[:at] for name, at in depth_of.items()}
    if branch in SLOTS:
        return _OPTIMIZER if known.training else ""
    if SLOTS & {path[-1] for path in above if path}:
        return _OPTIMIZER if len(shapes) >= known.parameters else ""
    if not may_be_copy(branch):
        return ""
    if len(shapes) >= known.parameters:
        return _COPY
    return _PART if above == {()} else ""


def _reason_of_tensor(level: Tree, key: Key, known: _Known) -> str:
    """Return what a tensor next to the branches is; an empty text if that is not known."""
    spec, name = level.specs[key], key[-1]
    integer = spec.dtype.kind in "iub"
    if not spec.shape:
        if integer or may_be_counter(name):
            return "counter"
        if is_metrics(name):
            return "value of the training"
        return "value of the training" if known.optimizer and name not in known.updated else ""
    if may_be_random(name) and is_key(spec):
        return "random key" if len(spec.shape) == 1 else "random keys"
    return "counter" if integer and len(spec.shape) == 1 and may_be_counter(name) else ""


def _may_be_model(level: Tree, branch: str, known: _Known) -> bool:
    """Return whether a branch holds parameters of layers, so that it may be another model."""
    rest = level.rest(branch)
    if _holds_collections(level, branch):
        return False
    if any(is_parameter((branch, *path)) for path in rest.values()):
        return True
    if is_collection(branch) or not known.training:
        return False
    return any(path[-1] in known.leaves and len(level.specs[name].shape) > 1 for name, path in rest.items())


def _of_copy(choice: WeightsChoice, levels: list[Tree], weights: Key, entry: str) -> WeightsChoice | None:
    """Return the choice of another copy of the weights, with the collections that it does not have.

    None if the entry is not such a copy, or nothing is to be added to it.
    """
    chosen = next((path for path in choice.copies if join_key(path) == entry), None)
    others = {name: new for name, new in choice.names.items() if new[0] != PARAMS}
    if chosen is None or not choice.collections or not others:
        return None
    level = next(level for level in levels if level.path == chosen[:-1])
    rest = level.rest(chosen[-1])
    wrapped = _has_collections(level, chosen[-1])
    if wrapped and any(path[0] != PARAMS for path in rest.values()):
        return None
    names = {name: path if wrapped else (PARAMS, *path) for name, path in rest.items()}
    taken = {chosen}
    for collection in dict.fromkeys(new[0] for new in others.values()):
        twin = chosen[-1].replace(PARAMS, collection)
        if level.at(twin) in choice.copies and level.at(twin) != chosen:
            names |= {name: (collection, *path) for name, path in level.rest(twin).items()}
            taken.add(level.at(twin))
        else:
            names |= {name: new for name, new in others.items() if new[0] == collection}
    left_out = {path: reason for path, reason in choice.left_out.items() if path not in taken}
    return WeightsChoice(names, {weights: _COPY, **left_out}, chosen, True, choice.copies)


def _unknown_branches(weights: Key, unknown: dict[Key, Key]) -> KeyConflict:
    unknown_texts = [
        f"{join_key(path)!r} is a tensor" if path == key else f"{join_key(path)!r} holds {join_key(key)}"
        for path, key in [*unknown.items()][:4]
    ]
    branches = [weights, *(path for path, key in unknown.items() if path != key)]
    return KeyConflict(
        f"the tree is a train state with weights in {join_key(weights)!r}, and what else it holds is not all "
        "known: expected the state of an optimizer, copies of the weights, counters, random keys, and "
        f"collections that hold no parameters of layers, got: {', '.join(unknown_texts)}.",
        hint=_choose(branches),
    )


def several_states(tree: Tree, branches: Iterable[str]) -> KeyConflict:
    """Return the error for a tree that holds several train states."""
    paths = [tree.at(name) for name in branches]
    return KeyConflict(
        f"the tree holds several train states: {listed(repr(join_key(path)) for path in paths)}.",
        hint=_choose(paths),
    )


def unclear_weights(tree: Tree, branches: Iterable[str], optimizers: Iterable[str]) -> KeyConflict:
    """Return the error for a tree with an optimizer, of which several branches may be the weights."""
    paths = [tree.at(name) for name in branches]
    states = listed(repr(join_key(tree.at(name))) for name in optimizers)
    return KeyConflict(
        f"the tree holds the state of an optimizer ({states}), and it is not clear which other branch it "
        f"updates: {listed(repr(join_key(path)) for path in paths)}.",
        hint=_choose(paths),
    )


def _choose(paths: Iterable[Key]) -> str:
    names = [join_key(path) for path in paths][:4]
    return "Choose the branch to convert: " + " or ".join(f"entry={n!r} (--entry {n})" for n in names) + "."
