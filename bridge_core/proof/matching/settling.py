"""Settles choices by running both models: one item changed at a time, everything else alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bridge_core.errors import MismatchError
from bridge_core.messages import listed
from bridge_core.plugins import Registry, given_registry
from bridge_core.proof.matching.alike_runs import AlikeRuns, Verdict, every_rule
from bridge_core.proof.matching.checking import with_checked_rules
from bridge_core.proof.matching.matching import Choice, Matching
from bridge_core.proof.matching.settled_choices import settle
from bridge_core.proof.running import Side

__all__ = ["settle_by_running"]


def settle_by_running(
    matching: Matching, source: Side, target: Side, *, registry: Registry | None = None, seed: int = 0
) -> Matching:
    """Return a matching with the choices settled that outputs depend on; the others say why they are not.

    Each item of a choice takes one run of the source and one of the target for each equation. A pair is taken
    if its outputs are equal within what rounding changes, and those of every other option are not.

    Args:
        matching: What headers, or values, showed; made of the weights of both models.
        source: The source's model, with inputs.
        target: The target's model, with inputs.
        registry: The plugins; None for all that are installed.
        seed: For random values.

    Raises:
        UsageError: A model cannot be run.
        MismatchError: The matching is not one of these models' weights.
    """
    registry = given_registry(registry)
    _require_same_names(matching, source, target)
    tried: list[tuple[Choice, str]] = []

    def is_untried(choice: Choice) -> bool:
        return all(choice is not known for known, _ in tried)

    while any(map(is_untried, matching.choices)):
        runs = AlikeRuns.of(matching, source, target, registry, seed)
        if isinstance(runs, str):
            return _explained(
                matching, dict.fromkeys(map(id, matching.choices), runs), source, target, registry
            )
        verdicts = {n: _verdict(runs, one) for n, one in enumerate(matching.choices) if is_untried(one)}
        tried += [(matching.choices[n], one.why) for n, one in verdicts.items() if not one.options]
        chosen = {n: one.options for n, one in verdicts.items() if one.options}
        if chosen:
            error = max(one.error for one in verdicts.values())
            matching = settle(
                matching,
                chosen,
                source=source.weights,
                target=target.weights,
                reason=f"by running (error {error:.0e})",
                registry=registry,
            )
    why = {id(choice): text for choice, text in tried}
    return _explained(matching, why, source, target, registry)


def _explained(
    matching: Matching, why: Mapping[int, str], source: Side, target: Side, registry: Registry
) -> Matching:
    """Return a matching whose open choices say why running has not settled them."""
    choices = []
    for choice in matching.choices:
        text = why.get(id(choice))
        choices.append(replace(choice, reason=f"{choice.reason}; {text}") if text else choice)
    explained = replace(matching, choices=tuple(choices))
    return with_checked_rules(explained, source.weights, target.weights, registry) if choices else explained


def _verdict(runs: AlikeRuns, choice: Choice) -> Verdict:
    """Return what runs show of a choice, in float64 where effects are small: that may take longer."""
    verdict = runs.settled(choice)
    if verdict.options or not verdict.is_faint:
        return verdict
    sharper = runs.sharper()
    return verdict if sharper is None else sharper.settled(choice)


def _require_same_names(matching: Matching, source: Side, target: Side) -> None:
    pairs = [
        *matching.pairs,
        *(p for choice in matching.choices for o in choice.options for p in every_rule(o)),
    ]
    for side, place in ((source, 0), (target, 1)):
        keys = {key for pair in pairs for use in pair.keys for key in use[place]}
        missing = [".".join(key) for key in keys if key not in side.weights]
        if missing:
            raise MismatchError(
                f"the {side.what} that was matched has {listed(sorted(missing))}, and its model has not.",
                missing=tuple(sorted(missing)),
                hint="Match the weights of the two models that are run.",
            )
