"""Forms of convolutions: stride, dilation, padding and what it holds, the order of the kernel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np

from bridge_core.proof.causes.forms import Candidate, Family, Settings, Task
from bridge_core.proof.causes.windows import MODES, AxisWindow, axis_windows, convolve, probe_positions
from bridge_core.state import Array

__all__ = ["CONV"]


def compute(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return a convolved array ``[n, out.., c]``.

    Args:
        x: ``[n, space.., in]``.
        weights: The kernel ``[size.., in, out]`` and the bias that the settings name.
        settings: ``stride``, ``dilation``, ``padding`` (for each axis), ``padding_mode``, ``flipped``,
            ``swapped`` (axes of space of the kernel), ``bias`` (how often it is added), ``spread``.
    """
    return _at(x, weights, settings, None)


def _at(x: Array, weights: Mapping[str, Array], settings: Settings, places: list[Array] | None) -> Array:
    kernel = weights[settings["kernel"]]
    space = kernel.ndim - 2
    if settings["swapped"]:
        kernel = kernel.transpose(*range(space)[::-1], space, space + 1)
    if settings["flipped"]:
        kernel = np.flip(kernel, tuple(range(space)))
    windows = [
        AxisWindow(size, stride, dilation, low, high, settings["spread"])
        for size, stride, dilation, (low, high) in zip(
            kernel.shape, settings["stride"], settings["dilation"], settings["padding"], strict=False
        )
    ]
    value = convolve(x, kernel, windows, settings["padding_mode"], places)
    return value + settings["bias"] * weights["bias"] if settings["bias"] else value


def _candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    names = [name for name, w in task.weights.items() if w.ndim == x.ndim and w.ndim > 2 and name != "bias"]
    if x.dtype.kind != "f" or not names or observed.ndim != x.ndim or observed.shape[0] != x.shape[0]:
        return
    kernel = task.weights[names[0]]
    space = kernel.ndim - 2
    if kernel.shape[-1] != observed.shape[-1]:
        return
    places = [probe_positions(length) for length in observed.shape[1:-1]]
    small = observed[:1][np.ix_(np.zeros(1, int), *places, np.arange(observed.shape[-1]))]
    scale = float(np.max(np.abs(observed)))
    usual_spread = task.kind == "conv_transpose" or "Transpose" in task.type
    hits = 0
    square = space > 1 and len(set(kernel.shape[:space])) == 1
    windows_of = list(_windows(task, kernel, usual_spread))
    kernels = itertools.product((False, True) if square else (False,), (False, True), MODES)
    for swapped, flipped, mode in sorted(
        kernels, key=lambda one: 2 * one[0] + 2 * one[1] + MODES.index(one[2])
    ):
        for windows, odd in windows_of:
            padded = any(w.low or w.high for w in windows)
            if mode != "zeros" and (usual_spread or not padded):
                continue
            settings = {
                "kernel": names[0],
                "stride": tuple(w.stride for w in windows),
                "dilation": tuple(w.dilation for w in windows),
                "padding": tuple((w.low, w.high) for w in windows),
                "padding_mode": mode,
                "flipped": flipped,
                "swapped": swapped,
                "bias": 0,
                "spread": usual_spread,
            }
            if not task.work.allows(x[:1].size + small.size * kernel[..., 0].size):
                return
            with np.errstate(all="ignore"):
                value = _at(x[:1], task.weights, settings, places)
            for times in (1, 0, 2) if "bias" in task.weights else (0,):
                biased = value + times * task.weights["bias"] if times else value
                if np.max(np.abs(biased - small)) <= task.limit * scale:
                    cost = odd + 2 * swapped + 2 * flipped + MODES.index(mode) + 0.5 * times
                    yield {**settings, "bias": times}, float(cost)
                    hits += 1
        if hits:  # another order of the kernel does not compute the same
            return


def _windows(task: Task, kernel: Array, spread: bool) -> Iterator[tuple[tuple[AxisWindow, ...], float]]:
    """Yield windows of all axes that give the observed size; those that are alike on all axes first."""
    space = kernel.ndim - 2
    numbers = []
    for name, usual in (("stride", (1, 2, 3, 4)), ("dilation", (1, 2, 3, 4))):
        stated = [n for said in task.said(name) for n in (said if isinstance(said, tuple) else (said,))]
        sizes = [n for n in stated if isinstance(n, int) and n > 0]
        numbers.append(
            list(dict.fromkeys([*sizes, *usual, *([kernel.shape[0]] if name == "stride" else [])]))
        )
    options = []
    for axis in range(space):
        length, outputs = task.x.shape[1 + axis], task.observed.shape[1 + axis]
        dilations = [1] if kernel.shape[axis] == 1 else numbers[1]
        options.append(
            list(
                axis_windows(
                    length,
                    outputs,
                    kernel.shape[axis],
                    strides=numbers[0],
                    dilations=dilations,
                    spread=spread,
                )
            )
        )
    alike: list[tuple[tuple[AxisWindow, ...], float]] = []
    unlike: list[tuple[tuple[AxisWindow, ...], float]] = []
    for windows in itertools.islice(itertools.product(*options), 20000):
        steps = {(w.stride, w.dilation) for w in windows if w.size > 1 or w.stride > 1}
        one = len(steps) <= 1
        lopsided = sum(w.low != w.high for w in windows) * 0.1
        cost = lopsided + 0.2 * (max(w.dilation for w in windows) > 1)
        (alike if one else unlike).append((windows, cost if one else cost + 2))
    yield from alike
    if len(alike) + len(unlike) <= 600:
        yield from unlike


CONV = Family("conv", _candidates, compute)
