"""The documentation site: its navigation, its links out of docs/, and what its checks find."""

import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest
from support.browser import Browser, find_browser

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ADDRESS = "https://example.org/project"
SITE = "https://example.org/site/"


def script(name):
    """Return a module of .site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / ".site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(ROOT / ".site"))  # they import each other
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / ".site"))
    return module


assemble, finish, looking, reference = map(script, ("assemble", "finish", "browser", "reference"))


def test_every_page_is_in_the_navigation():
    configuration = tomllib.loads((ROOT / ".site/zensical.toml").read_text(encoding="utf-8"))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages |= {"reference/README.md", *(f"reference/{room.page}" for room in reference.ROOMS)}
    assert assemble.in_navigation(configuration["project"]["nav"]) == pages


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("[a](rules.md#tables)", "[a](rules.md#tables)"),
        ("[a](#here) [b](https://example.org)", "[a](#here) [b](https://example.org)"),
        ("[a](decisions)", "[a](decisions/README.md)"),
        ("[a](schemas)", f"[a]({ADDRESS}/tree/main/docs/schemas)"),
        (f"[a]({SITE}reference/plugins.html#x)", "[a](reference/plugins.md#x)"),
        (f"[a]({SITE}reference/)", "[a](reference/README.md)"),
        (f"[a]({SITE})", "[a](index.md)"),
        ("[a](schemas/error.json)", "[a](schemas/error.json)"),
        ("[a](../README.md#more)", f"[a]({ADDRESS}/blob/main/README.md#more)"),
        ("```md\n[a](../README.md)\n```\n", "```md\n[a](../README.md)\n```\n"),
    ],
)
def test_links_lead_to_pages_or_to_the_repository(written, expected):
    assert assemble.rewritten(DOCS / "any.md", written, ADDRESS, SITE) == expected


def test_a_link_to_nothing_ends_the_build():
    with pytest.raises(SystemExit, match=r"gone\.md does not exist"):
        assemble.rewritten(DOCS / "any.md", "[a](../gone.md)", ADDRESS, SITE)


def test_the_repository_is_that_of_the_project():
    repository, site = assemble.addresses()
    assert repository == "https://github.com/ckptbridge/ckptbridge"
    assert site == "https://ckptbridge.github.io/ckptbridge/"


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


def test_documents_outside_the_site_link_to_what_it_has(small_site, tmp_path):
    _, site = assemble.addresses()
    document = tmp_path / "README.md"
    document.write_text(f"[a]({site}b.html#there) [b]({site}b.html#gone) [c]({site}c/) [d](other.md)\n")
    assert list(finish.links_from_elsewhere([document])) == [
        f"README.md: the site does not have {site}{name}" for name in ("b.html#gone", "c/")
    ]


def test_the_script_of_another_host_is_replaced(small_site):
    shim = '<script src="https://unpkg.com/iframe-worker/shim" type="text/javascript"></script>'
    (small_site / "inner").mkdir()
    (small_site / "inner/c.html").write_text(shim, encoding="utf-8")
    finish.localised()
    assert (small_site / "inner/c.html").read_text() == '<script src="../file-worker.js"></script>'


SHOWN = """<!doctype html><meta name=viewport content="width=device-width"><title>Page</title>
<link rel=icon href="data:,"><style>
body { color: #111; background: #fff }
@media (prefers-color-scheme: dark) { body { color: #eee; background: #000 } }
</style><body><article><p>Text.</p></article>%s</body>"""
SEEN = {
    "right": ("", []),
    "console": ("<script>undefinedThing()</script>", ["console: the console has: ReferenceError"]),
    "host": ('<img alt="a" src="http://127.0.0.2:4/a.png">', ["host: asks another host: http://127.0.0.2"]),
    "wide": ('<div style="width: 1400px">wide</div>', ["wide: is ", "wide, on a phone: is "]),
    "pale": ("<style>p { color: #888 }</style>", ["pale: text has a contrast", "pale, on a phone: text has"]),
    "white": (
        "<style>body { background: #fff !important }</style>",
        ["second.html: has the wrong colours"],
    ),
    "image": (
        '<article><img src="a.png"></article>',
        ["image: has images without a text", "image: the image http"],
    ),
}


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="no browser is installed")
@pytest.mark.parametrize("name", SEEN)
def test_what_a_browser_shows_is_noticed(name, browser, tmp_path, monkeypatch):
    more, expected = SEEN[name]
    for page in ("page.html", "second.html"):
        (tmp_path / page).write_text(SHOWN % more, encoding="utf-8")
    monkeypatch.setattr(looking, "SITE", tmp_path)
    with looking.served(tmp_path) as address:
        found = [text.replace("page.html", name) for text in looking.look(browser, address)]
    assert [any(text.startswith(words) for text in found) for words in expected] == [True] * len(expected)
    assert bool(found) == bool(expected)
