"""Searches the recorded runs of two models for the first module that differs, and for the causes there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bridge_core.plugins import ModelRun, ModuleSettings, Precision, Registry, cause_of
from bridge_core.proof.causes import Cause, find_causes
from bridge_core.proof.running.alignment import LinkedPaths, paired_calls
from bridge_core.proof.running.first_difference import Place, SideOfSite, first_place, site_of
from bridge_core.proof.running.models import Side
from bridge_core.proof.running.module_pairs import ModuleError, module_errors
from bridge_core.proof.running.proof_report import FirstDifference
from bridge_core.proof.running.weights import Converted, stacked_keys
from bridge_core.state import Key

__all__ = ["Found", "Search"]


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Args:
        limit: The error up to which arrays of modules are equal.
        modules: The errors of all modules that belong together, in the order of the source.
        first: The first module that differs; None if none does, or nothing was recorded.
        causes: What explains it, best first.
        notes: What could not be seen or tried, a sentence each.
    """

    limit: float
    modules: tuple[ModuleError, ...] = ()
    first: FirstDifference | None = None
    causes: tuple[Cause, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Search:
    """Both models with their weights.

    Args:
        source: The source's model.
        target: The target's model.
        made: The weights of both.
        linked: What the plan links.
        settings: The settings of each side's modules, or why there are none.
        registry: The plugins.
        seed: For random numbers that a model draws.
        tell: The caller's function; called with a few words as each stage begins.
    """

    source: Side
    target: Side
    made: Converted
    linked: LinkedPaths
    settings: tuple[Mapping[Key, ModuleSettings] | str, ...]
    registry: Registry
    seed: int
    tell: Callable[[str], None]
    _recorded: dict[Precision, tuple[ModelRun, ModelRun]] = field(default_factory=dict)

    def runs(self, precision: Precision) -> tuple[ModelRun, ModelRun]:
        """Return a run of each side with the calls of all its modules, made once for each precision."""
        if precision not in self._recorded:
            self.tell("recording what the modules compute")
            self._recorded[precision] = (
                self.source.run(self.made.source, trace=True, precision=precision, seed=self.seed),
                self.target.run(self.made.target, trace=True, precision=precision, seed=self.seed),
            )
        return self._recorded[precision]

    def found(self, precision: Precision, limit: float) -> Found:
        """Return the first module that differs, and the causes that computing confirms there.

        Args:
            precision: How both models compute.
            limit: The error up to which arrays are equal.
        """
        runs = self.runs(precision)
        notes = tuple(note for run in runs for note in run.notes)
        pairs = paired_calls(runs[0].calls, runs[1].calls, self.linked)
        errors = module_errors(pairs, limit)
        self.tell("looking for the first module that differs")
        place = first_place(errors, limit)
        if place is None:
            text = "The modules of one model were not recorded, so the first one that differs is unknown."
            return Found(limit, tuple(errors), notes=(*notes, text))
        causes, failure = self._causes(place, runs, limit)
        first = _first_difference(place, errors, limit)
        return Found(limit, tuple(errors), first, causes, (*notes, *failure))

    def _causes(
        self, place: Place, runs: tuple[ModelRun, ModelRun], limit: float
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
