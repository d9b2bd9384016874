"""Runs a page of the documentation as it is: its Python, its files, its commands, and what they print.

Each fenced block has a language, which says what becomes of it:

- ``python`` runs, in one namespace a page. A block that begins with ``# name.py`` is written to that file.
  A block with ``>>>`` runs as a doctest. ``expression  # -> text`` compares what ``repr`` gives. What a block
  prints is in the ``text`` block after it.
- ``console`` holds commands after ``$``, and below each what it prints.
- ``sh`` holds commands of which nothing is shown.
- A block with a name (``# name.toml`` in its first line, or a title: ``json title="config.json"``) is
  written to that file.
- ``text`` is a picture, where nothing printed it.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import io
import json
import os
import re
import runpy
import shlex
import shutil
import sys
import tempfile
import tokenize
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge_core import load_rules
from bridge_core.cli import main

__all__ = ["Block", "blocks_of", "mismatch", "parse_blocks", "run_blocks", "run_commands", "write_file"]

REFUSED = ("error: ", "different: ", "Error: ")
"""How a line begins that a command prints before it ends with an exit code other than 0."""
PICTURES = ("text",)
DATA = ("toml", "json", "yaml", "ini", "html")
LANGUAGES = ("python", "console", "sh", *PICTURES, *DATA)


class Block(tuple):
    """A fenced block: a pair of its language and its text, with its title and the line of its text."""

    def __new__(cls, language, text, title="", line=1):
        self = super().__new__(cls, (language, text))
        self.title, self.line = title, line
        return self


def blocks_of(page):
    """Return each fenced block of a page as (language, text)."""
    return parse_blocks(page.read_text(encoding="utf-8"), page.name)


def parse_blocks(text, name="page"):
    """Return the fenced blocks of a text; each must have a language that this module knows."""
    blocks, opened = [], None
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"(\s*)(```+|~~~+)\s*(.*)$", line)
        if opened is None:
            if fence:
                match = re.fullmatch(r'(\w+)(?: title="([^"]+)")?', fence[3].strip())
                assert match, f"{name}:{number}: a block's first line is its language: {line}"
                assert match[1] in LANGUAGES, f"{name}:{number}: nothing runs blocks of {match[1]}"
                opened = (fence[1], fence[2], match[1], match[2] or "", number + 1, [])
        elif fence and fence[2].startswith(opened[1]) and not fence[3]:
            indent, _, language, title, first, lines = opened
            body = "".join(f"{line.removeprefix(indent)}\n" for line in lines)
            blocks.append(Block(language, body, title, first))
            opened = None
        else:
            opened[-1].append(line)
    assert opened is None, f"{name}:{opened[4] - 1}: the block does not end"
    return blocks


def run_blocks(blocks, name):
    """Run blocks in order, in the current folder; return the names that Python's share."""
    names = {"__name__": "guide"}
    printed = None
    with _importable(Path.cwd()):
        for block in blocks:
            language, text = block
            line = getattr(block, "line", 1)
            place = f"{name}:{line}"
            if printed:
                assert language == "text", f"{place}: printed above, and not shown:\n{printed}"
                problem = mismatch(text, printed)
                assert problem is None, f"{place}: {problem}\n{printed}"
                printed = None
            elif getattr(block, "title", ""):
                write_text(block.title, text)
            elif language == "python" and re.match(r"# \S+\.py\n", text):
                write_file(text)
            elif language == "python":
                printed = run_python(text, name, line, names)
            elif language == "console":
                run_commands(text, place)
            elif language == "sh":
                run_silently(text, place)
            elif language in DATA:
                read_data(language, text, place)
        assert not printed, f"{name}: printed by the last block, and not shown:\n{printed}"
    return names


@contextlib.contextmanager
def _importable(folder):
    """Let modules that a page writes be imported, and forget them afterwards."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(f"{folder}{os.sep}"):
                del sys.modules[name]


# -- files ------------------------------------------------------------------------------------------


def write_file(text):
    """Write a block to the file that its first line names."""
    name = re.match(r"# (\S+\.(?:toml|py|yaml))\n", text)
    assert name, f"a file's first line is its name: {text[:40]}"
    write_text(name[1], text)


def write_text(name, text):
    path = Path(name)
    assert not path.is_absolute(), name
    assert ".." not in path.parts, name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    importlib.invalidate_caches()


def read_data(language, text, place):
    """Write a block of data to its file; without a name, read it, and rules as rules."""
    if re.match(r"# \S+\.(?:toml|yaml)\n", text):
        write_file(text)
    elif language == "json":
        json.loads(text)
    else:
        assert language == "toml", f"{place}: a block of {language} needs a title"
        if "rule" in tomllib.loads(text):
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "rules.toml").write_text(text, encoding="utf-8")
                assert load_rules(Path(folder) / "rules.toml"), place


# -- Python -----------------------------------------------------------------------------------------


def run_python(text, name, line, names):
    """Run a block; return what it prints."""
    output = io.StringIO()
    if ">>> " in text:
        test = doctest.DocTestParser().get_doctest(text, names, name, name, line - 1)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        failed, _ = runner.run(test, out=output.write, clear_globs=False)
        names.update(test.globs)
        assert not failed, output.getvalue()
        return ""
    tree = ast.parse(text, name)
    shown = shown_values(tree, text, f"{name}:{line}")
    seen = set()

    def compare(value, number):
        seen.add(number)
        problem = mismatch(shown[number], " ".join(repr(value).split()))
        assert problem is None, f"{name}:{line + number - 1}: {problem}\n{value!r}"
        return value

    names["_shown"] = compare
    code = compile(ast.increment_lineno(tree, line - 1), name, "exec", dont_inherit=True)
    with contextlib.redirect_stdout(output):
        exec(code, names)
    del names["_shown"]
    missed = shown.keys() - seen
    assert not missed, f"{name}: shown, and never reached: {[shown[number] for number in missed]}"
    return output.getvalue()


def shown_values(tree, text, place):
    """Return what comments ``# -> ...`` show, by line of the value, and let the tree compare it."""
    ends = {node.end_lineno: node for node in ast.walk(tree) if isinstance(node, ast.Expr | ast.Assign)}
    shown, last = {}, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or not token.string.startswith("# -> "):
            continue
        value, line = token.string.removeprefix("# -> ").strip(), token.start[0]
        if line == last + 1 and not token.line.strip().partition("#")[0]:
            number = max(shown)
            shown[number] += f" {value}"
        else:
            number = line if line in ends else line - 1
            assert number in ends, f"{place}: no value to compare with: {value}"
            node = ends[number]
            call = ast.Call(ast.Name("_shown", ast.Load()), [node.value, ast.Constant(number)], [])
            node.value = ast.copy_location(call, node.value)
            shown[number] = value
        last = line
    ast.fix_missing_locations(tree)
    return shown


# -- commands ---------------------------------------------------------------------------------------


def run_commands(text, place="console"):
    """Run each line after ``$``, and compare what it prints with the lines below."""
    first, *parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not first, f"{place}: a line of console begins with $: {first}"
    for part in parts:
        line, _, shown = re.sub(r"\\\n *>? *", "", part).partition("\n")
        code, printed = run_command(line)
        problem = mismatch(shown, printed)
        assert problem is None, f"{place}: $ {line}\n{problem}\n{printed}"
        refused = any(line.startswith(REFUSED) for line in shown.splitlines())
        assert (code != 0) == refused, f"{place}: $ {line}\nexit code {code}\n{printed}"


def run_silently(text, place="sh"):
    """Run commands of which nothing is shown; none may fail."""
    for words in commands_of(text):
        code, printed = run_command(shlex.join(words))
        assert code == 0, f"{place}: {shlex.join(words)}: exit code {code}\n{printed}"


def commands_of(text):
    """Return the words of each command of a block of ``sh``."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    parts = (part for line in lines for part in line.split("&&"))
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def run_command(line):
    """Run one command; return its exit code and what it prints."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "ckptbridge":
        done = CliRunner().invoke(main, arguments)
        return done.exit_code, done.stdout + done.stderr
    if program == "cat":
        return 0, "".join(Path(name).read_text(encoding="utf-8") for name in arguments)
    if program == "python":
        with contextlib.redirect_stdout(io.StringIO()) as output:
            # Processes that the program starts look for it by this path.
            runpy.run_path(str(Path(arguments[0]).absolute()), run_name="__main__")
        return 0, output.getvalue()
    assert program == "pytest", f"nothing runs {program}: {line}"
    return run_tests(arguments)


def run_tests(arguments):
    """Run a page's tests in this process, which has imported what they need; return exit code and output."""
    folder = Path.cwd()
    settings = folder / "pytest.ini"
    settings.write_text("[pytest]\n", encoding="utf-8")
    options = ["-c", str(settings), "--rootdir", str(folder), "--basetemp", str(folder / ".pytest")]
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler"]
    plugins += ["-p", "no:unraisableexception"]  # it looks for garbage five times, among all of our objects
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main([*options, *plugins, *arguments])
    settings.unlink()
    shutil.rmtree(folder / ".pytest", ignore_errors=True)
    return int(code), output.getvalue()


def mismatch(shown, printed):
    """Return how what is shown differs; ``...`` stands for any text, and as a line for any lines."""
    lines = printed.splitlines()
    at, skipping = 0, False
    for wanted in re.sub(r"\bin \d[\d.]* ?s\b.*", "in ...", shown).splitlines():
        if wanted == "...":
            skipping = True
            continue
        pattern = re.compile(".*".join(map(re.escape, wanted.rstrip().split("..."))))
        found = (n for n in range(at, len(lines)) if pattern.fullmatch(lines[n].rstrip()))
        place = next(found, None)
        if place is None or (place > at and not skipping):
            return f"not printed here: {wanted}"
        at, skipping = place + 1, False
    return None if skipping or not any(map(str.strip, lines[at:])) else f"not shown: {lines[at]}"
