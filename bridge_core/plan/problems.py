"""What keeps a plan from being run, gathered before any of it is an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bridge_core.errors import (
    AmbiguousLayerError,
    BridgeError,
    MismatchError,
    RuleError,
    UnclaimedTensorError,
    UnsupportedLayerError,
)
from bridge_core.messages import count, fold_names, listed
from bridge_core.plan.step import Mismatch
from bridge_core.state import Key, join_key

__all__ = ["PlanProblems", "Rivals", "once"]

T = TypeVar("T")

_SCALES = re.compile(
    r"(weight|kernel)_?(scale|zero)|qzeros|scb$|absmax|weight_scale_inv|(^|\.)scales$", re.IGNORECASE
)

_LISTED = 40
"""How many names a message lists; they are folded before."""

_LONG = 120
"""Characters of a reason that is not repeated for each pattern of names."""


@dataclass(frozen=True)
class Rivals:
    """Prefixes of which each would let the paths of source and template match, to other layers.

    Args:
        prefixes: The prefixes, without collections; the empty one stands for names without a prefix.
        side: Whose names have them: ``source`` or ``template``.
        matches: How many layers the best of them match.
    """

    prefixes: tuple[Key, ...]
    side: str
    matches: int

    @property
    def names(self) -> tuple[str, ...]:
        """The prefixes as text."""
        return tuple(map(join_key, self.prefixes))

    def error(self) -> MismatchError:
        """Return the error that names them all."""
        first, last = (name or "(no prefix)" for name in (self.names[0], self.names[-1]))
        if self.side == "source":
            others = f"{last}.**"
            way = (
                f"Leave the others out (allow_unexpected={others!r}, --allow-unexpected {others!r}), or drop "
                f'them by a rule (--rules FILE): source = "{others}" with drop = "{first} is converted".'
            )
        else:
            way = (
                "Choose one by a rule (--rules FILE) that gives the source's layers one of them, e.g. "
                f'source = "**" with rename = "{first}.**".'
            )
        texts = (name or "(no prefix)" for name in self.names)
        return MismatchError(
            f"{len(self.names)} prefixes of the {self.side}'s names match equally well "
            f"({count(self.matches, 'layer')} each), and nothing decides between them: "
            f"{listed(texts, _LISTED)}.",
            hint=way,
        )


@dataclass(frozen=True)
class PlanProblems:
    """What keeps a plan from being run.

    Args:
        missing: Target keys that no source fills.
        unexpected: Source keys that no target takes.
        mismatched: Pairs whose shapes differ.
        ambiguous: Source key -> the interpretations that remain possible.
        unsupported: Source key -> why the target has no form for it.
        unmatched_rules: Rules that had to match something and did not.
        unexplained: Source key -> why it is not copied, where no evidence says what it is.
        rivals: Prefixes that match equally well; None if there are none.
    """

    missing: tuple[Key, ...] = ()
    unexpected: tuple[Key, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    ambiguous: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    unsupported: Mapping[Key, str] = field(default_factory=dict)
    unmatched_rules: tuple[str, ...] = ()
    unexplained: Mapping[Key, str] = field(default_factory=dict)
    rivals: Rivals | None = None

    def then(self, following: PlanProblems, origin: Mapping[Key, Key]) -> PlanProblems:
        """Return the problems of two plans, one after the other.

        Args:
            following: The problems of the second plan.
            origin: Source key of the second plan -> source key of the first.
        """
        return PlanProblems(
            following.missing,
            once((*self.unexpected, *(origin.get(key, key) for key in following.unexpected))),
            once(replace(m, source=origin.get(m.source, m.source)) for m in following.mismatched),
            {origin.get(key, key): kinds for key, kinds in following.ambiguous.items()},
            {**self.unsupported, **{origin.get(key, key): why for key, why in following.unsupported.items()}},
            once((*self.unmatched_rules, *following.unmatched_rules)),
            {**self.unexplained, **{origin.get(key, key): why for key, why in following.unexplained.items()}},
            rivals=self.rivals or following.rivals,
        )

    def error(self, target_layout: str) -> BridgeError | None:
        """Return the error that names all problems of one kind; None if there are none.

        Args:
            target_layout: The layout that the plan makes.
        """
        if self.unmatched_rules:
            return RuleError(
                f"{count(len(self.unmatched_rules), 'rule')} matched nothing: "
                f"{listed(self.unmatched_rules, _LISTED)}.",
                hint=(
                    "Correct the pattern, which sees the names that the source has before any rule renames "
                    "them; or mark a rule that need not match as optional. A conversion in two steps needs "
                    "its rules in the first, where the names are those of the source."
                ),
            )
        if self.rivals is not None:
            return self.rivals.error()
        if self.unsupported:
            return self._unsupported_error(target_layout)
        if self.missing or self.unexpected or self.mismatched:
            return self._mismatch_error()
        if self.ambiguous or self.unexplained:
            return self._open_error()
        return None

    def _open_error(self) -> BridgeError:
        """Return the error about tensors that nothing explains, one line for a pattern of names."""
        candidates = {join_key(key): kinds for key, kinds in self.ambiguous.items()}
        reasons = {join_key(key): why for key, why in self.unexplained.items()}
        parts = []
        if candidates:
            lines = _lines({name: f" ({' or '.join(kinds)})" for name, kinds in candidates.items()})
            parts.append(f"{count(len(candidates), 'tensor')} can be read in more than one way:{lines}")
        if reasons:
            number = count(len(reasons), "tensor")
            lines = _lines({name: f": {why}" for name, why in reasons.items()})
            parts.append(f"{number} with a layer's name, of which nothing says what it is:{lines}")
        ways = [
            "Give the target's shapes (like=, --like FILE), the module (model= or module=, "
            "--model PKG.MOD:FACTORY) or a rule (rules=, --rules FILE)."
        ]
        permissions = []
        if candidates:
            ways.append("Or accept guesses by name (accept_guesses=True, --accept-guesses).")
            permissions.append("--accept-guesses")
        if reasons:
            pattern = _pattern(self.unexplained)
            ways.append(
                f"Or copy them unchanged (allow_unclaimed={pattern!r}, --allow-unclaimed {pattern!r}), if "
                "the other side has them under these names and with these axes."
            )
            permissions.append(f"--allow-unclaimed '{pattern}'")
        options = ("--like FILE", " ".join(permissions))
        text, hint = "\n".join(parts), "\n" + " ".join(ways)
        if not candidates:
            return UnclaimedTensorError(text, reasons=reasons, hint=hint, options=options)
        return AmbiguousLayerError(text, candidates=candidates, hint=hint, options=options)

    def _unsupported_error(self, target_layout: str) -> UnsupportedLayerError:
        reasons = {join_key(key): why for key, why in self.unsupported.items()}
        names_of: dict[str, list[str]] = {}
        for name, why in reasons.items():
            names_of.setdefault(why, []).append(name)
        rows = (f"{listed(names, _LISTED)}: {why}" for why, names in names_of.items())
        return UnsupportedLayerError(
            f"{count(len(reasons), 'tensor')} cannot be carried to {target_layout}. {'; '.join(rows)}.",
            reasons=reasons,
            hint=(
                "Give a template or a model that has a place for them (like=, --like FILE; model=, --model "
                "PKG.MOD:FACTORY), or drop them by a rule (rules=, --rules FILE) if the target does without."
            ),
        )

    def _mismatch_error(self) -> MismatchError:
        missing, unexpected = tuple(map(join_key, self.missing)), tuple(map(join_key, self.unexpected))
        mismatched = tuple(map(str, self.mismatched))
        found = [
            f"{len(names)} {what}: {listed(names, _LISTED)}"
            for names, what in (
                (missing, "missing"),
                (unexpected, "unexpected"),
                (mismatched, "of another shape"),
            )
            if names
        ]
        if self.ambiguous:
            found.append(f"{len(self.ambiguous)} ambiguous: {self._candidates()}")
        if self.unexplained:
            found.append(
                f"{len(self.unexplained)} not known: {listed(map(join_key, self.unexplained), _LISTED)}"
            )
        scales = tuple(name for name in unexpected if _SCALES.search(name))
        hints = {
            f"{listed(scales)}: the source is quantised; dequantise it first, since its weights mean nothing "
            "without their scales": scales,
            "--allow-unexpected PATTERN leaves source tensors out": unexpected if not scales else (),
            "--allow-missing PATTERN leaves target tensors unfilled": missing,
            "--allow-mismatched PATTERN leaves tensors of another shape unfilled": mismatched,
            "a rule (--rules FILE) says how one becomes the other": mismatched or (missing and unexpected),
        }
        return MismatchError(
            f"source and target do not fit. {'; '.join(found)}.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
            hint="; ".join(hint for hint, applies in hints.items() if applies) + ".",
        )

    def _candidates(self) -> str:
        return listed((f"{join_key(k)} ({' or '.join(v)})" for k, v in self.ambiguous.items()), _LISTED)


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
            folded = [(listed((text for text, _ in folded), _LISTED), len(names))]
        lines += [f"\n  {text}{why}" + (f" (x{number})" if number > 1 else "") for text, number in folded]
    more = f"\n  and {len(lines) - _LISTED} more" if len(lines) > _LISTED else ""
    return "".join(lines[:_LISTED]) + more


def _pattern(keys: Iterable[Key]) -> str:
    """Return a pattern that matches some keys: their one name, or all below what they share."""
    paths = list(keys)
    if len(paths) == 1:
        return join_key(paths[0])
    shared = paths[0][:-1]
    for path in paths:
        while shared != path[: len(shared)]:
            shared = shared[:-1]
    if shared:
        return join_key((*shared, "**"))
    names = {path[-1] for path in paths}
    return f"**.{names.pop()}" if len(names) == 1 else "**"


def once(values: Iterable[T]) -> tuple[T, ...]:
    """Return the values without repetitions, in order of first appearance."""
    return tuple(dict.fromkeys(values))
