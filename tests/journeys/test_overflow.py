"""A cast that leaves the range of its dtype is said, wherever its values go."""

import numpy as np
import pytest
from support.commands import assert_names

import bridge_core
import bridge_torch
from bridge_core import Rule
from bridge_core.errors import ConversionWarning


@pytest.fixture
def source():
    weight = np.ones((1200, 400), np.float32)
    weight[::200] = 1e6  # in several blocks
    weight[7] = np.inf
    return {
        "big.weight": weight,
        "big.bias": np.ones(1200, np.float32),
        "x.weight": np.ones((3, 2), np.float32),
    }


def convert(source, path, **options):
    return bridge_core.convert(source, path, to="torch", layout="torch", **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"workers": 1}, {"max_ram": 1_000_000}, {"max_shard_size": 500_000}, {"verify": False}],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float16", "float8_e4m3fn"])
def test_a_report_names_the_tensors_and_counts(source, tmp_path, options, dtype):
    name = "out" if "max_shard_size" in options else "out.safetensors"
    report = convert(source, tmp_path / name, dtype=dtype, **options)
    (warning,) = report.warnings
    assert (warning.code, warning.keys, warning.rule) == ("overflow", (("big", "weight"),), "")
    assert_names(warning.message, "big.weight", "2400", "bfloat16")
    assert report.notes == (warning.message,)
    assert report.to_json()["warnings"] == [warning.to_json()]


def test_nothing_is_said_where_everything_fits(source, tmp_path):
    for dtype in ("bfloat16", "float64", None):
        assert convert(source, tmp_path / f"{dtype}.safetensors", dtype=dtype).warnings == ()


def test_the_cast_of_a_rule_is_said_in_a_report_and_of_live_tensors(source, tmp_path):
    pytest.importorskip("torch")
    rules = [Rule.rearrange("big.weight", "big.weight", ["cast(float32, float16)"])]
    assert convert(source, tmp_path / "out.safetensors", rules=rules).warnings[0].keys == (("big", "weight"),)
    neutral = bridge_core.as_state({"big.weight": source["big.weight"]}, layout="neutral")
    with pytest.warns(ConversionWarning) as caught:
        bridge_torch.from_neutral(neutral, rules=rules)
    (warning,) = caught
    assert warning.message.code == "overflow"
    assert_names(str(warning.message), "big.weight", "2400")
