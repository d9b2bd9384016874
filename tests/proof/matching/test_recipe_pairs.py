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


def test_the_recipe_of_clip():
    wrong_of("clip")


@pytest.mark.slow
def test_every_leaf_of_bert():
    assert not [one.name for one in wrong_of("bert") if one.settled < one.leaves]


@pytest.mark.zoo
@pytest.mark.parametrize("files", ["convnext", "resnet"])
def test_every_leaf_of_other_recipes(files):
    found = wrong_of(files)
    assert files != "convnext" or not [one.name for one in found if one.settled < one.leaves]


@pytest.mark.zoo
def test_all_recipes():
    found = wrong_of("*")
    assert sum(one.settled for one in found) >= 4500
