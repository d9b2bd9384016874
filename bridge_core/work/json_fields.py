"""Reads the fields of our own JSON documents, which a user may have edited or damaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bridge_core.errors import MalformedFile
from bridge_core.io import parse_json
from bridge_core.messages import shown

__all__ = ["Fields"]

_HEX = frozenset("0123456789abcdef")


class Fields:
    """The fields of one JSON object, read with their types.

    Args:
        fields: The object.
        path: The file that it is from.
        what: What it is, for errors, such as ``"the work list"``.
        hint: What to do about a file that is not valid.
    """

    def __init__(self, fields: Mapping[str, Any], path: str, what: str, hint: str) -> None:
        self._fields, self._path, self._what, self._hint = fields, path, what, hint

    @classmethod
    def of_text(
        cls, text: str | bytes, *, path: str, what: str, kind: str, version: int, hint: str
    ) -> Fields:
        """Return the fields of a document of a kind, if its version is known.

        Raises:
            MalformedFile: It is not a JSON object, has another kind, or has no version or another one.
        """
        fields = cls(parse_json(text, path=path, what=what), path, what, hint)
        got = fields.number("version")
        if got != version:
            raise MalformedFile(
                f"expected version {version} of {what}, got {got}.",
                path=path,
                hint="Use the version of ckptbridge that wrote it.",
            )
        if fields.text("kind") != kind:
            raise fields.error(f"its kind is not {kind!r}")
        return fields

    def has(self, name: str) -> bool:
        """Return whether a field is there."""
        return name in self._fields

    def text(self, name: str) -> str:
        """Return a text."""
        value: str = self._typed(name, str, "a text")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a text, or None where the field is null or missing."""
        return None if self._fields.get(name) is None else self.text(name)

    def digest(self, name: str) -> str:
        """Return a SHA-256 in lower-case hexadecimal."""
        text = self.text(name)
        if len(text) != 64 or not _HEX.issuperset(text):
            raise self._error(name, "a SHA-256 of 64 hexadecimal digits", text)
        return text

    def number(self, name: str) -> int:
        """Return an integer from zero up."""
        value = self._fields.get(name)
        if type(value) is not int or value < 0:
            raise self._error(name, "an integer of at least 0", value)
        return value

    def optional_number(self, name: str) -> int | None:
        """Return an integer from zero up, or None where the field is null or missing."""
        return None if self._fields.get(name) is None else self.number(name)

    def object(self, name: str) -> Fields:
        """Return the fields of an object."""
        return self._inner(self._typed(name, dict, "an object"))

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object as plain data."""
        return dict(self._typed(name, dict, "an object"))

    def texts_by_name(self, name: str) -> dict[str, str]:
        """Return an object whose values are texts."""
        values = self.mapping(name)
        if not all(isinstance(value, str) for value in values.values()):
            raise self._error(name, "an object whose values are texts", values)
        return values

    def objects_by_name(self, name: str) -> dict[str, Fields]:
        """Return an object whose values are objects."""
        values = self.mapping(name)
        if not all(isinstance(value, dict) for value in values.values()):
            raise self._error(name, "an object whose values are objects", values)
        return {key: self._inner(value) for key, value in values.items()}

    def objects(self, name: str) -> list[Fields]:
        """Return a list of objects."""
        values = self._typed(name, list, "a list of objects")
        if not all(isinstance(value, dict) for value in values):
            raise self._error(name, "a list of objects", values)
        return [self._inner(value) for value in values]

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        values = self._typed(name, list, "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self._error(name, "a list of texts", values)
        return tuple(values)

    def numbers(self, name: str) -> tuple[int, ...]:
        """Return a list of integers."""
        values = self._typed(name, list, "a list of integers")
        if not all(type(value) is int for value in values):
            raise self._error(name, "a list of integers", values)
        return tuple(values)

    def number_lists(self, name: str) -> tuple[tuple[int, ...], ...]:
        """Return a list of lists of integers."""
        values = self._typed(name, list, "a list of lists of integers")
        if not all(isinstance(row, list) and all(type(number) is int for number in row) for row in values):
            raise self._error(name, "a list of lists of integers", values)
        return tuple(map(tuple, values))

    def error(self, problem: str) -> MalformedFile:
        """Return the error that a field contradicts another one."""
        return MalformedFile(f"{self._what} is not valid: {problem}.", path=self._path, hint=self._hint)

    def _inner(self, fields: Mapping[str, Any]) -> Fields:
        return Fields(fields, self._path, self._what, self._hint)

    def _typed(self, name: str, kind: type, expected: str) -> Any:
        value = self._fields.get(name)
        if not isinstance(value, kind):
            raise self._error(name, expected, value)
        return value

    def _error(self, name: str, expected: str, value: Any) -> MalformedFile:
        if name not in self._fields:
            return self.error(f"{name!r} is missing")
        return self.error(f"expected {expected} as {name!r}, got {shown(value)}")
