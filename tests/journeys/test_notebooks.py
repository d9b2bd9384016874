"""What notebooks show: a fragment for each result, without a script, of bounded size, and the old `repr`."""

import numpy as np
import pytest
from support.pages import HOSTILE, Page, assert_only_text
from support.toy_stacks import model, proof

from bridge_core import FlatState, convert, plan_conversion, verify
from bridge_core.proof import match, name_differences
from bridge_core.transfer import compare_states


def shown(value):
    text = value._repr_html_()
    page = Page(text)
    assert_only_text(page)
    assert not page.scripts
    assert "ckptbridge" in page.elements[0][1]["class"]
    assert "ckptbridge" not in repr(value).split("(")[0]
    return page


def weights(seed=0):
    random = np.random.default_rng(seed)
    return {
        f"layers.{n}.{leaf}": random.standard_normal(shape, np.float32)
        for n in range(3)
        for leaf, shape in (("fc.weight", (3, 4)), ("fc.bias", (3,)))
    }


@pytest.fixture
def converted(tmp_path):
    source, target = FlatState(weights(), layout="torch"), tmp_path / "target.safetensors"
    return source, target, convert(source, target, to="flax")


def test_a_state():
    page = shown(FlatState(weights(), layout="torch"))
    assert "torch layout: 6 tensors, 180 bytes" in page.text
    assert "layers.{0..2}.fc.weight" in page.text
    assert "[3, 4]" in page.text
    assert "x3" in page.text


def test_a_large_state_is_bounded():
    names = [f"part{n}x.{'abcdefgh'[n % 8]}{n * n}" for n in range(3000)]
    different = FlatState({name: np.zeros(n % 97 + 1) for n, name in enumerate(names)})
    assert len(different._repr_html_()) < 20_000
    assert "more" in shown(different).text


def test_a_conversion_and_its_verification(converted):
    source, target, report = converted
    page = shown(report)
    assert page.text.startswith("exact torch to flax: 6 tensors")
    assert str(target) in page.text
    assert "structure: 6" in page.text
    assert shown(verify(source, target)).text.startswith("equal 6 tensors")


def test_what_was_guessed_is_seen_at_once(tmp_path):
    source = FlatState({"table.weight": np.zeros((5, 3), np.float32)}, layout="torch")
    report = convert(source, tmp_path / "target.safetensors", to="flax", accept_guesses=True)
    page = shown(report)
    assert page.text.index("Guessed") < page.text.index("Files")
    assert shown(plan_conversion(source, to="flax", accept_guesses=True)).text.startswith("can be run")


def test_what_differs():
    left, right = weights(), weights()
    right["layers.1.fc.weight"] = right["layers.1.fc.weight"] + 1
    right["other"] = right.pop("layers.2.fc.bias")
    states = FlatState(left), FlatState(right)
    compared = compare_states(*states)
    page = shown(compared)
    assert page.text.startswith("different")
    for text in ("layers.1.fc.weight", "Only left: 1", "layers.2.fc.bias", "Only right: 1", "other"):
        assert text in page.text
    named = name_differences(*states, compared)
    assert "other holds layers.2.fc.bias" in shown(named).text


def test_a_matching():
    like = {
        f"blocks.{n}.linear.{leaf}": np.zeros((4, 3) if leaf == "kernel" else 3)
        for n in range(3)
        for leaf in ("kernel", "bias")
    }
    matching = match(FlatState(weights(), layout="torch"), like=FlatState(like, layout="flax"))
    page = shown(matching)
    assert "torch to flax" in page.text
    assert "layers" in page.text
    assert "blocks" in page.text


def test_a_proof():
    done = proof(model("torch", blocks=1), model("flax", blocks=1, changed=(0, {"eps": 1e-2})))
    page = shown(done)
    assert page.text.startswith("different")
    assert "Where and why" in page.text


def test_hostile_names_are_text():
    state = FlatState({(name, "w"): np.zeros(2, np.float32) for name in HOSTILE})
    shown(state)
    shown(compare_states(state, FlatState({("b",): np.zeros(1)})))
