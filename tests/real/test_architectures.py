"""Twenty public architectures as bare files: the docs' table is what the script makes, and none is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytest.importorskip("transformers")
sys.path.append(str(ROOT / "benchmarks"))
architectures = pytest.importorskip("architectures")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
]

SAMPLE = ("Mamba", "Mixtral", "ConvNeXt V2")
"""Architectures that are built and converted quickly, for the default run."""

UNAIDED = ("ViT", "DINOv2", "ViT-MAE", "ConvNeXt", "ConvNeXt V2")
"""Those whose bare file converts without a word."""

UNTYPED = ("ConvNeXt V2", "T5", "Llama", "Mixtral", "gpt-oss", "Mamba")
"""Those with layers of the library's own, whose live types do not decide all."""

GUESSED = {a.name for a in architectures.ARCHITECTURES} - {"T5", "GPT-2"}
"""Those whose bare file converts rightly with guesses."""

UNAIDED_BACK = ("BERT", "T5", "Llama")
"""Those whose own Flax file goes back to torch without a word."""

MISREAD_BACK = ("GPT-2",)
"""Those whose own Flax file goes back to a live torch module with the Flax class alone."""


def kept(row):
    """Return the ways of a row that give right weights, as far as they must."""
    ways = ["model and guesses", "model, guesses and unclaimed"]
    if row["name"] in UNAIDED:
        ways.append("unaided")
    if row["name"] in GUESSED:
        ways.append("guesses")
    if row["name"] not in UNTYPED:
        ways += ["model", "model and unclaimed"]
    return ways


def check(row):
    outcomes = {way: result["outcome"] for way, result in row["ways"].items()}
    assert {way: outcomes[way] for way in kept(row)} == dict.fromkeys(kept(row), "right")
    for way, result in row["ways"].items():
        if result["outcome"] == "wrong":
            assert result["guessed"], f"{row['name']}, {way}: silently wrong {result['wrong']}"
        if result["outcome"] == "right":
            assert result["back"] == "exact", f"{row['name']}, {way}"
    if row["name"] not in UNTYPED:
        assert row["live"]["outcome"] == "right"


def lines_of(text, name):
    return [line for line in text.splitlines() if line.startswith(f"| {name} |")]


@pytest.mark.parametrize("name", SAMPLE)
def test_a_line_of_the_table_is_what_the_script_gives(name):
    (architecture,) = (a for a in architectures.ARCHITECTURES if a.name == name)
    row = architectures.judge(architecture, loader=False)
    assert lines_of(architectures.DOCUMENT.read_text(), name) == lines_of(architectures.table([row]), name)
    check(row)


@pytest.mark.zoo
def test_the_whole_table_is_what_the_script_gives():
    rows = [architectures.judge(architecture) for architecture in architectures.ARCHITECTURES]
    text = architectures.DOCUMENT.read_text()
    assert architectures.document(rows, text) == text
    for row in rows:
        check(row)
        if "flax" in row:
            assert row["flax"]["class"]["outcome"] == "right", row["name"]
            back = {way: result["outcome"] for way, result in row["flax"]["way back"].items()}
            assert back["like and model"] == "right", row["name"]
            expected = ("right",) if row["name"] in UNAIDED_BACK else ("right", "refused")
            assert back["unaided"] in expected, row["name"]
            assert (back["like"] == "right") == (row["name"] not in MISREAD_BACK), row["name"]


def test_there_are_twenty_architectures():
    names = [architecture.name for architecture in architectures.ARCHITECTURES]
    assert len(set(names)) == len(names) == 20
