"""Runs two models on the same weights, and finds where and why their outputs differ."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.errors import UnsupportedFeature, UsageError
from bridge_core.plugins import Inputs, ModuleSettings, Registry, given_registry
from bridge_core.proof.running.alignment import LinkedPaths, linked_paths
from bridge_core.proof.running.comparing_runs import proof_of_runs
from bridge_core.proof.running.inputs import blind_spots, hints_of_inputs, with_given_inputs
from bridge_core.proof.running.models import Side, model_side
from bridge_core.proof.running.proof_report import ModelName, Proof
from bridge_core.proof.running.search import Search
from bridge_core.proof.running.setting_differences import ComparedSettings, compared_settings
from bridge_core.proof.running.weights import converted_weights, source_values
from bridge_core.public import require_bool
from bridge_core.rules import Allowed, Rules
from bridge_core.state import Key

if TYPE_CHECKING:
    from bridge_core.conversion.recipes import GivenRecipe
else:
    GivenRecipe = Any

__all__ = ["prove"]


def prove(
    *,
    source_model: Any,
    model: Any,
    rules: Rules = (),
    recipe: GivenRecipe = None,
    inputs: Any = None,
    checkpoint: Any = None,
    run: bool = True,
    seed: int = 0,
    entry: str | None = None,
    step: int | None = None,
    accept_guesses: bool = False,
    allow_missing: Allowed = (),
    allow_unexpected: Allowed = (),
    allow_mismatched: Allowed = (),
    allow_unclaimed: Allowed = (),
    allow_inexact: bool = False,
    progress: Callable[[str], None] | None = None,
    registry: Registry | None = None,
) -> Proof:
    """Run two models on the same weights, and find the first module that differs.

    The source gets random values in every parameter and statistic, or those of a checkpoint; the target
    gets what the conversion makes of them. What rounding changes is measured on the same two models.

    Args:
        source_model: The source's live model, or ``"PKG.MOD:FUNCTION"`` that returns it; it is not changed.
        model: The target's, in the same way.
        rules: As in `bridge_core.plan_conversion`.
        recipe: As in `bridge_core.plan_conversion`.
        inputs: What both are called with: an array, a tuple of arguments or a dict of them;
            ``{"source": ..., "target": ...}`` where they take different ones; a function that returns it, or
            its name. None for the inputs that one of the models offers.
        checkpoint: A checkpoint of the source's model, for its values; None for random ones.
        run: Whether to run the models; if not, only the settings of their modules are compared.
        seed: For random values.
        entry: The entry of the checkpoint, as in `bridge_core.plan_conversion`.
        step: The step of the checkpoint.
        accept_guesses: As in `bridge_core.plan_conversion`.
        allow_missing: Target keys that may keep the values that the target's model has: True, or patterns.
        allow_unexpected: As in `bridge_core.plan_conversion`.
        allow_mismatched: As in `bridge_core.plan_conversion`.
        allow_unclaimed: As in `bridge_core.plan_conversion`.
        allow_inexact: As in `bridge_core.plan_conversion`.
        progress: Called with a few words as each stage begins.
        registry: The plugins; None for all that are installed.

    Raises:
        UsageError: There are no inputs, a model cannot be converted or called, or no framework runs it.
        UnsupportedFeature: The framework's adapter cannot run models.
        MismatchError: The weights do not match, or no output can be compared.
        ConversionError: As in `bridge_core.plan_conversion`.
    """
    require_bool("run", run)
    registry = given_registry(registry)
    tell = progress or (lambda _stage: None)
    tell("making the models")
    source, target = model_side(source_model, "source", registry), model_side(model, "target", registry)
    source, target = _with_inputs(inputs, source, target, run=run)
    tell("planning the conversion")
    values, notes = (
        source_values(source, registry, checkpoint=checkpoint, seed=seed, entry=entry, step=step)
        if (run or checkpoint is not None)
        else (source.weights, ())
    )
    asked = {
        "rules": rules,
        "recipe": recipe,
        "accept_guesses": accept_guesses,
        "allow_missing": allow_missing,
        "allow_unexpected": allow_unexpected,
        "allow_mismatched": allow_mismatched,
        "allow_unclaimed": allow_unclaimed,
        "allow_inexact": allow_inexact,
    }
    hinting = functools.partial(hints_of_inputs, shared=source.inputs is target.inputs)
    with hinting(of_shapes=True):
        converted = converted_weights(values, target, registry, seed=seed, run=run, **asked)
    linked = linked_paths(converted.plan, source, target, values)
    tell("comparing settings")
    settings = (_settings_of(source), _settings_of(target))
    compared = _compared(settings, (source, target), linked)
    names = (
        ModelName(source.layout, source.type_name),
        ModelName(target.layout, target.type_name),
    )
    notes = (*notes, *converted.notes)
    if not run:
        unreadable = [text for text in settings if isinstance(text, str)]
        if unreadable:
            raise UnsupportedFeature(
                f"without a run there is nothing to compare: {'; '.join(unreadable)}.",
                hint="Run the models, without run=False (--no-run).",
            )
        return Proof(
            not compared.differences,
            *names,
            ran=False,
            settings=compared.differences,
            unread=compared.unread,
            notes=notes,
        )
    search = Search(source, target, converted, linked, settings, registry, seed, tell)
    with hinting():
        proof = proof_of_runs(search, *names)
    blind = tuple(
        dict.fromkeys(text for side in (source, target) for text in blind_spots(side.inputs, side.model))
    )
    return replace(
        proof,
        settings=compared.differences,
        unread=compared.unread,
        blind=blind,
        notes=tuple(dict.fromkeys((*notes, *proof.notes))),
    )


def _with_inputs(inputs: Any, source: Side, target: Side, *, run: bool) -> tuple[Side, Side]:
    """Return both sides with inputs and weights; settings of many models can be read without inputs."""
    try:
        return with_given_inputs(inputs, source, target)
    except UsageError:
        if run or inputs is not None:
            raise
        with contextlib.suppress(UsageError):
            return source.with_inputs(Inputs()), target.with_inputs(Inputs())
        raise


def _settings_of(side: Side) -> Mapping[Key, ModuleSettings] | str:
    """Return the settings of a side's modules, or why there are none."""
    try:
        settings = side.settings()
    except (UsageError, UnsupportedFeature) as err:
        return f"all settings of the {side.what}: {err.message}"
    return (
        settings if settings is not None else f"all settings of the {side.what}: not offered by {side.layout}"
    )


def _compared(
    settings: tuple[Mapping[Key, ModuleSettings] | str, ...], sides: tuple[Side, Side], linked: LinkedPaths
) -> ComparedSettings:
    ours, theirs = settings
    if isinstance(ours, str) or isinstance(theirs, str):
        return ComparedSettings(unread=tuple(text for text in settings if isinstance(text, str)))
    return compared_settings(ours, theirs, linked)
