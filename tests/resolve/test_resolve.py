"""Resolution: which evidence decides, what stays undecided, what is refused, and what is restored."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import assert_same_bits
from support.errors import refused
from support.models import assert_same_state_dict, assert_same_tree, from_neutral, to_neutral
from torch import nn

import bridge_flax
from bridge_core import (
    AmbiguousLayerError,
    FlatState,
    MismatchError,
    Rule,
    RuleError,
    UsageError,
    default_registry,
    plan_conversion,
)


def state_dict(**shapes):
    rng = np.random.default_rng(0)
    return {
        name.replace("__", "."): torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
        for name, shape in shapes.items()
    }


def spec(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def info_of(source, *path, **options):
    return to_neutral(source, "torch", **options).metadata.layers[path]


# -- what names and shapes prove --------------------------------------------------------------------

PROVEN = {
    "a bias beside a matrix": ({"x__weight": (3, 4), "x__bias": (3,)}, "linear"),
    "a bias that fits one side of a square": ({"x__weight": (4, 4), "x__bias": (4,)}, "linear"),
    "running statistics": (
        {"x__weight": (4,), "x__bias": (4,), "x__running_mean": (4,), "x__running_var": (4,)},
        "batch_norm",
    ),
    "running statistics alone": ({"x__running_mean": (4,), "x__running_var": (4,)}, "batch_norm"),
    "a bias beside a vector": ({"x__weight": (4,), "x__bias": (4,)}, "norm"),
    "a bias beside a matrix of its shape": ({"x__weight": (4, 5), "x__bias": (4, 5)}, "norm"),
    "a bias that counts the outputs of a convolution": ({"x__weight": (5, 3, 2, 2), "x__bias": (5,)}, "conv"),
    "a bias that counts those of a transposed one": (
        {"x__weight": (3, 5, 2, 2), "x__bias": (5,)},
        "conv_transpose",
    ),
    "a depthwise convolution": ({"x__weight": (6, 1, 3, 3), "x__bias": (6,)}, "conv"),
    "old weight norm": ({"x__weight_g": (5, 1), "x__weight_v": (5, 4), "x__bias": (5,)}, "weight_norm"),
}


@pytest.mark.parametrize(("shapes", "kind"), PROVEN.values(), ids=PROVEN)
def test_names_and_shapes_prove(shapes, kind):
    info = info_of(state_dict(**shapes), "x")
    assert (info.kind, info.evidence) == (kind, "structure")


OPEN = {
    "a matrix alone": ({"x__weight": (3, 4)}, {"torch.linear", "torch.embedding"}),
    "a vector alone": ({"x__weight": (4,)}, {"torch.norm", "torch.prelu"}),
    "a square convolution": (
        {"x__weight": (3, 3, 2, 2), "x__bias": (3,)},
        {"torch.conv", "torch.conv_transpose"},
    ),
    "a convolution without a bias": ({"x__weight": (3, 5, 2, 2)}, {"torch.conv", "torch.conv_transpose"}),
    "gamma and beta alone": ({"x__gamma": (4,), "x__beta": (4,)}, {"torch.norm_gamma_beta"}),
}


@pytest.mark.parametrize(("shapes", "possible"), OPEN.values(), ids=OPEN)
def test_what_is_not_proven_stays_undecided_and_is_refused_by_flax(shapes, possible):
    source = state_dict(**shapes)
    neutral = to_neutral(source, "torch")
    info = neutral.metadata.layers["x",]
    assert info.kind is None
    assert info.evidence == "undecided"
    assert possible <= set(info.candidates)
    assert all(neutral.spec(key).shape == shapes["__".join(key)] for key in neutral)

    with pytest.raises(AmbiguousLayerError) as refused:
        from_neutral(neutral, "flax")
    error = refused.value
    assert error.exit_code == 1
    assert {name.replace(".", "__") for name in error.candidates} == set(shapes)
    kinds = {default_registry().transforms[name].kind for name in possible}
    assert all(kinds <= set(options) for options in error.candidates.values())
    for way_out in ("like=", "module=", "rule", "accept_guesses="):
        assert way_out in str(error)
    assert_same_state_dict(from_neutral(neutral, "torch"), source)
    assert_same_state_dict(from_neutral(neutral, "torch", like=source), source)


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("tok_embeddings", "embedding"),
        ("wte", "embedding"),
        ("lm_head", "kernel"),
        ("out_proj", "kernel"),
    ],
)
def test_guesses_follow_the_words_of_the_path_and_are_reported(name, leaf):
    source = state_dict(**{f"{name}__weight": (3, 4)})
    plan = plan_conversion(source, to="flax", accept_guesses=True)
    assert [(step.targets, step.evidence) for step in plan.steps] == [(((name, leaf),), "guess")]
    assert name in plan.describe()
    assert "guess" in plan.describe()
    neutral = to_neutral(source, "torch", accept_guesses=True)
    assert neutral.metadata.layers[name,].evidence == "guess"
    assert_same_state_dict(from_neutral(neutral, "torch"), source)


def test_nothing_is_guessed_unasked():
    source = state_dict(wte__weight=(3, 4), prelu__weight=(1,), ln__weight=(4,))
    assert {info.kind for info in to_neutral(source, "torch").metadata.layers.values()} == {None}


# -- what settles it --------------------------------------------------------------------------------

SETTLED = {
    "linear": ({"x__weight": (4, 4)}, {"kernel": spec(4, 4)}, True),
    "embedding": ({"x__weight": (4, 4)}, {"embedding": spec(4, 4)}, False),
    "norm": ({"x__weight": (4,)}, {"scale": spec(4)}, False),
    "prelu of channels": ({"x__weight": (4,)}, {"negative_slope": spec(4)}, False),
    "shared prelu": ({"x__weight": (1,)}, {"negative_slope": spec()}, False),
    "a bare parameter": ({"x__weight": (4, 4)}, {"weight": spec(4, 4)}, False),
}


@pytest.mark.parametrize(("shapes", "leaves", "transposed"), SETTLED.values(), ids=SETTLED)
def test_a_template_settles_it_by_leaf_names(shapes, leaves, transposed):
    source = state_dict(**shapes)
    tree = from_neutral(to_neutral(source, "torch"), "flax", like={"params": {"x": leaves}})
    ((name, leaf),) = tree["params"]["x"].items()
    value = source["x.weight"].numpy()
    wanted = value.T.copy() if transposed else value.reshape(leaves[name].shape)
    assert_same_bits(np.asarray(leaf), wanted)
    plan = plan_conversion(source, to="flax", like={"params": {"x": leaves}})
    assert [step.evidence for step in plan.steps] == ["template"]
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch", like=source), source)


@pytest.mark.parametrize(
    ("shape", "axes", "flip"), [((2, 2, 5, 3), (2, 3, 1, 0), False), ((2, 2, 3, 5), (2, 3, 0, 1), True)]
)
def test_a_template_settles_a_convolution_by_its_shape(shape, axes, flip):
    """The first is also a transposed one with transpose_kernel; the values are the same either way."""
    source = state_dict(x__weight=(3, 5, 2, 2))
    tree = from_neutral(to_neutral(source, "torch"), "flax", like={"params": {"x": {"kernel": spec(*shape)}}})
    wanted = source["x.weight"].numpy().transpose(axes)
    wanted = wanted[::-1, ::-1] if flip else wanted
    assert_same_bits(np.asarray(tree["params"]["x"]["kernel"]), wanted.copy())


def test_a_square_convolution_is_ambiguous_for_a_template_without_types():
    source = state_dict(x__weight=(3, 3, 2, 2), x__bias=(3,))
    like = {"params": {"x": {"kernel": spec(2, 2, 3, 3), "bias": spec(3)}}}
    with pytest.raises(AmbiguousLayerError) as refused:
        from_neutral(to_neutral(source, "torch"), "flax", like=like)
    assert set(refused.value.candidates) == {"x.weight", "x.bias"}
    assert all({"conv", "conv_transpose"} <= set(v) for v in refused.value.candidates.values())


class LinenConv(linen.Module):
    transposed: bool
    kernel: bool = False

    @linen.compact
    def __call__(self, x):
        if self.transposed:
            return linen.ConvTranspose(3, (2, 2), transpose_kernel=self.kernel, name="x")(x)
        return linen.Conv(3, (2, 2), name="x")(x)


@pytest.mark.parametrize("module", [LinenConv(False), LinenConv(True), LinenConv(True, True)], ids=str)
def test_the_types_of_a_template_settle_a_square_convolution(module):
    source = state_dict(x__weight=(3, 3, 2, 2), x__bias=(3,))
    like = bridge_flax.template(module, jnp.zeros((1, 4, 4, 3)))
    plan = plan_conversion(source, to="flax", like=like)
    kind = "conv_transpose" if module.transposed else "conv"
    assert [(step.kind, step.evidence) for step in plan.steps] == [(kind, "module")] * 2
    weight = source["x.weight"].numpy()
    axes = {"conv": (2, 3, 1, 0), "conv_transpose": (2, 3, 0, 1)}[kind]
    wanted = weight.transpose(axes)
    if module.transposed and not module.kernel:
        wanted = wanted[::-1, ::-1]
    if module.kernel:
        wanted = weight.transpose(2, 3, 1, 0)
    tree = from_neutral(to_neutral(source, "torch"), "flax", like=like)
    assert_same_bits(np.asarray(tree["params"]["x"]["kernel"]), wanted.copy())


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
def test_a_module_of_the_source_settles_a_square_convolution(kind):
    layer = nn.Conv2d(3, 3, 2) if kind == "conv" else nn.ConvTranspose2d(3, 3, 2)
    module = nn.ModuleDict({"x": layer})
    with torch.device("meta"):
        meta = nn.ModuleDict({"x": type(layer)(3, 3, 2)})
    for given in (module, meta):
        neutral = to_neutral(module.state_dict(), "torch", module=given)
        assert neutral.metadata.layers["x",].kind == kind
        assert neutral.metadata.layers["x",].evidence == "module"
        assert set(from_neutral(neutral, "flax")["x"]) == {"kernel", "bias"}


class Projection(nn.Module):
    """A user's own module, whose parameters only look like those of a linear layer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.bias = nn.Parameter(torch.randn(3))


def test_a_module_of_an_unknown_type_is_not_read_by_its_shapes_alone():
    module = nn.ModuleDict({"x": Projection()})
    assert info_of(module.state_dict(), "x").kind == "linear"
    neutral = to_neutral(module, "torch")
    info = neutral.metadata.layers["x",]
    assert info.kind is None
    assert set(info.candidates) == {"torch.linear", "parameter"}
    with pytest.raises(AmbiguousLayerError):
        from_neutral(neutral, "flax")
    assert_same_state_dict(from_neutral(neutral, "torch"), module.state_dict())
    like = {"params": {"x": {"weight": spec(3, 4), "bias": spec(3)}}}
    tree = from_neutral(neutral, "flax", like=like)
    assert_same_bits(np.asarray(tree["params"]["x"]["weight"]), module["x"].weight.detach().numpy())


def test_a_subclass_of_a_known_type_is_of_that_type():
    class Scaled(nn.Linear):
        pass

    assert info_of(nn.ModuleDict({"x": Scaled(3, 3, bias=False)}), "x").kind == "linear"


def test_a_parameter_beside_a_layer_keeps_its_name_where_the_neutral_one_is_the_same():
    source = state_dict(x__weight=(3, 4), x__bias=(3,), x__kernel=(2,))
    neutral = to_neutral(source, "torch")
    assert set(neutral) == {("x", "weight"), ("x", "bias"), ("x", "kernel")}
    assert neutral.metadata.layers["x",].kind is None
    assert_same_state_dict(from_neutral(neutral, "torch"), source)


def test_a_rule_beats_the_module_and_the_template():
    module = nn.ModuleDict({"x": nn.Linear(4, 4, bias=False)})
    neutral = to_neutral(module, "torch", rules=[Rule.layer("x", "embedding")])
    assert neutral.metadata.layers["x",].kind == "embedding"
    assert neutral.metadata.layers["x",].evidence == "rule"
    neutral = to_neutral(module, "torch", rules=[Rule.layer("*", "parameter")])
    assert list(neutral) == [("x", "weight")]


def test_a_rule_settles_what_a_neutral_state_left_undecided():
    source = state_dict(a__weight=(3, 4), b__weight=(3, 4))
    neutral = to_neutral(source, "torch")
    rules = [Rule.layer("a", "linear"), Rule.layer("b", "embedding")]
    tree = from_neutral(neutral, "flax", rules=rules)
    assert_same_bits(np.asarray(tree["a"]["kernel"]), source["a.weight"].numpy().T.copy())
    assert_same_bits(np.asarray(tree["b"]["embedding"]), source["b.weight"].numpy())


def test_a_rule_that_does_not_fit_is_refused():
    with refused(RuleError, "'x'", "'conv'", "got weight [3, 4]"):
        to_neutral(state_dict(x__weight=(3, 4)), "torch", rules=[Rule.layer("x", "conv")])


def test_rules_rename_and_drop():
    source = state_dict(old__0__weight=(3, 4), old__0__bias=(3,), junk__x=(1,))
    rules = [Rule.rename("old.{i:int}.*", "layers.{i}.*"), Rule.drop("junk.**", "not wanted")]
    neutral = to_neutral(source, "torch", rules=rules)
    assert list(neutral) == [("layers", "0", "kernel"), ("layers", "0", "bias")]
    plan = plan_conversion(source, to="flax", rules=rules)
    assert [(d.key, d.reason) for d in plan.dropped] == [(("junk", "x"), "rule: not wanted")]
    assert not plan.exact


def test_two_keys_that_a_rule_brings_to_one_name_are_refused():
    source = state_dict(a__weight=(3, 4), b__weight=(3, 4))
    with refused(RuleError, "'a.weight'", "'b.weight'", "'c.weight'", hint="disjoint"):
        to_neutral(source, "torch", rules=[Rule.rename("a.*", "c.*"), Rule.rename("b.*", "c.*")])


def test_an_nnx_state_has_no_types_and_a_module_has():
    source = state_dict(x__weight=(3, 3, 2, 2), x__bias=(3,))

    class Net(nnx.Module):
        def __init__(self):
            self.x = nnx.ConvTranspose(3, 3, (2, 2), rngs=nnx.Rngs(0))

    net = nnx.eval_shape(Net)
    with pytest.raises(AmbiguousLayerError):
        from_neutral(to_neutral(source, "torch"), "flax", like=nnx.state(net))
    made = from_neutral(to_neutral(source, "torch"), "flax", like=net)
    wanted = source["x.weight"].numpy().transpose(2, 3, 0, 1)[::-1, ::-1]
    assert_same_bits(np.asarray(made.x.kernel[...]), wanted.copy())
    state = from_neutral(
        to_neutral(source, "torch", rules=[Rule.layer("x", "conv")]), "flax", like=nnx.state(net)
    )
    assert isinstance(state, nnx.State)


@pytest.mark.parametrize("shape", [(2, 2, 3, 3), (2, 3, 3), (2, 2, 2, 3, 3), (3, 5, 2, 2)], ids=str)
def test_an_undecided_flax_tree_returns_to_flax_as_it_is(shape):
    tree = {
        "params": {"x": {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))}}
    }
    neutral = to_neutral(tree, "flax")
    assert neutral.metadata.layers["x",].kind is None
    assert_same_tree(from_neutral(neutral, "flax"), tree)
    assert_same_tree(from_neutral(neutral, "flax", like=tree), tree)
    with pytest.raises(AmbiguousLayerError):
        from_neutral(neutral, "torch")


# -- refused ----------------------------------------------------------------------------------------


def test_another_shape_is_refused_with_both_shapes():
    source = state_dict(fc__weight=(3, 4), fc__bias=(3,))
    like = {"params": {"fc": {"kernel": spec(4, 5), "bias": spec(5)}}}
    named = "fc.weight", "fc.kernel", "params.fc.kernel", "float32[4, 5]", "float32[4, 3]"
    with refused(MismatchError, "2 tensors", *named) as caught:
        from_neutral(to_neutral(source, "torch"), "flax", like=like)
    assert len(caught.value.mismatched) == 2


def test_a_plain_mapping_is_read_by_its_neutral_names():
    neutral = {("fc", "kernel"): np.ones((2, 3), np.float32), ("fc", "bias"): np.zeros(3, np.float32)}
    assert from_neutral(neutral, "torch")["fc.weight"].shape == (3, 2)


def test_a_state_without_a_layout_says_what_to_give():
    with refused(UsageError, "keys (a)", "flax", "torch", hint=('layout="', "(--layout ", "neutral")):
        plan_conversion(FlatState({("a",): np.ones(2)}), to="flax")
