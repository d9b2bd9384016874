"""Forms of pooling, and of activations, softcaps and scales: layers without weights."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from bridge_core.proof.causes.activations import ACTIVATIONS, activate
from bridge_core.proof.causes.forms import Candidate, Family, Settings, Task
from bridge_core.proof.causes.windows import AxisWindow, axis_windows, pooled, probe_positions
from bridge_core.state import Array

__all__ = ["ACTIVATION", "POOL", "pool_settings"]

HOW = ("max", "average", "average of inputs")


def _pool(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return a pooled array ``[n, out.., c]``, x ``[n, space.., c]``."""
    return pooled(x, _windows(settings), settings["how"])


def _windows(settings: Settings) -> list[AxisWindow]:
    return [
        AxisWindow(size, stride, 1, low, high)
        for size, stride, (low, high) in zip(
            settings["window"], settings["stride"], settings["padding"], strict=True
        )
    ]


def _pool_candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    if x.dtype.kind != "f" or x.ndim < 3 or observed.ndim != x.ndim:
        return
    if x.shape[0] != observed.shape[0] or x.shape[-1] != observed.shape[-1]:
        return
    places = [probe_positions(length) for length in observed.shape[1:-1]]
    channels = np.arange(min(4, x.shape[-1]))
    few = x[:1, ..., : len(channels)]
    small = observed[:1][np.ix_(np.zeros(1, int), *places, channels)]
    scale = float(np.max(np.abs(observed)))
    seen = few.shape[-1] * int(np.prod([len(place) for place in places]))
    for settings, cost in pool_settings(task, observed.shape[1:-1]):
        if not task.work.allows(few.size + 4 * seen * int(np.prod(settings["window"]))):
            return
        with np.errstate(all="ignore"):
            value = pooled(few, _windows(settings), settings["how"], places)
        if np.max(np.abs(value - small)) <= task.limit * scale:
            yield settings, cost


def pool_settings(
    task: Task, outputs: tuple[int, ...], windows: tuple[int, ...] = (2, 3, 4, 5, 7, 8)
) -> Iterator[Candidate]:
    """Yield settings of pools that give the axes of space these sizes, the usual ones first.

    Args:
        task: Its x is ``[n, space.., c]``.
        outputs: Sizes of the axes of space after it.
        windows: Sizes of windows that are tried in any case.
    """
    lengths = task.x.shape[1:-1]
    known = task.said("how")
    methods = {"max": HOW[:1], "average": HOW[1:]}.get(known[0] if known else "", HOW)
    stated = [n for said in task.said("window") for n in (said if isinstance(said, tuple) else (said,))]
    sizes = list(dict.fromkeys([n for n in stated if isinstance(n, int) and n > 0] + [*windows]))
    if all(length == 1 for length in outputs):
        for how in methods[:2]:
            yield _settings(how, [AxisWindow(n, n) for n in lengths]), 0.1 * HOW.index(how)
    for size in sizes:
        strides = list(dict.fromkeys([size, 2, 1, 3]))
        options = [
            [w for w in axis_windows(n, out, size, strides=strides) if 2 * max(w.low, w.high) <= size]
            for n, out in zip(lengths, outputs, strict=True)
        ]
        for chosen in itertools.islice(itertools.product(*options), 500):
            if len({w.stride for w in chosen}) > 1:
                continue
            padded = any(w.low or w.high for w in chosen)
            for how in methods:
                if how == HOW[2] and not padded:
                    continue
                lopsided = 0.1 * sum(w.low != w.high for w in chosen)
                yield _settings(how, list(chosen)), 0.1 * HOW.index(how) + lopsided


def _settings(how: str, windows: list[AxisWindow]) -> Settings:
    return {
        "how": how,
        "window": tuple(w.size for w in windows),
        "stride": tuple(w.stride for w in windows),
        "padding": tuple((w.low, w.high) for w in windows),
    }


def _activation(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    slope = settings["slope"]
    if slope is not None:
        return np.where(x > 0, x, weights[slope] * x)
    return activate(settings["activation"], x)


def _activation_candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    if x.dtype.kind != "f" or x.shape != observed.shape:
        return
    base = {"slope": None, "activation": None}
    stated = [name for name in task.said("activation") if isinstance(name, str)]
    names = [name for name in stated if name.partition("(")[0] in ACTIVATIONS]
    for place, name in enumerate(dict.fromkeys([*names, *ACTIVATIONS])):
        yield {**base, "activation": name}, 0.0 if name in names[:1] else 0.1 + 0.001 * place
    slope = fitted_slope(x, observed)
    if slope is not None:
        yield {**base, "activation": f"leaky_relu({slope:g})"}, 0.5
    for axis in range(-x.ndim, -1):
        yield {**base, "activation": f"softmax({axis})"}, 0.5
    for name, weight in task.weights.items():
        if weight.size in (1, x.shape[-1]):
            yield {**base, "slope": name, "activation": "prelu"}, 0.2


def fitted_slope(x: Array, observed: Array) -> float | None:
    """Return the slope of a leaky ReLU between two arrays of one shape; None if there are no negatives."""
    below = x < 0
    squares = float(np.sum(np.square(x[below])))
    if not squares:
        return None
    slope = float(np.sum(x[below] * observed[below]) / squares)
    return float(f"{slope:.4g}") if 1e-6 < slope < 0.999 else None


POOL = Family("pool", _pool_candidates, _pool)
ACTIVATION = Family("activation", _activation_candidates, _activation)
