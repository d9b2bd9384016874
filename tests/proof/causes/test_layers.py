"""Causes inside one layer, from the arrays of both sides."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.proof_sites import layer, normal

from bridge_core.proof.causes import find_causes

X = normal(3, 7, 12)
SCALE, BIAS = normal(12, seed=1), normal(12, seed=2)
IMAGES = normal(3, 8, 5, 7)  # channels first, as torch has them
KERNEL, KERNEL_BIAS = normal(6, 8, 3, 3), normal(6)
SQUARE = normal(12, 12)
TABLE, IDS = normal(24, 12), np.array([[0, 3, 5, 0, 9], [4, 19, 1, 2, 0]])


def last(array):
    """Return torch's feature maps with their channels last."""
    return np.moveaxis(np.asarray(array), 1, -1)


def norm(eps=1e-5, *, scale=SCALE, bias=BIAS, unbiased=False, centred=True, outside=False, added=0):
    x = X.astype(np.float64)
    x = x - x.mean(-1, keepdims=True) * centred
    variance = (x**2).sum(-1, keepdims=True) / (x.shape[-1] - unbiased)
    root = np.sqrt(variance) + eps if outside else np.sqrt(variance + eps)
    return (x / root * (added + scale) + bias).astype(np.float32)


def conv(x=IMAGES, kernel=KERNEL, bias=KERNEL_BIAS, pads=None, mode="constant", **options):
    x = torch.tensor(x)
    if pads is not None:
        x = F.pad(x, pads, mode=mode)
    bias = None if bias is None else torch.tensor(bias)
    return last(F.conv2d(x, torch.tensor(np.ascontiguousarray(kernel)), bias, **options))


def transposed_conv(**options):
    kernel = torch.tensor(normal(8, 6, 4, 4))
    return last(F.conv_transpose2d(torch.tensor(IMAGES), kernel, torch.tensor(KERNEL_BIAS), **options))


def batch_norm(training, eps=1e-5):
    x, mean, var = (torch.tensor(a) for a in (IMAGES, MEAN, VAR))
    scale, bias = torch.tensor(SCALE[:8]), torch.tensor(BIAS[:8])
    return last(F.batch_norm(x, mean.clone(), var.clone(), scale, bias, training, eps=eps))


def group_norm(groups, eps=1e-5):
    return last(
        F.group_norm(torch.tensor(IMAGES), groups, torch.tensor(SCALE[:8]), torch.tensor(BIAS[:8]), eps)
    )


def pool(function, *args, **options):
    return last(function(torch.tensor(IMAGES), *args, **options))


def rows(offset=0, scale=1.0, zero=None):
    value = np.float32(scale) * TABLE[IDS + offset]
    return value if zero is None else np.where((zero == IDS)[..., None], np.float32(0), value)


def torch_of(function, *args, **options):
    return np.asarray(function(torch.tensor(X), *args, **options))


MEAN, VAR = normal(8, seed=3), normal(8, seed=4) ** 2 + 0.5
NORM = {"weights": {"scale": SCALE, "bias": BIAS}, "kind": "norm", "type": "LayerNorm"}
OWN_NORM = {"weights": {"gain": SCALE, "shift": BIAS}}
STATISTICS = {"scale": SCALE[:8], "bias": BIAS[:8], "mean": MEAN, "var": VAR}
BATCH = {"weights": STATISTICS, "kind": "batch_norm", "type": "BatchNorm2d"}
GROUP = {"weights": {"scale": SCALE[:8], "bias": BIAS[:8]}, "kind": "norm", "type": "GroupNorm"}
CONV = {
    "weights": {"kernel": KERNEL.transpose(2, 3, 1, 0), "bias": KERNEL_BIAS},
    "kind": "conv",
    "type": "Conv",
}
CONV_T = {
    "weights": {"kernel": normal(8, 6, 4, 4).transpose(2, 3, 0, 1), "bias": KERNEL_BIAS},
    "kind": "conv_transpose",
    "type": "ConvTranspose",
}
LINEAR = {"weights": {"kernel": SQUARE.T, "bias": BIAS}, "kind": "linear", "type": "Linear"}
EMBEDDING = {"weights": {"embedding": TABLE}, "kind": "embedding", "type": "Embedding"}
CASES = {
    "epsilon": (X, norm(1e-5), norm(1e-6), NORM, "epsilon", "1e-06"),
    "epsilon, far": (X, norm(1e-12), norm(1e-3), NORM, "epsilon", "0.001"),
    "epsilon of a norm of one's own": (X, norm(3e-4), norm(1e-5), OWN_NORM, "epsilon", "1e-05"),
    "unbiased variance": (X, norm(unbiased=True), norm(), NORM, "norm_variance", "biased"),
    "place of epsilon": (X, norm(1e-3, outside=True), norm(1e-3), NORM, "epsilon_place", "inside"),
    "RMS norm": (X, norm(centred=False), norm(), NORM, "norm_centring", "mean subtracted"),
    "1 + scale": (X, norm(added=1), norm(), NORM, "norm_offset", "scale"),
    "1 + scale of one's own": (X, norm(), norm(added=1), OWN_NORM, "norm_offset", "1 + scale"),
    "norm without bias": (X, norm(), norm(bias=0), NORM, "missing_bias", "not at all"),
    "training": (last(IMAGES), batch_norm(False), batch_norm(True), BATCH, "batch_statistics", None),
    "epsilon of batch norm": (
        last(IMAGES),
        batch_norm(False),
        batch_norm(False, 1e-3),
        BATCH,
        "epsilon",
        "0.001",
    ),
    "groups": (last(IMAGES), group_norm(4), group_norm(2), GROUP, "norm_groups", "2"),
    "instances": (last(IMAGES), group_norm(2), group_norm(8), GROUP, "norm_groups", "8"),
    "padding": (last(IMAGES), conv(pads=(1, 1, 1, 1)), conv(pads=(0, 2, 0, 2)), CONV, "padding", None),
    "padding, stride 2": (
        last(IMAGES[:, :, :4, :6]),
        conv(IMAGES[:, :, :4, :6], stride=2, padding=1),
        conv(IMAGES[:, :, :4, :6], pads=(0, 1, 0, 1), stride=2),
        CONV,
        "padding",
        "((0, 1), (0, 1))",
    ),
    "stride": (last(IMAGES), conv(padding=1, stride=2), conv(padding=1), CONV, "stride", "1"),
    "dilation": (last(IMAGES), conv(padding=1), conv(padding=2, dilation=2), CONV, "dilation", None),
    "padding mode": (
        last(IMAGES),
        conv(padding=1),
        conv(pads=(1,) * 4, mode="reflect"),
        CONV,
        "padding_mode",
        "reflect",
    ),
    "circular": (
        last(IMAGES),
        conv(pads=(1,) * 4, mode="circular"),
        conv(padding=1),
        CONV,
        "padding_mode",
        "zeros",
    ),
    "flipped": (
        last(IMAGES),
        conv(padding=1),
        conv(kernel=KERNEL[:, :, ::-1, ::-1], padding=1),
        CONV,
        "flipped_kernel",
        "yes",
    ),
    "h and w": (
        last(IMAGES),
        conv(padding=1),
        conv(kernel=KERNEL.swapaxes(2, 3), padding=1),
        CONV,
        "transposed_kernel",
        "yes",
    ),
    "conv without bias": (last(IMAGES), conv(), conv(bias=None), CONV, "missing_bias", "not at all"),
    "cropping": (
        last(IMAGES),
        transposed_conv(stride=2, padding=1),
        transposed_conv(stride=2)[:, 2:, 2:],
        CONV_T,
        "padding",
        None,
    ),
    "linear, transposed": (X, X @ SQUARE.T + BIAS, X @ SQUARE + BIAS, LINEAR, "transposed_weight", "yes"),
    "linear without bias": (X, X @ SQUARE.T + BIAS, X @ SQUARE.T, LINEAR, "missing_bias", "not at all"),
    "bias twice": (X, X @ SQUARE.T + BIAS, X @ SQUARE.T + 2 * BIAS, LINEAR, "extra_bias", "twice"),
    "scaled rows": (IDS, rows(scale=12**0.5), rows(), EMBEDDING, "embedding_scale", "1"),
    "row offset": (IDS, rows(2), rows(), EMBEDDING, "row_offset", "0"),
    "row of zeros": (IDS, rows(zero=0), rows(), EMBEDDING, "padding_row", "none"),
    "max and average": (
        last(IMAGES),
        pool(F.max_pool2d, 2),
        pool(F.avg_pool2d, 2),
        {},
        "pool_kind",
        "average",
    ),
    "padding counts": (
        last(IMAGES),
        pool(F.avg_pool2d, 3, 2, 1, count_include_pad=False),
        pool(F.avg_pool2d, 3, 2, 1),
        {},
        "pool_count",
        "average",
    ),
    "window": (
        last(IMAGES),
        pool(F.max_pool2d, 3, 2, 1),
        pool(F.max_pool2d, 2, 2, ceil_mode=True),
        {},
        "pool_window",
        None,
    ),
    "gelu": (X, torch_of(F.gelu), torch_of(F.gelu, approximate="tanh"), {}, "activation", "gelu_tanh"),
    "slope": (X, torch_of(F.leaky_relu, 0.2), torch_of(F.leaky_relu), {}, "activation", "leaky_relu"),
    "axis of softmax": (
        X,
        torch_of(F.softmax, -1),
        torch_of(F.softmax, 1),
        {},
        "softmax_axis",
        "softmax(-2)",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_setting_that_differs_is_named(name):
    x, source, target, options, code, value = CASES[name]
    causes = find_causes(layer(x, source, target, **options))
    assert [cause.code for cause in causes] == [code]
    assert value is None or causes[0].target == value
    assert causes[0].error_with <= 5e-6 < causes[0].error_without
    assert "block.layer" in causes[0].mend


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_on_the_source_side_is_named_as_well(name):
    x, source, target, options, code, value = CASES[name]
    (cause,) = find_causes(layer(x, target, source, **options))
    assert cause.code == {"missing_bias": "extra_bias", "extra_bias": "missing_bias"}.get(code, code)
    assert value is None or cause.source == value


@pytest.mark.parametrize("name", CASES)
def test_right_layers_and_noise_have_no_cause(name):
    x, source, _, options, *_ = CASES[name]
    rounded = source * (1 + 1e-7 * normal(*source.shape)).astype(np.float32)
    assert find_causes(layer(x, source, rounded, **options)) == ()
    noise = normal(*source.shape, seed=8), normal(*source.shape, seed=9)
    assert find_causes(layer(x, *noise, **options)) == ()


def test_weights_that_differ_are_named_as_the_conversion_s_mistake():
    weights = {"kernel": SQUARE, "bias": BIAS}
    site = layer(X, X @ SQUARE.T + BIAS, X @ SQUARE + BIAS, **LINEAR, target_weights=weights)
    (cause,) = find_causes(site)
    assert cause.code == "transposed_weight"
    assert "rules" in cause.mend


def test_the_epsilon_is_found_by_solving_where_no_list_has_it():
    (cause,) = find_causes(layer(X, norm(0.037), norm(1e-5), **OWN_NORM))
    assert (cause.code, cause.source) == ("epsilon", "0.037")


def test_only_the_source_is_identified():
    noise = normal(*X.shape, seed=9)
    (cause,) = find_causes(layer(X, norm(), noise, **NORM))
    assert (cause.code, cause.target) == ("other_computation", "unknown")


def test_two_settings_at_once_are_one_cause():
    (cause,) = find_causes(layer(X, norm(1e-2, unbiased=True), norm(1e-5), **NORM))
    assert "epsilon" in cause.text
    assert "variance" in cause.text
