"""Rules for SigLIP of transformers and the two towers of big_vision: there, back, and the same outputs."""

import numpy as np
import pytest
import torch
import transformers
from support.flax_siglip import LinenSiglip
from support.rule_proofs import (
    RECIPES,
    arrays,
    assert_same_outputs,
    assert_same_tree,
    changed,
    randomised,
    run_linen,
    stored,
    stored_tree,
    torch_file,
)

from bridge_core import convert
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

WIDTH, PATCH, SIDE, WORDS, LENGTH = 24, 5, 15, 40, 7
IMAGE_SIDE, TEXT_SIDE = (2, 4, 48), (3, 3, 40)  # layers, heads, width of the MLP

every_form = pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)])

rng = np.random.default_rng(0)
PICTURES = rng.standard_normal((2, SIDE, SIDE, 3)).astype(np.float32)
TOKENS = rng.integers(0, WORDS, (3, LENGTH))


def siglip():
    def sizes(layers, heads, hidden):
        return dict(
            hidden_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=hidden,
        )

    config = transformers.SiglipConfig(
        vision_config=dict(sizes(*IMAGE_SIDE), image_size=SIDE, patch_size=PATCH),
        text_config=dict(
            sizes(*TEXT_SIDE), vocab_size=WORDS, max_position_embeddings=LENGTH, projection_size=WIDTH
        ),
        attn_implementation="eager",
    )
    return randomised(transformers.SiglipModel(config))


def by_hand(weights, scan):
    """Return the variables of big_vision's model, made name by name."""
    tree = {"t": weights["logit_scale"], "b": weights["logit_bias"]}

    def leaves(old, new, kernel="kernel"):
        value = weights[f"{old}.weight"]
        tree[f"{new}/{kernel}"] = value.T if kernel == "kernel" else value
        tree[f"{new}/bias"] = weights[f"{old}.bias"]

    def attention(parts, out, new, heads):
        for name, (kernel, bias) in parts.items():
            by_head = kernel.reshape(heads, WIDTH // heads, WIDTH)
            tree[f"{new}/{name}/kernel"] = by_head.transpose(2, 0, 1)
            tree[f"{new}/{name}/bias"] = bias.reshape(heads, WIDTH // heads)
        by_head = weights[f"{out}.weight"].reshape(WIDTH, heads, WIDTH // heads)
        tree[f"{new}/out/kernel"] = by_head.transpose(1, 2, 0)
        tree[f"{new}/out/bias"] = weights[f"{out}.bias"]

    def block(old, new, heads):
        names = {"query": "q", "key": "k", "value": "v"}
        parts = {
            name: (weights[f"{old}.self_attn.{x}_proj.weight"], weights[f"{old}.self_attn.{x}_proj.bias"])
            for name, x in names.items()
        }
        attention(parts, f"{old}.self_attn.out_proj", f"{new}/MultiHeadDotProductAttention_0", heads)
        for n in range(2):
            leaves(f"{old}.layer_norm{n + 1}", f"{new}/LayerNorm_{n}", "scale")
            leaves(f"{old}.mlp.fc{n + 1}", f"{new}/MlpBlock_0/Dense_{n}")

    def encoder(old, new, norm, layers, heads):
        leaves(norm, f"{new}/encoder_norm", "scale")
        before = set(tree)
        for n in range(layers):
            block(f"{old}.{n}", f"{new}/encoderblock_{n}", heads)
        if scan:
            for name in [n for n in set(tree) - before if "encoderblock_0/" in n]:
                one = [tree.pop(name.replace("block_0/", f"block_{n}/")) for n in range(layers)]
                tree[name.replace("block_0/", "block/")] = np.stack(one)

    image, text = "vision_model", "text_model"
    encoder(f"{image}.encoder.layers", "img/Transformer", f"{image}.post_layernorm", *IMAGE_SIDE[:2])
    encoder(f"{text}.encoder.layers", "txt/Encoder_0", f"{text}.final_layer_norm", *TEXT_SIDE[:2])
    tree["img/embedding/kernel"] = weights[f"{image}.embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0)
    tree["img/embedding/bias"] = weights[f"{image}.embeddings.patch_embedding.bias"]
    tree["img/pos_embedding"] = weights[f"{image}.embeddings.position_embedding.weight"][None]
    tree["txt/pos_embedding"] = weights[f"{text}.embeddings.position_embedding.weight"][None]
    tree["txt/Embed_0/embedding"] = weights[f"{text}.embeddings.token_embedding.weight"]
    leaves(f"{text}.head", "txt/head")

    tree["img/MAPHead_0/probe"] = weights[f"{image}.head.probe"]
    kernels = np.split(weights[f"{image}.head.attention.in_proj_weight"], 3)
    biases = np.split(weights[f"{image}.head.attention.in_proj_bias"], 3)
    parts = dict(zip(("query", "key", "value"), zip(kernels, biases, strict=True), strict=True))
    at = "img/MAPHead_0/MultiHeadDotProductAttention_0"
    attention(parts, f"{image}.head.attention.out_proj", at, IMAGE_SIDE[1])
    leaves(f"{image}.head.layernorm", "img/MAPHead_0/LayerNorm_0", "scale")
    for n in range(2):
        leaves(f"{image}.head.mlp.fc{n + 1}", f"img/MAPHead_0/MlpBlock_0/Dense_{n}")
    return {f"params/{name}": value for name, value in tree.items()}


@pytest.mark.slow
class TestSiglipBigVision(RecipeContract):
    recipe = load_recipe(RECIPES / "siglip-big-vision.toml")
    scan = False

    def samples(self):
        model = siglip()
        weights = arrays(model)
        yield RecipeSample(
            weights,
            {name.removeprefix("params/"): value for name, value in by_hand(weights, self.scan).items()},
            source_config=model.config.to_dict(),
            sizes={"image_heads": IMAGE_SIDE[1], "text_heads": TEXT_SIDE[1]},
        )


@pytest.mark.slow
class TestSiglipBigVisionScanned(TestSiglipBigVision):
    recipe = load_recipe(RECIPES / "siglip-big-vision-scanned.toml")
    scan = True


@pytest.fixture(scope="module")
def model():
    return siglip()


@pytest.fixture
def source(model, tmp_path):
    return torch_file(model, tmp_path / "torch" / "model.safetensors", model.config.to_dict())


def wanted(model):
    with torch.no_grad():
        pictures = torch.from_numpy(PICTURES).permute(0, 3, 1, 2)
        return model(input_ids=torch.from_numpy(TOKENS), pixel_values=pictures).logits_per_image


def outputs_of(tree, scan):
    linen = LinenSiglip(WIDTH, PATCH, WORDS, (IMAGE_SIDE, TEXT_SIDE), scan)
    return run_linen(linen, tree, PICTURES, TOKENS)


def rules_of(scan):
    return RECIPES / ("siglip-big-vision-scanned.toml" if scan else "siglip-big-vision.toml")


@every_form
def test_there_and_back_without_a_template(scan, model, source, tmp_path):
    in_flax, back = tmp_path / "flax.npz", tmp_path / "back.safetensors"
    assert convert(source, in_flax, to="flax", rules=rules_of(scan)).exact
    assert_same_tree(stored_tree(in_flax), by_hand(arrays(model), scan))

    assert convert(in_flax, back, to="torch", rules=rules_of(scan)).exact
    assert_same_tree(stored(back), stored(source))


@every_form
def test_a_file_of_big_vision_becomes_torchs(scan, model, tmp_path):
    np.savez(tmp_path / "flax.npz", **by_hand(arrays(model), scan))
    convert(tmp_path / "flax.npz", tmp_path / "torch.safetensors", to="torch", rules=rules_of(scan))
    assert_same_tree(stored(tmp_path / "torch.safetensors"), arrays(model))


@every_form
def test_the_outputs_are_those_of_torch(scan, model, source, tmp_path):
    convert(source, tmp_path / "flax.npz", to="flax", rules=rules_of(scan))
    assert_same_outputs(outputs_of(stored_tree(tmp_path / "flax.npz"), scan), wanted(model))


@pytest.mark.slow
def test_a_wrong_rule_gives_other_outputs(model, source, tmp_path):
    """The control: the rows of a head are taken in another order, which no shape shows."""
    in_flax = tmp_path / "flax.npz"
    right, wrong = "(heads h) d -> d heads h", "(h heads) d -> d heads h"
    assert convert(source, in_flax, to="flax", rules=changed(rules_of(False), right, wrong, tmp_path)).exact
    with pytest.raises(AssertionError):
        assert_same_tree(stored_tree(in_flax), by_hand(arrays(model), False))
    with pytest.raises(AssertionError):
        assert_same_outputs(outputs_of(stored_tree(in_flax), False), wanted(model))
