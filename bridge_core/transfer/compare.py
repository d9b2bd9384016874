"""Comparing two states: names, shapes, dtypes, and every bit of the values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bridge_core.messages import count, folded, size_text
from bridge_core.ops import OpTensor, RequireEqual
from bridge_core.state import Array, FlatState, Key, Region, Tensor, as_state, join_key, regions
from bridge_core.transfer.block_plan import BlockPlan, plan_blocks
from bridge_core.transfer.block_reader import read_region
from bridge_core.transfer.chunk_jobs import jobs_by_chunks
from bridge_core.transfer.memory_order import chunked_sources, is_remote
from bridge_core.transfer.progress import Progress
from bridge_core.transfer.remote_reading import announce_region
from bridge_core.transfer.scratch import Scratch

__all__ = ["Comparison", "Difference", "compare_states"]

_BLOCK = 8 << 20
_REMOTE_BLOCK = 32 << 20
"""Larger blocks need a server's bytes fewer times where two tensors are stored in other orders."""


@dataclass(frozen=True)
class Difference:
    """One tensor that is in both states and differs.

    Args:
        key: The tensor.
        left: The tensor's dtype and shape in the left state, e.g. ``"float32[4, 3]"``.
        right: The same of the right state.
        elements: How many elements differ; None if the specs differ.
        largest: Largest absolute difference of two values, infinite where only one of them is NaN; None if
            the specs differ, or if all elements that differ are NaN in both.
        other_nans: How many of the elements are NaN in both, with other bits.
    """

    key: Key
    left: str
    right: str
    elements: int | None = None
    largest: float | None = None
    other_nans: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain data."""
        return {
            "key": join_key(self.key),
            "left": self.left,
            "right": self.right,
            "elements": self.elements,
            "largest": self.largest,
            **({"other_nans": self.other_nans} if self.other_nans else {}),
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

    def _repr_html_(self) -> str:
        """Return the comparison for a notebook."""
        from bridge_core.html import Table, fragment, section, verdict_line

        word, tone = ("equal", "good") if self.equal else ("different", "bad")
        text = f"{count(self.tensors, 'tensor')} compared, {size_text(self.total_bytes)}"
        rows = [
            (
                join_key(one.key),
                one.left,
                one.right,
                "" if one.elements is None else str(one.elements),
                (f"{one.other_nans} NaN in both" if one.other_nans else "")
                if one.largest is None
                else f"{one.largest:.3g}",
            )
            for one in self.differing
        ]
        heads = ("tensor", "left", "right", "elements that differ", "largest difference")
        only_left, only_right = map(len, (self.only_left, self.only_right))
        return fragment(
            verdict_line(word, tone, text),
            section(f"Differing: {len(rows)}", Table(heads, rows, (3, 4)), tone="bad", opened=True),
            section(
                f"Only left: {only_left}", folded(map(join_key, self.only_left)), tone="bad", opened=True
            ),
            section(
                f"Only right: {only_right}", folded(map(join_key, self.only_right)), tone="bad", opened=True
            ),
            section("Not compared: unfilled", folded(map(join_key, self.unfilled)), tone="warn"),
            section(
                "Not compared: left out", [f"{e['name']}: {e['reason']}" for e in self.left_out], tone="warn"
            ),
            section("Notes", self.notes),
        )


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
    pairs = {key: (left.tensor(key), right.tensor(key)) for key in shared}
    total = sum(a.spec.nbytes for a, b in pairs.values() if a.spec == b.spec)
    alike = {key: pair for key, pair in pairs.items() if pair[0].spec == pair[1].spec}
    gaps: dict[Key, _Gap] = {}
    done = 0
    for key, gap in _gaps(alike):
        gaps[key] = gap
        done += left.spec(key).nbytes
        if progress is not None:
            progress(Progress(done, total, key, "comparing"))
    differing = [
        Difference(key, str(a.spec), str(b.spec), *gaps.get(key, ()))
        for key, (a, b) in pairs.items()
        if key not in gaps or gaps[key].elements
    ]
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


class _Gap(NamedTuple):
    """How many elements differ, by how much at most, None if no value does, and how many are NaN in both."""

    elements: int = 0
    largest: float | None = None
    other_nans: int = 0

    def with_values(self, x: Array, y: Array) -> _Gap:
        """Return the gap with two more flat arrays compared."""
        if x.tobytes() == y.tobytes():
            return self
        width = x.dtype.itemsize
        unequal = (x.view(np.uint8).reshape(-1, width) != y.view(np.uint8).reshape(-1, width)).any(axis=1)
        gaps, both_nan = _value_gaps(x[unequal], y[unequal])
        known = [gap for gap in (self.largest, gaps.max() if gaps.size else None) if gap is not None]
        return _Gap(
            self.elements + int(unequal.sum()),
            float(max(known)) if known else None,
            self.other_nans + both_nan,
        )


def _gaps(pairs: dict[Key, tuple[Tensor, Tensor]]) -> Iterator[tuple[Key, _Gap]]:
    """Compare pairs of tensors of one spec; those that need the same chunks of a source are compared last."""
    chunked: list[BlockPlan] = []
    for a, b in pairs.values():
        if (is_remote(a) or is_remote(b)) and not (chunked_sources(a) or chunked_sources(b)):
            for region in _blocks(a, b):
                announce_region(a, region)
                announce_region(b, region)
    for key, (a, b) in pairs.items():
        if chunked_sources(a) or chunked_sources(b):
            both = OpTensor(RequireEqual(2), (a, b), 0, a.spec)  # cut by the chunks of both; it is not read
            chunked.append(plan_blocks(key, both, _BLOCK))
            continue
        gap = _Gap()
        for region in _blocks(a, b):
            gap = gap.with_values(_flat(a.read(region)), _flat(b.read(region)))
        yield key, gap
    jobs = jobs_by_chunks(chunked)
    waiting = Counter(part.plan.key for parts in jobs for part in parts)
    gaps: dict[Key, _Gap] = {}
    for parts in jobs:
        scratch = Scratch()
        for part in parts:
            key, (a, b) = part.plan.key, pairs[part.plan.key]
            scratch.chunks.limit = part.plan.held_nbytes
            for region in part.regions:
                scratch.reset()
                x, y = (_flat(read_region(tensor, region, scratch)) for tensor in (a, b))
                gaps[key] = gaps.get(key, _Gap()).with_values(x, y)
            waiting[key] -= 1
            if not waiting[key]:
                yield key, gaps.pop(key, _Gap())


def _blocks(a: Tensor, b: Tensor) -> Iterator[Region]:
    """Return the blocks in which two tensors are compared."""
    nbytes = _REMOTE_BLOCK if is_remote(a) or is_remote(b) else _BLOCK
    return regions.blocks(a.spec.shape, max(1, nbytes // a.spec.dtype.itemsize))


def _flat(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(-1)


def _value_gaps(x: Array, y: Array) -> tuple[Array, int]:
    """Return the absolute differences of values that are not both NaN, and how many are."""
    wide: Any = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        ours, theirs = x.astype(wide), y.astype(wide)
        both_nan = np.isnan(ours) & np.isnan(theirs)
        gaps = np.abs(ours - theirs)[~both_nan]
    return np.where(np.isnan(gaps), np.inf, gaps), int(both_nan.sum())
