"""Whether a recipe takes every tensor of a checkpoint, and whether the checkpoint has all that it takes.

A recipe knows all names of its model. So a tensor that none of its rules takes does not belong to the model,
and where a checkpoint has most tensors of a layer, the others are missing: no template has to show it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.axes import SizeLookup
from bridge_core.checkpoint import config_beside
from bridge_core.conversion.options import ConversionOptions
from bridge_core.errors import RuleError
from bridge_core.messages import listed
from bridge_core.plan import Dropped, Plan, RecipeProblem, Step
from bridge_core.plugins import Recipe, Registry
from bridge_core.resolve import NamedSide, decided, side_of
from bridge_core.rules import KeyIndex, Pattern, oriented
from bridge_core.state import FlatState, Key, join_key

if TYPE_CHECKING:
    from bridge_core.rules import Captures, Rule

__all__ = ["fitted"]

_NUMBER = re.compile(r"\{\w+:int\}")


def fitted(plan: Plan, state: FlatState, options: ConversionOptions, registry: Registry) -> Plan:
    """Return a plan by a recipe, with what does not fit among its problems.

    Tensors that no rule takes are unexpected, unless they are allowed: ``allow_unclaimed`` copies them, and
    ``allow_unexpected`` leaves them out.

    Args:
        plan: The plan.
        state: Its source, in a framework's layout.
        options: The options, with the recipe's rules.
        registry: The plugins.
    """
    plan = _without_strangers(plan, options)
    # A recipe has rules for several variants of its model: only losses are worth a note.
    origin = f"rule {options.recipe.path}:" if isinstance(options.recipe, Recipe) else None
    notes = (n for n in plan.notes if not (origin and n.startswith(origin)) or "the way back" in n)
    plan = replace(plan, notes=tuple(notes))
    if not plan.ok or options.permissions.allow_missing or options.part is not None:
        return plan
    rules = oriented(options.rules, state.layout or options.to, options.to, registry.frameworks)
    config = config_beside(state)
    side = side_of(state, registry)
    rules = tuple(rule for rule in rules if decided(rule, side, NamedSide(())).when.is_met is not False)
    lacking = (
        _lone_biases(plan)
        or _unmatched_rows(rules, side)
        or _lacking([(rule, rule.sources) for rule in rules], side, config)
    )
    what = "the checkpoint has"
    if not lacking and options.to != "neutral":
        result = side_of(plan.apply(state), registry)
        lacking = _lacking([(rule, rule.targets) for rule in rules], result, config)
        what = "the recipe makes of it"
    if not lacking:
        return plan
    problem = RecipeProblem(
        f"the checkpoint is not complete: {what} no {listed(lacking)}, which the recipe expects next to "
        "the others.",
        "Get the complete checkpoint, or pass allow_missing=\"**\" (--allow-missing '**') to do without.",
    )
    return replace(plan, problems=replace(plan.problems, recipe=problem))


def _without_strangers(plan: Plan, options: ConversionOptions) -> Plan:
    """Return a plan in which tensors that no rule takes are unexpected, or left out where that is allowed."""
    allowed = options.permissions
    steps: list[Step] = []
    left_out: list[Key] = []
    unexpected: list[Key] = []
    for step in plan.steps:
        strange = not step.rule and bool(step.sources) and not all(map(allowed.may_copy, step.sources))
        if strange and all(map(allowed.may_leave_out, step.sources)):
            left_out += step.sources
        else:
            steps.append(step)
            unexpected += step.sources if strange else ()
    if not (left_out or unexpected):
        return plan
    problems = replace(plan.problems, unexpected=(*plan.problems.unexpected, *unexpected))
    dropped = (*plan.dropped, *(Dropped(key, "no rule of the recipe takes it") for key in left_out))
    return replace(plan, steps=tuple(steps), dropped=dropped, problems=problems)


def _lacking(
    patterns: Iterable[tuple[Rule, Iterable[Pattern]]], side: NamedSide, config: Mapping[str, Any] | None
) -> list[str]:
    """Return the names that are missing in lists whose other entries are complete.

    Optional rules may match some entries only, and so may others by the numbers that they admit. But what
    several rules with conditions name, one of them takes in each entry.
    """
    patterns = [(rule, tuple(several)) for rule, several in patterns]
    choices = Counter(str(pattern) for rule, several in patterns if rule.when for pattern in set(several))
    index = KeyIndex(side.names)
    lists_by_path: dict[str, dict[str, _Present]] = {}
    for rule, several in patterns:
        if rule.fallback or rule.action not in _TAKING:
            continue
        for pattern in several:
            if rule.optional and not (rule.when and choices[str(pattern)] > 1):
                continue
            read = side.read(pattern)
            lists = _lists_of(str(Pattern(read.segments)))
            if pattern.may_be_absent or not lists:
                continue
            texts = _texts_of(read)
            for name in index.candidates(read):
                captures = read.match(name)
                if captures is None:
                    continue
                text = _text_for(texts, name)
                for count, path in lists:
                    present = lists_by_path.setdefault(path, {}).setdefault(text, _Present(read.numbers))
                    present.add(rule, captures, count)
    lacking = []
    for entries in lists_by_path.values():
        every = set(itertools.chain.from_iterable(present.numbers for present in entries.values()))
        for text, present in entries.items():
            absent = sorted(every - present.numbers, key=_in_order)
            lacking += [_with_numbers(text, numbers) for numbers in absent if present.may_be(numbers, config)]
    return list(dict.fromkeys(lacking))


def _lone_biases(plan: Plan) -> list[str]:
    """Return the layers of which a checkpoint has only the bias, which no layer explains."""
    lone = (step.sources[0] for step in plan.steps if step.evidence == "unclaimed" and step.sources)
    return [f"weight for {join_key(key)}" for key in lone if key[-1] == "bias"]


def _unmatched_rows(rules: Collection[Rule], side: NamedSide) -> list[str]:
    """Return the patterns of rules that match nothing, each row of a table being a rule of its own.

    Rules outside of recipes are unmatched only if no row of their table matches.
    """
    index = KeyIndex(side.names)
    first = min((rule.stage for rule in rules if rule.action == "rename"), default=0)
    lacking = []
    for rule in rules:
        if rule.optional or rule.fallback or rule.when or rule.action not in _TAKING:
            continue
        if rule.action == "rename" and rule.stage != first:  # it sees names that the stages before make
            continue
        for pattern in rule.sources:
            read = side.read(pattern)
            found = any(read.match(name) is not None for name in index.candidates(read))
            if not found and not pattern.may_be_absent:
                lacking.append(str(Pattern(read.segments)))
    return list(dict.fromkeys(lacking))


class _Present:
    """The numbers of the names that a pattern matches, and the rules that have it, each with captures."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = tuple(names)
        self.numbers: set[tuple[str, ...]] = set()
        self._rules: dict[int, tuple[Rule, Captures]] = {}

    def add(self, rule: Rule, captures: Captures, count: int) -> None:
        """Add what a rule captured; the first ``count`` numbers are those of the list."""
        self.numbers.add(tuple(captures[name] for name in self.names[:count]))
        self._rules.setdefault(id(rule), (rule, captures))

    def may_be(self, numbers: tuple[str, ...], config: Mapping[str, Any] | None) -> bool:
        """Return whether one of the rules takes names with these numbers."""
        for rule, captures in self._rules.values():
            values = {**captures, **dict(zip(self.names, numbers, strict=False))}
            try:
                where = rule.where.at(SizeLookup(rule.sizes, config))
                if not rule.where or where.split(values, self.names) is not None:
                    return True
            except RuleError:  # it needs what these names do not show
                continue
        return False


_TAKING = ("rename", "rearrange")


def _lists_of(pattern: str) -> list[tuple[int, str]]:
    """Return the lists that a pattern goes through: how many numbers lead to an entry, and its path."""
    lists = []
    parts: list[str] = []
    seen = 0
    for segment in pattern.split("."):
        parts.append(_NUMBER.sub("{}", segment))
        if _NUMBER.search(segment):
            seen += len(_NUMBER.findall(segment))
            lists.append((seen, ".".join(parts)))
        elif "{" in segment or "*" in segment:
            break
    return lists


def _texts_of(pattern: Pattern) -> tuple[str, ...]:
    """Return the texts of a pattern's parts; of one with ``**`` the text in one piece."""
    segments = pattern.segments
    if "**" in str(pattern):
        return (str(Pattern(segments)),)
    return tuple(str(Pattern((segment,))) for segment in segments)


def _text_for(texts: tuple[str, ...], name: Key) -> str:
    """Return the text of a pattern with only its numbers open, for a name that it matches."""
    if len(texts) != len(name):
        return ".".join(texts)
    return ".".join(text if _NUMBER.search(text) else part for text, part in zip(texts, name, strict=True))


def _with_numbers(text: str, numbers: Iterable[str]) -> str:
    for number in numbers:
        text = _NUMBER.sub(number, text, count=1)
    return text


def _in_order(numbers: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(int(number) for number in numbers)
