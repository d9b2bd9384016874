"""A part of a checkpoint that its user chose: some of its tensors, and of some only the first entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.messages import count, fold_names, listed, size_text
from bridge_core.state.keys import Key, join_key
from bridge_core.state.left_out import LeftOut
from bridge_core.state.tensors import (
    ArrayTensor,
    FileTensor,
    LazyTensor,
    StridedFileTensor,
    Tensor,
    TensorSpec,
)

__all__ = ["Selection", "shortened"]


@dataclass(frozen=True)
class Selection:
    """What was chosen of a checkpoint; the values of the rest are not read.

    Args:
        patterns: The texts that chose it.
        every: Key -> spec of every tensor of the checkpoint.
        taken: Key -> spec of what is converted; of a shortened tensor the shorter one.
    """

    patterns: tuple[str, ...]
    every: Mapping[Key, TensorSpec]
    taken: Mapping[Key, TensorSpec]

    @property
    def shortened(self) -> dict[Key, TensorSpec]:
        """Key -> spec of the tensors of which only the first entries of an axis are taken."""
        return {key: spec for key, spec in self.taken.items() if spec != self.every[key]}

    @property
    def is_partial(self) -> bool:
        """Whether something of the checkpoint is left out."""
        return self.taken != self.every

    def left_out(self) -> tuple[LeftOut, ...]:
        """Return the highest paths below which nothing is taken, and the single tensors."""
        above = {key[:depth] for key in self.taken for depth in range(len(key) + 1)}
        branches: dict[Key, LeftOut] = {}
        for key, spec in self.every.items():
            if key in self.taken:
                continue
            depth = next(n for n in range(1, len(key) + 1) if n == len(key) or key[:n] not in above)
            known = branches.get(key[:depth], LeftOut(join_key(key[:depth]), "left out by choice"))
            branches[key[:depth]] = replace(
                known, tensors=known.tensors + 1, nbytes=known.nbytes + spec.nbytes
            )
        return tuple(branches.values())

    def note(self) -> str:
        """Return one line about how much is taken, and what is shortened."""
        sizes = " of ".join(size_text(_nbytes(specs)) for specs in (self.taken, self.every))
        text = (
            f"only {', '.join(self.patterns)}: {len(self.taken)} of {count(len(self.every), 'tensor')}, "
            f"{sizes}"
        )
        parts = (f"{join_key(k)} {spec} of {self.every[k]}" for k, spec in self.shortened.items())
        names = [name + (f" x{number}" if number > 1 else "") for name, number in fold_names(parts)]
        return f"{text}; shortened: {listed(names)}" if names else text

    def to_json(self) -> dict[str, Any]:
        """Return the choice as plain data."""
        return {
            "patterns": list(self.patterns),
            "taken": {"tensors": len(self.taken), "bytes": _nbytes(self.taken)},
            "of": {"tensors": len(self.every), "bytes": _nbytes(self.every)},
            "shortened": [
                {"name": join_key(key), "shape": list(spec.shape), "of": list(self.every[key].shape)}
                for key, spec in self.shortened.items()
            ],
        }


def _nbytes(specs: Mapping[Key, TensorSpec]) -> int:
    return sum(spec.nbytes for spec in specs.values())


def shortened(tensor: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """Return the first entries of a tensor along some axes; no value is read.

    The first rows of a tensor of a file are bytes of the file themselves, and are copied as such.

    Args:
        tensor: The tensor.
        sizes: Axis -> its new size, at most its own.
    """
    spec = tensor.spec
    shape = tuple(sizes.get(axis, n) for axis, n in enumerate(spec.shape))
    new = TensorSpec(shape, spec.dtype)
    if isinstance(tensor, ArrayTensor):
        return ArrayTensor(tensor.array[tuple(map(slice, shape))])
    if isinstance(tensor, FileTensor) and not any(_follow_an_axis(sizes, spec.shape)):
        return replace(tensor, spec=new)
    if isinstance(tensor, StridedFileTensor):
        return replace(tensor, shape=shape)
    chunk_shape = tuple(map(min, getattr(tensor, "chunk_shape", ()), shape))
    # Both begin at the same element, so that a region of one is the same region of the other.
    fill = getattr(tensor, "read_into", None)
    return LazyTensor(new, tensor.read, chunk_shape, fill)


def _follow_an_axis(sizes: Iterable[int], shape: tuple[int, ...]) -> Iterator[bool]:
    """Yield for each shortened axis whether an axis with several entries comes before it."""
    return (any(n > 1 for n in shape[:axis]) for axis in sizes)
