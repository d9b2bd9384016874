#!/usr/bin/env python3
"""Checks the project's English: words that need a glossary, messages without a subject, vague names.

Looks at strings, docstrings and comments of the shipped code, and at the documentation. Prints each place
and the counts; the exit code is 1 if there is more than ``words-allowed.txt`` lists (``path word count``).

    python .ci/words.py [--counts] [PATH ...]
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = (
    "bridge_core",
    "bridge_torch",
    "bridge_flax",
    "plugins/ckptbridge-hdf5/ckptbridge_hdf5",
    "plugins/ckptbridge-orbax/ckptbridge_orbax",
    "plugins/ckptbridge-recipes/ckptbridge_recipes",
    "plugins/ckptbridge-remote/ckptbridge_remote",
    "plugins/ckptbridge-transformers/ckptbridge_transformers",
)
DOCUMENTS = ("README.md", "CHANGELOG.md", "docs", ".github", "benchmarks/README.md", "plugins/*/README.md")

WORDS = {
    "stands": (r"\b(stands?|stood|standing)\b(?! for| in for)", "is, is stored, appears, comes before"),
    "tells": (r"\btells?\b", "shows, determines; cannot determine X"),
    "is no": (r"(?<!there )\b(is|are|was|were) no (?!longer\b|more\b|less\b|fewer\b|need\b)", "is not a"),
    "kept": (r"\b(kept|keeper|keeps(?! \w+ing\b))\b", "stored, preserved; canonical key"),
    "whole": (r"\b(wholly|whole(?! numbers?\b))\b", "entire, complete, or nothing"),
    "whose names": (r"\bwhose (names|axes|layout)\b", "the layout"),
    "beside": (r"\bbeside\b", "next to, in addition to, sidecar file"),
    "alone": (r"\balone\b", "only, before the noun"),
    "says": (r"\bsays\b", "specifies, contains, shows"),
    "settles": (r"\b(un)?settl(e|es|ed|ing)\b", "determines, resolves, matches"),
    "lacks": (r"\black(s|ed|ing)?\b", "does not have, is missing"),
    "as it is": (r"\bas (it is|they are)\b", "unchanged"),
    "claims": (r"\bclaim(s|ed|ing)?\b", "matches, declares, takes"),
    "apart": (r"\bapart\b", "separately; distinguish"),
    "spelt": (r"\b(spelt|spelling|spelled)\b", "named, native layout"),
    "residual": (r"\bresiduals?\b(?! (block|connection|stream|network|branch))", "auxiliary tensor"),
    "metaphor": (r"\b(grain|rungs?|ladders?|idle|strangers?|crew|house|for want of)\b", "the plain word"),
}
"""Habit -> its pattern, and what to write."""

VAGUE = frozenset({"found", "made", "kept", "wanted"})
"""Names that are allowed for three lines at most."""

SUBJECTLESS = re.compile(
    r"(is|are|was|has|have|had|holds?|does|do|did|needs?|can|could|must|may|should|would|will|contains?|"
    r"begins?|starts?|ends?|takes?|gives?|names?|asks?|makes?|wants?|reads?|uses?|lists?|comes?|goes|points?|"
    r"refers?|repeats?|declares?|shares?|lies|leads?|expects?|matches|fits?|overlaps?|exceeds?|belongs?|it|they|"
    r"differs?|seems?|stores?|writes?|leaves?|lacks?|not|no longer)\b(?!=)"
)
ERRORS = re.compile(
    r"(Error|File|Failure|Feature|Exceeded|Conflict|Dependency|Exists|Folder|Found|Misfit|Key)$"
    r"|^_?(error|fail|refuse)$"
)


def main(arguments: list[str]) -> int:
    """Print the places; return the exit code."""
    allowed = _allowed()
    counts: Counter[tuple[str, str]] = Counter()
    places: list[tuple[str, str, str]] = []
    for path in _files([a for a in arguments if not a.startswith("-")]):
        name = path.relative_to(ROOT).as_posix()
        for line, word, text in _habits(path):
            counts[name, word] += 1
            places.append((name, word, f"{name}:{line}: [{word}] {text}"))
    new = {place: number for place, number in counts.items() if number > allowed.get(place, 0)}
    if "--counts" not in arguments:
        for name, word, text in places:
            if (name, word) in new:
                print(text)
    totals: Counter[str] = Counter()
    for (_, word), number in counts.items():
        totals[word] += number
    for word, number in totals.most_common():
        print(f"{number:5}  {word}" + (f" -> {WORDS[word][1]}" if word in WORDS else ""))
    excess = sum(number - allowed.get(place, 0) for place, number in new.items())
    print(f"{totals.total()} in all, {excess} of them new")
    return 1 if new else 0


def _allowed() -> dict[tuple[str, str], int]:
    rows = (ROOT / ".ci/words-allowed.txt").read_text().splitlines()
    fields = [row.rsplit("#", 1)[0].split() for row in rows if row.strip() and not row.startswith("#")]
    return {(path, " ".join(words)): int(number) for path, *words, number in fields}


def _files(asked: list[str]) -> Iterator[Path]:
    for place in asked or [*SHIPPED, *DOCUMENTS]:
        for path in [Path(place)] if Path(place).is_absolute() else sorted(ROOT.glob(place)):
            inner = sorted(p for p in path.rglob("*") if p.suffix in (".py", ".md"))
            yield from inner if path.is_dir() else [path]


def _habits(path: Path) -> Iterator[tuple[int, str, str]]:
    text = path.read_text()
    if path.suffix == ".md":
        plain = re.sub(r"^```.*?^```$", lambda m: "\n" * m[0].count("\n"), text, flags=re.S | re.M)
        for number, line in enumerate(plain.splitlines(), 1):
            yield from _words(re.sub(r"`[^`]*`", "", line), number)
        return
    tree = ast.parse(text)
    yield from _messages(tree)
    yield from _names(tree)
    for number, words in _texts(tree, text):
        yield from _words(words, number)


def _words(text: str, number: int) -> Iterator[tuple[int, str, str]]:
    for word, (pattern, _) in WORDS.items():
        for match in re.finditer(pattern, text, re.I):
            line = text.count("\n", 0, match.start())
            yield number + line, word, " ".join(text[max(0, match.start() - 40) : match.end() + 40].split())


def _texts(tree: ast.AST, text: str) -> Iterator[tuple[int, str]]:
    """Yield sentences: strings of several words, and comments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "{}" for p in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value
            and not getattr(node, "inside", False)
        ):
            yield node.lineno, re.sub(r"``?[^`]*``?", "", node.value)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _messages(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            for part in node.values:
                part.inside = True  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)) == "Check.":
            yield node.lineno, "Check.", str(doc)
        if not isinstance(node, ast.Call):
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if not ERRORS.search(function):
            continue
        for argument in node.args[:3]:
            words = _literal(argument)
            if words and " " in words and SUBJECTLESS.match(words):
                yield argument.lineno, "no subject", f"{function}({words[:60]!r})"


def _literal(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
    return ""


def _names(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        lines: dict[str, list[int]] = {}
        stored: dict[str, int] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id in VAGUE:
                lines.setdefault(node.id, []).append(node.lineno)
                if isinstance(node.ctx, ast.Store):
                    stored.setdefault(node.id, node.lineno)
        for name, line in stored.items():
            if max(lines[name]) - line > 3:
                span = max(lines[name]) - line
                yield line, "vague name", f"{name} lives for {span} lines of {function.name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
