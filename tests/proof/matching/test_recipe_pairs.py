"""Matching real names of many libraries, of which recipes know the truth: what is decided is never wrong."""

import warnings

import pytest
from support.match_pairs import recipe_pairs, score


def wrong_of(files):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [score(pair) for pair in recipe_pairs(files)]
    assert found
    assert not [(one.name, one.wrong) for one in found if one.wrong]
    assert not [(one.name, one.problems) for one in found if one.problems]
    return found


def test_every_leaf_of_convnext():
    assert not [one.name for one in wrong_of("convnext") if not one.matching.complete]


@pytest.mark.slow
@pytest.mark.parametrize("files", ["bert", "gemma", "clip", "vit", "t5"])
def test_some_recipes(files):
    found = wrong_of(files)
    if files == "bert":
        assert not [one.name for one in found if one.settled < one.leaves]


@pytest.mark.zoo
def test_all_recipes():
    found = wrong_of("*")
    assert sum(one.settled for one in found) >= 4700
