"""Rules that rearrange tensors, bound to real keys: which sources become which targets, by which ops."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from bridge_core.axes import Equation, MixedRadix
from bridge_core.errors import RuleError
from bridge_core.resolve.key_matching import Captures, MatchedKeys, matched_keys
from bridge_core.resolve.rule_instance import BoundRule, RuleInstance
from bridge_core.rules import KeyIndex, Pattern, Rule
from bridge_core.state import Key, TensorSpec, join_key

__all__ = ["bind_rule", "check_disjoint", "keys_taken_by", "rule_conflict"]

Sides = tuple[KeyIndex | None, KeyIndex | None]
_Reduced = dict[tuple[tuple[int, ...], tuple[int, ...]], Rule]
"""Numbers of the sources and the targets that are left -> the rule of these."""

_MOST_SHOWN = 8
_MOST_TRIED = 10_000
"""How many numbers that comparisons may exclude are tried."""


def bind_rule(
    rule: Rule,
    sources: Mapping[Key, TensorSpec],
    targets: Mapping[Key, TensorSpec] | None,
    config: Mapping[str, Any] | None,
    shown: Callable[[Key], str] = join_key,
    indexed: Sides = (None, None),
) -> tuple[BoundRule, ...]:
    """Return the instances of a rule that rearranges tensors; an optional one needs a target with its keys.

    Args:
        rule: The rule, read from source to target.
        sources: The source's keys, without a collection.
        targets: The target's keys, likewise; None if they are not known.
        config: The checkpoint's config, if one is known.
        shown: Gives the name of a source key in messages.
        indexed: The source keys that it may take, and the targets; None for all that are given.

    Raises:
        RuleError: Keys of an instance are missing, or its tensors do not fit.
    """
    old, new = indexed
    matched = matched_keys(rule, rule.sources, rule.list_axes.left, old or sources)
    in_target = matched_keys(rule, rule.targets, rule.list_axes.right, new or targets or ())
    if rule.optional and targets is not None and not in_target:
        return ()
    bound_rules = []
    reduced: _Reduced = {}
    for captures, keys in matched.items():
        there = None if targets is None else in_target.get(captures, {})
        fit, own_keys, made = _without_absent(rule, keys, there, reduced)
        bound = RuleInstance(fit, captures, sources, targets, made, config, shown).bind(own_keys)
        if bound is not None:
            bound_rules.append(bound if fit is rule else replace(bound, rule=rule))
    _check_blocks(rule, bound_rules)
    return tuple(bound_rules)


def keys_taken_by(
    rule: Rule,
    sources: Mapping[Key, TensorSpec],
    config: Mapping[str, Any] | None,
    targets: Mapping[Key, TensorSpec] | None = None,
) -> frozenset[Key]:
    """Return the keys that a rule takes by its patterns and its conditions on shapes.

    Conditions on a target whose shape is not known yet are taken to hold.

    Args:
        rule: The rule, read from source to target.
        sources: The keys it may take, without a collection.
        config: The checkpoint's config, if one is known.
        targets: The target's keys, likewise; None if they are not known.
    """
    taken: set[Key] = set()
    reduced: _Reduced = {}
    known = targets if rule.when.of_target else None
    in_target = matched_keys(rule, rule.targets, rule.list_axes.right, known or ())
    for captures, matched in matched_keys(rule, rule.sources, rule.list_axes.left, sources).items():
        there = None if known is None else in_target.get(captures, {})
        fit, keys, made = _without_absent(rule, matched, there, reduced)
        if RuleInstance(fit, captures, sources, known, made, config).may_hold(keys):
            taken.update(key for group in matched.values() for key in group.values())
    return frozenset(taken)


def _without_absent(
    rule: Rule, matched: MatchedKeys, in_target: MatchedKeys | None, known: _Reduced
) -> tuple[Rule, MatchedKeys, MatchedKeys]:
    """Return a rule without the tensors that are absent, and the keys on both sides by its patterns.

    Of the targets that may be absent those are left that the template has; without a template none is, but at
    least one target of a rule.
    """
    if not any(pattern.may_be_absent for pattern in (*rule.sources, *rule.targets)):
        return rule, matched, in_target or {}
    left, right = (
        [n for n, pattern in enumerate(side) if not pattern.may_be_absent or n in there] or [0]
        for side, there in ((rule.sources, matched), (rule.targets, in_target or {}))
    )
    keys, target_keys = (
        {place: there[n] for place, n in enumerate(side) if n in there}
        for side, there in ((left, matched), (right, in_target or {}))
    )
    if len(left) == len(rule.sources) and len(right) == len(rule.targets):
        return rule, keys, target_keys
    places = tuple(left), tuple(right)
    if places not in known:
        known[places] = _reduced(rule, *places)
    return known[places], keys, target_keys


def _reduced(rule: Rule, left: tuple[int, ...], right: tuple[int, ...]) -> Rule:
    """Return a rule with only some of its sources and targets, by their numbers."""
    whole = rule.equation
    if whole is None:  # checked where the rule is made
        raise rule.error("only tensors of an equation may be absent.")
    equation = Equation(tuple(whole.left[n] for n in left), tuple(whole.right[n] for n in right))
    needed = set(equation.axes).union(rule.when.names, rule.where.names)
    needed.update(name for call in (*rule.before, *rule.after) for name in call.names)
    for _ in rule.sizes:  # sizes may need others
        needed.update(n for name, size in rule.sizes.items() if name in needed for n in size.names)
    every = range(len(whole.left)), range(len(whole.right))
    try:
        if _lone_axes(rule, left, right) - _lone_axes(rule, *every):  # it would repeat over a stated size
            raise rule.error("an axis has lost its other side.")
        return replace(
            rule,
            sources=tuple(replace(rule.sources[n], may_be_absent=False) for n in left),
            targets=tuple(replace(rule.targets[n], may_be_absent=False) for n in right),
            equation=equation,
            sizes={name: size for name, size in rule.sizes.items() if name in needed},
        )
    except RuleError as err:
        sides = ((rule.sources, left), (rule.targets, right))
        absent = (f"'{p}'" for side, numbers in sides for n, p in enumerate(side) if n not in numbers)
        problem = f"without {', '.join(absent)} the equation would be '{equation}', which is not complete."
        hint = "Write another rule for only the other tensors, with when.missing, or remove the '?'."
        raise rule.error(problem, hint=hint) from err


def _lone_axes(rule: Rule, left: Iterable[int], right: Iterable[int]) -> set[str]:
    """Return the axes that only one side of a rule with these sources and targets has."""
    equation, list_axes = rule.equation, rule.list_axes
    if equation is None:
        return set()
    sides = ((equation.left, list_axes.left, left), (equation.right, list_axes.right, right))
    one, other = ({a for n in numbers for a in (*terms[n].names, *axes[n])} for terms, axes, numbers in sides)
    return one ^ other


def check_disjoint(bound_rules: Iterable[BoundRule], shown: Callable[[Key], str] = join_key) -> None:
    """Check that no two instances of rules take one key, or make one key.

    Args:
        bound_rules: The instances.
        shown: Gives the name of a source key in messages.

    Raises:
        RuleError: Two do; it names both rules.
    """
    for what, side in (("take", "sources"), ("make", "targets")):
        owner: dict[Key, BoundRule] = {}
        for bound in bound_rules:
            for key in getattr(bound, side):
                other = owner.setdefault(key, bound)
                if other is not bound:
                    name = shown(key) if side == "sources" else join_key(key)
                    raise rule_conflict(bound.rule, other.rule, what, key if name == join_key(key) else name)


def rule_conflict(rule: Rule, other: Rule, what: str, key: Key | str) -> RuleError:
    """Return the error for two rules that match, take or make one tensor."""
    if rule == other:
        text = f"two instances of {rule} {what} this tensor."
    else:
        texts = (str(one).removeprefix("rule ") for one in (rule, other))
        first, second = (
            f"{text} ({one.origin})" if one.origin else text
            for text, one in zip(texts, (rule, other), strict=True)
        )
        text = f"two rules {what} this tensor: {first} and {second}."
    hint = "Make the patterns disjoint, or remove one of the rules."
    gives_way = sorted({one.action for one in (rule, other)} & {"rename", "drop"}, reverse=True)
    alike = [*map(str, rule.sources)] == [*map(str, other.sources)] and rule.targets and other.targets
    if what == "match" and rule != other and alike:
        hint = (
            "Make the patterns disjoint, or write one rule for both, with the texts of the other side as "
            "alternatives, such as {a.b|b}."
        )
    elif gives_way and what == "match":
        hint = f"Make the patterns disjoint, or set fallback = true in the {gives_way[0]}."
    if any(one.when.of_target and (one.when.needs_shape or one.when.is_undecided) for one in (rule, other)):
        hint = 'Pass like="model.safetensors" (--like), which shows whose conditions hold.'
    elif rule.action == other.action == "rename" and what == "match" and rule != other:
        hint = (
            "Make the patterns disjoint, or set stage = 1 in the rule that is to see the names which the "
            "other makes."
        )
    return RuleError(text, path=rule.origin or None, key=key, hint=hint)


def _check_blocks(rule: Rule, bound_rules: Iterable[BoundRule]) -> None:
    """Check that a number which several parts give counts without a gap, in complete blocks.

    Its parts may be in the names of several tensors, so that no single instance of the rule shows a gap.
    Numbers that comparisons exclude are not missing.
    """
    if not rule.where.bounded:
        return
    bound_rules = tuple(bound_rules)
    for whole, numbers in rule.numbered.sums():
        if len(numbers.terms) < 2 or numbers.leading:
            continue
        of_sources = any(whole in pattern.captures for pattern in rule.sources)
        seen: dict[tuple[int, Captures], dict[int, Key]] = {}
        for bound in bound_rules:
            patterns, keys = (rule.sources, bound.sources) if of_sources else (rule.targets, bound.targets)
            for (number, pattern), key in itertools.product(enumerate(patterns), keys):
                captures = pattern.match(key) if rule.bind(pattern, key) is not None else None
                if captures is not None and whole in captures:
                    place = (int(captures.pop(whole)) - numbers.constant) // numbers.unit
                    seen.setdefault((number, tuple(sorted(captures.items()))), {})[place] = key
        for (number, others), places in seen.items():
            pattern = (rule.sources if of_sources else rule.targets)[number]
            _check_complete(rule, pattern, whole, numbers, dict(others), places)


def _check_complete(
    rule: Rule,
    pattern: Pattern,
    whole: str,
    numbers: MixedRadix,
    captures: dict[str, str],
    places: dict[int, Key],
) -> None:
    block = numbers.terms[0][1] // numbers.unit
    end = -(-(max(places) + 1) // block) * block
    if end <= len(places):
        return

    def is_missing(place: int) -> bool:
        text = str(numbers.constant + place * numbers.unit)
        return place not in places and (
            not rule.where.comparisons
            or rule.bind(pattern, pattern.fill({**captures, whole: text})) is not None
        )

    tried = min(end, len(places) + _MOST_TRIED)  # a name may hold any number
    holes = list(itertools.islice(filter(is_missing, range(tried)), _MOST_SHOWN + 1))
    if not holes and tried < end:
        holes = [tried]
    if holes:
        names = ", ".join(str(numbers.constant + place * numbers.unit) for place in holes[:_MOST_SHOWN])
        more = end - len(places) - _MOST_SHOWN
        count = "" if rule.where.comparisons else f"{end - len(places)} "
        rest = f" and {'more' if not count else f'{more} more'}" if len(holes) > _MOST_SHOWN else ""
        start = numbers.constant
        rest_from = start + holes[0] // block * block * numbers.unit
        raise rule.error(
            f"with '{rule.where}', expected {whole} to count from {start} in complete blocks of {block}; "
            f"{count}missing: {whole} = {names}{rest}.",
            places[max(places)],
            hint=f"For a remainder, add '{whole} < {rest_from}' to where, and write a rule with where = "
            f"'{whole} = {rest_from} + r' for the rest."
            if rest_from > start
            else None,
        )
