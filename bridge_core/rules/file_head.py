"""What the top of a rule file states for all its rules: layouts, tables, sizes, prefixes and suffixes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core.axes import Expression, parse_sizes
from bridge_core.errors import RuleError, UsageError
from bridge_core.io import TomlText
from bridge_core.messages import nearest, shown
from bridge_core.rules.options import Layouts
from bridge_core.rules.tables import (
    NameTable,
    alternatives,
    changed_patterns,
    fields_of,
    name_text,
    parse_tables,
)

__all__ = ["Affixes", "FileHead", "HEAD_KEYS", "read_head", "size_names", "with_sizes"]

HEAD_KEYS = ("source", "target", "recipe", "tables", "sizes", "prefix", "suffix", "rule")

_NEUTRAL = "neutral"

_NAME = re.compile(r"(?<![\w.])[A-Za-z_][\w.]*")

_MOST_SIZES = 256


@dataclass(frozen=True)
class Affixes:
    """What is put before and after the patterns of each side, as patterns.

    Args:
        before: The prefix of sources, and of targets; empty for none.
        after: The suffix of sources, and of targets.
    """

    before: tuple[str, str] = ("", "")
    after: tuple[str, str] = ("", "")

    def around(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys and values of a rule with longer patterns; paths of layers have no suffix."""
        of_layer = "layer" in table or "kind" in table
        return changed_patterns(table, lambda pattern, side: self._around(pattern, side, not of_layer))

    @property
    def rename(self) -> dict[str, Any] | None:
        """The rule, as a table, for names that no rule of the file matches; None without affixes."""
        texts = [self._around("**", side) for side in (0, 1)]
        if texts[0] == texts[1]:
            return None
        return {"source": texts[0], "rename": texts[1], "fallback": True, "optional": True}

    def _around(self, pattern: str, side: int, with_suffix: bool = True) -> str:
        inner = pattern.removesuffix("?")
        parts = [self.before[side], inner, self.after[side] if with_suffix else ""]
        separator = "/" if "/" in inner and "." not in inner else "."
        return separator.join(part for part in parts if part) + pattern[len(inner) :] if inner else pattern


def size_names(table: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Return the names in a rule that may have sizes: the axes of its equation, and the names that it needs.

    These are in calls, conditions, ``where`` and sizes, or axes of one side that are not captures.
    """
    axes: set[str] = set()
    needed: set[str] = set()
    for text in _texts(table.get("rearrange", table.get("ops"))):
        if "->" in text:
            left, right = map(_names_in, text.split("->", 1))
            axes |= left | right
            needed |= (left ^ right).difference(fields_of(table))
        elif not text.lstrip().startswith("cast"):
            needed |= _names_in(text.partition("(")[2]) - {"rounding", "discard"}
    when, own = table.get("when"), table.get("sizes")
    groups = [table.get("where"), *(own.values() if isinstance(own, dict) else ())]
    groups.append(when.get("sizes") if isinstance(when, dict) else None)
    return axes, needed.union(*(_names_in(_texts(group)) for group in groups))


def _names_in(texts: str | Iterable[str]) -> set[str]:
    """Return all names in texts of expressions, before it is known which of them are sizes."""
    plain = (re.sub(r"'[^']*'", "", text) for text in ([texts] if isinstance(texts, str) else texts))
    return {name for text in plain for name in _NAME.findall(text)} - {"counts"}


def with_sizes(
    table: Mapping[str, Any], names: tuple[set[str], set[str]], stated: Mapping[str, Expression]
) -> tuple[dict[str, Any], set[str]]:
    """Return the keys and values of a rule with the sizes that it uses, and the names of these.

    Args:
        table: The rule, whose own sizes stay.
        names: Its axes, and the names that it needs; an axis gets no size that has no value.
        stated: What is known of names.
    """
    sizes, used = table.get("sizes", {}), set[str]()
    if not isinstance(sizes, dict):  # refused when the rule is read
        return dict(table), used
    sizes = dict(sizes)
    left = [*((name, True) for name in sorted(names[1])), *((name, False) for name in sorted(names[0]))]
    for name, is_needed in left:
        if name not in stated:
            continue
        used.add(name)
        if name not in sizes and (is_needed or not stated[name].is_unset):
            sizes[name] = stated[name]
            left += ((other, True) for other in sorted(stated[name].names))
    return ({**table, "sizes": sizes} if sizes else dict(table)), used


@dataclass(frozen=True)
class FileHead:
    """The top of a rule file.

    Args:
        layouts: The layouts of the rules' sources and targets; None if the file names none.
        tables: Name -> table of names.
        sizes: Name -> its size.
        affixes: What is put around patterns.
    """

    layouts: Layouts = None
    tables: Mapping[str, NameTable] = field(default_factory=dict)
    sizes: Mapping[str, Expression] = field(default_factory=dict)
    affixes: Affixes = Affixes()


def read_head(toml: TomlText, sizes: Mapping[str, Any], rule_keys: Iterable[str]) -> FileHead:
    """Read what is not a rule.

    ``sizes`` are in place of the file's; ``rule_keys`` are the keys of rules, for messages.

    Raises:
        RuleError: A key is unknown, or a value is wrong.
        UsageError: The file states no size of such a name, or the value is not a size.
    """
    document = toml.document
    for key in document:
        if key not in HEAD_KEYS:
            hint = nearest(key, HEAD_KEYS)
            if key in rule_keys:
                hint = "Write it below a line [[rule]]."
            raise toml.error(f"unknown key {shown(key)} at the top of the file.", key, hint=hint)
    return FileHead(
        _layouts(toml),
        _of_section(toml, "tables", lambda: parse_tables(document.get("tables", {}))),
        _sizes(toml, sizes),
        Affixes(*(_affix(toml, name) for name in ("prefix", "suffix"))),
    )


def _of_section(toml: TomlText, section: str, read: Any) -> Any:
    """Return what a function reads; its error begins with dotted names, and gets their line."""
    try:
        return read()
    except RuleError as err:
        keys = err.message.partition(":")[0].split(".")
        raise toml.error(err.message, section, *keys[1:2], hint=err.hint) from err


def _layouts(toml: TomlText) -> Layouts:
    document = toml.document
    for key in ("source", "target"):
        if key in document and not (isinstance(document[key], str) and document[key]):
            value = document[key]
            got = str(value).lower() if isinstance(value, bool) else shown(value)
            hint = None
            if isinstance(value, dict | list):
                hint = (
                    f"Write the patterns of a rule below a line [[rule]], and affixes as [prefix] {key} = ..."
                )
            raise toml.error(
                f"{key}: expected the name of a framework, such as 'torch', got {got}.", key, hint=hint
            )
    source, target = document.get("source"), document.get("target")
    if source is None and target is None:
        return None
    if source is None:
        raise toml.error(
            "the file has a target layout and no source layout.",
            "target",
            hint=f'Write a line such as source = "{"flax" if target == "torch" else "torch"}" above it.',
        )
    target = target or _NEUTRAL
    if source == target and "recipe" in document:
        return None  # the names of a checkpoint show which side it is
    if source == target:
        raise toml.error(
            f"expected two different layouts, got {source!r} for both sides: they decide in which direction "
            "the rules are read.",
            hint="Remove the lines source = ... and target = ... to read the rules from source to target.",
        )
    return source, target


def _sizes(toml: TomlText, given: Mapping[str, Any]) -> dict[str, Expression]:
    sizes = toml.document.get("sizes", {})
    if not isinstance(sizes, dict):
        raise toml.error(f"sizes: expected a table such as {{ heads = 8 }}, got {shown(sizes)}.", "sizes")
    if len(sizes) > _MOST_SIZES:
        raise toml.error(f"sizes: expected at most {_MOST_SIZES}, got {len(sizes)}.", "sizes")
    stated: dict[str, Expression] = _of_section(toml, "sizes", lambda: parse_sizes(sizes))
    if not isinstance(given, Mapping):
        raise UsageError(
            f"expected sizes= to be a dict of names and sizes, got {shown(given)}.",
            hint='Pass sizes={"heads": 8} (--set heads=8).',
        )
    for name in given:
        if name not in stated:
            hint = f"Write {name} = '?' below a line [sizes] in {toml.name}, or do not set it."
            raise UsageError(
                f"{shown(name)} cannot be set: [sizes] in {toml.name} does not state it.",
                hint=nearest(name, stated, listing="Stated are") if stated else hint,
            )
    try:
        return {**stated, **parse_sizes({name: _listed(value) for name, value in given.items()})}
    except RuleError as err:
        raise UsageError(err.message, hint=err.hint or 'Pass sizes={"heads": 8} (--set heads=8).') from err


def _listed(value: object) -> object:
    """Return the list that a text such as ``3,4,6,3`` is; else the value."""
    items = value.split(",") if isinstance(value, str) else []
    return f"[{value}]" if len(items) > 1 and all(item.strip().isdecimal() for item in items) else value


def _affix(toml: TomlText, name: str) -> tuple[str, str]:
    """Return the texts that ``[prefix]``, or ``[suffix]``, puts around sources and targets."""
    known = ("source", "target")
    affix = toml.document.get(name, {})
    if not isinstance(affix, dict):
        example = f'{{ source = ["{"model" if name == "prefix" else "value"}", ""] }}'
        raise toml.error(f"{name}: expected a table such as {example}, got {shown(affix)}.", name)
    for key in affix:
        if key not in known:
            raise toml.error(f"{name}: unknown key {shown(key)}.", name, key, hint=nearest(key, known))
    patterns = {key: "" for key in known}
    for key, value in affix.items():
        texts = value if isinstance(value, list) else [value]
        try:
            if not texts or len(set(map(name_text, texts))) != len(texts):
                raise RuleError(f"expected a text, or a list of different texts, got {shown(value)}.")
            patterns[key] = alternatives(texts)
        except RuleError as err:
            raise toml.error(f"{name}.{key}: {err.message}", name, key, hint=err.hint) from err
    return patterns["source"], patterns["target"]


def _texts(value: object) -> Iterator[str]:
    for item in value if isinstance(value, list) else (value,):
        if isinstance(item, str):
            yield item
