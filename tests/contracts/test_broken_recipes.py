"""The contract of recipes catches those that are broken in one way, each in the test meant for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.broken_plugins import check_caught, check_fault, check_healthy, every, fault, parameters

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

TAGGER = """
source = "torch"
target = "flax"

[recipe]
title = "Tagger: the service <-> the training code"
proof = "names"
facts = ["the code of both models"]
licence = "Apache-2.0"

[recipe.source]
name = "service: Tagger"
exists = ["tagger.words.weight", "blocks.0.up.weight"]

[recipe.target]
name = "training: Tagger"
exists = ["vocabulary.table", "trunk.up.matrix"]

[tables]
leaf = { weight = "gain", bias = "shift" }

[[rule]]
source = "tagger.words.weight"
target = "vocabulary.table"

[[rule]]
source = "blocks.{i:int}.norm.{leaf}"
target = "trunk.norm.{leaf}"
rearrange = "d -> i d"

[[rule]]
source = "blocks.{i:int}.up.weight"
target = "trunk.up.matrix"
rearrange = "out in -> i in out"

[[rule]]
source = "tags.weight"
target = "tags.matrix"
rearrange = "out in -> in out"

[[rule]]
source = "tags.bias"
target = "tags.offset"
"""
FOLDER = Path(tempfile.mkdtemp(prefix="recipes-"))


def made(name, *changes):
    """Return the recipe of a text in which each first is replaced by its second."""
    text = TAGGER
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = FOLDER / f"{name}.toml"
    path.write_text(text)
    return load_recipe(path)


def arrays(*shapes):
    values = np.random.default_rng(1)
    return [values.standard_normal(shape).astype(np.float32) for shape in shapes]


class TaggerContract(RecipeContract):
    recipe = made("tagger-toy")

    def samples(self):
        words, tags, offset = arrays((11, 6), (4, 6), (4,))
        ups = arrays((10, 6), (10, 6), (10, 6))
        gains, shifts = arrays((6,), (6,), (6,)), arrays((3, 6), (6,), (6,))[0]
        shifts = [row * 2 for row in shifts]
        source = {"tagger.words.weight": words, "tags.weight": tags, "tags.bias": offset}
        for i in range(3):
            source[f"blocks.{i}.norm.weight"] = gains[i]
            source[f"blocks.{i}.norm.bias"] = shifts[i]
            source[f"blocks.{i}.up.weight"] = ups[i]
        target = {
            "vocabulary/table": words,
            "trunk/norm/gain": np.stack(gains),
            "trunk/norm/shift": np.stack(shifts),
            "trunk/up/matrix": np.stack([up.T for up in ups]),
            "tags/matrix": tags.T,
            "tags/offset": offset,
        }
        yield RecipeSample(source, target)


def entry(name, test, *words, changes):
    return fault(TaggerContract, test, *words, name=name, recipe=made(name, *changes))


EXISTS = 'exists = ["tagger.words.weight", "blocks.0.up.weight"]'
TABLE = [
    entry(
        "ExchangesLeaves",
        "test_there_and_back",
        "trunk/norm/",
        "other values",
        changes=[('{ weight = "gain", bias = "shift" }', '{ weight = "shift", bias = "gain" }')],
    ),
    entry(
        "RecognisesEverything",
        "test_other_checkpoints_are_not_recognised",
        "fc.weight",
        "`exists`",
        changes=[(EXISTS, 'exists = ["{x}.weight"]')],
    ),
    entry(
        "RecognisesNothing",
        "test_its_checkpoints_are_recognised",
        "nothing",
        "`exists`",
        changes=[(EXISTS, 'exists = ["tagger.words.weight", "blocks.7.up.weight"]')],
    ),
    entry(
        "LacksATensorSilently",
        "test_a_tensor_less_is_refused",
        "tags.bias",
        "optional",
        changes=[('source = "tags.bias"', 'optional = true\nsource = "tags.bias"')],
    ),
    entry(
        "DropsWhatItDoesNotKnow",
        "test_a_tensor_more_is_refused",
        "not_of_this",
        changes=[
            (
                '[[rule]]\nsource = "tags.bias"',
                '[[rule]]\nsource = "not_of_this.model"\ndrop = "unused"\noptional = true\n\n'
                '[[rule]]\nsource = "tags.bias"',
            )
        ],
    ),
]


@pytest.mark.parametrize("one", every(TABLE))
def test_a_broken_recipe_is_caught(one, tmp_path):
    check_caught(one, tmp_path)


@pytest.mark.parametrize("one", parameters(TABLE, sample=["ExchangesLeaves"]))
def test_a_broken_recipe_fails_no_other_test(one, tmp_path):
    check_fault(one, tmp_path)


@pytest.mark.slow
def test_the_recipe_of_a_stranger_is_healthy(tmp_path):
    check_healthy(TaggerContract, tmp_path, TABLE)
