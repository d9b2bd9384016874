"""Loading a state into memory, each value once, into a buffer that only its tensor uses.

The frameworks build their arrays on these buffers without copying again.
"""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bridge_core.errors import ConversionWarning, UsageError, about_tensor
from bridge_core.messages import count, listed
from bridge_core.ops import OverflowCount
from bridge_core.state import (
    Array,
    ArrayTensor,
    FlatState,
    Key,
    Tensor,
    TensorSpec,
    as_state,
    join_key,
    regions,
)
from bridge_core.transfer.block_plan import plan_blocks
from bridge_core.transfer.block_reader import read_into, read_whole
from bridge_core.transfer.budget import Budget, parse_size
from bridge_core.transfer.chunk_jobs import Allowance, Part, jobs_by_chunks
from bridge_core.transfer.memory_order import chunked_sources
from bridge_core.transfer.remote_reading import announce_region, sharing_memory
from bridge_core.transfer.scratch import ScratchPool
from bridge_core.transfer.thread_pool import run_jobs
from bridge_core.transfer.transpose import kernel_for

__all__ = ["LoadedTensor", "load_values", "overflow_message"]

_BLOCK, _SCRATCH = 16 << 20, 24 << 20
"""Bytes of a block, and of the scratch memory of a thread; chosen with ``benchmarks/load.py``."""
_ALIGNMENT = 64
"""The alignment in bytes that XLA requires of a host buffer that it uses without a copy."""


@dataclass(frozen=True, eq=False, slots=True)
class LoadedTensor(ArrayTensor):
    """A writable, aligned, C-contiguous array that nothing else refers to."""


def load_values(
    state: FlatState,
    keys: Iterable[Key] | None = None,
    *,
    shared: bool = False,
    workers: int | None = None,
    max_ram: int | str | None = None,
    out: Mapping[Key, Array] | None = None,
) -> FlatState:
    """Return the state with values in memory.

    Args:
        state: The state to read; it stays unchanged and lazy.
        keys: Which tensors; the others stay lazy. None for all.
        shared: Whether keys that share a tensor share the array; if not, each gets an array of its own.
        workers: Threads; None for one per processor that this process may use, at most four.
        max_ram: Most bytes of buffers in addition to the arrays, or a text such as ``"512MB"``; None for what
            `convert` takes.
        out: Key -> the array that its values are read into, which is C-contiguous and writable, and has the
            tensor's shape and dtype. Keys without one get a new array.

    Returns:
        A state of writable arrays: those of ``out``, and new ones. It is on the same open files.

    Raises:
        UnknownKey: The state does not have one of the keys.
        UsageError: ``workers`` is less than 1, the value is not a state, or an array of ``out`` does not fit.

    Warns:
        ConversionWarning: Values are outside the range of the dtype that they are cast to.
    """
    state = as_state(state)
    selected = list(state) if keys is None else list(keys)
    jobs: dict[object, tuple[Key, Tensor]] = {}
    for key in selected:
        jobs.setdefault(id(state.tensor(key)) if shared else key, (key, state.tensor(key)))
    budget = Budget(workers, None if max_ram is None else parse_size(max_ram))
    threads, block = budget.threads, min(_BLOCK, budget.block)
    scratch = _SCRATCH * block // _BLOCK
    pool = ScratchPool(kernel_for(sum(tensor.spec.nbytes for _, tensor in jobs.values())), scratch)
    arrays = _checked_arrays(out or {}, jobs.values())
    overflows: dict[Key, int] = {}
    chunked = {name for name, (_, tensor) in jobs.items() if chunked_sources(tensor)}
    whole = [name for name in jobs if name not in chunked]
    load_one = functools.partial(_load, pool, overflows, block, arrays)
    read_at_once = [jobs[name][1] for name in whole]
    with sharing_memory(read_at_once, budget):
        for tensor in read_at_once:
            announce_region(tensor, regions.full(tensor.spec.shape))
        loaded = dict(zip(whole, run_jobs(load_one, (jobs[name] for name in whole), threads), strict=True))
    if chunked:
        names = [name for name in jobs if name in chunked]
        given = [jobs[name] for name in names]
        loaded |= zip(names, _load_chunked(pool, overflows, block, arrays, given, threads), strict=True)
    if overflows:
        warnings.warn(ConversionWarning(overflow_message(overflows), code="overflow"), stacklevel=2)
    tensors: dict[Key, Tensor] = dict(state.tensors())
    for key in selected:
        tensors[key] = loaded[id(state.tensor(key)) if shared else key]
    return state.replace(tensors=tensors)


def overflow_message(overflows: Mapping[Key, int]) -> str:
    """Return the text of a warning about values that left the range of a cast's dtype.

    Args:
        overflows: Key -> how many such values it has.
    """
    names = listed(f"{join_key(key)} ({count(number, 'value')})" for key, number in overflows.items())
    return (
        f"values of {count(len(overflows), 'tensor')} are outside the range of the dtype that they were cast "
        f"to: {names}. They are now infinite, NaN or other numbers. Cast to a dtype of a wider range: "
        "bfloat16 has that of float32."
    )


def _checked_arrays(out: Mapping[Key, Array], jobs: Iterable[tuple[Key, Tensor]]) -> Mapping[Key, Array]:
    """Refuse arrays that the values of their tensors cannot be read into."""
    for key, tensor in jobs if out else ():
        array = out.get(key)
        if array is None:
            continue
        is_usable = array.flags.c_contiguous and array.flags.writeable
        if not is_usable or TensorSpec(array.shape, array.dtype) != tensor.spec or not array.dtype.isnative:
            raise UsageError(
                f"expected a C-contiguous, writable array of {tensor.spec} in out=, got one of "
                f"{array.dtype.name}{list(array.shape)}.",
                key=key,
            )
    return out


def _load(
    pool: ScratchPool,
    overflows: dict[Key, int],
    block: int,
    arrays: Mapping[Key, Array],
    job: tuple[Key, Tensor],
) -> LoadedTensor:
    key, tensor = job
    out = arrays[key] if key in arrays else aligned(tensor.spec)
    with about_tensor(key), pool.borrowed() as scratch, OverflowCount() as overflow:
        read_whole(plan_blocks(key, tensor, block, in_order=True), out, scratch)
    if overflow.values:
        overflows[key] = overflow.values
    return LoadedTensor(out)


def _load_chunked(
    pool: ScratchPool,
    overflows: dict[Key, int],
    block: int,
    given: Mapping[Key, Array],
    tensors: list[tuple[Key, Tensor]],
    threads: int,
) -> list[LoadedTensor]:
    """Load tensors whose sources have chunks: those that need the same chunks together."""
    plans = [plan_blocks(key, tensor, block) for key, tensor in tensors]
    arrays = {id(plan): given[plan.key] if plan.key in given else aligned(plan.tensor.spec) for plan in plans}
    large = Allowance(block, threads)
    counted = threading.Lock()
    stop = threading.Event()

    def work(parts: list[Part]) -> None:
        kept = max(part.plan.held_nbytes for part in parts)
        with large.taken(kept, stop), pool.borrowed() as scratch:
            for part in parts:
                key = part.plan.key
                with about_tensor(key), OverflowCount() as overflow:
                    read_into(part.plan, part.regions, arrays[id(part.plan)], scratch)
                if overflow.values:
                    with counted:
                        overflows[key] = overflows.get(key, 0) + overflow.values

    run_jobs(work, jobs_by_chunks(plans), threads, stop=stop)
    return [LoadedTensor(arrays[id(plan)]) for plan in plans]


def aligned(spec: TensorSpec) -> Array:
    """Return an uninitialised array whose memory begins at a multiple of 64 bytes."""
    raw = np.empty(spec.nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + spec.nbytes].view(spec.dtype).reshape(spec.shape)
