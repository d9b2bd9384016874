"""What the ``load`` of each framework does first: from a path to the lazy tensors of a template."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bridge_core.conversion.inputs import located, opened, refuse_empty
from bridge_core.conversion.options import ConversionOptions, given_only
from bridge_core.conversion.rule_errors import naming_rule
from bridge_core.conversion.source_plan import plan_source
from bridge_core.errors import ConversionWarning, UsageError
from bridge_core.io import is_location, shown_path
from bridge_core.plan import Plan
from bridge_core.plugins import Registry, given_registry
from bridge_core.rules import Allowed, Permissions, Rules, as_rules
from bridge_core.state import FlatState, Key

if TYPE_CHECKING:
    from bridge_core.conversion.recipes import GivenRecipe
else:
    GivenRecipe = Any  # most conversions have none, and need not import its module

__all__ = ["TargetState", "target_state"]


@dataclass(frozen=True)
class TargetState:
    """What a template is to be filled with.

    Args:
        state: Lazy tensors under the keys of the template, with those of ``unfilled`` from the template.
        plan: The plan that made them.
        unfilled: The keys without a source, as the caller allows.
        registry: The plugins.
    """

    state: FlatState
    plan: Plan
    unfilled: frozenset[Key]
    registry: Registry


@contextlib.contextmanager
def target_state(
    source: Any,
    *,
    framework: str,
    like: Any,
    model: Any = None,
    rules: Rules = (),
    recipe: GivenRecipe = None,
    only: str | Iterable[str] = (),
    accept_guesses: bool = False,
    allow_missing: Allowed = False,
    allow_unexpected: Allowed = False,
    allow_mismatched: Allowed = False,
    allow_unclaimed: Allowed = False,
    allow_inexact: bool = False,
    dtype: str | Mapping[str, str] | None = None,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    registry: Registry | None = None,
) -> Iterator[TargetState]:
    """Give the lazy tensors of a template; the source is open within the ``with`` block.

    Only headers are read. A `ConversionWarning` is issued for each warning of the plan.

    Args:
        source: As for `bridge_core.plan_conversion`.
        framework: Name of the framework of the template.
        like: A live object of the framework; only its specs are used, and the values of ``unfilled``.
        model: As for `bridge_core.plan_conversion`.
        rules: As for `bridge_core.plan_conversion`.
        recipe: As for `bridge_core.plan_conversion`.
        only: As for `bridge_core.plan_conversion`.
        accept_guesses: As for `bridge_core.plan_conversion`.
        allow_missing: As for `bridge_core.plan_conversion`.
        allow_unexpected: As for `bridge_core.plan_conversion`.
        allow_mismatched: As for `bridge_core.plan_conversion`.
        allow_unclaimed: As for `bridge_core.plan_conversion`.
        allow_inexact: As for `bridge_core.plan_conversion`.
        dtype: As for `bridge_core.convert`.
        layout: As for `bridge_core.plan_conversion`.
        follow_links: As for `bridge_core.plan_conversion`.
        entry: As for `bridge_core.plan_conversion`.
        step: As for `bridge_core.plan_conversion`.
        registry: The plugins; None for all that are installed.

    Raises:
        ConversionError: The source does not match the template, or holds no tensor.
        BadInputError: The source is damaged or unsafe, or only a part of a model.
        SystemFailure: The system failed.
        UsageError: The source or ``like`` is not what was expected.
    """
    registry = given_registry(registry)
    registry.framework(framework)
    if like is None or is_location(like):
        got = "None" if like is None else f"the path {shown_path(like)!r}"
        raise UsageError(
            f"expected like= to be a live object of {framework}, got {got}.",
            hint="Pass the model, or its tree of arrays, abstract or not.",
        )
    permissions = Permissions.of(
        accept_guesses,
        allow_missing,
        allow_unexpected,
        allow_mismatched,
        allow_unclaimed,
        allow_inexact=allow_inexact,
    )
    options = ConversionOptions(
        framework,
        like,
        model,
        as_rules(rules),
        permissions,
        layout,
        follow_links,
        dtype,
        recipe=recipe,
        only=given_only(only),
    )
    source = located(source, registry)
    with opened(
        source, registry, layout=layout, follow_links=follow_links, entry=entry, step=step, purpose=options
    ) as opened_state:
        refuse_empty(source, opened_state)
        _, state, plan = plan_source(source, opened_state, options, registry)
        target = plan.apply(state)
        for warning in plan.warnings:
            warnings.warn(ConversionWarning(warning.message, code=warning.code), stacklevel=4)
        if plan.allowed_missing:
            with opened(like, registry, what="template") as template:
                target = target.union({key: template.tensor(key) for key in plan.allowed_missing})
        with naming_rule(plan):
            yield TargetState(target, plan, frozenset(plan.allowed_missing), registry)
        opened_state.check_unchanged()
