"""A level of a tree, its branches, and whether their leaves are those of the weights, further down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bridge_core import Key, TensorSpec
from bridge_flax.branch_names import SLOTS, may_be_counter, may_be_random, may_be_step

__all__ = [
    "FACTORED",
    "Shapes",
    "Tree",
    "depths",
    "has_slots",
    "is_factored",
    "is_key",
    "is_optimizer_of",
    "is_random",
    "is_step",
]

FACTORED = "param_states"
"""What T5X's optimizers call their branch, in which a parameter's path is followed by the name of a slot."""

_WORDS_OF_A_KEY = (2, 4)
"""Axis sizes of the raw data of JAX's threefry and rbg keys."""

Shapes = Mapping[Key, tuple[int, ...]]
"""Path below a branch -> shape of the array there."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The names below a path: those of its branches, by their first part, and its own tensors."""

    path: Key
    branches: Mapping[str, list[Key]]
    tensors: list[Key]
    specs: Mapping[Key, TensorSpec]

    @classmethod
    def of(
        cls, specs: Mapping[Key, TensorSpec], names: Iterable[Key], empty: Iterable[Key], path: Key = ()
    ) -> Tree:
        """Return the tree of the names below a path; an empty node makes an empty branch."""
        depth = len(path)
        branches: dict[str, list[Key]] = {}
        tensors: list[Key] = []
        for name in names:
            if len(name) == depth + 1:
                tensors.append(name)
            else:
                branches.setdefault(name[depth], []).append(name)
        for name in empty:
            if len(name) > depth and name[:depth] == path:
                branches.setdefault(name[depth], [])
        return cls(path, branches, tensors, specs)

    def at(self, branch: str) -> Key:
        """Return the path of a branch."""
        return (*self.path, branch)

    def rest(self, branch: str) -> dict[Key, Key]:
        """Return each name of a branch, with its path below the branch."""
        return {name: name[len(self.path) + 1 :] for name in self.branches[branch]}

    def shapes(self, branch: str) -> dict[Key, tuple[int, ...]]:
        """Return the path below a branch -> the shape, without scalars."""
        return {
            rest: spec.shape for name, rest in self.rest(branch).items() if (spec := self.specs[name]).shape
        }


def is_factored(tree: Tree, branch: str) -> bool:
    """Return whether a branch is the state of one of T5X's optimizers."""
    return any(FACTORED in name[len(tree.path) + 1 : -1] for name in tree.branches[branch])


def has_slots(tree: Tree, branch: str) -> bool:
    """Return whether a branch has what modules have not: slots, or a counter of an optimizer."""
    return any(
        not SLOTS.isdisjoint(rest)
        or FACTORED in rest
        or (may_be_counter(name[-1]) and _is_whole(tree.specs[name]))
        for name, rest in tree.rest(branch).items()
    )


def _is_whole(spec: TensorSpec) -> bool:
    return not spec.shape and spec.dtype.kind in "iu"


def is_step(tree: Tree, name: Key) -> bool:
    """Return whether a tensor of a tree is the number of steps of a training program."""
    return _is_whole(tree.specs[name]) and may_be_step(name[-1])


def is_optimizer_of(weights: Shapes, branch: Shapes) -> bool:
    """Return whether at least half of a branch's arrays have names and shapes of weights, further down."""
    found = [*depths(weights, branch)]
    return bool(found) and sum(depth is not None and depth > 0 for depth in found) * 2 >= len(found)


def depths(weights: Shapes, branch: Shapes) -> Iterator[int | None]:
    """Yield for each array of a branch how many parts come before the path of a weight; None if it has none.

    The name of a slot may follow the path.
    """
    for name, shape in branch.items():
        last = len(name) - 1
        yield next(
            (
                at
                for at in range(len(name))
                if weights.get(name[at:]) == shape or (at < last and weights.get(name[at:last]) == shape)
            ),
            None,
        )


def is_random(tree: Tree, branch: str) -> bool:
    """Return whether a branch holds random keys, or counts of what was drawn from them."""
    specs = [tree.specs[name] for name in tree.branches[branch]]
    return may_be_random(branch) and bool(specs) and all(map(is_key, specs))


def is_key(spec: TensorSpec) -> bool:
    """Return whether a tensor may hold random keys, or a count of what was drawn from one."""
    return spec.dtype.name == "uint32" and (not spec.shape or spec.shape[-1] in _WORDS_OF_A_KEY)
