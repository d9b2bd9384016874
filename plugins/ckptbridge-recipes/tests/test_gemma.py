"""Gemma 2 and 3 of DeepMind: names and shapes of both sides, made by hand."""

import dataclasses

import pytest
from support.gemma_weights import DecoderSizes, deepmind, gemma_weights, released_names, stacked
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

pytestmark = pytest.mark.slow

GROUPED = DecoderSizes(layers=2)
EQUAL = dataclasses.replace(GROUPED, kv_heads=4)
HEAD = frozenset({"lm_head.weight"})
HEADS = {"heads": 4, "kv_heads": 2}
CUT = 1e-12
"""A plan that cuts rows off, which may not be zeros, is not called exact."""


def with_head(weights):
    return {**weights, "lm_head.weight": weights["model.embed_tokens.weight"]}


class TestGemma2(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma2-deepmind.toml")

    def samples(self):
        weights = gemma_weights(GROUPED, 2)
        tree = deepmind(weights, GROUPED, unused=3)
        config = GROUPED.config("gemma2")
        yield RecipeSample(
            with_head(weights),
            tree,
            "grouped",
            config,
            sizes={**HEADS, "unused": 3},
            not_written=HEAD,
            tolerance=CUT,
        )
        weights = gemma_weights(EQUAL, 2, "")
        yield RecipeSample(
            weights,
            released_names(deepmind(weights, EQUAL, transposed=False, prefix="", unused=5)),
            "equal heads, released names",
            sizes={"narrow": EQUAL.width, "unused": 5, "heads": 4, "kv_heads": 4},
            tolerance=CUT,
            templates=frozenset({"source", "target"}),
        )


class TestGemma2Stacked(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma2-deepmind-stacked.toml")

    def samples(self):
        sizes = dataclasses.replace(GROUPED, layers=3)
        weights = gemma_weights(sizes, 2)
        tree = stacked(deepmind(weights, sizes, unused=1), 2)
        yield RecipeSample(
            weights,
            tree,
            "a layer more",
            sizes.config("gemma2"),
            sizes={**HEADS, "unused": 1},
            tolerance=CUT,
        )


class TestGemma3(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma3-deepmind.toml")

    def samples(self):
        weights = gemma_weights(GROUPED, 3)
        tree = deepmind(weights, GROUPED)
        config = GROUPED.config("gemma3_text")
        yield RecipeSample(with_head(weights), tree, "grouped", config, sizes=HEADS, not_written=HEAD)


class TestGemma3Released(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma3-deepmind.toml")

    def samples(self):
        prefix = "language_model.model."
        weights = gemma_weights(EQUAL, 3, prefix)
        yield RecipeSample(
            weights,
            released_names(deepmind(weights, EQUAL, transposed=False, prefix=prefix)),
            "equal heads, released names",
            sizes={"transposed": 0, "heads": 4, "kv_heads": 4},
            templates=frozenset({"source", "target"}),
        )


class TestGemma3Stacked(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma3-deepmind-stacked.toml")

    def samples(self):
        sizes = dataclasses.replace(GROUPED, layers=8)
        weights = gemma_weights(sizes, 3)
        tree = stacked(deepmind(weights, sizes), 6)
        yield RecipeSample(weights, tree, "two layers more", sizes.config("gemma3_text"), sizes=HEADS)
