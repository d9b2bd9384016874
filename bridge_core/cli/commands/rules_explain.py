"""``ckptbridge rules explain``: which tensors each rule takes, and which it makes of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.completion import a_file, a_layout
from bridge_core.cli.options import examples, json_option, layout_option, sizes_option, takes_registry
from bridge_core.cli.report import exactness, runs
from bridge_core.cli.terminal import aside, print_json, say
from bridge_core.messages import count
from bridge_core.state import Key, join_key

if TYPE_CHECKING:
    from bridge_core.plan import Plan, Step
    from bridge_core.plugins import Registry
    from bridge_core.rules import Rule, RuleGroup
    from bridge_core.state import TensorSpec

__all__ = ["explain_rules"]

_Named = tuple[str, "TensorSpec | None"]


@click.command(
    "explain",
    short_help="Show which tensors each rule takes, and which it makes.",
    epilog=examples(
        "ckptbridge rules explain rules.toml model.safetensors",
        "ckptbridge rules explain rules.toml model.safetensors --like flax_model.msgpack",
        "ckptbridge rules explain rules.toml model.safetensors --to flax --json",
    ),
)
@click.argument("file", shell_complete=a_file)
@click.argument("src", shell_complete=a_file)
@click.option(
    "--to",
    metavar="LAYOUT",
    shell_complete=a_layout,
    help="Layout to convert to; by default the one that FILE leads to.",
)
@click.option(
    "--like", metavar="PATH", shell_complete=a_file, help="Weights of the target's model: the template."
)
@sizes_option
@layout_option
@json_option
@takes_registry
def explain_rules(
    file: str,
    src: str,
    sizes: tuple[tuple[str, str], ...],
    to: str | None,
    like: str | None,
    layout: str | None,
    as_json: bool,
    registry: Registry | None,
) -> None:
    """Show which tensors of SRC each rule of FILE takes, and which it makes.

    Names that differ only in numbers are one line. Rules that take nothing say why, and the tensors that no
    rule takes come last. No tensor is read. A plan that cannot be run is shown as far as possible, and
    the exit code is 1.
    """
    with aside():
        from bridge_core.rules import read_rule_file

        groups = read_rule_file(file, sizes=dict(sizes))
        plan, works, text = _explained(file, groups, src, to, like, layout, registry)
    rest = _rest(plan, works)
    if as_json:
        print_json(_document(file, src, plan, works, rest))
    else:
        say(text, *_lines(plan, works, rest))
        if plan.ok:
            say(exactness(plan.exact, plan.unclaimed))
    plan.check()


@dataclass(frozen=True)
class _Work:
    """What a rule of a file does, which may be written out as several.

    Args:
        rules: The rules.
        written: Pattern of the first of them -> the pattern in the file, with the names of tables.
        steps: The steps of the plan that it takes part in.
        dropped: The source keys that it drops, with the reason.
        absent: The target keys that it lets stay unfilled.
        unused: Why it does nothing; empty if it does something.
    """

    rules: tuple[Rule, ...]
    written: Mapping[str, str]
    steps: tuple[Step, ...] = ()
    dropped: tuple[tuple[Key, str], ...] = ()
    absent: tuple[Key, ...] = ()
    unused: str = ""

    def __str__(self) -> str:
        """Return the rule of the file in one line."""
        rule = self.rules[0]
        text = str(rule).removeprefix("rule ")
        for pattern, written in self.written.items():
            text = text.replace(f"'{pattern}'", f"'{written}'", 1)
        where = (str(rule.where),) if rule.where else ()
        rows = f"  ({len(self.rules)} rows)" if len(self.rules) > 1 else ""
        return "; ".join((f"{rule.origin}: {text}" if rule.origin else text, *rule.ops, *where)) + rows


def _explained(
    file: str,
    groups: tuple[RuleGroup, ...],
    src: str,
    to: str | None,
    like: str | None,
    layout: str | None,
    registry: Registry | None,
) -> tuple[Plan, list[_Work], str]:
    """Return the plan, what each rule does there, and the line that heads them."""
    from bridge_core.conversion import layout_led_to, plan_conversion, state_of
    from bridge_core.errors import UsageError
    from bridge_core.plugins import given_registry
    from bridge_core.rules import oriented

    registry = given_registry(registry)
    read = tuple(rule for group in groups for rule in group.rules)
    with ExitStack() as stack:
        source = stack.enter_context(state_of(src, registry, layout=layout))
        template = None if like is None else stack.enter_context(state_of(like, registry))
        to = to or layout_led_to(read, source, template)
        if to is None:
            raise UsageError(
                "neither the rules nor the weights show the layout to convert to.",
                path=file,
                hint="Pass a layout, to=... (--to).",
            )
        plan = plan_conversion(source, to=to, like=template, rules=read, registry=registry, check=False)
        directed = oriented(read, source.layout or to, to, registry.frameworks)
    rest = iter(directed)
    works = []
    for group in groups:
        first, texts = group.rules[0], group.patterns("source", "target", "rename")
        patterns = map(str, (*first.sources, *first.targets))
        rules = tuple(itertools.islice(rest, len(group.rules)))
        works.append(_work(rules, dict(zip(patterns, texts, strict=False)) if group.rows else {}, plan))
    used = sum(not work.unused for work in works)
    text = f"{file}: {plan.source_layout} -> {plan.target_layout}, {count(len(works), 'rule')}, {used} used"
    return plan, works, text


def _work(rules: tuple[Rule, ...], written: Mapping[str, str], plan: Plan) -> _Work:
    labels = dict.fromkeys(rule.label for rule in rules)
    is_mine = functools.cache(lambda text: any(f", {label}, " in f", {text}, " for label in labels))
    steps = tuple(step for step in plan.steps if step.rule and is_mine(step.rule))
    reasons = {f"rule {rule.origin}: {rule.reason}" for rule in rules if rule.action == "drop"}
    dropped = tuple((one.key, one.reason) for one in plan.dropped if one.reason in reasons)
    fills = [rule for rule in rules if rule.action == "fill" and rule.value is None]
    absent = tuple(key for key in plan.allowed_missing if any(_is_named(rule, key) for rule in fills))
    work = _Work(rules, written, steps, dropped, absent)
    return work if steps or dropped or absent else replace(work, unused=_why_unused(rules, plan))


def _is_named(rule: Rule, key: Key) -> bool:
    """Return whether a rule is about a target key, which may begin with a collection."""
    return any(rule.bind(pattern, name) is not None for pattern in rule.targets for name in (key, key[1:]))


def _why_unused(rules: tuple[Rule, ...], plan: Plan) -> str:
    for rule in rules:
        start = f"rule {rule.full_label} is not used: "
        noted = next((note for note in plan.notes if note.startswith(start)), None)
        if noted is not None:
            return noted.removeprefix(start)
    if any(rule.full_label in plan.unmatched_rules for rule in rules):
        return "it matches no tensor"
    if any(rule.when for rule in rules):
        return f"its condition does not hold, when {rules[0].when}"
    if any(rule.fallback for rule in rules):
        return "it is a fallback, and other rules take what it matches"
    if rules[0].action == "fill":
        return "no target tensor is left for it"
    return "it is optional, and matches no tensor" if rules[0].optional else "no tensor is left for it"


def _rest(plan: Plan, works: Iterable[_Work]) -> list[tuple[Key, str]]:
    """Return the source keys that no rule takes, and what happens to them."""
    taken = {key for work in works for step in work.steps for key in step.sources}
    taken.update(key for work in works for key, _ in work.dropped)
    what: dict[Key, str] = {}
    for step in plan.steps:
        what.update(dict.fromkeys(step.sources, f"{step.kind}, {step.evidence}"))
    what.update((one.key, f"dropped, {one.reason}") for one in plan.dropped)
    what.update(dict.fromkeys(plan.unexpected, "unexpected: the target has no place for it"))
    what.update(
        (one.source, f"mismatched: expected {one.expected}, got {one.found}") for one in plan.mismatched
    )
    what.update((key, f"ambiguous: {' or '.join(kinds)}") for key, kinds in plan.ambiguous.items())
    what.update((key, f"refused: {why}") for key, why in {**plan.unsupported, **plan.unexplained}.items())
    return [(key, what.get(key, "not planned")) for key in plan.specs if key not in taken]


def _made(plan: Plan, step: Step) -> list[tuple[Key, TensorSpec]]:
    from bridge_core.ops import chain_specs

    specs = chain_specs(tuple(plan.specs[key] for key in step.sources), step.ops)
    return list(zip(step.targets, specs, strict=False))


def _lines(plan: Plan, works: Iterable[_Work], rest: list[tuple[Key, str]]) -> Iterator[str]:
    for work in works:
        yield ""
        yield str(work)
        if work.unused:
            yield f"  takes nothing: {work.unused}"
        yield from _step_lines(plan, work.steps)
        for name, values in _folded(plan, (key for key, _ in work.dropped)):
            yield f"  drops   {_row(name, values)}"
        for name, values in _folded(plan, work.absent):
            yield f"  leaves  {_row(name, values)}, which may stay unfilled"
    if rest:
        yield ""
        yield f"{count(len(rest), 'tensor')} that no rule takes:"
        named = ((join_key(key), (plan.specs[key], what)) for key, what in rest)
        for name, group in runs(named, lambda value: value):
            spec, what = group[0]
            yield f"  {_row(name, [spec] * len(group))}  [{what}]"


def _step_lines(plan: Plan, steps: Iterable[Step]) -> Iterator[str]:
    """Yield the tensors and the ops of steps, those that differ only in numbers of names together."""
    groups: dict[object, list[Step]] = {}
    for step in steps:
        made = tuple(spec for _, spec in _made(plan, step))
        taken = tuple(plan.specs[key] for key in step.sources)
        groups.setdefault((taken, made, tuple(map(str, step.ops))), []).append(step)
    for group in groups.values():
        sources = list(_folded(plan, (key for step in group for key in step.sources)))
        named = ((join_key(key), spec) for step in group for key, spec in _made(plan, step))
        for label, rows in (("takes", sources), ("makes", list(runs(named, str)))):
            yield from (f"  {label}   {_row(name, values)}" for name, values in rows)
        if group[0].ops:
            yield f"  by      {'  '.join(map(str, group[0].ops))}"


def _folded(plan: Plan, keys: Iterable[Key]) -> Iterator[tuple[str, list[TensorSpec | None]]]:
    return runs(((join_key(key), plan.specs.get(key)) for key in keys), str)


def _row(name: str, specs: list[Any]) -> str:
    spec = f"  {specs[0]}" if specs[0] is not None else ""
    return f"{name}{spec}" + (f"  x{len(specs)}" if len(specs) > 1 else "")


def _document(
    file: str, src: str, plan: Plan, works: Iterable[_Work], rest: Iterable[tuple[Key, str]]
) -> dict[str, Any]:
    def tensor(key: Key, spec: TensorSpec | None) -> dict[str, Any]:
        shape, dtype = (list(spec.shape), spec.dtype.name) if spec is not None else (None, None)
        return {"name": join_key(key), "shape": shape, "dtype": dtype}

    return {
        "file": file,
        "source": src,
        "source_layout": plan.source_layout,
        "target_layout": plan.target_layout,
        "rules": [
            {
                "origin": work.rules[0].origin,
                "action": work.rules[0].action,
                "rules": [str(rule).removeprefix("rule ") for rule in work.rules],
                "unused": work.unused,
                "steps": [
                    {
                        "sources": [tensor(key, plan.specs[key]) for key in step.sources],
                        "targets": [tensor(key, spec) for key, spec in _made(plan, step)],
                        "ops": list(map(str, step.ops)),
                        "kind": step.kind,
                        "exact": step.exact,
                    }
                    for step in work.steps
                ],
                "dropped": [{**tensor(key, plan.specs.get(key)), "reason": why} for key, why in work.dropped],
                "allowed_missing": list(map(join_key, work.absent)),
            }
            for work in works
        ],
        "rest": [{**tensor(key, plan.specs[key]), "what": what} for key, what in rest],
        "ok": plan.ok,
    }
