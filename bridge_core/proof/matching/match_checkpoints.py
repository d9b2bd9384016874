"""The call that users make: two checkpoints, or models, to proposed rules."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bridge_core.conversion import known_module, load_factory, opened
from bridge_core.errors import UsageError
from bridge_core.plugins import Registry, given_registry
from bridge_core.proof.matching.match_states import match_states
from bridge_core.proof.matching.matching import Matching
from bridge_core.state import FlatState

if TYPE_CHECKING:
    from bridge_core.proof.running import Side as RunSide

__all__ = ["match"]


def match(
    source: Any = None,
    *,
    like: Any = None,
    source_model: Any = None,
    model: Any = None,
    layout: str | None = None,
    like_layout: str | None = None,
    entry: str | None = None,
    step: int | None = None,
    by_values: bool = False,
    prove: bool = False,
    inputs: Any = None,
    registry: Registry | None = None,
) -> Matching:
    """Return proposed rules from a source to a target, only by names, shapes and trees.

    Only headers are read. A pair is decided only if every assignment that fits the evidence has it; what
    headers do not show is a choice, and stays in the rule file as a comment. ``by_values`` and ``prove``
    decide choices by more than headers.

    Args:
        source: A path, a state, a mapping from keys to arrays, or a live object. None takes the weights of
            ``source_model``.
        like: The same for the target. None takes the weights of ``model``.
        source_model: A live model of the source's framework, or ``"PKG.MOD:FUNCTION"`` that returns one: its
            module types are evidence. None for none.
        model: The same of the target's framework.
        layout: The source's layout; None for the one that it records or that its names show.
        like_layout: The target's layout, likewise.
        entry: The entry of the source, as for `bridge_core.open_state`.
        step: The step of the source, likewise.
        by_values: Whether to decide choices by the values of both sides: of one checkpoint in both forms, or
            of two steps of one training run.
        prove: Whether to decide choices by running both models on random values.
        inputs: What both are called with, as for `bridge_core.proof.running.prove`; None for what one offers.
        registry: The plugins; None for all that are installed.

    Raises:
        UsageError: A side is not given, is of no known kind, or its layout is not known.
        MismatchError: Models are run that have other names than the weights that are matched.
        BadInputError: A file is damaged or unsafe.
        SourceNotFound: A path does not exist.
    """
    registry = given_registry(registry)
    models = [load_factory(value) if isinstance(value, str) else value for value in (source_model, model)]
    running = _running(models, inputs, registry, prove=prove)
    with ExitStack() as stack:
        sides: list[FlatState] = []
        for value, live, asked, what in (
            (source, models[0], layout, "source"),
            (like, models[1], like_layout, "target"),
        ):
            if value is None and live is None:
                option = "source= or source_model= (--source-model)" if what == "source" else "like= (--like)"
                raise UsageError(f"the {what} is not given.", hint=f"Pass {option}.")
            weights = running[len(sides)].weights if running else live
            given = weights if value is None else value
            is_source = what == "source" and value is not None
            place = (entry, step) if is_source else (None, None)
            state = stack.enter_context(
                opened(given, registry, layout=asked, what=what, entry=place[0], step=place[1])
            )
            if not state:
                raise UsageError(f"the {what} holds no tensor.", hint=f"Give weights as the {what}.")
            if live is not None and value is not None:
                state = known_module(state, live, registry)
            sides.append(state)
        matching = match_states(sides[0], sides[1], registry)
        if by_values:
            from bridge_core.proof.matching.by_values import settle_by_values

            matching = settle_by_values(matching, sides[0], sides[1], registry=registry)
        if running:
            from bridge_core.proof.matching.settling import settle_by_running

            matching = settle_by_running(matching, *running, registry=registry)
        return matching


def _running(models: list[Any], inputs: Any, registry: Registry, *, prove: bool) -> tuple[RunSide, ...]:
    """Return both models with their inputs, if they are to be run."""
    if not prove:
        if inputs is not None:
            raise UsageError(
                "inputs are given, and no model is run.", hint="Pass prove=True (--prove), or no inputs."
            )
        return ()
    from bridge_core.proof.running import model_side, with_given_inputs

    source = model_side(models[0], "source", registry)
    return with_given_inputs(inputs, source, model_side(models[1], "target", registry))
