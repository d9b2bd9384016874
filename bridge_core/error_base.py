"""The base of every error, and what all errors have in common for programs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

__all__ = ["about_tensor", "BridgeError", "Named"]


class Named(Protocol):
    """What errors name as they do a path: a file or folder at a URL, which is shown without credentials."""

    def as_posix(self) -> str:
        """Return the text that is shown."""
        ...


class BridgeError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: What failed, what was expected and what was got, as a sentence that needs no prefix.
        path: The file or folder it is about.
        key: The tensor it is about, as a tuple key or a flat name.
        plugin: The plugin it is about.
        hint: What the user can do, as an imperative. It names arguments of Python with the option of the
            command in brackets, ``like="a.safetensors" (--like)``; the command shows the option only.
        options: Options of the command that are most likely to go on, the safest first.

    Attributes:
        code: The stable code of the class, such as ``"CKB-109"``.
        exit_code: What the command returns.
    """

    code: ClassVar[str] = "CKB-001"
    exit_code: ClassVar[int] = 1
    _lists: ClassVar[tuple[str, ...]] = ()
    _errno: ClassVar[int | None] = None

    def __init_subclass__(
        cls, *, code: str = "", exit_code: int = 0, lists: tuple[str, ...] = (), number: int | None = None
    ) -> None:
        super().__init_subclass__()
        cls.code = code or cls.code
        cls.exit_code = exit_code or cls.exit_code
        cls._lists = lists or cls._lists
        cls._errno = number or cls._errno

    def __init__(
        self,
        message: str,
        *,
        path: str | os.PathLike[str] | Named | None = None,
        key: tuple[str, ...] | str | None = None,
        plugin: str | None = None,
        hint: str | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message, self.hint, self.options = message, hint, options
        if not (path is None or isinstance(path, str | os.PathLike)):
            path = path.as_posix()
        self.path, self.key, self.plugin = path, key, plugin
        for name, value in (("errno", self._errno), ("filename", path)) if isinstance(self, OSError) else ():
            setattr(self, name, value)

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors that the error is about, joined by dots, without shapes."""
        if self._lists:
            return tuple(name.split(": ", 1)[0] for field in self._lists for name in getattr(self, field))
        return () if self.key is None else (self.key if isinstance(self.key, str) else ".".join(self.key),)

    @property
    def statement(self) -> str:
        """Where and what, without the code and the hint."""
        where = f"{self.path}: " if self.path is not None else ""
        if self.key is not None:
            where += f"tensor {self.key if isinstance(self.key, str) else '.'.join(self.key)!r}: "
        if self.plugin is not None:
            where += f"plugin {self.plugin}: "
        return f"{where}{self.message}"

    def __str__(self) -> str:
        """Return one paragraph: where, what, what to do, and the code."""
        if self.hint and not self.hint.startswith("\n"):
            return f"{self.statement} {self.hint} [{self.code}]"
        return f"{self.statement} [{self.code}]{self.hint or ''}"

    def to_json(self, command: Sequence[str] = ()) -> dict[str, Any]:
        """Return the error as a JSON object; ``docs/schemas/error.json`` describes it.

        Args:
            command: The words of the command that failed; each entry of ``next`` adds an option to them.
        """
        import shlex  # errors are imported by every command

        ways = [shlex.split(option) for option in self.options] if command else []
        return {
            "code": self.code,
            "message": self.statement,
            "keys": list(self.keys),
            "path": None if self.path is None else os.fspath(self.path),
            "hint": self.hint.strip() if self.hint else None,
            "next": [[*command, *words] for words in ways if words[0] not in command],
            **({"proposed_rules": rules} if (rules := getattr(self, "proposed_rules", "")) else {}),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # The default forgets arguments by keyword; some built-in classes hold these outside __dict__.
        names = ("args", "message", "path", "key", "plugin", "hint", "errno", "strerror", "filename")
        fields = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return _restored, (type(self), self.args, {**fields, **self.__dict__})


def _restored(kind: type[BridgeError], args: tuple[Any, ...], fields: dict[str, Any]) -> BridgeError:
    # Python's look-up may find the __new__ of ValueError, which refuses to make a kind of OSError.
    error: BridgeError = (OSError if issubclass(kind, OSError) else Exception).__new__(kind, *args)
    for name, value in fields.items():
        setattr(error, name, value)
    return error


class about_tensor:
    """Adds a tensor's key, or a name, to the errors raised within that have none."""

    def __init__(self, key: tuple[str, ...] | str) -> None:
        self._key = key

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, BridgeError) and error.key is None:
            error.key = self._key
