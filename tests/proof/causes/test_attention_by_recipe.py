"""Gemma 3 and T5 of transformers against Linen by a recipe: right ones are equal, mistakes are named."""

import dataclasses

import numpy as np
import pytest
import transformers
from support.flax_gemma import GemmaSizes, LinenGemma
from support.flax_t5 import LinenT5, T5Sizes
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.proof import prove

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]  # of transformers

GEMMA = GemmaSizes(32, 16, 24, layers=2, heads=4, kv_heads=2, head_dim=8, window=4)
T5 = {
    "t5-t5x": T5Sizes(40, 24, 5, 28, encoder=2, decoder=1, heads=4, gated=False, tied=True, scan=False),
    "t5-v1-1-t5x": T5Sizes(41, 24, 7, 26, encoder=1, decoder=2, heads=5, gated=True, tied=False, scan=False),
}


def gemma(**changed):
    """Run transformers' Gemma 3, its config changed, against Linen's."""
    config = transformers.Gemma3TextConfig(
        **{
            "vocab_size": GEMMA.vocabulary,
            "hidden_size": GEMMA.width,
            "intermediate_size": GEMMA.hidden,
            "num_hidden_layers": GEMMA.layers,
            "num_attention_heads": GEMMA.heads,
            "num_key_value_heads": GEMMA.kv_heads,
            "head_dim": GEMMA.head_dim,
            "query_pre_attn_scalar": GEMMA.head_dim,
            "sliding_window": GEMMA.window,
            "max_position_embeddings": 64,
            "attn_implementation": "eager",
            **changed,
        }
    )
    tokens = np.random.default_rng(0).integers(1, GEMMA.vocabulary, (2, 11))
    settings = {"transposed": 1, "heads": GEMMA.heads, "kv_heads": GEMMA.kv_heads}
    return prove(
        source_model=transformers.Gemma3ForCausalLM(config).eval(),
        model=LinenGemma(GEMMA),
        inputs={"source": {"input_ids": tokens}, "target": tokens},
        recipe=(load_recipe(RECIPES / "gemma3-deepmind.toml"), settings),
    )


def t5(name, target=None, **changed):
    """Run transformers' T5, its config changed, against Linen's, its sizes changed."""
    sizes = T5[name]
    config = transformers.T5Config(
        **{
            "vocab_size": sizes.vocabulary,
            "d_model": sizes.width,
            "d_kv": sizes.depth,
            "d_ff": sizes.hidden,
            "num_layers": sizes.encoder,
            "num_decoder_layers": sizes.decoder,
            "num_heads": sizes.heads,
            "feed_forward_proj": "gated-gelu" if sizes.gated else "relu",
            "tie_word_embeddings": sizes.tied,
            **changed,
        }
    )
    generator = np.random.default_rng(0)
    read, written = (generator.integers(1, sizes.vocabulary, (2, length)) for length in (45, 38))
    return prove(
        source_model=transformers.T5ForConditionalGeneration(config).eval(),
        model=LinenT5(dataclasses.replace(sizes, **(target or {}))),
        inputs={"source": {"input_ids": read, "decoder_input_ids": written}, "target": (read, written)},
        rules=RECIPES / f"{name}.toml",
        allow_unexpected=True,
    )


def assert_named(done, code, source, target):
    assert not done.equal
    cause = done.causes[0]
    assert (cause.code, cause.source, cause.target) == (code, source, target)


def test_a_right_gemma_is_equal():
    assert gemma().equal


@pytest.mark.parametrize(
    ("changed", "code", "source", "target"),
    [
        ({"sliding_window": 8}, "window", "8 keys", "4 keys"),
        (
            {"sliding_window": 8, "attn_implementation": "sdpa"},
            "window",
            "8 keys",
            "4 keys",
        ),
        ({"query_pre_attn_scalar": 16}, "attention_scale", "0.25", "0.353553"),
        ({"rope_local_base_freq": 5e3}, "rotary_theta", "5000", "10000"),
    ],
)
def test_another_gemma_is_named(changed, code, source, target):
    assert_named(gemma(**changed), code, source, target)


@pytest.mark.parametrize("name", T5)
def test_a_right_t5_is_equal(name):
    assert t5(name).equal


@pytest.mark.parametrize(("own", "other"), [(64, 128), (128, 64)])
def test_other_buckets_are_named(own, other):
    done = t5("t5-t5x", {"farthest": other}, relative_attention_max_distance=own)

    assert done.causes[0].code == "relative_position"
    assert f"distances up to {own}" in done.causes[0].source
    assert f"distances up to {other}" in done.causes[0].target


def test_another_scale_is_named():
    done = t5("t5-t5x", {"scale": 0.5})

    assert_named(done, "attention_scale", "1", "0.5")
    assert done.first.source == "encoder.block.0.layer.0.SelfAttention"
