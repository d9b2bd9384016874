"""From what a caller asks for to the plan of the whole conversion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.errors import UsageError
from bridge_core.keys import Key
from bridge_core.libraries import Guidance
from bridge_core.patterns import Pattern
from bridge_core.plan import Plan
from bridge_core.plugins import Registry
from bridge_core.resolve import (
    collection_paused,
    config_beside,
    oriented,
    plan_from_neutral,
    plan_to_neutral,
)
from bridge_core.rulefile import Rules, as_rules
from bridge_core.sources import known_module, load_factory, template_of
from bridge_core.state import FlatState

__all__ = ["Asked", "Patterns", "prepare"]

Patterns = bool | Iterable[str | Pattern]


@dataclass(frozen=True)
class Asked:
    """What settles a plan; see `bridge_core.plan_conversion` for each."""

    to: str
    like: Any = None
    model: Any = None
    rules: Rules = ()
    accept_guesses: bool = False
    allow_missing: Patterns = ()
    allow_unexpected: Patterns = ()
    allow_mismatched: Patterns = ()

    def guided(self, known: Guidance) -> Asked:
        """Return this with what a library knows, wherever the caller says nothing."""
        return replace(
            self,
            model=known.model if self.model is None or isinstance(self.model, str) else self.model,
            like=known.like if self.like is None else self.like,
            rules=(*as_rules(self.rules), *(replace(rule, fallback=True) for rule in known.rules)),
        )


def prepare(state: FlatState, asked: Asked, registry: Registry) -> tuple[FlatState, Plan]:
    """Return the source with all its evidence, and the plan; problems stand in the plan.

    Raises:
        RuleError: A rule is wrong in itself, or does not fit.
        UsageError: What is asked for makes no sense for this source.
    """
    to, like, model, rules = asked.to, asked.like, asked.model, as_rules(asked.rules)
    if to != "neutral":
        registry.framework(to)
    if model == "none":
        model = None
    elif isinstance(model, str):
        model = load_factory(model)
    source_ties: dict[Key, Key] = {}
    if model is not None:
        framework = registry.framework_of(model)
        if framework is not None and framework.name == to != state.layout and like is None:
            like = model
        else:
            known = known_module(state, model, registry)
            source_ties = {key: known.metadata.ties[key] for key in known if key not in state}
            state = known
    if to == "neutral":
        if like is not None:
            raise UsageError("like= describes tensors of a framework; a neutral target has no template.")
        ruled = oriented(rules, state.layout or to, to)
        config = config_beside(state)
        plan = plan_to_neutral(
            state, registry, rules=ruled, accept_guesses=asked.accept_guesses, config=config
        )
        return state, replace(plan, source_ties=source_ties)
    with collection_paused(), template_of(like, to, registry) as template:
        ruled = oriented(rules, state.layout or to, to)
        config = config_beside(state, template) if ruled else None
        first = plan_to_neutral(state, registry, rules=ruled, config=config)
        second = plan_from_neutral(
            replace(first, idle_rules=()).apply(state),
            registry,
            to,
            like=template,
            rules=ruled,
            config=config,
            accept_guesses=asked.accept_guesses,
            allow_missing=asked.allow_missing,
            allow_unexpected=asked.allow_unexpected,
            allow_mismatched=asked.allow_mismatched,
            origin={t: step.sources[0] for step in first.steps if step.sources for t in step.targets},
        )
        return state, replace(first.then(second), source_ties=source_ties)
