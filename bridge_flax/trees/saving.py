"""Trees whose arrays are on several hosts: each process writes some files, from values that it gathers."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from bridge_core import FlatState, Key, Registry
from bridge_core.checkpoint import JointFolder, PlannedFile, Saved, WriteOptions
from bridge_core.state import Array, ArrayTensor, Tensor, regions
from bridge_flax.trees.agreement import Processes
from bridge_flax.trees.arrays import SpreadTensor
from bridge_flax.trees.exchange import has_bits
from bridge_flax.trees.placement import boxes_of_processes

__all__ = ["is_on_other_hosts", "save_together"]

_DOING = "save the tree"


def is_on_other_hosts(state: FlatState) -> bool:
    """Return whether parts of a tree are only on devices of other hosts."""
    return any(isinstance(tensor, SpreadTensor) for tensor in state.tensors().values())


def save_together(state: FlatState, path: Any, options: WriteOptions, registry: Registry) -> Saved:
    """Write a tree whose arrays are on several hosts; every process of these arrays has to call this.

    `bridge_flax.save` documents it.
    """
    arrays = [tensor.array for tensor in state.tensors().values() if isinstance(tensor, SpreadTensor)]
    processes = Processes(device for array in arrays for device in array.sharding.device_set)
    try:
        folder = JointFolder(state, path, options, registry, len(processes.numbers))
    except Exception as err:
        processes.agree(_DOING, err)
        raise
    processes.agree(_DOING, about=folder.description)
    try:
        for files in folder.rounds:
            _write_round(folder, files, processes)
        error: Exception | None = None
        if jax.process_index() == processes.numbers[0]:
            error = _error_of(folder.finish)
        processes.agree(_DOING, error)
        if error is not None:
            raise error
    except BaseException:
        folder.undo()
        raise
    return folder.saved()


def _write_round(folder: JointFolder, files: tuple[PlannedFile, ...], processes: Processes) -> None:
    """Gather the values of one file for each process, one tensor after the other; then all write."""
    values: dict[Key, Tensor] = {}
    own: PlannedFile | None = None
    for owner, file in zip(processes.numbers, files, strict=False):
        is_own = owner == jax.process_index()
        own = file if is_own else own
        seen: dict[int, Tensor] = {}
        for key in file.keys:
            tensor = folder.state.tensor(key)
            if not isinstance(tensor, SpreadTensor):
                continue
            if id(tensor) not in seen:
                seen[id(tensor)] = ArrayTensor(_gathered(tensor.array, owner))
            if is_own:
                values[key] = seen[id(tensor)]
            else:
                seen[id(tensor)] = tensor
    error = None if own is None else _error_of(functools.partial(folder.write, own, values))
    processes.agree(_DOING, error)
    if error is not None:
        raise error


def _error_of(work: Any) -> Exception | None:
    """Return the error that a function raises, which the other processes have to know first."""
    try:
        work()
    except Exception as err:
        return err
    return None


def _gathered(array: jax.Array, owner: int) -> Array:
    """Return the values of an array in one process; in the others the result means nothing."""
    boxes = boxes_of_processes(array.sharding, array.shape).get(owner, ())
    if boxes == (regions.full(array.shape),):
        return _of_own_shards(array) if owner == jax.process_index() else np.empty(0)
    if not isinstance(array.sharding, NamedSharding) or not has_bits(np.dtype(array.dtype)):
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
    with jax.set_mesh(everywhere.mesh):  # the caller may have set another one
        copies = _replicate(str(array.dtype), array.dtype.itemsize, everywhere)(array)
    bits = np.array(copies.addressable_data(0)) if owner == jax.process_index() else np.empty(0)
    copies.block_until_ready()
    copies.delete()
    return bits.view(array.dtype) if owner == jax.process_index() else bits


def _of_own_shards(array: jax.Array) -> Array:
    values = np.empty(array.shape, array.dtype)
    for shard in array.addressable_shards:
        values[shard.index] = np.asarray(shard.data)
    return values


@functools.lru_cache(maxsize=256)
def _replicate(dtype: str, itemsize: int, everywhere: NamedSharding) -> Any:
    """Return a compiled function that gives every device all of an array, as unsigned integers."""
    bits = jax.numpy.dtype(f"uint{8 * itemsize}")

    def replicate(values: jax.Array) -> jax.Array:
        return values.astype(bits) if dtype == "bool" else jax.lax.bitcast_convert_type(values, bits)

    return jax.jit(replicate, out_shardings=everywhere)
