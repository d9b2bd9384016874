"""Weight norms in both of torch's spellings, Linen's wrapper and NNX's: same outputs, same bits back."""

from __future__ import annotations

import warnings
from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from support.errors import OutputsDiffer, refused
from support.models import (
    Pair,
    assert_same_output,
    assert_same_state_dict,
    assert_same_tree,
    from_neutral,
    input_for,
    random_tree,
    randomise,
    run_linen,
    run_nnx,
    run_torch,
    swapped,
    to_neutral,
)
from torch import nn

import bridge_flax
from bridge_core import AmbiguousLayerError, UnsupportedLayerError, default_registry


def old(module, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls its old function deprecated
        return nn.utils.weight_norm(module, **options)


NEW = torch.nn.utils.parametrizations.weight_norm
SPELLINGS = {"old": old, "parametrized": NEW}


def conv_pair(dim, cin, cout, **options):
    taps = (3,) * dim
    groups = options.get("groups", 1)
    common = {"kernel_size": taps, "padding": "VALID", "feature_group_count": groups}
    return Pair(
        f"conv{dim}d-{cin}-{cout}-g{groups}",
        partial(getattr(nn, f"Conv{dim}d"), cin, cout, 3, **options),
        partial(linen.Conv, cout, **common),
        lambda rngs: nnx.Conv(cin, cout, **common, rngs=rngs),
        (2, *(7, 6, 5)[:dim], cin),
        channels_first=True,
    )


PAIRS = [
    Pair(
        "linear-5-5",
        partial(nn.Linear, 5, 5),
        partial(linen.Dense, 5),
        lambda r: nnx.Linear(5, 5, rngs=r),
        (2, 5),
    ),
    Pair(
        "linear-4-6",
        partial(nn.Linear, 4, 6),
        partial(linen.Dense, 6),
        lambda r: nnx.Linear(4, 6, rngs=r),
        (2, 4),
    ),
    conv_pair(1, 3, 4),
    conv_pair(2, 3, 3),
    conv_pair(3, 2, 3),
    conv_pair(2, 4, 6, groups=2),
]


class TorchNet(nn.Module):
    """A plain layer beside a weight-normed one, in a block below the root."""

    def __init__(self, pair, spell):
        super().__init__()
        self.block = nn.Module()
        self.block.fc = spell(pair.torch())
        self.out = nn.Identity()

    def forward(self, x):
        return self.out(self.block.fc(x))


class LinenBlock(linen.Module):
    layer: object

    @linen.compact
    def __call__(self, x):
        return linen.WeightNorm(self.layer(name="fc"))(x)


class LinenNet(linen.Module):
    layer: object

    def setup(self):
        self.block = LinenBlock(self.layer)

    def __call__(self, x):
        return self.block(x)


class SetupNet(linen.Module):
    """The layer and its weight norm stand side by side."""

    layer: object

    def setup(self):
        self.fc = self.layer()
        self.norm_of_fc = linen.WeightNorm(self.fc)

    def __call__(self, x):
        return self.norm_of_fc(x)


class NnxNet(nnx.Module):
    def __init__(self, pair, rngs):
        self.block = nnx.Dict(fc=nnx.WeightNorm(pair.nnx(rngs), rngs=rngs))

    def __call__(self, x):
        return self.block.fc(x)


def linen_template(model, pair):
    return bridge_flax.template(model, jax.ShapeDtypeStruct(pair.shape, jnp.float32))


def abstract_nnx(pair):
    return nnx.eval_shape(lambda: NnxNet(pair, nnx.Rngs(0)))


spelt = pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
paired = pytest.mark.parametrize("pair", PAIRS, ids=str)


@spelt
@paired
def test_torch_to_linen_and_back(pair, spell):
    module = randomise(TorchNet(pair, spell))
    model = LinenNet(pair.linen)
    x = input_for(pair)
    template = linen_template(model, pair)
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    assert_same_output(run_linen(model, tree, x), run_torch(pair, module, x))
    back = from_neutral(to_neutral(tree, "flax", module=template), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())


@paired
def test_a_weight_norm_beside_its_layer(pair):
    module = randomise(nn.ModuleDict({"fc": NEW(pair.torch())}))
    model = SetupNet(pair.linen)
    x = input_for(pair)
    template = linen_template(model, pair)
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    assert_same_output(run_linen(model, tree, x), run_torch(pair, module["fc"], x))
    back = from_neutral(to_neutral(tree, "flax", module=template), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())


@spelt
@paired
def test_torch_to_nnx_and_back(pair, spell):
    module = randomise(TorchNet(pair, spell))
    x = input_for(pair)
    made = from_neutral(to_neutral(module, "torch"), "flax", like=abstract_nnx(pair))
    back = from_neutral(to_neutral(made, "flax"), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())
    # NNX normalises in place when it is called: only now may it run.
    assert_same_output(run_nnx(made, x), run_torch(pair, module, x))


@spelt
@paired
def test_linen_to_torch_and_back(pair, spell):
    model = LinenNet(pair.linen)
    template = linen_template(model, pair)
    variables = random_tree(template.tree)
    x = input_for(pair)
    module = TorchNet(pair, spell)
    module.load_state_dict(from_neutral(to_neutral(variables, "flax", module=template), "torch", like=module))
    assert_same_output(run_torch(pair, module, x), run_linen(model, variables, x))
    assert_same_tree(from_neutral(to_neutral(module, "torch"), "flax", like=template), variables)


@pytest.mark.slow
@paired
def test_nnx_to_torch_and_back(pair):
    # An abstract model hides the scale, which is a bare array: only a concrete one can be filled.
    graph, state = nnx.split(NnxNet(pair, nnx.Rngs(0)))
    state = random_tree(state)
    module = TorchNet(pair, NEW)
    neutral = to_neutral(nnx.merge(graph, state), "flax")
    module.load_state_dict(from_neutral(neutral, "torch", like=module))
    back = from_neutral(to_neutral(module, "torch"), "flax", like=abstract_nnx(pair))
    assert_same_tree(nnx.state(back), state)
    x = input_for(pair)
    assert_same_output(run_torch(pair, module, x), run_nnx(nnx.merge(graph, state), x))


@spelt
def test_the_two_spellings_of_torch_meet(spell):
    pair = PAIRS[1]
    module = randomise(TorchNet(pair, spell))
    other = TorchNet(pair, NEW if spell is old else old)
    other.load_state_dict(from_neutral(to_neutral(module, "torch"), "torch", like=other))
    x = input_for(pair)
    assert_same_output(run_torch(pair, other, x), run_torch(pair, module, x))
    back = from_neutral(to_neutral(other, "torch"), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())


@spelt
def test_magnitudes_along_the_inputs_return_to_torch_and_are_refused_by_flax(spell):
    """So torch normalises a transposed convolution, unless told otherwise."""
    module = nn.ModuleDict({"up": spell(nn.ConvTranspose2d(3, 4, 3))})
    randomise(module)
    neutral = to_neutral(module, "torch")
    assert neutral.metadata.layers["up",].kind == "weight_norm_transpose_in"
    assert_same_state_dict(from_neutral(neutral, "torch"), module.state_dict())
    with refused(UnsupportedLayerError, "flax", "weight_norm_transpose_in", "up."):
        from_neutral(neutral, "flax")


def up_pair(cin, cout):
    return Pair(
        f"up-{cin}-{cout}",
        partial(nn.ConvTranspose2d, cin, cout, 3),
        partial(linen.ConvTranspose, cout, (3, 3), padding="VALID"),
        lambda rngs: nnx.ConvTranspose(cin, cout, (3, 3), padding="VALID", rngs=rngs),
        (2, 5, 4, cin),
        channels_first=True,
    )


@spelt
@pytest.mark.parametrize("pair", [up_pair(3, 4), up_pair(3, 3)], ids=lambda pair: pair.name)
def test_magnitudes_along_the_outputs_of_a_transposed_convolution_go_both_ways(pair, spell):
    module = randomise(TorchNet(pair, partial(spell, dim=1)))
    x = input_for(pair)
    expected = run_torch(pair, module, x)
    neutral = to_neutral(module, "torch")
    assert neutral.metadata.layers["block", "fc"].kind == "weight_norm_transpose"
    ours = NnxNet(pair, nnx.Rngs(0))
    made = from_neutral(neutral, "flax", like=ours)
    assert_same_state_dict(from_neutral(to_neutral(made, "flax"), "torch", like=module), module.state_dict())
    assert_same_output(run_nnx(made, x), expected)  # NNX's wrapper changes the kernel when it runs
    linen_model = LinenNet(pair.linen)
    variables = from_neutral(neutral, "flax", like=bridge_flax.template(linen_model, x))
    assert_same_output(run_linen(linen_model, variables, x), expected)
    assert_same_state_dict(
        from_neutral(to_neutral(variables, "flax"), "torch", like=module), module.state_dict()
    )


def test_names_alone_do_not_tell_which_way_the_taps_of_a_wrapped_layer_run():
    """A plain state of NNX has no types; torch's module settles it."""
    pair = up_pair(3, 3)
    module = TorchNet(pair, partial(NEW, dim=1))
    _, state = nnx.split(NnxNet(pair, nnx.Rngs(0)))
    neutral = to_neutral(random_tree(nnx.to_pure_dict(state)), "flax")
    assert neutral.metadata.layers["block", "fc"].kind is None
    with pytest.raises(AmbiguousLayerError, match=r"\bweight_norm\b.*\bweight_norm_transpose\b"):
        from_neutral(neutral, "torch")
    found = from_neutral(neutral, "torch", like=module)
    assert set(found) == set(module.state_dict())


@pytest.mark.parametrize(
    ("rule", "changes", "name"),
    [
        ("torch.weight_norm_parametrized", {"v": {"axes": "in out *k"}}, "linear-5-5"),
        ("torch.weight_norm_parametrized", {"v": {"axes": "in out *k"}}, "conv2d-3-3-g1"),
        ("torch.weight_norm_parametrized", {"v": {"flip": ("k",)}}, "conv1d-3-4-g1"),
        ("torch.weight_norm_parametrized", {"g": {"flip": ("out",)}}, "linear-4-6"),
        ("flax.weight_norm", {"v": {"axes": "*k out in"}}, "linear-5-5"),
    ],
)
def test_a_swapped_rule_is_noticed(rule, changes, name):
    pair = next(p for p in PAIRS if p.name == name)
    module = randomise(TorchNet(pair, NEW))
    x = input_for(pair)
    wrong = swapped(default_registry(), rule, **changes)
    made = from_neutral(to_neutral(module, "torch", wrong), "flax", wrong, like=abstract_nnx(pair))
    with pytest.raises(OutputsDiffer):
        assert_same_output(run_nnx(made, x), run_torch(pair, module, x))
