"""Where a linear layer is beside a flattened feature map, as names, widths and their order show it."""

import numpy as np
import pytest

import bridge_core


def linear(outputs, inputs):
    return {"weight": (outputs, inputs), "bias": (outputs,)}


def conv(outputs, inputs, *kernel):
    return {"weight": (outputs, inputs, *(kernel or (3, 3))), "bias": (outputs,)}


def batch_norm(size):
    names = ("weight", "bias", "running_mean", "running_var")
    return {**dict.fromkeys(names, (size,)), "num_batches_tracked": ()}


def state(layers, *, sort=False):
    arrays = {
        f"{path}.{leaf}": np.zeros(shape) for path, leaves in layers.items() for leaf, shape in leaves.items()
    }
    return dict(sorted(arrays.items())) if sort else arrays


def warned(layers, *, sort=False, **options):
    plan = bridge_core.plan_conversion(
        state(layers, sort=sort), to="flax", layout="torch", accept_guesses=True, check=False, **options
    )
    assert all(warning.code == "flatten" for warning in plan.warnings)
    return {bridge_core.join_key(warning.keys[0]).rpartition(".")[0]: warning for warning in plan.warnings}


LENET = {
    "conv1": conv(6, 1, 5, 5),
    "conv2": conv(16, 6, 5, 5),
    "fc1": linear(120, 400),
    "fc2": linear(84, 120),
    "fc3": linear(10, 84),
}
VGG = {
    "features.0": conv(8, 3),
    "features.2": conv(16, 8),
    "features.3": batch_norm(16),
    "features.10": conv(16, 16),
    "classifier.0": linear(64, 16 * 49),
    "classifier.3": linear(64, 64),
    "classifier.6": linear(10, 64),
}
VAE = {
    "encoder.0": conv(16, 3),
    "encoder.2": conv(32, 16),
    "fc_mu": linear(8, 512),
    "fc_var": linear(8, 512),
    "decoder_input": linear(512, 8),
    "decoder.0": conv(16, 32),
    "decoder.2": conv(3, 16),
}
SEQUENTIAL = {"0": conv(8, 2, 3), "2": conv(12, 8, 3), "10": linear(20, 120), "12": linear(3, 20)}
SQUARE = {"conv": conv(16, 3), "fc1": linear(256, 256), "fc2": linear(256, 256), "fc3": linear(10, 256)}
ACTOR = {"body": conv(8, 3), "policy": linear(4, 72), "value": linear(1, 72), "aux.0": linear(72, 3)}


@pytest.mark.parametrize("sort", [False, True], ids=["in order", "sorted"])
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (LENET, {"fc1": (16, 25)}),
        (VGG, {"classifier.0": (16, 49)}),
        (VAE, {"fc_mu": (32, 16), "fc_var": (32, 16), "decoder_input": (32, 16)}),
        (SEQUENTIAL, {"10": (12, 10)}),
        (SQUARE, {"fc1": (16, 16)}),
    ],
    ids=["lenet", "vgg", "vae", "conv1d", "square"],
)
def test_the_layer_is_found_with_its_sizes(layers, expected, sort):
    found = warned(layers, sort=sort)
    assert found.keys() == expected.keys()
    for path, (channels, places) in expected.items():
        assert f"sizes = {{ c = {channels}, s = {places} }}" in found[path].rule
        assert path in found[path].message
        assert "flatten" in found[path].message


def test_heads_side_by_side_take_one_feature_map():
    assert warned(ACTOR).keys() >= {"policy", "value"}


GLOBAL_POOLING = {"conv": conv(8, 3), "bn": batch_norm(8), "fc": linear(10, 8)}
DENSENET = {
    "stem": conv(8, 3),
    "grow1": conv(16, 8),
    "grow2": conv(8, 24),
    "norm": batch_norm(32),
    "top": linear(10, 32),
}
INCEPTION = {
    "stem": conv(16, 3),
    "mix.a": conv(24, 16),
    "mix.b.0": conv(8, 16),
    "mix.b.1": conv(16, 8),
    "mix.c": conv(8, 16),
    "fc": linear(10, 48),
}
MLP_BLOCKS = {
    "patch": conv(8, 3),
    "blocks.0.fc1": linear(32, 8),
    "blocks.0.fc2": linear(8, 32),
    "down": conv(8, 8),
    "blocks.1.fc1": linear(32, 8),
    "blocks.1.fc2": linear(8, 32),
}
BETWEEN = {"conv": conv(8, 3), "embed": {"weight": (9, 32)}, "fc": linear(10, 32)}
GROUPED = {"proj": linear(64, 16), "conv": conv(64, 4, 3), "out": linear(64, 64)}
ONE_CHANNEL = {"conv": conv(1, 3), "fc": linear(10, 32)}


@pytest.mark.parametrize("sort", [False, True], ids=["in order", "sorted"])
@pytest.mark.parametrize(
    "layers",
    [GLOBAL_POOLING, DENSENET, INCEPTION, MLP_BLOCKS, BETWEEN, GROUPED, ONE_CHANNEL],
    ids=["global pooling", "densenet", "inception", "mlp", "embedding between", "grouped", "one channel"],
)
def test_nothing_is_said_of_other_layers(layers, sort):
    assert not warned(layers, sort=sort)


def test_a_norm_that_sees_the_flattened_axis_leaves_no_rule_of_one_layer():
    layers = {"fc": linear(1024, 10), "fc_bn": batch_norm(1024), "up": conv(32, 64)}
    found = warned(layers)["fc"]
    assert not found.rule
    assert "by hand" in found.message
    assert ("fc_bn", "running_mean") in found.keys


@pytest.mark.parametrize("sort", [False, True], ids=["in order", "sorted"])
@pytest.mark.parametrize("norm", ["batch norm", "layer norm"])
def test_a_norm_of_the_flattened_map_is_part_of_it(norm, sort):
    norms = {"batch norm": batch_norm(64), "layer norm": {"weight": (64,), "bias": (64,)}}
    found = warned({"conv": conv(4, 3), "bn": norms[norm], "fc": linear(5, 64)}, sort=sort)["fc"]
    assert {key[0] for key in found.keys} == {"fc", "bn"}
    # A rule that took the batch norm apart would leave nothing that counts its batches.
    assert bool(found.rule) == (norm == "layer norm")


@pytest.mark.parametrize("sort", [False, True], ids=["in order", "sorted"])
def test_a_norm_before_the_map_is_made_is_part_of_it(sort):
    layers = {"fc": linear(72, 5), "bn": batch_norm(72), "up": conv(4, 8)}
    found = warned(layers, sort=sort)["fc"]
    assert {key[0] for key in found.keys} == {"fc", "bn"}
    assert not found.rule


def test_a_template_that_is_a_state_dict_shows_the_order():
    def dense(inputs, outputs):
        return {"kernel": np.zeros((inputs, outputs)), "bias": np.zeros(outputs)}

    norm = dict.fromkeys(("scale", "bias", "mean", "var"), np.zeros(8))
    up = {"kernel": np.zeros((3, 3, 8, 16)), "bias": np.zeros(16)}
    source = {"bn": norm, "fc": dense(5, 72), "up": up}
    layers = {"fc": linear(72, 5), "bn": batch_norm(8), "up": {"weight": (8, 16, 3, 3), "bias": (16,)}}
    for sort in (False, True):
        like = bridge_core.FlatState(
            {tuple(name.split(".")): array for name, array in state(layers, sort=sort).items()},
            layout="torch",
        )
        plan = bridge_core.plan_conversion(source, to="torch", layout="flax", like=like, check=False)
        assert [warning.keys[0] for warning in plan.warnings] == [("fc", "kernel")] * (not sort)


def test_within_one_layout_and_into_the_neutral_form_nothing_is_said():
    for to in ("torch", "neutral"):
        plan = bridge_core.plan_conversion(state(LENET), to=to, layout="torch")
        assert not plan.warnings
        assert not plan.notes


def test_a_layer_that_a_rule_rearranges_is_none_any_more():
    layers = {"conv": conv(4, 3), "fc": linear(24, 24), "head": linear(5, 24)}
    (warning,) = warned(layers).values()
    assert warning.keys == (("fc", "weight"),)
    rule = bridge_core.Rule.rearrange(
        "fc.weight", "fc.kernel", "out (c s) -> (s c) out", sizes={"c": 4, "s": 6}
    )
    assert not warned(layers, rules=[rule])
    del layers["fc"]["bias"]
    assert not warned(layers, rules=[rule])


def test_text_and_json_say_it_once():
    plan = bridge_core.plan_conversion(state(LENET), to="flax", layout="torch")
    (warning,) = plan.warnings
    assert plan.describe().count(warning.message) == 1
    assert f"note: {warning.message}" in plan.describe()
    document = plan.to_json()
    assert document["notes"] == [warning.message]
    assert document["warnings"] == [
        {"code": "flatten", "message": warning.message, "keys": ["fc1.weight"], "rule": warning.rule}
    ]


@pytest.mark.parametrize("name", ['a"b', "a*", "{a}", "ä"])
def test_names_that_a_pattern_would_not_take_literally_get_no_rule(name):
    (warning,) = warned({f"{name}_conv": conv(4, 3), name: linear(5, 24)}).values()
    assert not warning.rule
