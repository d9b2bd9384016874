"""The TOML text of a rule file: read within limits, with the lines that tomllib does not give."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import LimitExceeded, RuleError, SourceNotFound
from bridge_core.io.source_file import SourceFile

__all__ = ["parse_toml", "read_toml", "read_toml_head", "read_toml_text", "TomlText"]

_LARGEST = 1_000_000

_LONGEST_LINE = 100_000

_MOST_DOTS = 64
"""In one key; tomllib takes time that grows with the square of its parts."""

_MOST_DOTS_IN_ALL = 10_000
"""In all keys and numbers."""

_TOKENS = re.compile(
    r"""
    \#[^\n]*
    | \"\"\" (?: [^"\\]++ | \\.? | \"(?!\"\") )*+ (?: \"{3,5} | \Z )
    | ''' (?: [^']++ | '(?!'') )*+ (?: '{3,5} | \Z )
    | " (?: [^"\\\n]++ | \\[^\n]? )*+ "?
    | ' [^'\n]*+ '?
    | (?P<dot> \. )
    | (?P<new> [=,\n{}\[\]] )
    """,
    re.VERBOSE | re.DOTALL,
)
"""Keys are told from the same text in a string or a comment; each character is looked at once."""

_RULE = re.compile(r"""\[\[[ \t]*+(?:rule|"rule"|'rule')[ \t]*+\]\]""")


@dataclass(frozen=True)
class TomlText:
    """A TOML document with its text.

    Args:
        name: The path of the file, for messages.
        text: Its text, whose lines end with line feeds.
        document: Its keys and values.
        rule_lines: The line of every ``[[rule]]``, from 1.
    """

    name: str
    text: str
    document: dict[str, Any]
    rule_lines: tuple[int, ...]

    def line_of(self, *keys: str) -> int:
        """Return the line of a key, or of the last key of several, each below the one before.

        Returns:
            The line of the last key that is found so, from 1; 0 if not even the first is.
        """
        rows = [row.lstrip() for row in self.text.split("\n")]
        line = 0
        for key in keys:
            begins = re.compile(rf"\[*[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*[=.\]]")
            for number, row in enumerate(rows[line:], line + 1):
                if begins.match(row):
                    line = number
                    break
                if line and row.startswith("["):
                    return line
            else:
                return line
        return line

    def error(self, problem: str, *keys: str, hint: str | None = None) -> RuleError:
        """Return an error that names the file and, with keys, the line of the last of them."""
        line = self.line_of(*keys) if keys else 0
        return RuleError(f"line {line}: {problem}" if line else problem, path=self.name, hint=hint)


def read_toml(name: str) -> TomlText:
    """Read a TOML file.

    Raises:
        RuleError: The file is not UTF-8, or not TOML.
        LimitExceeded: The file has more than 1 MB, a line more than 100,000 characters, a key more than
            64 dots, or all keys more than 10,000.
        SourceNotFound: The file does not exist.
        MalformedFile: The path is a folder or a device.
        SystemFailure: The file cannot be read.
    """
    return parse_toml(read_toml_text(name), name)


def read_toml_head(name: str) -> TomlText:
    """Read what a TOML file has before the first line that begins with ``[[rule]]``.

    Raises:
        RuleError: As `read_toml`; so are the others.
    """
    lines = read_toml_text(name).split("\n")
    end = next((number for number, line in enumerate(lines) if _RULE.match(line.lstrip())), len(lines))
    return parse_toml("\n".join(lines[:end]), name)


def read_toml_text(name: str) -> str:
    """Read the text of a TOML file, its lines ended by line feeds.

    Raises:
        RuleError: The file is not UTF-8.
        LimitExceeded: It has more than 1 MB.
        SourceNotFound, MalformedFile, SystemFailure: As `read_toml`.
    """
    try:
        file = SourceFile(name)
    except SourceNotFound as err:
        raise SourceNotFound("the rule file does not exist.", path=name, hint=err.hint) from None
    with file:
        if file.size > _LARGEST:
            raise LimitExceeded(
                f"the file is too large for a rule file: expected at most {_LARGEST} bytes, got {file.size}.",
                path=name,
            )
        data = file.read(0, file.size)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise RuleError(
            f"the file is not UTF-8 text: {data[err.start]:#04x} at byte {err.start}, in line {line}.",
            path=name,
            hint="Save it as UTF-8.",
        ) from err


def parse_toml(text: str, name: str) -> TomlText:
    """Return the document of a text.

    Args:
        text: The text, its lines ended by line feeds.
        name: The name of its file, for errors.

    Raises:
        RuleError: It is not TOML.
        LimitExceeded: A line, a key or all keys are too long.
    """
    for number, row in enumerate(text.split("\n"), 1):
        if len(row) > _LONGEST_LINE:
            raise LimitExceeded(
                f"line {number} is too long: expected at most {_LONGEST_LINE} characters, got {len(row)}.",
                path=name,
            )
    lines = tuple(_rule_lines(text, name))
    try:
        return TomlText(name, text, tomllib.loads(text), lines)
    except RecursionError as err:
        raise RuleError("the TOML has too many arrays or tables inside each other.", path=name) from err
    except ValueError as err:
        raise RuleError(
            f"the file is not valid TOML: {err}.",
            path=name,
            hint='Write texts in quotes, such as source = "old.*".' if "Invalid value" in str(err) else None,
        ) from err


def _rule_lines(text: str, name: str) -> Iterator[int]:
    """Yield the line of every ``[[rule]]``.

    Raises:
        LimitExceeded: Keys have too many dots.
    """
    depth, line, counted, dots, in_all, begins = 0, 1, 0, 0, 0, True
    for token in _TOKENS.finditer(text):
        if token["dot"]:
            dots += 1
            in_all += 1
            if dots > _MOST_DOTS or in_all > _MOST_DOTS_IN_ALL:
                line += text.count("\n", counted, token.start())
                raise LimitExceeded(
                    f"line {line}: expected at most {_MOST_DOTS} dots in a key, and {_MOST_DOTS_IN_ALL} in "
                    "all keys, got more.",
                    path=name,
                )
            continue
        sign = token["new"]
        if not sign:
            begins = begins and token[0][0] == "#"
            continue
        dots = 0
        if sign in "[{":
            if begins and depth == 0 and _RULE.match(text, token.start()):
                line += text.count("\n", counted, token.start())
                counted = token.start()
                yield line
            depth += 1
        elif sign in "]}":
            depth -= 1
        begins = sign == "\n"
