"""Finishes the built site and checks it: links, anchors, other hosts, and that it reads as on GitHub."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

from assemble import LINK, ROOT, addresses, outside_prose
from markdown_it import MarkdownIt

BUILD = Path(__file__).resolve().parent / "out"
SITE = BUILD / "site"
SHIM = re.compile(r'<script src="https://unpkg.com/iframe-worker/shim"[^>]*></script>')
BLOCKS = ("h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "tr", "pre", "blockquote", "hr")
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Page(HTMLParser):
    """What a page links to, loads and is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.blocks: Counter[str] = Counter()
        self._article = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        given = {name: value or "" for name, value in attributes}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADING and LOADING[tag] in given:
            self.loads.append(given[LOADING[tag]])
        if self._article:
            self._article += tag not in VOID
            self.blocks[tag] += tag in BLOCKS
        elif tag == "article":
            self._article = 1

    def handle_endtag(self, tag: str) -> None:
        """Note the end of an element."""
        if self._article and tag not in VOID:
            self._article -= 1


def localised() -> None:
    """Put the shim of our own in place of the one that the site generator loads from another host."""
    for path in SITE.rglob("*.html"):
        up = "../" * (len(path.relative_to(SITE).parts) - 1)
        text = path.read_text(encoding="utf-8")
        path.write_text(SHIM.sub(f'<script src="{up}file-worker.js"></script>', text), encoding="utf-8")


def on_github(text: str) -> Counter[str]:
    """Return the blocks that CommonMark with tables makes of a page."""
    html = MarkdownIt("commonmark").enable("table").render(text)
    return Page(f"<article>{html}</article>").blocks


def source_of(path: Path) -> Path:
    """Return the Markdown that a page was made of."""
    source = BUILD / "docs" / path.relative_to(SITE).with_suffix(".md")
    return source if source.exists() else source.with_name("README.md")


def links_from_elsewhere(documents: Iterable[Path]) -> Iterator[str]:
    """Yield the links of documents outside the site that lead to what the site does not have."""
    _, site = addresses()
    for path in documents:
        prose = "".join(text for text, code in outside_prose(path.read_text(encoding="utf-8")) if not code)
        for link in LINK.finditer(prose):
            place, anchor = urldefrag(link["target"])
            if place.startswith(site):
                linked = SITE / place.removeprefix(site)
                linked = linked / "index.html" if linked.is_dir() else linked
                page = Page(linked.read_text(encoding="utf-8")) if linked.is_file() else None
                if page is None or (anchor and unquote(anchor) not in page.ids):
                    yield f"{path.name}: the site does not have {link['target']}"


def problems() -> list[str]:
    """Return what is wrong with the site."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(SITE.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(SITE).as_posix()
        for target in (*page.links, *page.loads):
            if re.match(r"(https?:)?//", target):
                if target in page.loads:
                    wrong.append(f"{name}: loads {target}")
                continue
            if re.match(r"[a-z]+:", target):
                continue
            place, anchor = urldefrag(urljoin(path.as_uri(), target))
            linked = Path(unquote(place.removeprefix("file://")))
            if name == "404.html" and target.startswith("/"):
                continue
            if linked.is_dir():
                linked /= "index.html"
            if not linked.is_file():
                wrong.append(f"{name}: {target} does not exist")
            elif anchor and linked in pages and unquote(anchor) not in pages[linked].ids:
                wrong.append(f"{name}: {target} has no such anchor")
        if name != "404.html":
            expected = on_github(source_of(path).read_text(encoding="utf-8"))
            if +expected != +page.blocks:
                more, less = page.blocks - expected, expected - page.blocks
                wrong.append(f"{name}: reads otherwise than on GitHub: more {dict(more)}, less {dict(less)}")
    return wrong


def main() -> None:
    """Finish the site, and end with what is wrong."""
    localised()
    outside = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("plugins/*/README.md")))
    wrong = [*problems(), *links_from_elsewhere(outside)]
    if wrong:
        sys.exit("\n".join(wrong))
    pages = len(list(SITE.rglob("*.html")))
    print(f"{pages} pages in {SITE.relative_to(Path.cwd()) if SITE.is_relative_to(Path.cwd()) else SITE}")


if __name__ == "__main__":
    main()
