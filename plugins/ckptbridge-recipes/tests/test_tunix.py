"""Tunix's decoders: names and shapes of both sides, made by hand."""

import dataclasses

from support.gemma_weights import DecoderSizes, gemma_weights, llama_weights, tunix_gemma, tunix_llama
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

GROUPED = DecoderSizes(layers=3)
EQUAL = dataclasses.replace(GROUPED, layers=2, kv_heads=4)


class TestGemma2(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma2-tunix.toml")

    def samples(self):
        for name, sizes in (("grouped heads", GROUPED), ("equal heads", EQUAL)):
            weights = gemma_weights(sizes, 2)
            yield RecipeSample(weights, tunix_gemma(weights, sizes, 2), name, sizes.config("gemma2"))


class TestGemma3(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma3-tunix.toml")

    def samples(self):
        for name, sizes in (("grouped heads", GROUPED), ("equal heads", EQUAL)):
            weights = gemma_weights(sizes, 3)
            yield RecipeSample(weights, tunix_gemma(weights, sizes, 3), name, sizes.config("gemma3_text"))


class TestLlama3(RecipeContract):
    recipe = load_recipe(RECIPES / "llama3-tunix.toml")

    def samples(self):
        weights = llama_weights(GROUPED, "llama")
        yield RecipeSample(weights, tunix_llama(weights, GROUPED), "a head", GROUPED.config("llama"))
        weights = llama_weights(EQUAL, "llama", head=False)
        yield RecipeSample(weights, tunix_llama(weights, EQUAL), "tied", sizes={"heads": 4, "kv_heads": 4})


class TestQwen2(RecipeContract):
    recipe = load_recipe(RECIPES / "qwen2-tunix.toml")

    def samples(self):
        weights = llama_weights(GROUPED, "qwen2")
        yield RecipeSample(weights, tunix_llama(weights, GROUPED), "a head", GROUPED.config("qwen2"))


class TestQwen3(RecipeContract):
    recipe = load_recipe(RECIPES / "qwen3-tunix.toml")

    def samples(self):
        weights = llama_weights(GROUPED, "qwen3", head=False)
        yield RecipeSample(weights, tunix_llama(weights, GROUPED), "dense")
        sizes = dataclasses.replace(GROUPED, layers=2, experts=5)
        weights = llama_weights(sizes, "qwen3")
        yield RecipeSample(
            weights, tunix_llama(weights, sizes), "experts", sizes.config("qwen3_moe")
        )
