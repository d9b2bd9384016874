"""Chains of ops: applied to lazy tensors, inverted, and simplified."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bridge_core.errors import PlanError, UnsupportedFeature
from bridge_core.ops.array_ops import ArrayOps
from bridge_core.ops.base import Arrays, InputRegion, Op, Specs, check_count
from bridge_core.ops.elementwise import Cast
from bridge_core.ops.select import Reorder, RequireEqual, Select
from bridge_core.ops.shape import Flip, Permute, Reshape
from bridge_core.state import Array, Region, Tensor, TensorSpec

T = TypeVar("T")

_MOST_CHAINS = 8
"""How many different chains the text of a `Parallel` has."""

__all__ = [
    "Parallel",
    "OpTensor",
    "chain_specs",
    "chain_tensors",
    "emit_chain",
    "inverse_chain",
    "simplify_chain",
]


@dataclass(frozen=True)
class Parallel(Op):
    """Apply chains side by side, each to its own run of the tensors.

    Args:
        chains: The chains.
        counts: How many tensors each chain takes, in order; empty if each takes one.

    Raises:
        PlanError: The number of counts is not that of the chains.
    """

    chains: tuple[tuple[Op, ...], ...]
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that there is a count for each chain; counts that are all 1 become empty."""
        if self.counts and len(self.counts) != len(self.chains):
            raise PlanError(f"parallel takes {len(self.chains)} counts, one a chain, got {len(self.counts)}.")
        if self.counts == (1,) * len(self.chains):
            object.__setattr__(self, "counts", ())

    @property
    def exact(self) -> bool:
        """Whether every chain is exact."""
        return all(op.exact for chain in self.chains for op in chain)

    @property
    def checks_values(self) -> bool:
        """Whether an op of a chain checks values."""
        return any(op.checks_values for chain in self.chains for op in chain)

    def outputs(self, inputs: int) -> int:  # noqa: D102
        return sum(self.made())

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        return tuple(spec for run, chain in self.runs(specs) for spec in chain_specs(run, chain))

    def inverse(self) -> Parallel:  # noqa: D102
        return Parallel(tuple(inverse_chain(chain) for chain in self.chains), self.made())

    def input_regions(self, output: int, region: Region, specs: Specs) -> tuple[InputRegion, ...]:  # noqa: D102
        lane, first, local = self._lane_of(output)
        run = specs[first : first + self._taken()[lane]]
        pulls = _chain_pulls(self.chains[lane], run, local, region)
        return tuple(InputRegion(first + pull.input, pull.region) for pull in pulls)

    def compute(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        lane, first, local = self._lane_of(output)
        run = specs[first : first + self._taken()[lane]]
        return _chain_assemble(self.chains[lane], run, local, region, iter(pieces))

    def emit(self, ops: ArrayOps, arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:  # noqa: D102
        results: list[Any] = []
        for run, chain in self.runs(tuple(zip(arrays, specs, strict=True))):
            given, given_specs = [array for array, _ in run], tuple(spec for _, spec in run)
            results += emit_chain(ops, chain, given, given_specs)
        return results

    def runs(self, items: Sequence[T]) -> Iterator[tuple[tuple[T, ...], tuple[Op, ...]]]:
        """Yield what each chain takes, and the chain.

        Raises:
            PlanError: There are more or fewer items than the chains take.
        """
        counts = self._taken()
        check_count(self, items, sum(counts))
        at = 0
        for count, chain in zip(counts, self.chains, strict=True):
            yield tuple(items[at : at + count]), chain
            at += count

    def _taken(self) -> tuple[int, ...]:
        return self.counts or (1,) * len(self.chains)

    def __str__(self) -> str:
        """Return a short text, in which equal chains that follow each other are one."""
        texts = ["  ".join(map(str, chain)) or "unchanged" for chain in self.chains]
        runs = [(text, len(list(run))) for text, run in itertools.groupby(texts)]
        shown = [f"{n} x [{text}]" if n > 1 else f"[{text}]" for text, n in runs[:_MOST_CHAINS]]
        more = [f"and {len(runs) - _MOST_CHAINS} more"] if len(runs) > _MOST_CHAINS else []
        return f"parallel({', '.join([*shown, *more])})"

    def made(self) -> tuple[int, ...]:
        """Return how many tensors each chain makes."""
        counts = []
        for count, chain in zip(self._taken(), self.chains, strict=True):
            for op in chain:
                count = op.outputs(count)
            counts.append(count)
        return tuple(counts)

    def _lane_of(self, output: int) -> tuple[int, int, int]:
        """Return the lane of an output, the lane's first input, and the output's place in the lane."""
        first = 0
        local = output
        for lane, (inputs, outputs) in enumerate(zip(self._taken(), self.made(), strict=True)):
            if local < outputs:
                return lane, first, local
            first += inputs
            local -= outputs
        raise PlanError(f"{self} makes {sum(self.made())} tensors: it has no output {output}.")


def _chain_pulls(chain: tuple[Op, ...], specs: Specs, output: int, region: Region) -> list[InputRegion]:
    if not chain:
        return [InputRegion(output, region)]
    *before, op = chain
    before_op = tuple(before)
    inputs = chain_specs(specs, before_op)
    return [
        found
        for pull in op.input_regions(output, region, inputs)
        for found in _chain_pulls(before_op, specs, pull.input, pull.region)
    ]


def _chain_assemble(
    chain: tuple[Op, ...], specs: Specs, output: int, region: Region, pieces: Iterator[Array]
) -> Array:
    if not chain:
        return next(pieces)
    *before, op = chain
    before_op = tuple(before)
    inputs = chain_specs(specs, before_op)
    parts = tuple(
        _chain_assemble(before_op, specs, pull.input, pull.region, pieces)
        for pull in op.input_regions(output, region, inputs)
    )
    return op.compute(output, region, parts, inputs)


@dataclass(frozen=True, eq=False, slots=True)
class OpTensor:
    """One output of an op over lazy inputs.

    Reading a region reads only the input regions that it needs.
    """

    op: Op
    inputs: tuple[Tensor, ...]
    output: int
    spec: TensorSpec

    def read(self, region: Region) -> Array:
        """Read the input regions, and return the region that the op computes from them."""
        specs = tuple(tensor.spec for tensor in self.inputs)
        pulls = self.op.input_regions(self.output, region, specs)
        pieces = tuple(self.inputs[p.input].read(p.region) for p in pulls)
        return self.op.compute(self.output, region, pieces, specs)


def chain_specs(specs: Specs, chain: Sequence[Op]) -> Specs:
    """Return the specs after a chain.

    Raises:
        PlanError: An op does not take the tensors that it gets.
    """
    for op in chain:
        specs = op.spec(specs)
    return specs


def chain_tensors(
    tensors: Sequence[Tensor], chain: Sequence[Op], known: dict[tuple[Op, Specs], Specs] | None = None
) -> tuple[Tensor, ...]:
    """Return lazy tensors after a chain; an empty chain returns the same objects.

    Args:
        tensors: The tensors.
        chain: The ops.
        known: What ops were found to make of tensors that are alike, which is looked up and added to; None
            to compute it.

    Raises:
        PlanError: An op does not take the tensors that it gets.
    """
    current = tuple(tensors)
    for op in chain:
        # Of an abstract class, isinstance takes longer than all the rest here.
        if type(op) is Parallel:
            current = tuple(t for run, lane in op.runs(current) for t in chain_tensors(run, lane, known))
        elif type(op) is Reorder or type(op) is Select:
            op.spec(tuple(tensor.spec for tensor in current))
            current = tuple(current[i] for i in op.indices)
        else:
            given = tuple([tensor.spec for tensor in current])
            specs = known.get((op, given)) if known is not None else None
            if specs is None:
                specs = op.spec(given)
                if known is not None:
                    known[op, given] = specs
            current = tuple([OpTensor(op, current, i, spec) for i, spec in enumerate(specs)])
    return current


def emit_chain(ops: ArrayOps, chain: Sequence[Op], arrays: Sequence[Any], specs: Specs) -> Sequence[Any]:
    """Return arrays of a framework after a chain; reads no value.

    Args:
        ops: The primitives of the framework.
        chain: The ops.
        arrays: The inputs.
        specs: Their specs.

    Raises:
        UnsupportedFeature: The framework cannot compute an op with numpy's bits; the message names the op.
        PlanError: An op does not take the arrays that it gets.
    """
    for op in chain:
        outputs = op.spec(specs)
        try:
            arrays = op.emit(ops, arrays, specs)
        except UnsupportedFeature as err:
            if isinstance(op, Parallel):
                raise
            raise UnsupportedFeature(
                f"{op} cannot be compiled for {ops.framework}: {err.message}", hint=err.hint
            ) from err
        specs = outputs
    return arrays


def inverse_chain(chain: Sequence[Op]) -> tuple[Op, ...]:
    """Return the chain that undoes a chain."""
    return tuple(op.inverse() for op in reversed(chain))


def simplify_chain(chain: Sequence[Op]) -> tuple[Op, ...]:
    """Return a shorter chain with the same result, in a canonical order.

    Flips move before permutes, neighbours of one type are merged, and ops without an effect are removed.

    >>> [str(op) for op in simplify_chain((Permute((1, 0)), Flip((0,)), Flip((0,)), Permute((1, 0))))]
    []
    """
    done: list[Op] = []
    for op in chain:
        _push(done, op)
    return tuple(done)


def _push(done: list[Op], op: Op) -> None:
    last = done[-1] if done else None
    match last, op:
        case _, Permute(axes) if axes == tuple(range(len(axes))):
            pass
        case _, Reshape(source, target) if source == target:
            pass
        case _, Cast(source, target) if source == target:
            pass
        case _, Reorder(indices) if indices == tuple(range(len(indices))):
            pass
        case _, Flip(axes) if not axes:
            pass
        case _, Parallel(chains) if not any(chains):
            pass
        case _, Parallel(chains=(chain,)):
            for inner in chain:
                _push(done, inner)
        case Permute(first), Permute(second):
            done.pop()
            _push(done, Permute(tuple(first[a] for a in second)))
        case Permute(first), Flip(axes):
            done.pop()
            _push(done, Flip(tuple(sorted(first[a] for a in axes))))
            _push(done, Permute(first))
        case Flip(first), Flip(second):
            done.pop()
            _push(done, Flip(tuple(sorted(set(first) ^ set(second)))))
        case Reshape(first, _), Reshape(_, second):
            done.pop()
            _push(done, Reshape(first, second))
        case Parallel(first, ()), Parallel(second, counts) if last.outputs(0) == len(first):
            done.pop()
            _push(done, Parallel(_fed(first, Parallel(second, counts)), counts))
        case Parallel(first, counts), Parallel(second, ()):
            done.pop()
            _push(done, Parallel(_followed(last, second), counts))
        case Op(), _ if (
            last is not None and last.exact and not isinstance(last, RequireEqual) and last.inverse() == op
        ):
            done.pop()
        case _:
            done.append(op)


def _fed(first: tuple[tuple[Op, ...], ...], second: Parallel) -> tuple[tuple[Op, ...], ...]:
    """Return the second op's chains, each after the one-to-one chains that make its tensors."""
    return tuple(
        simplify_chain((*run[0], *chain) if len(run) == 1 else (Parallel(run), *chain))
        for run, chain in second.runs(first)
    )


def _followed(first: Parallel, second: tuple[tuple[Op, ...], ...]) -> tuple[tuple[Op, ...], ...]:
    """Return the first op's chains, each followed by the one-to-one chains that take its tensors."""
    chains = []
    at = 0
    for chain, outputs in zip(first.chains, first.made(), strict=True):
        run = second[at : at + outputs]
        at += outputs
        chains.append(simplify_chain((*chain, *run[0]) if outputs == 1 else (*chain, Parallel(run))))
    return tuple(chains)
