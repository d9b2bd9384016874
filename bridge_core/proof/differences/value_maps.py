"""What may have been done to each value: casts, rounding, byte order, sign, scale, shift, functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.proof.differences.agreement import EXACTLY, Within
from bridge_core.proof.differences.blocks import Summary, has_order, reals
from bridge_core.state import Array, cast_is_exact, dtype_named, is_floating

__all__ = ["SAME", "ValueMap", "byte_swap", "cast_map", "fitted_maps", "is_castable", "rounding_maps"]

_ROUNDINGS = (
    "float32",
    "bfloat16",
    "float16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)


_FINEST = 2.0**-40
"""The finest rounding that fitted numbers can resolve, since they are fitted to sums in float64."""


@dataclass(frozen=True, eq=False)
class ValueMap:
    """A function of single values.

    Args:
        kinds: The kinds of its steps.
        text: The same as a phrase.
        code: numpy, with ``{}`` in place of the array.
        apply: The function; None for none.
        within: How far what it gives may be from the right values.
        parameters: How many numbers were fitted.
        dtype: What `apply` returns; None for float64.
    """

    kinds: tuple[str, ...] = ()
    text: str = ""
    code: str = "{}"
    apply: Callable[[Array], Array] | None = None
    within: Within = EXACTLY
    parameters: int = 0
    dtype: np.dtype[Any] | None = None


SAME = ValueMap()
"""Nothing is done."""


def is_castable(left: np.dtype[Any], right: np.dtype[Any]) -> bool:
    """Return whether weights of one dtype may be stored in another: exactly, or rounded to floats."""
    return cast_is_exact(left, right) or (is_floating(right) and left.kind != "c")


def cast_map(left: np.dtype[Any], right: np.dtype[Any]) -> ValueMap:
    """Return the cast from one dtype to another; nothing if they are the same."""
    if left == right:
        return SAME

    def apply(values: Array) -> Array:
        with np.errstate(all="ignore"):
            # ml_dtypes does not cast all of its narrow dtypes to each other; float32 holds all of them.
            wide = values.astype(np.float32) if max(left.itemsize, right.itemsize) < 4 else values
            return wide.astype(right)

    exact = cast_is_exact(left, right)
    text = f"stored as {right.name}" if exact else f"rounded to {right.name}"
    code = f"{{}}.astype({right.name!r})"
    return ValueMap(("cast" if exact else "rounded",), text, code, apply, EXACTLY, dtype=right)


def byte_swap(dtype: np.dtype[Any]) -> ValueMap | None:
    """Return the other byte order; None for a dtype of one byte."""
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    words = {2: np.uint16, 4: np.uint32, 8: np.uint64}.get(width)
    if words is None:
        return None

    def apply(values: Array) -> Array:
        flat = np.ascontiguousarray(values).reshape(-1)
        swapped = flat.view(words).byteswap().view(dtype)
        return swapped.reshape(values.shape)

    text = "its bytes were in the other order"
    return ValueMap(("byte order",), text, "{}.byteswap()", apply, EXACTLY, dtype=dtype)


def rounding_maps(dtype: np.dtype[Any], left: Summary, right: Summary) -> Iterator[ValueMap]:
    """Yield roundings through narrower dtypes that fit the smallest and the largest value."""
    if not is_floating(dtype):
        return
    for name in _ROUNDINGS:
        narrow = dtype_named(name)
        if narrow.itemsize >= dtype.itemsize:
            continue
        rounded = _through(narrow, dtype)
        text = f"rounded through {name}"
        code = f"{{}}.astype({name!r}).astype({dtype.name!r})"
        if _fits_ends(rounded, left, right, dtype):
            yield ValueMap(("rounded",), text, code, rounded, Within(), dtype=dtype)
        if name == "bfloat16" and dtype == np.float32:
            cut = _truncated
            text, code = "truncated to bfloat16", "({}.view('uint32') & 0xFFFF0000).view('float32')"
            if _fits_ends(cut, left, right, dtype):
                yield ValueMap(("truncated",), text, code, cut, Within(), dtype=dtype)


def _through(narrow: np.dtype[Any], dtype: np.dtype[Any]) -> Callable[[Array], Array]:
    def apply(values: Array) -> Array:
        with np.errstate(all="ignore"):
            return values.astype(narrow).astype(dtype)

    return apply


def _truncated(values: Array) -> Array:
    words = np.ascontiguousarray(values).view(np.uint32) & np.uint32(0xFFFF0000)
    return words.view(np.float32).reshape(values.shape)


def _fits_ends(apply: Callable[[Array], Array], left: Summary, right: Summary, dtype: np.dtype[Any]) -> bool:
    """Return whether a monotone function takes the smallest and the largest value to the right ones."""
    ends = reals(apply(np.array([left.least, left.most], dtype)))
    return bool((ends == (right.least, right.most)).all()) or not np.isfinite(ends).all()


def fitted_maps(
    left: Summary, right: Summary, dtype: np.dtype[Any], absolute: float = 0.0
) -> Iterator[ValueMap]:
    """Yield sign, scale, shift, both, and functions, as far as they fit what was counted of both tensors.

    Args:
        left: What the left tensor's values are, in any order.
        right: The same of the right one.
        dtype: The right tensor's dtype, which rounds.
        absolute: By how much values may differ in addition.
    """
    if not has_order(dtype) or not left.finite or left.finite != right.finite:
        return
    epsilon = _epsilon(dtype)
    slack = 4 * epsilon * (left.largest + right.largest) + 2 * absolute
    if _near(right.least, -left.most, slack) and _near(right.most, -left.least, slack):
        yield ValueMap(("negated",), "negated", "(-{})", lambda values: -reals(values), Within(absolute))
    if not (left.spread and right.spread) or not math.isfinite(left.spread + right.spread):
        return
    ratio = right.spread / left.spread
    digits = max(epsilon, 4 * epsilon / left.finite**0.5)
    factor = _round_number(ratio, digits * ratio)
    for sign in (1.0, -1.0):
        low, high = (left.least, left.most) if sign > 0 else (-left.most, -left.least)
        if abs(factor - 1) > 64 * epsilon and _fits_line(low, high, factor, 0.0, right, slack):
            yield _scaled(sign * factor, epsilon, absolute)
    shift = _round_number(right.mean - left.mean, epsilon * (left.largest + right.largest))
    resolved = 8 * epsilon * (left.largest + abs(shift)) + 4 * absolute
    if abs(shift) > resolved and _fits_line(left.least, left.most, 1.0, shift, right, slack):
        yield _shifted(shift, epsilon, left.largest + abs(shift), absolute)
    for sign in (1.0, -1.0):
        low, high = (left.least, left.most) if sign > 0 else (-left.most, -left.least)
        if high == low:
            continue
        factor = _round_number(ratio, digits * ratio)
        shift = _round_number(right.most - factor * high, epsilon * (right.largest + factor * left.largest))
        near = slack + 16 * epsilon * factor * left.largest
        if abs(shift) < 64 * near or (sign > 0 and abs(factor - 1) < 64 * epsilon):
            continue
        mean = sign * factor * left.mean + shift
        if _near(factor * left.spread, right.spread, 1e-4 * right.spread + slack) and _near(
            mean, right.mean, 1e-4 * right.largest + slack
        ):
            yield _line(sign * factor, shift, epsilon, left.largest, right.largest, absolute)
    yield from _functions(left, right, epsilon, absolute)


def _near(one: float, other: float, slack: float) -> bool:
    return abs(one - other) <= slack


def _fits_line(low: float, high: float, factor: float, shift: float, right: Summary, slack: float) -> bool:
    wide = slack * max(1.0, factor)
    return _near(low * factor + shift, right.least, wide) and _near(high * factor + shift, right.most, wide)


def _epsilon(dtype: np.dtype[Any]) -> float:
    if not is_floating(dtype):
        return _FINEST
    import ml_dtypes

    return max(_FINEST, float(ml_dtypes.finfo(dtype).eps))  # type: ignore[no-untyped-call]


def _round_number(value: float, limit: float) -> float:
    """Return the number of few digits, or the root of a whole number or one over it, within a limit."""
    if not value or not math.isfinite(value):
        return value
    limit = min(limit, 1e-2 * abs(value))
    for digits in range(1, 8):
        short = float(f"{value:.{digits}g}")
        if abs(short - value) <= limit:
            return short
    for power in (-0.5, 0.5, -1.0):
        whole = round(abs(value) ** (1 / power)) if 1e-3 < abs(value) < 1e3 else 0
        if whole > 1:
            exact = math.copysign(whole**power, value)
            if abs(exact - value) <= limit:
                return exact
    return value


def _shown(value: float) -> str:
    text = f"{value:.9g}"
    whole = round(abs(value) ** -2) if 1e-3 < abs(value) < 1 else 0
    if whole > 1 and len(text) > 6 and abs(whole**-0.5 - abs(value)) < 1e-7 * abs(value):
        return f"{'-' if value < 0 else ''}1/sqrt({whole})"
    return text


def _scaled(factor: float, epsilon: float, absolute: float) -> ValueMap:
    within = Within(absolute, 4 * epsilon)
    text = f"scaled by {_shown(factor)}"
    return ValueMap(
        ("scaled",), text, f"({{}} * {factor!r})", lambda values: reals(values) * factor, within, 1
    )


def _shifted(shift: float, epsilon: float, largest: float, absolute: float) -> ValueMap:
    within = Within(absolute + epsilon * largest, epsilon)
    sign = "+" if shift > 0 else "-"
    scales = {1.0: ", as 1 + scale is of scale", -1.0: ", as scale is of 1 + scale"}
    return ValueMap(
        ("shifted",),
        f"shifted by {_shown(shift)}{scales.get(shift, '')}",
        f"({{}} {sign} {abs(shift)!r})",
        lambda values: reals(values) + shift,
        within,
        1,
    )


def _line(
    factor: float, shift: float, epsilon: float, left: float, right: float, absolute: float
) -> ValueMap:
    within = Within(absolute + 8 * epsilon * (abs(factor) * left + right))
    kind, text = ("negated", "negated") if factor == -1 else ("scaled", f"scaled by {_shown(factor)}")
    return ValueMap(
        (kind, "shifted"),
        f"{text} and shifted by {_shown(shift)}",
        f"({{}} * {factor!r} + {shift!r})",
        lambda values: reals(values) * factor + shift,
        within,
        2,
    )


_FUNCTIONS: tuple[tuple[str, str, str, Callable[[Array], Array]], ...] = (
    ("squared", "squared", "({} ** 2)", np.square),
    ("square root", "replaced by its square root", "np.sqrt({})", np.sqrt),
    ("reciprocal", "replaced by its reciprocal", "(1 / {})", np.reciprocal),
    ("exponential", "replaced by its exponential", "np.exp({})", np.exp),
    ("logarithm", "replaced by its logarithm", "np.log({})", np.log),
    ("exponential", "replaced by minus its exponential", "(-np.exp({}))", lambda values: -np.exp(values)),
    ("logarithm", "replaced by the logarithm of its negative", "np.log(-{})", lambda values: np.log(-values)),
)


def _functions(left: Summary, right: Summary, epsilon: float, absolute: float) -> Iterator[ValueMap]:
    """Yield the functions that take the smallest and the largest value to the right ones, in either order."""
    for kind, text, code, function in _FUNCTIONS:

        def apply(values: Array, function: Callable[[Array], Array] = function) -> Array:
            with np.errstate(all="ignore"):
                return function(reals(values))

        ends = np.sort(apply(np.array([left.least, left.most])))
        slack = 16 * epsilon * right.largest + absolute
        folds = kind == "squared" or (kind == "reciprocal" and left.least < 0 < left.most)
        if folds or (_near(float(ends[0]), right.least, slack) and _near(float(ends[1]), right.most, slack)):
            yield ValueMap((kind,), text, code, apply, Within(absolute, 16 * epsilon), 0)
