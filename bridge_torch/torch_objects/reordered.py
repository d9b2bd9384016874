"""Computing with sums in another order: the same mathematics, other rounding.

Where an operation adds many products or elements, its operands are permuted along the axis of that sum.
Nothing else of the computation changes, so what differs is what rounding may change.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["in_another_order"]

_SEED = 20_240


@contextlib.contextmanager
def in_another_order() -> Iterator[set[str]]:
    """Take the sums of matrix products, convolutions, attention, norms and reductions in another order.

    The result of an operation is the same up to rounding. oneDNN's fused recurrent layers are switched off,
    which hide their products. Gives a set, to which the names of all float dtypes of results are added.
    """
    mode = _Reordered()
    with torch.backends.mkldnn.flags(enabled=False), mode:  # type: ignore[no-untyped-call]
        yield mode.dtypes


class _Reordered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: set[str] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports torch's compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self._computed(func, args, kwargs or {})
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.dtypes.add(str(value.dtype).removeprefix("torch."))
        return result

    def _computed(self, func: Any, args: Any, kwargs: Any) -> Any:
        compute = _OPERATIONS.get(func)
        if compute is not None:
            return compute(func, *args, **kwargs)
        if torch.is_inference_mode_enabled():  # composite operations are undivided there
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)


@functools.lru_cache(maxsize=256)
def _order(size: int) -> torch.Tensor:
    """Return a permutation that does not begin with the first element, if there are several."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(_SEED + size))
    return order.flip(0) if size > 1 and order[0] == 0 else order


def _permuted(tensor: torch.Tensor, *axes: int) -> torch.Tensor:
    """Return a tensor with each of the axes in the order of its size."""
    for axis in axes:
        tensor = tensor.index_select(axis, _order(tensor.shape[axis]))
    return tensor


def _restored(tensor: torch.Tensor, *axes: int) -> torch.Tensor:
    """Return what `_permuted` was applied to."""
    for axis in axes:
        tensor = tensor.index_select(axis, torch.argsort(_order(tensor.shape[axis])))
    return tensor


def _product(left: int, right: int, at: int = 0) -> Callable[..., Any]:
    """Return a product of matrices; ``at`` is the place of the left one among the arguments."""

    def compute(func: Any, *args: Any, **kwargs: Any) -> Any:
        operands = [*args]
        operands[at] = _permuted(args[at], left)
        operands[at + 1] = _permuted(args[at + 1], right)
        return func(*operands, **kwargs)

    return compute


def _convolution(
    func: Any,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """Permute the input channels of each group; of one channel, add the places of the window by hand."""
    rest = (stride, padding, dilation, transposed, output_padding, groups)
    per_group = (weight.shape[0] if transposed else x.shape[-weight.ndim + 1]) // groups
    if per_group > 1:
        order = _order(per_group)
        channels = torch.cat([order + group * per_group for group in range(groups)])
        x = x.index_select(x.ndim - weight.ndim + 1, channels)
        weight = weight.index_select(0, channels) if transposed else weight.index_select(1, order)
        return func(x, weight, bias, *rest)
    if transposed or x.ndim != weight.ndim:
        return func(x, weight, bias, *rest)
    window = weight.shape[2:]
    pads = [amount for p in reversed([*padding]) for amount in (p, p)]
    padded = torch.nn.functional.pad(x, pads)
    padded = padded.repeat_interleave(weight.shape[0] // groups, dim=1)
    places = torch.cartesian_prod(*[torch.arange(size) for size in window]).reshape(-1, len(window))
    total: torch.Tensor | None = None
    for place in _permuted(places, 0).tolist():
        part = padded
        for axis, at in enumerate(place):
            reach = dilation[axis] * (window[axis] - 1)
            count = (padded.shape[2 + axis] - reach - 1) // stride[axis] + 1
            first = at * dilation[axis]
            part = part.narrow(2 + axis, first, (count - 1) * stride[axis] + 1)
            part = part[(slice(None),) * (2 + axis) + (slice(None, None, stride[axis]),)]
        tap = weight[(slice(None), 0, *place)].reshape(1, -1, *[1] * len(window))
        total = part * tap if total is None else total + part * tap
    if total is None:
        return func(x, weight, bias, *rest)
    return total if bias is None else total + bias.reshape(1, -1, *[1] * len(window))


def _attention(
    func: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> Any:
    query, key = _permuted(query, -1), _permuted(key, -1)
    if not is_causal and not dropout_p:
        if attn_mask is not None and attn_mask.shape[-1] == key.shape[-2]:
            attn_mask = _permuted(attn_mask, -1)
            key, value = _permuted(key, -2), _permuted(value, -2)
        elif attn_mask is None:
            key, value = _permuted(key, -2), _permuted(value, -2)
    return func(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)


def _layer_norm(
    func: Any,
    x: torch.Tensor,
    shape: Sequence[int],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> Any:
    axes = range(-len(shape), 0)
    weight, bias = (None if part is None else _permuted(part, *axes) for part in (weight, bias))
    result, *statistics = func(_permuted(x, *axes), shape, weight, bias, eps)
    return (_restored(result, *axes), *statistics)


def _group_norm(
    func: Any,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    batch: int,
    channels: int,
    places: int,
    groups: int,
    eps: float,
) -> Any:
    size = channels // groups
    order = torch.cat([_order(size) + group * size for group in range(groups)])
    weight, bias = (None if part is None else part.index_select(0, order) for part in (weight, bias))
    axes = range(2, x.ndim)
    moved = _permuted(x.index_select(1, order), *axes)
    result, *statistics = func(moved, weight, bias, batch, channels, places, groups, eps)
    return (_restored(result.index_select(1, torch.argsort(order)), *axes), *statistics)


def _batch_norm(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    axes = (0, *range(2, x.ndim))
    result, *statistics = func(_permuted(x, *axes), *args, **kwargs)
    return (_restored(result, *axes), *statistics)


def _trilinear(
    func: Any,
    left: torch.Tensor,
    weight: torch.Tensor,
    right: torch.Tensor,
    *rest: Any,
) -> Any:
    """Permute both sums of a bilinear layer, which is the only one that torch computes in this way."""
    weight = _permuted(weight, 1, 2)
    return func(_permuted(left, -1), weight, _permuted(right, -1), *rest)


def _softmax(func: Any, x: torch.Tensor, axis: int, *args: Any, **kwargs: Any) -> Any:
    if x.ndim == 0:
        return func(x, axis, *args, **kwargs)
    return _restored(func(_permuted(x, axis), axis, *args, **kwargs), axis)


def _reduction(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Permute the axes that are reduced, which the result does not have."""
    names = [argument.name for argument in func._schema.arguments]
    axes = kwargs.get("dim", args[names.index("dim") - 1] if _has(names, "dim", args) else None)
    chosen = range(x.ndim) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
    return func(_permuted(x, *chosen), *args, **kwargs)


def _has(names: list[str], name: str, args: Sequence[Any]) -> bool:
    return name in names and names.index(name) - 1 < len(args)


_BY_NAME: dict[str, Callable[..., Any]] = {
    "mm.default": _product(1, 0),
    "addmm.default": _product(1, 0, at=1),
    "bmm.default": _product(2, 1),
    "baddbmm.default": _product(2, 1, at=1),
    "addbmm.default": _product(2, 1, at=1),
    "mv.default": _product(1, 0),
    "addmv.default": _product(1, 0, at=1),
    "dot.default": _product(0, 0),
    "convolution.default": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu.default": _attention,
    "_trilinear.default": _trilinear,
    "native_layer_norm.default": _layer_norm,
    "native_group_norm.default": _group_norm,
    "native_batch_norm.default": _batch_norm,
    **dict.fromkeys(("_softmax.default", "_safe_softmax.default", "_log_softmax.default"), _softmax),
    **dict.fromkeys(("sum.default", "sum.dim_IntList", "mean.default", "mean.dim"), _reduction),
    **dict.fromkeys(("var.correction", "std.correction", "var_mean.correction"), _reduction),
    **dict.fromkeys(("std_mean.correction", "logsumexp.default", "linalg_vector_norm.default"), _reduction),
}
"""Operations by name and overload; some are newer than the oldest torch that is supported."""


def _operations() -> dict[Any, Callable[..., Any]]:
    operations = {}
    for name, compute in _BY_NAME.items():
        packet, _, overload = name.partition(".")
        with contextlib.suppress(AttributeError):
            operations[getattr(getattr(torch.ops.aten, packet), overload)] = compute
    return operations


_OPERATIONS = _operations()
