"""The refusals of a plan: why it cannot be run, and what to do, the safest way first.

No way is offered that would give wrong weights.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence

from bridge_core.errors import (
    AmbiguousLayerError,
    BridgeError,
    MismatchError,
    UnclaimedTensorError,
    UnsupportedLayerError,
)
from bridge_core.messages import count, fold_names, listed
from bridge_core.plan.causes import Cause
from bridge_core.plan.proposals import Proposal
from bridge_core.plan.step import Mismatch
from bridge_core.state import Key, TensorSpec, join_key

__all__ = [
    "LISTED",
    "cause_sentences",
    "cause_ways",
    "mismatch_error",
    "open_error",
    "unsupported_error",
]

LISTED = 8
"""How many folded names a message lists."""

_LONG = 120
"""Characters of a reason that is given once, and not repeated for each folded name."""

_FEW = 4
"""How many tensors a hint names one by one."""

_LIKE = 'like="model.safetensors" (--like FILE)'
_MODEL = 'model="package.module:function" (--model PKG.MOD:FACTORY)'
_RULES = 'rules="rules.toml" (--rules FILE)'

_PROPOSED = f"Or pass these rules, {_RULES}, if they are right; shapes and siblings leave no others:"

_PLAIN = re.compile(r"[\w.-]+")
"""Names that are patterns of themselves, and that a shell takes unchanged."""


def cause_sentences(causes: Iterable[Cause]) -> str:
    """Return a sentence for each cause, with a space before it; empty if there are none."""
    return "".join(f" {_sentence(cause.text)}" for cause in causes)


def cause_ways(causes: Iterable[Cause]) -> Iterator[str]:
    """Yield what to do about each cause, as sentences without repetitions."""
    yield from dict.fromkeys(_sentence(cause.way) for cause in causes)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def open_error(
    ambiguous: Mapping[Key, tuple[str, ...]],
    unexplained: Mapping[Key, str],
    derived: frozenset[Key],
    causes: Sequence[Cause],
    more_ways: Sequence[tuple[str, str]] = (),
    specs: Mapping[Key, TensorSpec] | None = None,
) -> BridgeError:
    """Return the error about tensors whose layer is not known, one line for each folded name.

    Args:
        ambiguous: Source key -> the interpretations that remain possible.
        unexplained: Source key -> why it is not copied.
        derived: Of these, the tensors that a layer's weights are computed from, so that a copy is of no use.
        causes: What the source is, if it is not plain weights.
        more_ways: What else would decide, each as sentences and the option of the command.
        specs: Source key -> spec; None if they are not known.
    """
    candidates = {join_key(key): kinds for key, kinds in ambiguous.items()}
    reasons = {join_key(key): why for key, why in unexplained.items()}
    parts = []
    if candidates:
        lines = _lines({join_key(key): _choices(key, kinds, specs or {}) for key, kinds in ambiguous.items()})
        parts.append(f"cannot determine the layer of {count(len(candidates), 'tensor')}:{lines}")
    if reasons:
        number = count(len(reasons), "tensor")
        lines = _lines({name: f": {why}" for name, why in reasons.items()})
        verb = "has a name" if len(reasons) == 1 else "have names"
        parts.append(f"{number} {verb} that layers use, and it is not known which layer:{lines}")
    if causes:
        parts[-1] += "."
        parts += [_sentence(cause.text) for cause in causes]
    ways = [*cause_ways(causes), *(way for way, _ in more_ways)]
    permissions = []
    guessable = [key for key in ambiguous if not any(cause.holds(key) for cause in causes)]
    special = {key for key in unexplained if key in derived or any(cause.holds(key) for cause in causes)}
    copyable = [key for key in unexplained if key not in special]
    needs_target = bool(guessable or copyable or not causes)
    if needs_target:
        ways.append(
            f"Pass the target, {_LIKE}, or the model, {_MODEL}; or name the layer by a rule, {_RULES}."
        )
    if guessable:
        ways.append(
            "To go by the names only, pass accept_guesses=True (--accept-guesses); a guess may be wrong, and "
            "the report lists each."
        )
        permissions.append("--accept-guesses")
    patterns = _patterns(copyable, special)
    if patterns:
        keyword = repr(patterns[0]) if len(patterns) == 1 else repr(patterns)
        option = " ".join(f"--allow-unclaimed {pattern!r}" for pattern in patterns)
        them = listed(patterns) if special else "it" if len(copyable) == 1 else "them"
        ways.append(
            f"To copy {them} unchanged, if the target has the same names and axes, pass "
            f"allow_unclaimed={keyword} ({option})."
        )
        permissions.append(option)
    options = tuple(option for _, option in more_ways if option)
    options += ("--like FILE",) * needs_target + (" ".join(permissions),) * bool(permissions)
    text, hint = "\n".join(parts), "\n" + " ".join(ways)
    if not candidates:
        return UnclaimedTensorError(text, reasons=reasons, hint=hint, options=options)
    return AmbiguousLayerError(text, candidates=candidates, hint=hint, options=options)


def _choices(key: Key, kinds: Iterable[str], specs: Mapping[Key, TensorSpec]) -> str:
    """Return a tensor's shape, if it is known, and what it may be."""
    shape = f", {specs[key]}" if key in specs else ""
    return f"{shape}: {_either(kinds)}"


def _either(kinds: Iterable[str]) -> str:
    """Return interpretations as a choice.

    >>> _either(("linear", "norm", "parameter"))
    'linear, norm or plain parameter'
    """
    *rest, last = ("plain parameter" if kind == "parameter" else kind for kind in kinds)
    return f"{', '.join(rest)} or {last}" if rest else last


def unsupported_error(
    unsupported: Mapping[Key, str],
    target_layout: str,
    causes: Sequence[Cause],
    more_ways: Sequence[tuple[str, str]] = (),
) -> UnsupportedLayerError:
    """Return the error about tensors that the target has no place for.

    Args:
        unsupported: Source key -> why.
        target_layout: The layout that the plan makes.
        causes: What the source is, if it is not plain weights.
        more_ways: What else would decide, each as sentences and the option of the command.
    """
    reasons = {join_key(key): why for key, why in unsupported.items()}
    names_of: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names_of.setdefault(why, []).append(name)
    rows = [f"{listed(names, LISTED)}: {why}" for why, names in names_of.items()]
    more = f"; and {len(rows) - LISTED} more reasons" if len(rows) > LISTED else ""
    way = (
        f"Pass a target that has a place for them, {_LIKE} or {_MODEL}. "
        f"Drop them by a rule, {_RULES}, only if the model computes the same without them."
    )
    return UnsupportedLayerError(
        f"{count(len(reasons), 'tensor')} cannot be converted to {target_layout}. "
        f"{'; '.join(rows[:LISTED])}{more}.{cause_sentences(causes)}",
        reasons=reasons,
        hint=" ".join((*(text for text, _ in more_ways), " ".join(cause_ways(causes)) or way)),
    )


def mismatch_error(
    missing: Iterable[Key],
    unexpected: Iterable[Key],
    mismatched: Iterable[Mismatch],
    ambiguous: Mapping[Key, tuple[str, ...]],
    unexplained: Mapping[Key, str],
    causes: Sequence[Cause],
    more_ways: Sequence[tuple[str, str]] = (),
    proposal: Proposal | None = None,
    used: Container[Key] = (),
) -> MismatchError:
    """Return the error about a source whose tensors do not match the target's.

    Args:
        missing: Target keys that no source fills.
        unexpected: Source keys that no target takes.
        mismatched: Pairs whose shapes differ.
        ambiguous: Source key -> the interpretations that remain possible.
        unexplained: Source key -> why it is not copied.
        causes: What the source is, if it is not plain weights.
        more_ways: What else would decide, each as sentences and the option of the command.
        proposal: Rename rules that would pair what is missing with what is unexpected.
        used: Source keys of which at least a part is converted.
    """
    unexpected = tuple(unexpected)
    in_part = tuple(join_key(key) for key in unexpected if key in used)
    spare = tuple(join_key(key) for key in unexpected if key not in used)
    unfilled, surplus = tuple(map(join_key, missing)), tuple(map(join_key, unexpected))
    mismatched = tuple(mismatched)
    differing = tuple(map(str, mismatched))
    readings = [f"{join_key(key)} ({_either(kinds)})" for key, kinds in ambiguous.items()]
    sentences = [
        f"{len(names)} {one if len(names) == 1 else many}: {text or listed(names, LISTED)}."
        for names, one, many, text in (
            (unfilled, "target tensor has no source", "target tensors have no source", ""),
            (spare, "source tensor has no target", "source tensors have no target", ""),
            (
                in_part,
                "source tensor is converted only in part, and the rest has no target",
                "source tensors are converted only in part, and the rest has no target",
                "",
            ),
            (differing, "tensor has another shape", "tensors have another shape", _differing(mismatched)),
            (readings, "tensor may be of several layers", "tensors may be of several layers", ""),
            (
                tuple(map(join_key, unexplained)),
                "tensor has a layer's name, but its layer is not known",
                "tensors have a layer's name, but their layers are not known",
                "",
            ),
        )
        if names
    ]
    ways = () if causes else _mismatch_ways(unfilled, spare, in_part, bool(mismatched))
    hint = " ".join((*cause_ways(causes), *(way for way, _ in more_ways), *ways))
    proposed = proposal.toml if proposal is not None and not causes else ""
    error = MismatchError(
        f"the source does not match the target. {' '.join(sentences)}{cause_sentences(causes)}",
        missing=unfilled,
        unexpected=surplus,
        mismatched=differing,
        hint=f"\n{hint} {_PROPOSED}\n\n{proposed}" if proposed else hint,
    )
    error.proposed_rules = proposed
    return error


def _differing(mismatched: Iterable[Mismatch]) -> str:
    """Return pairs of keys with their shapes; only keys are folded: shapes and dtypes have numbers too."""
    names_of: dict[tuple[TensorSpec, TensorSpec], list[str]] = {}
    for pair in mismatched:
        names = names_of.setdefault((pair.expected, pair.found), [])
        names.append(f"{join_key(pair.source)} as {join_key(pair.target)}")
    rows = [
        f"{listed(names, LISTED)} (expected {expected}, got {found})"
        for (expected, found), names in names_of.items()
    ]
    more = f" and {len(rows) - LISTED} more shapes" if len(rows) > LISTED else ""
    return f"{', '.join(rows[:LISTED])}{more}"


def _mismatch_ways(
    missing: Sequence[str], unexpected: Sequence[str], in_part: Sequence[str], mismatched: bool
) -> Iterator[str]:
    """Yield what to do where source and target do not match, the safest first."""
    if in_part:
        yield f"Write rules that give each part of {listed(in_part, LISTED)} its target, {_RULES}."
    if mismatched:
        yield f"If an axis was split, joined or moved, write a rule that rearranges the tensor, {_RULES}."
    elif missing and unexpected:
        before, after = _layer_of(unexpected), _layer_of(missing)
        renamed = f"{before} became {after}" if before and after else "layers were renamed"
        if before and before == after:
            renamed = f"tensors of {before} were renamed"
        yield f"If {renamed}, write a rename rule, {_RULES}."
    permissions = [
        f"{_permission(keyword, names)} to {what}"
        for keyword, names, what in (
            ("allow_missing", missing, "leave target tensors unfilled"),
            ("allow_mismatched", ["PATTERN"] * mismatched, "leave target tensors of another shape unfilled"),
            (
                "allow_unexpected",
                unexpected,
                "leave out source tensors that the target's model does not need",
            ),
        )
        if names
    ]
    if permissions:
        is_second = mismatched or in_part or (missing and unexpected)
        yield f"{'Or pass' if is_second else 'Pass'} {', or '.join(permissions)}."


def _permission(keyword: str, names: Sequence[str]) -> str:
    """Return an argument that permits some tensors, and its option; a pattern stands for more than a few."""
    are_few = len(names) <= _FEW and all(map(_PLAIN.fullmatch, names))
    patterns = list(names) if are_few else ["PATTERN"]
    option = f"--{keyword.replace('_', '-')}"
    return f"{keyword}={patterns!r} ({' '.join(f'{option} {pattern}' for pattern in patterns)})"


def _layer_of(names: Iterable[str]) -> str:
    """Return the name of the layer that some tensors belong to; empty if they are of several."""
    paths = {name.rpartition(".")[0] for name in names}
    return next(iter(paths)).rpartition(".")[2] if len(paths) == 1 else ""


def _lines(reasons: Mapping[str, str]) -> str:
    """Return a line for each folded name with its reason; of many only the first, and how many more.

    A long reason is given once, after all its names. Line ends in a name are escaped, so that a name cannot
    add a line of its own.
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
    """Return a pattern that matches some keys and none of the others; or the names, if they are few."""
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
