"""Which names are a layer's, in each direction between two frameworks."""

import numpy as np
import pytest

from bridge_core import TensorSpec, as_key
from bridge_core.plugins import default_registry
from bridge_core.resolve.leaf_names import LayerNames


def why(source, target, name, shape=(4, 4), *, beside=(), has_children=False, dtype="float32"):
    key = as_key(name)
    specs = {leaf: TensorSpec((4, 4), np.dtype(dtype)) for leaf in beside}
    specs[key[-1]] = TensorSpec(shape, np.dtype("float32"))
    return LayerNames(default_registry(), source, target).why(key, specs, has_children)


LAYERS = [
    ("torch", "flax", ["weight", "running_mean", "in_proj_bias", "bias_hh_l0", "bias_ih_l1_reverse"]),
    ("torch", "flax", ["gate_weight", "qweight", "conv1_kernel", "WeightNorm", "w", "embeddings"]),
    ("torch", "flax", ["parametrizations.bias.0._u", "lora_A", "LoRA_B", "flat_param_3", "bias_orig", "SCB"]),
    ("flax", "torch", ["kernel", "embedding", "mean", "var", "negative_slope", "w", "moving_mean", "lora_a"]),
    ("", "torch", ["kernel", "scale", "g", "v", "weight", "running_var"]),
    ("", "flax", ["weight", "kernel", "sigma"]),
]
OWN = [
    ("torch", "flax", ["cls_token", "A_log", "D", "layer_scale_parameter", "bias", "gamma_1", "logit_scale"]),
    ("torch", "flax", ["position_ids", "num_batches_tracked", "relative_position_bias_table", "mask"]),
    ("flax", "torch", ["cls_token", "bias", "layer_scale", "pos_embedding", "temperature"]),
    ("", "torch", ["cls_token", "bias", "num_batches_tracked"]),
]


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize(("source", "target", "name"), [(s, t, n) for s, t, names in LAYERS for n in names])
def test_a_layers_name_is_one_whatever_its_rank(source, target, name, rank):
    assert why(source, target, name, (4,) * rank)


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize(("source", "target", "name"), [(s, t, n) for s, t, names in OWN for n in names])
def test_a_name_of_its_own_is_none(source, target, name, rank):
    assert not why(source, target, name, (4,) * rank)


def test_names_that_count_only_alone_are_a_layers_where_they_are_alone():
    assert why("torch", "flax", "gamma", (4,), beside=("beta",))
    assert not why("torch", "flax", "gamma", (4,))
    assert not why("torch", "flax", "gamma", (4,), beside=("beta",), has_children=True)
    assert why("flax", "torch", "scale", (4,))
    assert not why("flax", "torch", "scale", (4,), beside=("shift",))


def test_one_axis_that_is_named_as_in_the_target_cannot_be_turned():
    assert not why("flax", "torch", "weight", (4,))
    assert why("flax", "torch", "weight", (4, 4))


@pytest.mark.parametrize("name", ["scale", "input_scale", "zero_point", "absmax"])
def test_scales_belong_to_the_codes_beside_them(name):
    assert why("torch", "flax", name, (4,), beside=("weight",), dtype="int8")
    assert why("torch", "flax", name, (4,), beside=("weight",), dtype="float8_e4m3fn")
    if name != "absmax":
        assert not why("torch", "flax", name, (4,), beside=("weight",))


@pytest.mark.parametrize("name", ["fc.weight.value", "fc.weight.data", "fc.kernel.array"])
def test_a_matrix_in_an_unknown_box_is_a_layers(name):
    for source, target in (("torch", "flax"), ("flax", "torch")):
        assert why(source, target, name)
        assert not why(source, target, name, (4,))
        assert not why(source, target, name, has_children=True)
        assert not why(source, target, name, beside=["other"])
