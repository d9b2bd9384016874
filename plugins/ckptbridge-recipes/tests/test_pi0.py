"""pi0, pi0.5 and pi0-FAST: openpi's JAX models, openpi's port and LeRobot's policies."""

import dataclasses
from pathlib import Path

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
    randomised,
    run_linen,
    saved_tree,
    stored,
    stored_tree,
    torch_file,
)
from support.torch_pi0 import TorchPi0, TorchPi0Fast

import ckptbridge_recipes
from bridge_core import MismatchError, PlanError, RuleError, convert
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
    """What is left out for JAX is zeros here, since zeros are made for torch."""

    removed = 12
    sizes = PI0

    def samples(self):
        tree, before = flax_weights(self.sizes), f"{EXPERTS}.paligemma."
        weights = two_experts(tree)
        yield RecipeSample(
            named_head(weights, before), with_params(tree), "one name", sizes=BOTH, tolerance=1e-12
        )
        more = dataclasses.replace(self.sizes, **MORE_HEADS)
        tree = flax_weights(more)
        yield RecipeSample(
            with_head(two_experts(tree), before),
            boxed(tree),
            "both names, boxes",
            sizes={**BOTH, "head_dim": more.head_dim},
            not_written=frozenset([f"{before}{EMBEDDING}"]),
            may_lack=frozenset([f"{before}{EMBEDDING}"]),
            templates=frozenset(["target"]),
            tolerance=1e-12,
        )


class Policy(RecipeContract):
    removed = 12
    sizes = PI0

    def samples(self):
        tree = flax_weights(self.sizes)
        before = f"model.{EXPERTS}.paligemma."
        weights = two_experts(tree, "model.")
        yield RecipeSample(weights, with_params(tree), "no head", sizes=BOTH, tolerance=1e-12)
        yield RecipeSample(
            with_head(weights, before, 1.0),
            with_params(tree),
            "another head",
            sizes=BOTH,
            not_written=frozenset([f"{before}{HEAD}"]),
            tolerance=1e-12,
        )


@pytest.mark.slow
class TestPi0(Port):
    recipe = recipe("pi0-openpi")


@pytest.mark.slow
class TestPi05(Port):
    recipe, sizes = recipe("pi05-openpi"), PI05


@pytest.mark.slow
class TestPi0LeRobot(Policy):
    recipe = recipe("pi0-lerobot")


@pytest.mark.slow
class TestPi05LeRobot(Policy):
    recipe, sizes = recipe("pi05-lerobot"), PI05


@pytest.mark.slow
class TestFast(RecipeContract):
    removed = 12
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
        yield RecipeSample(
            torch_weights(tree, old),
            with_params(tree),
            "older names",
            source_config=config,
            sizes=SIZES,
            templates=frozenset(["source"]),
        )


@pytest.mark.slow
class TestFastLeRobot(RecipeContract):
    removed = 12
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
            templates=frozenset(["target"]),
        )


# -- outputs


def inputs(sizes, seed=0):
    """Return two images, tokens, which are valid, states, noisy actions and times, for a batch of two."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=(2, *shape)).astype(np.float32)

    images = [normal(sizes.image, sizes.image, 3) for _ in range(2)]
    valid = np.arange(6) < np.array([[6], [4]])
    tokens = rng.integers(1, sizes.vocabulary, (2, 6))
    times = np.array([0.3, 0.8], np.float32)
    return images, tokens, valid, normal(sizes.actions), normal(sizes.horizon, sizes.actions), times


def outputs(model, images, *others):
    with torch.no_grad():
        return model([torch.from_numpy(image) for image in images], *map(torch.from_numpy, others))


def flow(sizes, name, folder, rules=None):
    """Return the velocities of torch's model, and of JAX's with the weights that were converted."""
    model = randomised(TorchPi0(sizes))
    weights = arrays(model)
    del weights[f"{EXPERTS}.paligemma.model.language_model.embed_tokens.weight"]
    given = inputs(sizes)
    source = torch_file(weights, folder / "torch" / "model.safetensors")
    own = load_recipe(rules) if rules else recipe(name)
    convert(source, folder / "flax.msgpack", to="flax", recipe=(own, BOTH))
    return run_linen(LinenPi0(sizes), stored_tree(folder / "flax.msgpack"), *given), outputs(model, *given)


def test_weights_become_those_of_jax_and_come_back(tmp_path):
    """One model whenever tests run; the contracts have all of them."""
    tree, own = with_params(flax_weights(PI05)), recipe("pi05-openpi")
    weights = named_head(two_experts(flax_weights(PI05)), f"{EXPERTS}.paligemma.")
    source = torch_file(weights, tmp_path / "torch" / "model.safetensors")
    convert(source, tmp_path / "flax.msgpack", to="flax", recipe=(own, BOTH))
    assert_same_tree(stored_tree(tmp_path / "flax.msgpack"), tree)
    convert(tmp_path / "flax.msgpack", tmp_path / "back.safetensors", to="torch", recipe=(own, BOTH))
    assert_same_tree(stored(tmp_path / "back.safetensors"), weights)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), [("pi0-openpi", PI0), ("pi05-openpi", PI05)])
def test_a_step_of_the_flow_is_that_of_torch(name, sizes, tmp_path):
    assert_same_outputs(*flow(sizes, name, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        ("post_attention_layernorm.dense.weight", "input_layernorm.dense.weight"),
    ],
)
def test_a_wrong_rule_gives_other_outputs(old, new, tmp_path):
    """The control: two tensors of the action expert change places, which no shape shows."""
    text = (RECIPES / "pi05-openpi.toml").read_text()
    layer = "gemma_expert.model.layers.{i:int}."
    for first, other in ((old, new), (old.replace(".weight", ".bias"), new.replace(".weight", ".bias"))):
        text = text.replace(f"{layer}{first}", "{held}").replace(f"{layer}{other}", f"{layer}{first}")
        text = text.replace("{held}", f"{layer}{other}")
    wrong = tmp_path / "pi05-openpi.toml"
    wrong.write_text(text)
    found, wanted = flow(PI05, "pi05-openpi", tmp_path, wrong)
    with pytest.raises(AssertionError):
        assert_same_outputs(found, wanted)


@pytest.mark.slow
def test_logits_of_pi0_fast_are_those_of_paligemma(tmp_path):
    model = randomised(TorchPi0Fast(FAST, prefix=3))
    images, tokens, *_ = inputs(FAST)
    weights = arrays(model.model)
    source = torch_file(weights, tmp_path / "torch" / "model.safetensors", model.model.config.to_dict())
    convert(source, tmp_path / "flax.msgpack", to="flax", recipe=(recipe("pi0-fast-openpi"), SIZES))
    found = run_linen(LinenPi0Fast(FAST, 3), stored_tree(tmp_path / "flax.msgpack"), images, tokens)
    assert_same_outputs(found, outputs(model, images, tokens))


# -- what is refused


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attn/q_einsum/lora_a", "mlp_1/gating_einsum_lora_b"])
def test_lora_is_refused(name, tmp_path):
    tree = {**flax_weights(PI0), f"PaliGemma/llm/layers/{name}": np.ones((3, 2, 24, 2), np.float32)}
    source = saved_tree(with_params(tree), tmp_path / "flax.msgpack")
    with refused(MismatchError, "lora"):
        convert(source, tmp_path / "out.safetensors", to="torch", recipe=(recipe("pi0-openpi"), BOTH))


@pytest.mark.slow
def test_a_head_of_pi0_fast_that_was_trained_apart_is_refused(tmp_path):
    before = f"model.{EXPERTS}.paligemma."
    weights = torch_weights(flax_weights(FAST), [f"{before}model.{part}" for part in PARTS])
    source = torch_file(with_head(weights, before, 1.0), tmp_path / "torch" / "model.safetensors")
    with refused(PlanError, "input_embedding"):
        convert(source, tmp_path / "flax.msgpack", to="flax", recipe=(recipe("pi0-fast-lerobot"), SIZES))


@pytest.mark.slow
def test_other_sizes_are_refused_unless_they_are_stated(tmp_path):
    """The tiny model has none of the real one's sizes."""
    weights = named_head(two_experts(flax_weights(PI0)), f"{EXPERTS}.paligemma.")
    source = torch_file(weights, tmp_path / "torch" / "model.safetensors")
    with refused(RuleError, "width"):
        convert(source, tmp_path / "flax.msgpack", to="flax", recipe=recipe("pi0-openpi"))
    with refused(RuleError, "head_dim"):
        sizes = {"width": 24, "expert_width": 20}
        convert(source, tmp_path / "flax.msgpack", to="flax", recipe=(recipe("pi0-openpi"), sizes))


@pytest.mark.slow
def test_a_tied_name_of_save_model_is_one_tensor(tmp_path):
    """safetensors' save_model stores one of the two, and the other's name in the file's metadata."""
    from safetensors.torch import load_model, save_model

    model = randomised(TorchPi0(PI0))
    save_model(model, tmp_path / "model.safetensors")
    convert(
        tmp_path / "model.safetensors",
        tmp_path / "flax.msgpack",
        to="flax",
        recipe=(recipe("pi0-openpi"), BOTH),
    )
    convert(
        tmp_path / "flax.msgpack",
        tmp_path / "back.safetensors",
        to="torch",
        recipe=(recipe("pi0-openpi"), BOTH),
    )
    other = TorchPi0(PI0)
    load_model(other, tmp_path / "back.safetensors")
    weights, unused = arrays(model), f"{EXPERTS}.gemma_expert.lm_head.weight"
    assert_same_tree({**arrays(other), unused: weights[unused]}, weights)
