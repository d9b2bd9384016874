"""Which boxes of an array a process reads for its devices, and arrays made from the values of the boxes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from bridge_core import UsageError
from bridge_core.state import Array, Region
from bridge_core.transfer import joined_boxes

__all__ = ["Placement", "boxes_of_processes", "owning_array", "placement_of", "spread_array"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Placement:
    """What this process reads of an array, and where the values go.

    Args:
        boxes: What is read, each element once.
        devices: Each device of this process, the number of a box, and the device's region in that box.
    """

    boxes: tuple[Region, ...]
    devices: tuple[tuple[jax.Device, int, Region], ...]


@functools.lru_cache(maxsize=1024)
def placement_of(sharding: Sharding, shape: Shape) -> Placement:
    """Return what this process reads of an array.

    Raises:
        UsageError: The array cannot be sharded so, as where a size is not a multiple of the devices.
    """
    here = {
        device: region
        for device, region in _regions(sharding, shape).items()
        if device.process_index == jax.process_index()
    }
    boxes = tuple(joined_boxes(here.values()))
    devices = []
    for device, region in here.items():
        number = next((n for n, box in enumerate(boxes) if _is_inside(region, box)), -1)
        if number < 0:  # the array has no elements
            boxes, number = (*boxes, region), len(boxes)
        local = tuple(
            slice(part.start - whole.start, part.stop - whole.start, 1)
            for part, whole in zip(region, boxes[number], strict=True)
        )
        devices.append((device, number, local))
    return Placement(boxes, tuple(devices))


@functools.lru_cache(maxsize=1024)
def boxes_of_processes(sharding: Sharding, shape: Shape) -> dict[int, tuple[Region, ...]]:
    """Return which boxes the devices of each process need, by the number of the process.

    Raises:
        UsageError: The array cannot be sharded so.
    """
    needed: dict[int, list[Region]] = {}
    for device, region in _regions(sharding, shape).items():
        needed.setdefault(device.process_index, []).append(region)
    return {process: tuple(joined_boxes(needed[process])) for process in sorted(needed)}


def spread_array(
    placement: Placement,
    sharding: Sharding,
    shape: Shape,
    dtype: np.dtype[Any],
    boxes: Sequence[Array],
) -> jax.Array:
    """Return an array from the values of the boxes that this process reads.

    Args:
        placement: As `placement_of` returns it.
        sharding: The sharding.
        shape: The shape of the complete array.
        dtype: The dtype.
        boxes: The values of each box; nothing else may refer to their memory.
    """
    parts = []
    used: set[tuple[int, tuple[int, ...]]] = set()
    for device, number, region in placement.devices:
        index: tuple[Any, ...] = (*region, ...)  # with the ellipsis, no axes give an array, not a scalar
        values = boxes[number][index]
        corner = (number, tuple(part.start for part in region))
        # On a CPU the array may be the memory itself, and each device has to have its own.
        parts.append(owning_array(values, device, sharding.memory_kind, shared=corner in used))
        used.add(corner)
    return jax.make_array_from_single_device_arrays(shape, sharding, parts, dtype=dtype)


def owning_array(values: Array, device: jax.Device, memory_kind: str | None, *, shared: bool) -> jax.Array:
    """Return values on a device.

    Args:
        values: The values.
        device: The device.
        memory_kind: Which memory of the device, such as ``"pinned_host"``; None for the default.
        shared: Whether another array may be made on the same memory.
    """
    target = SingleDeviceSharding(device, memory_kind=memory_kind)
    on_memory = shared and (device.platform == "cpu" or memory_kind != device.default_memory().kind)
    return jax.device_put(values.copy() if on_memory else values, target)


def _regions(sharding: Sharding, shape: Shape) -> dict[jax.Device, Region]:
    try:
        indices = sharding.devices_indices_map(shape)
    except (ValueError, TypeError, IndexError) as err:
        raise UsageError(
            f"an array of shape {list(shape)} cannot have the sharding {sharding}: {err}",
            hint="Pass another sharding in like=, for example jax.sharding.PartitionSpec() for one that "
            "every device holds completely.",
        ) from err
    return {
        device: tuple(slice(*part.indices(n)) for part, n in zip(index, shape, strict=True))
        for device, index in indices.items()
    }


def _is_inside(region: Region, box: Region) -> bool:
    return all(
        whole.start <= part.start and part.stop <= whole.stop for part, whole in zip(region, box, strict=True)
    )
