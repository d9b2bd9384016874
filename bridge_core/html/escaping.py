"""Text in pages: names come from files that nobody checked, and remain text in every place of a page."""

from __future__ import annotations

import html
import json

__all__ = ["as_script", "escape", "plain_text"]

_OF_MARKUP = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def plain_text(text: str, longest: int | None = None) -> str:
    r"""Return a text with everything that is not printable as an escape, cut in the middle if it is long.

    What turns the direction of writing and what hides characters is not printable either, so that a name
    looks like what it is; and a page can be encoded, whatever the name.

    Args:
        text: The text.
        longest: Largest number of characters of the text that remain; None for all.

    >>> plain_text("a\u202eb\x00")
    'a\\u202eb\\x00'
    >>> plain_text("abcdefghij", 5)
    'ab... (10 characters) ...ij'
    """
    if longest is not None and len(text) > longest:
        half = longest // 2
        text = f"{text[:half]}... ({len(text)} characters) ...{text[-half:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escape(text: str, longest: int | None = None) -> str:
    """Return a text for the content of an element or the value of a quoted attribute.

    Args:
        text: The text.
        longest: As in `plain_text`.

    >>> escape("<b>")
    '&lt;b&gt;'
    """
    return html.escape(plain_text(text, longest), quote=True)


def as_script(value: object) -> str:
    r"""Return plain data as JSON for the inside of a ``script`` element: no tag can begin or end in it.

    Args:
        value: Lists, dicts with text keys, texts, numbers, booleans, None.

    >>> as_script(["</script>"])
    '["\\u003c/script\\u003e"]'
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character, written in _OF_MARKUP.items():
        text = text.replace(character, written)
    return text
