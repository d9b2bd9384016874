"""Finds the form of attention that computes a recorded array."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from bridge_core.proof.causes.attention_core import Form, Parts, attend
from bridge_core.proof.causes.attention_forms import Hints, changed_forms, usual_forms
from bridge_core.state import Array

__all__ = ["Recorded", "error", "identify", "identify_further", "identify_near", "predicted"]

_PAIRS = 8_000
"""Forms with two changes that are tried."""


@dataclass(frozen=True, eq=False)
class Recorded:
    """What one side computed.

    Args:
        output: float64 ``(batch, length, n)``.
        kernel: ``(n, out)`` of a projection that was applied to it; None if none was.
        bias: Of that projection.
        limit: Relative error up to which a form is the one that computed it.
    """

    output: Array
    kernel: Array | None = None
    bias: Array | None = None
    limit: float = 5e-6


def predicted(parts: Parts, form: Form, recorded: Recorded, rows: Array | None = None) -> Array | None:
    """Return what a form would have recorded: ``(batch, queries, n)``; None if it does not fit the sizes."""
    rows = None if form.sequence == 0 else rows
    result = attend(parts, form, rows)
    if result is None:
        return None
    if form.sequence == 0:
        result = result.swapaxes(0, 1)
    if recorded.kernel is not None:
        kernel = recorded.kernel.T if "out.kernel transposed" in form.changes else recorded.kernel
        if result.shape[-1] != len(kernel):
            return None
        result = result @ kernel
        if recorded.bias is not None and "out.bias missing" not in form.changes:
            result = result + recorded.bias * (2 if "out.bias doubled" in form.changes else 1)
    return result


def error(parts: Parts, form: Form, recorded: Recorded, rows: Array | None = None) -> float:
    """Return how far a form is from what was recorded: largest difference by largest value.

    Args:
        parts: What both sides have in common.
        form: The form.
        recorded: What one side computed.
        rows: Which queries to compare; None for all.
    """
    if rows is not None and rows[-1] >= recorded.output.shape[1]:
        return float("inf")
    computed = predicted(parts, form, recorded, rows)
    if computed is None:
        return float("inf")
    output = recorded.output
    if computed.shape[0] != output.shape[0] or computed.shape[2:] != output.shape[2:]:
        return float("inf")
    if rows is not None and form.sequence != 0:
        output = output[:, rows]
    if computed.shape != output.shape:
        return float("inf")
    largest = np.abs(recorded.output).max()
    with np.errstate(all="ignore"):
        result = np.abs(computed - output).max() / (largest if largest else 1.0)
    return float(result) if np.isfinite(result) else float("inf")


def identify(parts: Parts, hints: Hints, recorded: Recorded) -> Form | None:
    """Return the first usual form that computes what was recorded, if need be with its scale fitted."""
    rows = _rows(hints.length)
    usual = _first(usual_forms(parts, hints), parts, recorded, rows)
    if usual is not None:
        return _without_arrays(usual, parts, hints, recorded, rows)
    unscaled = dict.fromkeys(replace(form, scale=1.0) for form in islice(usual_forms(parts, hints), 600))
    grid = np.linspace(-6, 2, 17)

    def best(form: Form) -> float:
        scaled = (replace(form, scale=float(np.exp(x))) for x in grid)
        return min(error(parts, f, recorded, rows[-2:]) for f in scaled)

    nearest = sorted(islice(unscaled, 80), key=best)[:3]
    for form in nearest:
        scaled = _minimum(_scaled(form), grid, parts, recorded, rows)
        if scaled is not None:
            return scaled
    return None


def _without_arrays(form: Form, parts: Parts, hints: Hints, recorded: Recorded, rows: Array) -> Form:
    """Return a form whose masks were given as one with a window and padding, if that computes the same."""
    if not (form.masks or form.biases) or hints.length != hints.keys:
        return form
    windows = dict.fromkeys((None, *hints.windows, *range(1, min(hints.keys, 65))))
    masks = ((), *(((name, "keep"),) for name, mask in parts.masks.items() if mask.shape[2] == 1))
    plain = (
        replace(form, masks=kept, biases=(), causal=0, window=window) for kept in masks for window in windows
    )
    return _first(plain, parts, recorded, rows) or form


def identify_near(parts: Parts, hints: Hints, recorded: Recorded, form: Form) -> Form | None:
    """Return a form that computes what was recorded, and that differs from another one in one respect.

    Args:
        parts: What both sides have in common.
        hints: Sizes and settings.
        recorded: What one side computed.
        form: The form of the other side.
    """
    rows = _rows(hints.length)
    once = (f for f in dict.fromkeys(changed_forms(form, parts, hints)) if f != form)
    return _first(once, parts, recorded, rows) or _fitted(form, parts, recorded, rows)


def identify_further(parts: Parts, hints: Hints, recorded: Recorded, form: Form) -> Form | None:
    """Return the same for two respects."""
    rows = _rows(hints.length)
    once = [f for f in dict.fromkeys(changed_forms(form, parts, hints)) if f != form]
    return _first(islice(_twice(once, parts, hints, recorded, rows), _PAIRS), parts, recorded, rows)


def _rows(length: int) -> Array:
    return np.unique(np.r_[0, min(1, length - 1), length // 3, length // 2, max(length - 2, 0), length - 1])


def _first(forms: Iterable[Form], parts: Parts, recorded: Recorded, rows: Array) -> Form | None:
    for form in forms:
        if error(parts, form, recorded, rows[-2:]) > recorded.limit:
            continue
        if error(parts, form, recorded) <= recorded.limit:
            return form
    return None


def _twice(once: list[Form], parts: Parts, hints: Hints, recorded: Recorded, rows: Array) -> Iterator[Form]:
    """Yield forms with two changes, nearest first changes first."""
    errors = [error(parts, f, recorded, rows) for f in once]
    order = sorted(range(len(once)), key=lambda n: errors[n])
    for n in order:
        if np.isfinite(errors[n]):
            yield from changed_forms(once[n], parts, hints)


def _scaled(form: Form) -> Callable[[float], Form]:
    return lambda x: replace(form, scale=form.scale * float(np.exp(x)))


def _fitted(form: Form, parts: Parts, recorded: Recorded, rows: Array) -> Form | None:
    """Return the form with one number fitted: the scale, the base or the positions of the rotation."""
    changes: list[tuple[Callable[[float], Form], Array]] = [
        (_scaled(form), np.linspace(-4, 4, 33)),
    ]
    rotary = form.rotary
    if rotary is not None and rotary.theta is not None:
        theta = rotary.theta
        changes.append(
            (
                lambda x: replace(form, rotary=replace(rotary, theta=float(theta * np.exp(x)))),
                np.linspace(-8, 8, 65),
            )
        )
        changes.append(
            (
                lambda x: replace(form, rotary=replace(rotary, factor=float(rotary.factor * np.exp(x)))),
                np.linspace(-3.5, 3.5, 57),
            )
        )
    cap = form.softcap or 20.0
    changes.append((lambda x: replace(form, softcap=float(cap * np.exp(x))), np.linspace(-4, 4, 33)))
    for change, grid in changes:
        found = _minimum(change, grid, parts, recorded, rows)
        if found is not None:
            return found
    return None


def _minimum(
    change: Callable[[float], Form], grid: Array, parts: Parts, recorded: Recorded, rows: Array
) -> Form | None:
    def measured(x: float) -> float:
        return error(parts, change(x), recorded, rows)

    errors = [measured(x) for x in grid]
    step = grid[1] - grid[0]
    golden = (5**0.5 - 1) / 2
    for n in sorted(range(len(grid)), key=lambda n: errors[n])[:3]:
        low, high = grid[n] - step, grid[n] + step
        for _ in range(48):
            a, b = high - golden * (high - low), low + golden * (high - low)
            if measured(a) < measured(b):
                high = b
            else:
                low = a
        best = change((low + high) / 2)
        if error(parts, best, recorded) <= recorded.limit:
            return _simplest(best, parts, recorded)
    return None


def _simplest(form: Form, parts: Parts, recorded: Recorded) -> Form:
    """Return the form with as few digits in its fitted numbers as still compute what was recorded."""
    for digits in (1, 2, 3, 4, 5):
        rounded = replace(
            form,
            scale=_digits(form.scale, digits),
            softcap=None if form.softcap is None else _digits(form.softcap, digits),
        )
        if form.rotary is not None and form.rotary.theta is not None:
            rotary = replace(
                form.rotary,
                theta=_digits(form.rotary.theta, digits),
                factor=_digits(form.rotary.factor, digits),
            )
            rounded = replace(rounded, rotary=rotary)
        for candidate in (rounded, replace(rounded, scale=form.scale)):
            if error(parts, candidate, recorded) <= recorded.limit:
                return candidate
    return form


def _digits(x: float, digits: int) -> float:
    return float(f"{x:.{digits - 1}e}")
