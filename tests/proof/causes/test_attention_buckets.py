"""Modules that return T5's bias of each query and key: the distances they stand for are read."""

import numpy as np
import pytest
from support.attention_sites import site_of_arrays

from bridge_core.proof.causes.attention import attention_causes
from bridge_core.proof.causes.masks import relative_buckets

TABLE = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)


def bias(distance=128, both=True, reverse=False, heads_first=False):
    found = TABLE[relative_buckets(np.arange(45), 45, 32, distance, both, reverse)]
    return found.transpose(2, 0, 1) if heads_first else found


def causes(source, target):
    site = site_of_arrays({"0": np.zeros((45, 45), np.int64)}, {"": source}, {"": target}, weights=WEIGHTS)
    return list(attention_causes(site))


WEIGHTS = {("weight",): TABLE}


@pytest.mark.parametrize("wrong", [{"distance": 64}, {"distance": 97}, {"both": False}, {"reverse": True}])
def test_what_differs_is_named(wrong):
    (cause,) = causes(bias(**wrong), bias(heads_first=True))

    assert cause.code == "relative_position"
    assert cause.error_with <= 1e-6 < cause.error_without
    assert cause.source != cause.target
    if "distance" in wrong:
        assert f"distances up to {wrong['distance']}" in cause.mend


def test_equal_ones_and_noise_name_nothing():
    noise = np.random.default_rng(1).normal(size=(45, 45, 4)).astype(np.float32)

    assert causes(bias(), bias(heads_first=True)) == []
    assert causes(bias(), noise) == []
