"""Hypothesis strategies for ops, chains of ops, and the tensors that they take."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from bridge_core import TensorSpec
from bridge_core.ops.chain import Parallel
from bridge_core.ops.elementwise import Cast
from bridge_core.ops.select import Drop, Duplicate, Fill, InsertZeros, Reorder, RequireEqual, Select
from bridge_core.ops.shape import Flip, Permute, Reshape
from bridge_core.ops.split_concat import Concat, Split, Stack, Unstack
from bridge_core.ops.summing import SplitSum, Sum
from bridge_core.state.dtypes import DTYPES, cast_is_exact, is_floating
from bridge_core.state.metadata import AuxiliaryTensor
from support.arrays import random_array

EXACT_CASTS = {
    source: [t for t in DTYPES if t != source and cast_is_exact(DTYPES[source], DTYPES[t])]
    for source in DTYPES
}
SIZES = st.sampled_from([0, 1, 1, 2, 3, 4, 6])

dtypes = st.sampled_from(list(DTYPES))


@st.composite
def specs(draw, min_rank=0, max_rank=4):
    shape = tuple(draw(st.lists(SIZES, min_size=min_rank, max_size=max_rank)))
    return TensorSpec(shape, DTYPES[draw(dtypes)])


@st.composite
def reshaped(draw, shape):
    """Another shape with as many elements."""
    total = int(np.prod(shape, dtype=np.int64))
    if total == 0:
        return tuple(draw(st.permutations([*shape, draw(SIZES), draw(SIZES)])))
    parts, rest = [], total
    while rest > 1:
        part = draw(st.sampled_from([n for n in range(2, rest + 1) if rest % n == 0]))
        parts.append(part)
        rest //= part
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), 1)
    return tuple(parts)


@st.composite
def cuts(draw, size):
    """Sizes of up to four parts, some perhaps zero, that add up."""
    points = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
    return tuple(b - a for a, b in itertools.pairwise([0, *points, size]))


@st.composite
def moves(draw, spec):
    """One op that takes one tensor to one."""
    rank = len(spec.shape)
    kind = draw(st.sampled_from(["permute", "flip", "reshape", "cast"]))
    if kind == "permute":
        return Permute(tuple(draw(st.permutations(range(rank)))))
    if kind == "flip":
        return Flip(tuple(sorted(draw(st.sets(st.integers(0, rank - 1)))) if rank else ()))
    exact = EXACT_CASTS[spec.dtype.name]
    if kind == "cast" and exact:
        return Cast(spec.dtype.name, draw(st.sampled_from(exact)))
    return Reshape(spec.shape, draw(reshaped(spec.shape)))


@st.composite
def move_chains(draw, spec, max_size=5):
    chain = []
    for _ in range(draw(st.integers(0, max_size))):
        op = draw(moves(spec))
        chain.append(op)
        (spec,) = op.spec((spec,))
    return tuple(chain)


@st.composite
def lanes(draw, given):
    """Chains side by side, over runs of the tensors: moves of single ones, joins of several."""
    counts = [part for part in draw(cuts(len(given))) if part]
    chains, at = [], 0
    for count in counts:
        run = given[at : at + count]
        at += count
        chains.append(draw(move_chains(run[0], 3)) if count == 1 else (draw(steps(run)),))
    return Parallel(tuple(chains), tuple(counts))


@st.composite
def steps(draw, given):
    """One op that fits the given specs, of any arity."""
    options = ["reorder", "parallel"] if given else ["fill"]
    alike = len(set(given)) == 1
    if len(given) == 1:
        options += ["move", "move", "duplicate"]
        options += ["split"] if given[0].shape else []
        options += ["unstack"] if any(given[0].shape) else []
    if given and alike:
        options.append("stack")
    axes = [a for a in range(len(given[0].shape)) if _joins(given, a)] if given else []
    if axes:
        options.append("concat")
    match draw(st.sampled_from(options)):
        case "fill":
            return Fill(draw(st.sampled_from([0, 1])), draw(specs()))
        case "reorder":
            return Reorder(tuple(draw(st.permutations(range(len(given))))))
        case "parallel":
            return draw(lanes(given))
        case "move":
            return draw(moves(given[0]))
        case "duplicate":
            return Duplicate(draw(st.integers(1, 3)))
        case "split":
            axis = draw(st.integers(0, len(given[0].shape) - 1))
            return Split(axis, draw(cuts(given[0].shape[axis])))
        case "unstack":
            axis = draw(st.sampled_from([a for a, n in enumerate(given[0].shape) if n]))
            return Unstack(axis, given[0].shape[axis])
        case "stack":
            return Stack(draw(st.integers(0, len(given[0].shape))), len(given))
        case _:
            axis = draw(st.sampled_from(axes))
            return Concat(axis, tuple(spec.shape[axis] for spec in given))


def _joins(given, axis):
    first = given[0]
    return all(
        spec.dtype == first.dtype
        and len(spec.shape) == len(first.shape)
        and all(a == axis or m == n for a, (m, n) in enumerate(zip(spec.shape, first.shape, strict=True)))
        for spec in given
    )


@st.composite
def inputs(draw):
    """Specs that some op of several tensors takes: equal ones, joinable ones, or any."""
    first = draw(specs())
    count = draw(st.integers(1, 4))
    form = draw(st.sampled_from(["one", "equal", "joinable", "any"]))
    if form == "one":
        return (first,)
    if form == "equal":
        return (first,) * count
    if form == "any" or not first.shape:
        return (first, *(draw(specs()) for _ in range(count - 1)))
    axis = draw(st.integers(0, len(first.shape) - 1))
    sizes = draw(st.lists(SIZES, min_size=count, max_size=count))
    shapes = [(*first.shape[:axis], n, *first.shape[axis + 1 :]) for n in sizes]
    return tuple(TensorSpec(shape, first.dtype) for shape in shapes)


KINDS = ("permute", "flip", "reshape", "cast", "split", "unstack", "concat", "stack", "reorder", "parallel")
KINDS += ("duplicate", "requireequal", "fill", "drop", "sum", "splitsum", "select", "insertzeros")
ONE_WAY = ("drop", "sum", "select")
"""Ops that let values go: nothing gives their inputs back."""
FLOATS = [name for name, dtype in DTYPES.items() if is_floating(dtype)]


@st.composite
def ops(draw, kind):
    """An op of a kind, and the specs that it takes."""
    spec = draw(specs(min_rank=1 if kind in ("split", "unstack", "concat") else 0))
    axis = draw(st.integers(0, len(spec.shape) - 1)) if spec.shape else 0
    count = draw(st.integers(1, 4))
    match kind:
        case "permute":
            return Permute(tuple(draw(st.permutations(range(len(spec.shape)))))), (spec,)
        case "flip":
            return Flip(tuple(a for a in range(len(spec.shape)) if draw(st.booleans()))), (spec,)
        case "reshape":
            return Reshape(spec.shape, draw(reshaped(spec.shape))), (spec,)
        case "cast":
            source = draw(st.sampled_from([name for name, exact in EXACT_CASTS.items() if exact]))
            target = draw(st.sampled_from(EXACT_CASTS[source]))
            return Cast(source, target), (TensorSpec(spec.shape, DTYPES[source]),)
        case "split":
            return Split(axis, draw(cuts(spec.shape[axis]))), (spec,)
        case "unstack":
            shape = (*spec.shape[:axis], count, *spec.shape[axis + 1 :])
            return Unstack(axis, count), (TensorSpec(shape, spec.dtype),)
        case "concat":
            sizes = tuple(draw(st.lists(SIZES, min_size=count, max_size=count)))
            shapes = [(*spec.shape[:axis], n, *spec.shape[axis + 1 :]) for n in sizes]
            return Concat(axis, sizes), tuple(TensorSpec(shape, spec.dtype) for shape in shapes)
        case "stack":
            return Stack(draw(st.integers(0, len(spec.shape))), count), (spec,) * count
        case "reorder":
            given = tuple(draw(specs()) for _ in range(count))
            return Reorder(tuple(draw(st.permutations(range(count))))), given
        case "parallel":
            given = tuple(draw(specs()) for _ in range(count))
            return draw(lanes(given)), given
        case "sum":
            return Sum(count + 1), (TensorSpec(spec.shape, DTYPES[draw(st.sampled_from(FLOATS))]),) * (
                count + 1
            )
        case "splitsum":
            spec = TensorSpec(spec.shape, DTYPES[draw(st.sampled_from(FLOATS))])
            parts = [random_array(spec.shape, spec.dtype, seed) for seed in range(count + 1)]
            kept = tuple(map(AuxiliaryTensor.of, parts)) if draw(st.booleans()) else ()
            return SplitSum(count + 1, kept), (spec,)
        case "insertzeros":
            present = tuple(draw(st.lists(st.booleans(), min_size=1, max_size=4).filter(any)))
            return InsertZeros(present), (spec,) * sum(present)
        case "select":
            given = tuple(draw(specs()) for _ in range(count))
            chosen = draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
            return Select(tuple(chosen), count), given
        case "duplicate":
            return Duplicate(count), (spec,)
        case "requireequal":
            return RequireEqual(count), (spec,) * count
        case "fill":
            return Fill(draw(st.sampled_from([0, 1])), spec), ()
        case _:
            return Drop(0, spec), (spec,)


@st.composite
def chains(draw, max_size=6):
    """A chain of ops of any arity, and the specs that it takes."""
    given = draw(inputs())
    chain, current = [], given
    for _ in range(draw(st.integers(0, max_size))):
        if not current:
            break
        op = draw(steps(current))
        chain.append(op)
        current = op.spec(current)
    return tuple(chain), given


@st.composite
def indices(draw, shape):
    """A basic index: slices of any start, stop and step, and numbers."""
    parts = []
    for n in shape:
        bound = st.one_of(st.none(), st.integers(-n - 2, n + 2))
        step = st.sampled_from([None, 1, 2, 3, -1, -2, -5])
        part = slice(None, None, draw(step))
        if draw(st.booleans()):
            part = slice(draw(bound), draw(bound), draw(step))
        parts.append(draw(st.integers(-n, n - 1)) if n and draw(st.integers(0, 5)) == 0 else part)
    return tuple(parts)


def tensors_for(op_or_given, given=None, seed=0):
    """Random arrays for specs; equal ones where the op wants equal values."""
    if isinstance(op_or_given, RequireEqual):
        return (random_array(given[0].shape, given[0].dtype, seed),) * len(given)
    wanted = op_or_given if given is None else given
    return tuple(random_array(spec.shape, spec.dtype, seed + i) for i, spec in enumerate(wanted))
