"""Causes in what is computed between layers, from the arrays of both sides."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.proof_sites import between, normal

from bridge_core.proof.causes import find_causes

X, NORMED, A, B = (normal(2, 7, 12, seed=n) for n in range(4))
DOUBLE = normal(2, 7, 24)
MAPS, MAPS_2 = normal(3, 9, 7, 6), normal(3, 9, 7, 6, seed=1)  # channels last
GATE, ROWS = normal(12), normal(1, 20, 12)
HEADS = normal(2, 7, 3, 4)
KEEP = np.random.default_rng(0).random(A.shape) < 0.7


def activated(name, x=A, **options):
    return np.asarray(getattr(F, name)(torch.tensor(x), **options))


def pooled(x, name="max_pool2d", *args):
    return np.moveaxis(
        np.asarray(getattr(F, name)(torch.tensor(np.moveaxis(x, -1, 1)), *(args or (2,)))), 1, -1
    )


def flat(x, channels_first=True):
    return (np.moveaxis(x, -1, 1) if channels_first else x).reshape(len(x), -1)


RELU_MAPS = np.maximum(MAPS, 0)
CHAIN = {"x": X, "children": [(X, NORMED), (NORMED, A)]}
NORM_FIRST = {**CHAIN, "kinds": {0: "norm"}}
TWO = {"x": X, "children": [(X, A), (X, B)]}
ONE_MAP = {"x": normal(3, 9, 7, 5), "children": [(normal(3, 9, 7, 5), MAPS)], "images": True}
TWO_MAPS = {"x": ONE_MAP["x"], "children": [(ONE_MAP["x"], MAPS), (MAPS, MAPS_2)], "images": True}
CASES = {
    "gelu": (CHAIN, activated("gelu"), activated("gelu", approximate="tanh"), "activation"),
    "no activation": (CHAIN, activated("silu"), A, "activation"),
    "softcap": (CHAIN, 30 * np.tanh(A / 30), A, "activation"),
    "dropout": (CHAIN, A, np.where(KEEP, A / 0.7, 0).astype(np.float32), "dropout"),
    "dropout of a residual": (CHAIN, X + A, X + np.where(KEEP, A / 0.7, 0).astype(np.float32), "dropout"),
    "residual scale": (CHAIN, X + A, X + A / 2, "residual_scale"),
    "residual scale, fitted": (CHAIN, X + A / np.float32(24) ** 0.5, X + A, "residual_scale"),
    "no residual": (CHAIN, X + A, A, "missing_residual"),
    "weight of a residual": (CHAIN | {"weights": {"gamma": GATE}}, X + GATE * A, X + A, "residual_scale"),
    "pre-norm": (NORM_FIRST, NORMED, X, "norm_place"),
    "residual of the normed": (NORM_FIRST, X + A, NORMED + A, "norm_place"),
    "another input": (TWO, A, B, "other_input"),
    "first token": (CHAIN, A[:, 0], A.mean(1), "token_pooling"),
    "last token": (CHAIN, A[:, 0], A[:, -1], "token_pooling"),
    "order of a concatenation": (TWO, np.concatenate([A, B], -1), np.concatenate([B, A], -1), "concat_order"),
    "gate": (TWO, activated("silu") * B, activated("gelu") * B, "activation"),
    "gated half": (TWO, activated("silu") * B, activated("silu", B) * A, "gated_half"),
    "gated half of one": (
        {"x": X, "children": [(X, DOUBLE)]},
        activated("gelu", DOUBLE[..., :12]) * DOUBLE[..., 12:],
        activated("gelu", DOUBLE[..., 12:]) * DOUBLE[..., :12],
        "gated_half",
    ),
    "heads split": (
        {"x": X, "children": [(X, A)]},
        A.reshape(2, 7, 3, 4).transpose(0, 2, 1, 3),
        A.reshape(2, 7, 4, 3).transpose(0, 3, 1, 2),
        "head_order",
    ),
    "heads merged": (
        {"x": X, "children": [(X, HEADS)]},
        HEADS.reshape(2, 7, 12),
        HEADS.swapaxes(2, 3).reshape(2, 7, 12),
        "head_order",
    ),
    "scaled embedding": (
        {
            "x": np.arange(14).reshape(2, 7),
            "children": [(np.arange(14).reshape(2, 7), A)],
            "kinds": {0: "embedding"},
        },
        A * np.float32(12**0.5),
        A,
        "embedding_scale",
    ),
    "positions": (CHAIN | {"weights": {"rows": ROWS}}, A + ROWS[:, :7], A + ROWS[:, 2:9], "position_offset"),
    "pool": (ONE_MAP, pooled(RELU_MAPS), pooled(RELU_MAPS, "avg_pool2d"), "pool_kind"),
    "activation before a pool": (ONE_MAP, pooled(RELU_MAPS), pooled(activated("gelu", MAPS)), "activation"),
    "flatten": (ONE_MAP, flat(MAPS), flat(MAPS, False), "flatten_order"),
    "pool and flatten": (ONE_MAP, flat(pooled(RELU_MAPS)), flat(pooled(RELU_MAPS), False), "flatten_order"),
    "global pool": (ONE_MAP, MAPS.mean((1, 2)), MAPS.max((1, 2)), "token_pooling"),
    "block without residual": (
        TWO_MAPS,
        np.maximum(MAPS + MAPS_2, 0),
        np.maximum(MAPS_2, 0),
        "missing_residual",
    ),
    "scaled block": (
        TWO_MAPS,
        np.maximum(MAPS + MAPS_2, 0),
        np.maximum(MAPS + MAPS_2 / 2, 0),
        "residual_scale",
    ),
    "output": (CHAIN | {"last": True}, A, activated("softmax", dim=-1), "activation"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_differs_between_layers_is_named(name):
    options, source, target, code = CASES[name]
    causes = find_causes(between(source=source, target=target, **options))
    assert [cause.code for cause in causes] == [code]
    assert causes[0].error_with <= 5e-6 < causes[0].error_without
    assert "block" in causes[0].mend or "position" in code


MIRRORED = {"missing_residual": "extra_residual"}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_on_the_source_side_is_named_as_well(name):
    options, source, target, code = CASES[name]
    causes = find_causes(between(source=target, target=source, **options))
    assert [cause.code for cause in causes] == [MIRRORED.get(code, code)]


@pytest.mark.parametrize("name", CASES)
def test_right_ports_and_noise_have_no_cause(name):
    options, source, _, _ = CASES[name]
    rounded = source * (1 + 1e-7 * normal(*source.shape)).astype(np.float32)
    assert find_causes(between(source=source, target=rounded, **options)) == ()
    noise = normal(*source.shape, seed=8), normal(*source.shape, seed=9)
    assert find_causes(between(source=noise[0], target=noise[1], **options)) == ()


def test_same_against_explicit_padding_of_a_pool():
    maps = MAPS[:, :8, :6]
    source = pooled(np.maximum(maps, 0), "max_pool2d", 3, 2, 1)
    target = pooled(np.pad(np.maximum(maps, 0), ((0, 0), (0, 1), (0, 1), (0, 0))), "max_pool2d", 3, 2)
    x = normal(3, 8, 6, 5)
    (cause,) = find_causes(between(x, [(x, maps)], source, target, images=True))
    assert (cause.code, cause.source) == ("pool_padding", "((1, 0), (1, 0))")


def test_features_in_another_order_are_named_where_nothing_is_known():
    noise = normal(2, 7, 12, seed=9)
    order = np.arange(12).reshape(3, 4).T.reshape(-1)
    (cause,) = find_causes(between(X, [(X, A)], noise, noise[..., order]))
    assert (cause.code, cause.target) == ("feature_order", "(4 3) instead of (3 4)")
