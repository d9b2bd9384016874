"""A page with two trees of names next to each other, lines between them, and topics to read first."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge_core.html.escaping import as_script, escape, plain_text
from bridge_core.html.pages import asset, page
from bridge_core.html.tree import Leaf, tree_rows, visible

__all__ = ["Entry", "Link", "Mark", "Side", "Topic", "TwoTrees", "two_trees_page"]

_ENTRIES = 100
"""Entries of a topic that are listed."""
_LONGEST = 400
"""Characters of a name in a topic; the trees have the complete name."""


@dataclass(frozen=True)
class Mark:
    """What a leaf or a line is; its sign distinguishes it without a colour.

    Args:
        name: One word.
        sign: One or two characters.
        about: What it means, one sentence.
        colour: Number of the colour in the style sheet, 0 to 9.
        tone: ``plain``, ``warn`` for what deserves a look (its lines are dashed), or ``bad``.
    """

    name: str
    sign: str
    about: str
    colour: int
    tone: str = "plain"


Detail = Sequence[tuple[str, str | Sequence[str]]]
"""What is said about a leaf or a line when it is chosen: terms, each with a text or a list of texts."""


@dataclass(frozen=True)
class Side:
    """One of the two trees.

    Args:
        title: What it is.
        leaves: Its names.
        marks: The number of each leaf's mark.
        details: What is said about each leaf when it is chosen.
    """

    title: str
    leaves: Sequence[Leaf]
    marks: Sequence[int]
    details: Sequence[Detail]


@dataclass(frozen=True)
class Link:
    """Leaves that belong together.

    Args:
        left: Numbers of leaves of the left side.
        right: Numbers of leaves of the right side.
        mark: The number of its mark.
        detail: What is said about it when one of its leaves is chosen.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    mark: int
    detail: Detail


@dataclass(frozen=True)
class Entry:
    """One line of a topic.

    Args:
        text: The line.
        side: The side of the leaf that it leads to: 0, 1, or None if it leads nowhere.
        leaf: The number of that leaf.
        code: Lines to copy, such as rules.
    """

    text: str
    side: int | None = None
    leaf: int = 0
    code: str = ""


@dataclass(frozen=True)
class Topic:
    """Something to read before the trees.

    Args:
        title: What it is about.
        tone: ``bad``, ``warn`` or ``plain``.
        entries: Its lines; of many only the first are listed.
        about: What the title means, one sentence.
        number: How many things it is about; None for the number of entries, 0 for what is not counted.
        open: Whether its lines are shown at first.
    """

    title: str
    tone: str
    entries: Sequence[Entry]
    about: str = ""
    number: int | None = None
    open: bool = True


@dataclass(frozen=True)
class TwoTrees:
    """What the page shows.

    Args:
        title: The title of the page.
        verdict: Its first word or words.
        tone: Tone of the verdict: ``good``, ``warn`` or ``bad``.
        summary: Sentences below the title.
        sides: The left and the right tree.
        links: The lines.
        marks: All marks, in the order of the legend.
        topics: What to read first.
    """

    title: str
    verdict: str
    tone: str
    summary: Sequence[str]
    sides: tuple[Side, Side]
    links: Sequence[Link]
    marks: Sequence[Mark]
    topics: Sequence[Topic] = field(default=())


def two_trees_page(shown: TwoTrees) -> str:
    """Return the page; all names in it are escaped."""
    details = _Table()
    data = {
        "marks": [[mark.name, mark.sign, mark.about, mark.colour, mark.tone] for mark in shown.marks],
        "sides": [_side_data(side, details) for side in shown.sides],
        "links": [
            [list(link.left), list(link.right), link.mark, details.number(_detail(link.detail))]
            for link in shown.links
        ],
    }
    data["details"] = details.values
    summary = "".join(f"<p>{escape(text)}</p>" for text in shown.summary if text)
    body = (
        f"<header>\n<h1><span class='verdict {shown.tone}'>{escape(shown.verdict)}</span> "
        f"{escape(shown.title, _LONGEST)}</h1>\n<div class='soft'>{summary}</div>\n"
        f"{''.join(_topic(topic) for topic in shown.topics)}</header>\n{asset('two_trees.html')}"
    )
    return page(
        f"{shown.verdict}: {shown.title}",
        body,
        style=asset("two_trees.css"),
        script="".join(map(asset, ("tree_view.js", "lines.js", "two_trees.js"))),
        data=as_script(data),
    )


def _topic(topic: Topic) -> str:
    number = len(topic.entries) if topic.number is None else topic.number
    items = "".join(map(_entry, topic.entries[:_ENTRIES]))
    if len(topic.entries) > _ENTRIES:
        items += f"<li class='soft'>and {len(topic.entries) - _ENTRIES} more</li>"
    about = f" <span class='soft'>{escape(topic.about)}</span>" if topic.about else ""
    count = f" <span class='number'>{number}</span>" if number else ""
    return (
        f"<details class='topic {topic.tone}'{' open' if topic.open else ''}><summary><b>"
        f"{escape(topic.title)}</b>{count}{about}</summary>"
        f"<ul>{items}</ul></details>\n"
    )


def _entry(entry: Entry) -> str:
    text = f"<bdi dir='ltr'>{escape(entry.text, _LONGEST if entry.side is not None else 4000)}</bdi>"
    if entry.side is not None:
        text = f"<button type='button' data-side='{entry.side}' data-leaf='{entry.leaf}'>{text}</button>"
    code = f"<pre>{_lines(entry.code)}</pre>" if entry.code else ""
    return f"<li>{text}{code}</li>"


def _lines(text: str) -> str:
    return "\n".join(escape(line) for line in textwrap.dedent(text).strip().split("\n"))


def _side_data(side: Side, details: _Table) -> dict[str, Any]:
    rows, infos = tree_rows(side.leaves), _Table()
    return {
        "title": plain_text(side.title),
        "depth": rows.depth,
        "name": rows.name,
        "leaf": rows.leaf,
        "full": [visible(".".join(leaf.path)) for leaf in side.leaves],
        "info": [infos.number(plain_text(leaf.info)) for leaf in side.leaves],
        "infos": infos.values,
        "mark": list(side.marks),
        "detail": [details.number(_detail(detail)) for detail in side.details],
    }


def _detail(detail: Detail) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (term, (plain_text(text),) if isinstance(text, str) else tuple(map(plain_text, text)))
        for term, text in detail
        if text
    )


class _Table:
    """Values that are written once, and numbers for them."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        known = self._numbers.get(value)
        if known is None:
            known = self._numbers[value] = len(self.values)
            self.values.append(value)
        return known
