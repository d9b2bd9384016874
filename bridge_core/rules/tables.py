"""Tables of names: what a rule file writes once for many names, written out before rules are read.

``{x}`` in a pattern is replaced by the texts of the table ``x``, row by row; rules know nothing of it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field as default
from typing import Any

from bridge_core.axes import parse_sizes
from bridge_core.errors import RuleError
from bridge_core.messages import shown
from bridge_core.rules.segments import NAME

__all__ = [
    "alternatives",
    "changed_patterns",
    "fields_of",
    "label_of",
    "name_text",
    "NameTable",
    "parse_tables",
    "Row",
    "TableUse",
    "uses_of",
]

_MOST_ROWS = 256
"""Of one table, and of those together that one ``[[rule]]`` is written out for; also how many tables."""

_MOST_CHOICES = 64
"""How many alternatives a list may give."""

_ON_NAMES = ("exists", "missing")
"""Conditions that are patterns."""

_FIELD = re.compile(r"\{(\w++)(?::(\w++))?\}")

_TEXT = re.compile(r"(?:[^{}|*?.\0]++(?:\.[^{}|*?.\0]++)*+)?")
"""A literal text in a pattern: names with dots between them, or nothing."""


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        texts: What replaces the table's name in sources, and in targets.
        sizes: Name -> the size that the rules of this row get.
        when: Conditions of the rules of this row, as a file has them.
    """

    texts: tuple[str, str]
    sizes: Mapping[str, Any]
    when: Mapping[str, Any] = default(default_factory=dict)


@dataclass(frozen=True)
class NameTable:
    """A table of names; a list has the same text on both sides of every row."""

    rows: tuple[Row, ...]
    is_list: bool

    @property
    def is_written_out(self) -> bool:
        """Whether its rows differ in more than texts, so that one side is enough."""
        return any(row.sizes or row.when for row in self.rows)


@dataclass(frozen=True)
class TableUse:
    """How one rule of a file uses tables.

    Args:
        table: Its keys and values, in which tables that only one side uses are alternatives.
        tables: Name -> the table whose rows the rule is written out for.
        used: The names of all tables that it uses.
    """

    table: Mapping[str, Any]
    tables: Mapping[str, NameTable]
    used: frozenset[str]

    @property
    def count(self) -> int:
        """How many rules are written out."""
        return math.prod(len(table.rows) for table in self.tables.values())

    def rows(self) -> Iterator[dict[str, Row]]:
        """Yield the rows of every rule, by the names of their tables."""
        for rows in itertools.product(*(table.rows for table in self.tables.values())):
            yield dict(zip(self.tables, rows, strict=True))

    def filled(self, rows: Mapping[str, Row]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the keys and values of the rule for some rows, and the sizes that these give.

        Raises:
            RuleError: A pattern has no text in these rows, or two of them give one size or condition.
        """
        sizes: dict[str, Any] = {}
        for name, row in rows.items():
            twice = next((size for size in row.sizes if size in sizes), None)
            if twice is not None:
                raise RuleError(f"two tables give the size {twice!r}.", hint=f"Remove it from tables.{name}.")
            sizes.update(row.sizes)

        def fill(pattern: str, side: int) -> str:
            return _filled(pattern, {name: row.texts[side] for name, row in rows.items()})

        conditions = [row.when for row in rows.values() if row.when]
        table = (
            {**self.table, "when": _joined(self.table.get("when"), conditions)} if conditions else self.table
        )
        return changed_patterns(table, fill) if rows else dict(table), sizes


def _joined(when: Any, others: Sequence[Mapping[str, Any]]) -> Any:
    """Return the conditions of a rule and of its rows as one; what is not a table is refused later."""
    if not isinstance(when, dict | None):
        return when
    joined = dict(when or {})
    for name, value in itertools.chain.from_iterable(other.items() for other in others):
        if name not in joined:
            joined[name] = value
        elif name in _ON_NAMES:
            joined[name] = [*_as_list(joined[name]), *_as_list(value)]
        elif name == "target" and isinstance(value, dict):
            joined[name] = _joined(joined[name], [value])
        else:
            raise RuleError(
                f"when.{name} is in the rule and in a row of its tables.", hint="Remove one of them."
            )
    return joined


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def label_of(rows: Mapping[str, Row]) -> str:
    """Return what distinguishes a rule from the others of its ``[[rule]]``: ``x = q_proj``."""
    return ", ".join(f"{name} = {row.texts[0] or repr('')}" for name, row in rows.items())


def parse_tables(tables: object) -> dict[str, NameTable]:
    """Read the tables of a file, or of a rule.

    Raises:
        RuleError: A table is not one, or two of its rows have one text; the message begins with its name.
    """
    if not isinstance(tables, dict):
        raise RuleError(f"tables: expected tables such as x = {{ q = 'query' }}, got {shown(tables)}.")
    if len(tables) > _MOST_ROWS:
        raise RuleError(f"tables: expected at most {_MOST_ROWS}, got {len(tables)}.")
    parsed = {}
    for name, table in tables.items():
        try:
            if not NAME.fullmatch(name):
                raise RuleError("expected a name of letters, digits and _.")
            parsed[name] = _parse_table(table)
        except RuleError as err:
            raise RuleError(f"tables.{shown(name).strip(chr(39))}: {err.message}", hint=err.hint) from err
    return parsed


def _parse_table(table: object) -> NameTable:
    if not isinstance(table, dict | list) or not table:
        raise RuleError(
            f"expected a table of names, got {shown(table)}.",
            hint='Write { q_proj = "query" }, or a list of names such as ["weight", "bias"].',
        )
    if len(table) > _MOST_ROWS:
        raise RuleError(f"expected at most {_MOST_ROWS} rows, got {len(table)}.")
    pairs = table.items() if isinstance(table, dict) else ((text, text) for text in table)
    rows = tuple(_row(source, target) for source, target in pairs)
    for side, what in enumerate(("source", "target")):
        seen: dict[str, int] = {}
        for number, row in enumerate(rows):
            first = seen.setdefault(row.texts[side], number)
            if first != number:
                both = " and ".join(
                    f"{rows[n].texts[0]!r} = {rows[n].texts[1]!r} (row {n + 1})" for n in (first, number)
                )
                raise RuleError(
                    f"the rows {both} have one {what} text: expected a table that is one to one.",
                    hint="Change one of the two, or write it in a table or a rule of its own.",
                )
    return NameTable(rows, isinstance(table, list))


def _row(source: object, target: object) -> Row:
    sizes: dict[str, Any] = {}
    when: dict[str, Any] = {}
    if isinstance(target, dict):
        sizes = {name: size for name, size in target.items() if name != "name"}
        if isinstance(sizes.get("when"), dict):
            when = sizes.pop("when")
        target = target.get("name", source)
    try:
        return Row((name_text(source), name_text(target)), parse_sizes(sizes), when)
    except RuleError as err:
        raise RuleError(f"row {shown(source)}: {err.message}", hint=err.hint) from err


def name_text(text: object) -> str:
    """Return a text that is literal in patterns: parts with dots between them, or nothing.

    Raises:
        RuleError: It is not one.
    """
    if not isinstance(text, str) or not _TEXT.fullmatch(text):
        raise RuleError(
            f"expected a name, names with dots between them, or an empty text, got {shown(text)}.",
            hint="Write captures, wildcards and alternatives in the rules' patterns.",
        )
    return text


def alternatives(texts: Sequence[str]) -> str:
    """Return the pattern that is one of some texts.

    Raises:
        RuleError: There are too many.
    """
    if len(texts) > _MOST_CHOICES:
        raise RuleError(f"expected at most {_MOST_CHOICES} alternatives, got {len(texts)}.")
    return texts[0] if len(texts) == 1 else f"{{{'|'.join(texts)}}}"


def uses_of(table: Mapping[str, Any], tables: Mapping[str, NameTable]) -> TableUse:
    """Return which tables the patterns of a rule use.

    A rule with one side only uses the texts of that side. In others a list that one side uses is read there
    as alternatives; a table whose rows have sizes or conditions is written out.

    Raises:
        RuleError: A table of names is used on one side only, a field has a type, or there are too many rows.
    """
    sides: dict[str, set[int]] = {}
    for pattern, side in _patterns(table):
        for field in _FIELD.finditer(pattern):
            if field[1] not in tables:
                continue
            if field[2]:
                raise RuleError(
                    f"'{pattern}': {field[0]} has a type, but {field[1]} is the name of a table.",
                    hint=f"Write {{{field[1]}}}, or give the table another name.",
                )
            sides.setdefault(field[1], set()).add(side)
    two_sided = "source" in table and not table.keys().isdisjoint(("target", "rename"))
    choices = {}
    for name in sorted(sides):
        if two_sided and len(sides[name]) == 1 and not tables[name].is_written_out:
            if not tables[name].is_list:
                raise RuleError(
                    f"only {'targets' if 1 in sides[name] else 'sources'} use the table {name!r}: expected "
                    f"{{{name}}} on both sides.",
                    hint=f"Write {{{name}}} in the patterns of the other side too, make it a list, or give "
                    "its rows sizes for where, such as { local = { odd = 0 }, global = { odd = 1 } }.",
                )
            choices[name] = alternatives([row.texts[0] for row in tables[name].rows])
    rows = {name: known for name, known in tables.items() if name in sides and name not in choices}
    if choices:
        table = changed_patterns(table, lambda pattern, _side: _filled(pattern, choices))
    use = TableUse(table, rows, frozenset(sides))
    if use.count > _MOST_ROWS:
        raise RuleError(
            f"the tables {', '.join(rows)} have {use.count} rows together: expected at most {_MOST_ROWS}.",
            hint="Write a [[rule]] for each row of one of them.",
        )
    return use


def fields_of(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names in braces in a rule's patterns."""
    for pattern, _ in _patterns(table):
        yield from (field[1] for field in _FIELD.finditer(pattern))


def changed_patterns(rule: Mapping[str, Any], change: Callable[[str, int], str]) -> dict[str, Any]:
    """Return the keys and values of a rule with other patterns.

    ``change`` takes a pattern, and 0 if it is about the source or 1 if it is about the target. Values of
    wrong types stay unchanged.
    """

    def changed(value: Any, side: int) -> Any:
        if isinstance(value, list):
            return [change(item, side) if isinstance(item, str) else item for item in value]
        return change(value, side) if isinstance(value, str) else value

    sides = {"source": 0, "target": 1, "rename": 1}
    table = {key: changed(value, sides[key]) if key in sides else value for key, value in rule.items()}
    when = table.get("when")
    if isinstance(when, dict):
        table["when"] = {k: changed(v, 0) if k in _ON_NAMES else v for k, v in when.items()}
        if isinstance(others := when.get("target"), dict):
            table["when"]["target"] = {k: changed(v, 1) if k in _ON_NAMES else v for k, v in others.items()}
    return table


def _patterns(table: Mapping[str, Any]) -> list[tuple[str, int]]:
    patterns: list[tuple[str, int]] = []
    changed_patterns(table, lambda pattern, side: patterns.append((pattern, side)) or pattern)  # type: ignore[func-returns-value]
    return patterns


def _filled(pattern: str, texts: Mapping[str, str]) -> str:
    """Return a pattern with the names of tables replaced; a part that becomes empty is left out."""

    def text_of(field: re.Match[str]) -> str:
        return texts.get(field[1], field[0])

    parts: list[tuple[str, str]] = []
    separator = ""
    for number, piece in enumerate(re.split(r"([./])", pattern.removesuffix("?"))):
        if number % 2:
            separator = piece
            continue
        text = _FIELD.sub(text_of, piece)
        if text or not piece:
            parts.append((separator if parts else "", text))
    if not parts:
        raise RuleError(f"the pattern '{pattern}' is empty in this row: expected a name.")
    return "".join(itertools.chain.from_iterable(parts)) + "?" * pattern.endswith("?")
