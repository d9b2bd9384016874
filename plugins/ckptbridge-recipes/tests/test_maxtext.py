"""MaxText's recipes: samples by hand, and Orbax folders as MaxText has them."""

import dataclasses
import json

import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from support.maxtext_trees import Model, gemma2, gemma3, maxtext_tree, transformers_weights
from support.rule_proofs import assert_same_tree, stored

import ckptbridge_recipes
from bridge_core import convert, open_state, save_state
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

FOLDER = ckptbridge_recipes.__path__[0]
MODELS = {
    "llama": [Model("llama", scalar=4), Model("llama", tied=True, kv_heads=6)],
    "llama31": [Model("llama31")],
    "qwen2": [Model("qwen2", head_dim=5)],
    "qwen3": [Model("qwen3", head_dim=5), Model("qwen3", tied=True)],
    "qwen3-moe": [Model("qwen3-moe", head_dim=5)],
    "mixtral": [Model("mixtral")],
    "gpt-oss": [Model("gpt-oss", layers=4, head_dim=5)],
    "deepseek2": [Model("deepseek2", layers=5, dense=2, head_dim=5)],
    "deepseek3": [Model("deepseek3", layers=5, dense=2, head_dim=5)],
    "gemma": [Model("gemma", padded=24, width=9, tied=True)],
    "gemma2": [gemma2],
    "gemma3": [gemma3, dataclasses.replace(gemma3, layers=12)],
}
QUICK = ("llama31-maxtext",)
"""What is tested by default."""
UNSCANNED = ("llama31-maxtext-unscanned", "gemma3-maxtext-unscanned", "deepseek2-maxtext-unscanned")
"""The recipes of layers side by side that slow tests are for; the others run at night."""
ROUNDS = ("llama", "llama31", "mixtral", "gemma", "gemma2", "gemma3")


def recipe_of(name):
    return load_recipe(f"{FOLDER}/recipes/{name}.toml")


def sizes_of(model, *, scanned):
    """What the way from MaxText needs to be told."""
    sizes = {} if model.is_latent else {"h": model.head_dim}
    sizes |= {"heads": model.heads, "dense": model.dense} if model.is_latent else {}
    if model.family in ("gemma", "gemma2"):
        sizes |= {"vocabulary": model.vocabulary, "padded": model.padded}
    if model.family == "gemma2":
        sizes["scalar"] = model.scalar
    if model.family == "gemma3":
        sizes |= {"vocabulary": model.vocabulary, "kept": model.padded}
        sizes |= {"layers": model.layers} if scanned else {}
    return sizes


def sample_of(model, *, scanned):
    weights = transformers_weights(model)
    if model.family == "gemma3":  # the rows of images come back as zeros
        weights["model.embed_tokens.weight"][model.padded :] = 0
    lost = {"lm_head.weight", "params/params/decoder/logits_dense/kernel"}
    return RecipeSample(
        source=weights,
        target=maxtext_tree(model, weights, scanned=scanned),
        name=f"{model.family}, {model.layers} layers",
        source_config=model.config,
        sizes=sizes_of(model, scanned=scanned),
        may_lack=frozenset(lost),
        tolerance=1e-6 if model.family in ROUNDS else 0.0,
    )


class MaxTextContract(RecipeContract):
    """The contract of a family's recipe."""

    family = ""
    scanned = True

    def samples(self):
        return [sample_of(model, scanned=self.scanned) for model in MODELS[self.family]]


def contract_of(family, *, scanned):
    name = f"{family}-maxtext" if scanned else f"{family}-maxtext-unscanned"
    attributes = {"family": family, "scanned": scanned, "recipe": recipe_of(name), "__doc__": name}
    made = type(f"Test_{name.replace('-', '_')}", (MaxTextContract,), attributes)
    if name in QUICK:
        return made
    return pytest.mark.slow(made) if scanned or name in UNSCANNED else pytest.mark.zoo(made)


for one in MODELS:
    for stacked in (True, False):
        a_contract = contract_of(one, scanned=stacked)
        globals()[a_contract.__name__] = a_contract
del a_contract


ROOTS = {
    "a training run": lambda tree: {
        "params": {"params": tree},
        "opt_state": {"mu": np.zeros(3)},
        "step": np.int32(3),
    },
    "params only": lambda tree: {"params": {"params": tree}},
    "one params": lambda tree: {"params": tree},
    "none": lambda tree: tree,
    "reinforcement": lambda tree: {"base": tree},
}


def nested(flat):
    """Return the decoder and the embedding as nested dictionaries."""
    return unflatten_dict(
        {name.removeprefix("params/params/"): value for name, value in flat.items()}, sep="/"
    )


@pytest.mark.parametrize("root", [pytest.param(one, id=name) for name, one in ROOTS.items()])
def test_folders_of_orbax_are_read_and_written_for_maxtext(root, tmp_path):
    """Wherever a run keeps its weights, they come back below params/params."""
    model = MODELS["llama31"][0]
    sample = sample_of(model, scanned=True)
    run, weights, made = tmp_path / "run", tmp_path / "hf" / "model.safetensors", tmp_path / "made"
    flat = flatten_dict(root(nested(sample.target)), sep="/")
    save_state(
        {tuple(name.split("/")): np.asarray(value) for name, value in flat.items()}, run, format="orbax"
    )
    weights.parent.mkdir()
    (weights.parent / "config.json").write_text(json.dumps(model.config))
    recipe = recipe_of("llama31-maxtext")
    convert(run, weights, to="torch", recipe=recipe)
    assert_same_tree(stored(weights), sample.source)
    convert(weights, made, to="flax", recipe=recipe, format="orbax", to_step=0, to_item="items")
    with open_state(made) as state:
        assert_same_tree({"/".join(key): state[key] for key in state}, sample.target)
