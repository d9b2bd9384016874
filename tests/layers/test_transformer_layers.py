"""Whole transformer layers of torch against Flax modules of equal names: their parts suffice."""

from __future__ import annotations

from typing import Any

import flax.linen as linen
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from support.converting import abstract, random_nnx, run, spec
from support.errors import OutputsDiffer
from support.loading import assert_same_tensors
from support.models import (
    assert_same_output,
    assert_same_state_dict,
    assert_same_tree,
    from_neutral,
    leaves_of,
    random_tree,
    randomise,
    to_neutral,
)
from torch import nn

import bridge_core
import bridge_flax
from bridge_core import default_registry

WIDTH, HEADS, INNER, EPSILON = 12, 3, 20, 1e-5


class TorchNet(nn.Module):
    """A layer of torch's own; a mask tells what each position may see, and padding what is there at all."""

    def __init__(self, kind, layers=1, bias=True, norm_first=False):
        super().__init__()
        options = {"dropout": 0.0, "batch_first": True, "bias": bias, "norm_first": norm_first}
        make = {"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer}[kind]
        self.layers = nn.ModuleList(make(WIDTH, HEADS, INNER, **options) for _ in range(layers))

    def forward(self, x, seen, there, memory=None):
        hidden = {"encoder": "src_key_padding_mask", "decoder": "memory_key_padding_mask"}
        for layer in self.layers:
            if memory is None:
                x = layer(x, src_mask=~seen, **{hidden["encoder"]: ~there})
            else:
                x = layer(x, memory, tgt_mask=~seen, **{hidden["decoder"]: ~there})
        return x


def run_layer(parts: Any, x: Any, seen: Any, there: Any, memory: Any, norm_first: bool) -> Any:
    """What torch's layers compute, with Flax's parts, by torch's names."""
    own = seen[None, None] & there[:, None, None] if memory is None else seen[None, None]

    def attend(y):
        return parts.self_attn(y, y, y, mask=own)

    def cross(y):
        return parts.multihead_attn(y, memory, memory, mask=there[:, None, None])

    def widen(y):
        return parts.linear2(jax.nn.relu(parts.linear1(y)))

    if memory is None:
        steps = ((attend, parts.norm1), (widen, parts.norm2))
    else:
        steps = ((attend, parts.norm1), (cross, parts.norm2), (widen, parts.norm3))
    for step, norm in steps:
        x = x + step(norm(x)) if norm_first else norm(x + step(x))
    return x


class LinenLayer(linen.Module):
    kind: str
    bias: bool
    norm_first: bool

    def setup(self):
        options = {"num_heads": HEADS, "qkv_features": WIDTH, "out_features": WIDTH, "use_bias": self.bias}
        self.self_attn = linen.MultiHeadDotProductAttention(**options)
        if self.kind == "decoder":
            self.multihead_attn = linen.MultiHeadDotProductAttention(**options)
            self.norm3 = linen.LayerNorm(EPSILON, use_bias=self.bias)
        self.norm1 = linen.LayerNorm(EPSILON, use_bias=self.bias)
        self.norm2 = linen.LayerNorm(EPSILON, use_bias=self.bias)
        self.linear1 = linen.Dense(INNER, use_bias=self.bias)
        self.linear2 = linen.Dense(WIDTH, use_bias=self.bias)

    def __call__(self, x, seen, there, memory):
        return run_layer(self, x, seen, there, memory, self.norm_first)


class LinenNet(linen.Module):
    kind: str
    count: int = 1
    bias: bool = True
    norm_first: bool = False

    def setup(self):
        self.layers = [LinenLayer(self.kind, self.bias, self.norm_first) for _ in range(self.count)]

    def __call__(self, x, seen, there, memory=None):
        for layer in self.layers:
            x = layer(x, seen, there, memory)
        return x


class NnxLayer(nnx.Module):
    def __init__(self, kind, bias, rngs):
        options = {"num_heads": HEADS, "in_features": WIDTH, "use_bias": bias, "decode": False, "rngs": rngs}
        self.self_attn = nnx.MultiHeadAttention(**options)
        if kind == "decoder":
            self.multihead_attn = nnx.MultiHeadAttention(**options)
            self.norm3 = nnx.LayerNorm(WIDTH, epsilon=EPSILON, use_bias=bias, rngs=rngs)
        self.norm1 = nnx.LayerNorm(WIDTH, epsilon=EPSILON, use_bias=bias, rngs=rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, epsilon=EPSILON, use_bias=bias, rngs=rngs)
        self.linear1 = nnx.Linear(WIDTH, INNER, use_bias=bias, rngs=rngs)
        self.linear2 = nnx.Linear(INNER, WIDTH, use_bias=bias, rngs=rngs)


class NnxNet(nnx.Module):
    def __init__(self, kind, rngs, layers=1, bias=True, norm_first=False):
        self.layers = nnx.List([NnxLayer(kind, bias, rngs) for _ in range(layers)])
        self.norm_first = norm_first

    def __call__(self, x, seen, there, memory=None):
        for layer in self.layers:
            x = run_layer(layer, x, seen, there, memory, self.norm_first)
        return x


def inputs(kind):
    """Sequences of two lengths, the positions that each may see, and what is attended to."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 5, WIDTH)).astype(np.float32)
    seen = np.tril(np.ones((5, 5), bool))
    if kind == "encoder":
        return x, seen, np.arange(5)[None] < np.array([[5], [3]])
    memory = rng.standard_normal((2, 7, WIDTH)).astype(np.float32)
    return x, seen, np.arange(7)[None] < np.array([[4], [7]]), memory


def template_of(model, kind):
    x, seen, there, *memory = inputs(kind)
    return bridge_flax.template(model, spec(*x.shape), seen, there, *(spec(*m.shape) for m in memory))


of_kinds = pytest.mark.parametrize("kind", ["encoder", "decoder"])
of_options = pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="one"),
        pytest.param({"bias": False}, id="no_bias"),
        pytest.param({"norm_first": True}, id="norm_first", marks=pytest.mark.slow),
        pytest.param({"layers": 2}, id="two", marks=pytest.mark.slow),
    ],
)


def linen_options(options):
    return {("count" if name == "layers" else name): value for name, value in options.items()}


@pytest.mark.slow
@of_kinds
@of_options
def test_torch_to_linen_and_back(kind, options):
    module = randomise(TorchNet(kind, **options))
    model = LinenNet(kind, **linen_options(options))
    template = template_of(model, kind)
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    assert_same_output(run(model, tree, *inputs(kind)), run(module, None, *as_torch(inputs(kind))))
    for known in ({"module": template}, {}):
        back = from_neutral(to_neutral(tree, "flax", **known), "torch", like=module)
        assert_same_state_dict(back, module.state_dict())


@of_kinds
@of_options
def test_torch_to_nnx_and_back(kind, options):
    module = randomise(TorchNet(kind, **options))
    made = from_neutral(
        to_neutral(module, "torch"), "flax", like=abstract(lambda rngs: NnxNet(kind, rngs, **options))
    )
    assert_same_output(run(made, None, *inputs(kind)), run(module, None, *as_torch(inputs(kind))))
    for value in (made, nnx.state(made, nnx.Param)):
        back = from_neutral(to_neutral(value, "flax"), "torch", like=module)
        assert_same_state_dict(back, module.state_dict())


@of_kinds
def test_flax_to_torch_and_back(kind):
    model = LinenNet(kind)
    template = template_of(model, kind)
    variables = random_tree(template.tree)
    module = TorchNet(kind)
    for known in ({"module": template}, {}):
        module.load_state_dict(from_neutral(to_neutral(variables, "flax", **known), "torch", like=module))
        assert_same_output(run(module, None, *as_torch(inputs(kind))), run(model, variables, *inputs(kind)))
        assert_same_tree(from_neutral(to_neutral(module, "torch"), "flax", like=template), variables)

    weights = random_nnx(lambda rngs: NnxNet(kind, rngs), 1)
    module.load_state_dict(from_neutral(to_neutral(weights, "flax"), "torch", like=module))
    assert_same_output(run(module, None, *as_torch(inputs(kind))), run(weights, None, *inputs(kind)))


@of_kinds
def test_without_templates(kind):
    """A live module of torch knows all that Flax must; and Flax's names and shapes prove the way back."""
    module = randomise(TorchNet(kind, layers=2))
    plain = from_neutral(to_neutral(module, "torch"), "flax")
    templated = from_neutral(to_neutral(module, "torch"), "flax", like=template_of(LinenNet(kind, 2), kind))[
        "params"
    ]
    assert {k.replace("']['", "_", 1) for k in leaves_of(plain)} == set(leaves_of(templated))
    back = from_neutral(to_neutral(plain, "flax"), "torch")
    assert back.keys() == module.state_dict().keys()
    again = TorchNet(kind, layers=2)
    again.load_state_dict(back)
    assert_same_state_dict(again.state_dict(), module.state_dict())


@of_kinds
def test_through_files(tmp_path, kind):
    module = randomise(TorchNet(kind))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    template = template_of(LinenNet(kind), kind)
    bridge_core.convert(tmp_path / "a.pt", tmp_path / "b.msgpack", to="flax", like=template)
    bridge_core.convert(tmp_path / "b.msgpack", tmp_path / "c.pt", to="torch")
    found = torch.load(tmp_path / "c.pt", weights_only=True)
    assert_same_tensors(
        {name.replace("layers_0", "layers.0"): tensor for name, tensor in found.items()}, module.state_dict()
    )


def test_nothing_knows_the_whole_layers():
    """They need no transform of their own."""
    named = {name for t in default_registry().transforms.values() for name in t.modules}
    assert not any("Transformer" in name for name in named)


def test_two_attentions_exchanged_are_noticed():
    module = randomise(TorchNet("decoder"))
    layer = module.layers[0]
    wanted = run(module, None, *as_torch(inputs("decoder")))
    layer.self_attn, layer.multihead_attn = layer.multihead_attn, layer.self_attn
    like = abstract(lambda rngs: NnxNet("decoder", rngs))
    made = from_neutral(to_neutral(module, "torch"), "flax", like=like)
    with pytest.raises(OutputsDiffer):
        assert_same_output(run(made, None, *inputs("decoder")), wanted)


def as_torch(given):
    return tuple(torch.from_numpy(np.array(x)) for x in given)
