"""Rule files: the rules of `Rule` as TOML, each with its line.

A file is checked completely when it is loaded: all wrong rules are reported at once. tomllib gives no line
numbers, so the headers are found in the text itself.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

from bridge_core.errors import LimitExceeded, RuleError, UsageError
from bridge_core.io import SourceFile
from bridge_core.messages import nearest
from bridge_core.rules.overlaps import overlapping
from bridge_core.rules.rule import Rule

__all__ = ["load_rules", "read_table", "StrPath"]

StrPath = str | os.PathLike[str]

_LARGEST = 4_000_000

_LONGEST_LINE = 100_000
"""Characters; tomllib takes time that grows with the square of a dotted key's length."""

_NEUTRAL = "neutral"

_TOKENS = re.compile(
    r"""
    (?P<header> ^[ \t]* \[\[ [ \t]* (?: rule | "rule" | 'rule' ) [ \t]* \]\] )
    | \#[^\n]*
    | \"\"\" (?: \\. | [^\\] )*? \"{3,5}
    | ''' .*? '{3,5}
    | " (?: \\. | [^"\\\n] )* "
    | ' [^'\n]* '
    | (?P<open> [\[{] )
    | (?P<close> [\]}] )
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
"""What distinguishes a header from the same text inside a string, a comment or an array."""


def load_rules(path: StrPath) -> tuple[Rule, ...]:
    """Load and check a rule file.

    Args:
        path: A TOML file of ``[[rule]]`` tables. ``source`` and ``target`` at its top name the layouts of
            the rules' sources and targets; with only ``source`` the targets are neutral.

    Raises:
        RuleError: The file is not TOML, or rules are not well formed; the message has one line for each,
            with file and line.
        LimitExceeded: The file, or a line of it, is too long to be one of rules.
        MalformedFile: There is no such file.
        SystemFailure: The system refuses.
        UsageError: The path is empty.
    """
    if not os.fspath(path):
        raise UsageError("the path of the rule file is empty.")
    name = os.fspath(path)
    document, text = _parse(name)
    layouts = _layouts(document, text, name)
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RuleError("'rule' is no list of tables; write each rule below a line [[rule]].", path=name)
    if not tables:
        raise RuleError("holds no rules; write each below a line [[rule]].", path=name)
    lines = list(_header_lines(text))
    if len(lines) != len(tables):
        raise RuleError("write each rule below a line [[rule]] of its own.", path=name)
    rules: list[Rule] = []
    problems: list[tuple[int, str]] = []
    for line, table in zip(lines, tables, strict=True):
        origin = f"{name}:{line}"
        try:
            rules.append(read_table(table, layouts, origin))
        except RuleError as err:
            problems.append((line, err.message))
    problems += _overlaps(rules)
    if problems:
        what = "1 rule is wrong" if len(problems) == 1 else f"{len(problems)} rules are wrong"
        listed = (f"\n  {name}:{line}: {problem}" for line, problem in sorted(problems))
        raise RuleError(f"{what}:{''.join(listed)}", path=name)
    return tuple(rules)


def _parse(name: str) -> tuple[dict[str, Any], str]:
    with SourceFile(name) as file:
        if file.size > _LARGEST:
            raise LimitExceeded(
                f"is {file.size} bytes; a rule file of at most {_LARGEST} bytes was expected.", path=name
            )
        data = file.read(0, file.size)
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise RuleError(
            f"is no UTF-8 text: byte {err.start}, in line {line}, is {data[err.start]:#04x}.", path=name
        ) from err
    for number, row in enumerate(text.split("\n"), 1):
        if len(row) > _LONGEST_LINE:
            raise LimitExceeded(
                f"line {number} is {len(row)} characters long; at most {_LONGEST_LINE} were expected.",
                path=name,
            )
    try:
        return tomllib.loads(text), text
    except RecursionError as err:
        raise RuleError("is nested too deep.", path=name) from err
    except ValueError as err:
        raise RuleError(f"is no TOML: {err}.", path=name) from err


def _header_lines(text: str) -> Iterable[int]:
    """Yield the line of every ``[[rule]]``."""
    depth, line, counted = 0, 1, 0
    for token in _TOKENS.finditer(text):
        if token["header"] is not None and depth == 0:
            line += text.count("\n", counted, token.start())
            counted = token.start()
            yield line
        elif token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1


def _layouts(document: dict[str, Any], text: str, name: str) -> tuple[str, str] | None:
    for key in document:
        if key not in ("source", "target", "rule"):
            known = ("source", "target", "rule")
            raise RuleError(
                f"{_line_of(key, text)}{key!r} at the top of the file is not known. {nearest(key, known)}",
                path=name,
            )
    for key in ("source", "target"):
        if key in document and not (isinstance(document[key], str) and document[key]):
            where, value = _line_of(key, text), _shown(document[key])
            raise RuleError(f"{where}{key} = {value}: the name of a framework was expected.", path=name)
    source, target = document.get("source"), document.get("target")
    if source is None and target is None:
        return None
    if source is None:
        raise RuleError(f"target = {target!r} needs a source = ... beside it.", path=name)
    target = target or _NEUTRAL
    if source == target:
        raise RuleError(
            f"both sides are {source}, so nothing tells which way to read the rules; leave source and target "
            "out to read them as they stand.",
            path=name,
        )
    return source, target


def _line_of(key: str, text: str) -> str:
    """Return the number of the first line that begins with a key of the document, for a message."""
    begins = re.compile(rf"[ \t]*\[*[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*[=.\]]")
    for number, row in enumerate(text.split("\n"), 1):
        if begins.match(row):
            return f"line {number}: "
    return ""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return _text(value) or (isinstance(value, list) and bool(value) and all(map(_text, value)))


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "source": (_texts, "a pattern, or a list of patterns"),
    "target": (_texts, "a pattern, or a list of patterns"),
    "rename": (_text, "a pattern"),
    "rearrange": (_texts, "an equation or a call, or a list of them"),
    "layer": (_text, "the name of a layer kind"),
    "drop": (_text, "a reason"),
    "fill": (_number, "a number"),
    "sizes": (lambda value: isinstance(value, dict), "a table such as { h = 12 }"),
    "where": (_text, "a text such as 'i = block*6 + j'"),
    "reason": (_text, "a text"),
    "when": (lambda value: isinstance(value, dict), "a table such as { rank = 2 }"),
    "optional": (lambda value: isinstance(value, bool), "true or false"),
}

_OLD_KEYS = {"ops": "rearrange", "kind": "layer"}
"""Keys that rule files may have for ever -> what they are called today."""

_COMMON = ("when", "optional")

_ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rename": (("source", "rename"), ()),
    "layer": (("source", "layer"), ()),
    "drop": (("source", "drop"), ("fill",)),
    "fill": (("target", "fill", "reason"), ()),
    "rearrange": (("source", "target"), ("rearrange", "sizes", "where")),
}
"""What a rule does, by the first of these keys that it has -> the keys that it needs, and may have.

A rule that has a target and none of these keys copies tensors one to one; it is a ``rearrange`` without ops.
"""


def read_table(table: dict[str, Any], layouts: tuple[str, str] | None, origin: str) -> Rule:
    """Return the rule that a table says.

    Args:
        table: The keys and values of one rule.
        layouts: The layouts of its sources and its targets.
        origin: Where it was written.

    Raises:
        RuleError: It is not well formed.
    """
    written = _written_as(table)
    table = {_OLD_KEYS.get(key, key): value for key, value in table.items()}
    for key, value in table.items():
        if key not in _TYPES:
            raise RuleError(f"{key!r} is not known. {nearest(key, _TYPES)}")
        fits, expected = _TYPES[key]
        if not fits(value):
            raise RuleError(f"{written[key]} = {_shown(value)}: {expected} was expected.")
    action = next((key for key in _ACTIONS if key in table), "rearrange" if "target" in table else None)
    if action is None:
        raise RuleError(f"the rule has no action. Add one of: {', '.join(_ACTIONS)}.")
    needed, allowed = _ACTIONS[action]
    named = written.get(action, "target")
    for key in needed:
        if key not in table:
            raise RuleError(f"a rule with {named!r} needs {key!r}.")
    for key in table:
        if key not in (*needed, *allowed, *_COMMON):
            raise RuleError(f"{written[key]!r} cannot be combined with {named!r}; write a rule of its own.")
    common: dict[str, Any] = {name: table[name] for name in _COMMON if name in table}
    common.update(layouts=layouts, origin=origin)
    if action == "rearrange":
        more = {name: table[name] for name in ("sizes", "where") if name in table}
        return Rule.rearrange(table["source"], table["target"], table.get("rearrange", ()), **more, **common)
    for key in ("source", "target"):
        if key in needed and not isinstance(table[key], str):
            raise RuleError(f"{key} = {_shown(table[key])}: one pattern was expected with {named!r}.")
    if action == "rename":
        return Rule.rename(table["source"], table["rename"], **common)
    if action == "layer":
        return Rule.layer(table["source"], table["layer"], **common)
    if action == "drop":
        return Rule.drop(table["source"], table["drop"], fill=table.get("fill"), **common)
    return Rule.fill(table["target"], table["fill"], reason=table["reason"], **common)


def _written_as(table: Iterable[str]) -> dict[str, str]:
    """Return today's name of every key of a table -> the key as it is written.

    Raises:
        RuleError: One key is there under both names.
    """
    written: dict[str, str] = {}
    for key in table:
        other = written.setdefault(_OLD_KEYS.get(key, key), key)
        if other != key:
            new = _OLD_KEYS.get(key, key)
            raise RuleError(f"{other!r} and {key!r} mean the same; write only {new!r}.")
    return written


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _overlaps(rules: list[Rule]) -> list[tuple[int, str]]:
    """Return the line and the problem of every rule that takes, or makes, the keys of an earlier one."""
    found = [(a, b, "takes the keys") for a, b in overlapping(rules)]
    forward = {turned: rule for rule in rules if (turned := _reversed_maker(rule)) is not None}
    found += [(forward[a], forward[b], "makes the keys") for a, b in overlapping(forward)]
    return [
        (_line(second), f"{second} {what} that {first} of line {_line(first)} {what.split()[0]}.")
        for first, second, what in found
    ]


def _reversed_maker(rule: Rule) -> Rule | None:
    """Return the rule read the other way, if nothing else may make its targets.

    Two renames, or two optional rules, may lead from two names to one.
    """
    return rule.reversed() if rule.action in ("rearrange", "fill") and not rule.optional else None


def _line(rule: Rule) -> int:
    return int(rule.origin.rpartition(":")[2])
