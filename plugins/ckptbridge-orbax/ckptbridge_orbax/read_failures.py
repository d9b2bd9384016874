"""Turns the errors of tensorstore into ours, which name the checkpoint and the tensor."""

from __future__ import annotations

import os
import re
from types import TracebackType

from bridge_core import (
    BridgeError,
    IntegrityError,
    Key,
    MalformedFile,
    SystemFailure,
    TruncatedFile,
    UnsupportedFeature,
)
from bridge_core.io import system_failures
from ckptbridge_orbax.tensorstore_module import os_error_of

__all__ = ["read_failures"]

_CODE = re.compile(r"([A-Z_]{4,24}): ")
_SPEC = re.compile(r" ?\[(?:tensorstore_spec|source locations)=.*", re.DOTALL)
_TOO_SHORT = re.compile(
    r"[Tt]runcated|not valid for value of size|does not match actual length|minimum length"
)
_DAMAGED = ("DATA_LOSS", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND", "OUT_OF_RANGE")
_FETCH = "Copy or download the checkpoint again."


class read_failures(system_failures):
    """Turns what tensorstore raises into one of our errors.

    Args:
        path: The checkpoint.
        key: The tensor that is read; None for all of them.

    Raises:
        IntegrityError: A checksum differs, or data cannot be decoded.
        TruncatedFile: A file is shorter than the database declares.
        MalformedFile: A file is missing.
        UnsupportedFeature: tensorstore does not support what a file asks for.
        SystemFailure: The system failed; as in `system_failures`.
    """

    __slots__ = ("_key",)

    def __init__(self, path: str | os.PathLike[str], key: Key | None = None) -> None:
        super().__init__(path, "reading")
        self._key = key

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, Exception) and not isinstance(error, BridgeError):
            raise self._error(error) from error

    def _error(self, error: Exception) -> BridgeError:
        message = str(error)
        code = _CODE.match(message)
        text = " ".join(_SPEC.sub("", message[code.end() :] if code else message).split())[:400]
        # The code of an invalid argument is not in the text.
        name = (
            code[1] if code else "INVALID_ARGUMENT" if isinstance(error, ValueError | OverflowError) else ""
        )
        cause = os_error_of(message)
        if cause is not None and name != "NOT_FOUND":
            return SystemFailure.of(cause, "reading failed", path=self._path)
        kind: type[BridgeError] = SystemFailure
        problem = f"reading failed: {text}."
        if name in _DAMAGED:
            if _TOO_SHORT.search(text) or name == "OUT_OF_RANGE":
                kind, problem = TruncatedFile, f"a file of the checkpoint is too short: {text}."
            elif name == "NOT_FOUND":
                kind, problem = MalformedFile, f"a file of the checkpoint is missing: {text}."
            else:
                kind, problem = IntegrityError, f"the stored data is damaged: {text}."
        elif name == "UNIMPLEMENTED":
            kind, problem = UnsupportedFeature, f"tensorstore does not support what is stored: {text}."
        hint = _FETCH if name in _DAMAGED else None
        return kind(problem, path=self._path, key=self._key, hint=hint)
