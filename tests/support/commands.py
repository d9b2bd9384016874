"""A command that is refused: its exit code, its code and the things that it names, not its sentences."""

from __future__ import annotations

import re
from typing import Any

from bridge_core.errors import BridgeError

__all__ = ["assert_names", "assert_refused"]


def assert_names(text: str, *named: object) -> None:
    """Check that a text names these things, in any order."""
    joined = " ".join(text.split())
    missing = [str(thing) for thing in named if str(thing) not in joined]
    assert not missing, f"the text does not name {missing}: {joined}"


def assert_refused(result: Any, kind: type[BridgeError], *named: object) -> None:
    """Check that a command ended with an error of exactly this class.

    Args:
        result: How it ended: a namespace with `code` and `err`, or the result of click or of a process.
        kind: The class, and so the exit code and the code on stderr.
        named: What stderr names: keys, files, numbers, options, names of things.
    """
    status, err = (
        next(getattr(result, name) for name in names if hasattr(result, name))
        for names in (("code", "exit_code", "returncode"), ("err", "stderr"))
    )
    assert status == kind.exit_code, err
    assert "Traceback" not in err
    assert re.findall(r"\[(CKB-\d{3})\]", err) == [kind.code], err
    assert_names(err, *named)
