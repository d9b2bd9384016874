"""Makes docs/errors.md: each error and warning with its cause, an example that was run, and the way out."""

from __future__ import annotations

import contextlib
import pickle
import re
import subprocess
import sys
import tempfile
import textwrap
import warnings

import bridge_core
from bridge_core import BridgeError, BridgeWarning
from pages.error_entries import CODES_OF_ENDS, ENDS, ENTRIES, PRELUDE, WARNINGS

__all__ = ["outcome", "page"]


IN_A_PROCESS = """import pickle, sys
sys.path[:] = {path!r}
from pages.errors import outcome
sys.stdout.buffer.write(pickle.dumps(outcome({example!r})))
"""


def outcome_of(entry):
    """Return what an entry's example ends with."""
    if not entry.separate:
        return outcome(entry.example)
    code = IN_A_PROCESS.format(path=sys.path, example=entry.example)
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return pickle.loads(ended.stdout)


def outcome(example):
    """Run an example in an empty folder; return the error or the first warning that it ends with."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory())))
        issued = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        try:
            names = {"__name__": "example"}
            exec(compile(f"{PRELUDE}\n{example}", "example", "exec", dont_inherit=True), names)
        except BridgeError as err:
            return err
    ours = [one.message for one in issued if isinstance(one.message, BridgeWarning)]
    return ours[0] if ours else None


HEAD = """# Errors and warnings

Every error that ckptbridge raises on purpose is a `bridge_core.BridgeError`. Each class has a code that stays the
same, is also the built-in class that fits it, can be pickled, and ends its text with its code:

```console
$ ckptbridge convert model.safetensors out.msgpack --to flax
error: out.msgpack: the destination exists. Pass --overwrite to replace it. [CKB-109]
```

In Python, `code`, `keys`, `path`, `hint` and the attributes of a class hold what an error is about
([reference](https://ckptbridge.github.io/ckptbridge/reference/errors.html)); under `--json` the
command prints them as one document ([schema](schemas/error.json)), with `next`: commands that are likely to succeed.
Match classes or codes, not texts: the English gets better from version to version.

"""

EXAMPLES = f"""
Each example below was run, and its text is what it ended with. All of them begin with

```python
{PRELUDE}
```
"""


def page():
    """Return the page."""
    rows = [_row(one) for one in (*ENTRIES, *ENDS)]
    codes = [row[0] for row in rows]
    order = sorted(range(len(rows)), key=codes.__getitem__)
    parts = [HEAD, "| code | class | exit code | built-in class | when |\n|---|---|---|---|---|\n"]
    for n in order:
        parts.append(f"| {' | '.join(rows[n])} |\n")
    parts.append("\nWarnings are `bridge_core.BridgeWarning`s with a `code`, a word:\n\n")
    parts.append("| class | built-in class | codes |\n|---|---|---|\n")
    parts += [_warning_row(one) for one in WARNINGS]
    parts.append(EXAMPLES)
    entries = (*ENTRIES, *ENDS)
    for n in order:
        code, _, exit_code, built_in, _ = rows[n]
        caught = f"; `except {built_in.strip('`')}` catches it, too" if built_in else ""
        facts = f" Exit code {exit_code}{caught}."
        parts.append(_section(entries[n], f"{code} {entries[n].name}", facts))
    parts += [_section(one, one.name) for one in WARNINGS]
    return "".join(parts)


def _row(entry):
    """Return the cells of an error's row."""
    if entry.name in CODES_OF_ENDS:
        code, exit_code, built_in = CODES_OF_ENDS[entry.name]
    else:
        kind = getattr(bridge_core, entry.name)
        code, exit_code, built_in = kind.code, kind.exit_code, _built_in(kind)
    name = entry.name if entry.name.startswith("(") else f"`{entry.name}`"
    when = re.sub(r"\[(.+?)\]\(.+?\)", r"\1", re.split(r"[.:]( |$)", entry.cause)[0])
    built_in = f"`{built_in}`" if built_in else "`Exception`" if code == "CKB-001" else ""
    return [code, name, str(exit_code), built_in, f"[{when}](#{_anchor(f'{code} {entry.name}')})"]


def _built_in(kind):
    """Return the narrowest built-in class that an error or a warning is, too; empty if it is any exception."""
    if kind is BridgeError:
        return ""
    own = [base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"]
    return own[-1] if own else _built_in(kind.__bases__[0])


def _warning_row(entry):
    kind = getattr(bridge_core, entry.name)
    codes = "those of [a report's warnings](right-weights-other-outputs.md)"
    codes = codes if entry.name == "ConversionWarning" else f"`{kind.code}`"
    return f"| [`{entry.name}`](#{_anchor(entry.name)}) | `{_built_in(kind)}` | {codes} |\n"


def _anchor(heading):
    """Return the anchor of a heading.

    >>> _anchor("CKB-130 (interrupted)")
    'ckb-130-interrupted'
    """
    return "".join(c for c in heading.lower().replace(" ", "-") if c.isalnum() or c in "-_")


def _section(entry, heading, facts=""):
    parts = [f"\n## {heading}\n\n{entry.cause}{facts}\n"]
    if entry.remark:
        parts.append(f"\n{entry.remark}\n")
    if entry.example:
        ended = outcome_of(entry)
        assert type(ended).__name__ == entry.name, f"{entry.name}: the example ends with {ended!r}"
        parts.append(f"\n```python\n{entry.example}\n```\n\n```text\n{_wrapped(ended)}\n```\n")
    parts.append(f"\n**The way out**: {entry.way_out}\n")
    return "".join(parts)


def _wrapped(ended):
    """Return what an example ends with as a terminal shows it, in lines of at most 92 characters."""
    lines = f"{type(ended).__name__}: {ended}".strip("\n").splitlines()
    return "\n".join(
        textwrap.fill(line, 92, subsequent_indent=_indent(line), break_on_hyphens=False) for line in lines
    )


def _indent(line):
    return " " * (len(line) - len(line.lstrip()))
