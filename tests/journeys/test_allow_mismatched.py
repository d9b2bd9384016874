"""Tensors whose shapes differ stay out by permission alone, are told, and leave the template's values."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from support.commands import assert_refused
from support.errors import refused
from support.models import randomise
from torch import nn

import bridge_flax
import bridge_torch
from bridge_core import (
    MismatchError,
    RuleError,
    convert,
    join_key,
    open_state,
    plan_conversion,
    save_state,
    verify,
)
from bridge_core.cli import main


class Net(nn.Module):
    """A body that fits, and a head of some classes."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.head = nn.Linear(4, classes)


class FlaxNet(linen.Module):
    classes: int

    @linen.compact
    def __call__(self, x):
        return linen.Dense(self.classes, name="head")(linen.Dense(4, name="body")(x))


HEAD = {("params", "head", "kernel"), ("params", "head", "bias")}
BODY = {("body", "kernel"), ("body", "bias")}


@pytest.fixture(scope="module")
def net():
    return randomise(Net(6))


def variables(classes):
    return FlaxNet(classes).init(jax.random.key(1), jnp.zeros((1, 3)))


def specs_in(text):
    return re.findall(r"float32\[[\d, ]+\]", text)


# -- files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [True, ["head.*"], ["params.head.*"], ["**.kernel", "head.bias"], ["**"]])
def test_what_differs_is_left_out_and_told_with_both_shapes(net, allowed):
    plan = plan_conversion(net, to="flax", like=variables(8), allow_mismatched=allowed)
    assert set(plan.target_specs()) == {("params", "body", "kernel"), ("params", "body", "bias")}
    assert set(plan.allowed_missing) == HEAD
    assert not plan.exact
    assert {dropped.key: specs_in(dropped.reason) for dropped in plan.dropped} == {
        ("head", "weight"): ["float32[4, 6]", "float32[4, 8]"],
        ("head", "bias"): ["float32[6]", "float32[8]"],
    }


@pytest.mark.parametrize("allowed", [(), False, ["body.*"], ["head"], ["other.**"]])
def test_nothing_is_left_out_without_permission(net, allowed):
    named = ("head.weight", "float32[4, 6]", "float32[4, 8]", "head.bias", "float32[6]", "float32[8]")
    with refused(MismatchError, *named, hint="--allow-mismatched") as caught:
        plan_conversion(net, to="flax", like=variables(8), allow_mismatched=allowed)
    assert len(caught.value.mismatched) == len(caught.value.keys) == 2


def test_one_leaf_of_a_layer_may_differ_alone(net):
    like = variables(6)
    like["params"]["head"]["bias"] = jnp.zeros(7)
    plan = plan_conversion(net, to="flax", like=like, allow_mismatched=["head.bias"])
    assert plan.allowed_missing == (("params", "head", "bias"),)
    assert ("params", "head", "kernel") in plan.target_specs()
    with refused(MismatchError, "head.bias", "float32[6]", "float32[7]") as caught:
        plan_conversion(net, to="flax", like=like, allow_mismatched=["head.kernel"])
    assert len(caught.value.mismatched) == len(caught.value.keys) == 1


def test_patterns_that_match_nothing_are_no_fault_as_for_the_other_permissions(net):
    for name in ("allow_missing", "allow_unexpected", "allow_mismatched"):
        plan_conversion(net, to="flax", like=variables(6), **{name: ["nothing.**"]})
        with pytest.raises(RuleError):
            plan_conversion(net, to="flax", like=variables(6), **{name: ["a.{"]})


def test_other_permissions_do_not_cover_it_and_it_covers_no_other(net):
    with refused(MismatchError) as caught:
        plan_conversion(net, to="flax", like=variables(8), allow_missing=True, allow_unexpected=True)
    assert len(caught.value.mismatched) == len(caught.value.keys) == 2
    lacking = {"params": {"body": variables(6)["params"]["body"]}}
    with refused(MismatchError) as caught:
        plan_conversion(net, to="flax", like=lacking, allow_mismatched=True)
    assert caught.value.keys == caught.value.unexpected == ("head.weight", "head.bias")
    with refused(MismatchError) as caught:
        plan_conversion(
            nn.ModuleDict({"body": net.body}), to="flax", like=variables(6), allow_mismatched=True
        )
    assert set(caught.value.keys) == set(caught.value.missing) == {join_key(key) for key in HEAD}


@pytest.fixture
def files(net, tmp_path):
    source, like = tmp_path / "model.safetensors", tmp_path / "like.msgpack"
    save_state({name: tensor.numpy() for name, tensor in net.state_dict().items()}, source)
    convert(Net(8), like, to="flax")
    return source, like


def test_the_command_takes_patterns(files, tmp_path):
    source, like = files
    target = tmp_path / "made.msgpack"
    options = ["--to", "flax", "--like", str(like)]

    def run(*args):
        result = CliRunner().invoke(main, [str(arg) for arg in args])
        return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)

    convert = ("convert", source, target, *options)
    assert_refused(run(*convert), MismatchError, "head.weight", "head.bias", "--allow-mismatched")
    assert_refused(run(*convert, "--allow-mismatched", "head.bias"), MismatchError, "head.weight")
    both = ("--allow-mismatched", "head.bias", "--allow-mismatched", "head.kernel")
    done = run(*convert, *both)
    assert done.code == 0
    (line,) = (line for line in done.out.splitlines() if "head.weight" in line)
    assert specs_in(line) == ["float32[4, 6]", "float32[4, 8]"]
    assert "exact: no" in done.out
    done = run("plan", source, *options, *both, "--json")
    assert done.code == 0
    assert {row["key"] for row in json.loads(done.out)["dropped"]} == {"head.weight", "head.bias"}
    assert run(*convert, "--allow-mismatched", "a.{").code == 2
    with open_state(target) as made:
        assert set(made) == BODY


def test_verifying_takes_the_same_permission(files):
    source, like = files
    with pytest.raises(MismatchError):
        verify(source, like)
    found = verify(source, like, allow_mismatched=["head.*"])
    assert not found.only_left
    assert set(found.only_right) == {("head", "kernel"), ("head", "bias")}
    assert {difference.key for difference in found.differing} == BODY


# -- live -------------------------------------------------------------------------------------------


def test_flax_keeps_what_the_template_has(net):
    like = variables(8)
    neutral = bridge_torch.to_neutral(net)
    made = bridge_flax.from_neutral(neutral, like=like, allow_mismatched=["head.*"])
    body, head = made["params"]["body"], made["params"]["head"]
    assert np.array_equal(body["kernel"], net.body.weight.detach().numpy().T)
    assert np.array_equal(head["kernel"], like["params"]["head"]["kernel"])
    assert np.array_equal(head["bias"], like["params"]["head"]["bias"])
    with pytest.raises(MismatchError):
        bridge_flax.from_neutral(neutral, like=like)


def test_torch_keeps_what_the_template_has(net):
    like = randomise(Net(8))
    neutral = bridge_torch.to_neutral(net)
    made = bridge_torch.from_neutral(neutral, like=like, allow_mismatched=True)
    assert torch.equal(made["body.weight"], net.body.weight)
    assert torch.equal(made["head.weight"], like.head.weight)
    assert torch.equal(made["head.bias"], like.head.bias)
    with pytest.raises(MismatchError):
        bridge_torch.from_neutral(neutral, like=like)


# -- tensors that are more than one -----------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.wte = nn.Embedding(words, 4)
        self.head = nn.Linear(4, words, bias=False)
        self.head.weight = self.wte.weight


@pytest.mark.parametrize("kept", ["wte.weight", "head.weight"])
def test_the_other_name_of_a_tensor_that_may_differ_is_not_missing(kept):
    """As a file of safetensors holds it: under one name alone."""
    source = {kept: torch.ones(6, 4)}
    like = randomise(Tied(8))
    neutral = bridge_torch.to_neutral(source)
    made = bridge_torch.from_neutral(neutral, like=like, allow_mismatched=[kept])
    assert made["wte.weight"].data_ptr() == made["head.weight"].data_ptr()
    assert torch.equal(made["wte.weight"], like.wte.weight)
    with pytest.raises(MismatchError):
        bridge_torch.from_neutral(neutral, like=like, allow_mismatched=["body.*"])


@pytest.mark.parametrize(
    ("source", "like"),
    [
        (nn.LSTM(3, 4), nn.LSTM(3, 5)),
        (nn.MultiheadAttention(4, 2).state_dict(), nn.MultiheadAttention(8, 2).state_dict()),
    ],
    ids=["lstm", "attention"],
)
def test_a_fused_tensor_is_told_once(source, like):
    names = list(source if isinstance(source, dict) else source.state_dict())
    plan = plan_conversion(source, to="torch", like=like, allow_mismatched=True)
    assert sorted(".".join(key) for key in plan.allowed_missing) == sorted(names)
    assert sorted(".".join(dropped.key) for dropped in plan.dropped) == sorted(names)
    with refused(MismatchError, *names) as caught:
        plan_conversion(source, to="torch", like=like)
    assert len(caught.value.mismatched) == len(caught.value.keys) == len(names)
