"""Numbers of positions, learned tables, sinusoids and class tokens: what differs is named."""

import numpy as np
import pytest
from support.attention_sites import site_of_arrays, view

from bridge_core.proof.causes.attention import attention_causes
from bridge_core.proof.causes.positions import PositionForm, position_vectors

R = np.random.default_rng(0)
TABLE = R.normal(size=(16, 8))
X = R.normal(size=(2, 9, 8))


def added(form, x=X):
    return (x + position_vectors(form, TABLE, x.shape[1], 8)).astype(np.float32)


def codes(source, target, weights=None):
    named = {("pos_embedding",): TABLE.astype(np.float32)} if weights is None else weights
    site = site_of_arrays({"0": X.astype(np.float32)}, {"": source}, {"": target}, weights=named)
    return [cause.code for cause in attention_causes(site)]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("position_offset", PositionForm("pos_embedding", 2)),
        ("position_order", PositionForm("pos_embedding", reversed=True)),
        ("missing_positions", PositionForm()),
    ],
)
def test_rows_of_a_learned_table_are_identified(code, wrong):
    right = PositionForm("pos_embedding")

    assert codes(added(right), added(wrong)) == [code]
    other = "extra_positions" if code == "missing_positions" else code
    assert codes(added(wrong), added(right)) == [other]


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("sinusoid_layout", PositionForm("sinusoid", layout="sin, cos")),
        ("sinusoid_layout", PositionForm("sinusoid", layout="cos sin")),
        ("position_offset", PositionForm("sinusoid", 1)),
        ("sinusoid_theta", PositionForm("sinusoid", shortened=True)),
    ],
)
def test_sinusoids_are_identified(code, wrong):
    assert codes(added(PositionForm("sinusoid")), added(wrong), {}) == [code]


def test_another_table_is_named():
    other = R.normal(size=TABLE.shape)
    weights = {("pos_embedding",): TABLE.astype(np.float32), ("other_pos",): other.astype(np.float32)}
    right = added(PositionForm("pos_embedding"))

    assert codes(right, (X + other[:9]).astype(np.float32), weights) == ["position_table"]


def test_the_place_of_the_class_token_is_named():
    token = R.normal(size=(1, 1, 8))
    weights = {("pos_embedding",): TABLE.astype(np.float32), ("cls_token",): token.astype(np.float32)}
    tokens = np.broadcast_to(token, (2, 1, 8))
    first, last = np.concatenate((tokens, X), 1), np.concatenate((X, tokens), 1)
    form = PositionForm("pos_embedding")

    assert codes(added(form, first), added(form, last), weights) == ["class_token"]


def test_noise_and_equal_arrays_name_nothing():
    right = added(PositionForm("sinusoid"))

    assert codes(right, right, {}) == []
    assert codes(right, R.normal(size=right.shape).astype(np.float32), {}) == []


def test_arrays_without_positions_are_left_alone():
    logits = R.normal(size=(3, 5)).astype(np.float32)
    odd = R.normal(size=(2, 4, 5)).astype(np.float32)

    for x in (logits, odd):
        site = site_of_arrays({"0": x}, {"": x}, {"": x + 1})
        assert list(attention_causes(site)) == []


@pytest.mark.parametrize(
    ("code", "ids"),
    [
        ("position_offset", np.arange(9)[None] + 2),
        ("position_order", np.arange(9)[None, ::-1]),
        ("positions", np.zeros((1, 9), int)),
    ],
)
def test_numbers_of_positions_are_compared(code, ids):
    at = [view(("positions",), {"0": n}, {}, kind="embedding") for n in (np.arange(9)[None], ids)]

    site = site_of_arrays({"0": np.zeros((1, 9), int)}, {}, {}, at=at)

    assert [cause.code for cause in attention_causes(site)] == [code]
