"""Reading a set of rules against the names of both sides: patterns as the names are written, and counts.

Rules that write one count, such as ``n counts s, b``, share its numbers, which come from the names that any
of them matches. Where a neutral state records them, they come from there: names may have been changed since.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.axes import Pairs, SizeLookup
from bridge_core.errors import RuleError
from bridge_core.plugins import Registry
from bridge_core.resolve.named_side import NamedSide
from bridge_core.resolve.printed_names import (
    decided,
    read_printed,
    share_default_paths,
    side_of,
    unseen_side,
)
from bridge_core.resolve.rule_names import applied_renames
from bridge_core.rules import KeyIndex, PatternIndex
from bridge_core.state import FlatState, Key

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["read_rules", "without_collections"]

_Sided = tuple["Rule", NamedSide, NamedSide]

_DIGITS = 18
_NONE: Mapping[str, Pairs] = {}


def read_rules(
    rules: Iterable[tuple[Rule, NamedSide, NamedSide]],
    config: Mapping[str, Any] | None,
    recorded: Mapping[str, Pairs] = _NONE,
    *,
    of_records: int = 0,
) -> tuple[Rule, ...]:
    """Return rules with the patterns that match the names, and with config and counts in their ``where``.

    Args:
        rules: Each rule, in the direction of the conversion, with the names of its sources and its targets.
        config: The checkpoint's config, if one is known.
        recorded: Text of a count -> its numbers, where they are known.
        of_records: How many rules, the first ones, a state records: their conditions on the source held.
    """
    sided = tuple(rules)
    defaults = {source.default for _, source, _ in sided}
    known_rules = [(decided(*one, recorded=n < of_records), *one[1:]) for n, one in enumerate(sided)]
    staged = _by_stage(known_rules, config, recorded)
    read = share_default_paths([read_printed(*one) for one in staged], defaults)
    if not any(rule.where for rule in read):
        return read
    pairs = dict(recorded)
    if any(rule.where.counts for rule in read):
        for turned in (False, True):
            sides = {id(side): side for _, *pair in sided for side in pair[turned : turned + 1]}
            names = dict.fromkeys(name for side in sides.values() for name in side.names)
            known = [rule.reversed() if turned else rule for rule in read]
            if names:
                pairs = {**_pairs(known, names, config, pairs), **pairs}
        pairs.update(_bounded(read, [source for _, source, _ in staged], config, pairs))
    return tuple(_at(rule, config, pairs) for rule in read)


def _by_stage(
    sided: list[_Sided], config: Mapping[str, Any] | None, recorded: Mapping[str, Pairs]
) -> list[_Sided]:
    """Return rules with the names that they see: renames of a stage see those that the stages before make."""
    stages = sorted({rule.stage for rule, _, _ in sided if rule.action == "rename"})
    if len(stages) < 2:
        return sided
    seen = list(sided)
    for place in (2, 1):  # the target's names are led back to every stage, then the source's are led on
        now = {id(side): side for _, *sides in sided for side in sides[place - 1 : place]}
        for stage in stages if place == 1 else stages[::-1]:
            renames = []
            for number, one in enumerate(seen):
                if one[0].action == "rename" and one[0].stage == stage:
                    rule, source, target = one
                    source, target = (now[id(source)], target) if place == 1 else (source, now[id(target)])
                    seen[number] = rule, source, target
                    read = _at(read_printed(rule, source, target), config, recorded)
                    renames.append(read if place == 1 else read.reversed())
            now = {
                known: side.with_names(functools.partial(_renamed, renames=renames))
                for known, side in now.items()
            }
    return seen


def _at(rule: Rule, config: Mapping[str, Any] | None, pairs: Mapping[str, Pairs]) -> Rule:
    return replace(rule, where=rule.where.at(SizeLookup(rule.sizes, config), pairs)) if rule.where else rule


def _pairs(
    rules: Iterable[Rule],
    names: Iterable[Key],
    config: Mapping[str, Any] | None,
    known: Mapping[str, Pairs],
) -> dict[str, Pairs]:
    """Return the numbers of the counts whose parts the sources of rules have."""
    rules, names = tuple(rules), tuple(names)
    ranked: dict[str, Pairs] = {}
    counting = [rule.stage for rule in rules if any(c.text not in known for c in rule.where.counts)]
    for stage in sorted({rule.stage for rule in rules if rule.stage <= max(counting, default=-math.inf)}):
        own = [rule for rule in rules if rule.stage == stage]
        seen: dict[str, set[tuple[int, ...]]] = {}
        index = KeyIndex(names)
        for rule in own:
            where = rule.where.at(SizeLookup(rule.sizes, config))
            counts = [count for count in where.counts if count.text not in {**known, **ranked}]
            for count, pattern in itertools.product(counts, rule.sources):
                if set(count.names) <= set(pattern.numbers):
                    numbers = seen.setdefault(count.text, set())
                    for captures in filter(None, map(pattern.match, index.candidates(pattern))):
                        parts = [captures[part] for part in count.names]
                        # Numbers of more digits are refused where the rule is used.
                        is_short = max(map(len, parts)) <= _DIGITS
                        try:
                            if is_short and where.admits(captures, pattern.numbers):
                                numbers.add(tuple(map(int, parts)))
                        except RuleError as err:
                            raise rule.error(err.message, hint=err.hint) from err
        ranked.update({text: tuple(sorted(numbers)) for text, numbers in seen.items()})
        if stage < max(counting):
            renames = [_at(rule, config, {**known, **ranked}) for rule in own if rule.action == "rename"]
            of_names = PatternIndex(rule.sources for rule in renames)
            names = tuple(
                _renamed(name, map(renames.__getitem__, of_names.candidates(name))) for name in names
            )
    return ranked


def _bounded(
    rules: Sequence[Rule],
    sources: Sequence[NamedSide],
    config: Mapping[str, Any] | None,
    known: Mapping[str, Pairs],
) -> dict[str, Pairs]:
    """Return the numbers of counts that only comparisons bound: the parts that some rule allows.

    Raises:
        RuleError: The names of the sources have other numbers than these parts give, so that names that are
            absent would shift the others.
    """
    allowed: dict[str, set[tuple[int, ...]]] = {}
    tried: set[tuple[str, ...]] = set()
    for rule in rules:
        for count in (count for count in rule.where.counts if count.text not in known):
            texts = (
                count.text,
                *map(str, rule.where.comparisons),
                *(f"{n}={s}" for n, s in rule.sizes.items()),
            )
            if texts not in tried:
                tried.add(texts)
                with contextlib.suppress(RuleError):  # reported where the number is needed
                    allowed.setdefault(count.text, set()).update(_at(rule, config, {}).where.allowed(count))
    pairs = {text: tuple(sorted(parts)) for text, parts in allowed.items() if parts}
    indices = {id(side): KeyIndex(side.names) for side in sources} if pairs else {}
    numbers: dict[str, set[int]] = {}
    for rule, side in zip(rules, sources, strict=True):
        for count, pattern in itertools.product(rule.where.counts, rule.sources):
            if count.text in pairs and count.result in pattern.numbers:
                matches = filter(None, map(pattern.match, indices[id(side)].candidates(pattern)))
                found = [captures[count.result] for captures in matches]
                numbers.setdefault(count.text, set()).update(int(n) for n in found if len(n) <= _DIGITS)
    for rule in rules:
        for count in rule.where.counts:
            own = numbers.get(count.text)
            if own and own != set(range(len(pairs[count.text]))):
                raise rule.error(
                    f"where = '{count.text}': the comparisons allow {len(pairs[count.text])} numbers, but "
                    f"the names have {len(own)}, up to {count.result} = {max(own)}.",
                    hint="Pass like=... (--like), or correct the comparisons.",
                )
    return pairs


def _renamed(name: Key, renames: Iterable[Rule]) -> Key:
    try:
        applied = applied_renames(renames, name)
    except RuleError:  # reported where the rules are used
        return name
    return applied[-1][1] if applied else name


def without_collections(
    rules: Iterable[Rule],
    source: FlatState | None,
    target: FlatState | None,
    registry: Registry,
    config: Mapping[str, Any] | None = None,
) -> tuple[Rule, ...]:
    """Return rules whose patterns leave out the collections that they begin with.

    Args:
        rules: The rules, in the direction from the source to the target.
        source: The source; None if it is not known.
        target: The target, or its template; None if it is not known.
        registry: Where frameworks are found.
        config: The checkpoint's config, if one is known.
    """
    known = [None if state is None else side_of(state, registry) for state in (source, target)]
    sided = []
    for rule in rules:
        layouts = rule.layouts or ("", "")
        one, other = (side or unseen_side(name, registry) for side, name in zip(known, layouts, strict=True))
        sided.append((rule, one, other))
    return read_rules(sided, config)
