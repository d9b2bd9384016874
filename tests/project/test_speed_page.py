"""Numbers of docs/speed.md are those of the results in docs/benchmarks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = " ".join((DOCS / "speed.md").read_text(encoding="utf-8").split())
ROWS = {
    "`cp` + fsync": "cp + fsync",
    "torch to torch, names only": "rename only",
    "torch to Flax, sharded safetensors": "to Flax, sharded",
    "torch to Flax, one safetensors": "to Flax, one safetensors",
    "torch to Flax, one msgpack": "to Flax, one msgpack",
    "Flax to torch, sharded": "sharded Flax to torch",
    "torch to Flax, read back and compared (the default)": "to Flax, sharded, verified",
    "`load_file`, `.T.contiguous()`, `save_file`": "plain script",
}


def result(name):
    return json.loads((DOCS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def seconds(runs):
    return median(run["seconds"] for run in runs)


def peak(runs):
    return median(run["peak_bytes"] for run in runs)


def ratio(name, size, contestant):
    runs = result(name)["sizes"][size]["runs"]
    return f"{seconds(runs[contestant]) / seconds(runs['cp + fsync']):.2f}"


@pytest.mark.parametrize("row", ROWS)
def test_the_table_is_that_of_the_result(row):
    measured = result("file-to-file-2GB")
    runs = measured["sizes"]["2GB"]["runs"]
    times = [run["seconds"] for run in runs[ROWS[row]]]
    cells = [f"{median(times):.2f}", f"{min(times):.2f} to {max(times):.2f}"]
    cells.append(ratio("file-to-file-2GB", "2GB", ROWS[row]))
    if ROWS[row] != measured["baseline"]:
        cells.append(f"{(peak(runs[ROWS[row]]) - measured['idle_peak_bytes']) / 1e6:.0f} MB")
    assert f"| {row} | {' | '.join(cells)} |" in PAGE


def test_large_and_cold_conversions():
    names_only, to_flax, verified = (
        ratio("file-to-file-8GB", "8GB", name)
        for name in ("rename only", "to Flax, sharded", "to Flax, sharded, verified")
    )
    assert f"{names_only} times as long as `cp`" in PAGE
    assert f"{to_flax} times ({verified} when read back)" in PAGE
    cold, cold_verified = (
        ratio("file-to-file-cold", "2GB", name) for name in ("to Flax, sharded", "to Flax, sharded, verified")
    )
    assert f"2 GB take {cold} times as long, and {cold_verified} when read back" in PAGE


GROWTH_ROWS = {
    "one file, `--no-verify`": "plain",
    "one file, read back and compared (the default)": "verified",
    "shards, `--no-verify`": "sharded",
    "shards, read back and compared": "sharded, verified",
}


@pytest.mark.parametrize("row", GROWTH_ROWS)
def test_growth(row):
    sizes = result("growth")["sizes"]
    assert [*sizes] == ["250MB", "500MB", "1GB", "2GB", "4GB", "8GB"]
    columns = [f"{size['bytes'] / 1e9:.2f} GB" for size in sizes.values()]
    assert f"| | {' | '.join(columns)} |" in PAGE
    copies = [seconds(size["runs"]["cp + fsync"]) for size in sizes.values()]
    assert f"| `cp` + fsync, seconds | {' | '.join(f'{time:.2f}' for time in copies)} |" in PAGE
    ratios = [ratio("growth", size, GROWTH_ROWS[row]) for size in sizes]
    assert f"| {row} | {' | '.join(ratios)} |" in PAGE


def test_planning():
    rows = {row["keys"]: row for row in result("plan-time")["rows"]}
    plain, like = (median(rows[100_000][case]) for case in ("plain", "like"))
    few = median(rows[10_000]["plain"])
    assert f"planned in {plain:.1f} s ({like:.1f} s with a template), 10,000 in {few:.2f} s" in PAGE


def test_start_up():
    runs = result("import-time")["runs"]
    base, click = seconds(runs["import numpy, ml_dtypes"]), seconds(runs["import click, numpy"])
    (line,) = re.findall(r"Start-up time.*?\(`benchmarks/import_time", PAGE)
    assert f"({base:.2f} s)" in line
    for label, name, baseline in (
        ("`import bridge_core`", "import bridge_core", base),
        ("with every public name", "... and every public name", base),
        ("`ckptbridge inspect`", "ckptbridge inspect", base),
        ("a file of one layer", "ckptbridge convert, one layer", base),
        ("`ckptbridge --help`", "ckptbridge --help", click),
        ("`--version`", "ckptbridge --version", click),
    ):
        assert f"{label} {seconds(runs[name]) / baseline:.2f}" in line


def test_loading():
    groups = result("load")["sizes"]["2GB"]["groups"]
    into_jax, into_torch = (
        groups[name]["contestants"] for name in ("into JAX arrays", "into a torch module")
    )

    def times(contestants, ours, theirs):
        return median(contestants[ours]["touched"]) / median(contestants[theirs]["touched"])

    assert f"{times(into_jax, 'torch file to JAX', 'safetensors.flax.load_file'):.2f} times" in PAGE
    read = "safetensors.torch.load_file, read"
    assert f"{times(into_torch, 'Flax file to torch module', read):.2f} times a `safetensors" in PAGE


def test_from_pretrained():
    measured = result("from-pretrained")["sizes"]["2GB"]

    def times_of(name):
        contestant = measured["contestants"][name]
        return f"{median(contestant['seconds']):.1f} s", (
            f"{median(contestant['peak_bytes']) / measured['bytes']:.{2 if 'after' in name else 1}f} times"
        )

    took, size = times_of("transformers, from_pt=True")
    assert f"takes transformers {took}, and its peak memory is {size} the size" in PAGE
    took, size = times_of("the same after compat.install()")
    assert f"it takes {took} and {size} the size" in PAGE


def test_memory():
    measured = result("memory")
    grown = [row for row in measured["rows"] if row["size"] != "250MB"]
    checkpoint = [(row["checkpoint"][0]["peak_bytes"] - measured["idle_peak_bytes"]) / 1e6 for row in grown]
    tensor = [(row["tensor"][0]["peak_bytes"] - measured["imported_peak_bytes"]) / 1e6 for row in grown]
    assert f"at {min(checkpoint):.0f} to {max(checkpoint):.0f} MB from 0.5 to 4 GB" in PAGE
    assert f"takes {max(tensor):.0f} MB in addition to the imports" in PAGE


ORBAX_ROWS = {
    "tensorstore reads each array, `cp` of the result": ("read, cp", "read, cp"),
    "Orbax to torch": ("Orbax to torch", "read, cp"),
    "Orbax to torch, read back and compared (the default)": ("Orbax to torch, verified", "read, cp"),
    "Orbax to Flax": ("Orbax to Flax", "read, cp"),
    "Orbax to numpy, transposes, `save_file`": ("script", "read, cp"),
    "tensorstore writes the arrays": ("write", "write"),
    "torch to Orbax": ("torch to Orbax", "write"),
    "torch to Orbax, read back and compared (the default)": ("torch to Orbax, verified", "write"),
}


@pytest.mark.parametrize("row", ORBAX_ROWS)
def test_the_table_of_orbax_is_that_of_the_result(row):
    measured = result("orbax")
    runs = measured["sizes"]["2GB"]["runs"]
    name, baseline = ORBAX_ROWS[row]
    memory = (peak(runs[name]) - measured["idle_peak_bytes"]) / 1e6
    quotient = seconds(runs[name]) / seconds(runs[baseline])
    assert f"| {row} | {seconds(runs[name]):.2f} | {quotient:.2f} | {memory:.0f} MB |" in PAGE
    ratio_of_slice = measured["sizes"]["2GB"]["slices"][0]["ratio"]
    assert f"reads {ratio_of_slice:.2f} times its bytes" in PAGE
