"""Watching what JAX traces and compiles: callbacks that get their numbers unchanged, and traces made anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

__all__ = ["fresh_traces", "packed"]

_NUMBERS = itertools.count()


def fresh_traces() -> Any:
    """Return a context in which JAX traces every function, also those that it has traced before.

    What it has compiled before does not call Python code, and so shows no modules.
    """
    return set_xla_metadata(ckptbridge_trace=str(next(_NUMBERS)))


def packed(callback: Callable[..., Any], values: Sequence[Any]) -> tuple[Callable[..., Any], list[Any]]:
    """Return a callback and its arguments, such that it gets the values as they are.

    JAX may run a callback in a thread of its own, which does not have the 64-bit types of the caller's
    context: it would round float64 arrays to float32. They travel as pairs of integers.
    """
    wide = [value.dtype == np.float64 for value in values]

    def unpacking(*args: Any) -> Any:
        pairs = zip(args, wide, strict=True)
        return callback(*(_unpacked(arg) if is_wide else arg for arg, is_wide in pairs))

    sent = [
        lax.bitcast_convert_type(value, jnp.uint32) if is_wide else value
        for value, is_wide in zip(values, wide, strict=True)
    ]
    return unpacking, sent


def _unpacked(array: Any) -> Any:
    return np.ascontiguousarray(np.asarray(array)).view(np.float64)[..., 0]
