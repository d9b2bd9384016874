"""Rules as a neutral state records them: as JSON with the keys of a rule file, written and read."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from bridge_core.axes import Pairs
from bridge_core.errors import RuleError
from bridge_core.rules.conditions import When
from bridge_core.rules.patterns import Pattern
from bridge_core.rules.rule import Rule
from bridge_core.rules.toml_file import read_table
from bridge_core.state import Key, RecordedRule

__all__ = [
    "RuleIdentity",
    "identity_of_record",
    "identity_of_rule",
    "read_recorded",
    "recorded",
    "recorded_pairs",
]

_PAIRS = "counted"
"""The key of a record for the numbers of counts, which are known from the names of the source."""

RuleIdentity = tuple[str, tuple[str, str] | None]
"""The text of a rule, and its layouts if it has some."""


def recorded(rule: Rule, layout: str, pending: tuple[Key, ...] = ()) -> RecordedRule:
    """Return what a neutral state records of a rule.

    Args:
        rule: The rule, in the direction of the conversion.
        layout: The layout of the conversion's source.
        pending: The neutral keys that the rule still has to rearrange.
    """
    layouts = rule.layouts or (layout, "")
    text = _text_of(rule)
    if rule.where.pairs:
        text = json.dumps({**json.loads(text), _PAIRS: dict(rule.where.pairs)}, sort_keys=True)
    return RecordedRule(text, layouts, rule.label, pending)


def identity_of_rule(rule: Rule) -> RuleIdentity:
    """Return what a rule, in the direction of a conversion, has in common with its record."""
    return _text_of(rule), rule.layouts


def identity_of_record(record: RecordedRule) -> RuleIdentity:
    """Return what a record has in common with its rule."""
    text = record.text
    if f'"{_PAIRS}"' in text:
        table = json.loads(text)
        text = json.dumps({key: table[key] for key in table if key != _PAIRS}, sort_keys=True)
    return text, record.layouts if record.layouts[1] else None


def recorded_pairs(records: Iterable[RecordedRule]) -> dict[str, Pairs]:
    """Return the numbers of counts that records hold, by the text of the count.

    What is not a sorted list of lists of as many whole numbers as the count has names is left out.
    """
    known: dict[str, Pairs] = {}
    for record in records:
        entry = json.loads(record.text).get(_PAIRS) if f'"{_PAIRS}"' in record.text else None
        for text, rows in entry.items() if isinstance(entry, dict) else ():
            is_list = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
            pairs = tuple(map(tuple, rows)) if is_list else ()
            numbers = all(type(number) is int and number >= 0 for row in pairs for number in row)
            width = text.count(",") + 1
            if numbers and all(len(row) == width for row in pairs) and sorted(set(pairs)) == list(pairs):
                known[text] = pairs
    return known


def read_recorded(record: RecordedRule) -> Rule | None:
    """Return the rule; None if this version of ckptbridge cannot read its text."""
    table = json.loads(record.text)
    layouts = record.layouts if record.layouts[1] else None
    origin = record.label if record.label.rpartition(":")[2].isdecimal() else ""
    try:
        return _read(table, layouts, origin)
    except RuleError:
        return None


def _text_of(rule: Rule) -> str:
    plain = rule.as_written
    # Equal rules may still write their numbers in other ways, such as 1, 1.0 and true.
    return _plain_text(plain, (*plain.ops, *map(str, plain.sizes.values()), repr((plain.value, plain.when))))


@functools.lru_cache(maxsize=8192)  # a plan asks for every rule several times
def _plain_text(plain: Rule, _written: tuple[str, ...]) -> str:
    for is_reversed in (False, True):
        table = _table(plain.reversed() if is_reversed else plain)
        if is_reversed:
            table["reversed"] = True
        try:
            read = _read(table, None, "")
            # NaN is not equal to itself, so that values are compared by their text.
            zero = None if plain.value is None else 0
            if repr(read.value) == repr(plain.value) and replace(read, value=zero) == replace(
                plain, value=zero
            ):
                break
        except RuleError:
            continue
    else:
        # A rule file cannot hold every rule: not one for a name with a dot, for example.
        table = {"described": str(plain), "ops": list(plain.ops)}
    return json.dumps(table, sort_keys=True)


def _read(table: dict[str, Any], layouts: tuple[str, str] | None, origin: str) -> Rule:
    words = {name: value for name, value in table.items() if name not in ("reversed", "fallback", _PAIRS)}
    if isinstance(words.get("fill"), str):
        try:
            words["fill"] = float(words["fill"])
        except ValueError as err:
            raise RuleError(f"fill: expected a number, got {words['fill']!r}.") from err
    is_reversed = table.get("reversed") is True
    rule = read_table(words, layouts[::-1] if is_reversed and layouts is not None else layouts, origin)
    rule = replace(rule, fallback=table.get("fallback") is True)
    return rule.reversed() if is_reversed else rule


def _table(rule: Rule) -> dict[str, Any]:
    """Return a rule as the table of a rule file; what such a table cannot hold is left out."""
    sources, targets = (_patterns(side) for side in (rule.sources, rule.targets))
    table: dict[str, Any] = {"source": sources} if sources else {}
    match rule.action:
        case "rename":
            table["rename"] = targets
        case "layer":
            table["layer"] = rule.kind
        case "drop":
            table["drop"] = rule.reason
        case "fill":
            table.update(target=targets, reason=rule.reason)
        case _:
            table["target"] = targets
            table.update({"rearrange": list(rule.ops)} if rule.ops else {})
    if rule.value is not None:
        # JSON has neither infinities nor NaN.
        infinite = isinstance(rule.value, float) and not math.isfinite(rule.value)
        table["fill"] = repr(float(rule.value)) if infinite else rule.value
    table.update({"sizes": {n: _size(str(s)) for n, s in rule.sizes.items()}} if rule.sizes else {})
    table.update({"where": _joined(rule.where.texts)} if rule.where else {})
    table.update({"when": _conditions(rule.when)} if rule.when else {})
    table.update({"optional": True} if rule.optional else {})
    table.update({"stage": rule.stage} if rule.stage else {})
    return {**table, "fallback": True} if rule.fallback else table


def _patterns(patterns: tuple[Pattern, ...]) -> str | list[str]:
    return _joined([str(pattern) for pattern in patterns])


def _joined(texts: Sequence[str]) -> str | list[str]:
    texts = list(texts)
    return texts[0] if len(texts) == 1 else texts


def _size(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _conditions(when: When) -> dict[str, Any]:
    conditions: dict[str, Any] = {} if when.rank is None else {"rank": when.rank}
    conditions.update({"sizes": dict(when.sizes)} if when.sizes else {})
    conditions.update({"sizes": list(map(str, when.comparisons))} if when.comparisons else {})
    conditions.update({"exists": list(map(str, when.exists))} if when.exists else {})
    conditions.update({"missing": list(map(str, when.missing))} if when.missing else {})
    others = {"exists": when.others_exist, "missing": when.others_missing}
    named = {name: list(map(str, patterns)) for name, patterns in others.items() if patterns}
    conditions.update({"target": named} if named else {})
    # Dotted names are the same conditions as nested tables.
    return {**conditions, "config": dict(when.config)} if when.config else conditions
