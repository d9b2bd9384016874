"""Tunix's decoders: names and shapes of both sides, made by hand."""

import dataclasses

import pytest
from support.gemma_weights import DecoderSizes, gemma_weights, llama_weights, tunix_gemma, tunix_llama
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

pytestmark = pytest.mark.slow

GROUPED = DecoderSizes(layers=2)
EQUAL = dataclasses.replace(GROUPED, kv_heads=4)
HEAD = frozenset({"lm_head.weight", "lm_head/w"})


def sample(weights, tree, name, sizes, model_type):
    heads = {"heads": sizes.heads, "kv_heads": sizes.kv_heads}
    return RecipeSample(weights, tree, name, sizes.config(model_type), sizes=heads, may_lack=HEAD)


class TestGemma2(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma2-tunix.toml")

    def samples(self):
        for name, sizes in (("grouped heads", GROUPED), ("equal heads", EQUAL)):
            weights = gemma_weights(sizes, 2)
            yield sample(weights, tunix_gemma(weights, sizes, 2), name, sizes, "gemma2")


class TestGemma3(RecipeContract):
    recipe = load_recipe(RECIPES / "gemma3-tunix.toml")

    def samples(self):
        for name, sizes in (("grouped heads", GROUPED), ("equal heads", EQUAL)):
            weights = gemma_weights(sizes, 3)
            yield sample(weights, tunix_gemma(weights, sizes, 3), name, sizes, "gemma3_text")


class TestLlama3(RecipeContract):
    recipe = load_recipe(RECIPES / "llama3-tunix.toml")

    def samples(self):
        weights = llama_weights(GROUPED, "llama")
        yield sample(weights, tunix_llama(weights, GROUPED), "a head", GROUPED, "llama")
        weights = llama_weights(EQUAL, "llama", head=False)
        yield sample(weights, tunix_llama(weights, EQUAL), "tied", EQUAL, "llama")


class TestQwen2(RecipeContract):
    recipe = load_recipe(RECIPES / "qwen2-tunix.toml")

    def samples(self):
        weights = llama_weights(GROUPED, "qwen2")
        yield sample(weights, tunix_llama(weights, GROUPED), "a head", GROUPED, "qwen2")


class TestQwen3(RecipeContract):
    recipe = load_recipe(RECIPES / "qwen3-tunix.toml")

    def samples(self):
        weights = llama_weights(GROUPED, "qwen3", head=False)
        yield RecipeSample(weights, tunix_llama(weights, GROUPED), "tied, and no config")


class TestQwen3Moe(RecipeContract):
    recipe = load_recipe(RECIPES / "qwen3-moe-tunix.toml")

    def samples(self):
        sizes = dataclasses.replace(GROUPED, experts=3)
        weights = llama_weights(sizes, "qwen3")
        tree = tunix_llama(weights, sizes)
        yield RecipeSample(weights, tree, "experts", sizes.config("qwen3_moe"), may_lack=HEAD)
