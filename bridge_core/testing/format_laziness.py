"""The contract of how much a format reads and holds: what it declares as lazy, sliceable and streaming.

Nothing is timed: bytes that are read through `SourceFile` are counted, and so is the memory that Python and
numpy allocate.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge_core.state import DTYPES, Array, Key, LazyTensor, Region, TensorSpec
from bridge_core.testing.harness import MB, FormatHarness, counted_reads, traced_memory
from bridge_core.testing.strategies import plain_values, same_bits

__all__ = ["LazinessContract"]

_MEGABYTES = 12
"""MiB of what is written or read in parts; the bridge itself needs four of them."""
_SMALL = 48
"""Tensors of these MiB, each of them smaller than a block."""


class LazinessContract(FormatHarness):
    """What a format declares of its memory and reads, it must keep."""

    # Reading

    def test_opening_reads_no_values(self, path: Path) -> None:
        """Capability ``lazy``: few bytes, little memory, and damaged values are not noticed yet."""
        self.need("lazy")
        array = self.big(4)
        self.write(self.state_of({("a", "big"): array, ("b", "big"): array}), path)
        if path.is_file():
            _damage(path, array)
        self._check_opening(path, 2 * array.nbytes)
        small = self._small_tensors()
        self.write(self.state_of(small), path)
        self._check_opening(path, sum(tensor.nbytes for tensor in small.values()))

    def _check_opening(self, path: Path, nbytes: int) -> None:
        """Open a file with so many bytes of values, and measure."""
        self.read(path).close()  # what a library sets up once
        with counted_reads() as counted, traced_memory() as memory, self.read(path) as opened:
            opened.specs()
        assert max(counted.nbytes, counted.system) < nbytes // 20, (
            f"Opening read {max(counted.nbytes, counted.system)} bytes of a file with {nbytes} bytes of "
            "values. The format declares lazy: read only headers in open, and values in Tensor.read."
        )
        assert memory.nbytes < nbytes // 4, (
            f"Opening allocated {memory.nbytes} bytes for a file with {nbytes} bytes of values. The format "
            "declares lazy: read values in Tensor.read, not in open."
        )

    def test_reading_one_tensor_leaves_the_others(self, path: Path) -> None:
        """Capability ``lazy``: a tensor is read without the rest of the file."""
        self.need("lazy")
        tensors = self._small_tensors()
        self.write(self.state_of(tensors), path)
        one, *_, last = tensors
        with self.read(path) as opened:
            nbytes = opened.nbytes
            with counted_reads() as counted, traced_memory() as memory:
                for key in (one, last):
                    opened.read(key)
        most = max(counted.nbytes, memory.nbytes)
        assert most < nbytes // 4, (
            f"Reading 2 of {_SMALL} tensors took {most} of {nbytes} bytes. The format declares lazy: read "
            "only the bytes of the tensor that is asked for."
        )

    def test_values_are_not_kept_after_they_were_read(self, path: Path) -> None:
        """Capability ``lazy``: files larger than memory can be read, tensor by tensor."""
        self.need("lazy")
        self.write(self.state_of(self._small_tensors()), path)
        with self.read(path) as opened:
            keys, nbytes = list(opened), opened.nbytes
            with traced_memory() as memory:
                for key in keys:
                    opened.read(key)
        assert memory.still < nbytes * 3 // 4, (
            f"After all tensors were read and dropped, {memory.still} of {nbytes} bytes were still in use. "
            "The format declares lazy: keep no values that were read, or only a few."
        )

    def test_a_slice_reads_about_its_own_bytes(self, path: Path) -> None:
        """Capability ``sliceable``."""
        self.need("sliceable")
        array = self.big()
        self.write(self.state_of({("big", "w"): array}), path)
        with self.read(path) as opened, counted_reads() as counted, traced_memory() as memory:
            opened.read(("big", "w"), slice(500, 510))
        assert counted.nbytes < array.nbytes // 20, (
            f"Reading 10 of 1024 rows read {counted.nbytes} of {array.nbytes} bytes. The format declares "
            "sliceable: read only the rows of the region."
        )
        assert memory.nbytes < array.nbytes // 4, (
            f"Reading 10 of 1024 rows allocated {memory.nbytes} bytes for a tensor of {array.nbytes}. The "
            "format declares sliceable: read only the rows of the region."
        )

    # Writing

    @pytest.mark.parametrize("workers", [1, 2])
    def test_writing_asks_for_bounded_blocks(self, path: Path, workers: int) -> None:
        """Capability ``streaming_write``: no block is larger than the budget."""
        self.need("streaming_write")
        array = self.big(4)
        asked: list[int] = []
        self.write(self.state_of({("big", "w"): _recorded(array, asked)}), path, max_ram=MB, workers=workers)
        assert max(asked) <= MB, (
            f"Writing read {max(asked)} bytes of a tensor at once, with max_ram={MB}. The format declares "
            "streaming_write: take the values from target.blocks, target.boxes or target.fill."
        )
        with self.read(path) as opened:
            right = same_bits(opened["big", "w"], self.big(4))
        assert right, "A tensor that was written in blocks has wrong values: write every block, in order."

    @pytest.mark.parametrize(
        "sizes",
        ["one large tensor", "one large tensor of another dtype", "many small tensors", "by two threads"],
    )
    def test_writing_holds_only_a_block(self, path: Path, tmp_path: Path, sizes: str) -> None:
        """Capability ``streaming_write``: what is written is not collected first."""
        self.need("streaming_write")
        asked: list[int] = []
        tensors: dict[Key, Array] = (
            {("big", "w"): self.big(_MEGABYTES)}
            if "large" in sizes
            else self._small_tensors(2 if "threads" in sizes else 1)
        )
        if "dtype" in sizes:
            names = self.sound_dtypes(tmp_path)
            name = "bfloat16" if "bfloat16" in names else names[0]
            columns = _MEGABYTES * MB // 1024 // DTYPES[name].itemsize
            tensors = {("big", "w"): plain_values(name, (1024, columns), seed=7)}
        nbytes = sum(array.nbytes for array in tensors.values())
        state = self.state_of({key: _recorded(array, asked) for key, array in tensors.items()})
        with traced_memory() as memory:
            self.write(state, path, max_ram=MB, workers=2 if "threads" in sizes else 1)
        if max(asked) > MB:
            pytest.skip("test_writing_asks_for_bounded_blocks is for this")
        assert memory.nbytes < nbytes * 2 // 3, (
            f"Writing {sizes} of {nbytes} bytes held {memory.nbytes} bytes at once, with max_ram={MB}. The "
            "format declares streaming_write: write each block before asking for the next one."
        )

    def _small_tensors(self, times: int = 1) -> dict[Key, Array]:
        whole = self.big(_MEGABYTES * times).reshape(_SMALL * times, -1, 64)
        return {("t", f"{n:02}"): array for n, array in enumerate(whole)}


def _recorded(array: Array, asked: list[int]) -> LazyTensor:
    """Return a lazy tensor that records how much of it is read at once."""

    def read(region: Region) -> Array:
        part: Array = array[region]
        asked.append(part.nbytes)
        return part

    return LazyTensor(TensorSpec(array.shape, array.dtype), read)


def _damage(path: Path, array: Array) -> None:
    """Change a value in a file, where it holds the values as plain bytes."""
    content = bytearray(path.read_bytes())
    at = content.find(array.tobytes()[: 64 << 10])
    if at >= 0:
        content[at + 100] ^= 0xFF
        path.write_bytes(content)
