"""Turns the errors of tensorstore into ours, which name the folder that was being written."""

from __future__ import annotations

import os
import re
from types import TracebackType
from typing import Any

from bridge_core import BridgeError, MissingDependency, SystemFailure
from bridge_core.io import system_failures

__all__ = ["tensorstore_to_write", "write_failures"]

_NUMBER = re.compile(r"os_error_code='(\d+)'|\[OS error (\d+)")

_RAISED = (ValueError, RuntimeError, LookupError)
"""What tensorstore raises for a status."""


def tensorstore_to_write() -> Any:
    """Return the module tensorstore.

    Raises:
        MissingDependency: It cannot be imported.
    """
    try:
        import tensorstore
    except ImportError as err:
        raise MissingDependency(
            f"writing Orbax checkpoints needs tensorstore, and importing it failed: {err}.",
            hint="Run: pip install --force-reinstall tensorstore",
        ) from err
    return tensorstore


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
            if (match := _NUMBER.search(text)) is not None:
                number = int(match[1] or match[2])
                cause = OSError(number, os.strerror(number))
            else:
                cause = OSError(text[:300].rstrip(".") or type(error).__name__)
            raise SystemFailure.of(cause, "writing failed", path=self._path) from error
