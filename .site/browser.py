"""Looks at the built site with a headless browser: errors, other hosts, search, colours, narrow screens.

Exit code 77 if no browser is installed; on Debian ``apt-get install chromium`` has one.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.browser import Browser, find_browser  # noqa: E402 - the tests' own driver, found by the path above

SITE = ROOT / ".site" / "out" / "site"
NO_BROWSER = 77
DESKTOP, PHONE = (1280, 860), (390, 844)
SEARCHES = {
    "grouped transposed convolution": "layers.html",
    "CKB-109": "errors.html",
    "FlatState": "reference/",
}

LOOK = """(() => {
  const light = (c) => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92
      : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const body = getComputedStyle(document.body);
  const text = getComputedStyle(document.querySelector("article p") || document.body);
  const [a, b] = [light(body.backgroundColor), light(text.color)].sort().reverse();
  return {
    title: document.title,
    wide: document.documentElement.scrollWidth - innerWidth,
    dark: light(body.backgroundColor) < 0.2,
    contrast: (a + 0.05) / (b + 0.05),
    unnamed: [...document.querySelectorAll("article img:not([alt]), article img[alt='']")].length,
    broken: [...document.images].filter((image) => image.complete && !image.naturalWidth).map((i) => i.src),
  };
})()"""

RESULTS = """(() => {
  const host = [...document.querySelectorAll("*")].find((one) => one.shadowRoot);
  return host ? [...host.shadowRoot.querySelectorAll("a[href]")].map((one) => one.getAttribute("href")) : [];
})()"""


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and prints nothing."""

    searched = False
    """Whether the search has its index: every page reads it anew, which takes most of its time."""

    def do_GET(self) -> None:
        """Serve a file."""
        if self.path.endswith("/search.json") and not Quiet.searched:
            index = json.loads((SITE / "search.json").read_bytes())
            body = json.dumps({**index, "items": index["items"][:1]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            super().do_GET()

    def log_message(self, *_args: object) -> None:
        """Print nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def pages() -> list[str]:
    """Return the names of all pages."""
    return sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))


def look(browser: Browser, address: str) -> Iterator[str]:
    """Yield what is wrong with any page: each loaded once, seen in both sizes, every second one dark."""
    sizes = {DESKTOP: "", PHONE: ", on a phone"}
    for number, name in enumerate(pages()):
        dark = number % 2 == 1
        browser.console.clear()
        browser.requests.clear()
        browser.theme("dark" if dark else "light")
        browser.open(address + name)
        for size in sorted(sizes, key=lambda size: size != browser.size):
            if size != browser.size:
                browser.resize(*size)
            seen = browser.evaluate(LOOK)
            yield from (f"{name}{sizes[size]}: {text}" for text in faults(seen, dark=dark))
        yield from (f"{name}: the console has: {text}" for text in browser.console)
        foreign = {url for url in browser.requests if not url.startswith((address, "data:", "blob:"))}
        yield from (f"{name}: asks another host: {url}" for url in sorted(foreign))


def faults(seen: dict[str, Any], *, dark: bool) -> Iterator[str]:
    """Yield what is wrong with what is seen of a page."""
    if seen["wide"] > 0:
        yield f"is {seen['wide']} pixels wider than the screen"
    if seen["dark"] is not dark:
        yield "has the wrong colours"
    if seen["contrast"] < 7:
        yield f"text has a contrast of {seen['contrast']:.1f} only"
    if seen["unnamed"]:
        yield f"has images without a text for those who do not see them: {seen['unnamed']}"
    yield from (f"the image {url} is not shown" for url in seen["broken"])


def search(browser: Browser, address: str, searches: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the search."""
    browser.resize(*DESKTOP)
    for words, expected in searches.items():
        browser.open(f"{address}index.html")
        browser.evaluate("document.querySelector('.md-search__button').click()")
        wait(browser, "!!(document.activeElement && document.activeElement.shadowRoot)")
        browser.type(words)
        found = wait(browser, RESULTS) or []
        if not found or not any(expected in one for one in found[:5]):
            yield f"{address}: a search for {words!r} finds {found[:5]}, not {expected}"


def wait(browser: Browser, script: str, seconds: float = 20) -> object:
    """Return the value of a script, once it is neither false nor empty."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        value = browser.evaluate(script)
        if value:
            return value
        time.sleep(0.1)
    return None


def main() -> int:
    """Look at everything; return the exit code."""
    if find_browser() is None:
        print("skipped: no browser is installed (Debian's is `apt-get install chromium`)")
        return NO_BROWSER
    wrong: list[str] = []
    with served(SITE) as address, Browser(size=DESKTOP) as browser:
        wrong += look(browser, address)
        Quiet.searched = True
        wrong += search(browser, address, SEARCHES)
        wrong += search(browser, f"{SITE.as_uri()}/", dict(list(SEARCHES.items())[:1]))
    if wrong:
        print("\n".join(wrong))
        return 1
    print(f"{len(pages())} pages looked at in two sizes, half of them in dark colours")
    return 0


if __name__ == "__main__":
    sys.exit(main())
