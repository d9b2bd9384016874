"""transformers' models run in every precision, show their modules, and say their settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bridge_core.plugins import Inputs
from bridge_torch import TorchFramework

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

FRAMEWORK = TorchFramework()
IDS = np.random.default_rng(0).integers(1, 50, (2, 7)).astype(np.int32)
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}


def bert():
    config = transformers.BertConfig(vocab_size=50, hidden_act="gelu_new", **SMALL)
    return transformers.BertForMaskedLM(config), IDS


def llama():
    config = transformers.LlamaConfig(vocab_size=50, num_key_value_heads=2, rope_theta=500.0, **SMALL)
    return transformers.LlamaForCausalLM(config), IDS


def gpt2():
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=4)
    return transformers.GPT2LMHeadModel(config), IDS


def vit():
    return transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **SMALL)), IMAGES


def resnet():
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    return transformers.ResNetForImageClassification(config), IMAGES


MODELS = {make.__name__: make for make in (bert, llama, gpt2, vit, resnet)}
LAYERS = {
    "bert": ("bert.encoder.layer.0.intermediate", {"activation": "gelu_tanh"}),
    "llama": (
        "model.layers.1.self_attn",
        {"heads": 4, "kv_heads": 2, "head_dim": 4, "scale": 0.5, "causal": True}
        | {"dropout": 0.0, "training": False},
    ),
    "gpt2": ("lm_head", {"bias": False, "dtype": "float32", "tied_to": "transformer.wte.weight"}),
    "vit": ("encoder.layer.0.layernorm_before", {"eps": 1e-12, "bias": True, "dtype": "float32"}),
    "resnet": ("resnet.pooler", {"output_size": (1, 1)}),
}


@pytest.fixture(params=MODELS)
def case(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, inputs = MODELS[request.param]()
    return request.param, model.eval(), Inputs((inputs,))


def plain_outputs(model, inputs):
    value = torch.from_numpy(inputs.positional[0])
    with torch.no_grad():
        result = model(value.long() if value.dtype == torch.int32 else value)
    return np.asarray(result[0])


def test_outputs_are_those_of_the_model_and_every_layer_is_shown(case):
    name, model, inputs = case
    weights = FRAMEWORK.model_weights(model, inputs)
    run = FRAMEWORK.run_model(model, weights, inputs, trace=True)
    first = next(iter(run.outputs.values()))
    assert np.array_equal(first, plain_outputs(model, inputs))
    assert run.notes == ()
    called = {call.path for call in run.calls}
    with_weights = {path for path, info in weights.metadata.modules.items() if info.parameters}
    assert with_weights <= called | {()}
    settings = FRAMEWORK.model_settings(model, inputs)
    assert called <= {*settings}
    path, expected = LAYERS[name]
    assert dict(settings[tuple(path.split("."))].values) == expected


def test_precisions_differ_by_rounding(case):
    _, model, inputs = case
    weights = FRAMEWORK.model_weights(model, inputs)
    native, double, reordered = (
        FRAMEWORK.run_model(model, weights, inputs, precision=precision, trace=precision == "float64")
        for precision in ("native", "float64", "reordered")
    )
    changed = 0
    for name, array in native.outputs.items():
        assert double.outputs[name].dtype == np.float64
        size = max(1.0, float(np.abs(array).max()))
        assert np.abs(array - double.outputs[name]).max() < 2e-5 * size
        assert np.abs(array - reordered.outputs[name]).max() < 2e-5 * size
        changed += int((array != reordered.outputs[name]).sum())
    assert changed
    recorded = {str(array.dtype) for call in double.calls for array in call.outputs.values()}
    assert recorded <= {"float64", "bool", "int64"}


def test_float64_is_exact_where_norms_and_softmax_cast_to_float32(case):
    """A second run of a model that is float64 itself, with its own casts, is much farther away."""
    name, model, inputs = case
    weights = FRAMEWORK.model_weights(model, inputs)
    double = FRAMEWORK.run_model(model, weights, inputs, precision="float64")
    again = FRAMEWORK.run_model(model.double(), weights, inputs, precision="reordered")
    first = next(iter(double.outputs))
    error = float(np.abs(double.outputs[first] - again.outputs[first]).max())
    assert error < (1e-5 if name == "llama" else 1e-11)  # Llama's norms cast to float32 in the second run
    twice = FRAMEWORK.run_model(model, weights, inputs, precision="float64")
    assert np.array_equal(twice.outputs[first], double.outputs[first])


def test_a_model_on_the_meta_device_needs_its_own_buffers():
    from support.errors import refused

    from bridge_core import UsageError

    real, ids = gpt2()
    with torch.device("meta"):
        bare, _ = gpt2()
    inputs = Inputs((ids,))
    weights = FRAMEWORK.model_weights(real, inputs)
    with refused(UsageError, "meta", hint="CPU"):
        FRAMEWORK.run_model(bare, weights, inputs)


def test_example_inputs_are_offered_where_they_fit():
    assert FRAMEWORK.example_inputs(gpt2()[0]).named["input_ids"].shape == (3, 5)
    assert FRAMEWORK.example_inputs(vit()[0]) is None
