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
        when: Conditions, all of which must hold: ``{"config": {"model_type": "gpt2"}}``; of the first source
            tensor of a rule that rearranges tensors also ``{"rank": 2}`` and ``{"sizes": {"in": 768}}``.
        optional: Whether it may match nothing.
        layouts: The layouts of the sources and of the targets, e.g. ``("torch", "flax")``.
        origin: Where it was written.
    """

    when: Mapping[str, Any]
    optional: bool
    layouts: Layouts
    origin: str


class Common(TypedDict):
    """The same options, as fields of a rule."""

    when: When
    optional: bool
    layouts: Layouts
    origin: str


def common_fields(options: Options) -> Common:
    """Read the options.

    Raises:
        RuleError: A condition is not well formed.
    """
    return {
        "when": When.parse(options.get("when") or {}),
        "optional": options.get("optional", False),
        "layouts": options.get("layouts"),
        "origin": options.get("origin", ""),
    }


@contextlib.contextmanager
def naming(about: str, options: Options) -> Iterator[None]:
    """Add the rule to the error if one of its texts cannot be read."""
    try:
        yield
    except RuleError as err:
        raise RuleError(f"rule {about}: {err.message}", path=options.get("origin") or None) from err
