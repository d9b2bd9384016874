"""How an expression is written: ``config.hidden // heads``, read into plain data and written again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from bridge_core.errors import RuleError

__all__ = ["Node", "Parser", "number_node"]

_LONGEST = 2000
_DEEPEST = 20
_MOST_SIGNS = 100
_DIGITS = 18

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<text>'[^']*')|(?P<sign>\*\*|//|<=|>=|==|!=|[-+*/%()\[\],<>?])|(?P<end>$))",
    re.ASCII,
)

_FUNCTIONS = ("sqrt", "float32", "float16", "bfloat16")

_LEVELS = {"or": 0, "+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 4}
_UNARY = 3


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    Args:
        sign: What it is: ``number``, ``name``, ``text``, ``list``, ``index``, ``-`` of one argument, a
            function, ``?`` for no value, or the sign between two arguments.
        arguments: The parts that it is made of; empty for numbers, names and texts.
        value: The number, or the name or text.
    """

    sign: str
    arguments: tuple[Node, ...] = ()
    value: int | float | str = ""

    def __str__(self) -> str:
        """Return the text, with as few parentheses as possible."""
        return _text(self, 0)

    def walk(self) -> Iterator[Node]:
        """Yield the node and all its parts."""
        yield self
        for argument in self.arguments:
            yield from argument.walk()


def number_node(value: int | float) -> Node:
    """Return the node of a number, which may be negative."""
    return Node("number", (), value) if value >= 0 else Node("-", (Node("number", (), -value),))


def _text(node: Node, level: int) -> str:
    inner = node.arguments
    match node.sign:
        case "number" | "name":
            return str(node.value)
        case "text":
            return f"'{node.value}'"
        case "?":
            return "?"
        case "list":
            return f"[{', '.join(map(str, inner))}]"
        case "index":
            return f"{_text(inner[0], _LEVELS['**'] + 1)}[{inner[1]}]"
        case "-" if len(inner) == 1:
            own, text = _UNARY, f"-{_text(inner[0], _UNARY)}"
        case sign if sign in _FUNCTIONS:
            return f"{sign}({inner[0]})"
        case sign:
            own = _LEVELS[sign]
            left, right = (own + 1, own - 1) if sign == "**" else (own, own if sign == "or" else own + 1)
            space = "" if sign == "**" else " "
            text = f"{_text(inner[0], left)}{space}{sign}{space}{_text(inner[1], right)}"
    return f"({text})" if own < level else text


class Parser:
    """Recursive descent over the tokens; how deep it may go is bounded."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise RuleError(f"expected at most {_LONGEST} characters in an expression, got {len(text)}.")
        self.position = self.signs = 0
        self.kind = self.token = ""
        self.start = 0
        self.take()

    def fail(self, problem: str) -> NoReturn:
        """Refuse the text, at the current token."""
        raise RuleError(f"'{self.text}', column {self.start + 1}: {problem}.")

    def take(self) -> str:
        """Return the current token, and go to the next."""
        taken = self.token
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self.start = self.position
            rest = self.text[self.position :].lstrip()
            self.fail(f"expected a number, a name or a sign, got {rest[:1]!r}")
        self.kind = match.lastgroup or ""
        self.token = match[self.kind]
        self.start, self.position = match.start(self.kind), match.end()
        return taken or " "

    def sign(self) -> str:
        """Return the current sign, and go to the next token; how many there may be is bounded."""
        self.signs += 1
        if self.signs > _MOST_SIGNS:
            self.fail(f"expected at most {_MOST_SIGNS} operations, got more")
        return self.take()

    def finish(self) -> None:
        """Check that nothing follows."""
        if self.kind != "end":
            self.fail(f"expected the end, got {self.token!r}")

    def expect(self, sign: str) -> None:
        """Go past a sign, which must be there."""
        if self.kind != "sign" or self.token != sign:
            self.fail(f"expected {sign!r}, got {repr(self.token) if self.token else 'the end'}")
        self.take()

    def choice(self, depth: int) -> Node:
        """Read a sum, or an entry of a config and its default."""
        node = self.sum(depth)
        if self.kind == "name" and self.token == "or":
            if node.sign != "name" or not str(node.value).startswith("config."):
                self.fail("expected an entry of the config, such as config.head_dim, before 'or'")
            self.sign()
            return Node("or", (node, self.choice(depth + 1)))
        return node

    def sum(self, depth: int) -> Node:
        """Read terms that are added."""
        if depth > _DEEPEST:
            self.fail(f"expected at most {_DEEPEST} parentheses inside each other, got more")
        node = self.product(depth)
        while self.kind == "sign" and self.token in ("+", "-"):
            node = Node(self.sign(), (node, self.product(depth)))
        return node

    def product(self, depth: int) -> Node:
        """Read factors."""
        node = self.signed(depth)
        while self.kind == "sign" and self.token in ("*", "/", "//", "%"):
            node = Node(self.sign(), (node, self.signed(depth)))
        return node

    def signed(self, depth: int) -> Node:
        """Read a factor with its sign and its power."""
        if self.kind == "sign" and self.token == "-":
            self.take()
            return Node("-", (self.signed(depth + 1),)) if depth < _DEEPEST else self.sum(depth + 1)
        base = self.indexed(depth)
        if self.kind == "sign" and self.token == "**":
            self.take()
            return Node("**", (base, self.signed(depth + 1) if depth < _DEEPEST else self.sum(depth + 1)))
        return base

    def indexed(self, depth: int) -> Node:
        """Read an operand and its indexes."""
        node = self.atom(depth)
        while self.kind == "sign" and self.token == "[":
            self.sign()
            node = Node("index", (node, self.choice(depth + 1)))
            self.expect("]")
        return node

    def atom(self, depth: int) -> Node:
        """Read an operand."""
        kind, token = self.kind, self.token
        if kind == "number":
            if len(token) > _DIGITS:
                self.fail(f"expected at most {_DIGITS} digits, got {len(token)}")
            self.take()
            value = int(token) if token.isdecimal() else float(token)
            if value == math.inf:
                self.fail(f"expected a number that float64 holds, got {token}")
            return Node("number", (), value)
        if kind == "text":
            self.take()
            return Node("text", (), token[1:-1])
        if kind == "name":
            self.take()
            if self.token != "(":
                return Node("name", (), token)
            if token not in _FUNCTIONS:
                self.fail(f"expected one of {', '.join(_FUNCTIONS)} before '(', got {token!r}")
            self.take()
            inner = self.choice(depth + 1)
            self.expect(")")
            return Node(token, (inner,))
        if token == "(":
            self.take()
            inner = self.choice(depth + 1)
            self.expect(")")
            return inner
        if token == "[":
            self.take()
            items = [self.choice(depth + 1)]
            while self.token == ",":
                self.take()
                items.append(self.choice(depth + 1))
            self.expect("]")
            return Node("list", tuple(items))
        return self.fail(f"expected a number or a name, got {repr(token) if token else 'the end'}")
