"""The schema of the metadata text in files, checked before anything is used.

Fields that the schema does not name are ignored: a later version may have added them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

from bridge_core.errors import BridgeError, MalformedFile
from bridge_core.messages import shown
from bridge_core.state.dtypes import MAX_RANK, dtype_named

__all__ = [
    "STALE",
    "VERSION",
    "Misfit",
    "check_auxiliary",
    "check_layer",
    "check_rule",
    "check_schema",
    "check_separator",
]

VERSION = 1

STALE = (
    "Another program may have edited the file. Convert the unedited file, or write the edited tensors again "
    "without the metadata 'ckptbridge', and pass layout=\"...\" (--layout)."
)
"""The hint about metadata that is damaged, or that does not match the tensors of its file."""

_LARGEST_SIZE = (1 << 63) - 1

Check = Callable[[Any, str], None]
"""Checks one value: called with the value and its place in the text, raises `Misfit`."""


class Misfit(Exception):
    """A value that the schema does not allow.

    Args:
        where: The place of the value; empty for the complete document.
        expected: What was expected, with its article.
        value: The value.
    """

    def __init__(self, where: str, expected: str, value: object) -> None:
        super().__init__(f"expected {expected} for {where or 'the document'}, got {shown(value)}")


def check_schema(document: Mapping[str, Any], path: str) -> None:
    """Check all of the JSON document of a file's metadata.

    Args:
        document: The document.
        path: The file, for errors; empty if unknown.

    Raises:
        MalformedFile: The version is not 1, or a value does not follow the schema.
    """
    version = document.get("version", 0)
    if type(version) is not int or version != VERSION:
        raise MalformedFile(
            f"expected metadata of version {VERSION}, got version {shown(version)}.",
            path=path or None,
            hint="Install a newer ckptbridge: pip install -U ckptbridge",
        )
    try:
        _DOCUMENT(document, "")
        _check_paths(document.get("layers", ()))
    except Misfit as err:
        raise MalformedFile(f"the metadata is damaged: {err}.", path=path or None, hint=STALE) from None


def _check_paths(groups: Iterable[Mapping[str, Any]]) -> None:
    """Check that no layer is described twice."""
    seen: set[str] = set()
    for number, group in enumerate(groups):
        for path in group["paths"]:
            if path in seen:
                raise Misfit(f"layers[{number}].paths", "each layer once", path)
            seen.add(path)


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise Misfit(where, "a text", value)


def _name(value: Any, where: str) -> None:
    _text(value, where)
    if not value:
        raise Misfit(where, "the name of a tensor", value)


def check_separator(value: Any, where: str) -> None:
    """Check what joins the parts of names in a flat file."""
    if value not in (".", "/"):
        raise Misfit(where, "'.' or '/'", value)


def _boolean(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise Misfit(where, "true or false", value)


def _size(value: Any, where: str) -> None:
    if type(value) is not int or not 0 <= value <= _LARGEST_SIZE:
        raise Misfit(where, "a size", value)


def _object(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise Misfit(where, "an object", value)


def _or_null(check: Check) -> Check:
    def checked(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return checked


def _list_of(check: Check, what: str) -> Check:
    def checked(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise Misfit(where, f"a list of {what}", value)
        for number, item in enumerate(value):
            check(item, f"{where}[{number}]")

    return checked


def _map_of(check: Check, what: str, *, names: Check = _text) -> Check:
    def checked(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise Misfit(where, f"an object of {what}", value)
        for name, item in value.items():
            names(name, f"a name in {where}")
            check(item, f"{where}[{name!r}]")

    return checked


def _fields(checks: Mapping[str, Check], *, required: tuple[str, ...] = ()) -> Check:
    def checked(value: Any, where: str) -> None:
        _object(value, where)
        for name in required:
            if name not in value:
                raise Misfit(where, f"an object with {name!r}", value)
        for name, check in checks.items():
            if name in value:
                check(value[name], f"{where}.{name}" if where else name)

    return checked


def check_auxiliary(value: Any, where: str) -> None:
    """Check dtype, shape and bytes of an auxiliary tensor."""
    if not isinstance(value, list) or len(value) != 3:
        raise Misfit(where, "[dtype, shape, bytes in hexadecimal]", value)
    dtype, shape, data = value
    _text(dtype, f"{where}[0]")
    _SIZES(shape, f"{where}[1]")
    _text(data, f"{where}[2]")
    if len(shape) > MAX_RANK:
        raise Misfit(f"{where}[1]", f"at most {MAX_RANK} axes", shape)
    try:
        itemsize = dtype_named(dtype).itemsize
    except BridgeError:
        raise Misfit(f"{where}[0]", "the name of a dtype", dtype) from None
    try:
        nbytes = len(bytes.fromhex(data))
    except ValueError:
        raise Misfit(f"{where}[2]", "bytes in hexadecimal", data) from None
    if nbytes != prod(shape) * itemsize:
        raise Misfit(where, f"{prod(shape) * itemsize} bytes ({dtype}{shape})", nbytes)


def _layouts(value: Any, where: str) -> None:
    _TEXTS(value, where)
    if len(value) != 2 or not value[0]:
        raise Misfit(where, "two layouts", value)


_TEXTS = _list_of(_text, "texts")
_SIZES = _list_of(_size, "sizes")


def _split(value: Any, where: str) -> None:
    _SIZES(value, where)
    if len(value) > MAX_RANK:
        raise Misfit(where, f"at most {MAX_RANK} sizes", value)


_NAMED_TEXTS = _map_of(_text, "texts")

check_layer = _fields(
    {
        "kind": _or_null(_text),
        "evidence": _text,
        "leaves": _TEXTS,
        "candidates": _TEXTS,
        "forms": _NAMED_TEXTS,
        "factors": _map_of(_split, "sizes"),
        "unclaimed": _TEXTS,
        "origin": _text,
        "doubted": _boolean,
        "paths": _TEXTS,
    },
    required=("paths",),
)
"""Checks the record of the layers at some paths."""

check_rule = _fields(
    {"rule": _object, "layouts": _layouts, "label": _text, "pending": _TEXTS},
    required=("rule", "layouts"),
)
"""Checks the record of a rule."""

_DOCUMENT = _fields(
    {
        "layout": _or_null(_text),
        "escaped_names": _boolean,
        "layers": _list_of(check_layer, "layers"),
        "ties": _map_of(_name, "names of tensors", names=_name),
        "collections": _NAMED_TEXTS,
        "residuals": _map_of(check_auxiliary, "auxiliary tensors", names=_name),
        "empty": _TEXTS,
        "forms": _NAMED_TEXTS,
        "rules": _list_of(check_rule, "rules"),
        "providers": _NAMED_TEXTS,
        "separators": _map_of(check_separator, "separators"),
        "boxes": _map_of(_list_of(_name, "names of tensors"), "lists", names=_name),
    }
)
