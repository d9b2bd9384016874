"""Recurrent stacks in torch, Linen and NNX with layers of equal names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as linen
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

__all__ = [
    "CELLS",
    "Cell",
    "LinenNet",
    "NnxNet",
    "Stack",
    "TorchCellNet",
    "TorchNet",
    "inputs",
    "padded_inputs",
]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of recurrent layer.

    Args:
        torch: The stack.
        torch_cell: The cell.
        linen: Makes Linen's cell from a number of features.
        nnx: Makes NNX's from the numbers of inputs and features, and random streams.
        bias: Whether Flax has a place for every bias of torch.
    """

    name: str
    torch: Callable[..., nn.Module]
    torch_cell: Callable[..., nn.Module]
    linen: Callable[..., linen.Module] | None = None
    nnx: Callable[..., nnx.Module] | None = None
    bias: bool = True

    def __str__(self) -> str:
        return self.name


CELLS = [
    Cell("linen-lstm", nn.LSTM, nn.LSTMCell, linen=linen.LSTMCell),
    Cell("linen-optimized_lstm", nn.LSTM, nn.LSTMCell, linen=linen.OptimizedLSTMCell),
    Cell("linen-gru", nn.GRU, nn.GRUCell, linen=linen.GRUCell),
    Cell("linen-rnn", nn.RNN, nn.RNNCell, linen=linen.SimpleCell),
    Cell("nnx-lstm", nn.LSTM, nn.LSTMCell, nnx=nnx.LSTMCell),
    Cell("nnx-optimized_lstm", nn.LSTM, nn.LSTMCell, nnx=nnx.OptimizedLSTMCell),
    Cell("nnx-gru", nn.GRU, nn.GRUCell, nnx=nnx.GRUCell, bias=False),
    Cell("nnx-rnn", nn.RNN, nn.RNNCell, nnx=nnx.SimpleCell),
]


@dataclasses.dataclass(frozen=True)
class Stack:
    """The shape of a stack: its widths, how many layers, and whether it runs both ways."""

    width: int = 5
    hidden: int = 6
    layers: int = 1
    both_ways: bool = False

    @property
    def names(self) -> list[list[str]]:
        """For each layer, the names of its directions."""
        return [[str(n), f"{n}_reverse"] if self.both_ways else [str(n)] for n in range(self.layers)]

    def width_of(self, layer: int) -> int:
        return self.width if layer == 0 else self.hidden * (1 + self.both_ways)


class TorchNet(nn.Module):
    """A stack and a linear layer."""

    def __init__(self, cell: Cell, stack: Stack, *, bias: bool = True, out: int = 4, **options: Any) -> None:
        super().__init__()
        self.rnn = cell.torch(
            stack.width,
            stack.hidden,
            stack.layers,
            bias=bias,
            bidirectional=stack.both_ways,
            batch_first=True,
            **options,
        )
        self.fc = nn.Linear(stack.hidden * (1 + stack.both_ways), out)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        if lengths is None:
            return self.fc(self.rnn(x)[0])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        made, _ = nn.utils.rnn.pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=x.shape[1]
        )
        return self.fc(made) * (torch.arange(x.shape[1])[None] < lengths[:, None])[..., None]


class TorchCellNet(nn.Module):
    """A cell, run step by step, and a linear layer."""

    def __init__(self, cell: Cell, stack: Stack, *, bias: bool = True) -> None:
        super().__init__()
        self.rnn = cell.torch_cell(stack.width, stack.hidden, bias=bias)
        self.fc = nn.Linear(stack.hidden, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, made = None, []
        for step in x.unbind(1):
            state = self.rnn(step, state)
            made.append(state[0] if isinstance(state, tuple) else state)
        return self.fc(torch.stack(made, 1))


class _LinenStack(linen.Module):
    cell: Callable[..., linen.Module]
    stack: Stack

    @linen.compact
    def __call__(self, x: Any, lengths: Any = None) -> Any:
        for names in self.stack.names:
            made = [
                linen.RNN(
                    self.cell(self.stack.hidden, name=name),
                    reverse="reverse" in name,
                    keep_order=True,
                    name=f"runs_{name}",
                )(x, seq_lengths=lengths)
                for name in names
            ]
            x = jnp.concatenate(made, -1)
        return x


class LinenNet(linen.Module):
    cell: Callable[..., linen.Module]
    stack: Stack
    out: int = 4
    alone: bool = False
    """Whether the one cell stands where a stack would."""

    @linen.compact
    def __call__(self, x: Any, lengths: Any = None) -> Any:
        if self.alone:
            made = linen.RNN(self.cell(self.stack.hidden, name="rnn"), name="runs")(x, seq_lengths=lengths)
        else:
            made = _LinenStack(self.cell, self.stack, name="rnn")(x, lengths)
        return _masked(linen.Dense(self.out, name="fc")(made), lengths)


class NnxNet(nnx.Module):
    def __init__(
        self,
        cell: Callable[..., nnx.Module],
        stack: Stack,
        rngs: nnx.Rngs,
        *,
        alone: bool = False,
        out: int = 4,
    ) -> None:
        if alone:
            self.rnn = cell(stack.width, stack.hidden, rngs=rngs)
        else:
            self.rnn = nnx.Dict(
                {
                    name: cell(stack.width_of(n), stack.hidden, rngs=rngs)
                    for n, names in enumerate(stack.names)
                    for name in names
                }
            )
        self.names = tuple(map(tuple, stack.names)) if not alone else None
        self.fc = nnx.Linear(stack.hidden * (1 + stack.both_ways), out, rngs=rngs)

    def __call__(self, x: Any, lengths: Any = None) -> Any:
        for names in self.names or (("",),):
            made = [
                nnx.RNN(
                    self.rnn[name] if name else self.rnn,
                    reverse="reverse" in name,
                    keep_order=True,
                    rngs=nnx.Rngs(0),
                )(x, seq_lengths=lengths)
                for name in names
            ]
            x = jnp.concatenate(made, -1)
        return _masked(self.fc(x), lengths)


def _masked(made: Any, lengths: Any) -> Any:
    if lengths is None:
        return made
    return made * (jnp.arange(made.shape[1])[None] < lengths[:, None])[..., None]


def inputs(stack: Stack, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((3, 7, stack.width)).astype(np.float32)


def padded_inputs(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of several lengths, and the lengths."""
    return inputs(stack), np.array([7, 2, 5], np.int32)
