"""The page of a proof: its picture is inside its frame and readable for few modules and for many."""

import itertools
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from support.toy_stacks import model, proof

from bridge_core.plugins import ModuleCall
from bridge_core.proof.running import CallPair, ModuleError

EMPTY = np.zeros(0)


def module(name, began, ended, error):
    call = ModuleCall((name,), "toy.Layer", {"0": EMPTY}, {"": EMPTY}, {}, began, ended)
    return ModuleError(CallPair((call,), (call,)), 0.0, error)


def picture(done):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", done.html(), re.DOTALL)[0])


@pytest.fixture(scope="module")
def wrong():
    return proof(model("torch", blocks=1), model("flax", blocks=1, changed=(0, {"eps": 1e-2})))


@pytest.mark.parametrize("number", [3, 300])
def test_the_picture_is_inside_its_frame_and_its_dots_are_apart(wrong, number):
    errors = [0.0, 1e-9, float("inf"), float("nan"), 1e30, 1e-30, 0.5]
    modules = [
        module(f"a.very.long.path.to.the.modules.of.a.model.of.many.layers.layer{n}", 2 * n, 2 * n + 1, error)
        for n, error in enumerate(errors[n % len(errors)] for n in range(number))
    ]
    marked = modules[0].source
    done = replace(wrong, modules=tuple(modules), first=replace(wrong.first, source=marked, target=marked))
    svg = picture(done)
    width, height = map(float, svg.get("viewBox").split()[2:])
    dots = [one for one in svg.iter("circle") if one.get("class").startswith("dot")]
    assert len(dots) == number
    places = [float(one.get("cx")) for one in dots]
    assert places == sorted(places)
    gap = min(b - a for a, b in itertools.pairwise(places))
    assert all(2 * float(one.get("r")) <= gap + 0.2 for one in dots)
    for one in dots:
        radius = float(one.get("r"))
        assert radius <= float(one.get("cx")) <= width - radius
        assert radius <= float(one.get("cy")) <= height - radius
    for one in svg.iter("text"):
        size = 6.5 * len(one.text)
        x, y = float(one.get("x")), float(one.get("y"))
        left = x - size if one.get("text-anchor") == "end" else x
        assert left >= -1, one.text
        assert left + size <= width + 1, one.text
        assert 8 <= y <= height, one.text


def test_a_module_comes_after_what_is_inside_it(wrong):
    titles = [one.text for one in picture(wrong).iter("title")]
    assert titles[-1].startswith("the model")
    assert titles.index(next(t for t in titles if t.startswith("block0.norm"))) == 0


def test_light_and_dark_colours_have_the_same_names(wrong):
    roots = re.findall(r":root \{(.*?)\}", wrong.html(), re.DOTALL)
    light, dark = (set(re.findall(r"--(\w+):", root)) for root in roots)
    assert light == dark
    assert set(re.findall(r"var\(--(\w+)\)", wrong.html())) <= light


def test_names_of_models_are_escaped(wrong):
    hostile = "<script>alert('x')</script>"
    page = replace(wrong, first=replace(wrong.first, source=hostile), notes=(hostile,)).html()
    assert "<script" not in page
    assert "&lt;script" in page
