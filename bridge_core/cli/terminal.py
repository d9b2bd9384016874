"""Printing: plain text, safe for any terminal, and JSON that every parser reads.

Tensor names and paths come from files that nobody checked, so no line is printed before what a terminal
could take for a command is escaped. A reader that closes the pipe early ends no conversion.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import textwrap
from typing import Any, TextIO

import click

__all__ = [
    "aside",
    "clean",
    "complain",
    "documents_printed",
    "finish_output",
    "is_terminal",
    "print_json",
    "say",
]

_documents: list[None] = []

_COLOURS = {"error": "red", "warning": "yellow"}


def clean(text: str) -> str:
    r"""Escape everything that is not printable, line ends included.

    >>> clean("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person reads the stream."""
    return stream is not None and not stream.closed and stream.isatty()


def aside() -> contextlib.AbstractContextManager[Any]:
    """Send to stderr what a user's own model or a plugin prints: stdout is only for the answer."""
    return contextlib.redirect_stdout(sys.stderr)


def say(*lines: str) -> None:
    """Print lines on stdout."""
    for line in lines:
        _print(clean(line))


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; infinities and NaN, which JSON cannot say, become strings."""
    _documents.append(None)
    _print(json.dumps(_plain(document), indent=2, allow_nan=False))


def documents_printed() -> int:
    """Return how many JSON documents this process has printed."""
    return len(_documents)


def complain(text: str, *, label: str | None = None, as_list: bool = False) -> None:
    """Print one paragraph on stderr, wrapped where a person reads it; as a list, each line by itself."""
    if as_list:
        first, *rows = text.strip().splitlines()
        complain(first, label=label)
        with contextlib.suppress(OSError, ValueError):
            for row in rows if sys.stderr is not None else ():
                print(_encodable(clean(row), sys.stderr), file=sys.stderr, flush=True)
        return
    stream = sys.stderr
    text = clean(re.sub(r"\s*[\r\n]+\s*", " ", text.strip()))
    head = f"{label}: " if label else ""
    if is_terminal(stream):
        import shutil

        width = max(40, shutil.get_terminal_size().columns)
        text = textwrap.fill(head + text, width, break_long_words=False, break_on_hyphens=False)
        text = text.removeprefix(head)
        if head and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            head = click.style(f"{label}:", fg=_COLOURS.get(label or ""), bold=True) + " "
    with contextlib.suppress(OSError, ValueError):  # nobody is left to read it
        if stream is not None:
            print(_encodable(head + text, stream), file=stream, flush=True)


def finish_output() -> None:
    """Flush stdout, so that a full disk is noticed and a closed pipe is not.

    Raises:
        OSError: Writing fails for another reason than a closed pipe.
    """
    if sys.stdout is None or sys.stdout.closed:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError:
        _discard_output()
        raise


def _print(text: str) -> None:
    if sys.stdout is None:
        return
    try:
        print(_encodable(text, sys.stdout), file=sys.stdout)
    except BrokenPipeError:
        _discard_output()


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _discard_output() -> None:
    """Send what is still to come nowhere; the interpreter would flush it once more at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
