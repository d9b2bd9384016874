"""Plans with proposed rules, there and back, on what is settled."""

from __future__ import annotations

from dataclasses import replace

from bridge_core.conversion import plan_conversion
from bridge_core.errors import BridgeError
from bridge_core.plugins import Registry
from bridge_core.proof.matching.matching import Matching
from bridge_core.proof.matching.patterns import literals
from bridge_core.proof.matching.rules_text import rules_text
from bridge_core.rules import Rule, rules_of_text
from bridge_core.state import FlatState, Key

__all__ = ["with_checked_rules"]


def with_checked_rules(
    matching: Matching, source: FlatState, target: FlatState, registry: Registry, *, check: bool = True
) -> Matching:
    """Return a matching with its rule file, and with what planning by it found.

    Args:
        matching: What was found.
        source: The source; no value is read.
        target: The target's template.
        registry: The plugins.
        check: Whether to plan; otherwise only the text is made.
    """
    text = rules_text(matching)
    if not check:
        return replace(matching, rules_text=text)
    if not matching.pairs:
        return replace(matching, rules_text=text)
    problems = _problems(matching, text, source, target, registry)
    if problems:  # patterns that take more than they should
        single = replace(matching, pairs=tuple(one for pair in matching.pairs for one in literals(pair)))
        longer = rules_text(single)
        if not _problems(single, longer, source, target, registry):
            return replace(single, rules_text=longer)
    return replace(matching, rules_text=text, problems=problems)


def _problems(
    matching: Matching, text: str, source: FlatState, target: FlatState, registry: Registry
) -> tuple[str, ...]:
    try:
        return tuple(_planned(matching, source, target, tuple(rules_of_text(text, "rules.toml")), registry))
    except BridgeError as err:
        return (str(err),)


def _planned(
    matching: Matching, source: FlatState, target: FlatState, rules: tuple[Rule, ...], registry: Registry
) -> list[str]:
    open_keys = {key for leaf in matching.open_leaves for key in leaf.keys}
    settled: set[Key] = set()
    for pair in matching.pairs:
        for ours, theirs in pair.keys:
            settled.update(("s", *key) for key in ours)
            settled.update(("t", *key) for key in theirs)
    auxiliary = {
        (side, *key)
        for side, leaves in (("s", matching.unmatched_source), ("t", matching.unmatched_target))
        for leaf in leaves
        if leaf.auxiliary
        for key in leaf.keys
    }
    assert not open_keys & settled
    sides = [
        state.select([key for key in state if (side, *key) in settled or (side, *key) in auxiliary])
        for side, state in (("s", source), ("t", target))
    ]
    bare = [state.replace(metadata=type(state.metadata)()) for state in sides]
    problems = []
    there = plan_conversion(
        bare[0], to=matching.target, like=bare[1], rules=rules, recipe="none", registry=registry, check=False
    )
    if not there.ok:
        problems.append(f"there: {there.describe()}")
    missing = [".".join(key[1:]) for key in auxiliary if key[0] == "s"]
    back_rules = rules if matching.source != matching.target else tuple(rule.reversed() for rule in rules)
    back = plan_conversion(
        bare[1],
        to=matching.source,
        like=bare[0],
        rules=back_rules,
        recipe="none",
        registry=registry,
        check=False,
        allow_missing=tuple(missing),
    )
    if not back.ok:
        problems.append(f"back: {back.describe()}")
    return problems
