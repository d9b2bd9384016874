"""A parser for untrusted JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from bridge_core.errors import KeyConflict, MalformedFile

__all__ = ["parse_json"]


def parse_json(
    text: str | bytes,
    *,
    path: str,
    what: str,
    shrink: Callable[[dict[str, Any]], Any] | None = None,
    constants: bool = False,
) -> dict[str, Any]:
    """Parse a JSON object from an untrusted file.

    Args:
        text: The text, or its UTF-8 bytes.
        path: The file, for errors.
        what: What the text is, for errors.
        shrink: Called with each object when it is parsed, innermost first; its result replaces the object,
            so that a long text needs little memory.
        constants: Whether ``NaN``, ``Infinity`` and ``-Infinity`` are read, which JSON does not have and
            Python's own writer makes.

    Returns:
        The object, or what ``shrink`` makes of it if that is a dict, too.

    Raises:
        MalformedFile: The text is not UTF-8, not JSON, not an object or nested too deeply, or has a number of
            very many digits or a constant that is not to be read.
        KeyConflict: An object has a name twice.
    """

    def no_duplicates(pairs: list[tuple[str, Any]]) -> Any:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise _DuplicateName(name)
                seen.add(name)
        return result if shrink is None else shrink(result)

    def constant(name: str) -> float:
        if not constants:
            raise _Constant(f"{name} is not a JSON number")
        return float(name)

    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        document = json.loads(text, object_pairs_hook=no_duplicates, parse_constant=constant)
    except _DuplicateName as err:
        raise KeyConflict(f"{what} has the name {err.args[0]!r} twice in one object.", path=path) from None
    except RecursionError:
        raise MalformedFile(f"{what} is not valid JSON: it is nested too deeply.", path=path) from None
    except ValueError as err:
        is_named = isinstance(err, json.JSONDecodeError | UnicodeDecodeError | _Constant)
        problem = str(err) if is_named else f"a number has more than {sys.get_int_max_str_digits()} digits"
        hint = "The file is damaged: fetch it again."
        raise MalformedFile(f"{what} is not valid JSON: {problem}.", path=path, hint=hint) from err
    if not isinstance(document, dict):
        kind = {"NoneType": "null", "str": "string", "bool": "truth value"}.get(type(document).__name__)
        kind = kind or ("list" if isinstance(document, list) else "number")
        raise MalformedFile(f"{what} is a JSON {kind}, not an object.", path=path)
    return document


class _DuplicateName(Exception):
    """Carries a duplicate out of the JSON parser."""


class _Constant(ValueError):
    """NaN or Infinity, which Python's parser would read."""
