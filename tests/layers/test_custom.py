"""A layer from the axes of its leaves: what follows from them, and what each mistake is told."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from support.errors import refused

import bridge_flax
import bridge_torch
from bridge_core import (
    AmbiguousLayerError,
    MismatchError,
    PluginError,
    Rule,
    UnsupportedLayerError,
    convert,
    custom_layer,
    default_registry,
    plan_conversion,
)
from bridge_core.testing import LayerContract


class Gated(torch.nn.Module):
    """Two linear layers in one weight, the gate first."""

    def __init__(self, bias=True):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 4))
        self.bias = torch.nn.Parameter(torch.randn(8)) if bias else None

    def forward(self, x):
        gate, value = torch.nn.functional.linear(x, self.weight, self.bias).chunk(2, -1)
        return torch.sigmoid(gate) * value


class NnxGated(nnx.Module):
    def __init__(self, rngs):
        for name in ("gate", "value"):
            setattr(self, f"{name}_kernel", nnx.Param(jnp.zeros((4, 4))))
            setattr(self, f"{name}_bias", nnx.Param(jnp.zeros(4)))

    def __call__(self, x):
        gate = x @ self.gate_kernel[...] + self.gate_bias[...]
        return jax.nn.sigmoid(gate) * (x @ self.value_kernel[...] + self.value_bias[...])


class LinenGated(linen.Module):
    @linen.compact
    def __call__(self, x):
        zeros = linen.initializers.zeros
        gate, value = (
            x @ self.param(f"{name}_kernel", zeros, (4, 4)) + self.param(f"{name}_bias", zeros, (4,))
            for name in ("gate", "value")
        )
        return jax.nn.sigmoid(gate) * value


TORCH = {"weight": "(gate value) in", "bias?": "(gate value)"}
FLAX = {"gate_kernel": "in gate", "value_kernel": "in value", "gate_bias?": "gate", "value_bias?": "value"}
GATED = custom_layer("gated", torch=(Gated, TORCH), flax=((NnxGated, LinenGated), FLAX))
REGISTRY = default_registry().extend(GATED)
X = np.random.default_rng(0).normal(size=(3, 4)).astype("f4")


class Net(torch.nn.Module):
    def __init__(self, bias=True):
        super().__init__()
        self.mix, self.head = Gated(bias), torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.mix(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.mix, self.head = NnxGated(rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.head(self.mix(x))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4, name="head")(LinenGated(name="mix")(x))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


def outputs(net):
    return net(torch.tensor(X)).detach().numpy()


def to_flax(source, like=None, **options):
    neutral = bridge_torch.to_neutral(source, registry=REGISTRY, **options)
    return bridge_flax.from_neutral(neutral, like=like, registry=REGISTRY)


def comes_back(made, net, like=None):
    neutral = bridge_flax.to_neutral(made, registry=REGISTRY)
    back = bridge_torch.from_neutral(neutral, like=like, registry=REGISTRY)
    return all(torch.equal(back[name], value) for name, value in net.state_dict().items())


def test_live_modules_convert_both_ways(net):
    made = to_flax(net, NnxNet(nnx.Rngs(0)))
    np.testing.assert_allclose(made(X), outputs(net), rtol=1e-4, atol=1e-5)
    assert comes_back(made, net)
    assert comes_back(made, net, net)
    variables = to_flax(net, bridge_flax.template(LinenNet(), X))
    np.testing.assert_allclose(LinenNet().apply(variables, X), outputs(net), rtol=1e-4, atol=1e-5)
    assert comes_back(variables, net, net)


def test_without_a_template_the_usual_names_are_written(net):
    written = to_flax(net)
    assert set(written["mix"]) == {"gate_kernel", "value_kernel", "gate_bias", "value_bias"}
    weight = net.mix.weight.detach().numpy()
    assert np.array_equal(written["mix"]["gate_kernel"], weight[:4].T)
    assert np.array_equal(written["mix"]["value_kernel"], weight[4:].T)
    assert set(to_flax(Net(bias=False))["mix"]) == {"gate_kernel", "value_kernel"}


def test_a_type_of_the_notebook_is_known(net, monkeypatch):
    """Classes of `__main__` are named by it, as live modules name them."""
    monkeypatch.setattr(Gated, "__module__", "__main__")
    layer = custom_layer("gated", torch=(Gated, TORCH), flax=(NnxGated, FLAX))
    assert layer.transforms[0].modules == ("__main__.Gated",)
    neutral = bridge_torch.to_neutral(net, registry=default_registry().extend(layer))
    assert neutral.metadata.layers["mix",].kind == "gated"


def test_files_need_what_decides(net, tmp_path):
    """A weight of two parts looks like one of a linear layer: a model, a template or a rule decides."""
    file, converted = tmp_path / "a.pt", tmp_path / "a.msgpack"
    torch.save(net.state_dict(), file)
    with refused(AmbiguousLayerError, "mix.weight", "gated"):
        convert(file, converted, to="flax", registry=REGISTRY)
    rules = [Rule.layer("mix", "gated"), Rule.layer("head", "linear")]
    for options in ({"model": net}, {"like": NnxNet(nnx.Rngs(0))}, {"rules": rules}):
        convert(file, converted, to="flax", registry=REGISTRY, overwrite=True, **options)
        convert(converted, tmp_path / "back.pt", to="torch", registry=REGISTRY, overwrite=True)
        back = torch.load(tmp_path / "back.pt")
        assert all(torch.equal(back[name], value) for name, value in net.state_dict().items())


def test_a_layer_that_needs_a_module_is_no_candidate_of_files(net):
    layer = custom_layer("gated", torch=(Gated, TORCH), flax=(NnxGated, FLAX), needs_module=True)
    registry = default_registry().extend(layer)
    plain = torch.nn.Sequential(torch.nn.Linear(4, 8)).state_dict()
    assert plan_conversion(plain, to="flax", registry=registry).ok
    with refused(AmbiguousLayerError):
        plan_conversion(plain, to="flax", registry=REGISTRY)
    for source, options in ((net, {}), (net.state_dict(), {"rules": [Rule.layer("mix", "gated")]})):
        keys = set(plan_conversion(source, to="flax", registry=registry, **options).target_specs())
        assert ("mix", "gate_kernel") in keys


class FlaxHeads(nnx.Module):
    """Its projection has an axis for each head."""


BOTH_FUSED = custom_layer(
    "both_fused",
    torch=("my.A", {"w": "(gate value) in", "b?": "(gate value)"}),
    flax=("my.B", {"kernel": "in (value gate)", "bias?": "(value gate)"}),
)
NESTED = custom_layer(
    "nested",
    torch=("my.A", {"weight": "(gate value) in"}),
    flax=("my.B", {"gate.kernel": "in gate", "value.kernel": "in value"}),
)
HEADS = custom_layer(
    "heads",
    torch=("my.A", {"w_q": "heads in", "scale": "in"}),
    flax=(FlaxHeads, {"q": "in heads/2", "gain": "1 in"}),
    splits={"heads": "num_heads"},
)
SPREAD = custom_layer(
    "spread", torch=("my.A", {"weight": "out in +k"}), flax=("my.B", {"kernel": "+k in out"})
)
NORMS = custom_layer(
    "norms", torch=("my.A", {"weight": "d", "bias": "d"}), flax=("my.B", {"scale": "d", "bias": "d"})
)
FOUR = custom_layer(
    "four",
    torch=("my.A", {"w": "(i f g o) in", "u": "(i f) state"}),
    flax=("my.B", {**{gate: f"in {gate}" for gate in "ifgo"}, "ui": "state i", "uf": "state f"}),
)
ALL = (GATED, BOTH_FUSED, NESTED, HEADS, SPREAD, NORMS, FOUR)


@pytest.mark.slow
class TestContract(LayerContract):
    """Every transform that follows fulfils the contract of layers."""

    transforms = tuple(transform for layer in ALL for transform in layer.transforms)
    registry = default_registry().extend(*ALL)


def test_what_follows():
    assert dict(GATED.kind.leaves) == {
        "gate_kernel": "in gate",
        "value_kernel": "in value",
        "gate_bias": "gate",
        "value_bias": "value",
    }
    assert dict(BOTH_FUSED.kind.leaves) == {
        "kernel_value": "in value",
        "kernel_gate": "in gate",
        "bias_value": "value",
        "bias_gate": "gate",
    }
    assert dict(HEADS.kind.leaves) == {"q": "in heads", "gain": "in"}
    assert dict(NORMS.kind.leaves) == {"scale": "d", "bias": "d"}
    assert NESTED.kind.composite
    assert [leaf.optional for leaf in GATED.transforms[0].leaves] == [False, True]
    assert GATED.transforms[1].equal_axes == (("gate", "value"),)
    odd = custom_layer(
        "odd",
        torch=("my.A", {"w": "c d", "f": "out"}),
        flax=("my.B", {"a.conv.kernel": "c d", "a.norm.scale": "out"}),
    )
    assert not odd.kind.composite, "its parts are not linear layers"


def test_three_frameworks():
    layer = custom_layer(
        "bilinear",
        torch=("my.A", {"weight": "out in1 in2", "bias?": "out"}),
        flax=("my.B", {"kernel": "in1 in2 out", "bias?": "out"}),
        numpy=((), {"W": "in2 in1 out"}),
    )
    assert [transform.name for transform in layer.transforms] == [
        "torch.bilinear",
        "flax.bilinear",
        "numpy.bilinear",
    ]
    assert layer.transforms[2].unsupported_leaves.keys() == {"bias"}
    assert layer.transforms[2].modules == (), "dictionaries have no type"


GOOD = ("my.B", {"kernel": "in1 in2 out"})
MISTAKES = {
    "an axis of one side": (dict(torch=("my.A", {"w": "out in1 inn2"})), "'inn2'", "'in2'"),
    "an axis too few": (dict(torch=("my.A", {"w": "out in1"})), "'w'", "'in2'"),
    "a leaf of one side": (dict(torch=("my.A", {"w": "out in1 in2", "gain": "n"})), "'gain'", "'gain?'"),
    "not a class": (dict(torch=(3, {"w": "out in1 in2"})), "torch", "got 3"),
    "a module": (dict(torch=(torch.nn.Linear(1, 1), {"w": "out in1 in2"})), "class", "Linear"),
    "a bare name": (dict(torch=("Bilinear", {"w": "out in1 in2"})), "'Bilinear'", "my_package"),
    "only axes": (dict(torch={"w": "out in1 in2"}), "torch", "torch=(MyLayer"),
    "no axes": (dict(torch=("my.A", {"w": ("out", "in1")})), "'w'", "texts"),
    "no notation": (dict(torch=("my.A", {"w": "out, in1, in2"})), "'out,'"),
    "one framework": ({}, "two frameworks", "LayerTransform"),
    "no leaves": (dict(torch=("my.A", {})), "torch", "Name the leaves"),
    "only leaves that may be missing": (dict(torch=("my.A", {"w?": "out in1 in2"})), "'?'"),
    "a leaf twice": (dict(torch=("my.A", {"w": "a", "w?": "b"})), "'w' twice"),
    "a spread on one side": (dict(torch=("my.A", {"w": "out in1 *in2"})), "'in2'", "any number"),
    "an open pair": (
        dict(
            torch=("my.A", {"w1": "out in", "w2": "out in"}),
            flax=("my.B", {"up": "in out", "gate": "in out"}),
        ),
        "'w1'",
        "'gate'",
        "out_2",
    ),
    "parts of one name": (
        dict(torch=("my.A", {"w": "(h h) in"}), flax=("my.B", {"a": "in h", "b": "in h"})),
        "(h h)",
        "(gate value)",
    ),
    "parts without their names": (
        dict(torch=("my.A", {"w": "(gate value) in"}), flax=("my.B", {"a": "in out", "b": "in out"})),
        "'out' only in flax",
        "'gate' has that axis",
    ),
}
"""What is wrong -> the arguments, and what the refusal names."""


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_told(what):
    given, *named = MISTAKES[what]
    with pytest.raises(PluginError) as caught:
        custom_layer("bilinear", **{"flax": GOOD, **given})
    text = f"{caught.value}"
    assert "'bilinear'" in text or what in ("no notation", "parts of one name")
    for name in named:
        assert name in text, text


def test_an_unknown_split_is_told():
    with refused(PluginError, "axis_splits", "'haeds'"):
        custom_layer(
            "heads",
            torch=("my.A", {"w": "heads in"}),
            flax=("my.B", {"w": "in heads/2"}),
            splits={"haeds": "n"},
        )


class GroupedAttention(torch.nn.Module):
    """Attention whose keys and values are one tensor, and have fewer heads than the queries."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.num_kv_heads = 4, 2
        self.q_weight = torch.nn.Parameter(torch.randn(12, 5))
        self.kv_weight = torch.nn.Parameter(torch.randn(12, 5))
        self.o_weight = torch.nn.Parameter(torch.randn(5, 12))


class LinenGrouped(linen.Module):
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 3

    @linen.compact
    def __call__(self, x):
        q = self.param("q", linen.initializers.ones, (5, self.num_heads, self.head_dim))
        for name in "kv":
            self.param(name, linen.initializers.ones, (5, self.num_kv_heads, self.head_dim))
        o = self.param("o", linen.initializers.ones, (self.num_heads, self.head_dim, 5))
        return jnp.einsum("ihd,hdo,i->o", q, o, x)


GROUPED_TORCH = {"q_weight": "heads in", "kv_weight": "(k v) in", "o_weight": "out heads"}
GROUPED_FLAX = {"q": "in heads/2", "k": "in k/2", "v": "in v/2", "o": "heads/2 out"}
GROUPED_SPLITS = {"heads": "num_heads", "k": "num_kv_heads", "v": "num_kv_heads"}


@pytest.fixture
def grouped():
    return torch.nn.ModuleDict({"attn": GroupedAttention(), "head": torch.nn.Linear(5, 2)})


class GroupedNet(linen.Module):
    attention: linen.Module

    @linen.compact
    def __call__(self, x):
        return linen.Dense(2, name="head")(self.attention.copy(name="attn", parent=self)(x))


def test_both_modules_state_the_number_of_heads(grouped):
    """The attribute has the number of parts in the framework that splits the axis, too."""
    layer = custom_layer(
        "grouped",
        torch=(GroupedAttention, GROUPED_TORCH),
        flax=(LinenGrouped, GROUPED_FLAX),
        splits=GROUPED_SPLITS,
    )
    registry = default_registry().extend(layer)
    neutral = bridge_torch.to_neutral(grouped, registry=registry)
    template = bridge_flax.template(GroupedNet(LinenGrouped()), jnp.ones(5))
    made = bridge_flax.from_neutral(neutral, like=template, registry=registry)
    assert made["params"]["attn"]["v"].shape == (5, 2, 3)
    shapes = jax.tree.map(np.shape, bridge_flax.from_neutral(neutral, registry=registry))
    assert shapes["attn"] == {"q": (5, 4, 3), "k": (5, 2, 3), "v": (5, 2, 3), "o": (4, 3, 5)}
    neutral = bridge_flax.to_neutral(made, module=template, registry=registry)
    back = bridge_torch.from_neutral(neutral, like=grouped, registry=registry)
    assert all(torch.equal(back[name], value) for name, value in grouped.state_dict().items())


@pytest.mark.parametrize(
    ("attention", "error", "words"),
    [
        (LinenGrouped(num_heads=3, head_dim=4), UnsupportedLayerError, "heads split into 3 x 4"),
        (LinenGrouped(num_kv_heads=3), UnsupportedLayerError, "k split into 3 x 3"),
    ],
)
def test_another_number_of_heads_is_refused(grouped, attention, error, words):
    layer = custom_layer(
        "grouped",
        torch=(GroupedAttention, GROUPED_TORCH),
        flax=(LinenGrouped, GROUPED_FLAX),
        splits=GROUPED_SPLITS,
    )
    registry = default_registry().extend(layer)
    neutral = bridge_torch.to_neutral(grouped, registry=registry)
    with refused(error, words):
        template = bridge_flax.template(GroupedNet(attention), jnp.ones(5))
        bridge_flax.from_neutral(neutral, like=template, registry=registry)


def test_a_layer_that_does_not_fit_its_type_is_named_next_to_what_is_missing(grouped):
    wrong = {**GROUPED_FLAX, "q": "in heads", "o": "heads out"}
    layer = custom_layer(
        "grouped", torch=(GroupedAttention, GROUPED_TORCH), flax=(LinenGrouped, wrong), splits=GROUPED_SPLITS
    )
    registry = default_registry().extend(layer)
    template = bridge_flax.template(GroupedNet(LinenGrouped()), jnp.ones(5))
    neutral = bridge_torch.to_neutral(grouped, registry=registry)
    with refused(MismatchError, "params.attn.q", hint="q [in heads], k [in k/2]"):
        bridge_flax.from_neutral(neutral, like=template, registry=registry)
    variables = bridge_flax.from_neutral(neutral, registry=registry)
    variables["attn"]["q"] = variables["attn"]["q"].reshape(5, 4, 3)
    neutral = bridge_flax.to_neutral(variables, module=template, registry=registry)
    with refused(MismatchError, "attn.kv_weight", hint="the type of its module (flax.grouped)"):
        bridge_torch.from_neutral(neutral, like=grouped, registry=registry)


def test_parts_of_unequal_size_are_refused(net):
    """What one tensor of torch cannot hold is not such a layer."""
    tree = {"mix": {"gate_kernel": np.ones((4, 4), "f4"), "value_kernel": np.ones((4, 6), "f4")}}
    plan = plan_conversion(tree, to="torch", layout="flax", rules=(), registry=REGISTRY, check=False)
    assert not any(step.kind == "gated" for step in plan.steps)
