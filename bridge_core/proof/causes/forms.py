"""Forms: hypotheses of how an observed array is computed, each with named settings, accepted by computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge_core.proof.causes.measures import fits, relative_error, typical_error
from bridge_core.proof.causes.work import Work
from bridge_core.state import Array

__all__ = ["Candidate", "Family", "Form", "Task", "closest", "identify", "near_best"]

Settings = Mapping[str, Any]
Candidate = tuple[Settings, float]
"""Settings, and how unusual they are (0: what the module states, or the default)."""


@dataclass(frozen=True, eq=False)
class Task:
    """An array to explain: what a family sees of one side.

    Args:
        x: float64 (or int64) array that the layer was called with, channels last.
        observed: float64 array that came out.
        weights: Common name -> float64 array.
        stated: The settings that the module states, then those of the other side's module.
        limit: Relative error up to which a form is accepted.
        kind: Name of the layer kind; None if unknown.
        type: Last part of the name of the module's class.
        precision: Step of the observed dtype at 1.
        work: What may still be computed for it.
    """

    x: Array
    observed: Array
    weights: Mapping[str, Array]
    stated: tuple[Settings, ...] = ()
    limit: float = 1e-5
    kind: str | None = None
    type: str = ""
    precision: float = 2.0**-23
    work: Work = field(default_factory=Work)

    def said(self, name: str) -> list[Any]:
        """Return the values of a setting that the modules state, the own one first."""
        return list(dict.fromkeys(str_safe(one[name]) for one in self.stated if one.get(name) is not None))


def str_safe(value: Any) -> Any:
    """Return a stated value in a form that can be a key: lists become tuples."""
    return tuple(str_safe(part) for part in value) if isinstance(value, list | tuple) else value


@dataclass(frozen=True, eq=False)
class Form:
    """Settings that reproduce an observed array.

    Args:
        settings: Name -> value, all of the family's.
        cost: How unusual they are.
        error: Largest error relative to the largest observed value.
        typical: Root of the mean squared error, relative to the same.
    """

    settings: Settings
    cost: float
    error: float
    typical: float


@dataclass(frozen=True, eq=False)
class Family:
    """Forms that differ in settings only.

    Args:
        name: Name of the family.
        candidates: Yields settings for a task, and how unusual they are; it may fit numbers.
        compute: (x, weights, settings) -> array.
        sketch: Returns a task with fewer values on which the wrong settings fail as well.
    """

    name: str
    candidates: Callable[[Task], Iterator[Candidate]]
    compute: Callable[[Array, Mapping[str, Array], Settings], Array]
    sketch: Callable[[Task], Task] = field(default=lambda task: task)


def identify(family: Family, task: Task, *, most: int = 4000) -> list[Form]:
    """Return the forms of a family that reproduce the observed array to rounding, the likeliest first.

    Args:
        family: The forms to try.
        task: What was seen.
        most: Candidates that are tried at most.
    """
    small = family.sketch(task)
    accepted: list[Form] = []
    for place, (settings, cost) in enumerate(family.candidates(small)):
        if place >= most or not task.work.allows(4 * max(small.x.size, small.observed.size)):
            break
        value = _computed(family, small, settings)
        if value is None or not fits(value, small.observed, small.limit):
            continue
        accepted.append(_form(settings, cost, value, small.observed))
    forms = near_best(accepted, task.precision)
    if small is not task:
        full = [(form, _computed(family, task, form.settings)) for form in forms[:20]]
        forms = [
            _form(form.settings, form.cost, value, task.observed)
            for form, value in full
            if value is not None and fits(value, task.observed, task.limit)
        ]
    return near_best(forms, task.precision)


def _computed(family: Family, task: Task, settings: Settings) -> Array | None:
    with np.errstate(all="ignore"):
        try:
            return family.compute(task.x, task.weights, settings)
        except (ValueError, IndexError, KeyError, ZeroDivisionError):  # a form that these shapes do not fit
            return None


def _form(settings: Settings, cost: float, value: Array, observed: Array) -> Form:
    return Form(settings, cost, relative_error(observed, value), typical_error(observed, value))


def near_best(forms: list[Form], precision: float) -> list[Form]:
    """Return the forms with about the smallest typical error, the least unusual first."""
    if not forms:
        return []
    best = max(1.5 * min(form.typical for form in forms), precision / 4)
    return sorted((form for form in forms if form.typical <= best), key=lambda form: form.cost)


def closest(source: list[Form], target: list[Form]) -> tuple[Form, Form] | None:
    """Return one form of each side, with the fewest settings that differ, then the least unusual ones."""
    pairs = [(one, other) for one in source[:20] for other in target[:20]]
    if not pairs:
        return None

    def distance(pair: tuple[Form, Form]) -> tuple[int, float]:
        one, other = pair
        return len(differing(one.settings, other.settings)), one.cost + other.cost

    return min(pairs, key=distance)


def differing(source: Settings, target: Settings) -> list[str]:
    """Return the names of the settings that differ, in the source's order."""
    return [name for name in source if source[name] != target.get(name)]
