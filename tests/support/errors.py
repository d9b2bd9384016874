"""Expecting an error by its class and by the things that it names, not by its sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from bridge_core.errors import BridgeError


class OutputsDiffer(AssertionError):
    """Two models, or two forms of one, give different outputs."""


@contextlib.contextmanager
def refused(
    kind: type[BridgeError], *named: object, hint: str | tuple[str, ...] = (), key: object = None
) -> Iterator[Any]:
    """Expect an error of exactly this class.

    Args:
        kind: The class, and so the code.
        named: What the message names: keys, files, numbers, options, names of things; in any order.
        hint: What the hint names: arguments, options, commands.
        key: The tensor that the error carries.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert type(error) is kind, f"{type(error).__name__}, not {kind.__name__}: {error}"
    text = " ".join(str(error).split())
    missing = [str(thing) for thing in named if str(thing) not in text]
    assert not missing, f"the error does not name {missing}: {text}"
    for thing in (hint,) if isinstance(hint, str) else hint:
        assert thing in (error.hint or ""), f"the hint does not name {thing!r}: {error.hint!r}"
    if key is not None:
        assert error.key == key, f"the error is about {error.key!r}, not {key!r}"
