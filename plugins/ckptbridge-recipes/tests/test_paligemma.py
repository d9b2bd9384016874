"""PaliGemma and PaliGemma 2: one model's weights under transformers' and big_vision's names, by hand."""

import numpy as np
import pytest
from support.rule_proofs import RECIPES, assert_same_tree, stored, stored_tree, torch_file

from bridge_core import convert
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

WIDTH, HEADS, KV_HEADS, HEAD, HIDDEN, LAYERS, WORDS = 12, 4, 2, 5, 14, 3, 17
IMAGE_WIDTH, IMAGE_HEADS, IMAGE_HIDDEN, IMAGE_LAYERS, PATCH, PLACES = 18, 3, 22, 2, 7, 9

CONFIG = {
    "model_type": "paligemma",
    "text_config": {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS},
    "vision_config": {"num_attention_heads": IMAGE_HEADS},
}

NORMS = {
    "1": {"input_layernorm": "pre_attention_norm", "post_attention_layernorm": "pre_ffw_norm"},
    "2": {
        "input_layernorm": "pre_attention_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "pre_ffw_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
}

OLD_NAMES = ("language_model.model", "vision_tower.vision_model", "multi_modal_projector")
NEW_NAMES = tuple(f"model.{name}" for name in ("language_model", *OLD_NAMES[1:]))


def sample(version, names=OLD_NAMES):
    rng = np.random.default_rng(0)
    language, vision, projector = names
    ours, theirs = {}, {}

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def both(our_name, their_name, value):
        ours[our_name], theirs[their_name] = value, value

    def linear(our_name, their_name, into, out, layers=()):
        kernel, bias = normal(*layers, into, out), normal(*layers, out)
        theirs[f"{their_name}/kernel"], theirs[f"{their_name}/bias"] = kernel, bias
        for n in range(*layers) if layers else [None]:
            one = our_name if n is None else our_name.format(n)
            ours[f"{one}.weight"] = np.ascontiguousarray(kernel.T if n is None else kernel[n].T)
            ours[f"{one}.bias"] = bias if n is None else bias[n]

    both(f"{language}.embed_tokens.weight", "llm/embedder/input_embedding", normal(WORDS, WIDTH))
    both(f"{language}.norm.weight", "llm/final_norm/scale", normal(WIDTH))
    q, kv = normal(LAYERS, HEADS, WIDTH, HEAD), normal(LAYERS, 2, KV_HEADS, WIDTH, HEAD)
    out = normal(LAYERS, HEADS, HEAD, WIDTH)
    gates, linear_up = normal(LAYERS, 2, WIDTH, HIDDEN), normal(LAYERS, HIDDEN, WIDTH)
    norms = {their_name: normal(LAYERS, WIDTH) for their_name in NORMS[version].values()}
    theirs.update({f"llm/layers/{name}/scale": value for name, value in norms.items()})
    theirs["llm/layers/attn/q_einsum/w"] = q
    theirs["llm/layers/attn/kv_einsum/w"] = kv
    theirs["llm/layers/attn/attn_vec_einsum/w"] = out
    theirs["llm/layers/mlp/gating_einsum"] = gates
    theirs["llm/layers/mlp/linear"] = linear_up
    for n in range(LAYERS):
        at = f"{language}.layers.{n}"
        parts = {
            "self_attn.q_proj": np.concatenate([q[n, h].T for h in range(HEADS)]),
            "self_attn.k_proj": np.concatenate([kv[n, 0, h].T for h in range(KV_HEADS)]),
            "self_attn.v_proj": np.concatenate([kv[n, 1, h].T for h in range(KV_HEADS)]),
            "self_attn.o_proj": np.concatenate([out[n, h].T for h in range(HEADS)], axis=1),
            "mlp.gate_proj": gates[n, 0].T,
            "mlp.up_proj": gates[n, 1].T,
            "mlp.down_proj": linear_up[n].T,
            **{our_name: norms[their_name][n] for our_name, their_name in NORMS[version].items()},
        }
        ours.update({f"{at}.{name}.weight": np.ascontiguousarray(value) for name, value in parts.items()})

    head = IMAGE_WIDTH // IMAGE_HEADS
    block = "img/Transformer/encoderblock"
    for x, name in (("q", "query"), ("k", "key"), ("v", "value")):
        kernel, bias = (
            normal(IMAGE_LAYERS, IMAGE_WIDTH, IMAGE_HEADS, head),
            normal(IMAGE_LAYERS, IMAGE_HEADS, head),
        )
        theirs[f"{block}/MultiHeadDotProductAttention_0/{name}/kernel"] = kernel
        theirs[f"{block}/MultiHeadDotProductAttention_0/{name}/bias"] = bias
        for n in range(IMAGE_LAYERS):
            at = f"{vision}.encoder.layers.{n}.self_attn.{x}_proj"
            ours[f"{at}.weight"] = np.concatenate([kernel[n, :, h].T for h in range(IMAGE_HEADS)])
            ours[f"{at}.bias"] = np.concatenate([bias[n, h] for h in range(IMAGE_HEADS)])
    kernel, bias = normal(IMAGE_LAYERS, IMAGE_HEADS, head, IMAGE_WIDTH), normal(IMAGE_LAYERS, IMAGE_WIDTH)
    theirs[f"{block}/MultiHeadDotProductAttention_0/out/kernel"] = kernel
    theirs[f"{block}/MultiHeadDotProductAttention_0/out/bias"] = bias
    for n in range(IMAGE_LAYERS):
        at = f"{vision}.encoder.layers.{n}.self_attn.out_proj"
        ours[f"{at}.weight"] = np.concatenate([kernel[n, h].T for h in range(IMAGE_HEADS)], axis=1)
        ours[f"{at}.bias"] = bias[n]
    sizes = (IMAGE_WIDTH, IMAGE_HIDDEN), (IMAGE_HIDDEN, IMAGE_WIDTH)
    for m, (into, out_size) in enumerate(sizes):
        at = f"{vision}.encoder.layers.{{}}"
        linear(f"{at}.mlp.fc{m + 1}", f"{block}/MlpBlock_0/Dense_{m}", into, out_size, (IMAGE_LAYERS,))
        for leaf, other in (("weight", "scale"), ("bias", "bias")):
            value = theirs[f"{block}/LayerNorm_{m}/{other}"] = normal(IMAGE_LAYERS, IMAGE_WIDTH)
            for n in range(IMAGE_LAYERS):
                ours[f"{at.format(n)}.layer_norm{m + 1}.{leaf}"] = value[n]
    both(f"{vision}.post_layernorm.weight", "img/Transformer/encoder_norm/scale", normal(IMAGE_WIDTH))
    both(f"{vision}.post_layernorm.bias", "img/Transformer/encoder_norm/bias", normal(IMAGE_WIDTH))
    patch = theirs["img/embedding/kernel"] = normal(PATCH, PATCH, 3, IMAGE_WIDTH)
    ours[f"{vision}.embeddings.patch_embedding.weight"] = np.ascontiguousarray(patch.transpose(3, 2, 0, 1))
    both(f"{vision}.embeddings.patch_embedding.bias", "img/embedding/bias", normal(IMAGE_WIDTH))
    places = theirs["img/pos_embedding"] = normal(1, PLACES, IMAGE_WIDTH)
    ours[f"{vision}.embeddings.position_embedding.weight"] = places[0]
    linear(f"{projector}.linear", "img/head", IMAGE_WIDTH, WIDTH)
    return RecipeSample(
        {name: np.ascontiguousarray(value) for name, value in ours.items()},
        theirs,
        name=f"PaliGemma {version}",
        source_config=CONFIG,
        sizes={"heads": HEADS, "kv_heads": KV_HEADS, "image_heads": IMAGE_HEADS},
    )


class TestPaligemmaBigVision(RecipeContract):
    recipe = load_recipe(RECIPES / "paligemma-big-vision.toml")

    def samples(self):
        yield sample("1")

    @pytest.mark.slow
    def test_a_tensor_less_is_refused(self, tmp_path):
        super().test_a_tensor_less_is_refused(tmp_path)


@pytest.mark.slow
class TestPaligemma2BigVision(RecipeContract):
    recipe = load_recipe(RECIPES / "paligemma2-big-vision.toml")

    def samples(self):
        yield sample("2")


def test_the_names_of_a_module_and_a_stored_head_are_read_and_rows_cut_off(tmp_path):
    one = sample("1", NEW_NAMES)
    rows = np.ones((3, WIDTH), np.float32)
    name = "model.language_model.embed_tokens.weight"
    embedding = np.concatenate([one.source[name], rows])
    weights = {**one.source, name: embedding, "lm_head.weight": embedding}
    source = torch_file(weights, tmp_path / "torch" / "model.safetensors", CONFIG)
    recipe = (TestPaligemmaBigVision.recipe, {"extra_rows": 3})
    convert(source, tmp_path / "made.npz", to="flax", recipe=recipe)
    assert_same_tree(stored_tree(tmp_path / "made.npz"), {f"params/{n}": v for n, v in one.target.items()})

    convert(tmp_path / "made.npz", tmp_path / "back.safetensors", to="torch", recipe=recipe)
    back = stored(tmp_path / "back.safetensors")
    assert not back["language_model.model.embed_tokens.weight"][WORDS:].any()
    assert len(back["language_model.model.embed_tokens.weight"]) == WORDS + 3
