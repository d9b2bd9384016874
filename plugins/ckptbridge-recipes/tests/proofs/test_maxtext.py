"""MaxText's recipes, proved by outputs: transformers' models against MaxText 0.2.5's own.

Needs maxtext, pydantic and omegaconf, each without what they depend on.
"""

import numpy as np
import pytest
import torch
import transformers
from support.maxtext_package import maxtext_model, run_maxtext
from support.rule_proofs import assert_same_outputs, changed, randomised, stored_tree, torch_file

import ckptbridge_recipes
from bridge_core import convert
from bridge_core.plugins import load_recipe

pytestmark = [pytest.mark.proof, pytest.mark.filterwarnings("ignore")]

FOLDER = ckptbridge_recipes.__path__[0]
ROWS = 41
TOKENS = np.random.default_rng(0).integers(1, 36, (1, 12))

HERE = {
    "vocab_size": ROWS,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
THERE = {
    "base_emb_dim": 24,
    "base_num_query_heads": 4,
    "base_num_kv_heads": 2,
    "base_num_decoder_layers": 4,
    "base_mlp_dim": 40,
    "base_moe_mlp_dim": 40,
    "head_dim": 16,
    "vocab_size": ROWS,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LLAMA_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LATENT = {"kv_lora_rank": 10, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 5}
LATENT_HERE = {
    **LATENT,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "moe_intermediate_size": 20,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-6,
}
LATENT_THERE = {
    **LATENT,
    "base_num_kv_heads": 4,
    "base_moe_mlp_dim": 20,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "first_num_dense_layers": 1,
    "rope_factor": 1.0,
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
}
V2 = {"n_shared_experts": 2, "q_lora_rank": None, "topk_method": "greedy", "norm_topk_prob": False}
V3 = {"n_shared_experts": 1, "q_lora_rank": 14, "n_group": 2, "topk_group": 1}
V3_THERE = {"q_lora_rank": 14, "n_routing_groups": 2, "topk_routing_group": 1}
CAPS = {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
GEMMA3 = {
    "num_hidden_layers": 14,
    "hidden_size": 36,
    "query_pre_attn_scalar": 16,
    "sliding_window": 5,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
GEMMA3_THERE = {"base_emb_dim": 36, "base_num_decoder_layers": 14, "vocab_size": 37, "sliding_window_size": 5}
GPT_OSS = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 5,
    "rope_theta": 150000.0,
}
WINDOW = {"sliding_window_size": 5}

# family: class, its configuration, MaxText's name, its sizes, sizes of the recipe
CASES = {
    "llama": ("Llama", {"rms_norm_eps": 1e-5}, "llama2-7b", {}, {}),
    "llama31": (
        *("Llama", {"rms_norm_eps": 1e-5, "rope_theta": 5e5, "rope_scaling": LLAMA_ROPE}),
        *("llama3.1-8b", {}, {}),
    ),
    "qwen2": ("Qwen2", {"rope_theta": 1e6}, "qwen2.5-7b", {}, {}),
    "qwen3": ("Qwen3", {"rope_theta": 1e6}, "qwen3-0.6b", {"logits_via_embedding": False}, {}),
    "qwen3-moe": (
        "Qwen3Moe",
        {"moe_intermediate_size": 40, **EXPERTS, "norm_topk_prob": True, "rope_theta": 1e7},
        *("qwen3-30b-a3b", EXPERTS, {}),
    ),
    "mixtral": (
        "Mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1e6},
        *("mixtral-8x7b", EXPERTS, {}),
    ),
    "gpt-oss": (
        "GptOss",
        {"num_local_experts": 4, "num_experts_per_tok": 2, **GPT_OSS},
        *("gpt-oss-20b", {**EXPERTS, **WINDOW}, {}),
    ),
    "deepseek2": (
        "DeepseekV2",
        {**LATENT_HERE, **V2},
        "deepseek2-16b",
        {**LATENT_THERE, "shared_experts": 2},
        {},
    ),
    "deepseek3": ("DeepseekV3", {**LATENT_HERE, **V3}, "deepseek3-671b", {**LATENT_THERE, **V3_THERE}, {}),
    "gemma": ("Gemma", {}, "gemma-2b", {"vocab_size": 48}, {"padded": 48}),
    "gemma2": (
        *("Gemma2", {"query_pre_attn_scalar": 6, "sliding_window": 5, **CAPS}),
        *("gemma2-2b", {"base_num_decoder_layers": 2, "vocab_size": 48, **WINDOW}, {"padded": 48}),
    ),
    "gemma3": ("Gemma3", GEMMA3, "gemma3-4b", {**GEMMA3_THERE, "use_multimodal": False}, {"kept": 37}),
}


def recipe_named(family, *, scanned):
    return load_recipe(f"{FOLDER}/recipes/{family}-maxtext{'' if scanned else '-unscanned'}.toml")


def outputs(family, recipe, folder, *, scanned):
    """Return the logits of both, made from weights that are random throughout."""
    name, here, there_name, there, sizes = CASES[family]
    config_name = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    config = getattr(transformers, config_name)(**{**HERE, **here})
    torch.manual_seed(0)
    model = randomised(getattr(transformers, f"{name}ForCausalLM")(config))
    source = torch_file(model, folder / "hf" / "model.safetensors", config.to_dict())
    convert(source, folder / "made.msgpack", to="flax", recipe=(recipe, sizes))
    tree = {n.removeprefix("params/"): v for n, v in stored_tree(folder / "made.msgpack").items()}
    for key in [key for key in tree if key.endswith("gate/bias") and family == "deepseek3"]:
        bias = tree.pop(key)  # this version keeps it apart, stacked on the first axis
        tree[key.replace("params/", "MoEBiasVar/", 1)] = bias.T if scanned else bias
    made = maxtext_model(there_name, scanned=scanned, length=12, **{**THERE, **there})
    with torch.no_grad():
        wanted = model(torch.from_numpy(TOKENS)).logits
    found = run_maxtext(made, tree, TOKENS)
    rows = min(found.shape[-1], wanted.shape[-1])
    return found[..., :rows], wanted[..., :rows]


QUICK = ("llama31", "qwen2", "qwen3", "gemma2", "mixtral", "deepseek2")
"""Families that run each time; all run at night."""


@pytest.mark.parametrize(
    "scanned",
    [pytest.param(True, id="scanned"), pytest.param(False, id="unscanned", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES],
)
def test_the_outputs_are_those_of_transformers(family, scanned, tmp_path):
    assert_same_outputs(*outputs(family, recipe_named(family, scanned=scanned), tmp_path, scanned=scanned))


def test_a_wrong_rope_gives_other_outputs(tmp_path):
    """The control: halves where neighbours belong, which no shape shows."""
    rules = recipe_named("llama31", scanned=True).path
    wrong = load_recipe(changed(rules, "d i m (half two)", "d i m (two half)", tmp_path))
    with pytest.raises(AssertionError):
        assert_same_outputs(*outputs("llama31", wrong, tmp_path, scanned=True))
