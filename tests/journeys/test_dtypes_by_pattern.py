"""Casts by patterns of target names: the last that matches decides, `**` is for the rest."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.arrays import assert_same_bits, random_array
from support.errors import refused
from support.rule_files import abstract, nothing_written, saved

from bridge_core import UsageError, convert, open_state, verify
from bridge_core.cli import main
from bridge_core.conversion.options import ConversionOptions
from bridge_core.state import join_key

NUMBERS = np.random.default_rng(0).normal(size=(4, 4, 3)).astype("f4")
SOURCE = {
    "img.fc.weight": NUMBERS[0],
    "img.fc.bias": NUMBERS[1, :, 0],
    "txt.fc.weight": NUMBERS[2],
    "txt.fc.bias": NUMBERS[3, :, 0],
    "steps": np.arange(3),
}
NAMES = ("img.fc.kernel", "img.fc.bias", "txt.fc.kernel", "txt.fc.bias")


def dtypes_in(path):
    with open_state(path) as state:
        return {join_key(key): state.spec(key).dtype.name for key in state}


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        ("float16", ["float16"] * 4),
        ({"**": "bfloat16"}, ["bfloat16"] * 4),
        ({}, ["float32"] * 4),
        ({"img.**": "float16"}, ["float16", "float16", "float32", "float32"]),
        ({"img.**": "float32", "**": "bfloat16"}, ["float32", "float32", "bfloat16", "bfloat16"]),
        ({"**": "bfloat16", "img.**": "float32"}, ["float32", "float32", "bfloat16", "bfloat16"]),
        ({"**.bias": "float64", "img.**": "float16"}, ["float16", "float16", "float32", "float64"]),
        ({"img.**": "float16", "**.bias": "float64"}, ["float16", "float64", "float32", "float64"]),
        ({"txt/fc/kernel": "float16"}, ["float32", "float32", "float16", "float32"]),
        ({"img.fc.bias": "float16"}, ["float32", "float16", "float32", "float32"]),
        ({"{t}.fc.kernel": "float16"}, ["float16", "float32", "float16", "float32"]),
    ],
    ids=str,
)
def test_the_last_pattern_that_matches_decides(dtype, wanted, tmp_path):
    source = saved(SOURCE, "torch", tmp_path / "source.safetensors")
    out = tmp_path / "there.safetensors"
    convert(source, out, to="flax", dtype=dtype)
    assert dtypes_in(out) == {**dict(zip(NAMES, wanted, strict=True)), "steps": "int64"}
    with open_state(out) as state:
        kernel = SOURCE["txt.fc.weight"].T
        assert_same_bits(state["txt", "fc", "kernel"], kernel.astype(state["txt", "fc", "kernel"].dtype))
    assert verify(source, out, dtype=dtype).equal
    if len(set(wanted)) > 1:
        assert not verify(source, out, dtype="float16").equal


def test_patterns_see_the_names_with_and_without_a_collection(tmp_path):
    source = saved(SOURCE, "torch", tmp_path / "source.safetensors")
    of_target = dict(zip(NAMES, SOURCE.values(), strict=False))
    shapes = {f"params.{name}": array.T for name, array in of_target.items()}
    like = abstract({**shapes, "params.steps": SOURCE["steps"]}, "flax")
    for number, name in enumerate(["params.img.**", "img.**"]):
        out = tmp_path / f"{number}.safetensors"
        convert(source, out, to="flax", like=like, dtype={name: "float16"})
        found = {key for key, dtype in dtypes_in(out).items() if dtype == "float16"}
        assert found == {"params.img.fc.kernel", "params.img.fc.bias"}


def test_a_tied_tensor_is_cast_by_any_of_its_names(tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.ones(4, 3)
    source = tmp_path / "tied.pt"
    torch.save({"a.weight": weight, "b.weight": weight}, source)
    out = tmp_path / "there.pt"
    for name in ("a.weight", "b.weight"):
        convert(source, out, to="torch", dtype={name: "float16"}, overwrite=True)
        assert set(dtypes_in(out).values()) == {"float16"}


@pytest.mark.parametrize(
    ("dtype", "kind", "named", "hint"),
    [
        ({"imgs.**": "float16"}, UsageError, ("--dtype", "'imgs.**'"), "img.fc"),
        ({"img.fc.kernl": "float16"}, UsageError, ("--dtype", "'img.fc.kernl'"), "img.fc.kernel"),
        ({"img.**": "flaot16"}, UsageError, ("flaot16",), "float16"),
        ({"img.**": "int8"}, UsageError, ("int8",), ""),
        ({"a.{b": "float16"}, UsageError, ("--dtype", "{b"), ""),
        (["float16"], UsageError, ("float16",), ""),
    ],
    ids=str,
)
def test_what_casts_nothing_or_is_no_dtype_is_refused(dtype, kind, named, hint, tmp_path):
    source = saved(SOURCE, "torch", tmp_path / "source.safetensors")
    with refused(kind, *named, hint=hint):
        convert(source, tmp_path / "there.safetensors", to="flax", dtype=dtype)
    assert nothing_written(tmp_path, source)


def test_a_library_hears_the_dtype_of_the_rest():
    def main_dtype(dtype):
        return ConversionOptions("flax", dtype=dtype).main_dtype

    assert main_dtype("float16") == main_dtype({"a": "float32", "**": "float16"}) == "float16"
    assert main_dtype(None) is main_dtype({"a": "float32"}) is None


def test_codes_and_scales_are_kept_where_only_a_pattern_casts(tmp_path):
    codes = np.arange(64, dtype=np.uint8).reshape(32, 2)
    quantised = {
        "fc.weight": codes,
        "fc.weight.absmax": random_array((1,), "float32"),
        "fc.weight.quant_map": random_array((16,), "float32", seed=1),
        "fc.weight.quant_state.bitsandbytes__nf4": np.arange(10, dtype=np.uint8),
        "out.weight": random_array((4, 3), "float32"),
    }
    source = saved(quantised, "torch", tmp_path / "source.safetensors")
    report = convert(source, tmp_path / "there.safetensors", to="torch", dtype={"**.weight": "float16"})
    assert dtypes_in(tmp_path / "there.safetensors")["fc.weight.absmax"] == "float32"
    assert not any("not cast" in note for note in report.notes)
    report = convert(
        source, tmp_path / "rest.safetensors", to="torch", dtype={"out.*": "float32", "**": "float16"}
    )
    assert dtypes_in(tmp_path / "rest.safetensors")["fc.weight.absmax"] == "float32"
    assert any("not cast" in note and "fc.weight.absmax" in note for note in report.notes)


def test_the_option_may_be_given_several_times(tmp_path):
    source = saved(SOURCE, "torch", tmp_path / "source.safetensors")
    out = tmp_path / "there.safetensors"

    def run(*arguments):
        return CliRunner().invoke(main, [*map(str, arguments)])

    both = ("--dtype", "float64", "--dtype", "img.**=float32", "--dtype", "bfloat16")
    assert run("convert", source, out, "--to", "flax", *both).exit_code == 0
    assert [dtypes_in(out)[name] for name in NAMES] == ["float32", "float32", "bfloat16", "bfloat16"]
    assert run("verify", source, out, *both).exit_code == 0
    assert json.loads(run("verify", source, out, "--dtype", "bfloat16", "--json").output)["equal"] is False
    for wrong in ("img.**=flaot32", "a.{b=float32", "=float32"):
        refusal = run("convert", source, tmp_path / "no.safetensors", "--to", "flax", "--dtype", wrong)
        assert refusal.exit_code == 2
        assert "--dtype" in refusal.output
    unmatched = run(
        "convert", source, tmp_path / "no.safetensors", "--to", "flax", "--dtype", "imag.**=float16"
    )
    assert unmatched.exit_code != 0
    assert "imag.**" in unmatched.output
