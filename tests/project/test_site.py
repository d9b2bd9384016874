"""The documentation site: its navigation, its links out of docs/, and what its checks find."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ADDRESS = "https://example.org/project"


def script(name):
    """Return a module of .site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / ".site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


assemble, finish = script("assemble"), script("finish")


def test_every_page_is_in_the_navigation():
    configuration = tomllib.loads((ROOT / ".site/zensical.toml").read_text(encoding="utf-8"))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert assemble.in_navigation(configuration["project"]["nav"]) == pages


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[a](rules.md#tables)", "[a](rules.md#tables)"),
        ("[a](#here) [b](https://example.org)", "[a](#here) [b](https://example.org)"),
        ("[a](decisions)", "[a](decisions/README.md)"),
        ("[a](schemas)", f"[a]({ADDRESS}/tree/main/docs/schemas)"),
        ("[a](schemas/error.json)", "[a](schemas/error.json)"),
        ("[a](../README.md#more)", f"[a]({ADDRESS}/blob/main/README.md#more)"),
        ("```md\n[a](../README.md)\n```\n", "```md\n[a](../README.md)\n```\n"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(written, expected):
    assert assemble.rewritten(DOCS / "any.md", written, ADDRESS) == expected


def test_a_link_to_nothing_ends_the_build():
    with pytest.raises(SystemExit, match=r"gone\.md does not exist"):
        assemble.rewritten(DOCS / "any.md", "[a](../gone.md)", ADDRESS)


def test_the_repository_is_that_of_the_project():
    assert assemble.repository() == "https://github.com/ckptbridge/ckptbridge"


SOURCE = "# Title\n\nText [one](b.md#there).\n\n- a\n- b\n"
PAGE = (
    '<article><h1 id="title">Title</h1><p>Text <a href="b.html#there">one</a>.</p>'
    "<ul><li>a</li><li>b</li></ul></article>"
)
OTHER = '<article><h1 id="there">There</h1></article>'
FAULTS = {
    "a page that is not there": ("b.html#there", "c.html", "c.html does not exist"),
    "a heading that is not there": ("#there", "#nowhere", "b.html#nowhere has no such anchor"),
    "a script of another host": (
        "<article>",
        '<script src="https://example.org/a.js"></script><article>',
        "loads",
    ),
    "an image of another host": ("Text", '<img src="//example.org/a.png">', "loads //example.org/a.png"),
    "a list that is one on GitHub only": (
        "<ul><li>a</li><li>b</li></ul>",
        "<p>- a - b</p>",
        "less {'ul': 1, 'li': 2}",
    ),
}


@pytest.fixture
def small_site(tmp_path, monkeypatch):
    """A site of two pages, in which nothing is wrong."""
    for name, text in {
        "docs/a.md": SOURCE,
        "docs/b.md": "# There\n",
        "site/a.html": PAGE,
        "site/b.html": OTHER,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(finish, "BUILD", tmp_path)
    monkeypatch.setattr(finish, "SITE", tmp_path / "site")
    return tmp_path / "site"


def test_nothing_is_wrong_with_a_right_site(small_site):
    assert finish.problems() == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(small_site, name):
    old, new, words = FAULTS[name]
    assert old in PAGE
    (small_site / "a.html").write_text(PAGE.replace(old, new, 1), encoding="utf-8")
    (problem,) = finish.problems()
    assert words in problem


def test_the_script_of_another_host_is_replaced(small_site):
    shim = '<script src="https://unpkg.com/iframe-worker/shim" type="text/javascript"></script>'
    (small_site / "inner").mkdir()
    (small_site / "inner/c.html").write_text(shim, encoding="utf-8")
    finish.localised()
    assert (small_site / "inner/c.html").read_text() == '<script src="../file-worker.js"></script>'
