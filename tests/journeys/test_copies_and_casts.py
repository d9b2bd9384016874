"""Several copies of one model in a file, casts that overflow, and layers whose weights torch works out."""

import re

import ml_dtypes
import numpy as np
import pytest
import torch
from support.errors import refused
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import bridge_core
from bridge_core import MismatchError, UnclaimedTensorError

KERNEL = np.random.default_rng(0).standard_normal((3, 5, 4)).astype("float32")
LIKE = {"params": {"fc": {"kernel": np.zeros((4, 5), "f4"), "bias": np.zeros(5, "f4")}}}


def copies(names):
    source = {}
    for name, kernel in zip(names, KERNEL, strict=False):
        source[f"{name}.fc.weight"], source[f"{name}.fc.bias"] = kernel, kernel[:, 0]
    return source


def converted(source, folder, **options):
    report = bridge_core.convert(source, folder / "made.npz", to="flax", layout="torch", **options)
    with bridge_core.open_state(folder / "made.npz") as state:
        return report, {bridge_core.join_key(key): state[key] for key in state}


NAMES = [
    ("student", "teacher"),
    ("G", "G_ema"),
    ("module", "ema"),
    ("net", "net.copy"),
    ("module.online", "module.target"),
    ("a", "b", "c"),
]


@pytest.mark.parametrize("allowed", [(), True, "**"], ids=str)
@pytest.mark.parametrize("names", NAMES, ids=str)
def test_of_copies_that_fit_alike_none_is_taken(names, allowed):
    source = copies(names)
    options = {"to": "flax", "layout": "torch", "like": LIKE, "allow_unexpected": allowed}
    for ordered in (source, dict(reversed(source.items()))):
        with refused(MismatchError, *names, hint="allow_unexpected="):
            bridge_core.plan_conversion(ordered, **options)


@pytest.mark.parametrize("names", NAMES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_copy_that_may_be_left_out_is_not_taken(names, reverse, tmp_path):
    source = copies(names)
    if reverse:
        source = dict(reversed(source.items()))
    others = tuple(f"{name}.**" for name in names[1:])
    _, made = converted(source, tmp_path, like=LIKE, allow_unexpected=others)
    (name,) = (name for name in made if name.endswith("kernel"))
    np.testing.assert_array_equal(made[name], source[f"{names[0]}.fc.weight"].T)


def test_a_complete_copy_goes_before_one_that_is_not(tmp_path):
    like = {
        "params": {**LIKE["params"], "head": {"kernel": np.zeros((5, 3), "f4"), "bias": np.zeros(3, "f4")}}
    }
    head = {"teacher.head.weight": np.ones((3, 5), "f4"), "teacher.head.bias": np.ones(3, "f4")}
    source = {**copies(("student", "teacher")), **head}
    _, made = converted(source, tmp_path, like=like, allow_unexpected=True)
    (name,) = (name for name in made if name.endswith("fc.kernel"))
    np.testing.assert_array_equal(made[name], source["teacher.fc.weight"].T)


@pytest.mark.parametrize("dtype", ["float16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"])
@pytest.mark.parametrize("name", ["fc.weight", "cls_token"])
def test_a_cast_that_overflows_is_said(name, dtype, tmp_path):
    large = float(ml_dtypes.finfo(dtype).max) * np.array([[1, 2, 4, -8]], "float32")
    source = {"fc.weight": np.ones((1, 4), "f4"), "fc.bias": np.ones(1, "f4"), name: large}
    report, made = converted(source, tmp_path, dtype=dtype)
    (warning,) = report.warnings
    assert (warning.code, [key[0] for key in warning.keys]) == ("overflow", [name.partition(".")[0]])
    assert re.search(r"\b3\b", warning.message)
    assert all(
        np.isfinite(array.astype("f4")).all() for key, array in made.items() if not key.startswith(name[:2])
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cast_within_range_and_infinities_of_the_source_say_nothing(dtype, tmp_path):
    source = {"fc.weight": np.array([[np.inf, np.nan, 3e38]], "f4"), "fc.bias": np.ones(1, "f4")}
    assert not converted(source, tmp_path, dtype=dtype)[0].warnings


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


class Product(nn.Module):
    def forward(self, scale, weight):
        return scale * weight

    def right_inverse(self, weight):
        return torch.ones(4, *[1] * (weight.ndim - 1)), weight


def parametrized(layer, *parametrization):
    for one in parametrization:
        parametrize.register_parametrization(layer, "weight", one)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        lambda: parametrized(parametrizations.weight_norm(nn.Linear(4, 4)), Doubled()),
        lambda: parametrized(parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 3)), Doubled()),
        lambda: parametrized(parametrizations.spectral_norm(nn.Linear(4, 4)), Doubled()),
        lambda: parametrized(nn.Linear(4, 4), Product()),
        lambda: parametrized(nn.Conv2d(4, 4, 4), Product()),
    ],
    ids=["weight norm", "transposed", "spectral norm", "a product", "of a convolution"],
)
def test_a_parametrization_that_only_looks_like_a_norm_is_refused(make, tmp_path):
    model = nn.Sequential(make())
    with refused(UnclaimedTensorError) as caught:
        bridge_core.convert(model, tmp_path / "f.msgpack", to="flax", allow_unexpected=True)
    assert any(key.startswith("0.parametrizations.weight.") for key in caught.value.reasons)
    assert not list(tmp_path.iterdir())
