"""Forms of normalisation: over what, centred or not, which variance, the epsilon and its place, the scale."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from bridge_core.proof.causes.forms import Candidate, Family, Settings, Task
from bridge_core.state import Array

__all__ = ["NORM"]

EPSILONS = (1e-5, 1e-6, 1e-12, 1e-3, 1e-8, 1e-7, 1e-4, 1e-2, 1e-10, 1e-15, 2e-5, 5e-5, 0.0)
"""Epsilons in use, the usual ones first."""

MAX_EPSILON = 2.0

FEW = 16
"""Rows, or channels, on which most settings are refuted."""


def compute(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return a normalised array.

    Args:
        x: float64, channels last.
        weights: Those that the settings name.
        settings: All of ``over`` (``"features"``, ``"group"``, ``"instance"``, ``"batch"``, ``"running"``,
            ``"sample"``), ``groups``, ``centred``, ``variance``, ``eps``, ``eps_place``, ``added`` (what is
            added to the scale), ``scale`` and ``bias`` (names of weights, or None).
    """
    centre, variance = _statistics(x, weights, settings)
    eps = settings["eps"]
    root = np.sqrt(variance + eps) if settings["eps_place"] == "inside" else np.sqrt(variance) + eps
    return np.asarray((x - centre) / root * _scale(x, weights, settings) + _bias(x, weights, settings))


def _scale(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    if settings["scale"] is None:
        return np.ones(())
    return np.asarray(settings["added"] + _fitted(weights[settings["scale"]], x))


def _bias(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    return np.zeros(()) if settings["bias"] is None else _fitted(weights[settings["bias"]], x)


def _fitted(weight: Array, x: Array) -> Array:
    return weight if weight.shape == x.shape[x.ndim - weight.ndim :] else weight.reshape(x.shape[-1])


def _statistics(x: Array, weights: Mapping[str, Array], settings: Settings) -> tuple[Array, Array]:
    """Return mean and variance, each of a shape that broadcasts against x."""
    over, centred = settings["over"], settings["centred"]
    if over == "running":
        return weights["mean"].reshape(-1), weights["var"].reshape(-1)
    if over == "group":
        groups = settings["groups"]
        cut = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
        axes = (*range(1, x.ndim - 1), cut.ndim - 1)
        centre, variance = _moments(cut, axes, centred, settings["variance"])
        spread = [np.broadcast_to(one, (*one.shape[:-1], cut.shape[-1])) for one in (centre, variance)]
        return tuple(one.reshape(*one.shape[:-2], x.shape[-1]) for one in spread)  # type: ignore[return-value]
    axes = {
        "features": (x.ndim - 1,),
        "instance": tuple(range(1, x.ndim - 1)),
        "batch": tuple(range(x.ndim - 1)),
        "sample": tuple(range(1, x.ndim)),
        "tokens": (x.ndim - 2,),
    }[over]
    return _moments(x, axes, centred, settings["variance"])


def _moments(x: Array, axes: tuple[int, ...], centred: bool, variance: str) -> tuple[Array, Array]:
    centre = np.mean(x, axis=axes, keepdims=True) if centred else np.zeros((1,) * x.ndim)
    total = np.mean(np.square(x - centre), axis=axes, keepdims=True)
    if variance == "unbiased":
        count = int(np.prod([x.shape[axis] for axis in axes]))
        if count < 2:
            raise ValueError("one value has no unbiased variance")
        total = total * (count / (count - 1))
    return np.broadcast_to(centre, total.shape), total


def _candidates(task: Task) -> Iterator[Candidate]:
    x = task.x
    if x.dtype.kind != "f" or x.shape != task.observed.shape or x.ndim < 2:
        return
    roles = list(_roles(task))
    structures = []
    for (over, groups, first), (scale, bias, second) in itertools.product(_overs(task), roles):
        for offset in (0, 1) if scale is not None else (0,):
            for centred in (True, False) if over != "running" else (True,):
                for variance in ("biased", "unbiased") if over != "running" else ("biased",):
                    for place in ("inside", "outside"):
                        settings = {
                            "over": over,
                            "groups": groups,
                            "centred": centred,
                            "variance": variance,
                            "eps": 0.0,
                            "eps_place": place,
                            "added": offset,
                            "scale": scale,
                            "bias": bias,
                        }
                        cost = first + second + offset + (variance != "biased") + 1.5 * (place != "inside")
                        structures.append((settings, cost + 0.5 * (not centred)))
    for settings, cost in sorted(structures, key=lambda pair: pair[1]):
        if task.work.left <= 0:
            return
        yield from _with_epsilon(task, settings, cost)


def _overs(task: Task) -> Iterator[tuple[str, int, float]]:
    """Yield over what may be normalised, with the number of groups, and how unusual it is."""
    channels = task.x.shape[-1]
    name = task.type.lower()
    usual = "features"
    if task.kind == "batch_norm" or "batchnorm" in name:
        usual = "running"
    elif "group" in name:
        usual = "group"
    elif "instance" in name:
        usual = "instance"
    options: list[tuple[str, int]] = [("features", 1)]
    if all(n in task.weights and task.weights[n].size == channels for n in ("mean", "var")):
        options += [("running", 1)]
    options += [("batch", 1)]
    if task.x.ndim > 2:
        options += [("instance", 1), ("sample", 1), ("tokens", 1)]
    groups = [n for n in task.said("groups") if isinstance(n, int)]
    groups += [n for n in (32, 16, 8, 4, 2, 6, 3) if n < channels]
    groups += [channels] if usual == "group" else []
    options += [("group", n) for n in dict.fromkeys(groups) if 1 < n <= channels and channels % n == 0]
    for over, number in options:
        yield over, number, 0.0 if over == usual else 1.0


def _roles(task: Task) -> Iterator[tuple[str | None, str | None, float]]:
    """Yield which weights may be the scale and the bias."""
    shape = task.x.shape
    usable = [
        name
        for name, weight in task.weights.items()
        if name not in ("mean", "var")
        and weight.size > 1
        and (weight.size == shape[-1] or weight.shape == shape[len(shape) - weight.ndim :])
    ][:4]
    scale = "scale" if "scale" in usable else None
    bias = "bias" if "bias" in usable else None
    for one, other in itertools.product([*usable, None], repeat=2):
        if one is not None and one == other:
            continue
        named = (one == scale or scale is None) + (other == bias or bias is None)
        yield one, other, (2 - named) + 0.25 * ((one is None) + (other is None)) * bool(usable)


def _with_epsilon(task: Task, settings: Settings, cost: float) -> Iterator[Candidate]:
    """Yield settings with the epsilon that fits, if one does: those stated, those in use, the number."""
    if not _reproduces(_few(task, settings), settings) or not (eps := _reproduces(task, settings)):
        return
    stated = [float(value) for value in task.said("eps") if isinstance(value, int | float)]
    for place, value in enumerate(dict.fromkeys([*stated, *EPSILONS])):
        yield {**settings, "eps": value}, cost + (0.0 if value in stated[:1] else 0.1 + 0.01 * place)
    yield {**settings, "eps": float(f"{eps:.2g}")}, cost + 0.5
    yield {**settings, "eps": eps}, cost + 1.0


def _reproduces(task: Task, settings: Settings) -> float:
    """Return the epsilon with which settings give the observed array, 1e-300 for none; 0 if they do not."""
    eps = _fit(task, settings) if task.work.allows(8 * task.x.size) else None
    if eps is None:
        return 0.0
    with np.errstate(all="ignore"):
        value = compute(task.x, task.weights, {**settings, "eps": eps})
        error = np.max(np.abs(value - task.observed))
    return max(eps, 1e-300) if error <= 2 * task.limit * np.max(np.abs(task.observed)) else 0.0


def _few(task: Task, settings: Settings) -> Task:
    """Return the part of a task on which settings can be refuted with less work."""
    x, observed, weights = task.x, task.observed, task.weights
    if settings["over"] in ("group", "sample"):
        return replace(task, x=x[:1], observed=observed[:1])
    channels = x.shape[-1]
    if settings["over"] == "features":
        if any(w.shape not in ((), (channels,)) for w in weights.values()):
            return task
        step = max(1, x.size // channels // FEW)
        rows = [array.reshape(-1, channels)[::step] for array in (x, observed)]
        return replace(task, x=rows[0], observed=rows[1])
    few = {n: w.reshape(-1)[:FEW] if w.size == channels else w for n, w in weights.items()}
    return replace(task, x=x[..., :FEW], observed=observed[..., :FEW], weights=few)


def _fit(task: Task, settings: Settings) -> float | None:
    """Return the epsilon with which the form is nearest to the observed array; None if there is none."""
    x, weights = task.x, task.weights
    with np.errstate(all="ignore"):
        try:
            centre, variance = _statistics(x, weights, settings)
            form = (x - centre) * _scale(x, weights, settings)
            seen = task.observed - _bias(x, weights, settings)
        except (ValueError, IndexError, KeyError):
            return None
        statistic = np.broadcast_to(variance, np.broadcast_shapes(variance.shape, (1,) * x.ndim))
        axes = tuple(a for a in range(x.ndim) if statistic.shape[a] == 1 and x.shape[a] > 1)
        products = np.sum(seen * form, axis=axes, keepdims=True)
        squares = np.sum(np.square(form), axis=axes, keepdims=True)
        root = squares / products
        offs = np.square(root) - statistic if settings["eps_place"] == "inside" else root - np.sqrt(statistic)
        weight = np.square(1 / np.maximum(statistic, 1e-12))
        usable = np.isfinite(offs) & np.isfinite(weight) & (root > 0)
        if not usable.any():
            return None
        eps = float(np.sum(np.where(usable, offs * weight, 0)) / np.sum(np.where(usable, weight, 0)))
    return max(eps, 0.0) if -1e-3 < eps < MAX_EPSILON else None


NORM = Family("norm", _candidates, compute)
