"""The keywords that every rule takes, and the context of its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from bridge_core.errors import RuleError
from bridge_core.rules.conditions import When

__all__ = ["Common", "Layouts", "Options", "common_fields", "naming"]

Layouts = tuple[str, str] | None


class Options(TypedDict, total=False):
    """What every rule takes by keyword.

    Args:
        when: Conditions, all of which must hold: ``{"config": {"model_type": "gpt2"}}``,
            ``{"exists": "head.*"}`` and ``{"missing": "head.*"}``, about names of the source; of a rule that
            rearranges tensors also ``{"rank": 2}``, ``{"sizes": {"in": 768}}`` and ``{"sizes": "f > d"}``,
            about its first source.
        optional: Whether the rule may match nothing; false by default.
        fallback: Whether a rename or drop is only for keys that no other rule matches; false by default.
        stage: Of a rename: it sees the names that renames of lower stages give; 0 by default.
        layouts: The layouts of the sources and of the targets, e.g. ``("torch", "flax")``; by default the
            rule is read from sources to targets in every conversion.
        origin: The file and line of the rule, for messages.
    """

    when: Mapping[str, Any]
    optional: bool
    fallback: bool
    stage: int
    layouts: Layouts
    origin: str


class Common(TypedDict):
    """The same options, as fields of a rule."""

    when: When
    optional: bool
    fallback: bool
    stage: int
    layouts: Layouts
    origin: str


def common_fields(options: Options) -> Common:
    """Return the options as fields of a rule.

    Raises:
        RuleError: A condition is unknown, or has a value of a wrong type.
    """
    return {
        "when": When.parse(options.get("when") or {}),
        "optional": options.get("optional", False),
        "fallback": options.get("fallback", False),
        "stage": options.get("stage", 0),
        "layouts": options.get("layouts"),
        "origin": options.get("origin", ""),
    }


@contextlib.contextmanager
def naming(about: str, options: Options) -> Iterator[None]:
    """Add the rule, and where it was written, to an error about one of its texts."""
    try:
        yield
    except RuleError as err:
        path = options.get("origin") or None
        raise RuleError(f"rule {about}: {err.message}", path=path, hint=err.hint) from err
