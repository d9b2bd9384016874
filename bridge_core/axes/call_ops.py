"""The op that a call of a rule is, on a tensor whose shape is known."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from bridge_core.axes.calls import Call
from bridge_core.axes.expressions import Expression, whole_number
from bridge_core.axes.size_lookup import SizeLookup
from bridge_core.errors import RuleError
from bridge_core.messages import shown
from bridge_core.ops import Cast, Offset, Op, Pad, Scale, Unpad
from bridge_core.state import TensorSpec

__all__ = ["op_of_call"]


def op_of_call(
    call: Call, spec: TensorSpec, axis: int | None, lookup: SizeLookup, size_of: Callable[[int], int]
) -> Op | None:
    """Return the op of a call; None if the tensor stays unchanged.

    Args:
        call: The call.
        spec: The tensor.
        axis: The axis of a call that changes a size; None if the tensor does not have it.
        lookup: Gives the values of the names in the call's expressions.
        size_of: Gives the size of an axis that the call leaves to the target's shape.

    Raises:
        RuleError: The tensor does not have the axis or the size, or an expression has no value.
        PlanError: The op cannot have these numbers.
    """
    if call.name == "cast":
        source, target = call.args
        source = spec.dtype.name if source is None else source
        return Cast(str(source), str(target)) if target is not None else None
    try:
        if not call.is_sized:
            rounding, divisor = call.args[1] is True, call.divisor
            value = _number(call.args[0] if divisor is None else divisor, lookup)
            return Offset(value, rounding) if call.name == "offset" else Scale(value, rounding, bool(divisor))
        before, after = (_size(size, lookup) for size in call.args[1:3])
        change = _size(call.difference.number, lookup) if call.difference is not None else None
    except RuleError as err:
        raise RuleError(f"'{call}': {err.message}", hint=err.hint) from err
    if axis is None:
        return None
    rank = len(spec.shape)
    if not -rank <= axis < rank:
        raise RuleError(f"'{call}': {spec} has no axis {axis}.")
    axis %= rank
    size = spec.shape[axis]
    if before is not None and before != size:
        raise RuleError(f"'{call}': expected {before} elements on the axis, got {size}.")
    if change is not None:
        new_size = size + (change if call.name == "pad" else -change)
        if change < 0 or new_size < 0:
            raise RuleError(f"'{call}': expected a number from 0 to the {size} elements, got {change}.")
    else:
        new_size = after if after is not None else size_of(axis)
    discard = call.args[3] is True
    if call.name == "pad":
        return Pad(axis, size, new_size, discard=discard)
    if new_size == 0 and size:
        raise RuleError(f"'{call}': the axis would have no elements left.")
    return Unpad(axis, size, new_size, discard=discard)


def _size(size: object, lookup: SizeLookup) -> int | None:
    return whole_number(size.value(lookup), size) if isinstance(size, Expression) else None


def _number(given: object, lookup: SizeLookup) -> float:
    value = given.value(lookup) if isinstance(given, Expression) else given
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
        hint = "Write an expression without quotes." if isinstance(value, str) else None
        raise RuleError(f"expected a number, got {shown(value)}.", hint=hint)
    return float(value)
