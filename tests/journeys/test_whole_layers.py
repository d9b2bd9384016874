"""Quantised layers and adapters stay whole: no part is lost or cast unasked, and refusals say why."""

import json

import ml_dtypes
import numpy as np
import pytest
from support.errors import refused

from bridge_core import (
    MismatchError,
    UnclaimedTensorError,
    UnsupportedFeature,
    convert,
    open_state,
    plan_conversion,
    verify,
)
from bridge_core.state import join_key

CODES = np.arange(64, dtype="float32").reshape(8, 8).astype(ml_dtypes.float8_e4m3fn)
BIAS = np.arange(8, dtype="float32")
NORM = {"norm.weight": np.full(8, 2, "float32"), "norm.bias": np.full(8, 3, "float32")}
FP8 = {"fc.weight": CODES, "fc.bias": BIAS, "fc.weight_scale_inv": np.full((2, 2), 0.3, "float32"), **NORM}
GPTQ = {
    "fc.qweight": np.zeros((1, 8), "int32"),
    "fc.qzeros": np.zeros((1, 1), "int32"),
    "fc.scales": np.ones((1, 8), "float16"),
    "fc.g_idx": np.zeros(8, "int32"),
    "fc.bias": BIAS,
    **NORM,
}
LORA = {
    "fc.weight": CODES.astype("float32"),
    "fc.bias": BIAS,
    "fc.lora_A": np.ones((2, 8), "float32"),
    "fc.lora_B": np.ones((8, 2), "float32"),
    **NORM,
}
LIKE = {
    "fc": {"kernel": np.zeros((8, 8), "float32"), "bias": np.zeros(8, "float32")},
    "norm": {"scale": np.zeros(8, "float32"), "bias": np.zeros(8, "float32")},
}
SPECIAL = {
    "fp8": (FP8, "fp8", "dequantise"),
    "gptq": (GPTQ, "GPTQ", "dequantise"),
    "lora": (LORA, "LoRA", "merge"),
}


@pytest.fixture(params=SPECIAL)
def special(request):
    """Give a source, what it is, and what to do first."""
    return SPECIAL[request.param]


@pytest.mark.parametrize("options", [{}, {"like": LIKE}, {"like": LIKE, "allow_unexpected": True}], ids=repr)
def test_a_refusal_says_what_the_source_is_and_offers_nothing_else(special, options, tmp_path):
    source, what, way = special
    with pytest.raises((MismatchError, UnclaimedTensorError)) as caught:
        convert(source, tmp_path / "f.npz", to="flax", layout="torch", **options)
    text = str(caught.value).lower()
    assert what.lower() in text
    assert way in text
    for unsafe in ("--allow", "allow_", "guess", "--like"):
        assert unsafe not in text
    assert not any("allow" in option for option in caught.value.options)
    assert not (tmp_path / "f.npz").exists()


@pytest.mark.parametrize("pattern", ["fc.*", "fc.**", "**", "*.*"])
def test_no_wildcard_leaves_scales_out(pattern, tmp_path):
    with refused(MismatchError, "fp8", "fc.weight_scale_inv") as caught:
        convert(FP8, tmp_path / "f.npz", to="flax", like=LIKE, allow_unexpected=pattern)
    assert caught.value.unexpected == ("fc.weight_scale_inv",)


@pytest.mark.parametrize("pattern", ["fc.weight_scale_inv", "**.weight_scale_inv", "**.weight_scale_{x}"])
def test_a_pattern_that_names_scales_leaves_them_out_and_warns(pattern, tmp_path):
    report = convert(FP8, tmp_path / "f.npz", to="flax", like=LIKE, allow_unexpected=pattern)
    (warning,) = report.warnings
    assert (warning.code, warning.keys) == ("quantised", (("fc", "weight_scale_inv"),))
    assert warning.message in report.notes
    assert (report.verified, report.exact) == (True, False)
    assert "fp8" in warning.message
    assert "dequantise" in warning.message


def test_a_rule_that_drops_scales_warns_too():
    from bridge_core import Rule

    rule = Rule.drop("**.weight_scale_inv", "as I say")
    plan = plan_conversion(FP8, to="flax", like=LIKE, rules=[rule], layout="torch")
    assert [warning.code for warning in plan.warnings] == ["quantised"]


def test_a_scale_next_to_plain_numbers_is_left_out_with_a_warning():
    source = {**FP8, "fc.weight": CODES.astype("float32"), "fc.weight_scale": BIAS}
    del source["fc.weight_scale_inv"]
    with refused(MismatchError) as caught:
        plan_conversion(source, to="flax", like=LIKE, layout="torch")
    assert caught.value.unexpected == ("fc.weight_scale",)
    assert "allow" not in caught.value.hint
    plan = plan_conversion(source, to="flax", like=LIKE, layout="torch", allow_unexpected=True)
    assert [warning.code for warning in plan.warnings] == ["scaled"]


def test_a_layer_at_the_root_is_kept_whole_too():
    source = {"weight": CODES, "bias": BIAS, "weight_scale_inv": np.ones((1, 1), "float32")}
    with refused(MismatchError, "fp8", "weight_scale_inv"):
        plan_conversion(source, to="flax", like=LIKE["fc"], layout="torch", allow_unexpected=True)


def test_neutral_states_are_kept_whole_too():
    from bridge_core import as_state
    from bridge_flax import from_neutral
    from bridge_torch import to_neutral

    neutral = to_neutral(as_state(FP8, layout="torch"))
    with refused(MismatchError, "fp8", "fc.weight_scale_inv"):
        from_neutral(neutral, like=LIKE, allow_unexpected=True)


def test_a_layer_that_is_left_out_with_its_scales_needs_no_warning():
    like = {"norm": LIKE["norm"]}
    plan = plan_conversion(FP8, to="flax", like=like, allow_unexpected=True)
    assert plan.warnings == ()
    assert {join_key(drop.key) for drop in plan.left_out} == set(FP8) - set(NORM)


AWQ = {
    "fc.qweight": np.zeros((8, 1), "int32"),
    "fc.qzeros": np.zeros((1, 1), "int32"),
    "fc.scales": np.ones((1, 8), "float16"),
    **NORM,
}
PEFT = {
    f"base_model.model.fc.lora_{part}.weight": np.ones(shape, "float32")
    for part, shape in (("A", (2, 8)), ("B", (8, 2)))
}


@pytest.mark.parametrize(("source", "what"), [(AWQ, "AWQ"), ({**PEFT, **NORM}, "LoRA")], ids=["awq", "peft"])
def test_no_wildcard_leaves_out_what_an_unfilled_layer_is_made_of(source, what):
    like = {"fc": {"kernel": LIKE["fc"]["kernel"]}, "norm": LIKE["norm"]}
    options = {"to": "flax", "like": like, "layout": "torch", "allow_missing": "fc.*"}
    names = [name for name in source if name not in NORM]
    with refused(MismatchError, what) as caught:
        plan_conversion(source, **options, allow_unexpected=True)
    assert sorted(caught.value.unexpected) == sorted(names)
    plan = plan_conversion(source, **options, allow_unexpected=names)
    assert {key for warning in plan.warnings for key in warning.keys} == {drop.key for drop in plan.left_out}


def test_a_pattern_for_a_part_that_the_target_lacks_is_enough():
    source = {**AWQ, "tower.fc.lora_A": LORA["fc.lora_A"], "tower.fc.weight": LORA["fc.weight"]}
    plan = plan_conversion(
        source, to="flax", like={"norm": LIKE["norm"]}, layout="torch", allow_unexpected=["fc.*", "tower.**"]
    )
    assert len(plan.left_out) == 5


def test_codes_with_a_name_of_their_own_do_not_cross_unasked():
    source = {"fc.W_q": np.zeros((4, 8), "uint8"), "fc.bias": BIAS, "fc.meta.scale": BIAS, **NORM}
    with refused(UnclaimedTensorError, "HQQ") as caught:
        plan_conversion(source, to="flax", layout="torch")
    assert set(caught.value.reasons) == {"fc.W_q", "fc.meta.scale"}
    assert "allow" not in caught.value.hint
    plan = plan_conversion(source, to="flax", layout="torch", allow_unclaimed=["fc.W_q", "fc.meta.scale"])
    assert [warning.code for warning in plan.warnings] == ["quantised"]
    assert plan_conversion(source, to="torch", layout="torch").warnings == ()


def test_parts_of_an_adapter_that_are_guessed_to_be_layers_are_warned_of():
    plan = plan_conversion({**PEFT, **NORM}, to="flax", layout="torch", accept_guesses=True)
    assert [(warning.code, len(warning.keys)) for warning in plan.warnings] == [("adapter", 2)]


def test_scales_that_are_copied_to_another_framework_are_warned_of():
    plan = plan_conversion(FP8, to="flax", allow_unclaimed="**.weight_scale_inv", layout="torch")
    (warning,) = plan.warnings
    assert (warning.code, warning.keys) == ("quantised", (("fc", "weight_scale_inv"),))
    assert plan_conversion(FP8, to="neutral", layout="torch").warnings == ()


@pytest.mark.parametrize("name", SPECIAL)
def test_within_a_framework_and_to_neutral_everything_is_copied(name, tmp_path):
    source = SPECIAL[name][0]
    for to in ("torch", "neutral"):
        report = convert(source, tmp_path / f"{to}.npz", to=to, layout="torch")
        assert (report.warnings, report.exact) == ((), True)
    convert(tmp_path / "neutral.npz", tmp_path / "back.npz", to="torch")
    for path in ("torch.npz", "back.npz"):
        with open_state(tmp_path / path) as state:
            made = {join_key(key): state[key] for key in state}
        assert {n: v.tobytes() for n, v in made.items()} == {n: v.tobytes() for n, v in source.items()}


def test_a_cast_leaves_codes_and_scales_and_says_so(tmp_path):
    report = convert(FP8, tmp_path / "t.npz", to="torch", dtype="bfloat16", layout="torch")
    (note,) = report.notes
    assert "fc.weight, fc.weight_scale_inv" in note
    assert "fp8" in note
    with open_state(tmp_path / "t.npz") as state:
        dtypes = {join_key(key): spec.dtype.name for key, spec in state.specs().items()}
        assert state["fc", "weight"].tobytes() == CODES.tobytes()
        assert state["fc", "weight_scale_inv"].tobytes() == FP8["fc.weight_scale_inv"].tobytes()
    kept = {"fc.weight": "float8_e4m3fn", "fc.weight_scale_inv": "float32"}
    assert dtypes == {**dict.fromkeys(FP8, "bfloat16"), **kept}
    assert verify(FP8, tmp_path / "t.npz", dtype="bfloat16", layout="torch").equal


@pytest.mark.parametrize("source", [{"fc.weight": CODES, "fc.bias": BIAS}, LORA], ids=["plain fp8", "lora"])
def test_a_cast_of_weights_without_scales_casts_all(source, tmp_path):
    report = convert(source, tmp_path / "t.npz", to="torch", dtype="bfloat16", layout="torch")
    assert report.notes == ()
    with open_state(tmp_path / "t.npz") as state:
        assert {spec.dtype.name for spec in state.specs().values()} == {"bfloat16"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}}',
            ("config.json", "4 x 4"),
        ),
        ('{"quantization_config": 7}', ()),
        ("{", ()),
        ("[1]", ()),
        ("", ()),
        ("\xff\xfe", ()),
    ],
)
def test_the_config_says_more_of_it_and_a_damaged_one_nothing(text, said, tmp_path):
    convert(FP8, tmp_path / "model.npz", to="torch", layout="torch")
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with refused(MismatchError, "fp8", "fc.weight_scale_inv", *said) as caught:
        plan_conversion(tmp_path / "model.npz", to="flax", like=LIKE)
    assert ("config.json" in str(caught.value)) == bool(said)


def test_the_adapters_config_names_its_base(tmp_path):
    adapter = {"base_model.model.fc.lora_A.weight": LORA["fc.lora_A"]}
    adapter["base_model.model.fc.lora_B.weight"] = LORA["fc.lora_B"]
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    for name, kind in (("adapter_model.npz", UnsupportedFeature), ("mine.npz", MismatchError)):
        convert(adapter, tmp_path / name, to="torch", layout="torch")
        with refused(kind, "adapter_config.json", "LORA", "'org/base'", hint="merge_and_unload"):
            plan_conversion(tmp_path / name, to="flax", like=LIKE, layout="torch")


def test_other_tensors_of_a_quantised_source_keep_their_ways_on():
    source = {**FP8, "mixer.gate_weight": np.zeros((4, 4), "float32")}
    with refused(UnclaimedTensorError) as caught:
        plan_conversion(source, to="flax", layout="torch")
    assert "--allow-unclaimed 'mixer.gate_weight'" in caught.value.hint
    assert caught.value.hint.index("equantise") < caught.value.hint.index("--like")
    source = {
        **FP8,
        "fc.gate_weight": np.zeros((4, 4), "float32"),
        "fc.up_weight": np.zeros((4, 4), "float32"),
    }
    with refused(UnclaimedTensorError) as caught:
        plan_conversion(source, to="flax", layout="torch")
    assert "fc.**" not in caught.value.hint


def test_a_pruned_layer_is_not_to_be_copied():
    source = {"fc.weight_orig": np.zeros((4, 4), "float32"), "fc.weight_mask": np.ones((4, 4), "float32")}
    with refused(UnclaimedTensorError) as caught:
        plan_conversion(source, to="flax", layout="torch")
    assert set(caught.value.reasons) == set(source)
    assert "allow" not in caught.value.hint
