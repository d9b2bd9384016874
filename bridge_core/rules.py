"""Rules: what a user or a model family knows better than the evidence.

A rule is data and is never changed by running. It renames keys, fixes a layer's kind, or drops keys with a
reason; its patterns are those of `keys.Pattern`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bridge_core.errors import RuleError
from bridge_core.keys import Key, Pattern

__all__ = ["Rule", "as_patterns", "matches"]


@dataclass(frozen=True)
class Rule:
    """One rule over a source's keys.

    Args:
        source: Pattern over keys (for ``rename_to`` and ``drop``) or over layer paths (for ``kind``).
        rename_to: Pattern that gives the new key.
        kind: Kind of the layers at the matching paths.
        drop: Reason to leave the matching keys out.

    Raises:
        RuleError: It does nothing or two things, or its captures do not bind.

    >>> Rule.rename("module.**", "**").source
    Pattern(segments=('module', AnyN()))
    """

    source: Pattern
    rename_to: Pattern | None = None
    kind: str | None = None
    drop: str | None = None

    @classmethod
    def rename(cls, source: str | Pattern, target: str | Pattern) -> Rule:
        """Return a rule that renames keys."""
        return cls(Pattern.parse(source), rename_to=Pattern.parse(target))

    @classmethod
    def layer(cls, path: str | Pattern, kind: str) -> Rule:
        """Return a rule that fixes the kind of layers."""
        return cls(Pattern.parse(path), kind=kind)

    @classmethod
    def leave_out(cls, source: str | Pattern, reason: str) -> Rule:
        """Return a rule that drops keys."""
        return cls(Pattern.parse(source), drop=reason)

    def __post_init__(self) -> None:
        """Check."""
        actions = [a for a in (self.rename_to, self.kind, self.drop) if a is not None]
        if len(actions) != 1:
            raise RuleError(f"{self} must do exactly one thing; it does {len(actions)}.")
        if self.rename_to is not None:
            bound, wanted = set(self.source.captures), set(self.rename_to.captures)
            if bound != wanted:
                raise RuleError(
                    f"{self} cannot be used both ways: {', '.join(sorted(bound ^ wanted))} "
                    "stands on one side only."
                )

    def __str__(self) -> str:
        """Return one line."""
        if self.rename_to is not None:
            return f"rule '{self.source}' -> '{self.rename_to}'"
        return f"rule '{self.source}': {self.kind or f'drop ({self.drop})'}"


def as_patterns(value: bool | Iterable[str | Pattern]) -> tuple[Pattern, ...]:
    """Return key patterns; True stands for every key.

    Raises:
        RuleError: A pattern is not well formed.
    """
    if value is True:
        return (Pattern.parse("**"),)
    if value is False:
        return ()
    return tuple(Pattern.parse(pattern) for pattern in ([value] if isinstance(value, str) else value))


def matches(patterns: Iterable[Pattern], key: Key) -> bool:
    """Tell whether any pattern fits the key."""
    return any(pattern.match(key) is not None for pattern in patterns)
