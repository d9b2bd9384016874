"""One complete page that needs nothing else: style, script and data are in it, and it may load nothing."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from bridge_core.html.escaping import escape

__all__ = ["asset", "page"]


def asset(name: str) -> str:
    """Return the text of a file of this package, such as ``"page.css"``."""
    return files("bridge_core.html").joinpath(name).read_text(encoding="utf-8")


def page(title: str, body: str, *, style: str = "", script: str = "", data: str = "") -> str:
    """Return a page; the browser runs no script but the one given, and asks no server for anything.

    Args:
        title: The title, as plain text.
        body: The content of the body, as HTML that is escaped where it must be.
        style: Style sheet in addition to ``page.css``.
        script: The script that runs when the page is loaded; empty for a page without one.
        data: JSON that the script reads from the element ``#data``, as `as_script` returns it.
    """
    allowed = ["default-src 'none'", "style-src 'unsafe-inline'", "base-uri 'none'", "form-action 'none'"]
    scripts = f"<script type='application/json' id='data'>{data}</script>\n" if data else ""
    if script:
        script = f"\n{script.strip()}\n"
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed.append(f"script-src 'sha256-{digest}'")
        scripts += f"<script>{script}</script>\n"
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<meta http-equiv='Content-Security-Policy' content=\"{'; '.join(allowed)}\">\n"
        f"<title>{escape(title, 300)}</title>\n<style>\n{asset('page.css')}{style}</style>\n</head>\n"
        f"<body>\n{body}\n{scripts}</body>\n</html>\n"
    )
