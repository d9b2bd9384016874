"""Names of quantised layers and of adapters are recognised, and a layer's own names never are."""

import numpy as np
import pytest

from bridge_core import TensorSpec
from bridge_core.plan import causes_of, may_show_cause
from bridge_core.state import dtype_named, join_key

FORMS = {
    "GPTQ with 4 bits": {
        "h.0.fc.qweight": ("int32", (8, 32)),
        "h.0.fc.qzeros": ("int32", (2, 4)),
        "h.0.fc.scales": ("float16", (2, 32)),
        "h.0.fc.g_idx": ("int32", (64,)),
    },
    "GPTQ with 8 bits": {
        "fc.qweight": ("int32", (16, 32)),
        "fc.qzeros": ("int32", (2, 8)),
        "fc.scales": ("float16", (2, 32)),
    },
    "AWQ with 4 bits": {
        "fc.qweight": ("int32", (64, 4)),
        "fc.qzeros": ("int32", (2, 4)),
        "fc.scales": ("float16", (2, 32)),
    },
    "GPTQ or AWQ": {"fc.qweight": ("int32", (2, 4)), "fc.scales": ("float32", (2, 4))},
    "blocks of fp8": {
        "fc.weight": ("float8_e4m3fn", (256, 128)),
        "fc.weight_scale_inv": ("float32", (2, 1)),
    },
    "blocks of fp8 ": {
        "experts.gate_up_proj": ("float8_e4m3fn", (2, 256, 128)),
        "experts.gate_up_proj_scale_inv": ("float32", (2, 2, 1)),
    },
    "as fp8 with scales": {
        "fc.weight": ("float8_e4m3fn", (4, 8)),
        "fc.weight_scale": ("bfloat16", (4, 1)),
        "fc.input_scale": ("float32", ()),
    },
    "as integers with scales": {"fc.weight": ("int8", (4, 8)), "fc.weight_scales": ("float16", (4,))},
    "as integers with scales ": {"fc.kernel": ("int8", (4, 8)), "fc.scale": ("float32", (8,))},
    "4 bits by bitsandbytes": {
        "fc.weight": ("uint8", (16, 1)),
        "fc.weight.absmax": ("uint8", (1,)),
        "fc.weight.quant_map": ("float32", (16,)),
        "fc.weight.nested_absmax": ("float32", (1,)),
        "fc.weight.nested_quant_map": ("float32", (256,)),
        "fc.weight.quant_state.bitsandbytes__nf4": ("uint8", (80,)),
    },
    "8 bits by bitsandbytes": {
        "fc.weight": ("int8", (4, 8)),
        "fc.SCB": ("float32", (4,)),
        "fc.weight_format": ("uint8", ()),
    },
    "compressed-tensors": {
        "fc.weight_packed": ("int32", (4, 1)),
        "fc.weight_scale": ("bfloat16", (4, 1)),
        "fc.weight_shape": ("int64", (2,)),
        "fc.weight_zero_point": ("int32", (1, 1)),
    },
    "blocks of NVFP4": {
        "fc.weight": ("uint8", (4, 8)),
        "fc.weight_scale": ("float8_e4m3fn", (4, 1)),
        "fc.weight_scale_2": ("float32", ()),
        "fc.input_scale": ("float32", ()),
    },
    "blocks of MXFP4": {
        "mlp.experts.gate_up_proj_blocks": ("uint8", (2, 8, 1, 16)),
        "mlp.experts.gate_up_proj_scales": ("uint8", (2, 8, 1)),
    },
    "blocks of MXFP4 ": {
        "block.0.mlp.mlp1_weight.blocks": ("uint8", (2, 8, 1, 16)),
        "block.0.mlp.mlp1_weight.scales": ("uint8", (2, 8, 1)),
    },
    "torchao or quanto": {"fc.weight._data": ("int8", (4, 8)), "fc.weight._scale": ("float32", (4, 1))},
    "torchao or quanto ": {
        "fc.weight._data._data": ("uint8", (2, 8)),
        "fc.weight._scale": ("float32", (4, 1)),
        "fc.weight._shift": ("float32", (4, 1)),
        "fc.input_scale": ("float32", ()),
    },
    "by torchao": {"fc._weight_qdata": ("int8", (4, 8)), "fc._weight_scale": ("float32", (4, 1))},
    "HQQ": {"fc.W_q": ("uint8", (2, 8)), "fc.scale": ("float16", (8, 1)), "fc.zero": ("float16", (8, 1))},
    "AQLM": {
        "fc.codes": ("int16", (4, 1, 2)),
        "fc.codebooks": ("float16", (2, 256, 1, 8)),
        "fc.scales": ("float16", (4, 1, 1, 1)),
    },
    "EXL2": {
        "fc.q_weight": ("int32", (4, 8)),
        "fc.q_scale": ("int32", (1, 1)),
        "fc.q_groups": ("int16", (2,)),
    },
    "EXL3": {"fc.trellis": ("int16", (1, 1, 16)), "fc.suh": ("float16", (16,)), "fc.svh": ("float16", (16,))},
    "MLX": {
        "fc.weight": ("uint32", (4, 1)),
        "fc.scales": ("float16", (4, 1)),
        "fc.biases": ("float16", (4, 1)),
    },
    "ModelOpt": {"fc.weight": ("int8", (4, 8)), "fc.weight_quantizer._scale": ("float32", (4, 1))},
    "gpt-fast": {"fc.weight": ("int32", (1, 1, 32, 4)), "fc.scales_and_zeros": ("bfloat16", (1, 16, 2))},
    "SpQR": {
        "fc.dense_weights": ("int64", (4, 4)),
        "fc.row_offsets": ("int32", (17,)),
        "fc.col_vals": ("int32", (5,)),
    },
    "VPTQ": {
        "fc.indices": ("int32", (1, 16, 4)),
        "fc.weight_scale": ("float16", (8,)),
        "fc.weight_bias": ("float16", (8,)),
    },
    "Marlin": {"fc.B": ("int32", (4, 8)), "fc.s": ("float16", (1, 8))},
}

ADAPTERS = {
    "LoRA": [
        "base_model.model.h.0.fc.lora_A.weight",
        "base_model.model.h.0.fc.lora_B.default.weight",
        "base_model.model.wte.lora_embedding_A",
    ],
    "LoRA ": ["fc.lora_A", "fc.lora_B"],
    "LoRA    ": ["fc.lora_a.weight", "fc.lora_b.weight", "fc.lora_A1.weight"],
    "LoRA  ": ["unet.down.0.attn1.processor.to_q_lora.down.weight", "unet.x.to_q.lora.up.weight"],
    "LoRA   ": [
        "lora_unet_down_blocks_0_to_q.lora_down.weight",
        "lora_unet_down_blocks_0_to_q.lora_up.weight",
        "lora_unet_down_blocks_0_to_q.alpha",
    ],
    "DoRA": ["base_model.model.fc.lora_magnitude_vector"],
    "IA3": ["base_model.model.fc.ia3_l"],
    "LoHa": ["lora_unet_x.hada_w1_a", "lora_unet_x.hada_w2_b", "lora_unet_x.alpha"],
    "LoKr": ["lora_unet_x.lokr_w1"],
    "OFT": ["base_model.model.fc.oft_R.weight"],
}

PLAIN = [
    {"fc.weight": ("float32", (4, 4)), "fc.input_scale": ("float32", ())},
    {"weight_scale": ("float32", (4,))},
    {"norm.scale": ("float32", (4,))},
    {"norm.scale": ("float32", (4,)), "norm.bias": ("float32", (4,))},
    {"net.scale": ("float32", (4,)), "net.weight": ("float32", (4, 4)), "net.scales": ("float32", (3,))},
    {"logit_scale": ("float32", ()), "text.logit_scale": ("float32", ())},
    {"attn.logit_scale": ("float32", (3, 1, 1)), "attn.relative_position_index": ("uint8", (4, 4))},
    {"h.0.layer_scale": ("float32", (4,)), "h.0.layer_scale1.lambda1": ("float32", (4,))},
    {"rescale.weight": ("float32", (4, 4)), "rescale.bias": ("float32", (4,))},
    {"act.alpha": ("float32", (4,)), "act.beta": ("float32", (4,))},
    {"bias_mask.mask": ("uint8", (8, 8)), "bias_mask.scale": ("float32", (1,))},
    {"quantizer.codebooks": ("float32", (4, 8)), "quantizer.scale": ("float32", (1,))},
    {"vq.codes": ("float32", (4, 8)), "vq.codebooks": ("float32", (4, 8))},
    {"fc.weight": ("float8_e4m3fn", (4, 8)), "fc.bias": ("float32", (4,))},
    {"fc.weight": ("int8", (4, 8)), "fc.bias": ("float32", (4,))},
    {"fc.weight_g": ("float32", (4, 1)), "fc.weight_v": ("float32", (4, 8))},
    {"B": ("float32", (4, 8)), "s": ("float32", (8,))},
    {"explorer_A.weight": ("float32", (4, 8)), "soft_cap.left_over": ("float32", (8,))},
    {"flora.down.weight": ("float32", (4, 8)), "model.lora_embed.weight": ("float32", (8, 2))},
    {"tower.blocks": ("float32", (4, 8)), "tower.scales": ("float32", (8,))},
    {"meta.weight": ("float32", (4, 8)), "_data": ("float32", (8,))},
]


def specs(named, separator="."):
    return {
        tuple(name.split(separator)): TensorSpec(shape, dtype_named(dtype))
        for name, (dtype, shape) in named.items()
    }


@pytest.mark.parametrize("what", FORMS, ids=str.strip)
def test_quantised_layers_are_recognised_by_their_names(what):
    named = FORMS[what]
    (cause,) = causes_of(specs({**named, "norm.scale": ("float32", (4,)), "fc.bias": ("float32", (4,))}))
    assert (cause.code, what.strip() in cause.what) == ("quantised", True), cause.what
    shown = {join_key(key) for key in (*cause.keys, *cause.codes)}
    assert shown == set(named)
    assert all(cause.holds(tuple(name.split("."))) for name in named)
    assert not cause.holds(("norm", "scale"))
    assert "dequantise it first" in cause.way


@pytest.mark.parametrize("what", ADAPTERS, ids=str.strip)
def test_adapters_are_recognised_by_their_names(what):
    named = dict.fromkeys(ADAPTERS[what], ("float32", (4, 4)))
    (cause,) = causes_of(specs({**named, "norm.scale": ("float32", (4,)), "act.alpha": ("float32", (4,))}))
    assert (cause.code, cause.what) == ("adapter", f"an adapter ({what.strip()})")
    assert {join_key(key) for key in cause.keys} == set(named)
    assert "merge it" in cause.way


@pytest.mark.parametrize("named", PLAIN, ids=lambda named: next(iter(named)))
def test_a_layers_own_names_say_nothing(named):
    assert causes_of(specs(named)) == ()


def test_a_scale_next_to_a_floating_point_weight_is_not_called_quantised():
    (cause,) = causes_of(specs({"fc.weight": ("float32", (4, 8)), "fc.weight_scale": ("float32", (4,))}))
    assert (cause.code, cause.keys) == ("scaled", (("fc", "weight_scale"),))
    assert "quantise" not in cause.text + cause.way


def test_names_joined_otherwise_are_the_same_names():
    slashes = {("fc/weight",): ("int8", (4, 8)), ("fc/SCB",): ("float32", (4,))}
    made = {key: TensorSpec(shape, np.dtype(dtype)) for key, (dtype, shape) in slashes.items()}
    (cause,) = causes_of(made)
    assert cause.keys == (("fc/SCB",),)
    assert cause.codes == (("fc/weight",),)


def test_configs_say_more_and_damaged_ones_nothing():
    (fp8,) = causes_of(specs(FORMS["blocks of fp8"]))
    config = {"quantization_config": {"quant_method": "fp8", "bits": 8, "weight_block_size": [128, 128]}}
    assert fp8.described(config, None).what.endswith("(config.json: fp8, 8 bits, blocks of 128 x 128)")
    for broken in (
        {"quantization_config": 3},
        {"quantization_config": {"quant_method": ["fp8"], "bits": True, "weight_block_size": ["x"]}},
        {"quantization_config": {"quant_method": "\x1b[31m", "bits": "4", "weight_block_size": []}},
    ):
        assert fp8.described(broken, None) == fp8
    (lora,) = causes_of(specs(dict.fromkeys(ADAPTERS["LoRA"], ("float32", (4, 4)))))
    described = lora.described(None, {"peft_type": "LORA", "base_model_name_or_path": "gpt2\n"})
    assert described.what == "an adapter (LoRA) (adapter_config.json: LORA of 'gpt2\\n')"
    assert lora.described(config, {"peft_type": 3, "base_model_name_or_path": None}) == lora


def test_the_quick_test_of_names_misses_none():
    for named in (
        *FORMS.values(),
        *(dict.fromkeys(names, ("float32", (4, 4))) for names in ADAPTERS.values()),
    ):
        assert all(may_show_cause(key) for cause in causes_of(specs(named)) for key in cause.keys)
    assert not any(may_show_cause((name,)) for name in ("weight", "pos_embed", "logit_scales_x", "bias"))


def test_the_quick_test_does_not_depend_on_the_numbers_of_lists():
    for name in ("h.17.fc.qweight", "12.lora_A.5.weight", "fc._packed_params.3"):
        assert may_show_cause(tuple(name.split(".")))
    assert not may_show_cause(("layers", "17", "fc", "weight"))
