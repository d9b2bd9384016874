"""The table of one rule, as files and records write it: its keys, their types, and which go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.rules.rule import Rule

__all__ = ["RULE_KEYS", "read_table", "takes_sizes"]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return _text(value) or (isinstance(value, list) and bool(value) and all(map(_text, value)))


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def _stage(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 1000


_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "source": (_texts, "a pattern, or a list of patterns"),
    "target": (_texts, "a pattern, or a list of patterns"),
    "rename": (_text, "a pattern"),
    "rearrange": (_texts, "an equation or a call, or a list of them"),
    "layer": (_text, "the name of a layer kind"),
    "drop": (_text, "a reason"),
    "fill": (_number, "a number"),
    "sizes": (lambda value: isinstance(value, dict), "a table such as { h = 12 }"),
    "where": (_texts, "a text such as 'i = block*6 + j', or a list of them"),
    "reason": (_text, "a text"),
    "when": (lambda value: isinstance(value, dict), "a table such as { rank = 2 }"),
    "optional": (lambda value: isinstance(value, bool), "true or false"),
    "fallback": (lambda value: isinstance(value, bool), "true or false"),
    "stage": (_stage, "a whole number from -1000 to 1000"),
}

_OLD_KEYS = {"ops": "rearrange", "kind": "layer"}
"""Old key, which rule files may have for ever -> its current name."""

_MEANT = {
    ("exists", "missing", "rank", "config"): "Write it in when, as in when = { exists = 'lm_head.weight' }.",
    ("equation", "transpose", "permute", "reshape"): "Write rearrange = 'out in -> in out'.",
    ("scale", "offset", "pad", "unpad", "cut", "cast"): "Write rearrange = ['out in -> in out', 'scale(2)'].",
    ("map", "names", "table"): "Write tables = { x = { q_proj = 'query' } }, and {x} in the patterns.",
}
"""Keys that users may expect -> what to write."""

_COMMON = ("when", "optional")

_ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rename": (("source", "rename"), ("sizes", "where", "stage", "fallback")),
    "layer": (("source", "layer"), ()),
    "drop": (("source", "drop"), ("fill", "sizes", "where", "fallback")),
    "drop of targets": (("target", "drop"), ()),
    "fill": (("target", "fill", "reason"), ("sizes", "where")),
    "rearrange": (("source", "target"), ("rearrange", "sizes", "where")),
}
"""Action: the first of these keys that a rule has -> the keys that it must have, and those that it may have.

A rule with a target and none of these keys copies tensors one to one; it is a ``rearrange`` without ops. A
drop with a target alone is about tensors of the target, which are dropped in the other direction.
"""

_NAMED = tuple(name for name in _ACTIONS if " " not in name)

RULE_KEYS = (*_TYPES, *_OLD_KEYS)

_EXAMPLES = {
    "source": 'source = "old.weight"',
    "target": 'target = "new.weight"',
    "reason": 'reason = "the source does not have it"',
}
"""What to write where one of these keys is missing."""


def _action(table: Mapping[str, Any]) -> str | None:
    if "drop" in table and "target" in table and "source" not in table and "rename" not in table:
        return "drop of targets"
    return next((key for key in _ACTIONS if key in table), "rearrange" if "target" in table else None)


def takes_sizes(table: Mapping[str, Any]) -> bool:
    """Return whether the rule of a table may have sizes."""
    action = _action(table)
    return action is not None and "sizes" in _ACTIONS[action][1]


def read_table(table: dict[str, Any], layouts: tuple[str, str] | None, origin: str) -> Rule:
    """Return the rule of a table.

    Raises:
        RuleError: A key is unknown or missing, keys cannot be combined, or a value is wrong.
    """
    written = _written_as(table)
    table = {_OLD_KEYS.get(key, key): value for key, value in table.items()}
    for key, value in table.items():
        if key not in _TYPES:
            hint = next((text for keys, text in _MEANT.items() if key in keys), nearest(key, _TYPES))
            raise RuleError(f"unknown key {key!r} in the rule.", hint=hint)
        fits, expected = _TYPES[key]
        if not fits(value):
            raise RuleError(f"{written[key]}: expected {expected}, got {_shown(value)}.")
    action = _action(table)
    if action is None:
        raise RuleError("the rule has no action.", hint=f"Add one of: {', '.join(_NAMED)}.")
    needed, allowed = _ACTIONS[action]
    common_keys = _COMMON if "source" in needed or action == "fill" else ("optional",)
    named = written.get(action.partition(" ")[0], "target")
    for key in needed:
        if key not in table:
            raise RuleError(f"a rule with {named!r} must have {key!r} too.", hint=f"Add {_EXAMPLES[key]}.")
    for key in table:
        if key not in (*needed, *allowed, *common_keys):
            raise RuleError(
                f"{written[key]!r} cannot be combined with {named!r} in one rule.",
                hint=f"Remove {written[key]!r}, or write it in another [[rule]].",
            )
    options = (*_COMMON, "sizes", "where", "stage", "fallback")
    common = {name: table[name] for name in options if name in table}
    common.update(layouts=layouts, origin=origin)
    if action == "rearrange":
        return Rule.rearrange(table["source"], table["target"], table.get("rearrange", ()), **common)
    for key in ("source", "target"):
        if key in needed and not isinstance(table[key], str):
            raise RuleError(
                f"{key}: expected one pattern in a rule with {named!r}, got {_shown(table[key])}.",
                hint="Write a [[rule]] for each pattern.",
            )
    if action == "rename":
        return Rule.rename(table["source"], table["rename"], **common)
    if action == "layer":
        return Rule.layer(table["source"], table["layer"], **common)
    if action == "drop":
        return Rule.drop(table["source"], table["drop"], fill=table.get("fill"), **common)
    if action == "drop of targets":
        common["layouts"] = layouts[::-1] if layouts is not None else None
        return Rule.drop(table["target"], table["drop"], **common).reversed()
    return Rule.fill(table["target"], table["fill"], reason=table["reason"], **common)


def _written_as(table: Iterable[str]) -> dict[str, str]:
    """Return the current name of every key of a table -> the key in the table."""
    written: dict[str, str] = {}
    for key in table:
        other = written.setdefault(_OLD_KEYS.get(key, key), key)
        if other != key:
            new = _OLD_KEYS.get(key, key)
            raise RuleError(f"the keys {other!r} and {key!r} have one meaning.", hint=f"Write only {new!r}.")
    return written


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
