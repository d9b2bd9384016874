"""A page is complete, runs its own script alone, and loads nothing; a fragment needs no script."""

import base64
import hashlib
import re

import pytest
from support.pages import HOSTILE, Page, assert_only_text

from bridge_core.html import Table, asset, fragment, page, section, verdict_line


def test_the_policy_allows_the_script_of_the_page_and_no_other():
    text = page("title", "<p>body</p>", script="const a = 1;\n", data="[1]")
    shown = Page(text)
    policy = next(one["content"] for one in shown.named("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'; ")
    (script,) = shown.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert shown.data == [1]


def test_a_page_without_a_script_allows_none():
    text = page("title", "<p>body</p>")
    assert "script" not in text
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", ["page.css", "two_trees.css", "fragment.css"])
def test_styles_load_nothing(name):
    assert not re.search(r"url\(|@import|http", asset(name))


def test_colours_are_defined_for_light_and_dark():
    style = asset("page.css") + asset("two_trees.css")
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    light, dark, more_light, more_dark = (set(re.findall(r"--(\w+):", root)) for root in roots)
    assert light == dark
    assert more_light == more_dark
    assert set(re.findall(r"var\(--(\w+)\)", style)) <= light | more_light | {"c"}


def test_colours_of_signs_can_be_read_in_light_and_in_dark():
    style = asset("page.css") + asset("two_trees.css")
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    for parts in (roots[::2], roots[1::2]):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", "".join(parts)))
        for name, colour in colours.items():
            if re.fullmatch(r"c[0-9]|ink|soft|wrong|limit", name):
                backgrounds = [colours[one] for one in ("paper", "card", "chosen", "linked")]
                assert min(contrast(colour, one) for one in backgrounds) >= 4.5, name


def contrast(one, other):
    """Return the contrast of two colours as the Web Content Accessibility Guidelines (2.1) define it."""
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_style_of_a_fragment_changes_nothing_around_it():
    rules = re.findall(r"([^{}]+)\{", asset("fragment.css"))
    assert rules
    for selector in ",".join(rules).split(","):
        assert selector.strip().startswith(".ckptbridge"), selector


def test_tables_and_lists_are_bounded():
    table = Table(("a", "b"), [("x" * 5000, str(n)) for n in range(10_000)], (1,))
    text = fragment(
        verdict_line("equal", "good", "y" * 5000),
        section("table", table),
        section("list", ["z" * 5000 for _ in range(10_000)]),
        section("nothing", []),
        section("no rows", Table(("a",), [])),
    )
    assert len(text) < 60_000
    shown = Page(text)
    assert "and 9960 more" in shown.text
    assert len(shown.named("details")) == 2


def test_hostile_names_are_text_in_fragments():
    rows = [(name, name) for name in HOSTILE]
    text = fragment(section(HOSTILE[0], Table(HOSTILE[:2], rows)), section("list", HOSTILE))
    shown = Page(text)
    assert_only_text(shown)
    assert not shown.scripts
    text.encode()
    assert text.replace("\n", "").isprintable()


def test_only_long_texts_of_a_table_are_divided():
    shown = Page(Table(("a", "b"), [("evidence", "x" * 50)]).html)
    assert [one.get("class") for one in shown.named("td")] == [None, "long"]
    assert re.search(r"td \{[^}]*white-space: nowrap", asset("fragment.css"))
    assert re.search(r"td\.long \{[^}]*overflow-wrap: anywhere", asset("fragment.css"))
