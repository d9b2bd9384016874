"""Chains of ops: lazily over tensors, backwards, and in their shortest form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge_core.errors import PlanError
from bridge_core.ops.base import Arrays, Op, Pull, Specs
from bridge_core.ops.joins import Order
from bridge_core.ops.moves import Flip, Permute, Reshape
from bridge_core.ops.values import Cast, Copy
from bridge_core.regions import Region
from bridge_core.tensors import Array, Tensor, TensorSpec

__all__ = ["Lanes", "OpTensor", "chain_specs", "chain_tensors", "inverse_chain", "simplify_chain"]


@dataclass(frozen=True)
class Lanes(Op):
    """Apply one chain of one-to-one ops to each tensor of a tuple."""

    chains: tuple[tuple[Op, ...], ...]

    @property
    def exact(self) -> bool:
        """Whether every chain is exact."""
        return all(op.exact for chain in self.chains for op in chain)

    def spec(self, specs: Specs) -> Specs:  # noqa: D102
        if len(specs) != len(self.chains):
            raise PlanError(f"{self} takes {len(self.chains)} tensors, not {len(specs)}.")
        return tuple(chain_specs((spec,), chain)[0] for spec, chain in zip(specs, self.chains, strict=True))

    def inverse(self) -> Lanes:  # noqa: D102
        return Lanes(tuple(inverse_chain(chain) for chain in self.chains))

    def pull(self, output: int, region: Region, specs: Specs) -> tuple[Pull, ...]:  # noqa: D102
        return (Pull(output, self._regions(output, region, specs)[0]),)

    def assemble(self, output: int, region: Region, pieces: Arrays, specs: Specs) -> Array:  # noqa: D102
        steps = self._regions(output, region, specs)
        array, spec = pieces[0], specs[output]
        for op, wanted in zip(self.chains[output], steps[1:], strict=True):
            array = op.assemble(0, wanted, (array,), (spec,))
            (spec,) = op.spec((spec,))
        return array

    def _regions(self, output: int, region: Region, specs: Specs) -> list[Region]:
        chain = self.chains[output]
        inputs = [specs[output]]
        for op in chain:
            inputs.extend(op.spec((inputs[-1],)))
        found = [region]
        for op, spec in zip(reversed(chain), reversed(inputs[:-1]), strict=True):
            found.append(op.pull(0, found[-1], (spec,))[0].region)
        return found[::-1]


@dataclass(frozen=True, eq=False, slots=True)
class OpTensor:
    """One output of an op over lazy inputs; reading a region pulls what it needs."""

    op: Op
    inputs: tuple[Tensor, ...]
    output: int
    spec: TensorSpec

    def read(self, region: Region) -> Array:
        """Pull and assemble."""
        specs = tuple(tensor.spec for tensor in self.inputs)
        pulls = self.op.pull(self.output, region, specs)
        pieces = tuple(self.inputs[p.input].read(p.region) for p in pulls)
        return self.op.assemble(self.output, region, pieces, specs)


def chain_specs(specs: Specs, chain: Sequence[Op]) -> Specs:
    """Return the specs after a chain.

    Raises:
        PlanError: An op does not fit.
    """
    for op in chain:
        specs = op.spec(specs)
    return specs


def chain_tensors(tensors: Sequence[Tensor], chain: Sequence[Op]) -> tuple[Tensor, ...]:
    """Return lazy tensors after a chain; an empty chain returns the same objects.

    Raises:
        PlanError: An op does not fit.
    """
    current = tuple(tensors)
    for op in chain:
        specs = op.spec(tuple(tensor.spec for tensor in current))
        current = tuple(OpTensor(op, current, i, spec) for i, spec in enumerate(specs))
    return current


def inverse_chain(chain: Sequence[Op]) -> tuple[Op, ...]:
    """Return the chain that undoes a chain."""
    return tuple(op.inverse() for op in reversed(chain))


def simplify_chain(chain: Sequence[Op]) -> tuple[Op, ...]:
    """Return a shorter chain with the same result, in a canonical order.

    Flips move before permutes, neighbours of one type merge, and what does nothing goes.

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
        case _, Order(indices) if indices == tuple(range(len(indices))):
            pass
        case _, Flip(axes) if not axes:
            pass
        case _, Lanes(chains) if not any(chains):
            pass
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
        case Lanes(first), Lanes(second):
            done.pop()
            joined = (simplify_chain((*a, *b)) for a, b in zip(first, second, strict=True))
            _push(done, Lanes(tuple(joined)))
        case Op(), _ if (
            last is not None and last.exact and not isinstance(last, Copy) and last.inverse() == op
        ):
            done.pop()
        case _:
            done.append(op)
