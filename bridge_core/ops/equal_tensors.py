"""Tensors that are one by what they are made from, and ops that make one tensor of several equal ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from bridge_core.ops.base import Op
from bridge_core.ops.chain import OpTensor, Parallel, simplify_chain
from bridge_core.ops.select import RequireEqual
from bridge_core.state import Key, Tensor, join_key

__all__ = ["Made", "equal_or_refused", "made_by"]


class Made(NamedTuple):
    """A tensor as what it is made from; two that are equal hold the same values.

    Args:
        source: Identity of the tensor that is read.
        ops: What is done to it.
    """

    source: int
    ops: tuple[Op, ...]


def made_by(tensor: Tensor, ops: tuple[Op, ...] = ()) -> Made:
    """Return what a tensor, after some ops, is made from."""
    chain = list(ops)
    while isinstance(tensor, OpTensor) and len(tensor.inputs) == 1 and tensor.op.outputs(1) == 1:
        chain.insert(0, tensor.op)
        (tensor,) = tensor.inputs
    return Made(id(tensor), simplify_chain(tuple(chain)))


def equal_or_refused(
    sources: Iterable[tuple[tuple[Key, ...], tuple[Op, ...]]], target: Key, name: Callable[[Key], str]
) -> tuple[Op, ...]:
    """Return the ops that make one tensor of several ones, which must hold the same values.

    Args:
        sources: For each of them the keys, and the ops that make the target of these.
        target: What they fill.
        name: Gives the name that an error shows for a key.
    """
    parts = tuple(sources)
    names = tuple(", ".join(name(key) for key in keys) for keys, _ in parts)
    counts = tuple(len(keys) for keys, _ in parts)
    chains = tuple(ops for _, ops in parts)
    return simplify_chain((Parallel(chains, counts), RequireEqual(len(parts), names, join_key(target))))
