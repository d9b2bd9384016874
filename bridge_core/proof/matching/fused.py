"""One tensor that is several of the other side, one after another or stacked."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bridge_core.proof.matching.equations import LETTERS, Alignment, Form
from bridge_core.proof.matching.folding import NodePath
from bridge_core.proof.matching.known_names import meaning, parts_meant
from bridge_core.proof.matching.leaf_evidence import LeafEvidence, name_of
from bridge_core.proof.matching.profiles import elements_of

__all__ = ["Fused", "fused_leaves"]

_MOST_PARTS = 3
_MOST_LEAVES = 40
"""Leaves without a partner, on both sides together, among which fused ones are looked for."""


_OWN = {"in_proj_weight": ".weight", "in_proj_bias": ".bias"}
"""Leaves of torch's attention, which hold three -> what each of these would be called."""


@dataclass(frozen=True, eq=False)
class Fused:
    """A leaf that is several leaves of the other side.

    Args:
        packed: Path to the leaf.
        parts: Paths to those of the other side.
        is_source: Whether the packed is the source's.
        ways: Orders of the parts that are possible, each with its equation; one if that is settled.
        reason: What decided it.
        confidence: From 0 to 1.
    """

    packed: NodePath
    parts: tuple[NodePath, ...]
    is_source: bool
    ways: tuple[tuple[tuple[int, ...], Form, Alignment], ...]
    reason: str
    confidence: float


def fused_leaves(
    left: Sequence[NodePath], right: Sequence[NodePath], evidence: LeafEvidence, *, names: bool
) -> list[Fused]:
    """Return leaves that can only be several of the other side, each of these in one of them.

    Args:
        left: Leaves of the source without a partner.
        right: Those of the target.
        evidence: What is known of leaves.
        names: Whether exact names decide between several sets of parts, and their order.
    """
    if not 3 <= len(left) + len(right) <= _MOST_LEAVES:
        return []
    fused_sets: list[Fused] = []
    for candidates, others, is_source in ((left, right, True), (right, left, False)):
        siblings = list(_sibling_sets([path for path in others if path[-1].is_leaf]))
        for packed in candidates:
            if not packed[-1].is_leaf or any(_pairs(packed, one, evidence, is_source) for one in others):
                continue
            sets = [
                fused
                for parts in siblings
                if (fused := _fused(packed, parts, evidence, is_source)) is not None
            ]
            if len(sets) > 1 and names:
                sets = [fused for fused in sets if _spelled_order(fused) is not None]
                sets = [
                    replace(fused, reason="one tensor for all, by its name", confidence=0.85)
                    for fused in sets
                ]
            if len(sets) == 1:
                fused_sets.append(_in_order(sets[0]) if names else sets[0])
    taken = [id(path) for fused in fused_sets for path in fused.parts]
    return [fused for fused in fused_sets if all(taken.count(id(path)) == 1 for path in fused.parts)]


def _pairs(packed: NodePath, other: NodePath, evidence: LeafEvidence, is_source: bool) -> bool:
    if not other[-1].is_leaf or elements_of(packed) != elements_of(other):
        return False
    return evidence.draft(*((packed, other) if is_source else (other, packed))) is not None


def _sibling_sets(paths: list[NodePath]) -> Iterator[tuple[NodePath, ...]]:
    """Yield leaves whose paths differ in one node."""
    groups: dict[object, list[NodePath]] = defaultdict(list)
    for path in paths:
        for place in range(len(path)):
            rest = tuple((node.text, node.numbers) for i, node in enumerate(path) if i != place)
            groups[place, len(path), rest, path[place].numbers].append(path)
    seen: set[frozenset[int]] = set()
    for group in groups.values():
        for number in range(2, _MOST_PARTS + 1):
            for some in itertools.combinations(group, number):
                identity = frozenset(map(id, some))
                if len(group) <= 8 and identity not in seen:
                    seen.add(identity)
                    yield some


def _fused(
    packed: NodePath, parts: tuple[NodePath, ...], evidence: LeafEvidence, is_source: bool
) -> Fused | None:
    """Return a leaf as these parts, along each axis for which shapes allow that; None if they do not."""
    if sum(map(elements_of, parts)) != elements_of(packed):
        return None
    shape = packed[-1].shape or ()
    ways: list[tuple[tuple[int, ...], Form, Alignment]] = []
    for axis in range(len(shape)):
        sizes = _sizes(packed, parts, axis)
        if sizes is not None:
            ways += _ways(packed, parts, evidence, is_source, axis, sizes)
    return (
        Fused(packed, parts, is_source, tuple(ways), "the only ones that make it up", 1.0) if ways else None
    )


def _sizes(packed: NodePath, parts: Sequence[NodePath], axis: int) -> tuple[int, ...] | None:
    """Return the size of each part along an axis of the packed; all 0 if the axis counts them."""
    length = (packed[-1].shape or ())[axis]
    share = elements_of(packed) // length
    sizes = [divmod(elements_of(part), share) for part in parts]
    if any(rest for _, rest in sizes):
        return None
    if length == len(parts) and all(size == 1 for size, _ in sizes):
        return (0,) * len(parts)
    return tuple(size for size, _ in sizes)


def _ways(
    packed: NodePath,
    parts: tuple[NodePath, ...],
    evidence: LeafEvidence,
    is_source: bool,
    axis: int,
    sizes: tuple[int, ...],
) -> Iterator[tuple[tuple[int, ...], Form, Alignment]]:
    """Yield each order of the parts with its equation; none if the equation of a part is not known."""
    shape = packed[-1].shape or ()
    terms: list[_Terms] = []
    aligned: Alignment | None = None
    for number, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        own = (*shape[:axis], *((size,) if size else ()), *shape[axis + 1 :])
        virtual = (
            *packed[:-1],
            replace(packed[-1], shape=own, text=_OWN.get(name_of(packed), packed[-1].text)),
        )
        draft = evidence.draft(*((virtual, part) if is_source else (part, virtual)))
        if draft is None or len(draft.forms) != 1:
            return
        form, alignment = draft.forms[0]
        if alignment.flat or (aligned is not None and alignment != aligned):
            return
        aligned = alignment
        named = _named(form, axis if size else -1, number, own, is_source)
        if named is None:
            return
        terms.append(named)
    if aligned is None or len({tuple(one.packed[i] for i in one.others) for one in terms}) > 1:
        return
    known: dict[str, int] = {}
    for one in terms:
        if any(known.setdefault(name, n) != n for name, n in one.sizes.items()):
            return
    for order in itertools.permutations(range(len(parts))):
        for equation in _equations(
            [terms[n] for n in order], axis, stacked=not sizes[0], is_source=is_source
        ):
            names = set(re.findall(r"\w+", equation))
            used = tuple(sorted((name, n) for name, n in known.items() if name in names))
            yield order, Form(equation, used), aligned


@dataclass(frozen=True)
class _Terms:
    """The equation of one part, its names made those of the packed."""

    packed: list[str]
    part: list[str]
    others: list[int]
    sizes: dict[str, int]


def _named(
    form: Form,
    axis: int,
    number: int,
    shape: tuple[int, ...],
    is_source: bool,
) -> _Terms | None:
    """Return the equation of one part with names of the packed leaf; None if names cannot express it."""
    if form.equation:
        sides = [_split(text) for text in form.equation.split(" -> ")]
    else:
        sides = [[f"x{i}" for i in range(len(shape))]] * 2
    own, other = sides if is_source else sides[::-1]
    if len(own) != len(shape):
        return None
    names: dict[str, str] = {}
    for place, term in enumerate(own):
        inner = re.findall(r"[A-Za-z]\w*", term)
        if "+" in term:
            return None
        if inner == [term] and term in LETTERS:  # numbers of the parts' names
            continue
        stem = f"p{number}" if place == axis else f"x{place}"
        for i, name in enumerate(inner):
            names[name] = stem if len(inner) == 1 else f"{stem}_{i}"
    renamed = [
        [re.sub(r"[A-Za-z]\w*", lambda match: names.get(match[0], match[0]), term) for term in side]
        for side in (own, other)
    ]
    sizes = {names.get(name, name): n for name, n in form.sizes}
    others = [place for place in range(len(own)) if place != axis]
    return _Terms(renamed[0], renamed[1], others, sizes)


def _split(text: str) -> list[str]:
    return re.findall(r"\([^()]*\)|\S+", text)


def _equations(terms: list[_Terms], axis: int, *, stacked: bool, is_source: bool) -> Iterator[str]:
    packed = list(terms[0].packed)
    parts = ", ".join(" ".join(one.part) for one in terms)

    def joined(left: list[str], right: str) -> str:
        return f"{' '.join(left)} -> {right}" if is_source else f"{right} -> {' '.join(left)}"

    if stacked:
        yield joined([*packed[:axis], str(len(terms)), *packed[axis:]], parts)
        return
    own = [one.packed[axis] for one in terms]
    yield joined([*packed[:axis], f"({' + '.join(own)})", *packed[axis + 1 :]], parts)
    groups = [re.findall(r"\w+", term) for term in own]
    heads = [one.sizes.get(group[0]) for one, group in zip(terms, groups, strict=True)]
    if all(len(group) == 2 for group in groups) and None not in heads and len(set(heads)) == 1:
        # Each head's parts one after another: the heads of all parts are one axis.
        first = groups[0][0]
        text = parts
        for group in groups[1:]:
            text = re.sub(rf"\b{group[0]}\b", first, text)
        inner = " + ".join(group[1] for group in groups)
        yield joined([*packed[:axis], f"({first} ({inner}))", *packed[axis + 1 :]], text)


def _spelled_order(fused: Fused) -> tuple[int, ...] | None:
    """Return the order in which the packed's name lists the parts; None if it does not, or theirs do not."""
    differing = [
        {text for path in fused.parts if (text := path[place].text)} for place in range(len(fused.parts[0]))
    ]
    place = next((i for i, texts in enumerate(differing) if len(texts) == len(fused.parts)), None)
    if place is None:
        return None
    own = [meaning(path[place].text[1:]) for path in fused.parts]
    for node in reversed(fused.packed[-2:]):
        listed = parts_meant(node.text[1:])
        if sorted(listed) == sorted(own):
            return tuple(own.index(name) for name in listed)
    return None


def _in_order(fused: Fused) -> Fused:
    """Return a leaf with its parts in the order of its name, if that shows where each part is.

    The name of a framework's own leaf does, and so does a stack's. Others may list the parts of each head.
    """
    order = _spelled_order(fused)
    if order is None:
        return fused
    first = [way for way in fused.ways if way[0] == order]
    own = name_of(fused.packed) in _OWN
    stacked = "+" not in fused.ways[0][1].equation
    if own or stacked:
        return replace(fused, ways=(first[0],), reason="the parts that its name lists", confidence=0.85)
    return replace(fused, ways=(*first, *(way for way in fused.ways if way[0] != order)))
