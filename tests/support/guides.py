"""Runs a guide as it stands: its Python, its rule files, its commands and what they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from bridge_core.cli import main

__all__ = ["blocks_of", "mismatch", "run_blocks", "write_file"]

REFUSED = ("error: ", "different: ")
"""How a line begins that a command prints before it ends with exit code 1."""


def blocks_of(guide):
    """Return (language, text) of each fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", guide.read_text(), re.DOTALL | re.MULTILINE)


def run_blocks(blocks, name):
    """Run blocks in order, in the current folder; return the names that Python's share."""
    names = {"__name__": "guide"}
    for language, text in blocks:
        if language == "python" and re.match(r"# \S+\.py\n", text):
            write_file(text)
        elif language == "python":
            exec(compile(text, name, "exec", dont_inherit=True), names)
        else:
            {"toml": write_file, "console": run_commands}[language](text)
    return names


def write_file(text):
    name = re.match(r"# (\S+\.(?:toml|py))\n", text)
    assert name, f"a file's first line is its name: {text[:40]}"
    Path(name[1]).write_text(text)


def run_commands(text):
    """Run each line after ``$``, and compare what it prints with the lines below."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, shown = part.partition("\n")
        program, *arguments = shlex.split(line)
        assert program == "ckptbridge"
        done = CliRunner().invoke(main, arguments)
        printed = done.stdout + done.stderr
        problem = mismatch(shown, printed)
        assert problem is None, f"$ {line}\n{problem}\n{printed}"
        refused = any(line.startswith(REFUSED) for line in shown.splitlines())
        assert done.exit_code == (1 if refused else 0), printed


def mismatch(shown, printed):
    """Return how what is shown differs; ``...`` stands for any text, and as a line for any lines."""
    lines = printed.splitlines()
    at, skipping = 0, False
    for wanted in shown.splitlines():
        if wanted == "...":
            skipping = True
            continue
        pattern = re.compile(".*".join(map(re.escape, wanted.split("..."))))
        found = (n for n in range(at, len(lines)) if pattern.fullmatch(lines[n].rstrip()))
        place = next(found, None)
        if place is None or (place > at and not skipping):
            return f"not printed here: {wanted}"
        at, skipping = place + 1, False
    return None if skipping or not any(map(str.strip, lines[at:])) else f"not shown: {lines[at]}"
