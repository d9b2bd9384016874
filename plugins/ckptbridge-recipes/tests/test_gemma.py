"""Gemma 2 and 3 of DeepMind: names and shapes of both sides, made by hand."""

import dataclasses

from support.gemma_weights import DecoderSizes, deepmind, gemma_weights, released_names, stacked
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

GROUPED = DecoderSizes(layers=3)
EQUAL = dataclasses.replace(GROUPED, layers=2, kv_heads=4)


def with_head(weights, prefix="model."):
    return {**weights, "lm_head.weight": weights[f"{prefix}embed_tokens.weight"]}


HEAD = frozenset({"lm_head.weight"})


class TestGemma2(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma2-deepmind.toml")

    def samples(self):
        weights = gemma_weights(GROUPED, 2)
        config = GROUPED.config("gemma2")
        yield RecipeSample(
            with_head(weights), deepmind(weights, GROUPED), "grouped heads", config, not_written=HEAD
        )
        weights = gemma_weights(EQUAL, 2, "")
        yield RecipeSample(
            weights,
            released_names(deepmind(weights, EQUAL, transposed=False, prefix="")),
            "equal heads, released names",
            EQUAL.config("gemma2"),
            sizes={"narrow": EQUAL.width},
            templates=frozenset({"source", "target"}),
        )


class TestGemma2Stacked(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma2-deepmind-stacked.toml")

    def samples(self):
        weights = gemma_weights(GROUPED, 2)
        yield RecipeSample(
            weights, stacked(deepmind(weights, GROUPED), 2), "a layer more", GROUPED.config("gemma2")
        )


class TestGemma3(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma3-deepmind.toml")

    def samples(self):
        weights = gemma_weights(GROUPED, 3)
        config = GROUPED.config("gemma3_text")
        yield RecipeSample(
            with_head(weights), deepmind(weights, GROUPED), "grouped heads", config, not_written=HEAD
        )
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
        yield RecipeSample(
            weights, stacked(deepmind(weights, sizes), 6), "two layers more", sizes.config("gemma3_text")
        )
