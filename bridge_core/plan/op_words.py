"""What an op does, in words for readers of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from bridge_core.messages import count
from bridge_core.ops import (
    Cast,
    Concat,
    Drop,
    Duplicate,
    Fill,
    Flip,
    InsertZeros,
    Offset,
    Op,
    Pad,
    Parallel,
    Permute,
    Reorder,
    RequireEqual,
    Reshape,
    Scale,
    Select,
    Split,
    SplitSum,
    Stack,
    Sum,
    Unpad,
    Unstack,
)
from bridge_core.state import TensorSpec

__all__ = ["chain_words", "op_words"]

_MOST = 8
"""Sizes, indices and chains of an op that are named."""


def op_words(op: Op) -> str:
    """Return what an op does, as a phrase that begins with a verb.

    >>> op_words(Permute((1, 0)))
    'swaps the two axes'
    >>> op_words(Reshape((384,), (12, 32)))
    'reshapes [384] to [12, 32]'
    """
    known = _WORDS.get(type(op))
    words = known(op) if known is not None else f"does {op}"
    return words if op.exact or not op.loss else f"{words} ({op.loss})"


def chain_words(
    specs: Sequence[TensorSpec], ops: Sequence[Op]
) -> tuple[tuple[str, ...], tuple[TensorSpec, ...]]:
    """Return what each op of a chain does, with the tensors that it gives, and the specs after the chain.

    Args:
        specs: The specs of the chain's inputs.
        ops: The chain.

    Raises:
        PlanError: An op does not take the tensors that it gets.
    """
    lines, current = [], tuple(specs)
    for op in ops:
        current = op.spec(current)
        lines.append(f"{op_words(op)} → {_specs_text(current)}")
    return tuple(lines), current


def _specs_text(specs: Sequence[TensorSpec]) -> str:
    if not specs:
        return "nothing"
    runs = [(text, len(list(run))) for text, run in groupby(map(str, specs))]
    return _listed([text if number == 1 else f"{number} x {text}" for text, number in runs])


def _listed(values: Sequence[Any]) -> str:
    shown = ", ".join(map(str, values[:_MOST]))
    return shown if len(values) <= _MOST else f"{shown} and {len(values) - _MOST} more"


def _shape(values: Sequence[int]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _permute(op: Permute) -> str:
    return "swaps the two axes" if op.axes == (1, 0) else f"puts the axes in the order {_shape(op.axes)}"


def _flip(op: Flip) -> str:
    return f"reverses axis {_listed(op.axes)}"


def _split(op: Split) -> str:
    return f"splits axis {op.axis} into parts of {_listed(op.sizes)}"


def _scale(op: Scale) -> str:
    return f"divides by {op.value}" if op.divides else f"multiplies by {op.value}"


def _pad(op: Pad) -> str:
    return f"lengthens axis {op.axis} from {op.source} to {op.target} with {op.value}"


def _unpad(op: Unpad) -> str:
    if op.discard:
        return f"cuts axis {op.axis} from {op.source} to {op.target}, whatever the rest holds"
    return f"cuts axis {op.axis} from {op.source} to {op.target}; the rest must be {op.value}"


def _parallel(op: Parallel) -> str:
    texts = [", then ".join(map(op_words, chain)) or "leaves it unchanged" for chain in op.chains]
    runs = [(text, len(list(run))) for text, run in groupby(texts)]
    if len(runs) == 1:
        return f"{runs[0][0]}, each of {runs[0][1]}" if runs[0][1] > 1 else runs[0][0]
    return "side by side: " + _listed([text if n == 1 else f"{text} ({n} times)" for text, n in runs])


_WORDS: dict[type[Op], Callable[[Any], str]] = {
    Cast: lambda op: f"casts {op.source} to {op.target}",
    Concat: lambda op: f"joins {count(len(op.sizes), 'tensor')} along axis {op.axis}",
    Drop: lambda op: f"leaves out a tensor {op.tensor}",
    Duplicate: lambda op: f"gives the same tensor {op.count} times",
    Fill: lambda op: f"makes a tensor {op.tensor} of {op.value}",
    Flip: _flip,
    InsertZeros: lambda op: f"adds {count(op.present.count(False), 'tensor')} of zeros",
    Offset: lambda op: f"adds {op.value}",
    Pad: _pad,
    Parallel: _parallel,
    Permute: _permute,
    Reorder: lambda op: f"puts the tensors in the order {_listed(op.indices)}",
    RequireEqual: lambda op: f"takes one of {op.count} tensors, which must be equal",
    Reshape: lambda op: f"reshapes {_shape(op.source)} to {_shape(op.target)}",
    Scale: _scale,
    Select: lambda op: f"takes {len(op.indices)} of {count(op.count, 'tensor')}: {_listed(op.indices)}",
    Split: _split,
    SplitSum: lambda op: f"divides a sum into {op.count} tensors",
    Stack: lambda op: f"stacks {count(op.count, 'tensor')} on a new axis {op.axis}",
    Sum: lambda op: f"adds {count(op.count, 'tensor')}",
    Unpad: _unpad,
    Unstack: lambda op: f"divides axis {op.axis} into {count(op.count, 'tensor')}",
}
