"""A permission allows the keys that its pattern matches: as they are, or without Flax's collection."""

from __future__ import annotations

import functools

import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from support.errors import refused

from bridge_core import MismatchError, plan_conversion

KINDS = ("allow_missing", "allow_mismatched")


class Head(linen.Module):
    classes: int

    @linen.compact
    def __call__(self, x):
        return linen.Dense(self.classes, name="head")(x)


class NnxHead(nnx.Module):
    def __init__(self, classes):
        self.head = nnx.Linear(4, classes, rngs=nnx.Rngs(0))


@functools.cache
def nnx_head(classes):
    return NnxHead(classes)


def torch_head(classes):
    return {"head.weight": torch.zeros(classes, 4), "head.bias": torch.zeros(classes)}


@functools.cache
def variables(classes):
    return Head(classes).init(jax.random.key(0), jnp.zeros((1, 4)))


def bare(classes):
    return variables(classes)["params"]


TARGETS = {"torch": torch_head, "flax": bare, "nnx": nnx_head, "variables": variables}


def planned(target, permission, pattern):
    """Plan towards a head whose bias the source lacks, or whose leaves all have other shapes there."""
    source, like = torch_head(6), TARGETS[target](6 if permission == "allow_missing" else 8)
    if permission == "allow_missing":
        del source["head.bias"]
    to = "torch" if target == "torch" else "flax"
    return plan_conversion(source, to=to, like=like, **{permission: [pattern, "**.kernel", "**.weight"]})


def left_out(plan):
    return [key for key in plan.allowed_missing if key[-1] == "bias"]


@pytest.mark.parametrize("permission", KINDS)
@pytest.mark.parametrize("target", TARGETS)
def test_the_last_part_alone_allows_nothing(target, permission):
    with refused(MismatchError, "head.bias"):
        planned(target, permission, "bias")


@pytest.mark.parametrize("permission", KINDS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("pattern", ["head.bias", "*.bias", "**.bias"])
def test_the_key_without_a_collection_is_allowed(target, permission, pattern):
    key = ("params", "head", "bias") if target == "variables" else ("head", "bias")
    assert left_out(planned(target, permission, pattern)) == [key]


@pytest.mark.parametrize("permission", KINDS)
def test_a_pattern_may_name_the_collection_that_a_key_has(permission):
    plan = planned("variables", permission, "params.head.bias")
    assert left_out(plan) == [("params", "head", "bias")]
    with refused(MismatchError, "head.bias"):
        planned("flax", permission, "params.head.bias")


@pytest.mark.parametrize("target", ["torch", "variables"])
def test_a_key_of_one_part_is_matched_by_its_name(target):
    like = {**torch_head(6), "bias": torch.zeros(3)}
    if target == "variables":
        like = {"params": {**bare(6), "bias": jnp.zeros(3)}}
    to = "torch" if target == "torch" else "flax"
    plan = plan_conversion(torch_head(6), to=to, like=like, allow_missing=["bias"])
    assert plan.allowed_missing == ((("params", "bias") if target == "variables" else ("bias",)),)


@pytest.mark.parametrize("source", ["torch", "variables"])
def test_the_last_part_of_a_source_key_allows_nothing(source):
    like = {"head": {"kernel": jnp.zeros((4, 6))}}
    given = torch_head(6) if source == "torch" else variables(6)
    with refused(MismatchError) as caught:
        plan_conversion(given, to="flax", like=like, allow_unexpected=["bias"])
    (name,) = caught.value.keys
    assert name.endswith("head.bias")
    assert caught.value.unexpected == (name,)
    allowed = ["head.bias"] if source == "torch" else ["params.head.bias"]
    plan = plan_conversion(given, to="flax", like=like, allow_unexpected=allowed)
    assert [dropped.key[-2:] for dropped in plan.left_out] == [("head", "bias")]
