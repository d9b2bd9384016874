"""Layers that nobody knows or that Flax lacks, and tensors of a module's own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from support.random_layers import Layer, Numbers, Tree, quiet, simple

__all__ = ["ODD"]


def _grouped_conv_transpose(n: Numbers) -> Layer:
    width = n.size()
    outputs = width * int(n.rng.choice([1, 2]))
    module = torch.nn.ConvTranspose2d(width, outputs, 3, groups=2, bias=n.flag())
    state = n.fill(module)
    # With as many outputs as inputs, a bias makes it look like a convolution.
    return Layer("grouped_conv_transpose", module, state, typed=False, hidden=outputs == width)


def _attention_bias_kv(n: Numbers) -> Layer:
    module = torch.nn.MultiheadAttention(4, 2, add_bias_kv=True)
    return Layer("attention_bias_kv", module, n.fill(module), typed=False)


def _odd_weight_norm(n: Numbers) -> Layer:
    width, choice = n.size(), int(n.rng.integers(3))
    if choice == 0:
        module = torch.nn.Conv1d(width, width, width)
        quiet(weight_norm, module, dim=int(n.rng.integers(1, 3)))
    elif choice == 1:
        module = torch.nn.Linear(width, width)
        quiet(weight_norm, module, dim=1)
    else:
        module = torch.nn.ConvTranspose1d(width, width, 3)
        quiet(weight_norm, module)
    state = n.fill(module)
    # transformers' Flax models have a layer for one along the taps, with torch's names and axes.
    along_taps = choice == 0 and state["weight_g"].shape[-1] > 1
    flax: tuple[Tree, ...] = ({(name,): array for name, array in state.items()},) if along_taps else ()
    return Layer("odd_weight_norm", module, state, flax, typed=False, hidden=choice == 1)


def _spectral_norm(n: Numbers) -> Layer:
    width = n.size()
    module = (torch.nn.Linear(width, width), torch.nn.Conv2d(width, width, 3))[int(n.flag())]
    quiet(parametrizations.spectral_norm if n.flag() else spectral_norm, module)
    return Layer("spectral_norm", module, n.fill(module), typed=False)


def _pruned(n: Numbers) -> Layer:
    width = n.size()
    module = (torch.nn.Linear(width, width), torch.nn.Conv2d(width, width, 3))[int(n.flag())]
    prune.random_unstructured(module, "weight", 0.5)
    return Layer("pruned", module, n.fill(module), typed=False)


class Symmetric(torch.nn.Module):
    """A parametrization of nobody's."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.triu() + weight.triu(1).transpose(-1, -2)


def _parametrized(n: Numbers) -> Layer:
    width = n.size()
    module = torch.nn.Linear(width, width, bias=n.flag())
    parametrize.register_parametrization(module, "weight", Symmetric())
    return Layer("parametrized", module, n.fill(module), typed=False)


class InOut(torch.nn.Module):
    """A linear layer of somebody's own, with its weight the other way round under torch's names."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(inputs, outputs))
        if bias:
            self.bias = torch.nn.Parameter(torch.zeros(outputs))


class InOutLinear(torch.nn.Linear):
    """The same as a subclass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.weight = torch.nn.Parameter(torch.zeros(inputs, outputs))


def _in_out(n: Numbers) -> Layer:
    bias, inputs = n.flag(), n.size()
    outputs = inputs + 2 if n.flag(0.7) else inputs
    module = InOut(inputs, outputs, bias=bias)
    state = n.fill(module)
    layer = simple("in_out", module, state, {"weight": "kernel", "bias": "bias"}, typed=False)
    # A square one passes for a linear layer wherever its type is not seen: by its bias, or with a template.
    return replace(layer, hidden=inputs == outputs, links=(), neutral=None)


def _in_out_subclass(n: Numbers) -> Layer:
    module = InOutLinear(n.size(), 10)
    state = n.fill(module)
    layer = simple("in_out_subclass", module, state, {"weight": "kernel", "bias": "bias"}, typed=False)
    return replace(layer, links=(), neutral=None)


class OwnNorm(torch.nn.Module):
    """A norm of somebody's own, which has a weight alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(width))


def _own_norm(n: Numbers) -> Layer:
    module = OwnNorm(n.size())
    state = n.fill(module)
    readings: tuple[Tree, ...] = ({("scale",): state["weight"]}, {("weight",): state["weight"]})
    return Layer("own_norm", module, state, readings, typed=False)


_PLAIN_NAMES = (
    "cls_token",
    "pos_embed",
    "A_log",
    "layer_scale_parameter",
    "relative_position_bias_table",
    "D",
)
_MARKED_NAMES = ("gate_weight", "lora_A", "qweight", "w", "kernel_table", "in_weight")


def _own(n: Numbers, names: tuple[str, ...], *, marked: bool) -> Layer:
    name, rank = str(n.rng.choice(names)), int(n.rng.integers(1, 4))
    values = n.array(tuple(n.size() for _ in range(rank)))
    kind = "marked_tensor" if marked else "own_tensor"
    tree: Tree = {(name,): values}
    links = ((name, (name,), (name,)),)
    return Layer(kind, None, {name: values}, (tree,), dict(tree), links, own=True, marked=marked)


def _own_tensor(n: Numbers) -> Layer:
    return _own(n, _PLAIN_NAMES, marked=False)


def _marked_tensor(n: Numbers) -> Layer:
    return _own(n, _MARKED_NAMES, marked=True)


def _map_norm(n: Numbers) -> Layer:
    """A norm over a whole feature map, whose axes Flax has in another order."""
    module = torch.nn.LayerNorm((n.size(), n.size(), n.size()))
    return Layer("map_norm", module, n.fill(module), typed=False)


def _recurrent_weight_norm(n: Numbers) -> Layer:
    module = torch.nn.LSTM(n.size(), n.size())
    quiet(weight_norm, module, "weight_hh_l0")
    return Layer("recurrent_weight_norm", module, n.fill(module), typed=False)


ODD = (
    *(_own_tensor, _own_tensor, _marked_tensor, _marked_tensor, _own_norm, _in_out, _in_out_subclass),
    *(_grouped_conv_transpose, _attention_bias_kv, _odd_weight_norm, _spectral_norm, _pruned, _parametrized),
    *(_map_norm, _recurrent_weight_norm),
)
"""Each needs a word from its user on the way to another framework."""
