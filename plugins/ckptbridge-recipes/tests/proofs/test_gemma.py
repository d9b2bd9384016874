"""DeepMind's Gemma and transformers': the same outputs from weights that a recipe has moved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from stubs import imported, stub_gemma
from support.gemma_weights import DecoderSizes, released_names
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

pytestmark = pytest.mark.proof

GROUPED = DecoderSizes(layers=7, head_dim=8)
EQUAL = dataclasses.replace(GROUPED, kv_heads=4)
WINDOW = 4
TOKENS = np.random.default_rng(0).integers(1, GROUPED.vocabulary, (2, 11))
SOFT_CAPS = 30.0, 50.0


@pytest.fixture(scope="module")
def gm():
    stub_gemma()
    return imported("gemma.gm.nn._gemma")


def torch_model(sizes, family):
    common = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "query_pre_attn_scalar": sizes.head_dim,
        "sliding_window": WINDOW,
        "attn_implementation": "eager",
        "pad_token_id": 0,
    }
    if family == 3:
        config = transformers.Gemma3TextConfig(**common, rope_theta=1e6, rope_local_base_freq=1e4)
        return randomised(transformers.Gemma3ForCausalLM(config))
    logits, attention = SOFT_CAPS
    config = transformers.Gemma2Config(
        **common, final_logit_softcapping=logits, attn_logit_softcapping=attention
    )
    return randomised(transformers.Gemma2ForCausalLM(config))


def linen_model(gm, sizes, family, *, transposed=True):
    nn = gm._transformer
    config, kinds = nn._config, gm._modules.AttentionType
    pattern = gm.GEMMA3_ATTENTION_PATTERN if family == 3 else (kinds.LOCAL_SLIDING, kinds.GLOBAL)
    logits, attention = (None, None) if family == 3 else SOFT_CAPS
    own = {"use_qk_norm": True, "global_base_frequency": 1_000_000} if family == 3 else {}
    return nn.Transformer(
        config=config.TransformerConfig(
            num_embed=sizes.vocabulary,
            embed_dim=sizes.width,
            hidden_dim=sizes.hidden,
            num_heads=sizes.heads,
            head_dim=sizes.head_dim,
            num_kv_heads=sizes.kv_heads,
            final_logit_softcap=logits,
            attn_logits_soft_cap=attention,
            use_post_attn_norm=True,
            use_post_ffw_norm=True,
            attention_types=config.make_attention_layers_types(pattern, num_layers=sizes.layers),
            sliding_window_size=WINDOW,
            transpose_gating_einsum=transposed,
            **own,
        ),
        dtype=jnp.float32,
    )


def logits_of(model, tree, tokens=TOKENS):
    """Run a model that has these variables and no others."""

    class Logits:
        def init(self, key, tokens):
            return model.init(key, tokens)

        def apply(self, variables, tokens):
            return model.apply(variables, tokens).logits

    return run_linen(Logits(), tree, tokens)


def moved(model, recipe, sizes, folder):
    """Convert the weights of a torch model; return them as the file has them."""
    source = torch_file(model, folder / "torch" / "model.safetensors", model.config.to_dict())
    report = convert(source, folder / "flax.msgpack", to="flax", recipe=(recipe, sizes))
    assert report.exact
    back = convert(folder / "flax.msgpack", folder / "back.safetensors", to="torch", recipe=(recipe, sizes))
    assert back.exact
    weights = arrays(model)
    weights.pop("lm_head.weight")
    assert_same_tree(stored(folder / "back.safetensors"), weights)
    return stored_tree(folder / "flax.msgpack")


def wanted(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits


CASES = [
    pytest.param(2, GROUPED, True, id="2"),
    pytest.param(2, EQUAL, False, id="2, equal heads, gates the other way round", marks=pytest.mark.slow),
    pytest.param(3, GROUPED, True, id="3"),
    pytest.param(3, EQUAL, False, id="3, equal heads, gates the other way round", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("family", "sizes", "transposed"), CASES)
def test_outputs(family, sizes, transposed, gm, tmp_path):
    model = torch_model(sizes, family)
    settings = {2: {"narrow": sizes.width}, 3: {"transposed": 0}}[family] if not transposed else {}
    tree = moved(model, load_recipe(RECIPES / f"gemma{family}-deepmind.toml"), settings, tmp_path)
    found = logits_of(linen_model(gm, sizes, family, transposed=transposed), tree)
    assert_same_outputs(found, wanted(model))


@pytest.mark.parametrize(("family", "pattern"), [(2, 2), (3, 6)])
def test_stacks_are_those_that_gemma_splits(family, pattern, gm, tmp_path):
    """By gemma's own code: the layers of a stacked file are those of the nested names."""
    checkpoint = imported("gemma.gm.ckpts._checkpoint")
    model = torch_model(GROUPED, family)
    recipe = load_recipe(RECIPES / f"gemma{family}-deepmind-stacked.toml")
    tree = two_levels(moved(model, recipe, {}, tmp_path))
    assert sum("stacked_layers" in name for name in tree) > pattern
    nested = checkpoint._stacked_to_nested(tree)
    variables = {f"params/{name}": np.asarray(value) for name, value in flatten_dict(nested, sep="/").items()}
    found = logits_of(linen_model(gm, GROUPED, family), variables)
    assert_same_outputs(found, wanted(model))
    again = checkpoint._nested_to_stacked(nested, pattern)
    assert_same_tree(flatten_dict(again, sep="/"), flatten_dict(tree, sep="/"))


def test_the_names_of_released_files_are_gemmas(gm):
    """By gemma's own code, too."""
    checkpoint = imported("gemma.gm.ckpts._checkpoint")
    tokens = jnp.asarray(TOKENS)
    made = jax.eval_shape(lambda: linen_model(gm, GROUPED, 3).init(jax.random.key(0), tokens))["params"]
    nested = flatten_dict(made, sep="/")
    own = flatten_dict(checkpoint._nested_to_flat(made), sep="/")
    assert released_names(nested).keys() == own.keys()


def two_levels(tree):
    """The tree of a released file: all but the last part is one key."""
    renamed = {}
    for name, value in tree.items():
        path, _, leaf = name.removeprefix("params/").rpartition("/")
        renamed.setdefault(path, {})[leaf] = value
    return renamed


def test_a_wrong_rule_gives_other_outputs(gm, tmp_path):
    """The control: queries and keys of equal heads change places, which no shape shows."""
    model = torch_model(EQUAL, 3)
    names = [f'  "{{M}}.layers.{{i:int}}.self_attn.{x}_proj.weight",\n' for x in "qkv"]
    right = "".join(names)
    recipe = changed(RECIPES / "gemma3-deepmind.toml", right, "".join(names[n] for n in (1, 0, 2)), tmp_path)
    tree = moved(model, load_recipe(recipe), {}, tmp_path)
    with pytest.raises(AssertionError):
        assert_same_outputs(logits_of(linen_model(gm, EQUAL, 3), tree), wanted(model))

