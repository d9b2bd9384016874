"""``ckptbridge rules``: checks a rule file, and whether its rules match the names of weights."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.commands.rules_explain import explain_rules
from bridge_core.cli.completion import a_file
from bridge_core.cli.options import examples, json_option, layout_option, sizes_option, takes_registry
from bridge_core.cli.terminal import aside, print_json, say
from bridge_core.errors import BridgeError, RuleError
from bridge_core.messages import count, for_command_line

if TYPE_CHECKING:
    from bridge_core.plan import Plan
    from bridge_core.plugins import Registry
    from bridge_core.rules import KeyIndex, Pattern, Rule, RuleGroup
    from bridge_core.state import FlatState, Key, TensorSpec

__all__ = ["rules"]


@click.group(
    epilog=examples(
        "ckptbridge rules check rules.toml",
        "ckptbridge rules check rules.toml --source model.safetensors --like flax_model.msgpack",
        "ckptbridge rules explain rules.toml model.safetensors",
    ),
)
def rules() -> None:
    """Check and explain rule files, which --rules reads."""


rules.add_command(explain_rules)


@rules.command(
    short_help="Check a rule file, and whether it matches weights.",
    epilog=examples(
        "ckptbridge rules check rules.toml",
        "ckptbridge rules check rules.toml --source model.safetensors",
        "ckptbridge rules check rules.toml --source model.safetensors --like flax_model.msgpack --json",
    ),
)
@click.argument("file", shell_complete=a_file)
@click.option(
    "--source",
    metavar="SRC",
    shell_complete=a_file,
    help="Weights to convert: every rule must match at least one of their names.",
)
@click.option(
    "--like",
    metavar="PATH",
    shell_complete=a_file,
    help="Weights of the target's model: every rule must give at least one of their names.",
)
@sizes_option
@layout_option
@json_option
@takes_registry
def check(
    file: str,
    sizes: tuple[tuple[str, str], ...],
    source: str | None,
    like: str | None,
    layout: str | None,
    as_json: bool,
    registry: Registry | None,
) -> None:
    """Check the rules of FILE and show what each does. No tensor is read.

    With --source the conversion is planned, and with --like to the names and shapes of the template: problems
    of the rules are refused, and other problems of the conversion are counted. A rule that is optional or has
    conditions may match no name.
    """
    from bridge_core.plugins import default_registry
    from bridge_core.rules import read_rule_file

    try:
        with aside():
            registry = default_registry() if registry is None else registry
            read = read_rule_file(file, sizes=dict(sizes))
            result = _checked(read, source, like, layout, registry)
        if as_json:
            print_json(_document(file, result))
        else:
            say(*_lines(result))
        _refuse_unmatched(file, result, source, like)
        _refuse_unfit(file, result.unfit)
        if result.refused is not None:
            raise result.refused
    except RuleError as err:
        summary, *problems = err.message.split("\n  ")
        if as_json or not problems:
            raise
        say(*map(for_command_line, problems))
        raise RuleError(f"{summary.rstrip(':')}.", path=err.path, hint=err.hint) from err


@dataclass(frozen=True)
class _MatchCounts:
    """A ``[[rule]]``, and how many names its patterns match together.

    Args:
        rules: Its rules, in the direction of the two files.
        rows: The name of each table that it is written out for -> how many rows that has.
        source_patterns: The patterns of its sources, with the names of tables.
        target_patterns: Those of its targets.
        sources: Pattern -> how many names it matches, in all rows together; None without names to match.
        targets: The same of targets.
    """

    rules: tuple[Rule, ...]
    rows: dict[str, int]
    source_patterns: tuple[str, ...]
    target_patterns: tuple[str, ...]
    sources: dict[str, int] | None = None
    targets: dict[str, int] | None = None

    @property
    def rule(self) -> Rule:
        """The first of its rules; those of other rows have other names and sizes."""
        return self.rules[0]

    @property
    def sizes(self) -> dict[str, str]:
        """The sizes of its rules as text; different ones of one name with ``|`` between them."""
        texts: dict[str, dict[str, None]] = {}
        for rule in self.rules:
            for name, size in rule.sizes.items():
                texts.setdefault(name, {})[str(size)] = None
        return {name: " | ".join(known) for name, known in texts.items()}

    def __str__(self) -> str:
        """Return the rule's patterns, with the names of tables, and its action."""
        text = str(self.rule)
        made = (*self.rule.sources, *self.rule.targets)
        for pattern, written in zip(made, (*self.source_patterns, *self.target_patterns), strict=True):
            text = text.replace(f"'{pattern}'", f"'{written}'", 1)
        return text


@dataclass(frozen=True)
class _Result:
    """The result of a check: matches of each rule, rules that do not fit, and what a conversion refuses.

    The names of both sides are there for messages, where a pattern matches none of them.
    """

    counts: list[_MatchCounts]
    unfit: list[RuleError]
    refused: BridgeError | None = None
    rest: str = ""
    names: tuple[Collection[Key], Collection[Key]] = ((), ())


def _checked(
    groups: tuple[RuleGroup, ...],
    source: str | None,
    like: str | None,
    layout: str | None,
    registry: Registry,
) -> _Result:
    """Return what the rules match in the direction of the two files, and what does not fit."""
    from contextlib import ExitStack

    from bridge_core.checkpoint import config_beside
    from bridge_core.conversion import plan_by_rules, state_of
    from bridge_core.errors import BridgeError
    from bridge_core.resolve import check_kind, rule_problems, without_collections
    from bridge_core.rules import KeyIndex, oriented

    read = tuple(rule for group in groups for rule in group.rules)
    with ExitStack() as stack:
        given = [
            None if path is None else stack.enter_context(state_of(path, registry, layout=known))
            for path, known in ((source, layout), (like, None))
        ]
        start, end = (state.layout or "neutral" if state is not None else "neutral" for state in given)
        directed = oriented(read, start, end, registry.frameworks)
        for rule in read:
            check_kind(rule, registry.kinds)
            if given[0] is None and rule.layouts is not None and rule.layouts[0] in registry.frameworks:
                kinds = (transform.kind for transform in registry.transforms_of[rule.layouts[0]])
                check_kind(rule, kinds, rule.layouts[0])
        turned = directed != read
        directed = without_collections(directed, given[0], given[1], registry, config_beside(*given))
        sources, targets = (None if state is None else _specs(state, registry) for state in given)
        before, after = (None if specs is None else set(specs) for specs in (sources, targets))
        paths = None if before is None else _paths(before, directed)
        if paths is not None and turned:
            paths |= _paths(after or set(), [rule.reversed() for rule in directed])
        unfit = []
        if sources is not None and targets is not None:
            unfit = rule_problems(directed, sources, targets, config_beside(*given))
        staged = before and any(rule.stage for rule in directed)
        seen = before | _new_names(before, directed) if before is not None and staged else before
        rest = iter(directed)
        names = [None if names is None else KeyIndex(names) for names in (before, seen, after, paths)]
        counts = [
            _count(group, tuple(itertools.islice(rest, len(group.rules))), turned, *names) for group in groups
        ]
        if given[0] is None or unfit or _unmatched(counts, source, like):
            return _Result(counts, unfit, names=(before or set(), after or set()))
        try:
            plan = plan_by_rules(read, given[0], given[1], directed=directed, registry=registry)
        except BridgeError as err:
            return _Result(counts, unfit, err)
        return _Result(counts, unfit, rest=_rest(plan) if plan is not None and like is not None else "")


def _rest(plan: Plan) -> str:
    """Return how many other problems of each kind the conversion has."""
    numbers = {
        "missing": plan.missing,
        "unexpected": plan.unexpected,
        "of another shape": plan.mismatched,
        "ambiguous": plan.ambiguous,
        "unsupported": plan.unsupported,
        "unclaimed": plan.unexplained,
    }
    return ", ".join(f"{len(keys)} {what}" for what, keys in numbers.items() if keys)


def _specs(state: FlatState, registry: Registry) -> dict[Key, TensorSpec]:
    """Return the names that patterns see, keys without a collection, with their specs."""
    from bridge_core.plugins import names_of

    framework = registry.frameworks.get(state.layout or "")
    if framework is None:
        return state.specs()
    return {name: state.spec(key) for key, name in names_of(state, framework).names(state).items()}


def _paths(names: set[Key], rules: Iterable[Rule]) -> set[Key]:
    """Return the paths of layers, by the names in the file and by the names that the rules give."""
    new_names = _new_names(names, rules)
    return {name[:depth] for name in names | new_names for depth in range(len(name))}


def _new_names(names: set[Key], rules: Iterable[Rule]) -> set[Key]:
    """Return the names that renames give, those that other renames see included."""
    from bridge_core.resolve import applied_renames

    renames = [rule for rule in rules if rule.action == "rename"]
    return {new for name in names for _, new in applied_renames(renames, name)} if renames else set()


def _count(
    group: RuleGroup,
    rules: tuple[Rule, ...],
    turned: bool,
    before: KeyIndex | None,
    seen: KeyIndex | None,
    after: KeyIndex | None,
    paths: KeyIndex | None,
) -> _MatchCounts:
    rule = rules[0]
    of_layer = rule.action == "layer"
    old, new = (tuple(map(str, side)) for side in (rule.sources, rule.targets))
    if group.rows:
        old, new = group.patterns("source"), group.patterns("target", "rename")
        if turned and not of_layer:
            old, new = new, old
    has_targets = rule.action == "rearrange" or (rule.action == "fill" and rule.value is not None)
    return _MatchCounts(
        rules,
        group.rows,
        old,
        new,
        _counts(old, [(r, r.sources) for r in rules], paths if of_layer else seen if rule.stage else before),
        _counts(new, [(r, r.targets) for r in rules], after) if has_targets else None,
    )


def _counts(
    texts: tuple[str, ...], patterns: list[tuple[Rule, tuple[Pattern, ...]]], names: KeyIndex | None
) -> dict[str, int] | None:
    if names is None or not texts:
        return None
    return {
        text: sum(
            _matches(rule, side[place], name)
            for rule, side in patterns
            for name in names.candidates(side[place])
        )
        for place, text in enumerate(texts)
    }


def _matches(rule: Rule, pattern: Pattern, name: Key) -> bool:
    try:
        return rule.bind(pattern, name) is not None
    except RuleError:  # it matches, and does not fit
        return True


def _unmatched(
    rows: list[_MatchCounts],
    source: str | None,
    like: str | None,
    names: tuple[Collection[Key], Collection[Key]] = ((), ()),
) -> list[str]:
    """Return a line for each pattern that had to match a name and matches none."""
    from bridge_core.io import shown_path
    from bridge_core.plan import closest_key

    return [
        f"\n  {row.rule.origin}: {row}: '{pattern}' matches no name in {shown_path(path)}."
        + (f" The closest is {near!r}." if (near := closest_key(pattern, known)) else "")
        for row in rows
        if not (row.rule.optional or row.rule.when)
        for counts, path, known in ((row.sources, source, names[0]), (row.targets, like, names[1]))
        for pattern, count in (counts or {}).items()
        if count == 0 and not pattern.endswith("?")
    ]


def _refuse_unmatched(file: str, result: _Result, source: str | None, like: str | None) -> None:
    problems = _unmatched(result.counts, source, like, result.names)
    if problems:
        what = "1 pattern matches" if len(problems) == 1 else f"{len(problems)} patterns match"
        hint = "Correct the pattern, or set optional = true in the rule if it may match no name."
        raise RuleError(f"{what} no name:{''.join(problems)}", path=file, hint=hint)


def _refuse_unfit(file: str, problems: list[RuleError]) -> None:
    if problems:
        what = "1 rule does" if len(problems) == 1 else f"{len(problems)} rules do"
        texts = "".join(f"\n  {problem}" for problem in problems)
        raise RuleError(f"{what} not fit the tensors:{texts}", path=file)


def _lines(result: _Result) -> Iterable[str]:
    for row in result.counts:
        rule = row.rule
        sizes = ", ".join(f"{name} = {size}" for name, size in row.sizes.items())
        text = "; ".join((str(row), *rule.ops, *rule.where.texts, *([f"sizes {sizes}"] if sizes else [])))
        notes = [f"when {rule.when}"] if rule.when else []
        notes += [f"stage {rule.stage}"] if rule.stage else []
        notes += [what for what in ("fallback", "optional") if getattr(rule, what)]
        notes += [f"not exact: {loss}" for loss in _inexact(rule)]
        for what, counts in (("source", row.sources), ("target", row.targets)):
            if counts is not None:
                notes.append(f"{what} {' + '.join(map(str, counts.values()))}")
        rows = ", ".join(f"{name} = {count(number, 'row')}" for name, number in row.rows.items())
        notes = [part for part in (rows, ", ".join(notes)) if part]
        yield f"{rule.origin}: {text}" + (f"  ({'; '.join(notes)})" if notes else "")
    number = len(result.counts)
    formed = "1 rule is well formed" if number == 1 else f"{number} rules are well formed"
    more = f"; the conversion has other problems, which 'ckptbridge plan' lists: {result.rest}"
    yield formed + more * bool(result.rest)


def _document(file: str, result: _Result) -> dict[str, Any]:
    return {
        "file": file,
        "layouts": result.counts[0].rule.layouts,
        "rules": [_rule_document(row) for row in result.counts],
        "rest": result.rest,
    }


def _rule_document(row: _MatchCounts) -> dict[str, Any]:
    rule = row.rule
    more = {
        "tables": row.rows,
        "stage": rule.stage,
        "fallback": rule.fallback,
        "inexact": list(_inexact(rule)),
    }
    return {
        "origin": rule.origin,
        "action": rule.action,
        "sources": list(row.source_patterns),
        "targets": list(row.target_patterns),
        "kind": rule.kind,
        "reason": rule.reason,
        "value": rule.value,
        "ops": list(rule.ops),
        "sizes": row.sizes,
        "where": str(rule.where) or None,
        "when": str(rule.when),
        "optional": rule.optional,
        "source_matches": row.sources,
        "target_matches": row.targets,
        **{name: value for name, value in more.items() if value},
    }


def _inexact(rule: Rule) -> tuple[str, ...]:
    """Return for each call that is not exact what it loses."""
    return tuple(call.loss for call in (*rule.before, *rule.after) if call.loss)
