"""Distributed tensors of torch: which region of the complete tensor this process holds, and which it reads.

A region that is many short runs of its file takes reading more than the region. Then each process reads a
region along another axis, and the processes exchange values.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from bridge_core import ConversionError, Key, Tensor, UnsupportedFeature
from bridge_core.state import Region, regions
from bridge_core.transfer import read_cost

__all__ = [
    "Together",
    "as_distributed",
    "exchanged",
    "is_distributed",
    "local_region",
    "local_tensor",
    "placements_to_read",
    "require_all",
    "share_nbytes",
]

_LEAST_SAVED = 64 << 10
"""Bytes that a process has to save by an exchange, which costs the time of a message."""


def is_distributed(value: Any) -> bool:
    """Return whether a value is a `torch.distributed.tensor.DTensor`; imports nothing."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def local_tensor(value: Any) -> torch.Tensor:
    """Return the part of a distributed tensor that this process holds, on the same memory."""
    local: torch.Tensor = value.detach().to_local()
    return local


def local_region(key: Key, value: Any, placements: Any = None) -> Region | None:
    """Return which region of the complete tensor this process holds; None if its mesh is of other processes.

    Args:
        key: The tensor's key, for errors.
        value: A DTensor.
        placements: Those to take in place of the tensor's own.

    Raises:
        UnsupportedFeature: The processes hold summands of the values, or places that are not one region.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    mesh, shape = value.device_mesh, tuple(value.shape)
    for dim, placement in enumerate(value.placements):
        if placement.is_partial():
            raise UnsupportedFeature(
                f"expected each process to hold values of the tensor, got the placement {placement}: they "
                "hold summands.",
                key=key,
                hint="Use Shard and Replicate as placements.",
            )
        if hasattr(placement, "split_factor") and not _is_region(value, dim):
            raise UnsupportedFeature(
                f"the placements {value.placements} on a mesh of {tuple(mesh.shape)} give this process "
                "places of the tensor that are not one region.",
                key=key,
                hint="Choose sizes that the mesh divides, or place the tensor with Shard.",
            )
    if mesh.get_coordinate() is None:
        return None
    sizes, offsets = compute_local_shape_and_global_offset(shape, mesh, placements or value.placements)
    if 0 in sizes:  # then torch's offset is the end of the tensor, or undefined
        return tuple(slice(0, n, 1) for n in sizes)
    return tuple(slice(start, start + n, 1) for start, n in zip(offsets, sizes, strict=True))


def _is_region(value: Any, dim: int) -> bool:
    """Return whether a strided shard is one region: the tensor is cut evenly, from right to left.

    torch makes them where `fully_shard` cuts what tensor parallelism has cut along the same axis.
    """
    placement, mesh = value.placements[dim], value.device_mesh
    same_axis = [at for at, other in enumerate(value.placements) if _axis(other) == placement.dim]
    earlier, later = [at for at in same_axis if at < dim], [at for at in same_axis if at > dim]
    cut = math.prod(mesh.size(at) for at in later)
    is_even: bool = value.shape[placement.dim] % (cut * mesh.size(dim)) == 0
    return bool(placement.split_factor == cut and is_even and not earlier)


def _axis(placement: Any) -> int | None:
    axis: int | None = getattr(placement, "dim", None)
    return axis


def placements_to_read(value: Any, tensor: Tensor) -> tuple[Any, ...] | None:
    """Return the placements to read a tensor with before its values are exchanged; None to read its own.

    All processes return the same: costs are those of the first part, which is the largest.

    Args:
        value: A DTensor.
        tensor: The complete tensor, lazily.
    """
    from torch.distributed.tensor import Shard

    own = tuple(value.placements)
    if any(hasattr(placement, "split_factor") for placement in own):
        return None
    direct = read_cost(tensor, _first_region(value, own))
    if direct.nbytes - direct.needed < _LEAST_SAVED:
        return None
    best, best_cost = None, direct
    for axis in range(value.ndim):
        other = tuple(Shard(axis) if placement.is_shard() else placement for placement in own)
        cost = read_cost(tensor, _first_region(value, other))
        if cost.total < best_cost.total and direct.nbytes - cost.nbytes >= _LEAST_SAVED:
            best, best_cost = other, cost
    return best


def _first_region(value: Any, placements: tuple[Any, ...]) -> Region:
    sizes = list(value.shape)
    for dim, placement in enumerate(placements):
        if placement.is_shard():
            sizes[placement.dim] = -(-sizes[placement.dim] // value.device_mesh.size(dim))
    return regions.full(tuple(sizes))


def share_nbytes(value: Any) -> int:
    """Return the most bytes that a process holds of a distributed tensor, the same in all processes."""
    sizes = regions.region_shape(_first_region(value, tuple(value.placements)))
    return regions.size(sizes) * int(value.dtype.itemsize)


def as_distributed(local: torch.Tensor, like: Any, placements: Any = None) -> Any:
    """Return the distributed tensor of which ``local`` is the part of this process; nothing is exchanged.

    Args:
        local: The values of this process.
        like: A DTensor with the mesh, the placements and the shape of the result.
        placements: Those to take in place of its own.
    """
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local,
        like.device_mesh,
        placements or like.placements,
        run_check=False,
        shape=like.shape,
        stride=regions.row_major_strides(tuple(like.shape)),
    )


def exchanged(local: torch.Tensor, like: Any, placements: Any) -> torch.Tensor:
    """Return the values that this process holds, from those that each process has read.

    Every process of the mesh calls this at the same time.

    Args:
        local: What this process has read, on the device of the mesh.
        like: A DTensor with the mesh, the shape and the placements of the result.
        placements: The placements of what was read.
    """
    with torch.no_grad():
        complete = as_distributed(local, like, placements)
        return local_tensor(complete.redistribute(placements=like.placements)).contiguous()


class Together:
    """Lets processes fail together that load parts of the same tensors; without such tensors it does nothing.

    Args:
        values: The tensors, distributed and others, in the same order in all processes.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._meshes: list[Any] = []
        self._is_planned = False
        for value in values:
            if is_distributed(value) and value.device_mesh not in self._meshes:
                self._meshes.append(value.device_mesh)

    @contextlib.contextmanager
    def planning(self) -> Iterator[None]:
        """Pass on an error of the block to the other processes, unless `planned` was called before."""
        try:
            yield
        except BaseException as err:
            if not self._is_planned:
                self._planned(err)
            raise

    def planned(self) -> None:
        """Wait until all processes have planned what they read.

        Raises:
            ConversionError: Another process could not.
        """
        self._planned(None)

    def _planned(self, error: BaseException | None) -> None:
        self._is_planned = True
        for mesh in self._meshes:
            if mesh.get_coordinate() is not None:
                require_all(mesh, error)


def require_all(mesh: Any, error: BaseException | None) -> None:
    """Raise the error of this process; without one, refuse to go on if another process has one.

    Every process of the mesh calls this at the same time.

    Args:
        mesh: The processes.
        error: What this process could not do; None if it has done it.

    Raises:
        ConversionError: Another process has an error.
    """
    import torch.distributed as dist

    failures = torch.tensor([0 if error is None else 1], device=mesh.device_type)
    for dim in range(mesh.ndim):
        dist.all_reduce(failures, group=mesh.get_group(dim))
    if error is not None:
        raise error
    if int(failures.item()):
        raise ConversionError(
            "another process of the mesh could not load its part of the checkpoint.",
            hint="Look at the errors of the other processes.",
        )
