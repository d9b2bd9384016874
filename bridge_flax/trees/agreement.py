"""Several processes that load or save one tree: if one of them fails, all of them raise an error."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import jax
import numpy as np

from bridge_core import ConversionError
from bridge_core.messages import shown
from bridge_core.state import Array

__all__ = ["Processes"]

_TEXT = 2000
"""Bytes of an error that the other processes get."""


class Processes:
    """The processes that work on one tree.

    Args:
        devices: All devices that hold parts of the tree, in any order.
    """

    def __init__(self, devices: Iterable[jax.Device]) -> None:
        first: dict[int, jax.Device] = {}
        for device in sorted(devices, key=lambda device: device.id):
            first.setdefault(device.process_index, device)
        self.numbers = tuple(sorted(first))
        """The numbers of the processes."""
        self._mesh = jax.sharding.Mesh(np.array([first[n] for n in self.numbers]), ("process",))

    @property
    def are_several(self) -> bool:
        """Whether there is another process than this one."""
        return self.numbers not in ((), (jax.process_index(),))

    def agree(self, doing: str, error: Exception | None = None, *, about: Iterable[str] = ()) -> None:
        """Wait for all processes; if one of them passes an error, raise one in each of the others.

        Args:
            doing: What failed then, as ``"load the tree"``.
            error: The error of this process; the caller raises it.
            about: Texts that must be equal in all processes.

        Raises:
            ConversionError: Another process failed, or the texts differ.
        """
        if not self.are_several:
            return
        digest = hashlib.blake2b("\0".join(about).encode(), digest_size=16).digest()
        text = "" if error is None else f"{type(error).__name__}: {error}"
        row = np.zeros(1 + len(digest) + _TEXT, np.uint8)
        row[0] = error is not None
        row[1 : 1 + len(digest)] = np.frombuffer(digest, np.uint8)
        encoded = text.encode()[:_TEXT]
        row[1 + len(digest) : 1 + len(digest) + len(encoded)] = np.frombuffer(encoded, np.uint8)
        rows = self._gathered(row)
        if error is not None:
            return
        for number, other in zip(self.numbers, rows, strict=True):
            if other[0]:
                reason = bytes(other[1 + len(digest) :]).rstrip(b"\0").decode(errors="replace")
                raise ConversionError(
                    f"cannot {doing}: process {number} failed with {reason}",
                    hint="The hint of that process is in its own output.",
                )
        for number, other in zip(self.numbers, rows, strict=True):
            if bytes(other[1 : 1 + len(digest)]) != digest:
                raise ConversionError(
                    f"cannot {doing}: process {number} and process {shown(jax.process_index())} do not do "
                    "the same.",
                    hint="Call the function with equal arguments in every process, and let all processes "
                    "read the same files.",
                )

    def _gathered(self, row: Array) -> Array:
        spec = jax.sharding.PartitionSpec
        across = jax.sharding.NamedSharding(self._mesh, spec("process"))
        everywhere = jax.sharding.NamedSharding(self._mesh, spec())
        device = self._mesh.devices.flat[self.numbers.index(jax.process_index())]
        part = jax.device_put(row[None], device)
        rows = jax.make_array_from_single_device_arrays((len(self.numbers), row.size), across, [part])
        with jax.set_mesh(self._mesh):  # the caller may have set one of other devices
            return np.asarray(jax.jit(lambda x: x, out_shardings=everywhere)(rows).addressable_data(0))
