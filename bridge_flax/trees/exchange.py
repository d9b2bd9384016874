"""Arrays that processes read in shares of another shape, and exchange through their devices.

A shard that is a few columns of a row-major file is many short runs of it. Then every process reads rows, and
the devices make shards of them. Values move as unsigned integers of their size, so every bit stays.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from bridge_core.state import Array, Region, Tensor, regions
from bridge_core.transfer import Cut, ReadCost, best_cut, joined_boxes, read_cost
from bridge_flax.trees.placement import boxes_of_processes, owning_array

__all__ = ["Share", "as_bits", "has_bits", "share_of"]

_MARGIN = 1.25
"""How many times cheaper reading has to become, so that an exchange is worth it."""

_SAVING = 256 << 10
"""Bytes of reading that an exchange has to save; compiling one takes as long as reading several MB."""


@dataclass(frozen=True)
class Share:
    """What this process reads of an array that is exchanged.

    Args:
        cut: How the array is cut into parts for the processes or devices.
        sharding: The sharding of the parts, with padding.
        target: The sharding of the result.
        parts: The devices of this process, and the region of each in the padded array.
    """

    cut: Cut
    sharding: NamedSharding
    target: NamedSharding
    parts: tuple[tuple[jax.Device, Region], ...]

    @property
    def boxes(self) -> tuple[Region, ...]:
        """The regions of the array to read, without padding; those without elements are left out."""
        everything = regions.full(self.cut.shape)
        return tuple(joined_boxes(_inside(region, everything) for _, region in self.parts))

    def exchanged(self, values: list[Array], dtype: np.dtype[Any]) -> jax.Array:
        """Return the array in the target's sharding; every process has to call this, in one order.

        Args:
            values: The values of each of `boxes`.
            dtype: The dtype of the array.
        """
        boxes = self.boxes
        pieces = []
        for device, region in self.parts:
            piece = np.zeros(regions.region_shape(region), as_bits(np.empty(0, dtype)).dtype)
            wanted = _inside(region, regions.full(self.cut.shape))
            for box, read in zip(boxes, values, strict=True):
                if regions.size(regions.region_shape(wanted)) and _inside(wanted, box) == wanted:
                    piece[_within(wanted, region)] = as_bits(read)[_within(wanted, box)]
            pieces.append(owning_array(piece, device, None, shared=False))
        parts = jax.make_array_from_single_device_arrays(self.cut.padded_shape, self.sharding, pieces)
        name = str(np.dtype(dtype))
        with jax.set_mesh(self.sharding.mesh):  # another one that the caller has set would not fit the parts
            result = _reshard(self.cut.shape, name, self.target)(parts)
        result.block_until_ready()
        parts.delete()
        return result


def share_of(tensor: Tensor, sharding: Sharding) -> Share | None:
    """Return what this process reads if an exchange is worth it; None to read shards directly.

    Every process gets the same answer: all of it follows from the sharding, the shapes and the plan.
    """
    shape = tensor.spec.shape
    if not isinstance(sharding, NamedSharding) or not has_bits(tensor.spec.dtype):
        return None
    boxes = boxes_of_processes(sharding, shape)
    if len(boxes) < 2 or tensor.spec.nbytes < _SAVING:
        return None
    # Boxes of one shape cost about the same, and there may be many processes.
    alike = {tuple(map(regions.region_shape, each)): each for each in boxes.values()}
    costs = [sum((read_cost(tensor, box) for box in each), ReadCost()) for each in alike.values()]
    direct = max(costs, key=lambda cost: cost.total)
    if direct.total <= max(_MARGIN * direct.needed, direct.needed + _SAVING):
        return None
    processes = _in_blocks(sharding)
    count = processes or sharding.mesh.devices.size
    found = best_cut(tensor, count)
    if found is None:
        return None
    cut, cost = found
    total = cost.total * (1 if processes else sharding.mesh.devices.size // len(boxes))
    if total * _MARGIN > direct.total or total + _SAVING > direct.total:
        return None
    between = _sharding_of(cut, sharding, count)
    parts = tuple(
        (device, tuple(slice(*part.indices(n)) for part, n in zip(index, cut.padded_shape, strict=True)))
        for device, index in between.addressable_devices_indices_map(cut.padded_shape).items()
        if index is not None
    )
    return Share(cut, between, sharding, parts)


def has_bits(dtype: np.dtype[Any]) -> bool:
    """Return whether the values of a dtype can move as unsigned integers of the same size."""
    return dtype.kind in "biu" or (dtype.name.startswith(("float", "bfloat")) and _is_of_bytes(dtype))


def as_bits(values: Array) -> Array:
    """Return the values as unsigned integers of the same size, on the same memory."""
    return values.view(np.dtype(f"u{values.dtype.itemsize}"))


def _is_of_bytes(dtype: np.dtype[Any]) -> bool:
    return int(jax.numpy.finfo(dtype).bits) == 8 * dtype.itemsize


def _sharding_of(cut: Cut, target: NamedSharding, count: int) -> NamedSharding:
    """Return the sharding of the parts: one for each process, divided among its devices if that is even."""
    devices = target.mesh.devices.reshape(-1)
    here = devices.size // count
    axes = [axis for axis, parts in enumerate(cut.parts) if parts > 1]
    names = tuple(f"part{axis}" for axis in axes)
    mesh = jax.sharding.Mesh(devices.reshape(*(cut.parts[axis] for axis in axes), here), (*names, "device"))
    spec: list[tuple[str, ...]] = [(f"part{axis}",) if axis in axes else () for axis in range(len(cut.shape))]
    even = [axis for axis, n in enumerate(cut.part_shape) if n % here == 0]
    if even:
        longest = max(even, key=lambda axis: cut.part_shape[axis])
        spec[longest] = (*spec[longest], "device")
    return NamedSharding(mesh, PartitionSpec(*(names or None for names in spec)))


def _in_blocks(sharding: NamedSharding) -> int:
    """Return the number of processes if each has a block of equal length in the mesh's order; else 0."""
    owners = [device.process_index for device in sharding.mesh.devices.reshape(-1)]
    number = len(set(owners))
    length = len(owners) // number
    blocks = [set(owners[at : at + length]) for at in range(0, len(owners), length)]
    return number if length * number == len(owners) and all(len(each) == 1 for each in blocks) else 0


@functools.lru_cache(maxsize=256)
def _reshard(shape: tuple[int, ...], dtype: str, target: NamedSharding) -> Any:
    """Return a compiled function from padded parts of bits to the array."""

    def reshard(bits: jax.Array) -> jax.Array:
        inside = jax.lax.slice(bits, (0,) * len(shape), shape)
        if dtype == "bool":
            return inside.astype(bool)
        return jax.lax.bitcast_convert_type(inside, jax.numpy.dtype(dtype))

    return jax.jit(reshard, out_shardings=target)


def _inside(region: Region, box: Region) -> Region:
    """Return the part of a region that is in a box."""
    pairs = zip(region, box, strict=True)
    starts = [(min(max(a.start, b.start), b.stop), min(a.stop, b.stop)) for a, b in pairs]
    return tuple(slice(start, max(start, stop), 1) for start, stop in starts)


def _within(region: Region, box: Region) -> Region:
    """Return a region of a box as indices of the box."""
    return tuple(slice(a.start - b.start, a.stop - b.start, 1) for a, b in zip(region, box, strict=True))
