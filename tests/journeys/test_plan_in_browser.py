"""The page of a plan in a headless browser: folds, search, keys, ten thousand names, the dark, a phone."""

import json

import numpy as np
import pytest
from support.browser import Browser, find_browser
from support.pages import HOSTILE

from bridge_core import Rule, plan_conversion

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed (apt-get install chromium)"),
]


def layers(number):
    leaves = {"q.weight": (4, 3), "q.bias": (4,), "norm.weight": (4,), "norm.bias": (4,)}
    return {
        f"model.layer.{n}.{leaf}": np.zeros(s, np.float32)
        for n in range(number)
        for leaf, s in leaves.items()
    }


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def show(browser, tmp_path):
    """Open the page of a plan; afterwards nothing was logged, and nothing was asked for but the page."""
    file = tmp_path / "plan.html"

    def open_plan(plan):
        file.write_text(plan.html("model"), encoding="utf-8")
        browser.resize(1280, 800)
        browser.theme("light")
        browser.open(file)
        return browser

    browser.console.clear()
    browser.requests.clear()
    yield open_plan
    assert browser.console == []
    assert set(browser.requests) == {file.absolute().as_uri()}


@pytest.fixture
def model(show):
    source = {**layers(6), "old": np.zeros(2, np.float32)}
    return show(plan_conversion(source, to="flax", layout="torch", rules=[Rule.drop("old", "not used")]))


def rows(browser, side=0):
    return browser.evaluate(
        f"[...document.querySelectorAll('#tree{side} .row .name')].map(name => name.textContent)"
    )


def lines(browser):
    return browser.evaluate("document.querySelectorAll('#lines path').length")


def search(browser, text):
    browser.press("/")
    browser.type(text)


def active(browser):
    """Return what a screen reader says about the row that has the focus; the focus is in a tree."""
    return browser.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).ariaLabel"
    )


def click(browser, side, name):
    browser.evaluate(
        f"[...document.querySelectorAll('#tree{side} .row .name')]"
        f".find(shown => shown.textContent === {json.dumps(name)}).click()"
    )


def test_a_fold_opens_on_both_sides(model):
    assert rows(model) == ["model.layer.{0..5}", "old"]
    assert rows(model, 1) == ["model.layer.{0..5}"]
    assert lines(model) == 1
    click(model, 0, "model.layer.{0..5}")
    opened = ["model.layer.{0..5}", "0", "q", "norm", "1", "2", "3", "4", "5"]
    assert rows(model)[:9] == opened
    assert rows(model, 1) == opened
    assert lines(model) == 7
    click(model, 1, "model.layer.{0..5}")
    assert rows(model) == ["model.layer.{0..5}", "old"]


def test_keys_alone_are_enough(model):
    model.evaluate("document.getElementById('tree0').focus()")
    model.press("ArrowDown")
    assert active(model).startswith("old, float32[2], dropped")
    model.press("ArrowUp")
    assert active(model).startswith("model.layer.{0..5}, 6 alike, 24 tensors, structure")
    model.press("ArrowRight")
    for _ in range(2):
        model.press("ArrowDown")
    model.press("ArrowRight")
    model.press("ArrowRight")
    assert active(model) == "weight, float32[4, 3], structure, to model.layer.0.q.kernel"
    detail = model.evaluate("document.getElementById('detail').innerText")
    assert "swaps the two axes → float32[3, 4]" in detail
    model.press("Enter")
    assert active(model) == "kernel, float32[3, 4], structure, from model.layer.0.q.weight"
    assert model.evaluate("document.activeElement.id") == "tree1"
    model.press("ArrowLeft")
    model.press("ArrowLeft")
    assert "q, 2 tensors" in active(model)
    model.press("Home")
    assert active(model).startswith("model.layer")
    model.press("End")
    assert active(model).startswith("5")
    model.press("Tab")
    assert model.evaluate("document.activeElement.id") != "tree1"
    assert model.evaluate("document.querySelectorAll('[role=treeitem]:not([aria-level])').length") == 0


def test_search_shows_both_ends_and_escape_shows_everything(model):
    search(model, "layer.3 KERNEL")
    assert rows(model) == ["model.layer.{0..5}", "3", "q", "weight"]
    assert rows(model, 1) == ["model.layer.{0..5}", "3", "q", "kernel"]
    assert model.evaluate("document.getElementById('found').textContent") == "0 and 1 found"
    assert model.evaluate("document.querySelector('#tree1 mark').textContent") == "kernel"
    model.press("ArrowDown")
    assert active(model).startswith("weight")
    model.press("Escape")
    assert rows(model)[0] == "model.layer.{0..5}"
    assert rows(model)[-1] == "old"
    assert model.evaluate("document.getElementById('search').value") == ""
    search(model, "nothing has this name")
    assert rows(model) == rows(model, 1) == []
    model.press("Escape")


def test_the_legend_filters(model):
    model.evaluate(
        "[...document.querySelectorAll('#legend button')].find(b => b.innerText.includes('dropped')).click()"
    )
    assert rows(model) == ["old"]
    assert rows(model, 1) == []
    assert model.evaluate("document.querySelectorAll('#legend [aria-pressed=true]').length") == 1
    model.press("Escape")
    assert len(rows(model)) == 2


def test_an_entry_of_a_problem_leads_to_its_row(model):
    search(model, "norm")
    model.click_on("header .topic button[data-leaf]")
    assert active(model).startswith("old")
    assert "not used" in model.evaluate("document.getElementById('detail').innerText")


def test_ten_thousand_names(show):
    browser = show(plan_conversion(layers(2500), to="flax", layout="torch"))
    assert rows(browser) == ["model.layer.{0..2499}"]
    browser.click_on("#open")
    elements = "document.querySelectorAll('*').length"
    assert browser.evaluate(elements) < 1500
    assert lines(browser) < 100
    browser.evaluate(
        "new Promise(done => { tree0.scrollTop = 1e9; requestAnimationFrame(() => setTimeout(done)); })"
    )
    assert rows(browser)[-3:] == ["norm", "weight", "bias"]
    search(browser, "layer.1234.q")
    assert rows(browser) == ["model.layer.{0..2499}", "1234", "q", "weight", "bias"]
    assert browser.evaluate(elements) < 1500


def test_hostile_names_stay_text(show):
    source = {(name, "w"): np.zeros(2, np.float32) for name in HOSTILE}
    browser = show(plan_conversion(source, to="flax", layout="torch", check=False))
    browser.click_on("#open")
    for _ in range(3):
        browser.press("ArrowDown")
    assert browser.evaluate("[document.scripts.length, document.images.length]") == [2, 0]
    assert "<img src=x onerror=alert(2)>.w" in browser.evaluate("document.body.innerText")
    widest = browser.evaluate("document.documentElement.scrollWidth")
    assert widest <= 1280


def test_a_phone_in_the_dark(model):
    light = model.evaluate("getComputedStyle(document.body).backgroundColor")
    model.theme("dark")
    assert model.evaluate("getComputedStyle(document.body).backgroundColor") != light
    model.resize(390, 844)
    assert model.evaluate("document.documentElement.scrollWidth") == 390
    model.click_on("#tree0 .row.leaf")
    assert model.evaluate("getComputedStyle(document.getElementById('detail')).position") == "sticky"
    model.click_on("#detail .close")
    assert model.evaluate("document.activeElement.id") == "tree0"
    assert model.evaluate("document.getElementById('detail').checkVisibility()") is False


def test_the_legend_counts_both_sides(show):
    source = {f"h.{n}.w": np.zeros(4, np.float32) for n in range(24)}
    rules = [Rule.rearrange("h.{i:int}.w", "h.w", "c -> i c"), Rule.drop("old", "not used")]
    plan = plan_conversion({**source, "old": np.zeros(2, np.float32)}, to="flax", layout="torch", rules=rules)
    counts = "[...document.querySelectorAll('#legend button')].map(button => button.innerText)"
    assert [text.split() for text in show(plan).evaluate(counts)] == [
        ["R", "rule", "24", "→", "1"],
        ["-", "dropped", "1"],
    ]


def test_what_to_do_is_never_in_a_box_to_scroll(show):
    browser = show(
        plan_conversion(
            layers(1), to="flax", layout="torch", like=layers(0) | {"x": np.zeros(3)}, check=False
        )
    )
    browser.resize(390, 844)
    first = "document.querySelector('.topic.bad ul')"
    assert browser.evaluate(f"{first}.scrollHeight <= {first}.clientHeight + 1")
