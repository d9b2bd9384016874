"""Turns the errors of tensorstore into ours, which name the folder that was being written."""

from __future__ import annotations

import os
from types import TracebackType

from bridge_core import BridgeError, SystemFailure
from bridge_core.io import system_failures
from ckptbridge_orbax.tensorstore_module import os_error_of

__all__ = ["write_failures"]

_RAISED = (ValueError, RuntimeError, LookupError)
"""What tensorstore raises for a status."""


class write_failures(system_failures):
    """Turns errors of tensorstore into `SystemFailure`, with the system's number if the message names it.

    Args:
        path: The folder that errors name.
    """

    __slots__ = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, "writing", foreign=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, _RAISED) and not isinstance(error, BridgeError):
            text = " ".join(str(error).split())
            cause = os_error_of(text) or OSError(text[:300].rstrip(".") or type(error).__name__)
            raise SystemFailure.of(cause, "writing failed", path=self._path) from error
