"""The refusals of a plan: what keeps it from being run, why, and what to do, the safest way first.

A way on that would give wrong weights where it is followed is not offered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from bridge_core.errors import (
    AmbiguousLayerError,
    BridgeError,
    MismatchError,
    RuleError,
    UnclaimedTensorError,
    UnsupportedLayerError,
)
from bridge_core.messages import count, fold_names, listed
from bridge_core.plan.causes import Cause
from bridge_core.plan.step import Mismatch
from bridge_core.state import Key, join_key

__all__ = [
    "LISTED",
    "cause_sentences",
    "cause_ways",
    "mismatch_error",
    "open_error",
    "unmatched_rules_error",
    "unsupported_error",
]

LISTED = 40
"""How many names a message lists; they are folded before."""

_LONG = 120
"""Characters of a reason that is not repeated for each pattern of names."""

_FEW = 4
"""How many tensors a hint allows one by one, where no pattern matches them and no others."""

_TARGET = (
    "Give the target's shapes (like=, --like FILE), the module (model= or module=, "
    "--model PKG.MOD:FACTORY) or a rule (rules=, --rules FILE)."
)


def cause_sentences(causes: Iterable[Cause]) -> str:
    """Return what the source is, to go after a sentence; empty if nothing is known."""
    return "".join(f" {_sentence(cause.text)}" for cause in causes)


def cause_ways(causes: Iterable[Cause]) -> Iterator[str]:
    """Yield what to do first, each once."""
    yield from dict.fromkeys(_sentence(cause.way) for cause in causes)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def unmatched_rules_error(rules: Sequence[str]) -> RuleError:
    """Return the error about rules that had to match something and did not."""
    return RuleError(
        f"{count(len(rules), 'rule')} matched nothing: {listed(rules, LISTED)}.",
        hint=(
            "Correct the pattern, which sees the names that the source has before any rule renames "
            "them; or mark a rule that need not match as optional. A conversion in two steps needs "
            "its rules in the first, where the names are those of the source."
        ),
    )


def open_error(
    ambiguous: Mapping[Key, tuple[str, ...]],
    unexplained: Mapping[Key, str],
    derived: frozenset[Key],
    causes: Sequence[Cause],
    more_ways: Sequence[tuple[str, str]] = (),
) -> BridgeError:
    """Return the error about tensors that nothing explains, one line for a pattern of names.

    Args:
        ambiguous: Source key -> the interpretations that remain possible.
        unexplained: Source key -> why it is not copied.
        derived: Of these, what a layer's weights are made from, so that a copy of it is of no use.
        causes: What the source is, if it is not plain weights.
        more_ways: What else would decide, each as sentences and the option of the command.
    """
    candidates = {join_key(key): kinds for key, kinds in ambiguous.items()}
    reasons = {join_key(key): why for key, why in unexplained.items()}
    parts = []
    if candidates:
        lines = _lines({name: f" ({' or '.join(kinds)})" for name, kinds in candidates.items()})
        parts.append(f"{count(len(candidates), 'tensor')} can be read in more than one way:{lines}")
    if reasons:
        number = count(len(reasons), "tensor")
        lines = _lines({name: f": {why}" for name, why in reasons.items()})
        parts.append(f"{number} with a layer's name, of which nothing says what it is:{lines}")
    parts += [_sentence(cause.text) for cause in causes]
    ways = [*cause_ways(causes), *(way for way, _ in more_ways)]
    permissions = []
    guessable = [key for key in ambiguous if not any(cause.holds(key) for cause in causes)]
    special = {key for key in unexplained if key in derived or any(cause.holds(key) for cause in causes)}
    copyable = [key for key in unexplained if key not in special]
    if guessable or copyable or not causes:
        ways.append(_TARGET)
    if guessable:
        ways.append(
            "Or accept guesses by name (accept_guesses=True, --accept-guesses), which may be wrong and are "
            "listed in the report."
        )
        permissions.append("--accept-guesses")
    patterns = _patterns(copyable, special)
    if patterns:
        keyword = repr(patterns[0] if len(patterns) == 1 else patterns)
        option = " ".join(f"--allow-unclaimed {pattern!r}" for pattern in patterns)
        them = listed(patterns) if special else "them"
        ways.append(
            f"Or copy {them} unchanged (allow_unclaimed={keyword}, {option}), if the other side has them "
            "under these names and with these axes."
        )
        permissions.append(option)
    options = tuple(option for _, option in more_ways if option)
    options += ("--like FILE",) * (_TARGET in ways) + (" ".join(permissions),) * bool(permissions)
    text, hint = "\n".join(parts), "\n" + " ".join(ways)
    if not candidates:
        return UnclaimedTensorError(text, reasons=reasons, hint=hint, options=options)
    return AmbiguousLayerError(text, candidates=candidates, hint=hint, options=options)


def unsupported_error(
    unsupported: Mapping[Key, str], target_layout: str, causes: Sequence[Cause]
) -> UnsupportedLayerError:
    """Return the error about tensors that the target has no form for.

    Args:
        unsupported: Source key -> why.
        target_layout: The layout that the plan makes.
        causes: What the source is, if it is not plain weights.
    """
    reasons = {join_key(key): why for key, why in unsupported.items()}
    names_of: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names_of.setdefault(why, []).append(name)
    rows = (f"{listed(names, LISTED)}: {why}" for why, names in names_of.items())
    way = (
        "Give a template or a model that has a place for them (like=, --like FILE; model=, --model "
        "PKG.MOD:FACTORY). Drop them by a rule (rules=, --rules FILE) only if the model computes the same "
        "without them."
    )
    return UnsupportedLayerError(
        f"{count(len(reasons), 'tensor')} cannot be carried to {target_layout}. "
        f"{'; '.join(rows)}.{cause_sentences(causes)}",
        reasons=reasons,
        hint=" ".join(cause_ways(causes)) or way,
    )


def mismatch_error(
    missing: Iterable[Key],
    unexpected: Iterable[Key],
    mismatched: Iterable[Mismatch],
    ambiguous: Mapping[Key, tuple[str, ...]],
    unexplained: Mapping[Key, str],
    causes: Sequence[Cause],
    more_ways: Sequence[tuple[str, str]] = (),
) -> MismatchError:
    """Return the error about a source and a target that do not fit.

    Args:
        missing: Target keys that no source fills.
        unexpected: Source keys that no target takes.
        mismatched: Pairs whose shapes differ.
        ambiguous: Source key -> the interpretations that remain possible.
        unexplained: Source key -> why it is not copied.
        causes: What the source is, if it is not plain weights.
        more_ways: What else would decide, each as sentences and the option of the command.
    """
    lacking, surplus = tuple(map(join_key, missing)), tuple(map(join_key, unexpected))
    differing = tuple(map(str, mismatched))
    readings = [f"{join_key(key)} ({' or '.join(kinds)})" for key, kinds in ambiguous.items()]
    found = [
        f"{len(names)} {what}: {listed(names, LISTED)}"
        for names, what in (
            (lacking, "missing"),
            (surplus, "unexpected"),
            (differing, "of another shape"),
            (readings, "ambiguous"),
            (tuple(map(join_key, unexplained)), "not known"),
        )
        if names
    ]
    ways = _mismatch_ways(lacking, surplus, differing)
    to_go_on = () if causes else (f"To go on: {'; '.join(ways)}.",)
    return MismatchError(
        f"source and target do not fit. {'; '.join(found)}.{cause_sentences(causes)}",
        missing=lacking,
        unexpected=surplus,
        mismatched=differing,
        hint=" ".join((*cause_ways(causes), *(way for way, _ in more_ways), *to_go_on)),
    )


def _mismatch_ways(
    missing: Sequence[str], unexpected: Sequence[str], mismatched: Sequence[str]
) -> Iterator[str]:
    """Yield what to do where source and target do not fit, the safest first."""
    if mismatched or (missing and unexpected):
        yield "a rule (--rules FILE) says how one becomes the other (rules=), also where only names differ"
    if missing:
        yield (
            "--allow-missing PATTERN leaves target tensors unfilled (allow_missing=), without values of the "
            "source"
        )
    if mismatched:
        yield "--allow-mismatched PATTERN leaves tensors of another shape unfilled (allow_mismatched=)"
    if unexpected:
        yield (
            "--allow-unexpected PATTERN leaves source tensors out (allow_unexpected=), for a target that "
            "computes the same without them"
        )


def _lines(reasons: Mapping[str, str]) -> str:
    """Return a line for each pattern of names that have one reason, of many only the first.

    A long reason is given once, after all its names.
    A name cannot add a line of its own: line ends in it are escaped.
    """
    names_of: dict[str, list[str]] = {}
    for name, why in reasons.items():
        shown = name if name.isprintable() else name.encode("unicode_escape").decode()
        names_of.setdefault(why, []).append(shown)
    lines = []
    for why, names in names_of.items():
        folded = list(fold_names(names))
        if len(why) > _LONG:
            folded = [(listed((text for text, _ in folded), LISTED), len(names))]
        lines += [f"\n  {text}{why}" + (f" (x{number})" if number > 1 else "") for text, number in folded]
    more = f"\n  and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    return "".join(lines[:LISTED]) + more


def _patterns(keys: Sequence[Key], others: Collection[Key]) -> list[str]:
    """Return a pattern that matches some keys and not the others, or their names if they are few."""
    if len(keys) < 2:
        return [join_key(key) for key in keys]
    shared = keys[0][:-1]
    for key in keys:
        while shared != key[: len(shared)]:
            shared = shared[:-1]
    leaves = {key[-1] for key in keys}
    if shared or len(leaves) > 1:
        pattern, matches = (*shared, "**"), [other[: len(shared)] == shared for other in others]
    else:
        pattern, matches = ("**", *leaves), [other[-1] in leaves for other in others]
    if not any(matches):
        return [join_key(pattern)]
    return [join_key(key) for key in keys] if len(keys) <= _FEW else []
