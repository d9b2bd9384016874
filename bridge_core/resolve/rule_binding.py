"""Rules that move tensors, bound to real keys: which sources become which targets, by which ops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.resolve.rule_instance import Captures, Claim, Use, gathered
from bridge_core.rules import Rule
from bridge_core.state import Key, TensorSpec

__all__ = ["Claim", "bind_rule", "check_claims", "claimed_twice", "held_keys"]

_MOST_SHOWN = 8


def bind_rule(
    rule: Rule,
    sources: Mapping[Key, TensorSpec],
    targets: Mapping[Key, TensorSpec] | None,
    config: Mapping[str, Any] | None,
) -> tuple[Claim, ...]:
    """Return every use of a rule that moves tensors; an optional one needs a target that has its place.

    Args:
        rule: The rule, read from source to target.
        sources: The keys it may take, without a collection head.
        targets: The target's keys, likewise; None if they are not known.
        config: The checkpoint's config, if one is known.

    Raises:
        RuleError: Keys of a use are missing, or its tensors do not fit.
    """
    found = gathered(rule, rule.sources, rule.lists.left, sources)
    there = gathered(rule, rule.targets, rule.lists.right, targets or ())
    if rule.optional and targets is not None and not there:
        return ()
    uses = (
        (Use(rule, captures, sources, targets, there.get(captures, {}), config), keys)
        for captures, keys in found.items()
    )
    claims = tuple(claim for use, keys in uses if (claim := use.claim(keys)) is not None)
    _check_blocks(rule, claims)
    return claims


def held_keys(
    rule: Rule, sources: Mapping[Key, TensorSpec], config: Mapping[str, Any] | None
) -> frozenset[Key]:
    """Return the keys that a rule takes by its patterns and its conditions on shapes.

    Where the conditions are about a target whose shape is not known yet, they are taken to hold.

    Args:
        rule: The rule, read from source to target.
        sources: The keys it may take, without a collection head.
        config: The checkpoint's config, if one is known.
    """
    held: set[Key] = set()
    for captures, found in gathered(rule, rule.sources, rule.lists.left, sources).items():
        if Use(rule, captures, sources, None, {}, config).may_hold(found):
            held.update(key for group in found.values() for key in group.values())
    return frozenset(held)


def check_claims(claims: Iterable[Claim]) -> None:
    """Check that no two claims take one key or make one key.

    Raises:
        RuleError: Two do; it names both rules.
    """
    for what, side in (("take", "sources"), ("make", "targets")):
        owner: dict[Key, Claim] = {}
        for claim in claims:
            for key in getattr(claim, side):
                other = owner.setdefault(key, claim)
                if other is not claim:
                    raise claimed_twice(claim.rule, other.rule, what, key)


def claimed_twice(rule: Rule, other: Rule, what: str, key: Key) -> RuleError:
    """Return the error for two rules that take one tensor, or make one."""
    named = f"{other} ({other.origin})" if other.origin else str(other)
    who = f"it and {named} both" if rule != other else "two uses of it"
    error = rule.error(f"{who} {what} this tensor.", key)
    error.hint = "Let the patterns keep them apart."
    return error


def _check_blocks(rule: Rule, claims: Iterable[Claim]) -> None:
    """Check that a number that is made of others counts through without a gap, in whole blocks.

    Its parts may be told apart by the names of several tensors, so no single use can see that.

    Raises:
        RuleError: It does not.
    """
    radix = rule.radix
    if radix is None:
        return
    of_sources = any(radix.whole in pattern.captures for pattern in rule.sources)
    seen: dict[tuple[int, Captures], dict[int, Key]] = {}
    for claim in claims:
        patterns, keys = (rule.sources, claim.sources) if of_sources else (rule.targets, claim.targets)
        for (number, pattern), key in itertools.product(enumerate(patterns), keys):
            captures = pattern.match(key)
            if captures is not None and radix.whole in captures:
                whole = int(captures.pop(radix.whole))
                seen.setdefault((number, tuple(sorted(captures.items()))), {})[whole] = key
    block = math.prod(radix.sizes.values())
    for wholes in seen.values():
        count = -(-(max(wholes) + 1) // block) * block
        if count > len(wholes):
            holes = (str(n) for n in range(count) if n not in wholes)
            shown = ", ".join(itertools.islice(holes, _MOST_SHOWN))
            more = count - len(wholes) - _MOST_SHOWN
            raise rule.error(
                f"with '{radix}', {radix.whole} must count from 0 in whole blocks of {block}; "
                f"{radix.whole} = {shown}{f' and {more} more' if more > 0 else ''} "
                f"{'is' if count - len(wholes) == 1 else 'are'} not there.",
                wholes[max(wholes)],
            )
