"""Attention's forms are identified from what was recorded, and what differs is named."""

from dataclasses import replace

import numpy as np
import pytest
from support.attention_sites import attention_site, layer_site

from bridge_core.proof.causes.attention import attention_causes
from bridge_core.proof.causes.attention_core import Form, attend
from bridge_core.proof.causes.attention_parts import attention_parts
from bridge_core.proof.causes.attention_recovered import probabilities
from bridge_core.proof.causes.rotary import Rotary

ENCODER = Form(4, 4, scale=8**-0.5)
DECODER = Form(4, 2, scale=8**-0.5, causal=0, rotary=Rotary(size=8))
MASK = np.arange(11) < np.array([11, 7])[:, None]


def codes(site):
    return [cause.code for cause in attention_causes(site)]


CHANGES = {
    "head_count": {"heads": 2, "kv_heads": 1, "scale": 16**-0.5},
    "head_order": {"splits": ("d h",) * 3, "merge": "d h"},
    "kv_groups": {"groups": "tile"},
    "rotary_missing": {"rotary": None},
    "rotary_layout": {"rotary": Rotary("interleaved", size=8)},
    "rotary_theta": {"rotary": Rotary(theta=5e5, size=8)},
    "rotary_size": {"rotary": Rotary(size=2)},
    "rotary_sign": {"rotary": Rotary(size=8, sign=-1)},
    "rotary_inputs": {"rotary": Rotary(size=8, on="q")},
    "position_offset": {"rotary": Rotary(size=8, ahead=1)},
    "attention_scale": {"scale": 1.0},
    "attention_softcap": {"softcap": 30.0},
    "softmax_axis": {"axis": "queries"},
    "causal_mask": {"causal": None},
    "mask_shift": {"causal": 1},
    "window": {"window": 4},
    "relative_position": {"relative": "alibi"},
    "projection_roles": {"exchanged": True},
}


@pytest.mark.parametrize("mistaken", [pytest.param("source", marks=pytest.mark.slow), "target"])
@pytest.mark.parametrize("code", CHANGES)
def test_one_change_of_a_decoder_is_named_on_either_side(code, mistaken):
    wrong = replace(DECODER, **CHANGES[code])
    pair = (wrong, DECODER) if mistaken == "source" else (DECODER, wrong)

    (cause,) = attention_causes(attention_site(*pair))

    assert cause.code == code
    assert cause.error_with <= 4e-6 < cause.error_without
    assert cause.source != cause.target


@pytest.mark.parametrize(
    ("code", "right", "wrong"),
    [
        ("mask_sign", {"masks": (("attention_mask", "keep"),)}, {"masks": (("attention_mask", "masked"),)}),
        ("mask", {"masks": (("attention_mask", "keep"),)}, {}),
        ("mask_use", {"masks": (("attention_mask", "keep"),)}, {"masks": (("attention_mask", "added"),)}),
    ],
)
def test_the_use_of_a_padding_mask_is_named(code, right, wrong):
    site = attention_site(replace(ENCODER, **right), replace(ENCODER, **wrong), MASK)

    assert codes(site) == [code]


def test_what_masked_logits_become_is_named():
    right = replace(ENCODER, masks=(("attention_mask", "keep"),))

    assert codes(attention_site(right, replace(right, fill=("add", -10.0)), MASK)) == ["mask_value"]


def test_what_a_query_gets_that_sees_nothing_is_named():
    mask = MASK.copy()
    mask[0] = False
    right = replace(ENCODER, masks=(("attention_mask", "keep"),))

    assert codes(attention_site(right, replace(right, empty="zero"), mask)) == ["mask_value"]


def test_a_scale_after_the_bias_is_named():
    bias = np.random.default_rng(5).normal(size=(1, 4, 11, 11)).astype(np.float32)
    right = replace(ENCODER, biases=("bias",))

    assert codes(attention_site(right, replace(right, late_scale=True), bias=bias)) == ["bias_scale"]
    assert codes(attention_site(right, replace(right, biases=()), bias=bias)) == ["attention_bias"]


@pytest.mark.parametrize("fused", ["h 3 d", "h d 3"])
def test_the_order_of_one_projection_is_named(fused):
    site = attention_site(ENCODER, replace(ENCODER, fused=fused), joined=True)

    (cause,) = attention_causes(site)

    assert cause.code == "fused_order"
    assert cause.mend.endswith("split the projection into query, key and value one after another.")


def test_numbers_that_nobody_lists_are_fitted():
    (scale,) = attention_causes(attention_site(DECODER, replace(DECODER, scale=0.37)))
    (theta,) = attention_causes(attention_site(DECODER, replace(DECODER, rotary=Rotary(size=8, theta=777.0))))

    assert (scale.code, scale.target) == ("attention_scale", "0.37")
    assert (theta.code, theta.target) == ("rotary_theta", "777")


@pytest.mark.slow
def test_two_changes_are_both_named():
    wrong = replace(DECODER, scale=1.0, window=3)

    assert sorted(codes(attention_site(DECODER, wrong))) == ["attention_scale", "window"]


@pytest.mark.parametrize("settings", [True, False])
def test_heads_are_identified_without_settings(settings):
    site = attention_site(DECODER, replace(DECODER, causal=None), settings=settings)

    assert codes(site) == ["causal_mask"]


def test_a_softmax_in_a_narrower_dtype_is_named():
    wrong = replace(DECODER, rounding=("bfloat16", ("logits", "weights")))

    (cause,) = attention_causes(attention_site(DECODER, wrong))

    assert (cause.code, cause.target) == ("softmax_dtype", "bfloat16")


def test_dropped_probabilities_are_named_with_their_share():
    site = attention_site(DECODER, DECODER, head_dim=12)
    right = replace(DECODER, rotary=Rotary(size=12), scale=12**-0.5)
    parts, _, _ = attention_parts(site)
    weights = probabilities(parts, right)
    kept = np.random.default_rng(0).random(weights.shape) > 0.25
    values = np.repeat(parts.projected["v"].reshape(2, 11, 2, 12), 2, 2).transpose(0, 2, 1, 3)
    outputs = [
        (w @ values).transpose(0, 2, 1, 3).reshape(2, 11, 48).astype(np.float32)
        for w in (weights, weights * kept / 0.75)
    ]

    (cause,) = attention_causes(attention_site(DECODER, DECODER, head_dim=12, outputs=outputs))

    assert (cause.code, cause.target) == ("dropout", "0.25")


def test_a_mask_that_no_form_has_is_read_from_the_probabilities():
    r = np.random.default_rng(2)
    seen = r.random((2, 1, 11, 11)) > 0.4
    seen |= np.eye(11, dtype=bool)
    plain = Form(2, 2, scale=16**-0.5)
    site = attention_site(plain, plain, head_dim=16)
    parts, _, _ = attention_parts(site)
    masked = replace(parts, masks={"odd": seen.astype(float)}, cache={})
    outputs = [attend(parts, plain), attend(masked, replace(plain, masks=(("odd", "keep"),)))]

    site = attention_site(plain, plain, head_dim=16, outputs=[y.astype(np.float32) for y in outputs])

    assert codes(site) == ["mask"]


def test_an_attention_that_is_one_layer_is_identified():
    plain = Form(3, 3, scale=0.5)
    cases = {
        "head_order": {"splits": ("d h",) * 3, "merge": "d h"},
        "attention_scale": {"scale": 1.0},
        "batch_axis": {"sequence": 0},
        "transposed_weight": {"changes": ("query.kernel transposed",)},
        "projection_bias": {"changes": ("value.bias missing",)},
        "causal_mask": {"causal": 0},
    }

    for code, change in cases.items():
        assert codes(layer_site(plain, replace(plain, **change))) == [code]
    assert codes(layer_site(plain, replace(plain, changes=("out.kernel transposed",)))) == [
        "transposed_weight"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_forms_are_identified_or_an_equivalent_one(seed):
    r = np.random.default_rng(seed)

    def some(*values):
        return values[r.integers(len(values))]

    kv = some(1, 2, 4)
    rotary = some(None, Rotary("halves", some(1e4, 5e5, 1e6), 8), Rotary("interleaved", 1e4, some(4, 8)))
    right = Form(4, kv, rotary=rotary, scale=some(8**-0.5, 1.0, 1 / 8), causal=some(None, 0))
    changes = [
        {"scale": right.scale * 1.5},
        {"causal": None if right.causal == 0 else 0},
        {"rotary": Rotary(theta=1e5, size=8)},
        {"splits": ("d h",) * 3, "merge": "d h"},
    ]
    wrong = replace(right, **changes[r.integers(len(changes))])

    found = list(attention_causes(attention_site(right, wrong, head_dim=8)))

    assert found
    assert all(cause.error_with <= 4e-6 for cause in found)
    assert not any(cause.code == "other_computation" for cause in found)


def test_equal_outputs_name_nothing():
    assert codes(attention_site(DECODER, DECODER)) == []
    one = Form(1, 1, scale=8**-0.5)
    assert codes(attention_site(one, replace(one, groups="tile"))) == []


@pytest.mark.slow
def test_noise_names_nothing():
    r = np.random.default_rng(0)
    noise = [r.normal(size=(2, 11, 32)).astype(np.float32) for _ in range(2)]

    assert codes(attention_site(ENCODER, ENCODER, outputs=noise)) == []


@pytest.mark.slow
def test_a_target_that_computes_something_else_is_called_unknown():
    noise = np.random.default_rng(0).normal(size=(2, 11, 32)).astype(np.float32)
    right = np.asarray(attention_site(DECODER, DECODER).source.children[3].inputs["0"])

    (cause,) = attention_causes(attention_site(DECODER, DECODER, outputs=[right, noise]))

    assert (cause.code, cause.target) == ("other_computation", "unknown")
    assert codes(attention_site(DECODER, DECODER, outputs=[noise, right])) == []


def test_a_scale_that_both_sides_share_is_fitted():
    odd = replace(DECODER, scale=0.2345)

    assert codes(attention_site(odd, replace(odd, causal=None))) == ["causal_mask"]


def test_a_window_in_a_mask_that_is_given_is_read():
    back = np.arange(11)[:, None] - np.arange(11)
    mask = np.where((back >= 0) & (back < 8), 0, -1e9)[None, None].astype(np.float32)
    given = replace(ENCODER, biases=("bias",))

    (cause,) = attention_causes(attention_site(given, replace(ENCODER, causal=0, window=4), bias=mask))

    assert (cause.code, cause.source, cause.target) == ("window", "8 keys", "4 keys")
