"""``ckptbridge rules``: checking a rule file alone, or against the names it is for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.options import examples, json_option, layout_option, takes_registry
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.errors import BridgeError, RuleError
    from bridge_core.plan import Plan
    from bridge_core.plugins import Registry
    from bridge_core.rules import Pattern, Rule
    from bridge_core.state import FlatState, Key, TensorSpec

__all__ = ["rules"]


@click.group(
    epilog=examples(
        "ckptbridge rules check rules.toml",
        "ckptbridge rules check rules.toml --source model.safetensors --like flax_model.msgpack",
    ),
)
def rules() -> None:
    """Work with rule files, as --rules takes them."""


@rules.command(
    short_help="Check a rule file, alone or against names.",
    epilog=examples(
        "ckptbridge rules check rules.toml",
        "ckptbridge rules check rules.toml --source model.safetensors",
        "ckptbridge rules check rules.toml --source model.safetensors --like flax_model.msgpack --json",
    ),
)
@click.argument("file")
@click.option(
    "--source", metavar="SRC", help="Weights to convert: every rule must match some of their names."
)
@click.option(
    "--like",
    metavar="PATH",
    help="Weights of the target's architecture: every rule must make some of their names.",
)
@layout_option
@json_option
@takes_registry
def check(
    file: str,
    source: str | None,
    like: str | None,
    layout: str | None,
    as_json: bool,
    registry: Registry | None,
) -> None:
    """Check the rules of FILE and show what each does. No tensor is read.

    With --source the conversion is planned, with --like as well against its shapes: what it refuses of the
    rules is refused, and what else it would refuse is counted. A rule that is optional, or holds under
    conditions, may match nothing.
    """
    from bridge_core.errors import RuleError
    from bridge_core.plugins import default_registry
    from bridge_core.rules import load_rules

    try:
        with aside():
            registry = default_registry() if registry is None else registry
            read = load_rules(file)
            found = _found(read, source, like, layout, registry)
        if as_json:
            print_json(_document(file, found))
        else:
            say(*_lines(found))
        _refuse_unmatched(file, found.counts, source, like)
        _refuse_unfit(file, found.unfit)
        if found.refused is not None:
            raise found.refused
    except RuleError as err:
        summary, *problems = err.message.split("\n  ")
        if as_json or not problems:
            raise
        say(*problems)
        raise RuleError(f"{summary.rstrip(':')}.", path=err.path, hint=err.hint) from err


@dataclass(frozen=True)
class _MatchCounts:
    """A rule, and how many names each of its patterns fits; None where nothing was to be compared."""

    rule: Rule
    sources: dict[str, int] | None = None
    targets: dict[str, int] | None = None


@dataclass(frozen=True)
class _Found:
    """What was found of rules: what each matches, what does not fit, and what a conversion would refuse."""

    counts: list[_MatchCounts]
    unfit: list[RuleError]
    refused: BridgeError | None = None
    rest: str = ""


def _found(
    read: tuple[Rule, ...], source: str | None, like: str | None, layout: str | None, registry: Registry
) -> _Found:
    """Count what the rules match, read as the two files lead, and say what does not fit."""
    from contextlib import ExitStack

    from bridge_core.checkpoint import config_beside, open_state
    from bridge_core.conversion import plan_by_rules
    from bridge_core.errors import BridgeError
    from bridge_core.resolve import check_kind, rule_problems, without_collections
    from bridge_core.rules import oriented

    with ExitStack() as stack:
        given = [
            None if path is None else stack.enter_context(open_state(path, layout=known, registry=registry))
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
        directed = without_collections(directed, given[0], given[1], registry)
        sources, targets = (None if state is None else _specs(state, registry) for state in given)
        before, after = (None if specs is None else set(specs) for specs in (sources, targets))
        paths = None if before is None else _paths(before, directed)
        if paths is not None and turned:
            paths |= _paths(after or set(), [rule.reversed() for rule in directed])
        unfit = []
        if sources is not None and targets is not None:
            unfit = rule_problems(directed, sources, targets, config_beside(*given))
        counts = [_count(rule, before, after, paths) for rule in directed]
        if given[0] is None or unfit or _unmatched(counts, source, like):
            return _Found(counts, unfit)
        try:
            plan = plan_by_rules(read, given[0], given[1], directed=directed, registry=registry)
        except BridgeError as err:
            return _Found(counts, unfit, err)
        return _Found(counts, unfit, rest=_rest(plan) if plan is not None and like is not None else "")


def _rest(plan: Plan) -> str:
    """Return what else keeps a conversion from being run, counted."""
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
    """Return the paths of layers, by the names that the rules give, and by those that stand there."""
    renames = [rule for rule in rules if rule.action == "rename"]
    made = {
        rule.targets[0].fill(captures)
        for name in names
        for rule in renames
        if (captures := rule.source.match(name)) is not None
    }
    return {name[:depth] for name in names | made for depth in range(len(name))}


def _count(
    rule: Rule, before: set[Key] | None, after: set[Key] | None, paths: set[Key] | None
) -> _MatchCounts:
    if rule.action == "layer":
        return _MatchCounts(rule, _counts(rule.sources, paths))
    made = rule.action == "rearrange" or (rule.action == "fill" and rule.value is not None)
    return _MatchCounts(rule, _counts(rule.sources, before), _counts(rule.targets, after) if made else None)


def _counts(patterns: tuple[Pattern, ...], names: set[Key] | None) -> dict[str, int] | None:
    if names is None or not patterns:
        return None
    return {str(p): sum(p.match(name) is not None for name in names) for p in patterns}


def _unmatched(found: list[_MatchCounts], source: str | None, like: str | None) -> list[str]:
    """Return a line for each pattern that had to match something and does not."""
    return [
        f"\n  {row.rule.origin}: {row.rule}: '{pattern}' matches nothing in {path}."
        for row in found
        if not (row.rule.optional or row.rule.when)
        for counts, path in ((row.sources, source), (row.targets, like))
        for pattern, count in (counts or {}).items()
        if count == 0
    ]


def _refuse_unmatched(file: str, found: list[_MatchCounts], source: str | None, like: str | None) -> None:
    from bridge_core.errors import RuleError

    problems = _unmatched(found, source, like)
    if problems:
        what = "1 pattern matches" if len(problems) == 1 else f"{len(problems)} patterns match"
        hint = "Correct the pattern, or write optional = true for the rule."
        raise RuleError(f"{what} nothing:{''.join(problems)}", path=file, hint=hint)


def _refuse_unfit(file: str, problems: list[RuleError]) -> None:
    from bridge_core.errors import RuleError

    if problems:
        what = "1 rule does" if len(problems) == 1 else f"{len(problems)} rules do"
        texts = "".join(f"\n  {problem}" for problem in problems)
        raise RuleError(f"{what} not fit the tensors:{texts}", path=file)


def _lines(found: _Found) -> Iterable[str]:
    for row in found.counts:
        rule = row.rule
        index = () if rule.flat_index is None else (str(rule.flat_index),)
        text = "; ".join((str(rule), *rule.ops, *index))
        notes = [f"when {rule.when}"] if rule.when else []
        notes += ["optional"] if rule.optional else []
        for what, counts in (("source", row.sources), ("target", row.targets)):
            if counts is not None:
                notes.append(f"{what} {' + '.join(map(str, counts.values()))}")
        yield f"{rule.origin}: {text}" + (f"  ({', '.join(notes)})" if notes else "")
    number = len(found.counts)
    formed = "1 rule is well formed" if number == 1 else f"{number} rules are well formed"
    yield f"{formed}; the conversion needs more, see plan: {found.rest}" if found.rest else formed


def _document(file: str, found: _Found) -> dict[str, Any]:
    return {
        "file": file,
        "layouts": found.counts[0].rule.layouts,
        "rules": [
            {
                "origin": row.rule.origin,
                "action": row.rule.action,
                "sources": [str(pattern) for pattern in row.rule.sources],
                "targets": [str(pattern) for pattern in row.rule.targets],
                "kind": row.rule.kind,
                "reason": row.rule.reason,
                "value": row.rule.value,
                "ops": list(row.rule.ops),
                "sizes": {name: str(size) for name, size in row.rule.sizes.items()},
                "where": str(row.rule.flat_index) if row.rule.flat_index is not None else None,
                "when": str(row.rule.when),
                "optional": row.rule.optional,
                "source_matches": row.sources,
                "target_matches": row.targets,
            }
            for row in found.counts
        ],
        "rest": found.rest,
    }
