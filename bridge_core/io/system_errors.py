"""Turns errors of the system into errors that name the file and what was being done."""

from __future__ import annotations

import os
from types import TracebackType

from bridge_core.error_base import Named
from bridge_core.errors import BridgeError, OutOfMemory, SystemFailure

__all__ = ["system_failures"]


class system_failures:
    """Turns `OSError` into `SystemFailure`, and `MemoryError` into `OutOfMemory`.

    A class, since entering a generator costs more, and writers enter it for every block.

    Args:
        path: The file or folder that errors name.
        doing: What was being done, or by whom: ``"writing"``.
        foreign: Whether the code of another library runs. Its `OSError` without a number is the library's own
            and passes unchanged; one with a file name is reported for that file.

    Raises:
        SystemFailure: For `OSError`; `PermissionDenied` where permission is missing.
        OutOfMemory: For `MemoryError`.
    """

    __slots__ = ("_doing", "_foreign", "_path")

    def __init__(self, path: str | os.PathLike[str] | Named, doing: str, *, foreign: bool = False) -> None:
        self._path = path
        self._doing = doing
        self._foreign = foreign

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, BridgeError):
            return
        if isinstance(error, MemoryError):
            raise OutOfMemory(f"{self._doing} needs more memory than there is.", path=self._path) from error
        if isinstance(error, OSError) and not (self._foreign and error.errno is None):
            path = error.filename if self._foreign and error.filename else self._path
            raise SystemFailure.of(error, f"{self._doing} failed", path=path) from error
