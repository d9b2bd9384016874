"""Models of transformers' Flax classes, of tiny sizes: outputs, traces, precisions and settings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from bridge_core.plugins import Inputs
from bridge_flax import FlaxFramework

FLAX = FlaxFramework()
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32, "vocab_size": 50, "layer_norm_eps": 1e-5}
IDS = np.arange(12, dtype=np.int32).reshape(2, 6)
PIXELS = np.linspace(-1, 1, 3 * 32 * 32, dtype=np.float32).reshape(1, 3, 32, 32)
GPT2 = {"vocab_size": 50, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
VIT = {**SIZES, "image_size": 32, "patch_size": 16}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
zoo = pytest.mark.zoo


@pytest.mark.parametrize(
    ("name", "sizes", "inputs", "expected"),
    [
        pytest.param("Bert", SIZES, IDS, {"encoder.layer.0.intermediate": "gelu"}, marks=zoo),
        pytest.param("GPT2", GPT2, IDS, {"h.0.mlp": "gelu_tanh"}, marks=zoo),
        pytest.param("ViT", VIT, PIXELS, {"encoder.layer.0.intermediate": "gelu"}, marks=zoo),
        pytest.param("ResNet", RESNET, PIXELS, {"encoder.stages.0.layers.0": "relu"}, marks=zoo),
    ],
)
def test_a_model_runs_in_all_precisions(name, sizes, inputs, expected):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"Flax{name}Model"):
        pytest.skip("this version of transformers has no Flax models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(transformers, f"{name}Config")(**sizes)
        model = getattr(transformers, f"Flax{name}Model")(config)
        plain = model(inputs)
    given = Inputs((inputs,))
    assert FLAX.runs(model)
    weights = FLAX.model_weights(model, given)
    native, wide, other = (
        FLAX.run_model(model, weights, given, trace=True, precision=precision)
        for precision in ("native", "float64", "reordered")
    )
    assert [*native.outputs] == [*plain]
    for output, array in native.outputs.items():
        np.testing.assert_allclose(array, plain[output], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(array, wide.outputs[output], rtol=1e-3, atol=1e-4)
        assert (array != other.outputs[output]).any()
    assert {array.dtype for call in wide.calls for array in call.outputs.values()} == {np.dtype("float64")}
    called = [call.path for call in native.calls]
    assert called == [call.path for call in wide.calls] == [call.path for call in other.calls]
    assert {path for path, info in weights.metadata.modules.items() if info.parameters} <= {*called}
    settings = FLAX.model_settings(model, given)
    assert {*called} <= {*settings}
    for path, activation in expected.items():
        assert settings[tuple(path.split("."))].values["activation"] == activation
    offered = FLAX.example_inputs(model)
    assert offered is not None
    assert FLAX.model_settings(model).keys() == settings.keys()
