"""Compiling computations fast, and each of them once: a model is run a few times, on few numbers."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import jax

__all__ = ["computed"]

_FAST = {"xla_backend_optimization_level": 0, "xla_allow_excess_precision": False}
"""Compiling takes half as long; products and convolutions are library calls in any case.

Each operation rounds to its own dtype, as it does where operations are run one by one.
"""
_MOST = 8
_KEPT: OrderedDict[bytes, Any] = OrderedDict()
"""Digest of a program, which holds its constants -> the compiled program."""
_LOCK = threading.Lock()


def computed(function: Callable[..., Any], arrays: Sequence[Any], *, keep: bool = True) -> Any:
    """Return what a function of arrays gives, compiled as one program.

    Args:
        function: A function that JAX can trace.
        arrays: Its arguments.
        keep: Whether the program is kept for the next time; one with callbacks is another each time.
    """
    options = _FAST if jax.default_backend() == "cpu" else None
    # An argument that is not used stays one, so that programs of one text take the same arguments.
    lowered = jax.jit(function, keep_unused=True).lower(*arrays)
    if not keep:
        return lowered.compile(options)(*arrays)
    text = lowered.compiler_ir("stablehlo").operation.get_asm(enable_debug_info=False)
    digest = hashlib.sha256(text.encode()).digest()
    with _LOCK:
        program = _KEPT.pop(digest, None)
    if program is None:
        program = lowered.compile(options)
    with _LOCK:
        _KEPT[digest] = program
        while len(_KEPT) > _MOST:
            _KEPT.popitem(last=False)
    return program(*arrays)
