"""What a notebook shows for a value: tables in scoped style, without a script, of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bridge_core.html.escaping import escape
from bridge_core.html.pages import asset

__all__ = ["Table", "fragment", "section", "verdict_line"]

_ROWS = 40
"""Rows of a table that are shown."""
_LONGEST = 160
"""Characters of a cell; a longer text is cut in its middle."""

_SHORT = 24
"""Characters of a cell that stay in one line."""


@dataclass(frozen=True)
class Table:
    """Rows of texts.

    Args:
        heads: The head of each column.
        rows: The rows; of many only the first are shown, and how many more there are.
        numbers: Indices of the columns that hold numbers.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()

    @property
    def html(self) -> str:
        """The table as HTML."""
        head = "".join(f"<th>{escape(text)}</th>" for text in self.heads)
        rows = "".join(
            f"<tr>{''.join(map(self._cell, range(len(row)), row))}</tr>" for row in self.rows[:_ROWS]
        )
        more = len(self.rows) - _ROWS
        if more > 0:
            rows += f"<tr><td colspan='{len(self.heads)}' class='soft'>and {more} more</td></tr>"
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _cell(self, column: int, text: str) -> str:
        kinds = ["number"] * (column in self.numbers) + ["long"] * (len(text) > _SHORT)
        kind = f" class='{' '.join(kinds)}'" if kinds else ""
        return f"<td{kind}><bdi dir='ltr'>{escape(text, _LONGEST)}</bdi></td>"


def verdict_line(verdict: str, tone: str, text: str) -> str:
    """Return the first line of a fragment.

    Args:
        verdict: One word or two; empty for none.
        tone: ``good``, ``warn``, ``bad`` or ``plain``.
        text: What follows.
    """
    word = f"<span class='{tone}'>{escape(verdict)}</span> " if verdict else ""
    return f"<p class='first'>{word}<b>{escape(text, 300)}</b></p>"


def section(title: str, content: Table | Iterable[str], *, tone: str = "plain", opened: bool = False) -> str:
    """Return a part that can be folded; nothing if it would be empty.

    Args:
        title: Its title.
        content: A table, or lines.
        tone: ``plain``, ``warn`` or ``bad``.
        opened: Whether it is open at first.
    """
    if isinstance(content, Table):
        inside = content.html if content.rows else ""
    else:
        lines = list(content)
        items = [f"<li><bdi dir='ltr'>{escape(line, 600)}</bdi></li>" for line in lines[:_ROWS]]
        items += [f"<li class='soft'>and {len(lines) - _ROWS} more</li>"] if len(lines) > _ROWS else []
        inside = f"<ul>{''.join(items)}</ul>" if items else ""
    if not inside:
        return ""
    head = f"<details class='{tone}'{' open' if opened else ''}><summary>{escape(title)}</summary>"
    return f"{head}{inside}</details>"


def fragment(*parts: str) -> str:
    """Return parts as one element with its own style, which changes nothing around it."""
    return f"<div class='ckptbridge'><style>{asset('fragment.css')}</style>{''.join(parts)}</div>"
