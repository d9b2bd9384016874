"""Tunix's decoders and transformers': the same outputs from weights that a recipe has moved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from stubs import imported, stub_tunix
from support.gemma_weights import DecoderSizes
from support.rule_proofs import (
    RECIPES,
    arrays,
    assert_same_outputs,
    assert_same_tree,
    changed,
    randomised,
    stored,
    stored_tree,
    torch_file,
)

from bridge_core import convert
from bridge_core.plugins import load_recipe

pytestmark = [
    pytest.mark.proof,
    pytest.mark.filterwarnings("ignore:'sharding' is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:'.value' access is now deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:jax.interpreters.pxla.thread_resources:DeprecationWarning"),
]

SIZES = DecoderSizes(layers=2, head_dim=8)
GEMMA = dataclasses.replace(SIZES, layers=7)
EQUAL = dataclasses.replace(SIZES, kv_heads=4)
SQUARE = dataclasses.replace(SIZES, head_dim=6, width=24)
EXPERTS = dataclasses.replace(SIZES, experts=5)
WINDOW = 4
TOKENS = np.random.default_rng(0).integers(1, SIZES.vocabulary, (2, 11))


def torch_model(sizes, name, **own):
    config = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "attn_implementation": "eager",
        "pad_token_id": 0,
        **own,
    }
    config_name = {"Gemma3": "Gemma3Text"}.get(name, name)
    return randomised(
        getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{config_name}Config")(**config))
    )


def tunix_model(lib, name, sizes, **own):
    """Make a model of its shapes and dtypes only."""
    module = imported(f"tunix.models.{lib}.model")
    config = {
        "num_layers": sizes.layers,
        "embed_dim": sizes.width,
        "hidden_dim": sizes.hidden,
        "num_heads": sizes.heads,
        "num_kv_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "num_embed" if lib.startswith("gemma") else "vocab_size": sizes.vocabulary,
        **own,
    }
    return nnx.eval_shape(lambda: getattr(module, name)(module.ModelConfig(**config), rngs=nnx.Rngs(0)))


def logits_of(model, tree):
    """Run a model that has these variables and no others."""
    graph, state = nnx.split(model)
    shapes = {
        tuple(map(str, name)): leaf.shape for name, leaf in flatten_dict(nnx.to_pure_dict(state)).items()
    }
    found = {tuple(name.removeprefix("params/").split("/")): value for name, value in tree.items()}
    assert shapes == {name: value.shape for name, value in found.items()}
    numbered = {tuple(int(p) if p.isdigit() else p for p in name): v for name, v in found.items()}
    nnx.replace_by_pure_dict(state, unflatten_dict({name: jnp.asarray(v) for name, v in numbered.items()}))
    batch, length = TOKENS.shape
    places = np.broadcast_to(np.arange(length), (batch, length))
    mask = np.broadcast_to(np.tril(np.ones((length, length), bool)), (batch, length, length))

    @jax.jit
    def run(state):
        return nnx.merge(graph, state)(jnp.asarray(TOKENS), jnp.asarray(places), None, jnp.asarray(mask))[0]

    with jax.default_matmul_precision("highest"):
        return np.asarray(run(state))


def moved(model, recipe, folder):
    """Convert the weights of a torch model; return them as the file has them."""
    weights = arrays(model)
    if model.config.tie_word_embeddings:  # as save_pretrained does
        weights.pop("lm_head.weight")
    source = torch_file(weights, folder / "torch" / "model.safetensors", model.config.to_dict())
    assert convert(source, folder / "flax.msgpack", to="flax", recipe=recipe).exact
    assert convert(folder / "flax.msgpack", folder / "back.safetensors", to="torch", recipe=recipe).exact
    assert_same_tree(stored(folder / "back.safetensors"), weights)
    return stored_tree(folder / "flax.msgpack")


def wanted(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits


def gemma2(sizes):
    kinds = imported("tunix.models.gemma.model").AttentionType
    own = tunix_model(
        "gemma",
        "Gemma",
        sizes,
        final_logit_softcap=30.0,
        attn_logits_soft_cap=50.0,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        attention_types=(kinds.LOCAL_SLIDING, kinds.GLOBAL) * sizes.layers,
        sliding_window_size=WINDOW,
    )
    caps = {"final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
    torchs = torch_model(sizes, "Gemma2", query_pre_attn_scalar=sizes.head_dim, sliding_window=WINDOW, **caps)
    return torchs, own, "gemma2-tunix"


def gemma3(sizes):
    bases = {"rope_theta": 1e6, "rope_local_base_freq": 1e4}
    own = tunix_model(
        "gemma3",
        "Gemma3",
        sizes,
        sliding_window_size=WINDOW,
        local_base_frequency=10_000,
        global_base_frequency=1_000_000,
        param_dtype=jnp.float32,
    )
    torchs = torch_model(
        sizes, "Gemma3", query_pre_attn_scalar=sizes.head_dim, sliding_window=WINDOW, **bases
    )
    return torchs, own, "gemma3-tunix"


ROPE = {"rope_theta": 1e6, "rms_norm_eps": 1e-6}
OWN = {"rope_theta": 1_000_000, "norm_eps": 1e-6}


def llama3(sizes, *, tied=False):
    own = tunix_model("llama3", "Llama3", sizes, weight_tying=tied, **OWN)
    return torch_model(sizes, "Llama", tie_word_embeddings=tied, **ROPE), own, "llama3-tunix"


def qwen2(sizes, *, tied=False):
    own = tunix_model("qwen2", "Qwen2", sizes, use_tied_embedding=tied, **OWN)
    return torch_model(sizes, "Qwen2", tie_word_embeddings=tied, **ROPE), own, "qwen2-tunix"


def qwen3(sizes, *, tied=False):
    own = tunix_model("qwen3", "Qwen3", sizes, use_tied_embedding=tied, **OWN)
    return torch_model(sizes, "Qwen3", tie_word_embeddings=tied, **ROPE), own, "qwen3-tunix"


def qwen3_moe(sizes):
    own = tunix_model("qwen3", "Qwen3", sizes, num_experts=sizes.experts, num_experts_per_tok=2, **OWN)
    experts = {"moe_intermediate_size": sizes.hidden, "num_experts": sizes.experts, "num_experts_per_tok": 2}
    torchs = torch_model(sizes, "Qwen3Moe", norm_topk_prob=True, **experts, **ROPE)
    return torchs, own, "qwen3-moe-tunix"


CASES = {
    "gemma2": lambda: gemma2(SIZES),
    "gemma3": lambda: gemma3(GEMMA),
    "llama3": lambda: llama3(SIZES),
    "qwen2": lambda: qwen2(SQUARE),
    "qwen3": lambda: qwen3(SIZES),
    "qwen3, experts": lambda: qwen3_moe(EXPERTS),
}
MORE = {
    "gemma2, equal heads": lambda: gemma2(EQUAL),
    "gemma3, equal heads": lambda: gemma3(EQUAL),
    "llama3, tied": lambda: llama3(EQUAL, tied=True),
    "qwen2, tied": lambda: qwen2(SQUARE, tied=True),
    "qwen3, tied": lambda: qwen3(EQUAL, tied=True),
}


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=name) for name, case in CASES.items()),
        *(pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in MORE.items()),
    ],
)
def test_outputs(case, tmp_path):
    stub_tunix()
    model, own, name = case()
    tree = moved(model, load_recipe(RECIPES / f"{name}.toml"), tmp_path)
    assert_same_outputs(logits_of(own, tree), wanted(model))


def test_a_wrong_rule_gives_other_outputs(tmp_path):
    """The control: gates and what they multiply change places, which no shape shows."""
    stub_tunix()
    model, own, name = qwen3(SIZES)
    tables = 'tables = { x = ["gate", "up", "down"] }'
    right = f'"layers.{{i:int}}.mlp.{{x}}_proj.kernel"\nrearrange = "o i -> i o"\n{tables}'
    wrong = right.replace('["gate", "up", "down"]', '{ gate = "up", up = "gate", down = "down" }')
    recipe = load_recipe(changed(RECIPES / f"{name}.toml", right, wrong, tmp_path))
    tree = moved(model, recipe, tmp_path)
    with pytest.raises(AssertionError):
        assert_same_outputs(logits_of(own, tree), wanted(model))


def test_tunix_ignores_the_base_of_llamas_rotary_embedding(tmp_path):
    """As the recipe's notes say: with the base of Llama 3 the weights are right and the outputs are not."""
    stub_tunix()
    own = tunix_model("llama3", "Llama3", SIZES, rope_theta=500_000, norm_eps=1e-6)
    same = torch_model(SIZES, "Llama", rope_theta=1e6, rms_norm_eps=1e-6)
    other = torch_model(SIZES, "Llama", rope_theta=5e5, rms_norm_eps=1e-6)
    other.load_state_dict(same.state_dict())
    found = logits_of(own, moved(other, load_recipe(RECIPES / "llama3-tunix.toml"), tmp_path))
    assert_same_outputs(found, wanted(same))
    with pytest.raises(AssertionError):
        assert_same_outputs(found, wanted(other))
