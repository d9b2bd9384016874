"""What a conversion may guess and leave out, as its caller allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge_core.errors import UsageError
from bridge_core.messages import shown
from bridge_core.public import require_bool
from bridge_core.state import Key

if TYPE_CHECKING:
    from bridge_core.rules.patterns import Pattern

    Allowed = bool | Iterable[str | Pattern]
    """What callers may pass: True for every key, patterns, or the text of one."""
else:
    Allowed = Any  # most conversions have no patterns, and need not import their module

__all__ = ["Allowed", "Permissions"]


@dataclass(frozen=True)
class Permissions:
    """What a conversion may guess and leave out; nothing, unless its caller allows it.

    Args:
        accept_guesses: Whether names may decide what no other evidence decides.
        allow_missing: Target keys that may stay unfilled.
        allow_unexpected: Source keys that may be left out.
        allow_mismatched: Target keys that may stay unfilled, and their sources left out, where the shapes
            differ.
        allow_unclaimed: Source keys that are copied unchanged although no evidence shows what they are.
        allow_inexact: Whether rules may round, and discard what is not the constant, without saying so.
    """

    accept_guesses: bool = False
    allow_missing: tuple[Pattern, ...] = ()
    allow_unexpected: tuple[Pattern, ...] = ()
    allow_mismatched: tuple[Pattern, ...] = ()
    allow_unclaimed: tuple[Pattern, ...] = ()
    allow_inexact: bool = False

    @classmethod
    def of(
        cls,
        accept_guesses: bool,
        allow_missing: Allowed = (),
        allow_unexpected: Allowed = (),
        allow_mismatched: Allowed = (),
        allow_unclaimed: Allowed = (),
        *,
        allow_inexact: bool = False,
    ) -> Permissions:
        """Return the permissions that a caller's keywords give.

        Raises:
            RuleError: A pattern is not valid.
            UsageError: A value is of another type.
        """
        require_bool("accept_guesses", accept_guesses)
        require_bool("allow_inexact", allow_inexact)
        return cls(
            accept_guesses,
            _patterns("allow_missing", allow_missing),
            _patterns("allow_unexpected", allow_unexpected),
            _patterns("allow_mismatched", allow_mismatched),
            _patterns("allow_unclaimed", allow_unclaimed),
            allow_inexact,
        )

    @property
    def has_patterns(self) -> bool:
        """Whether a pattern names some keys, and not others."""
        return any(str(pattern) != "**" for pattern in self._patterns)

    @property
    def has_slashes(self) -> bool:
        """Whether a pattern may be that of a name whose parts are joined by slashes."""
        return any(pattern.slashed is not None for pattern in self._patterns)

    @property
    def _patterns(self) -> tuple[Pattern, ...]:
        return (
            *self.allow_missing,
            *self.allow_unexpected,
            *self.allow_mismatched,
            *self.allow_unclaimed,
        )

    def may_miss(self, *names: Key) -> bool:
        """Return whether a target key, under any of its names, may stay unfilled."""
        return _match(self.allow_missing, names)

    def may_leave_out(self, *names: Key) -> bool:
        """Return whether a source key, under any of its names, may be left out."""
        return _match(self.allow_unexpected, names)

    def may_differ(self, *names: Key) -> bool:
        """Return whether a target key, by any of its names, may have another shape."""
        return _match(self.allow_mismatched, names)

    def may_copy(self, *names: Key) -> bool:
        """Return whether a source key, by any of its names, may be copied unexplained."""
        return _match(self.allow_unclaimed, names)


def _patterns(argument: str, value: Allowed) -> tuple[Pattern, ...]:
    if value is False or value == ():
        return ()
    from bridge_core.rules.patterns import Pattern

    if value is True:
        return (Pattern.parse("**"),)
    patterns = [value] if isinstance(value, str | Pattern) else value
    if isinstance(patterns, Iterable) and not isinstance(patterns, bytes):
        patterns = list(patterns)
        if all(isinstance(pattern, str | tuple | Pattern) for pattern in patterns):
            parsed = tuple(map(Pattern.parse, patterns))
            marked = next((pattern for pattern in parsed if pattern.may_be_absent), None)
            if marked is None:
                return parsed
            raise UsageError(
                f"{argument}=: the pattern '{marked}' has a '?', which only patterns of rules may have.",
                hint="Write the pattern without it.",
            )
    option = f"--{argument.replace('_', '-')}"
    raise UsageError(
        f"expected {argument}= ({option}) to be True, a pattern or a list of patterns, got {shown(value)}.",
        hint=f'Pass {argument}="head.*" ({option} PATTERN).',
    )


def _match(patterns: Iterable[Pattern], names: Iterable[Key]) -> bool:
    return any(pattern.match(name) is not None for pattern in patterns for name in names)
