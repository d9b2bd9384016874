"""Rule files: TOML with a table for each `Rule`, whose line is known.

A file is checked completely when it is loaded: all wrong rules are reported at once. tomllib returns no line
numbers, so the headers of the tables are searched in the text.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

from bridge_core.errors import LimitExceeded, RuleError, SourceNotFound, UsageError
from bridge_core.io import SourceFile
from bridge_core.messages import nearest, shown
from bridge_core.rules.overlaps import overlapping
from bridge_core.rules.rule import Rule

__all__ = ["load_rules", "read_table", "StrPath"]

StrPath = str | os.PathLike[str]

_LARGEST = 4_000_000

_LONGEST_LINE = 100_000
"""Characters; tomllib takes time that grows with the square of a dotted key's length."""

_MOST_PROBLEMS = 20
"""How many wrong rules an error lists."""

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
"""Distinguishes a header from the same text in a string, a comment or an array."""


def load_rules(path: StrPath) -> tuple[Rule, ...]:
    """Load and check a rule file.

    Args:
        path: A TOML file of ``[[rule]]`` tables. ``source`` and ``target`` at its top name the layouts of
            the rules' sources and targets; with only ``source`` the targets are neutral.

    Raises:
        RuleError: The file is not TOML, or rules are wrong; the message has one line for each wrong rule,
            with file and line.
        LimitExceeded: The file has more than 4 MB, or a line more than 100,000 characters.
        SourceNotFound: The file does not exist.
        MalformedFile: The path is a folder or a device.
        SystemFailure: The file cannot be read.
        UsageError: The value is not a path, or is empty.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"expected the path of a rule file, got {shown(path)}.")
    if not os.fspath(path):
        raise UsageError(
            "the path of the rule file is empty.", hint='Pass rules="rules.toml" (--rules), or no rules.'
        )
    name = os.fspath(path)
    document, text = _parse(name)
    layouts = _layouts(document, text, name)
    tables = document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise RuleError(
            f"{_line_of('rule', text)}expected each rule below a line [[rule]], got another value of 'rule'.",
            path=name,
            hint="Write [[rule]], with two brackets.",
        )
    if not tables:
        raise RuleError(
            "the rule file has no rules.",
            path=name,
            hint='Write each rule below a line [[rule]], such as source = "old.*" and rename = "new.*".',
        )
    lines = list(_header_lines(text))
    if len(lines) != len(tables):
        raise RuleError(
            "the rules are not tables of their own, so that their lines are not known.",
            path=name,
            hint="Write each rule below a line [[rule]].",
        )
    rules: list[Rule] = []
    problems: list[tuple[int, str]] = []
    for line, table in zip(lines, tables, strict=True):
        origin = f"{name}:{line}"
        try:
            rules.append(read_table(table, layouts, origin))
        except RuleError as err:
            problems.append((line, f"{err.message} {err.hint}" if err.hint else err.message))
    problems += _overlaps(rules)
    if problems:
        what = "1 rule is wrong" if len(problems) == 1 else f"{len(problems)} rules are wrong"
        texts = [f"\n  {name}:{line}: {problem}" for line, problem in sorted(problems)[:_MOST_PROBLEMS]]
        if len(problems) > _MOST_PROBLEMS:
            texts.append(f"\n  and {len(problems) - _MOST_PROBLEMS} more")
        raise RuleError(f"{what}:{''.join(texts)}", path=name)
    return tuple(rules)


def _parse(name: str) -> tuple[dict[str, Any], str]:
    try:
        file = SourceFile(name)
    except SourceNotFound as err:
        raise SourceNotFound("the rule file does not exist.", path=name, hint=err.hint) from None
    with file:
        if file.size > _LARGEST:
            raise LimitExceeded(
                f"the file is too large for a rule file: expected at most {_LARGEST} bytes, got {file.size}.",
                path=name,
            )
        data = file.read(0, file.size)
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise RuleError(
            f"the file is not UTF-8 text: {data[err.start]:#04x} at byte {err.start}, in line {line}.",
            path=name,
            hint="Save it as UTF-8.",
        ) from err
    for number, row in enumerate(text.split("\n"), 1):
        if len(row) > _LONGEST_LINE:
            raise LimitExceeded(
                f"line {number} is too long: expected at most {_LONGEST_LINE} characters, got {len(row)}.",
                path=name,
            )
    try:
        return tomllib.loads(text), text
    except RecursionError as err:
        raise RuleError("the TOML has too many arrays or tables inside each other.", path=name) from err
    except ValueError as err:
        raise RuleError(
            f"the file is not valid TOML: {err}.",
            path=name,
            hint='Write texts in quotes, such as source = "old.*".' if "Invalid value" in str(err) else None,
        ) from err


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
            hint = nearest(key, ("source", "target", "rule"))
            if key in _TYPES or key in _OLD_KEYS:
                hint = "Write it below a line [[rule]]."
            raise RuleError(
                f"{_line_of(key, text)}unknown key {key!r} at the top of the file.", path=name, hint=hint
            )
    for key in ("source", "target"):
        if key in document and not (isinstance(document[key], str) and document[key]):
            where, value = _line_of(key, text), _shown(document[key])
            raise RuleError(
                f"{where}{key}: expected the name of a framework, such as 'torch', got {value}.", path=name
            )
    source, target = document.get("source"), document.get("target")
    if source is None and target is None:
        return None
    if source is None:
        raise RuleError(
            f"{_line_of('target', text)}the file has a target layout and no source layout.",
            path=name,
            hint=f'Write a line such as source = "{"flax" if target == "torch" else "torch"}" above it.',
        )
    target = target or _NEUTRAL
    if source == target:
        raise RuleError(
            f"expected two different layouts, got {source!r} for both sides: they decide in which direction "
            "the rules are read.",
            path=name,
            hint="Remove the lines source = ... and target = ... to read the rules from source to target.",
        )
    return source, target


def _line_of(key: str, text: str) -> str:
    """Return ``"line N: "`` for the first line that begins with a key of the document, or an empty text."""
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
    "where": (_texts, "a text such as 'i = block*6 + j', or a list of them"),
    "reason": (_text, "a text"),
    "when": (lambda value: isinstance(value, dict), "a table such as { rank = 2 }"),
    "optional": (lambda value: isinstance(value, bool), "true or false"),
    "fallback": (lambda value: isinstance(value, bool), "true or false"),
    "stage": (lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
}

_OLD_KEYS = {"ops": "rearrange", "kind": "layer"}
"""Old key, which rule files may have for ever -> its current name."""

_COMMON = ("when", "optional")

_ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "rename": (("source", "rename"), ("sizes", "where", "stage", "fallback")),
    "layer": (("source", "layer"), ()),
    "drop": (("source", "drop"), ("fill", "sizes", "where", "fallback")),
    "fill": (("target", "fill", "reason"), ("sizes", "where")),
    "rearrange": (("source", "target"), ("rearrange", "sizes", "where")),
}
"""Action: the first of these keys that a rule has -> the keys that it must have, and those that it may have.

A rule with a target and none of these keys copies tensors one to one; it is a ``rearrange`` without ops.
"""

_EXAMPLES = {
    "source": 'source = "old.weight"',
    "target": 'target = "new.weight"',
    "reason": 'reason = "the source does not have it"',
}
"""What to write where one of these keys is missing."""


def read_table(table: dict[str, Any], layouts: tuple[str, str] | None, origin: str) -> Rule:
    """Return the rule of a table.

    Args:
        table: The keys and values of one rule.
        layouts: The layouts of its sources and its targets; None if the file names none.
        origin: Where it was written, as file and line.

    Raises:
        RuleError: A key is unknown or missing, keys cannot be combined, or a value is wrong.
    """
    written = _written_as(table)
    table = {_OLD_KEYS.get(key, key): value for key, value in table.items()}
    for key, value in table.items():
        if key not in _TYPES:
            raise RuleError(f"unknown key {key!r} in the rule.", hint=nearest(key, _TYPES))
        fits, expected = _TYPES[key]
        if not fits(value):
            raise RuleError(f"{written[key]}: expected {expected}, got {_shown(value)}.")
    action = next((key for key in _ACTIONS if key in table), "rearrange" if "target" in table else None)
    if action is None:
        raise RuleError("the rule has no action.", hint=f"Add one of: {', '.join(_ACTIONS)}.")
    needed, allowed = _ACTIONS[action]
    named = written.get(action, "target")
    for key in needed:
        if key not in table:
            raise RuleError(f"a rule with {named!r} must have {key!r} too.", hint=f"Add {_EXAMPLES[key]}.")
    for key in table:
        if key not in (*needed, *allowed, *_COMMON):
            raise RuleError(
                f"{written[key]!r} cannot be combined with {named!r} in one rule.",
                hint=f"Remove {written[key]!r}, or write it in another [[rule]].",
            )
    options = (*_COMMON, "sizes", "where", "stage", "fallback")
    common: dict[str, Any] = {name: table[name] for name in options if name in table}
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
    return Rule.fill(table["target"], table["fill"], reason=table["reason"], **common)


def _written_as(table: Iterable[str]) -> dict[str, str]:
    """Return the current name of every key of a table -> the key in the table.

    Raises:
        RuleError: The table has a key under both its names.
    """
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


def _overlaps(rules: list[Rule]) -> list[tuple[int, str]]:
    """Return the line and the problem of every rule that matches, or makes, keys of an earlier rule."""
    pairs = [(a, b, "match") for a, b in overlapping(rules)]
    forward = {turned: rule for rule in rules if (turned := _reversed_maker(rule)) is not None}
    pairs += [(forward[a], forward[b], "make") for a, b in overlapping(forward)]
    return [
        (
            _line(second),
            f"{second} and {first} in line {_line(first)} {verb} the same key. Change one pattern so that "
            "no key is in both, or remove one rule.",
        )
        for first, second, verb in pairs
    ]


def _reversed_maker(rule: Rule) -> Rule | None:
    """Return the rule in the other direction, if no other rule may make its targets.

    None for renames and optional rules: two of them may make one key from two.
    """
    return rule.reversed() if rule.action in ("rearrange", "fill") and not rule.optional else None


def _line(rule: Rule) -> int:
    return int(rule.origin.rpartition(":")[2])
