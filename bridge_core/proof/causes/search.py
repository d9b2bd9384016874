"""What one side's search for an expression sees, and when it accepts one."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from bridge_core.proof.causes.expressions import Expression, Step
from bridge_core.proof.causes.forms import Task
from bridge_core.proof.causes.measures import fits
from bridge_core.proof.causes.work import Work
from bridge_core.state import Array

__all__ = ["MAX_CHAINED", "POINTWISE", "Search", "accepted", "activation", "dropped_share"]

MAX_CHAINED = 6
"""Arrays on which chains of steps are tried; of two equal arrays one is tried."""

FEW = 256
"""Values by which most arrays are refuted."""

POINTWISE = (
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "tanh",
    "sigmoid",
    "quick_gelu",
    "relu6",
    "leaky_relu",
    "elu",
    "softplus",
    "mish",
    "hard_swish",
    "hard_sigmoid",
    "hard_tanh",
    "selu",
    "relu_squared",
    "exp",
)
"""Activations that are tried inside of chains."""


@dataclass(frozen=True, eq=False)
class Search:
    """What one side's search sees.

    Args:
        arrays: Common name -> array, cut to one sample where that is enough.
        observed: The array to explain, cut alike.
        bases: Names of the arrays that may be used, the likeliest first; of equal ones one.
        limit: Relative error up to which an expression is accepted.
        precision: Step of the observed dtype at 1.
        work: What may still be computed.
    """

    arrays: Mapping[str, Array]
    observed: Array
    bases: tuple[str, ...]
    limit: float
    precision: float
    work: Work = field(default_factory=Work)

    @functools.cached_property
    def few(self) -> Array:
        """Flat places, some of the largest values among them, by which other arrays are refuted."""
        flat = np.abs(self.observed.reshape(-1))
        return np.unique(
            np.append(np.linspace(0, flat.size - 1, min(FEW, flat.size)), np.argmax(flat)).astype(np.int64)
        )

    @functools.cached_property
    def seen(self) -> Array:
        """The observed values at a few places."""
        return np.asarray(self.observed.reshape(-1)[self.few])

    def at_few(self, array: Array) -> Array:
        """Return an array of the observed shape at a few places."""
        return np.asarray(array.reshape(-1)[self.few])

    def promises(self, values: Array) -> bool:
        """Return whether an array may be the observed one, or the observed one without what was dropped.

        Args:
            values: The array at a few places.
        """
        kept = self.seen != 0
        value, seen = values[kept], self.seen[kept]
        squares = float(np.dot(value, value))
        if not squares:
            return not seen.size
        factor = float(np.dot(value, seen)) / squares
        return bool(np.max(np.abs(factor * value - seen)) <= 2 * self.limit * float(np.max(np.abs(seen))))

    @property
    def weights(self) -> dict[str, Array]:
        """The weights by name."""
        return {n.removeprefix("weight "): a for n, a in self.arrays.items() if n.startswith("weight ")}

    def task(self, x: Array) -> Task:
        """Return a task for a family of steps."""
        return Task(x, self.observed, self.weights, (), self.limit, precision=self.precision, work=self.work)


def accepted(search: Search, value: Array, expression: Expression) -> Iterator[Expression]:
    """Yield the expression if its value is the observed array, with or without dropped values."""
    if value.shape != search.observed.shape:
        return
    if fits(value, search.observed, search.limit):
        yield expression
        return
    share = dropped_share(value, search.observed, search.limit)
    if share is not None:
        yield replace(expression, dropout=share, cost=expression.cost + 1)


def dropped_share(value: Array, observed: Array, limit: float) -> float | None:
    """Return the share p if the observed array is a value of which p was dropped, the rest over 1 - p."""
    dropped = (observed == 0) & (value != 0)
    share = float(np.mean(dropped)) / max(float(np.mean(value != 0)), 1e-9)
    if observed.size < 16 or not 0.01 < share < 0.99:
        return None
    kept, seen = value[~dropped], observed[~dropped]
    with np.errstate(all="ignore"):
        factor = float(np.sum(kept * seen) / np.sum(kept * kept))
        if not factor > 1 or not fits(factor * kept, seen, limit):
            return None
    rate = 1 - 1 / factor
    return float(f"{rate:.4g}") if abs(rate - share) < 0.25 else None


def activation(name: str) -> Step:
    """Return the step of an activation."""
    return ("activation", {"slope": None, "activation": name})
