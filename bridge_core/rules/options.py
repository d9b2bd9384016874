"""The keywords that every rule takes, and the context of its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

from bridge_core.axes import Equation, parse_sizes
from bridge_core.errors import RuleError
from bridge_core.rules.conditions import When
from bridge_core.rules.patterns import Pattern
from bridge_core.rules.where import Where

__all__ = ["Layouts", "Options", "common_fields", "naming", "one_pattern"]

Layouts = tuple[str, str] | None


class Options(TypedDict, total=False):
    """What every rule takes by keyword.

    Args:
        when: Conditions, all of which must hold: ``{"config": {"model_type": "gpt2"}}``,
            ``{"exists": "head.*"}`` and ``{"missing": "head.*"}``, about names of the source; of a rule that
            rearranges tensors also ``{"rank": 2}``, ``{"sizes": {"in": 768}}`` and ``{"sizes": "f > d"}``,
            about its first source.
        where: Which numbers in names others give, and which numbers match: ``"i = block*6 + j"``,
            ``"n = [0, 3, 7][s] + b"``, ``"n counts s, b"``, ``"2 <= i < n_layers"``, or a list of them.
        sizes: Axis, or a name in expressions -> its size: a number or an expression, ``"config.n_head"``.
        optional: Whether the rule may match nothing; false by default.
        fallback: Whether a rename or drop is only for keys that no other rule matches; false by default.
        stage: Of a rename: it sees the names that renames of lower stages give; 0 by default.
        layouts: The layouts of the sources and of the targets, e.g. ``("torch", "flax")``; by default the
            rule is read from sources to targets in every conversion.
        origin: The file and line of the rule, for messages.
    """

    when: Mapping[str, Any]
    where: str | Iterable[str]
    sizes: Mapping[str, Any] | None
    optional: bool
    fallback: bool
    stage: int
    layouts: Layouts
    origin: str


def common_fields(
    options: Options, patterns: Iterable[Pattern] = (), equation: Equation | None = None
) -> dict[str, Any]:
    """Return the options as fields of a rule.

    The captures of the rule's patterns, and the axes of its equation, are not sizes in ``where``.

    Raises:
        RuleError: A condition, a size or ``where`` is not valid.
    """
    sizes = parse_sizes(options.get("sizes") or {})
    own = {name for pattern in patterns for name in pattern.captures}
    axes = (equation.axes if equation is not None else frozenset()) - own
    return {
        "when": When.parse(options.get("when") or {}),
        "where": Where.parse(options.get("where") or (), sizes.keys() - own - axes, axes),
        "sizes": sizes,
        "optional": options.get("optional", False),
        "fallback": options.get("fallback", False),
        "stage": options.get("stage", 0),
        "layouts": options.get("layouts"),
        "origin": options.get("origin", ""),
    }


def one_pattern(text: str | Pattern, options: Options) -> tuple[Pattern, dict[str, Any]]:
    """Return the pattern of a rule that has only one, and its options as fields.

    Raises:
        RuleError: One of them is not valid.
    """
    with naming(f"'{text}'", options):
        pattern = Pattern.parse(text)
        return pattern, common_fields(options, (pattern,))


@contextlib.contextmanager
def naming(about: str, options: Options) -> Iterator[None]:
    """Add the rule, and where it was written, to an error about one of its texts."""
    try:
        yield
    except RuleError as err:
        path = options.get("origin") or None
        raise RuleError(f"rule {about}: {err.message}", path=path, hint=err.hint) from err
