"""Runs two models on the same weights, and finds where and why their outputs differ."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bridge_core.errors import MismatchError, UnsupportedFeature, UsageError
from bridge_core.messages import listed
from bridge_core.plugins import ModelRun, ModuleSettings, Precision, Registry, cause_of, given_registry
from bridge_core.proof.causes import Cause, find_causes
from bridge_core.proof.running.alignment import LinkedPaths, linked_paths, paired_calls
from bridge_core.proof.running.control import Control, measured_control
from bridge_core.proof.running.first_difference import Place, SideOfSite, first_place, site_of
from bridge_core.proof.running.inputs import blind_spots, hints_of_inputs, with_given_inputs
from bridge_core.proof.running.models import Side, model_side
from bridge_core.proof.running.module_pairs import ModuleError, module_errors
from bridge_core.proof.running.outputs import Outputs, compared_outputs, not_finite
from bridge_core.proof.running.proof_report import FirstDifference, ModelName, Proof
from bridge_core.proof.running.restless import restless_cause
from bridge_core.proof.running.setting_differences import ComparedSettings, compared_settings
from bridge_core.proof.running.updates import compared_updates
from bridge_core.proof.running.weights import Converted, converted_weights, source_values, stacked_keys
from bridge_core.public import require_bool
from bridge_core.rules import Allowed, Rules
from bridge_core.state import Key, join_key

if TYPE_CHECKING:
    from bridge_core.conversion.recipes import GivenRecipe
else:
    GivenRecipe = Any

__all__ = ["prove"]

_SHARP = 1e-10
"""Relative error of a float64 run up to which arrays are equal in any case."""


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
    source, target = with_given_inputs(inputs, source, target)
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
    with hinting():
        converted = converted_weights(values, target, registry, seed=seed, run=run, **asked)
    linked = linked_paths(converted.plan, source, target, values)
    tell("comparing settings")
    settings = (_settings_of(source), _settings_of(target))
    compared = _compared(settings, (source, target), linked)
    names = (
        ModelName(source.layout, type(source.model).__name__),
        ModelName(target.layout, type(target.model).__name__),
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
    proving = _Proving(source, target, converted, linked, settings, registry, seed, tell)
    with hinting():
        proof = proving.proof(*names)
    blind = tuple(dict.fromkeys((*blind_spots(source.inputs), *blind_spots(target.inputs))))
    return replace(
        proof,
        settings=compared.differences,
        unread=compared.unread,
        blind=blind,
        notes=tuple(dict.fromkeys((*notes, *proof.notes))),
    )


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


@dataclass(frozen=True, eq=False)
class _Proving:
    """The run of a proof: both sides with their weights."""

    source: Side
    target: Side
    made: Converted
    linked: LinkedPaths
    settings: tuple[Mapping[Key, ModuleSettings] | str, ...]
    registry: Registry
    seed: int
    tell: Callable[[str], None]

    def proof(self, source: ModelName, target: ModelName) -> Proof:
        """Return what running both shows."""
        self.tell("running the source")
        ours = measured_control(self.source, self.made.source, seed=self.seed)
        self.tell("running the target")
        theirs = measured_control(self.target, self.made.target, seed=self.seed)
        control = ours.error + theirs.error
        outputs = compared_outputs(ours.native.outputs, theirs.native.outputs, control)
        problems = _problems(ours.native, theirs.native)
        sharp = self._sharp(ours, theirs)
        restless = self._restless(ours, theirs, control)
        theirs_settings = self.settings[1] if not isinstance(self.settings[1], str) else {}
        updates = compared_updates(
            self.made, ours.native, theirs.native, self.target, theirs_settings, control
        )
        same = outputs.error <= control and not problems and not restless
        equal = same and not updates.problems
        known = Proof(
            equal,
            source,
            target,
            outputs=outputs,
            control=control,
            controls=(ours.error, theirs.error),
            error_in_float64=None if sharp is None else sharp.error,
            problems=(*problems, *(cause.text for cause in restless), *updates.problems),
            causes=(*restless, *(updates.causes if same else ())),
            limit=control,
            notes=(*_run_notes(ours, theirs, sharp, equal, control), *updates.notes),
        )
        if same or restless:
            return known
        return self._with_first_difference(known, sharp)

    def _sharp(self, ours: Control, theirs: Control) -> Outputs | None:
        """Return the outputs of both runs in float64, compared; None if one is not offered."""
        if ours.float64 is None or theirs.float64 is None:
            return None
        try:
            return compared_outputs(ours.float64.outputs, theirs.float64.outputs, _SHARP)
        except MismatchError:
            return None

    def _restless(self, ours: Control, theirs: Control, control: float) -> tuple[Cause, ...]:
        self.tell("running both again with another seed")
        causes = (
            restless_cause(self.source, self.made.source, ours.native, control, seed=self.seed),
            restless_cause(self.target, self.made.target, theirs.native, control, seed=self.seed),
        )
        return tuple(cause for cause in causes if cause is not None)

    def _with_first_difference(self, known: Proof, sharp: Outputs | None) -> Proof:
        """Trace both, find the first module that differs, and look for causes there."""
        precision: Precision = "native"
        limit = known.control
        if sharp is not None and sharp.error > _SHARP:
            precision = "float64"
            limit = min(known.control, max(_SHARP, 1e-2 * sharp.error))
        self.tell("recording what the modules compute")
        runs = [
            side.run(weights, trace=True, precision=precision, seed=self.seed)
            for side, weights in ((self.source, self.made.source), (self.target, self.made.target))
        ]
        notes = tuple(note for run in runs for note in run.notes)
        pairs = paired_calls(runs[0].calls, runs[1].calls, self.linked)
        errors = module_errors(pairs, limit)
        self.tell("looking for the first module that differs")
        place = first_place(errors, limit)
        known = replace(known, modules=tuple(errors), limit=limit, notes=(*known.notes, *notes))
        if place is None:
            text = "The modules of one model were not recorded, so the first one that differs is unknown."
            return replace(known, notes=(*known.notes, text))
        causes, failure = self._causes(place, runs, limit)
        return replace(
            known,
            first=_first_difference(place, errors, limit),
            causes=causes,
            notes=(*known.notes, *failure),
        )

    def _causes(
        self, place: Place, runs: list[ModelRun], limit: float
    ) -> tuple[tuple[Cause, ...], tuple[str, ...]]:
        """Return the causes, and a note where looking for them failed."""
        sides = []
        for side, weights, run, settings, stacked in zip(
            (self.source, self.target),
            (self.made.source, self.made.target),
            runs,
            self.settings,
            stacked_keys(self.made.plan),
            strict=True,
        ):
            readable = None if isinstance(settings, str) else settings
            sides.append(SideOfSite.of(side, weights, run.calls, readable, self.registry, stacked))
        site = site_of(place, sides[0], sides[1], limit)
        if site is None:
            return (), ()
        self.tell("trying known causes")
        try:
            return tuple(find_causes(site)), ()
        except Exception as err:  # the place is known, and is told in any case
            text = f"Trying known causes failed with {cause_of(err)}. This is a mistake in ckptbridge."
            return (), (text,)


def _problems(source: ModelRun, target: ModelRun) -> tuple[str, ...]:
    """Return what makes outputs unequal whatever their error is."""
    return tuple(
        f"The {what} returns {kinds} in {name or 'its output'}, which cannot be compared."
        for what, run in (("source", source), ("target", target))
        for name, kinds in not_finite(run.outputs).items()
    )


def _run_notes(
    ours: Control, theirs: Control, sharp: Outputs | None, equal: bool, control: float
) -> tuple[str, ...]:
    notes = [*ours.native.notes, *theirs.native.notes]
    for what, side in (("source", ours), ("target", theirs)):
        notes += [f"The control of the {what} is without a run: {text}" for text in side.missing]
        if side.native.updates:
            keys = listed(map(join_key, side.native.updates))
            notes.append(f"The {what} ran in training mode: it changed {keys}.")
    if equal and sharp is not None and sharp.error > _SHARP and sharp.error > 1e-3 * control:
        notes.append(
            f"In float64 the outputs differ by {sharp.error:.1e}, which is below the rounding of the "
            "models: a small difference of settings, or a cast to float32 inside one of them."
        )
    return tuple(notes)


def _first_difference(place: Place, errors: list[ModuleError], limit: float) -> FirstDifference:
    outer, at = place.outer, place.at
    began = (at or outer).pair.source[0].began
    equal = sum(
        one.outputs is not None and one.outputs <= limit for one in errors if one.pair.source[0].began < began
    )
    return FirstDifference(
        outer.source,
        outer.target,
        outer.pair.source[0].type,
        outer.pair.target[0].type,
        outer.inputs,
        outer.outputs if outer.outputs is not None else float("nan"),
        (at.source, at.target) if at is not None else None,
        equal,
        len(place.inner),
    )
