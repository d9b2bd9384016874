"""Rule files: what each ``[[rule]]`` states, one rule or one for each combination of rows of its tables.

A file is checked completely when it is loaded: all wrong rules are reported at once, with their lines.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import LimitExceeded, RuleError, UsageError
from bridge_core.io import TomlText, parse_toml, read_toml_text, scheme_of, shown_url
from bridge_core.messages import nearest, shown
from bridge_core.rules.file_head import FileHead, read_head, size_names, with_sizes
from bridge_core.rules.overlaps import overlapping
from bridge_core.rules.rule import Rule
from bridge_core.rules.tables import TableUse, fields_of, label_of, parse_tables, uses_of
from bridge_core.rules.toml_file import RULE_KEYS, read_table, takes_sizes

__all__ = ["load_rules", "read_rule_file", "RuleGroup", "rules_of_text", "StrPath"]

StrPath = str | os.PathLike[str]

_MOST_RULES = 4096
"""In one file, after its tables are written out."""

_MOST_STAGES = 32

_MOST_PATTERNS = 16_384

_MOST_PROBLEMS = 20
"""How many wrong rules an error lists."""

_LONGEST_PROBLEM = 2000
"""Characters; a pattern may have many more."""


@dataclass(frozen=True)
class RuleGroup:
    """What one ``[[rule]]`` of a file states.

    Args:
        origin: Its file and line, which all its rules share.
        rules: Its rules, one for each combination of rows.
        use: Its keys and values, with the names of tables, and these tables.
    """

    origin: str
    rules: tuple[Rule, ...]
    use: TableUse

    @property
    def rows(self) -> dict[str, int]:
        """The name of each table that it is written out for -> how many rows that has."""
        return {name: len(table.rows) for name, table in self.use.tables.items()}

    def patterns(self, *keys: str) -> tuple[str, ...]:
        """Return the patterns below some keys, with the names of tables."""
        values = (self.use.table[key] for key in keys if key in self.use.table)
        return tuple(p for value in values for p in ([value] if isinstance(value, str) else value))


def load_rules(path: StrPath, *, sizes: Mapping[str, Any] | None = None) -> tuple[Rule, ...]:
    """Load and check a rule file.

    Args:
        path: A TOML file of ``[[rule]]`` tables. ``source`` and ``target`` at its top name the layouts of
            the rules' sources and targets; with only ``source`` the targets are neutral. ``[tables]``,
            ``[sizes]``, ``[prefix]`` and ``[suffix]`` are for all its rules.
        sizes: Name in ``[sizes]`` -> its value in place of the file's: a whole number, a list of them
            (also as ``"3,4"``), or an expression such as ``"config.n_head"``.

    Raises:
        RuleError: The file is not TOML, or rules are wrong; the message has one line for each wrong rule,
            with file and line.
        LimitExceeded: The file has more than 1 MB, a line more than 100,000 characters, a key more than 64
            dots, or more than 4096 rules, those that tables give included.
        SourceNotFound: The file does not exist.
        MalformedFile: The path is a folder or a device.
        SystemFailure: The file cannot be read.
        UsageError: The value is not a path, or is empty; or the file does not state a size of this name.
    """
    return tuple(rule for group in read_rule_file(path, sizes=sizes) for rule in group.rules)


def read_rule_file(path: StrPath, *, sizes: Mapping[str, Any] | None = None) -> tuple[RuleGroup, ...]:
    """Load a rule file as `load_rules`; return its ``[[rule]]`` tables, the affixes last.

    Args:
        path: The file.
        sizes: Name in ``[sizes]`` -> its value in place of the file's.

    Raises:
        RuleError: As `load_rules`; so are the others.
        UsageError: The value is not a path, or is empty; or the file does not state a size of this name.
    """
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"expected the path of a rule file, got {shown(path)}.")
    if not os.fspath(path):
        raise UsageError(
            "the path of the rule file is empty.", hint='Pass rules="rules.toml" (--rules), or no rules.'
        )
    name = os.fspath(path)
    if scheme_of(name) and not os.path.lexists(name):
        raise UsageError(
            "expected the path of a rule file on this machine, got a URL.",
            path=shown_url(name),
            hint="Download the rule file first, and pass its path as rules= (--rules).",
        )
    text = read_toml_text(name)
    given = {} if sizes is None else sizes
    # 1, 1.0 and True are equal, but do not mean the same.
    if isinstance(given, Mapping) and all(type(value) in (int, str) for value in given.values()):
        return _groups_of_text(text, name, tuple(given.items()))
    return _groups_of(parse_toml(text, name), given)


def rules_of_text(text: str, name: str) -> tuple[Rule, ...]:
    """Return the rules of a text, as `load_rules` returns those of a file.

    Args:
        text: TOML, its lines ended by line feeds.
        name: What errors call the file.

    Raises:
        RuleError: The text is not TOML, or rules are wrong.
        LimitExceeded: As `load_rules`.
    """
    return tuple(rule for group in _groups_of(parse_toml(text, name), None) for rule in group.rules)


@functools.lru_cache(maxsize=16)  # many checkpoints are converted with one file
def _groups_of_text(text: str, name: str, sizes: tuple[tuple[str, Any], ...]) -> tuple[RuleGroup, ...]:
    return _groups_of(parse_toml(text, name), dict(sizes))


def _groups_of(toml: TomlText, sizes: Mapping[str, Any] | None) -> tuple[RuleGroup, ...]:
    head = read_head(toml, {} if sizes is None else sizes, RULE_KEYS)
    tables = toml.document.get("rule", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise toml.error(
            "expected each rule below a line [[rule]], got another value of 'rule'.",
            "rule",
            hint="Write [[rule]], with two brackets.",
        )
    if not tables:
        raise toml.error(
            "the rule file has no rules.",
            hint='Write each rule below a line [[rule]], such as source = "old.*" and rename = "new.*".',
        )
    if len(toml.rule_lines) != len(tables):
        raise toml.error(
            "the rules are not tables of their own, so that their lines are not known.",
            hint="Write each rule below a line [[rule]].",
        )
    _check_count(toml, len(tables))
    problems: dict[int, str] = {}
    uses: dict[int, TableUse] = {}
    for line, table in zip(toml.rule_lines, tables, strict=True):
        try:
            uses[line] = _use_of(table, head)
        except RuleError as err:
            problems[line] = _sentence(err)
    _check_count(toml, sum(use.count for use in uses.values()))
    groups = []
    options = 0
    used: set[tuple[int, str]] = set()
    for line, use in uses.items():
        names = size_names(use.table) if takes_sizes(use.table) else (set[str](), set[str]())
        rules = []
        for rows in use.rows():
            try:
                table, sizes = use.filled(rows)
                table, used_sizes = with_sizes(table, names, {**head.sizes, **sizes})
                rules.append(read_table(table, head.layouts, f"{toml.name}:{line}"))
                options += sum(len(p.options) for p in (*rules[-1].sources, *rules[-1].targets))
                _check_count(toml, options, _MOST_PATTERNS, "patterns")
            except RuleError as err:
                row = label_of(rows)
                problems[line] = f"{row}: {_sentence(err)}" if row else _sentence(err)
                break
            used.update((id(head.sizes), size) for size in used_sizes)
            used.update(
                (id(use.tables[n]), size) for n, row in rows.items() for size in used_sizes & row.sizes.keys()
            )
        else:
            groups.append(RuleGroup(rules[0].origin, tuple(rules), use))
    _check_count(toml, len({rule.stage for group in groups for rule in group.rules}), _MOST_STAGES, "stages")
    problems = {**_overlaps(rule for group in groups for rule in group.rules), **problems}
    if problems:
        raise RuleError(_listed(toml.name, problems), path=toml.name)
    _check_used(toml, head, uses.values(), used)
    rename = None if "recipe" in toml.document else head.affixes.rename  # a recipe states every name
    if rename is not None:
        line = toml.line_of("prefix") or toml.line_of("suffix")
        rule = read_table(rename, head.layouts, f"{toml.name}:{line}")
        groups.append(RuleGroup(rule.origin, (rule,), TableUse(rename, {}, frozenset())))
    return tuple(groups)


def _use_of(table: Mapping[str, Any], head: FileHead) -> TableUse:
    own = parse_tables(table.get("tables", {}))
    plain = {key: value for key, value in table.items() if key != "tables"}
    use = uses_of(head.affixes.around(plain), {**head.tables, **own})
    for name in own:
        if name not in use.used:
            raise RuleError(
                f"tables.{name}: the rule does not use this table.", hint=_likely(name, fields_of(table))
            )
    return use


def _check_used(
    toml: TomlText, head: FileHead, uses: Iterable[TableUse], used: Collection[tuple[int, str]]
) -> None:
    """Refuse what no rule uses: it is most likely misspelt."""
    known = list(uses)
    in_rules = {id(table): ("rule", name, table) for use in known for name, table in use.tables.items()}
    in_use = frozenset[str]().union(*(use.used for use in known))
    hint = "Remove it, or name it as an axis or in an expression."
    for name in head.tables:
        if name not in in_use:
            fields = (field for use in known for field in fields_of(use.table))
            raise toml.error(
                f"tables.{name}: no rule uses this table.", "tables", name, hint=_likely(name, fields)
            )
    for section, name, table in in_rules.values():
        for size in (size for row in table.rows for size in row.sizes):
            if (id(table), size) not in used:
                place = ("tables", name) if head.tables.get(name) is table else (section, name)
                raise toml.error(f"tables.{name}: no rule uses the size {size!r}.", *place, hint=hint)
    for size in head.sizes:
        if (id(head.sizes), size) not in used:
            raise toml.error(f"sizes.{size}: no rule uses this size.", "sizes", size, hint=hint)


def _sentence(err: RuleError) -> str:
    return f"{err.message} {err.hint}" if err.hint else err.message


def _listed(name: str, problems: Mapping[int, str]) -> str:
    what = "1 rule is wrong" if len(problems) == 1 else f"{len(problems)} rules are wrong"
    texts = [
        f"\n  {name}:{line}: {text[:_LONGEST_PROBLEM]}{'...' * (len(text) > _LONGEST_PROBLEM)}"
        for line, text in sorted(problems.items())[:_MOST_PROBLEMS]
    ]
    if len(problems) > _MOST_PROBLEMS:
        texts.append(f"\n  and {len(problems) - _MOST_PROBLEMS} more")
    return f"{what}:{''.join(texts)}"


def _check_count(toml: TomlText, number: int, most: int = _MOST_RULES, what: str = "rules") -> None:
    if number > most:
        raise LimitExceeded(
            f"the file has too many {what}: expected at most {most}, those that tables and alternatives give "
            f"included, got {number}.",
            path=toml.name,
            hint="Write one rule with captures, such as {i:int}, for many names, or split the file.",
        )


def _likely(table: str, fields: Iterable[str]) -> str:
    likely = nearest(table, sorted(fields))
    return likely if likely.startswith("Did") else f"Write {{{table}}} in a pattern, or remove the table."


def _overlaps(rules: Iterable[Rule]) -> dict[int, str]:
    """Return the line of every rule that matches, or makes, keys of an earlier rule -> what is wrong."""
    known = list(rules)
    pairs = [(a, b, "match") for a, b in overlapping(known)]
    forward = {turned: rule for rule in known if (turned := _reversed_maker(rule)) is not None}
    pairs += [(forward[a], forward[b], "make") for a, b in overlapping(forward)]
    problems: dict[int, str] = {}
    for first, second, verb in pairs:
        if _line(second) not in problems:
            problems[_line(second)] = (
                f"{second} and {first} in line {_line(first)} {verb} the same key. Change one pattern so "
                "that no key is in both, or remove one rule."
            )
    return problems


def _reversed_maker(rule: Rule) -> Rule | None:
    """Return the rule in the other direction, if no other rule may make its targets.

    None for renames and optional rules: two of them may make one key from two.
    """
    return rule.reversed() if rule.action in ("rearrange", "fill") and not rule.optional else None


def _line(rule: Rule) -> int:
    return int(rule.origin.rpartition(":")[2])
