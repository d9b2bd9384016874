"""Pages of HTML, read by the rules of a browser: which elements there are, and what their text is."""

import json
from html.parser import HTMLParser

VOID = {"meta", "input", "br", "link", "img"}

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "' onmouseover='alert(3)",
    '"><b>',
    "&lt;",
    "<!--",
    "turned\u202ename",
    "\u2028",
    "\x00\x1b[2J\r\n",
    "\udc80",
    "שלום",
    "",
    "n" * 10_000,
)
"""Names that try to be something else than text."""


class Page(HTMLParser):
    """The elements of a page.

    Attributes:
        elements: Tag and attributes of each element, in order.
        text: All text outside of scripts and styles.
        data: What the element ``#data`` holds.
        scripts: The text of each script that would run.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.scripts, self.data, self._open = [], "", [], None, []
        self.feed(text)
        self.close()
        assert not self._open, "elements that are not closed"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, text):
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.data = json.loads(text)
        elif tag == "script":
            self.scripts.append(text)
        elif tag != "style":
            self.text += text

    def named(self, tag):
        """Return the attributes of all elements with a tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def assert_only_text(page):
    """Check that nothing in a page runs, loads or listens but what belongs to it."""
    for tag, attributes in page.elements:
        assert tag not in ("img", "iframe", "link", "object", "embed", "base", "form"), tag
        listening = [
            name for name in attributes if name.startswith("on") or name in ("src", "href", "action")
        ]
        assert not listening, (tag, listening)
