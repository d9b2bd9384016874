"""A matching with some of its choices settled, by content or by running the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bridge_core.errors import UsageError
from bridge_core.plugins import Registry, given_registry
from bridge_core.proof.matching.checking import with_checked_rules
from bridge_core.proof.matching.matching import Choice, Matching, Option
from bridge_core.state import FlatState

__all__ = ["settle"]


def settle(
    matching: Matching,
    chosen: Mapping[int, Sequence[Option]],
    *,
    source: FlatState,
    target: FlatState,
    reason: str,
    confidence: float = 1.0,
    registry: Registry | None = None,
) -> Matching:
    """Return a matching with answers to some of its choices, and its rule file written and planned again.

    Args:
        matching: What was found.
        chosen: Number of a choice in ``matching.choices`` -> the options to take: one for each source, no
            target twice. Fewer options than sources leave the rest of the choice open.
        source: The source that was matched.
        target: The target that was matched.
        reason: What settled them, for people.
        confidence: From 0 to 1.
        registry: The plugins; None for all that are installed.

    Raises:
        UsageError: A choice or an option is not the matching's, or a source or a target is taken twice.
    """
    pairs = list(matching.pairs)
    choices: list[Choice] = []
    wrong = [number for number in chosen if not 0 <= number < len(matching.choices)]
    if wrong:
        raise UsageError(
            f"choices: expected numbers from 0 to {len(matching.choices) - 1}, got {wrong[0]}.",
            hint="Give numbers of matching.choices.",
        )
    for number, choice in enumerate(matching.choices):
        options = chosen.get(number, ())
        _require_one_to_one(choice, options)
        for option in options:
            pairs += [replace(pair, reason=reason, confidence=confidence) for pair in option.pairs]
            choices += option.choices
        rest = _without(choice, options)
        if rest is not None:
            choices.append(rest)
    settled = replace(matching, pairs=tuple(pairs), choices=tuple(choices))
    return with_checked_rules(settled, source, target, given_registry(registry))


def _require_one_to_one(choice: Choice, options: Sequence[Option]) -> None:
    for option in options:
        if not any(option is own for own in choice.options):
            raise UsageError(
                f"{option.source} -> {option.target} is not an option of the choice among "
                f"{', '.join(choice.sources)}.",
                hint="Take options from choice.options.",
            )
    for side in ("source", "target"):
        names = [getattr(option, side) for option in options]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"the {side} {twice} is chosen twice.", hint=f"Take one option for each {side}.")


def _without(choice: Choice, options: Sequence[Option]) -> Choice | None:
    """Return what remains of a choice; None if nothing does."""
    if not options:
        return choice
    gone = {option.source for option in options}, {option.target for option in options}
    sources = tuple(name for name in choice.sources if name not in gone[0])
    targets = tuple(name for name in choice.targets if name not in gone[1])
    left = tuple(o for o in choice.options if o.source not in gone[0] and o.target not in gone[1])
    return Choice(sources, targets, left, choice.reason) if sources or targets else None
