"""What every error has: a code, a place, a hint, and a form in JSON."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "about_tensor",
    "BridgeError",
]


class BridgeError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: What failed, what was expected and what was got, as a sentence that needs no prefix.
        path: The file or folder it is about.
        key: The tensor it is about, as a tuple key or a flat name.
        plugin: The plugin it is about.
        hint: What the user can do, as an imperative; shown after the message. It names arguments of Python
            with the option of the command in brackets, ``like="a.safetensors" (--like)``; the command shows
            the option only.

    Attributes:
        code: The stable code of the class, such as ``"CKB-109"``.
        exit_code: What the command returns.
        options: Options of the command that are most likely to go on, the safest first.
    """

    code: ClassVar[str] = "CKB-001"
    exit_code: ClassVar[int] = 1
    options: tuple[str, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | None = None,
        key: tuple[str, ...] | str | None = None,
        plugin: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.key = key
        self.plugin = plugin
        self.hint = hint

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors that the error is about, joined by dots."""
        if self.key is None:
            return ()
        return (self.key if isinstance(self.key, str) else ".".join(self.key),)

    @property
    def statement(self) -> str:
        """Where and what, without the code and the hint."""
        where = f"{self.path}: " if self.path is not None else ""
        if self.key is not None:
            name = self.key if isinstance(self.key, str) else ".".join(self.key)
            where += f"tensor {name!r}: "
        if self.plugin is not None:
            where += f"plugin {self.plugin}: "
        return f"{where}{self.message}"

    def __str__(self) -> str:
        """Return one paragraph: where, what, what to do, and the code."""
        if not self.hint:
            return f"{self.statement} [{self.code}]"
        if self.hint.startswith("\n"):
            return f"{self.statement} [{self.code}]{self.hint}"
        return f"{self.statement} {self.hint} [{self.code}]"

    def to_json(self, command: Sequence[str] = ()) -> dict[str, Any]:
        """Return the error as a JSON object; ``docs/schemas/error.json`` describes it.

        Args:
            command: The words of the command that failed, the program first; each entry of ``next`` adds an
                option to it.
        """
        ways = [option.split(" ", 1) for option in self.options] if command else []
        return {
            "code": self.code,
            "message": self.statement,
            "keys": list(self.keys),
            "path": None if self.path is None else os.fspath(self.path),
            "hint": self.hint.strip() if self.hint else None,
            "next": [[*command, *words] for words in ways if words[0] not in command],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # The default forgets arguments by keyword; some built-in classes hold these outside __dict__.
        fields = {name: getattr(self, name) for name in _FIELDS if hasattr(self, name)}
        return _restored, (type(self), self.args, {**fields, **self.__dict__})


_FIELDS = ("message", "path", "key", "plugin", "hint", "errno", "strerror", "filename")


def _restored(kind: type[BridgeError], args: tuple[Any, ...], fields: dict[str, Any]) -> BridgeError:
    # The first built-in base of a class need not be the one that gives it its form, as OSError does.
    error: BridgeError = (OSError if issubclass(kind, OSError) else Exception).__new__(kind, *args)
    error.args = args
    for name, value in fields.items():
        setattr(error, name, value)
    return error


class about_tensor:
    """Adds a tensor's key to the errors raised within that have none.

    Args:
        key: The key, or a name.
    """

    def __init__(self, key: tuple[str, ...] | str) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, BridgeError) and error.key is None:
            error.key = self._key
