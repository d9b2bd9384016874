"""A matching as a rule file: decided rules with their reasons, choices as comments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from bridge_core.proof.matching.matching import Choice, Matching, Option, PatternPair, Unmatched

__all__ = ["rules_text"]


def rules_text(matching: Matching) -> str:
    """Return the rule file of a matching.

    Args:
        matching: What was found; its ``rules_text`` is not used.
    """
    lines = [  # rules between two models of one framework have no direction
        f"source = {json.dumps(matching.source)}",
        f"target = {json.dumps(matching.target)}",
        "",
    ]
    if matching.source == matching.target:
        lines = []
    for pair in matching.pairs:
        lines += [f"# {_reason(pair.reason, pair.confidence)}", *_rule(pair), ""]
    for leaf in matching.unmatched_source:
        lines += [*_dropped(leaf, "source"), ""]
    for leaf in matching.unmatched_target:
        lines += [*_dropped(leaf, "target"), ""]
    for number, choice in enumerate(matching.choices, 1):
        lines += [*_choice(number, choice), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _reason(reason: str, confidence: float) -> str:
    return f"{reason or 'fits'} (confidence {confidence:.2f})"


def _rule(pair: PatternPair) -> Iterator[str]:
    yield "[[rule]]"
    yield f"source = {_patterns(pair.sources)}"
    yield f"target = {_patterns(pair.targets)}"
    if pair.equation:
        yield f"rearrange = {json.dumps(pair.equation)}"
    if pair.sizes:
        yield f"sizes = {{ {', '.join(f'{name} = {n}' for name, n in pair.sizes.items())} }}"
    if pair.where:
        where = json.dumps(list(pair.where) if len(pair.where) > 1 else pair.where[0])
        yield f"where = {where}"


def _patterns(patterns: tuple[str, ...]) -> str:
    return json.dumps(patterns[0] if len(patterns) == 1 else list(patterns), ensure_ascii=False)


def _dropped(leaf: Unmatched, side: str) -> Iterator[str]:
    shape = str(list(leaf.shape))
    if not leaf.auxiliary:
        near = f"; nearest shapes: {', '.join(leaf.nearest)}" if leaf.nearest else ""
        yield f"# unmatched {side}: {leaf.pattern} {shape}{near}"
        return
    yield "[[rule]]"
    yield f"{side} = {json.dumps(leaf.pattern, ensure_ascii=False)}"
    yield f"drop = {json.dumps(leaf.auxiliary)}"
    if side == "source" and leaf.pattern.endswith("num_batches_tracked"):
        yield "fill = 0"


def _choice(number: int, choice: Choice) -> Iterator[str]:
    yield f"# choice {number}: {choice.reason}."
    if choice.is_orientation:
        yield "# Uncomment one block."
        for option in choice.options:
            yield from _commented(option)
        return
    yield "# Uncomment one block for each source; targets in them are the likeliest by name only."
    for source, likeliest in _likeliest(choice):
        others = [other.target for other in choice.options_of(source)]
        yield f"# {source}: candidates {', '.join(dict.fromkeys(others))}"
        if likeliest is not None:
            yield from _commented(likeliest)


def _likeliest(choice: Choice) -> Iterator[tuple[str, Option | None]]:
    """Yield each source with its likeliest target among those that are still free."""
    free = set(choice.targets)
    chosen: dict[str, Option] = {}
    for option in sorted(choice.options, key=lambda option: -option.likeness):
        if option.source not in chosen and option.target in free:
            chosen[option.source] = option
            free.discard(option.target)
    for source in choice.sources:
        yield source, chosen.get(source)


def _commented(option: Option) -> Iterator[str]:
    yield f"#   {option.source} -> {option.target} (names alike {option.likeness:.2f})"
    for pair in option.pairs:
        yield from _hashes(_rule(pair))
    for inner in option.choices:
        yield f"#   open within: {', '.join(inner.sources)}: {inner.reason}"


def _hashes(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"# {line}"
