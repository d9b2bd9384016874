"""Comparing two states: names, shapes, dtypes, and every bit of the values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.state import Array, FlatState, Key, Tensor, as_state, join_key, regions
from bridge_core.transfer.progress import Progress

__all__ = ["Comparison", "Difference", "compare_states"]

_BLOCK = 8 << 20


@dataclass(frozen=True)
class Difference:
    """One tensor that is in both states and differs.

    Args:
        key: The tensor.
        left: The tensor's dtype and shape in the left state, e.g. ``"float32[4, 3]"``.
        right: The same of the right state.
        elements: How many elements differ; None if the specs differ.
        largest: Largest absolute difference of two values, infinite for NaN; None if the specs differ.
    """

    key: Key
    left: str
    right: str
    elements: int | None = None
    largest: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain data."""
        return {
            "key": join_key(self.key),
            "left": self.left,
            "right": self.right,
            "elements": self.elements,
            "largest": self.largest,
        }


@dataclass(frozen=True)
class Comparison:
    """How two states differ.

    Args:
        tensors: How many tensors were compared.
        total_bytes: How many bytes of values were compared.
        only_left: Keys that only the left state has.
        only_right: Keys that only the right state has.
        differing: Tensors that differ.
        unfilled: Keys of the template that were allowed to stay unfilled, and were not compared.
        left_out: Names, reasons and bytes of the source tensors that the plan leaves out, and that were not
            compared.
        notes: What else a report should mention.
    """

    tensors: int
    total_bytes: int
    only_left: tuple[Key, ...]
    only_right: tuple[Key, ...]
    differing: tuple[Difference, ...]
    unfilled: tuple[Key, ...] = ()
    left_out: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether the states do not differ at all."""
        return not (self.only_left or self.only_right or self.differing)

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {
            "equal": self.equal,
            "tensors": self.tensors,
            "total_bytes": self.total_bytes,
            "only_left": [join_key(key) for key in self.only_left],
            "only_right": [join_key(key) for key in self.only_right],
            "differing": [difference.to_json() for difference in self.differing],
            "allowed_missing": [join_key(key) for key in self.unfilled],
            "left_out": [dict(entry) for entry in self.left_out],
            "notes": list(self.notes),
        }


def compare_states(
    left: FlatState, right: FlatState, *, progress: Callable[[Progress], None] | None = None
) -> Comparison:
    """Compare two states bit for bit, a block at a time; auxiliary tensors count as tensors.

    Args:
        left: One state.
        right: The other.
        progress: Called after each tensor.

    Raises:
        UsageError: A value is not a state.
    """
    left, right = as_state(left), as_state(right)
    shared = [key for key in left if key in right]
    total = sum(left.spec(key).nbytes for key in shared if left.spec(key) == right.spec(key))
    differing: list[Difference] = []
    done = 0
    for key in shared:
        a, b = left.tensor(key), right.tensor(key)
        if a.spec != b.spec:
            differing.append(Difference(key, str(a.spec), str(b.spec)))
            continue
        elements, largest = _difference(a, b)
        if elements:
            differing.append(Difference(key, str(a.spec), str(b.spec), elements, largest))
        done += a.spec.nbytes
        if progress is not None:
            progress(Progress(done, total, key, "comparing"))
    ours, theirs = left.metadata.auxiliary_tensors, right.metadata.auxiliary_tensors
    for key in ours:
        if key in theirs and ours[key] != theirs[key]:
            differing.append(Difference(key, ours[key].dtype, theirs[key].dtype))
    lost = [key for key in ours if key not in theirs]
    return Comparison(
        len(shared),
        total,
        (*(key for key in left if key not in right), *lost),
        tuple(key for key in right if key not in left),
        tuple(differing),
    )


def _difference(a: Tensor, b: Tensor) -> tuple[int, float | None]:
    spec = a.spec
    count = 0
    largest: float | None = None
    for region in regions.blocks(spec.shape, max(1, _BLOCK // spec.dtype.itemsize)):
        x = np.ascontiguousarray(a.read(region)).reshape(-1)
        y = np.ascontiguousarray(b.read(region)).reshape(-1)
        if x.tobytes() == y.tobytes():
            continue
        width = spec.dtype.itemsize
        unequal = (x.view(np.uint8).reshape(-1, width) != y.view(np.uint8).reshape(-1, width)).any(axis=1)
        count += int(unequal.sum())
        gap = _largest(x[unequal], y[unequal])
        largest = gap if largest is None else max(largest, gap)
    return count, largest


def _largest(x: Array, y: Array) -> float:
    wide: Any = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        gaps = np.abs(x.astype(wide) - y.astype(wide))
    return float(np.where(np.isnan(gaps), np.inf, gaps).max(initial=0.0))
