"""The recipe for DeepMind's Gemma 3 and transformers': there, back, and the same outputs."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from flax.serialization import msgpack_restore, msgpack_serialize
from support.errors import refused
from support.flax_gemma import GemmaSizes, LinenGemma
from support.rule_proofs import (
    RECIPES,
    arrays,
    assert_same_outputs,
    assert_same_tree,
    changed,
    randomised,
    run_linen,
    saved_tree,
    stored,
    stored_tree,
    torch_file,
)

from bridge_core import RuleError, convert
from bridge_core.plugins import load_recipe

RECIPE = load_recipe(RECIPES / "gemma3-deepmind.toml")
SIZES = GemmaSizes(40, 24, 48, layers=2, heads=4, kv_heads=2, head_dim=8, window=4)
CASES = {
    "grouped": SIZES,
    "grouped, deep": dataclasses.replace(SIZES, layers=7),
    "equal heads": dataclasses.replace(SIZES, layers=7, kv_heads=4, transposed=False),
}
PREFIXES = ["model.", "model.language_model.", "language_model.model."]
TOKENS = np.random.default_rng(0).integers(1, SIZES.vocabulary, (2, 11))

every_case = pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(sizes, id=name, marks=() if sizes is SIZES else pytest.mark.slow)
        for name, sizes in CASES.items()
    ],
)


def recipe_for(sizes):
    return RECIPE, settings(sizes)


def settings(sizes):
    return {"transposed": int(sizes.transposed), "heads": sizes.heads, "kv_heads": sizes.kv_heads}


def gemma(sizes):
    config = transformers.Gemma3TextConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.width,
        intermediate_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        query_pre_attn_scalar=sizes.head_dim,
        sliding_window=sizes.window,
        rope_theta=1e6,
        rope_local_base_freq=1e4,
        pad_token_id=0,
        attn_implementation="eager",
    )
    return randomised(transformers.Gemma3ForCausalLM(config))


def by_hand(weights, sizes):
    """Return the variables of DeepMind's model, made name by name."""
    tree = {
        "embedder/input_embedding": weights["model.embed_tokens.weight"],
        "final_norm/scale": weights["model.norm.weight"],
    }
    norms = {
        "attn/_query_norm": "self_attn.q_norm",
        "attn/_key_norm": "self_attn.k_norm",
        "pre_attention_norm": "input_layernorm",
        "post_attention_norm": "post_attention_layernorm",
        "pre_ffw_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    for n in range(sizes.layers):
        old, new = f"model.layers.{n}", f"layer_{n}"
        q, k, v = (
            weights[f"{old}.self_attn.{x}_proj.weight"]
            .reshape(-1, sizes.head_dim, sizes.width)
            .transpose(0, 2, 1)
            for x in "qkv"
        )
        if sizes.heads == sizes.kv_heads:
            tree[f"{new}/attn/qkv_einsum/w"] = np.stack((q, k, v))
        else:
            tree[f"{new}/attn/q_einsum/w"] = q
            tree[f"{new}/attn/kv_einsum/w"] = np.stack((k, v))
        out = weights[f"{old}.self_attn.o_proj.weight"].T
        tree[f"{new}/attn/attn_vec_einsum/w"] = out.reshape(sizes.heads, sizes.head_dim, sizes.width)
        gates = np.stack([weights[f"{old}.mlp.{x}_proj.weight"] for x in ("gate", "up")])
        tree[f"{new}/mlp/gating_einsum"] = gates if sizes.transposed else gates.transpose(0, 2, 1)
        tree[f"{new}/mlp/linear"] = weights[f"{old}.mlp.down_proj.weight"].T
        for own, other in norms.items():
            tree[f"{new}/{own}/scale"] = weights[f"{old}.{other}.weight"]
    return {f"params/{name}": value for name, value in tree.items()}


def flat(tree):
    """The names of the released files: a first part with slashes, and ``w`` below each array of the MLP."""
    named = {f"transformer/{name.removeprefix('params/')}": value for name, value in tree.items()}
    return {f"{name}/w" if "/mlp/" in name else name: value for name, value in named.items()}


def two_levels(tree):
    """The same names as the tree of a released file has them: all but the last part is one key."""
    renamed = {}
    for name, value in tree.items():
        path, _, leaf = name.rpartition("/")
        renamed.setdefault(path, {})[leaf] = value
    return renamed


def spelt(weights, prefix, *, head):
    """Other names for a checkpoint: the prefix, and whether the tied head is stored."""
    inner = {name: value for name, value in weights.items() if name.startswith("model.")}
    renamed = {name.replace("model.", prefix, 1): value for name, value in inner.items()}
    if head:
        name = "language_model.lm_head.weight" if prefix.startswith("language_model") else "lm_head.weight"
        renamed[name] = weights["lm_head.weight"]
    return renamed


def zeros(tree):
    return {name: np.zeros_like(value) for name, value in tree.items()}


@pytest.fixture
def model(sizes):
    return gemma(sizes)


def wanted(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits


@every_case
def test_there_and_back(sizes, model, tmp_path):
    """By the config next to the checkpoint; the way back needs none."""
    weights, tree = arrays(model), by_hand(arrays(model), sizes)
    source = torch_file(weights, tmp_path / "torch" / "model.safetensors", model.config.to_dict())
    recipe = (RECIPE, {"transposed": int(sizes.transposed)})
    in_flax = tmp_path / "flax.msgpack"
    assert convert(source, in_flax, to="flax", recipe=recipe).exact
    assert_same_tree(stored_tree(in_flax), tree)

    back = tmp_path / "back.safetensors"
    assert convert(in_flax, back, to="torch", recipe=recipe).exact
    del weights["lm_head.weight"]
    assert_same_tree(stored(back), weights)
    tied = tmp_path / "tied.safetensors"
    assert convert(in_flax, tied, to="torch", recipe=recipe, like=source).exact
    assert_same_tree(stored(tied), arrays(model))


@pytest.mark.parametrize("sizes", [SIZES])
def test_heads_are_asked_for_without_a_config(sizes, model, tmp_path):
    source = torch_file(model, tmp_path / "torch" / "model.safetensors")
    with refused(RuleError, "config.num_attention_heads", hint="--set"):
        convert(source, tmp_path / "flax.msgpack", to="flax", recipe=RECIPE)


@every_case
def test_variables_of_flax_become_torchs(sizes, model, tmp_path):
    """A file that this project did not write."""
    variables = saved_tree(by_hand(arrays(model), sizes), tmp_path / "flax.msgpack")
    convert(variables, tmp_path / "torch.safetensors", to="torch", recipe=recipe_for(sizes))
    weights = arrays(model)
    del weights["lm_head.weight"]
    assert_same_tree(stored(tmp_path / "torch.safetensors"), weights)


@every_case
def test_the_outputs_are_those_of_torch(sizes, model, tmp_path):
    source = torch_file(arrays(model), tmp_path / "torch" / "model.safetensors")
    like = saved_tree(zeros(by_hand(arrays(model), sizes)), tmp_path / "like.msgpack")
    convert(source, tmp_path / "flax.msgpack", to="flax", recipe=recipe_for(sizes), like=like)
    in_flax = stored_tree(tmp_path / "flax.msgpack")
    assert_same_outputs(run_linen(LinenGemma(sizes), in_flax, TOKENS), wanted(model))


@pytest.mark.slow
@every_case
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_spelling_is_read_and_written(sizes, prefix, head, model, tmp_path):
    weights = spelt(arrays(model), prefix, head=head)
    tree = flat(by_hand(arrays(model), sizes))
    source = torch_file(weights, tmp_path / "torch" / "model.safetensors")
    like = tmp_path / "like.npz"
    np.savez(like, **zeros(tree))
    in_flax, back = tmp_path / "flax.npz", tmp_path / "back.safetensors"
    assert convert(source, in_flax, to="flax", recipe=recipe_for(sizes), like=like).exact
    stored_names = set(np.load(in_flax)) - {"__ckptbridge__"}
    assert stored_names == set(tree)
    assert_same_tree({name: np.load(in_flax)[name] for name in stored_names}, tree)
    assert convert(in_flax, back, to="torch", recipe=recipe_for(sizes), like=source).exact
    assert_same_tree(stored(back), weights)


@pytest.mark.slow
@every_case
def test_keys_that_hold_slashes(sizes, model, tmp_path):
    tree = two_levels(flat(by_hand(arrays(model), sizes)))
    source = torch_file(spelt(arrays(model), "model.", head=False), tmp_path / "torch" / "model.safetensors")
    like, in_flax = tmp_path / "like.msgpack", tmp_path / "flax.msgpack"
    like.write_bytes(msgpack_serialize({path: zeros(leaves) for path, leaves in tree.items()}))
    assert convert(source, in_flax, to="flax", recipe=recipe_for(sizes), like=like).exact
    leaves_of = msgpack_restore(in_flax.read_bytes())
    assert leaves_of.keys() == tree.keys()
    for path, leaves in tree.items():
        assert_same_tree(leaves_of[path], leaves)
    assert convert(in_flax, tmp_path / "back.safetensors", to="torch", recipe=recipe_for(sizes)).exact
    assert_same_tree(stored(tmp_path / "back.safetensors"), stored(source))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [SIZES])
def test_a_wrong_rule_gives_other_outputs(sizes, model, tmp_path):
    """The control: keys and values change places, which no shape shows."""
    source = torch_file(arrays(model), tmp_path / "torch" / "model.safetensors")
    tree = by_hand(arrays(model), sizes)
    like = saved_tree(zeros(tree), tmp_path / "like.msgpack")
    keys, values = (f'"{{M}}.layers.{{i:int}}.self_attn.{x}_proj.weight"' for x in "kv")
    right, wrong = f"[{keys}, {values}]", f"[{values}, {keys}]"
    rules = changed(RECIPE.path, right, wrong, tmp_path)
    convert(
        source, tmp_path / "flax.msgpack", to="flax", recipe=(load_recipe(rules), settings(sizes)), like=like
    )
    in_flax = stored_tree(tmp_path / "flax.msgpack")
    with pytest.raises(AssertionError):
        assert_same_tree(in_flax, tree)
    with pytest.raises(AssertionError):
        assert_same_outputs(run_linen(LinenGemma(sizes), in_flax, TOKENS), wanted(model))
