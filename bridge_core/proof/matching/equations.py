"""The equations by which one folded leaf could be another, with the numbers that become axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from bridge_core.axes import bind, parse_axes
from bridge_core.proof.matching.transforms import Way

__all__ = ["Alignment", "Form", "alignments", "forms"]

Shape = tuple[int, ...]
LETTERS = "ijlmnpqrstu"
"""Names of captures, in the order of the numbers."""


@dataclass(frozen=True)
class Alignment:
    """Which numbers of both sides are the same.

    Args:
        pairs: Place among the source's numbered parts and among the target's.
        source_axes: Places of the source's numbers that the target holds as axes.
        target_axes: Places of the target's numbers that the source holds as axes.
        flat: Whether all numbers of one side count those of the other.
    """

    pairs: tuple[tuple[int, int], ...]
    source_axes: tuple[int, ...] = ()
    target_axes: tuple[int, ...] = ()
    flat: bool = False


def alignments(source: Sequence[int], target: Sequence[int]) -> Iterator[Alignment]:
    """Yield how numbers may be paired in order, most pairs first.

    Args:
        source: How many numbers each numbered part of the source has.
        target: The same of the target.
    """
    if len(source) != len(target) and source and target and prod(source) == prod(target):
        yield Alignment((), flat=True)
        return
    most = min(len(source), len(target))
    for number in range(most, -1, -1):
        any_pairs = False
        for ours in itertools.combinations(range(len(source)), number):
            for theirs in itertools.combinations(range(len(target)), number):
                if all(source[a] == target[b] for a, b in zip(ours, theirs, strict=True)):
                    any_pairs = True
                    yield Alignment(
                        tuple(zip(ours, theirs, strict=True)),
                        tuple(i for i in range(len(source)) if i not in ours),
                        tuple(i for i in range(len(target)) if i not in theirs),
                    )
        if any_pairs and number:
            return


@dataclass(frozen=True)
class Form:
    """One way with its equation.

    Args:
        equation: As in a rule; empty for an unchanged copy.
        sizes: Sizes that the equation needs.
        sign: Equal for forms that move values alike.
    """

    equation: str
    sizes: tuple[tuple[str, int], ...] = ()
    sign: tuple[object, ...] = field(default=(), compare=False)


def forms(
    way: Way,
    source: Shape,
    target: Shape,
    source_lists: Sequence[tuple[str, int]],
    target_lists: Sequence[tuple[str, int]],
) -> Iterator[Form]:
    """Yield the equations by which a shape becomes another.

    Args:
        way: The axes of both sides.
        source: Shape of one tensor of the source.
        target: Shape of one tensor of the target.
        source_lists: Captures of the source, with the number of their values, that the target has as axes.
        target_lists: Captures of the target that the source has as axes.
    """
    for outer, ours in _without(source, [n for _, n in target_lists]):
        for inner, theirs in _without(target, [n for _, n in source_lists]):
            for first, second, sizes in _terms(way, ours, theirs):
                left = _with_lists(first, outer, [name for name, _ in target_lists])
                right = _with_lists(second, inner, [name for name, _ in source_lists])
                plain = not (outer or inner) and left == right and len(left) == len(source)
                text = "" if plain else f"{' '.join(left)} -> {' '.join(right)}"
                yield Form(text, tuple(sorted(sizes.items())), _sign(left, right, sizes, source, target))


def _sign(
    left: list[str], right: list[str], sizes: dict[str, int], source: Shape, target: Shape
) -> tuple[object, ...]:
    """Return what the equation does: its axes numbered in order, without those of size one."""
    known = dict(sizes)
    for terms, shape in ((left, source), (right, target)):
        for term, size in zip(terms, shape, strict=True):
            if "(" not in term:
                known[term] = size
    numbers: dict[str, int] = {}

    def named(terms: list[str]) -> tuple[object, ...]:
        names = " ".join(terms).replace("(", " ").replace(")", " ").replace("+", " ").split()
        return tuple(
            numbers.setdefault(name, len(numbers))
            for name in names
            if "+" in " ".join(terms) or (name != "1" and known.get(name) != 1)
        )

    # An axis that is split on one side only moves nothing by itself.
    both = (named(left), named(right))
    if "+" in " ".join(left):
        return ("parts", *both)
    return _merged(both[0], both[1])  # type: ignore[arg-type]


def _merged(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[object, ...]:
    """Return the order of the right with neighbours that stay neighbours as one."""
    runs: list[list[int]] = []
    for number in right:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    order = sorted(run[0] for run in runs)
    return (len(left) > 0, *(order.index(run[0]) for run in runs))


def _without(shape: Shape, sizes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Shape]]:
    """Yield the places of axes with these sizes, in their order, and the rest of a shape."""
    for places in itertools.permutations(range(len(shape)), len(sizes)):
        if all(shape[place] == n for place, n in zip(places, sizes, strict=True)):
            yield places, tuple(n for i, n in enumerate(shape) if i not in places)


def _with_lists(term: list[str], places: tuple[int, ...], names: list[str]) -> list[str]:
    rest = iter(term)
    at = dict(zip(places, names, strict=True))
    return [at[i] if i in at else next(rest) for i in range(len(term) + len(places))]


def _terms(way: Way, source: Shape, target: Shape) -> Iterator[tuple[list[str], list[str], dict[str, int]]]:
    if way.is_einsum:
        yield from _heads_first(source, target)
        return
    if way.identity:
        terms = _reshaped(source, target)
        if terms is not None:
            yield terms
        return
    for one in bind(way.source, source):
        for other in bind(way.target, target):
            terms = _bound(way, dict(one), dict(other), source, target)
            if terms is not None:
                yield terms


def _heads_first(source: Shape, target: Shape) -> Iterator[tuple[list[str], list[str], dict[str, int]]]:
    """Yield the terms where one side has the heads first and the size of a head last."""
    if sorted((len(source), len(target))) != [2, 3]:
        return
    flat, split = sorted((source, target), key=len)
    if flat != (split[0] * split[2], split[1]) or 1 in (split[0], split[2]):
        return
    terms = ["(x0 x2)", "x1"], ["x0", "x1", "x2"]
    yield (*(terms if len(source) == 2 else terms[::-1]), {"x0": split[0]})


def _bound(
    way: Way, one: dict[str, Shape], other: dict[str, Shape], source: Shape, target: Shape
) -> tuple[list[str], list[str], dict[str, int]] | None:
    names = {name for name in (*one, *other) if name != "1"}
    ours: dict[str, list[str]] = {}
    theirs: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for name in names:
        first, second = one.get(name), other.get(name)
        if first is None or second is None:
            if prod((first or second) or ()) != 1:
                return None
            (theirs if first is None else ours)[name] = ["1"] * len((first or second) or ())
            continue
        terms = _axis(name, first, second, flip=name in way.flip, sizes=sizes)
        if terms is None:
            return None
        ours[name], theirs[name] = terms
    return _written(way.source, ours, len(source)), _written(way.target, theirs, len(target)), sizes


def _axis(
    name: str, first: Shape, second: Shape, *, flip: bool, sizes: dict[str, int]
) -> tuple[list[str], list[str]] | None:
    """Return the terms of one axis of the kind on both sides."""
    if flip:
        if first != second:
            return None
        ours, theirs = [], []
        for number, size in enumerate(first):
            parts = [f"{name}{number}_{i}" for i in range(size)]
            sizes.update(dict.fromkeys(parts, 1))
            ours.append(f"({' + '.join(parts)})" if size > 1 else "1")
            theirs.append(f"({' + '.join(reversed(parts))})" if size > 1 else "1")
        return ours, theirs
    if len(first) == len(second) == 1:
        return ([name], [name]) if first == second else None
    if prod(first) != prod(second):
        return None
    if first == second:
        parts = [f"{name}{i}" for i in range(len(first))]
        return parts, parts
    if 1 not in (len(first), len(second)) or not (first and second):
        return None
    wide = max(first, second, key=len)
    parts = [f"{name}{i}" for i in range(len(wide))]
    sizes.update(zip(parts[:-1], wide[:-1], strict=True))
    joined = [f"({' '.join(parts)})"]
    return (joined, parts) if len(first) == 1 else (parts, joined)


def _written(axes: str, terms: dict[str, list[str]], rank: int) -> list[str]:
    """Return the terms of a leaf's axes in order; a variable number of ones fills the rank."""
    parsed = parse_axes(axes)
    rest = rank - sum(len(terms[axis.name]) if axis.name != "1" else not axis.spread for axis in parsed)
    written: list[str] = []
    for axis in parsed:
        ones = ["1"] * (rest if axis.spread else 1)
        written.extend(ones if axis.name == "1" else terms[axis.name])
    return written


def _reshaped(source: Shape, target: Shape) -> tuple[list[str], list[str], dict[str, int]] | None:
    """Return the terms of a copy that preserves the order of values, or None; axes split or join."""
    left: list[str] = []
    right: list[str] = []
    sizes: dict[str, int] = {}
    a = b = 0
    names = iter(f"x{i}" for i in itertools.count())
    if source == target:
        same = [next(names) for _ in source]
        return same, list(same), {}
    while a < len(source) or b < len(target):
        if a < len(source) and source[a] == 1:
            left.append("1")
            a += 1
        elif b < len(target) and target[b] == 1:
            right.append("1")
            b += 1
        elif a == len(source) or b == len(target):
            return None
        elif source[a] == target[b]:
            name = next(names)
            left.append(name)
            right.append(name)
            a, b = a + 1, b + 1
        else:
            wide, narrow, at = (target, source[a], b) if source[a] > target[b] else (source, target[b], a)
            end = at
            while end < len(wide) and prod(wide[at:end]) < narrow:
                end += 1
            if prod(wide[at:end]) != narrow:
                return None
            parts = [next(names) if n != 1 else "1" for n in wide[at:end]]
            known = [name for name in parts if name != "1"]
            sizes.update(
                {name: n for name, n in zip(parts, wide[at:end], strict=True) if n != 1 and name != known[-1]}
            )
            joined = f"({' '.join(known)})" if len(known) > 1 else known[0]
            if wide is target:
                left.append(joined)
                right.extend(parts)
                a, b = a + 1, end
            else:
                left.extend(parts)
                right.append(joined)
                a, b = end, b + 1
    return left, right, sizes
