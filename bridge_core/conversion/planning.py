"""From what a caller asks for to the plan of the whole conversion."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import replace

from bridge_core.checkpoint import config_beside
from bridge_core.conversion.inputs import known_module, load_factory, template_of
from bridge_core.conversion.options import Asked
from bridge_core.errors import UsageError
from bridge_core.plan import Plan
from bridge_core.plugins import Registry
from bridge_core.resolve import plan_from_neutral, plan_to_neutral
from bridge_core.rules import as_rules, oriented
from bridge_core.state import FlatState, Key

__all__ = ["collection_paused", "prepare"]


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
            replace(first, unmatched_rules=()).apply(state),
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


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Let many small objects be made without looking through all of them again and again.

    Planning makes no circles. With 100,000 keys the search for them takes a third of its time, and a share
    that grows with the number of keys.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
