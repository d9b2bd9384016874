"""Computing in float64 where a model would compute in a narrower float."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["in_float64"]

_WIDER = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_WIDER_CASTS = {
    torch.Tensor.float: torch.Tensor.double,
    torch.Tensor.half: torch.Tensor.double,
    torch.Tensor.bfloat16: torch.Tensor.double,
}
_DRAWS = (torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.normal)
"""Functions whose explicit dtype determines which numbers are drawn: only their results are replaced."""

_BITS = (torch.Tensor.view,)
"""Functions with which models look at the bits of a number: their dtype is not replaced."""

_RANDOM = frozenset(
    {
        *("bernoulli", "bernoulli_", "binomial", "cauchy_", "exponential_", "geometric_", "log_normal_"),
        *("multinomial", "native_dropout", "normal", "normal_", "poisson", "rand", "rand_like", "randn"),
        *("randn_like", "rrelu_with_noise", "_standard_gamma", "uniform_"),
    }
)
"""Names of operations that draw random numbers of floats."""


@contextlib.contextmanager
def in_float64(native: torch.dtype) -> Iterator[None]:
    """Compute in float64, also where the model asks for another float dtype.

    Random numbers are drawn as the model draws them, so that dropout takes the same elements.

    Args:
        native: The dtype in which the model draws random numbers.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _SameDraws(native, before), _Wider():
            yield
    finally:
        torch.set_default_dtype(before)


class _Wider(TorchFunctionMode):
    """Replaces narrower float dtypes in calls of torch's functions, and in what they return."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _BITS:
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        if func not in _DRAWS:
            args, kwargs = tree_map(_wider_dtype, (tuple(args), kwargs))
        result = _WIDER_CASTS.get(func, func)(*args, **kwargs)
        return tree_map(_wider_tensor, result) if isinstance(result, tuple | list | torch.Tensor) else result


def _wider_dtype(value: Any) -> Any:
    return _WIDER.get(value, value) if isinstance(value, torch.dtype) else value


def _wider_tensor(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.dtype in _WIDER:
        return value.to(_WIDER[value.dtype])
    return value


class _SameDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Draws random numbers in the model's own dtype: a float64 takes more of the generator's bits."""

    def __init__(self, native: torch.dtype, default: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._native = native
        self._default = default

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports torch's compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name not in _RANDOM:
            return func(*args, **kwargs)
        narrow_args, narrow_kwargs = tree_map(self._narrow, (tuple(args), dict(kwargs)))
        if name in ("rand", "randn") and narrow_kwargs.get("dtype") is None:
            narrow_kwargs["dtype"] = self._default
        result = func(*narrow_args, **narrow_kwargs)
        if name.endswith("_"):
            return args[0].copy_(result)
        return tree_map(_wider_tensor, result)

    def _narrow(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
            return value.to(self._native)
        return self._native if value is torch.float64 else value
