"""Modules that compute rotary tables, or rotate: what differs between two is named."""

from dataclasses import replace

import numpy as np
import pytest
from support.attention_sites import site_of_arrays

from bridge_core.proof.causes.attention import attention_causes
from bridge_core.proof.causes.rotary import Rotary, rotated, tables

RIGHT = Rotary("halves", 1e4, 8)
CHANGES = {
    "rotary_theta": {"theta": 5e5},
    "position_offset": {"offset": 1},
    "position_scale": {"factor": 0.25},
}


def table(rotary):
    pair = tables(rotary, np.arange(9)[None].astype(float))
    repeated = [
        np.concatenate((x, x), -1) if rotary.layout == "halves" else np.repeat(x, 2, -1) for x in pair
    ]
    return {"0": repeated[0].astype(np.float32), "1": repeated[1].astype(np.float32)}


@pytest.mark.parametrize("code", CHANGES)
def test_tables_of_angles_are_read(code):
    x = {"0": np.zeros((1, 9, 16), np.float32)}
    wrong = replace(RIGHT, **CHANGES[code])

    for pair in ((RIGHT, wrong), (wrong, RIGHT)):
        (cause,) = attention_causes(site_of_arrays(x, table(pair[0]), table(pair[1])))
        assert cause.code == code


def test_the_layout_of_tables_is_read():
    x = {"0": np.zeros((1, 9, 16), np.float32)}
    site = site_of_arrays(x, table(RIGHT), table(replace(RIGHT, layout="interleaved")))

    assert [cause.code for cause in attention_causes(site)] == ["rotary_layout"]


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("code", [*CHANGES, "rotary_layout", "rotary_size", "rotary_sign"])
def test_rotations_are_read_from_input_and_output(code, heads_first):
    others = {
        "rotary_layout": {"layout": "interleaved"},
        "rotary_size": {"size": 4},
        "rotary_sign": {"sign": -1},
    }
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 8))
    wrong = replace(RIGHT, **{**CHANGES, **others}[code])
    arrays = [x, *(rotated(x, rotary, {}, queries=True) for rotary in (RIGHT, wrong))]
    arrays = [(a.swapaxes(1, 2) if heads_first else a).astype(np.float32) for a in arrays]

    site = site_of_arrays({"0": arrays[0]}, {"": arrays[1]}, {"": arrays[2]})

    assert [cause.code for cause in attention_causes(site)] == [code]


def test_a_module_that_does_not_rotate_is_named_and_noise_is_not():
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 8)).astype(np.float32)
    y = rotated(x.astype(float), RIGHT, {}, queries=True).astype(np.float32)

    missing = site_of_arrays({"0": x}, {"": y}, {"": x})
    noise = site_of_arrays({"0": x}, {"": y}, {"": x[::-1]})

    assert [cause.code for cause in attention_causes(missing)] == ["rotary_missing"]
    assert list(attention_causes(noise)) == []
