"""Checks that a destination holds what a plan makes of a source, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.conversion.inputs import located, opened
from bridge_core.conversion.library_guidance import guidance, guidance_of_file
from bridge_core.conversion.options import ConversionOptions, given_only
from bridge_core.conversion.planning import complete_plan, model_is_template
from bridge_core.errors import UsageError
from bridge_core.io import shown_path
from bridge_core.messages import listed
from bridge_core.plan import Plan
from bridge_core.plugins import Guidance, Registry, given_registry
from bridge_core.rules import Allowed, Permissions, Rules, as_rules
from bridge_core.state import FlatState, join_key
from bridge_core.transfer import Comparison, Progress, compare_states

if TYPE_CHECKING:
    from bridge_core.conversion.recipes import GivenRecipe
else:
    GivenRecipe = Any  # most conversions have no recipe, and need not import its module

__all__ = ["verify"]


def verify(
    src: Any,
    dst: Any,
    *,
    model: Any = None,
    rules: Rules = (),
    recipe: GivenRecipe = None,
    only: str | Iterable[str] = (),
    accept_guesses: bool = False,
    allow_missing: Allowed = (),
    allow_unexpected: Allowed = (),
    allow_mismatched: Allowed = (),
    allow_unclaimed: Allowed = (),
    allow_inexact: bool = False,
    dtype: str | Mapping[str, str] | None = None,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    registry: Registry | None = None,
    progress: Callable[[Progress], None] | None = None,
    examine: Callable[[FlatState, FlatState, Comparison], None] | None = None,
) -> Comparison:
    """Compare a destination bit for bit with what the plan makes of the source.

    Args:
        src: The source, as in `convert`.
        dst: The destination of an earlier conversion; it is the template as well, unless the model is one of
            its framework.
        model: As in `plan_conversion`.
        rules: As in `plan_conversion`.
        recipe: As in `plan_conversion`.
        only: As in `plan_conversion`.
        accept_guesses: As in `plan_conversion`.
        allow_missing: As in `plan_conversion`.
        allow_unexpected: As in `plan_conversion`.
        allow_mismatched: As in `plan_conversion`.
        allow_unclaimed: As in `plan_conversion`.
        allow_inexact: As in `plan_conversion`.
        dtype: The dtype that the destination was cast to, or the dtypes by patterns, as in `convert`; None
            for no cast.
        layout: As in `plan_conversion`.
        follow_links: As in `plan_conversion`.
        entry: The entry of the source, as in `plan_conversion`.
        step: The step of the source, as in `plan_conversion`.
        registry: As in `plan_conversion`.
        progress: Called as bytes are compared.
        examine: Called if they differ, with what the plan gives, the destination and their comparison, while
            both are open; such as for `bridge_core.proof.name_differences`.

    Returns:
        The differences; none means that the destination holds the source's weights.

    Raises:
        UsageError: The layout of the source or of the destination cannot be determined.
        ConversionError: The source does not match the destination, so nothing can be compared.
        BadInputError: A file is damaged or unsafe.
    """
    registry = given_registry(registry)
    permissions = Permissions.of(
        accept_guesses,
        allow_missing,
        allow_unexpected,
        allow_mismatched,
        allow_unclaimed,
        allow_inexact=allow_inexact,
    )
    ruled, chosen = as_rules(rules), given_only(only)
    src, dst = located(src, registry), located(dst, registry)
    if recipe is not None:
        from bridge_core.conversion.recipes import with_recipe
    with (
        opened(src, registry, layout=layout, follow_links=follow_links, entry=entry, step=step) as source,
        opened(dst, registry, follow_links=follow_links, what="result") as result,
    ):
        to = result.layout
        if to is None:
            raise _unknown_layout(dst, result, registry)
        like = result if to != "neutral" else None
        options = ConversionOptions(
            to, like, model, ruled, permissions, layout, follow_links, dtype, recipe=recipe, only=chosen
        )
        if recipe is not None:
            source, options = with_recipe(source, options, registry)
        options = options.with_part(source, registry)
        state, plan = _planned(source, options, guidance(src, source, options, registry), registry)
        if not plan.ok:
            more = guidance_of_file(src, source, options, registry)
            if more is not None:
                state, plan = _planned(source, options, more, registry)
        given = plan.apply(state)
        compared = compare_states(given, result, progress=progress)
        if examine is not None and not compared.equal:
            examine(given, result, compared)
        return replace(
            compared,
            unfilled=plan.allowed_missing,
            left_out=tuple(plan.left_out_json()),
            notes=plan.notes,
        )


def _unknown_layout(dst: Any, result: FlatState, registry: Registry) -> UsageError:
    """Return the error for a destination in an unknown layout."""
    names = [*registry.frameworks, "neutral"]
    keys = listed(map(join_key, result), 3)
    text = (
        f"the layout of the result ({', '.join(names[:-1])} or {names[-1]}) cannot be determined: the file "
        "does "
        f"not record it, and its keys ({keys}) do not show it."
    )
    where = shown_path(dst)
    opened_with = f'open_state("{where}", layout="{names[0]}")' if where is not None else "layout="
    return UsageError(
        text,
        path=where,
        hint=(
            "Convert the source again and compare the two files with ckptbridge diff; or, in Python, give "
            "the "
            f"layout: verify(src, {opened_with})."
        ),
    )


def _planned(
    source: FlatState, options: ConversionOptions, known: Guidance, registry: Registry
) -> tuple[FlatState, Plan]:
    """Return the source with the model as evidence, and the plan to the result's keys and shapes."""
    if known.duplicate_tied and known.like is not None:
        # The result holds tied tensors separately; that they are tied, only the template shows.
        options = replace(options, like=known.like)
    options = options.guided(known)
    if model_is_template(options, source, registry):
        options = replace(options, like=None)
    if options.only:
        from bridge_core.conversion.partial_plan import plan_part

        return plan_part(source, options, registry)
    return complete_plan(source, options, registry)
