"""Rules that name: renames and kinds beside rules that move, and live models whose types must still count."""

from __future__ import annotations

import dataclasses

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import random_array
from support.models import assert_same_state_dict, assert_same_tree, numpy_of, randomise
from support.rule_files import abstract, assert_holds, plan_and_apply, saved, state_of
from torch import nn

import bridge_flax
import bridge_torch
from bridge_core import Rule, convert, load_rules, open_state, plan_conversion, verify

BOTH = ("torch", "flax")


def move(*args, **more):
    return Rule.rearrange(*args, layouts=BOTH, **more)


# -- renames beside moves ---------------------------------------------------------------------------

LAYERS = 3


def renamed_and_moved():
    """A GPT-like set: a prefix to go, numbered layers with fused and plain weights, an embedding."""
    source, target = {}, {}
    rows = {n: [] for n in ("q", "k", "v", "fc")}
    for i in range(LAYERS):
        w, fc = random_array((6, 4), "float32", 10 * i), random_array((5, 4), "float32", 10 * i + 1)
        source[f"net.h.{i}.attn.qkv.weight"] = w
        source[f"net.h.{i}.fc.weight"] = fc
        source[f"net.h.{i}.out.weight"] = random_array((2, 3), "float32", 10 * i + 2)
        source[f"net.h.{i}.out.bias"] = random_array((2,), "float32", 10 * i + 3)
        for n, part in zip("qkv", np.split(w, 3), strict=True):
            rows[n].append(part.T)
        rows["fc"].append(fc.T)
        target[f"layers_{i}.proj.kernel"] = source[f"net.h.{i}.out.weight"].T
        target[f"layers_{i}.proj.bias"] = source[f"net.h.{i}.out.bias"]
    source["net.wte.weight"] = target["wte.embedding"] = random_array((7, 4), "float32", 99)
    target |= {f"blocks.attn.{n}.kernel": np.stack(rows[n]) for n in "qkv"}
    target["blocks.fc.kernel"] = np.stack(rows["fc"])
    rules = (
        move(
            "net.h.{i:int}.attn.qkv.weight",
            [f"blocks.attn.{n}.kernel" for n in "qkv"],
            "(q k v) in -> i in q, i in k, i in v",
        ),
        move("net.h.{i:int}.fc.weight", "blocks.fc.kernel", "out in -> i in out"),
        Rule.rename("net.h.{i:int}.out.*", "layers_{i}.proj.*", layouts=BOTH),
        move("net.wte.weight", "wte.embedding"),
    )
    return rules, source, target


def test_renames_and_moves_in_one_conversion(tmp_path):
    rules, source, target = renamed_and_moved()
    path = saved(source, "torch", tmp_path / "source.pt")
    convert(path, tmp_path / "there.safetensors", to="flax", rules=rules)
    assert_holds(tmp_path / "there.safetensors", target)
    assert verify(path, tmp_path / "there.safetensors", rules=rules).equal
    convert(tmp_path / "there.safetensors", tmp_path / "again.pt", to="torch", rules=rules)
    assert_holds(tmp_path / "again.pt", source)


def test_renames_and_moves_through_a_neutral_file(tmp_path):
    rules, source, target = renamed_and_moved()
    path = saved(source, "torch", tmp_path / "source.safetensors")
    once, neutral, twice = (tmp_path / f"{name}.safetensors" for name in ("once", "neutral", "twice"))
    convert(path, once, to="flax", rules=rules)
    convert(path, neutral, to="neutral", rules=rules)
    convert(neutral, twice, to="flax", rules=rules)
    assert once.read_bytes() == twice.read_bytes()
    assert_holds(twice, target)


@pytest.mark.parametrize("path", ["net.wte", "wte", "**.wte"], ids=["before", "after", "either"])
def test_a_kind_is_fixed_by_the_path_before_a_rename_or_after_it(path, tmp_path):
    source = {"net.wte.weight": random_array((7, 4), "float32")}
    rules = [Rule.rename("net.**", "**"), Rule.layer(path, "embedding")]
    made = plan_and_apply(saved(source, "torch", tmp_path / "a.safetensors"), to="flax", rules=rules)
    assert_holds(made, {"wte.embedding": source["net.wte.weight"]})


@pytest.mark.parametrize(("kind", "leaf"), [("embedding", "embedding"), ("linear", "kernel")])
def test_the_kind_of_a_rule_decides_the_axes(kind, leaf, tmp_path):
    w = random_array((7, 4), "float32")
    rules = [Rule.layer("tok", kind), Rule.rearrange("a.weight", "b.kernel", "x y -> y x")]
    path = saved({"tok.weight": w, "a.weight": w}, "torch", tmp_path / "a.safetensors")
    made = plan_and_apply(path, to="flax", rules=rules)
    assert_holds(made, {f"tok.{leaf}": w if kind == "embedding" else w.T, "b.kernel": w.T})


@pytest.mark.parametrize(("kind", "leaf"), [("embedding", "embedding"), ("linear", "kernel")])
def test_a_kind_may_be_fixed_when_a_neutral_file_is_read(kind, leaf, tmp_path):
    w = random_array((7, 4), "float32")
    source = saved({"tok.weight": w}, "torch", tmp_path / "a.safetensors")
    convert(source, tmp_path / "neutral.safetensors", to="neutral")
    rule = Rule.layer("tok", kind, origin="r.toml:1")
    plan = plan_conversion(tmp_path / "neutral.safetensors", to="flax", rules=rule)
    assert [(step.kind, step.evidence, step.rule) for step in plan.steps] == [(kind, "rule", "r.toml:1")]
    made = plan_and_apply(tmp_path / "neutral.safetensors", to="flax", rules=rule)
    assert_holds(made, {f"tok.{leaf}": w if kind == "embedding" else w.T})


RULE_FILE = """
source = "torch"
target = "flax"

[[rule]]
source = "net.h.{i:int}.fc.weight"
target = "blocks.fc.kernel"
rearrange = "out in -> i in out"

[[rule]]
source = "net.h.{i:int}.out.*"
rename = "layers_{i}.proj.*"

[[rule]]
source = "net.wte"
layer = "embedding"

[[rule]]
source = "net.wte.*"
rename = "wte.*"
"""


@pytest.mark.parametrize("form", ["path", "text", "list", "one by one", "iterator"])
def test_rules_in_every_form_that_is_taken(form, tmp_path):
    file = tmp_path / "rules.toml"
    file.write_text(RULE_FILE)
    rules = {
        "path": file,
        "text": str(file),
        "list": list(load_rules(file)),
        "one by one": tuple(dataclasses.replace(rule, origin="") for rule in load_rules(file)),
        "iterator": iter(load_rules(file)),
    }[form]
    source = {"net.h.0.fc.weight": random_array((3, 2), "float32")}
    source |= {"net.h.0.out.weight": random_array((2, 3), "float32", 1), "net.h.0.out.bias": np.ones(2, "f4")}
    source["net.wte.weight"] = random_array((5, 2), "float32", 2)
    target = {
        "blocks.fc.kernel": source["net.h.0.fc.weight"].T[None],
        "layers_0.proj.kernel": source["net.h.0.out.weight"].T,
        "layers_0.proj.bias": np.ones(2, "f4"),
        "wte.embedding": source["net.wte.weight"],
    }
    made = plan_and_apply(saved(source, "torch", tmp_path / "a.safetensors"), to="flax", rules=rules)
    assert_holds(made, target)


def test_one_rule_alone_is_taken(tmp_path):
    w = random_array((3, 2), "float32")
    rule = Rule.rearrange("a.weight", "b.kernel", "x y -> y x")
    made = plan_and_apply(saved({"a.weight": w}, "torch", tmp_path / "a.pt"), to="flax", rules=rule)
    assert_holds(made, {"b.kernel": w.T})


# -- module types under renames ---------------------------------------------------------------------


class Net(nn.Module):
    """Two weights whose kinds their shapes do not tell, and stacked layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Module()
        self.net.first = nn.Embedding(6, 4)
        self.net.second = nn.Linear(4, 6, bias=False)
        self.net.h = nn.ModuleList(nn.Linear(4, 4) for _ in range(LAYERS))


STACK = (
    move("net.h.{i:int}.weight", "h.kernel", "out in -> i in out"),
    move("net.h.{i:int}.bias", "h.bias", "out -> i out"),
)
RENAMES = {
    "elsewhere": ("wte", "head"),
    "where the other was": ("net.second", "net.first"),
}


@pytest.mark.parametrize("name", RENAMES)
@pytest.mark.parametrize("way", ["live", "model"])
def test_types_are_looked_up_by_the_paths_that_modules_have(name, way, tmp_path):
    module = randomise(Net())
    first, second = RENAMES[name]
    rules = [
        *STACK,
        Rule.rename("net.first.*", f"{first}.*", layouts=BOTH),
        Rule.rename("net.second.*", f"{second}.*", layouts=BOTH),
    ]
    tensors = {n: numpy_of(t) for n, t in module.state_dict().items()}
    wanted = {
        f"{first}.embedding": tensors["net.first.weight"],
        f"{second}.kernel": tensors["net.second.weight"].T,
        "h.kernel": np.stack([tensors[f"net.h.{i}.weight"].T for i in range(LAYERS)]),
        "h.bias": np.stack([tensors[f"net.h.{i}.bias"] for i in range(LAYERS)]),
    }
    if way == "live":
        neutral = bridge_torch.to_neutral(module, rules=rules)
        made = bridge_flax.from_neutral(neutral, rules=rules)
        found = {".".join(path): np.asarray(a) for path, a in linen_leaves(made)}
        assert_holds(found, wanted)
        assert {info.evidence for info in neutral.metadata.layers.values()} == {"module", "rule"}
    else:
        path = saved(tensors, "torch", tmp_path / "a.safetensors")
        assert_holds(plan_and_apply(path, to="flax", rules=rules, model=Net()), wanted)


def linen_leaves(tree, path=()):
    for name, child in tree.items():
        if hasattr(child, "items"):
            yield from linen_leaves(child, (*path, name))
        else:
            yield (*path, name), child


def test_what_the_metadata_of_a_file_says_follows_a_rename(tmp_path):
    module = randomise(Net())
    convert(module, tmp_path / "neutral.safetensors", to="neutral")
    renames = [Rule.rename("net.first.*", "wte.*"), Rule.rename("net.second.*", "net.first.*")]
    convert(tmp_path / "neutral.safetensors", tmp_path / "there.msgpack", to="flax", rules=renames)
    tensors = {n: numpy_of(t) for n, t in module.state_dict().items()}
    with open_state(tmp_path / "there.msgpack") as state:
        assert_holds(
            {key: state[key] for key in state if key[:2] != ("net", "h")},
            {
                "wte.embedding": tensors["net.first.weight"],
                "net.first.kernel": tensors["net.second.weight"].T,
            },
        )


# -- live Flax models as templates ------------------------------------------------------------------


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, _):
        q = linen.DenseGeneral((2, 2), name="query")(x)
        return x + linen.BatchNorm(use_running_average=True, name="bn")(q.reshape(*x.shape)), None


class Scanned(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(6, 4, name="wte")(tokens)
        scan = linen.scan(
            Block,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=LAYERS,
        )
        x, _ = scan(name="h")(x, None)
        return linen.Dense(6, use_bias=False, name="head")(x)


class TorchBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x):
        return x + self.bn(self.query(x).transpose(1, 2)).transpose(1, 2)


class TorchNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(6, 4)
        self.h = nn.Sequential(*(TorchBlock() for _ in range(LAYERS)))
        self.head = nn.Linear(4, 6, bias=False)

    def forward(self, tokens):
        return self.head(self.h(self.wte(tokens)))


def block_rules(*leaves):
    return [
        move("h.{i:int}.query.weight", "h.query.kernel", "(h d) in -> i in h d"),
        move("h.{i:int}.query.bias", "h.query.bias", "(h d) -> i h d"),
        *(move(f"h.{{i:int}}.bn.{a}", f"h.bn.{b}", "e -> i e") for a, b in leaves),
        Rule.drop("h.*.bn.num_batches_tracked", "Flax does not count", layouts=BOTH, fill=7),
    ]


LINEN_NAMES = [("weight", "scale"), ("bias", "bias"), ("running_mean", "mean"), ("running_var", "var")]


def test_scanned_linen_layers_with_statistics_there_and_back():
    module = randomise(TorchNet())
    rules = block_rules(*LINEN_NAMES)
    tokens = np.random.default_rng(0).integers(0, 6, (2, 5))
    model = Scanned()
    like = bridge_flax.template(model, jnp.zeros((2, 5), jnp.int32))
    variables = bridge_flax.from_neutral(bridge_torch.to_neutral(module, rules=rules), like=like, rules=rules)
    assert variables["batch_stats"]["h"]["bn"]["mean"].shape == (LAYERS, 4)
    assert_close(model.apply(variables, jnp.asarray(tokens)), module(torch.from_numpy(tokens)))

    neutral = bridge_flax.to_neutral(variables, rules=rules)
    again = bridge_torch.from_neutral(neutral, like=module, rules=rules)
    assert_same_state_dict(again, module.state_dict())


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.query = nnx.LinearGeneral(4, (2, 2), rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs, use_running_average=True)

    def __call__(self, x):
        return x + self.bn(self.query(x).reshape(x.shape))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.wte = nnx.Embed(6, 4, rngs=rngs)

        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stacked(rngs):
            return NnxBlock(rngs)

        self.h = stacked(rngs)
        self.head = nnx.Linear(4, 6, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        return self.head(run(self.wte(tokens), self.h))


@pytest.mark.parametrize("as_file", [False, True], ids=["live", "rule file"])
def test_stacked_nnx_layers_there_and_back(as_file, tmp_path):
    module = randomise(TorchNet())
    rules = block_rules(*LINEN_NAMES)
    if as_file:
        rules = tmp_path / "rules.toml"
        rules.write_text(NNX_RULES)
    tokens = np.random.default_rng(0).integers(0, 6, (2, 5))
    like = nnx.eval_shape(lambda: NnxNet(nnx.Rngs(0)))
    neutral = bridge_torch.to_neutral(module, rules=rules)
    made = bridge_flax.from_neutral(neutral, like=like, rules=rules)
    assert_close(made(jnp.asarray(tokens)), module(torch.from_numpy(tokens)))

    for value in (made, nnx.state(made)):
        again = bridge_torch.from_neutral(
            bridge_flax.to_neutral(value, rules=rules), like=module, rules=rules
        )
        assert_same_state_dict(again, module.state_dict())
    state_dict = dict(module.state_dict())
    plain = bridge_flax.from_neutral(bridge_torch.to_neutral(state_dict, rules=rules), like=like, rules=rules)
    assert_same_tree(plain, made)


NNX_RULES = (
    """
source = "torch"
target = "flax"
"""
    + "".join(
        f"""
[[rule]]
source = "h.{{i:int}}.{old}"
target = "h.{new}"
rearrange = "{ops}"
"""
        for old, new, ops in [
            ("query.weight", "query.kernel", "(h d) in -> i in h d"),
            ("query.bias", "query.bias", "(h d) -> i h d"),
            *((f"bn.{a}", f"bn.{b}", "e -> i e") for a, b in LINEN_NAMES),
        ]
    )
    + """
[[rule]]
source = "h.*.bn.num_batches_tracked"
drop = "Flax does not count"
fill = 7
"""
)


def test_a_control_with_heads_swapped_computes_something_else():
    module = randomise(TorchNet())
    rules = block_rules(*LINEN_NAMES)
    rules[0] = move("h.{i:int}.query.weight", "h.query.kernel", "(d h) in -> i in h d")
    like = nnx.eval_shape(lambda: NnxNet(nnx.Rngs(0)))
    made = bridge_flax.from_neutral(bridge_torch.to_neutral(module, rules=rules), like=like, rules=rules)
    tokens = np.random.default_rng(0).integers(0, 6, (2, 5))
    with pytest.raises(AssertionError):
        assert_close(made(jnp.asarray(tokens)), module(torch.from_numpy(tokens)))


def assert_close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), wanted.detach().numpy(), rtol=0, atol=1e-5)


# -- collections ------------------------------------------------------------------------------------


def test_patterns_see_names_without_a_collection(tmp_path):
    w = random_array((2, 3, 4), "float32")
    tree = {"params.h.fc.kernel": w, "batch_stats.h.bn.mean": w[:, 0], "params.h.bn.scale": w[:, 1]}
    given = saved(tree, "flax", tmp_path / "a.msgpack")
    rules = [
        move("h.{i:int}.fc.weight", "h.fc.kernel", "out in -> i in out"),
        move("h.{i:int}.bn.running_mean", "h.bn.mean", "e -> i e"),
        move("h.{i:int}.bn.weight", "h.bn.scale", "e -> i e"),
    ]
    wanted = {f"h.{i}.fc.weight": w[i].T for i in range(2)}
    wanted |= {f"h.{i}.bn.running_mean": w[i, 0] for i in range(2)}
    wanted |= {f"h.{i}.bn.weight": w[i, 1] for i in range(2)}
    made = plan_and_apply(given, to="torch", rules=rules)
    assert_holds(made, wanted)
    there = saved(wanted, "torch", tmp_path / "b.safetensors")
    assert_holds(plan_and_apply(there, to="flax", rules=rules, like=abstract(tree, "flax")), tree)


def test_a_state_in_memory_stays_as_it_is():
    w = random_array((3, 2), "float32")
    source = state_of({"a.weight": w}, "torch")
    plan = plan_conversion(source, to="flax", rules=Rule.rearrange("a.weight", "b.kernel", "x y -> y x"))
    made = plan.apply(source)
    assert list(source) == [("a", "weight")]
    made["b", "kernel"][...] = 0
    assert_holds(source, {"a.weight": w})


def test_jax_arrays_come_back_as_they_were():
    tree = {"h": {"kernel": jax.random.normal(jax.random.key(0), (2, 3, 4), jnp.bfloat16)}}
    rules = [move("h.{i:int}.weight", "h.kernel", "out in -> i in out")]
    state_dict = bridge_torch.from_neutral(bridge_flax.to_neutral(tree, rules=rules), rules=rules)
    assert {n: (t.dtype, tuple(t.shape)) for n, t in state_dict.items()} == {
        "h.0.weight": (torch.bfloat16, (4, 3)),
        "h.1.weight": (torch.bfloat16, (4, 3)),
    }
    again = bridge_flax.from_neutral(bridge_torch.to_neutral(state_dict, rules=rules), rules=rules, like=tree)
    assert_same_tree(again, tree)
