"""Every built-in transform keeps the contract of layers, and the contract notices each way of breaking it."""

from __future__ import annotations

import pytest

import bridge_flax.layers
import bridge_torch.layers
from bridge_core import LayerKind, LayerTransform, Leaf, Registry, default_registry, hookimpl
from bridge_core.testing import LayerContract


class TestTorch(LayerContract):
    transforms = bridge_torch.layers.TRANSFORMS


class TestFlax(LayerContract):
    transforms = bridge_flax.layers.TRANSFORMS


def contract_for(transform, kind):
    """The contract of one transform of a stranger."""

    class Plugin:
        @hookimpl
        def bridge_layer_kinds(self):
            return [kind]

        @hookimpl
        def bridge_layer_transforms(self):
            return [transform]

    class Contract(LayerContract):
        transforms = (transform,)
        registry: Registry = default_registry().extend(Plugin())

    return Contract()


BILINEAR = LayerKind("bilinear", {"kernel": "in1 in2 out", "bias": "out"})


def bilinear(kernel="out in1 in2", bias="out", kind="bilinear", **options):
    leaves = (Leaf("weight", "kernel", kernel), Leaf("bias", "bias", bias, optional=True))
    return LayerTransform("torch.bilinear", kind, leaves, ("torch.nn.modules.linear.Bilinear",), **options)


CHECKS = [name for name in dir(LayerContract) if name.startswith("test_")]


def broken_checks(transform, names=CHECKS):
    contract = contract_for(transform, BILINEAR)
    failed = set()
    for name in names:
        try:
            getattr(contract, name)()
        except (Exception, pytest.fail.Exception):  # any failure is one that a user sees
            failed.add(name)
    return failed


@pytest.mark.slow
def test_a_strangers_transform_keeps_the_contract():
    assert broken_checks(bilinear()) == set()
    assert broken_checks(bilinear(kernel="in2 out in1")) == set()


@pytest.mark.parametrize(
    ("transform", "noticed"),
    [
        (bilinear(kernel="out in1 other"), "test_every_leaf_goes_to_the_axes_of_its_kind_and_back"),
        (bilinear(kind="unknown"), "test_everything_that_is_named_is_registered"),
        (bilinear(identifying_leaves=("nothing",)), "test_everything_that_is_named_is_registered"),
        (
            bilinear(settings={"groups": 2}, bias="in1 out"),
            "test_every_leaf_goes_to_the_axes_of_its_kind_and_back",
        ),
        (
            LayerTransform(
                "torch.bilinear", "bilinear", (Leaf("weight", "cernel", "out in1 in2"),), ("torch.nn.X",)
            ),
            "test_everything_that_is_named_is_registered",
        ),
    ],
    ids=["unknown axis", "unknown kind", "unknown leaf", "added axis", "unknown role"],
)
def test_a_broken_transform_is_noticed(transform, noticed):
    assert broken_checks(transform, [noticed]) == {noticed}
