"""Items of a pool: paths to nodes opened, split by their numbers, and paired by order or names."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from bridge_core.proof.matching.folding import SLOT, NodePath
from bridge_core.proof.matching.known_names import meaning
from bridge_core.proof.matching.profiles import Profile

__all__ = [
    "Listed",
    "by_value",
    "divided",
    "equal_counts",
    "in_order",
    "is_stacked",
    "inside_of",
    "leaf_paths",
    "length",
    "listed_alike",
    "lists_to_open",
    "normal_path",
    "single_paths",
    "with_one_meaning",
    "with_same_names",
]


Group = tuple[list[NodePath], list[NodePath]]
"""Items of the source, and of the target."""


def by_value(
    ours: list[NodePath], theirs: list[NodePath], level: Callable[[NodePath], Hashable]
) -> dict[Hashable, Group]:
    """Return the items of both sides of each value of a function."""
    items: dict[Hashable, Group] = {}
    for number, paths in enumerate((ours, theirs)):
        for path in paths:
            items.setdefault(level(path), ([], []))[number].append(path)
    return items


def equal_counts(
    ours: list[NodePath], theirs: list[NodePath], level: Callable[[NodePath], Hashable]
) -> tuple[list[Group], list[NodePath], list[NodePath]]:
    """Return groups of one value of a function that have as many items on both sides, and the rest."""
    items = by_value(ours, theirs, level).values()
    groups = [group for group in items if len(group[0]) == len(group[1])]
    rest = [group for group in items if len(group[0]) != len(group[1])]
    return groups, [path for left, _ in rest for path in left], [path for _, right in rest for path in right]


def length(path: NodePath) -> int:
    """Return how many items a path stands for."""
    return prod(node.count for node in path)


@dataclass(frozen=True)
class Listed:
    """Trees of one form in lists.

    Args:
        groups: Lists of one length, of which both sides have as many.
        rest: The others.
        as_many: Whether the others are as many trees on both sides, in lists of other lengths.
    """

    groups: list[Group]
    rest: Group
    as_many: bool

    @property
    def alike(self) -> bool:
        """Whether both sides list them in one way."""
        return not (self.rest[0] or self.rest[1])


def listed_alike(ours: list[NodePath], theirs: list[NodePath]) -> Listed:
    """Return how trees of one form are listed on both sides."""
    groups, left, right = equal_counts(ours, theirs, length)
    as_many = bool(left and right) and sum(map(length, left)) == sum(map(length, right))
    return Listed(groups, (left, right), as_many)


def is_stacked(form: Hashable, forms: Mapping[Hashable, Group], profiles: Mapping[int, Profile]) -> bool:
    """Return whether a list of one form holds what something of another form holds, such as a stack."""

    def facts(path: NodePath) -> Hashable:
        return profiles[id(path)], len(path[-1].leaves)

    for number in (0, 1):
        others = (one[1 - number] for other, one in forms.items() if other != form)
        known = {facts(path) for paths in others for path in paths}
        if any(facts(path) in known for path in forms[form][number]):
            return True
    return False


def normal_path(path: NodePath) -> NodePath:
    """Return a path that goes down as long as there is one way."""
    while len(path[-1].children) == 1:
        path = (*path, path[-1].children[0])
    return path


def inside_of(path: NodePath) -> list[NodePath]:
    """Return the paths to what is directly inside an item; a leaf itself."""
    return [(*path, child) for child in path[-1].children] or [path]


def leaf_paths(path: NodePath) -> list[NodePath]:
    """Return the path to each leaf of an item."""
    return [(*path[:-1], *rest) for rest in path[-1].leaves]


def divided(profile: Profile, number: int) -> Profile:
    """Return the profile of one of so many equal parts."""
    return tuple((name, n // number) for name, n in profile)


def lists_to_open(path: NodePath, depth: int, profile: Profile, known: Collection[Profile]) -> Sequence[int]:
    """Return the places of the lists on a path of which each number holds what others hold.

    A list that holds more than the last of several is a list of the model, such as its blocks, and stays one.
    Of lists in lists that hold nothing else, any may be one of the other side: all are divided.

    Args:
        path: The path.
        depth: Where the pool's part of it begins.
        profile: What it holds.
        known: What the other side's items hold.
    """
    lists = [place for place in range(depth, len(path)) if path[place].count > 1]
    for number in range(1, len(lists) + 1):
        fitting = [
            places
            for places in itertools.combinations(lists, number)
            if divided(profile, prod(path[place].count for place in places)) in known
        ]
        if fitting:
            *outer, last = sorted({place for places in fitting for place in places})
            if number == 1 and all(len(path[place].leaves) > len(path[last].leaves) for place in outer):
                return (last,)
            return (*outer, last)
    return ()


def single_paths(path: NodePath, places: Sequence[int]) -> list[NodePath]:
    """Return one path for each number of some nodes."""
    choices = [
        [replace(node, numbers=(n,)) for n in node.numbers] if place in places else [node]
        for place, node in enumerate(path)
    ]
    return list(itertools.product(*choices))


def in_order(ours: list[NodePath], theirs: list[NodePath]) -> list[tuple[NodePath, NodePath]] | None:
    """Return items that are numbered on both sides, in pairs by the order of their numbers."""
    numbered = []
    for paths in (ours, theirs):
        texts = {tuple(node.text for node in path) for path in paths}
        if len(texts) > 1 or SLOT not in "".join(next(iter(texts))):
            return None
        order = [tuple(node.numbers for node in path if node.numbers) for path in paths]
        if len(set(order)) < len(order):
            return None
        numbered.append(
            [path for _, path in sorted(zip(order, paths, strict=True), key=lambda pair: pair[0])]
        )
    return list(zip(*numbered, strict=True))


def with_same_names(ours: list[NodePath], theirs: list[NodePath]) -> list[tuple[int, int]] | None:
    """Return pairs of leaves whose modules have the same name, if each of the smaller side has just one."""
    names = [
        [path[-2].text[1:] if len(path) > 1 else path[-1].text[1:] for path in paths]
        for paths in (ours, theirs)
    ]
    few, many = sorted(names, key=len)
    if len(few) == len(many) or any(many.count(name) != 1 or few.count(name) != 1 for name in few):
        return None
    return [(names[0].index(name), names[1].index(name)) for name in few]


def with_one_meaning(ours: list[NodePath], theirs: list[NodePath]) -> list[tuple[int, int]] | None:
    """Return the pairs of names of one meaning, if each name of both sides is in one of them."""
    if len(ours) != len(theirs):
        return None
    texts = [_meanings(ours), _meanings(theirs)]
    for first, second in zip(*texts, strict=True):
        if Counter(first) == Counter(second) and len(set(first)) == len(first):
            return [(a, second.index(name)) for a, name in enumerate(first)]
    return None


def _meanings(paths: list[NodePath]) -> list[list[str]]:
    """Return what names mean below what all share: the entire rest, the last part, and the first."""
    shared = 0
    while all(len(path) > shared + 1 and path[shared].text == paths[0][shared].text for path in paths):
        shared += 1
    ends = [len(path) - (path[-1].is_leaf and len(path) > shared + 1) for path in paths]
    rests = [
        "".join(node.text.replace(SLOT, "#") for node in path[shared:end])
        for path, end in zip(paths, ends, strict=True)
    ]
    meant = [meaning(rest) for rest in rests]
    return [meant, [text.rpartition(".")[2] for text in meant], [text.partition(".")[0] for text in meant]]
