"""Runs both models of a proof, and decides: equal, or different and where."""

from __future__ import annotations

from dataclasses import replace

from bridge_core.errors import MismatchError
from bridge_core.messages import listed
from bridge_core.plugins import ModelRun
from bridge_core.proof.causes import Cause
from bridge_core.proof.running.control import Control, measured_control
from bridge_core.proof.running.hidden import SHARP, hidden_difference
from bridge_core.proof.running.outputs import Outputs, compared_outputs, not_finite, of_other_sizes
from bridge_core.proof.running.proof_report import ModelName, Proof
from bridge_core.proof.running.restless import restless_cause
from bridge_core.proof.running.search import Found, Search
from bridge_core.proof.running.uneven import Uneven, precision_cause, rounding_of_calls, uneven_rounding
from bridge_core.proof.running.updates import compared_updates
from bridge_core.state import join_key

__all__ = ["proof_of_runs"]


def proof_of_runs(search: Search, source: ModelName, target: ModelName) -> Proof:
    """Return what running both models shows.

    Args:
        search: Both models with their weights.
        source: Name of the source's model.
        target: Name of the target's.
    """
    search.tell("running the source")
    ours = measured_control(search.source, search.made.source, seed=search.seed)
    search.tell("running the target")
    theirs = measured_control(search.target, search.made.target, seed=search.seed)
    uneven = uneven_rounding(ours, theirs)
    control = ours.error + theirs.error if uneven is None else uneven.limit
    try:
        outputs = compared_outputs(ours.native.outputs, theirs.native.outputs, control)
    except MismatchError as err:
        return _of_other_sizes(search, ours, theirs, source, target, err)
    problems = _problems(ours.native, theirs.native)
    sharp = _sharp(ours, theirs)
    restless = _restless(search, ours, theirs)
    settings = search.settings[1] if not isinstance(search.settings[1], str) else {}
    updates = compared_updates(search.made, ours.native, theirs.native, search.target, settings, control)
    same = outputs.error <= control and not problems and not restless
    known = Proof(
        same and not updates.problems,
        source,
        target,
        outputs=outputs,
        control=control,
        controls=(ours.error, theirs.error),
        error_in_float64=None if sharp is None else sharp.error,
        problems=(*problems, *(cause.text for cause in restless), *updates.problems),
        causes=(*restless, *(updates.causes if same else ())),
        limit=control,
        notes=(*_run_notes(ours, theirs), *updates.notes),
    )
    if restless:
        return known
    if same:
        return _with_hidden(known, search, sharp)
    if sharp is not None and sharp.error > max(SHARP, 0.0 if uneven is None else control):
        limit = min(ours.error + theirs.error, max(SHARP, 1e-2 * sharp.error))
        return _with(known, search.found("float64", limit))
    if uneven is None:
        return _with(known, search.found("native", control))
    return _with_precision(known, search, uneven)


def _of_other_sizes(
    search: Search,
    ours: Control,
    theirs: Control,
    source: ModelName,
    target: ModelName,
    refusal: MismatchError,
) -> Proof:
    """Return the proof where no output can be compared, if a module inside is the reason; else refuse."""
    control = ours.error + theirs.error
    found = search.found("native", control)
    if found.first is None or (found.first.source, found.first.before) == ("", None):
        raise refusal
    known = Proof(
        False,
        source,
        target,
        outputs=of_other_sizes(ours.native.outputs, theirs.native.outputs),
        control=control,
        controls=(ours.error, theirs.error),
        notes=_run_notes(ours, theirs),
    )
    return _with(known, found)


def _with(known: Proof, found: Found) -> Proof:
    return replace(
        known,
        modules=found.modules,
        first=found.first,
        causes=found.causes,
        limit=found.limit,
        notes=(*known.notes, *found.notes),
    )


def _with_hidden(known: Proof, search: Search, sharp: Outputs | None) -> Proof:
    """Add what rounding hides; where nothing is found, only that float64 differs."""
    if sharp is None or sharp.error <= SHARP:
        return known
    hidden = hidden_difference(search, sharp.error)
    if hidden is not None:
        return replace(known, hidden=hidden)
    if sharp.error <= 1e-3 * known.control:
        return known
    text = (
        f"In float64 the outputs differ by {sharp.error:.1e}, which is below the rounding of the "
        "models: a small difference of settings, or a cast to float32 inside one of them."
    )
    return replace(known, notes=(*known.notes, text))


def _with_precision(known: Proof, search: Search, uneven: Uneven) -> Proof:
    """Add the first module that differs where one of the models rounds more coarsely."""
    rounding = [
        rounding_of_calls(native.calls, sharp.calls)
        for native, sharp in zip(search.runs("native"), search.runs("float64"), strict=True)
    ]
    finer = max(rounding[0 if uneven.coarse == "target" else 1].values(), default=0.0)
    found = search.found("native", max(uneven.limit, min(uneven.factor * finer, uneven.coarse_error)))
    causes = found.causes
    if not [cause for cause in causes if cause.target != "unknown"]:
        causes = (precision_cause(known, search, uneven, found),)
    return replace(_with(known, found), causes=causes, problems=(*known.problems, uneven.text))


def _sharp(ours: Control, theirs: Control) -> Outputs | None:
    """Return the outputs of both runs in float64, compared; None if one is not offered."""
    if ours.float64 is None or theirs.float64 is None:
        return None
    try:
        return compared_outputs(ours.float64.outputs, theirs.float64.outputs, SHARP)
    except MismatchError:
        return None


def _restless(search: Search, ours: Control, theirs: Control) -> tuple[Cause, ...]:
    search.tell("running both again with another seed")
    limit = ours.error + theirs.error
    causes = (
        restless_cause(search.source, search.made.source, ours.native, limit, seed=search.seed),
        restless_cause(search.target, search.made.target, theirs.native, limit, seed=search.seed),
    )
    return tuple(cause for cause in causes if cause is not None)


def _problems(source: ModelRun, target: ModelRun) -> tuple[str, ...]:
    """Return what makes outputs unequal whatever their error is."""
    return tuple(
        f"The {what} returns {kinds} in {name or 'its output'}, which cannot be compared."
        for what, run in (("source", source), ("target", target))
        for name, kinds in not_finite(run.outputs).items()
    )


def _run_notes(ours: Control, theirs: Control) -> tuple[str, ...]:
    notes = [*ours.native.notes, *theirs.native.notes]
    for what, side in (("source", ours), ("target", theirs)):
        notes += [f"The control of the {what} is without a run: {text}" for text in side.missing]
        if side.native.updates:
            keys = listed(map(join_key, side.native.updates))
            notes.append(f"The {what} ran in training mode: it changed {keys}.")
    return tuple(notes)
