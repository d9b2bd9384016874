"""pi0, pi0.5 and pi0-FAST: openpi's JAX models, openpi's port and LeRobot's policies."""

import dataclasses
from pathlib import Path

import ckptbridge_recipes
import jax
import numpy as np
import pytest
import torch
from support.errors import refused
from support.flax_pi0 import FAST, PI0, PI05, LinenPi0, LinenPi0Fast
from support.pi0_weights import flax_weights, torch_weights
from support.rule_proofs import (
    arrays,
    assert_same_outputs,
    assert_same_tree,
    changed,
    randomised,
    run_linen,
    saved_tree,
    stored,
    stored_tree,
    torch_file,
)
from support.torch_pi0 import TorchPi0, TorchPi0Fast

from bridge_core import BridgeError, convert
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

RECIPES = Path(ckptbridge_recipes.__file__).parent / "recipes"
PARTS = ("vision_tower.vision_model", "multi_modal_projector", "language_model")
EXPERTS = "paligemma_with_expert"
EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
SIZES = {"head_dim": PI0.head_dim, "image_head_dim": PI0.image_width // PI0.image_heads}
BOTH = {**SIZES, "width": PI0.widths[0], "expert_width": PI0.widths[1]}
MORE_HEADS = {"heads": 3, "head_dim": 10, "layers": 2, "image_layers": 4}
"""Heads x their size is neither expert's width."""


def recipe(name):
    return load_recipe(RECIPES / f"{name}.toml")


def two_experts(tree, root=""):
    """Return the names of openpi's port; LeRobot's begin with ``model.``."""
    paligemma = f"{root}{EXPERTS}.paligemma.model."
    return torch_weights(
        tree,
        [paligemma + part for part in PARTS],
        f"{root}{EXPERTS}.gemma_expert.model",
        root,
        f"{root}{EXPERTS}.gemma_expert.lm_head.weight",
    )


def named_head(weights, before):
    """Return weights in which the tied tensor has the name of the head."""
    renamed = {f"{before}{EMBEDDING}": f"{before}{HEAD}"}
    return {renamed.get(name, name): value for name, value in weights.items()}


def with_head(weights, before, change=0.0):
    return {**weights, f"{before}{HEAD}": weights[f"{before}{EMBEDDING}"] + np.float32(change)}


def boxed(tree):
    """Return names as a training run saves them."""
    return {f"params/{name}/value": value for name, value in tree.items()}


def with_params(tree):
    return {f"params/{name}": value for name, value in tree.items()}


class Port(RecipeContract):
    """What is left out for JAX is zeros here, as it is made for torch."""

    sizes = PI0

    def samples(self):
        tree, before = flax_weights(self.sizes), f"{EXPERTS}.paligemma."
        weights = two_experts(tree)
        yield RecipeSample(named_head(weights, before), with_params(tree), "one name", sizes=BOTH, tolerance=1e-12)
        more = dataclasses.replace(self.sizes, **MORE_HEADS)
        tree = flax_weights(more)
        yield RecipeSample(
            with_head(two_experts(tree), before),
            boxed(tree),
            "both names, boxes",
            sizes={**BOTH, "head_dim": more.head_dim},
            not_written=frozenset([f"{before}{EMBEDDING}"]),
            tolerance=1e-12,
        )


class Policy(RecipeContract):
    sizes = PI0

    def samples(self):
        tree = flax_weights(self.sizes)
        before = f"model.{EXPERTS}.paligemma."
        weights = two_experts(tree, "model.")
        yield RecipeSample(weights, with_params(tree), "no head", sizes=BOTH, tolerance=1e-12)
        yield RecipeSample(
            with_head(weights, before, 1.0),
            with_params(tree),
            "head apart",
            sizes=BOTH,
            not_written=frozenset([f"{before}{HEAD}"]),
            tolerance=1e-12,
        )


class TestPi0(Port):
    recipe = recipe("pi0-openpi")


class TestPi05(Port):
    recipe, sizes = recipe("pi05-openpi"), PI05


class TestPi0LeRobot(Policy):
    recipe = recipe("pi0-lerobot")


class TestPi05LeRobot(Policy):
    recipe, sizes = recipe("pi05-lerobot"), PI05


class TestFast(RecipeContract):
    recipe = recipe("pi0-fast-openpi")

    def samples(self):
        tree = flax_weights(FAST)
        weights = torch_weights(tree, [f"model.{part}" for part in PARTS])
        config = {"model_type": "paligemma"}
        yield RecipeSample(weights, with_params(tree), "tied", source_config=config, sizes=SIZES)
        yield RecipeSample(
            {**weights, HEAD: weights[EMBEDDING]},
            with_params(tree),
            "both names",
            source_config=config,
            sizes=SIZES,
            not_written=frozenset([HEAD]),
        )
        old = ["vision_tower.vision_model", "multi_modal_projector", "language_model.model"]
        weights = torch_weights(tree, old)


class TestFastLeRobot(RecipeContract):
    recipe = recipe("pi0-fast-lerobot")

    def samples(self):
        tree, before = flax_weights(FAST), f"model.{EXPERTS}.paligemma."
        weights = torch_weights(tree, [f"{before}model.{part}" for part in PARTS])
        yield RecipeSample(named_head(weights, before), with_params(tree), "head only", sizes=SIZES)
        yield RecipeSample(
            with_head(weights, before),
            boxed(tree),
            "both",
            sizes=SIZES,
            not_written=frozenset([f"{before}{EMBEDDING}"]),
        )
