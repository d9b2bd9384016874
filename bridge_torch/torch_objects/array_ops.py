"""The primitives of ops on torch tensors, with numpy's bits, on the device that the tensors are on.

Gradients flow through them wherever torch has them. torch gives NaNs other bits than numpy in casts and sums,
so they get theirs from what numpy does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bridge_core import TensorSpec, UnsupportedFeature, UsageError
from bridge_core.ops import ArrayOps, nan_rule, sum_rule
from bridge_core.state import Array, dtype_named, is_floating
from bridge_torch.torch_objects.arrays import DTYPES, NAMES
from bridge_torch.torch_objects.tensors import entries_of, is_foreign_extra

__all__ = ["TorchOps"]

_FLOATS = frozenset(
    {
        *("float16", "bfloat16", "float32"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    }
)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FRACTIONS = {
    torch.float8_e4m3fn: 3,
    torch.float8_e4m3fnuz: 3,
    torch.float8_e5m2: 2,
    torch.float8_e5m2fnuz: 2,
    torch.float16: 10,
    torch.bfloat16: 7,
    torch.float32: 23,
    torch.float64: 52,
}


@dataclass(frozen=True)
class TorchOps:
    """Computes on dense tensors.

    Args:
        device: Where new tensors are made; None for torch's default.
    """

    device: torch.device | None = None
    framework: str = "torch"

    def opened(self, value: Any) -> Any:
        """Return the tensors of a module, with their gradients."""
        if not isinstance(value, torch.nn.Module):
            return value
        entries = entries_of(value)
        return {name: child for name, child in entries.items() if not is_foreign_extra(name, child)}

    def taken(self, array: Any) -> Any:
        """Return a tensor whose memory holds its values, not their negatives or conjugates."""
        return array.resolve_neg().resolve_conj()

    def spec(self, array: Any) -> TensorSpec:
        """Return a tensor's shape and dtype."""
        if not isinstance(array, torch.Tensor):
            raise UsageError(
                f"expected a torch.Tensor, got {type(array).__name__}.",
                hint="Pass torch.as_tensor(array); of a JAX array torch.from_dlpack(array).",
            )
        name = NAMES.get(array.dtype)
        if name is None or array.layout is not torch.strided:
            raise UnsupportedFeature(
                f"expected a dense tensor of a supported dtype, got {array.dtype}, {array.layout}.",
                hint="Pass tensor.to_dense(), or cast it.",
            )
        return TensorSpec(tuple(array.shape), dtype_named(name))

    def traced(
        self, function: Callable[[ArrayOps, tuple[Any, ...]], Sequence[Any]], specs: Sequence[TensorSpec]
    ) -> tuple[TensorSpec, ...]:
        """Return the specs of what a function returns for tensors on the meta device."""
        meta = torch.device("meta")
        tensors = tuple(torch.empty(spec.shape, dtype=_named(spec.dtype), device=meta) for spec in specs)
        return tuple(self.spec(result) for result in function(TorchOps(meta), tensors))

    def near(self, arrays: Sequence[Any]) -> TorchOps:
        """Return primitives that make tensors on the device of the first one."""
        return TorchOps(arrays[0].device) if arrays else self

    def transpose(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return a view with the axes in another order."""
        return array.permute(axes)

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        """Return the elements in another shape, a view where strides allow it."""
        return array.reshape(shape)

    def flip(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return a tensor with the order of elements reversed along axes."""
        return _moved(lambda values: torch.flip(values, axes), array) if axes else array

    def part(self, array: Any, axis: int, start: int, stop: int) -> Any:
        """Return a view of a range of an axis."""
        return array.narrow(axis, start, stop - start)

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        """Return one tensor of several."""
        return _moved(lambda *values: torch.cat(values, axis), *arrays)

    def full(self, shape: tuple[int, ...], value: Array) -> Any:
        """Return a tensor filled with a scalar."""
        dtype, size = _named(value.dtype), value.dtype.itemsize
        if value.dtype.kind == "c":
            return self.constant(np.full(shape, value))
        bits = int(value.reshape(1).view(f"i{size}" if size > 1 else "u1")[0])
        return torch.full(shape, bits, dtype=_INTEGERS[size], device=self.device).view(dtype)

    def constant(self, values: Array) -> Any:
        """Return the values of a numpy array."""
        dtype = _named(values.dtype)
        plain = np.array(values, order="C")
        if is_floating(values.dtype):
            size = values.dtype.itemsize
            plain = plain.view(f"i{size}" if size > 1 else "u1")
        return torch.from_numpy(plain).view(dtype).to(self.device or torch.get_default_device())

    def cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return the values in another dtype."""
        target, source = _named(dtype), dtype_named(NAMES[array.dtype])
        if source == dtype:
            return array
        from_float, to_float = is_floating(source), is_floating(dtype)
        if from_float and to_float:
            exact = source.name in _FLOATS or source.name == "float64"
            if (
                not exact
                or dtype.name not in {*_FLOATS, "float64"}
                or (source.name, dtype.name) == ("float64", "float16")
            ):
                raise UnsupportedFeature(
                    f"torch rounds {source.name} to {dtype.name} in another way than numpy.",
                    hint="Cast in two steps, over float32, or after the compiled function.",
                )
            return _with_numpy_nans(array, source.name, dtype.name)
        if (
            source.kind not in "biu"
            or dtype.kind == "c"
            or (to_float and dtype.name not in {*_FLOATS, "float64"})
        ):
            raise UnsupportedFeature(
                f"torch casts {source.name} to {dtype.name} in another way than numpy, where values are out "
                "of range.",
                hint="Cast before or after the compiled function.",
            )
        return (
            _narrowed(array.to(torch.float32), target)
            if target.itemsize == 1 and to_float
            else array.to(target)
        )

    def add(self, first: Any, second: Any) -> Any:
        """Return the sum of two tensors."""
        dtype = dtype_named(NAMES[first.dtype])
        if dtype.itemsize < 4:
            wide = np.dtype(np.float32)
            total = self.cast(self.cast(first, wide) + self.cast(second, wide), dtype)
        else:
            total = first + second
        replaced = _is_nan(total)
        if sum_rule(dtype.name).invalid is None:
            replaced = replaced & (_is_nan(first) | _is_nan(second))
        return _selected(replaced, _sum_nans(first, second, dtype.name), total)

    def scale(self, array: Any, constant: Array, *, divides: bool) -> Any:
        """Return the products with a scalar, or the quotients; NaNs get a quiet bit, as numpy's do."""
        factor = self.constant(constant)
        scaled = array / factor if divides else array * factor
        integers = _INTEGERS[array.dtype.itemsize]
        quiet = array.detach().view(integers) | (1 << (_FRACTIONS[array.dtype] - 1))
        return torch.where(array.isnan(), quiet.view(array.dtype), scaled)

    def choose(self, first: Any, second: Any, equal: Any, other: Any) -> Any:
        """Return elements of one tensor where two others have the same bits, else those of another."""
        integers = _INTEGERS[first.dtype.itemsize]
        same = first.detach().view(integers) == second.detach().view(integers)
        return _selected(same, equal, other)


def _named(dtype: np.dtype[Any]) -> torch.dtype:
    """Return torch's dtype.

    Raises:
        UnsupportedFeature: torch does not have it.
    """
    named = DTYPES.get(dtype.name)
    if named is None:
        raise UnsupportedFeature(
            f"torch {torch.__version__} has no dtype {dtype.name}.",
            hint="Cast it before the compiled function, for example to float32 or int8.",
        )
    return named


def _signed(bits: int, size: int) -> int:
    """Return the signed integer of so many bytes that has these bits; of one byte the unsigned one."""
    limit = 1 << (8 * size - 1)
    return bits - 2 * limit if size > 1 and bits >= limit else bits


def _moved(move: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Return a tensor that has only moved elements of others; torch moves 8-bit floats as integers only."""
    dtype = tensors[0].dtype
    if dtype.itemsize == 1 and dtype.is_floating_point:
        return move(*(tensor.view(torch.uint8) for tensor in tensors)).view(dtype)
    unsigned = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}.get(dtype)
    if unsigned is not None:
        return move(*(tensor.view(unsigned) for tensor in tensors)).view(dtype)
    return move(*tensors)


def _selected(condition: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return _moved(lambda one, other: torch.where(condition, one, other), first, second)


def _narrowed(values: torch.Tensor, target: torch.dtype) -> torch.Tensor:
    """Return float32 values in an 8-bit dtype, rounded as numpy does: NaN where they leave the range."""
    cast = values.to(target)
    if target is not torch.float8_e4m3fn:
        return cast
    # torch gives the largest number, 448, for all above 464, which is the middle to the next one.
    bits = cast.view(torch.uint8)
    return torch.where(values.abs() > 464, bits | 0x7F, bits).view(target)


def _with_numpy_nans(array: torch.Tensor, source: str, target: str) -> torch.Tensor:
    """Return values in another floating-point dtype; NaNs get the bits that numpy gives them.

    Raises:
        UnsupportedFeature: numpy's NaNs follow no known rule.
    """
    rule = nan_rule(source, target)
    if rule is None:
        raise UnsupportedFeature(
            f"numpy gives NaNs cast from {source} to {target} bits that follow no known rule.",
            hint="Cast before or after the compiled function.",
        )
    dtype = DTYPES[target]
    cast = _narrowed(array.to(torch.float32), dtype) if dtype.itemsize == 1 else array.to(dtype)
    bits, size = array.detach().view(_INTEGERS[array.dtype.itemsize]), dtype.itemsize
    integers = _INTEGERS[size]
    either = [torch.full((), _signed(b, size), dtype=integers, device=bits.device) for b in rule[:2]]
    nans = torch.where(_negative(bits), either[1], either[0])
    if rule.shift is not None:
        taken = bits & ((1 << _FRACTIONS[array.dtype]) - 1)
        copied = taken.to(integers) << rule.shift if rule.shift >= 0 else (taken >> -rule.shift).to(integers)
        if rule.fills:
            copied = torch.where(copied == 0, 1, copied).to(integers)
        nans = nans | copied
    return _selected(_is_nan(array), nans.view(dtype), cast)


def _is_nan(values: torch.Tensor) -> torch.Tensor:
    return (values.to(torch.float32) if values.dtype.itemsize == 1 else values).isnan()


def _negative(bits: torch.Tensor) -> torch.Tensor:
    return bits >= 0x80 if bits.dtype == torch.uint8 else bits < 0


def _sum_nans(first: torch.Tensor, second: torch.Tensor, name: str) -> torch.Tensor:
    """Return each sum if it is a NaN, with numpy's bits; where it is not, any value."""
    rule, dtype, size = sum_rule(name), first.dtype, first.dtype.itemsize
    integers = _INTEGERS[size]
    if rule.by_signs:
        table = torch.tensor(
            [_signed(bits, size) for bits in rule.by_signs], dtype=integers, device=first.device
        )
        kinds = [
            torch.where(_is_nan(term), 1 + _negative(term.detach().view(integers)).to(torch.int64), 0)
            for term in (first, second)
        ]
        return torch.take(table, 3 * kinds[0] + kinds[1]).view(dtype)
    nans = torch.full(first.shape, _signed(rule.invalid or 0, size), dtype=integers, device=first.device)
    for term in (first, second) if rule.second else (second, first):
        quiet = term.detach().view(integers) | (1 << (_FRACTIONS[dtype] - 1))
        nans = torch.where(term.isnan(), quiet, nans)
    return nans.view(dtype)
