"""Failures: of the call (exit code 2), of the input (3) and of the machine (4)."""

from __future__ import annotations

import errno
import os
from typing import ClassVar

from bridge_core.errors.base import BridgeError

__all__ = [
    "BadInputError",
    "IntegrityError",
    "KeyConflict",
    "LimitExceeded",
    "MalformedFile",
    "MissingDependency",
    "OutOfMemory",
    "PermissionDenied",
    "ShardError",
    "SourceIsFolder",
    "SourceNotFound",
    "SystemFailure",
    "TruncatedFile",
    "UnknownKey",
    "UnsafeFile",
    "UnsupportedFeature",
    "UsageError",
]


class UsageError(BridgeError, ValueError):
    """The call itself makes no sense: an unknown name, two options that exclude each other."""

    code: ClassVar[str] = "CKB-200"
    exit_code: ClassVar[int] = 2


class SourceNotFound(UsageError, FileNotFoundError):
    """The file or folder to read does not exist."""

    code: ClassVar[str] = "CKB-202"


class UnknownKey(UsageError, KeyError):
    """A state holds no tensor of that name."""

    code: ClassVar[str] = "CKB-203"


class MissingDependency(UsageError, ImportError):  # type: ignore[misc] # both have a path: the file
    """An optional package is needed and not installed."""

    code: ClassVar[str] = "CKB-201"


class BadInputError(BridgeError):
    """The input is damaged, unsafe or beyond what is supported."""

    code: ClassVar[str] = "CKB-300"
    exit_code: ClassVar[int] = 3


class MalformedFile(BadInputError, ValueError):
    """The bytes break the rules of their format."""

    code: ClassVar[str] = "CKB-301"


class TruncatedFile(MalformedFile, EOFError):
    """The file ends before its own header says so."""

    code: ClassVar[str] = "CKB-302"


class SourceIsFolder(MalformedFile, IsADirectoryError):
    """A folder was given where one file is to be read."""

    code: ClassVar[str] = "CKB-310"


class IntegrityError(BadInputError):
    """A checksum differs, or the file changed while it was read."""

    code: ClassVar[str] = "CKB-303"


class UnsafeFile(BadInputError):
    """The file asks for something no weights need: code, or files elsewhere."""

    code: ClassVar[str] = "CKB-304"


class LimitExceeded(BadInputError):
    """The input claims more memory, depth or entries than it can have a reason for."""

    code: ClassVar[str] = "CKB-305"


class OutOfMemory(LimitExceeded, MemoryError):
    """The system gave no memory for what the input asks for."""

    code: ClassVar[str] = "CKB-306"


class UnsupportedFeature(BadInputError):
    """A dtype, protocol or kind that is valid elsewhere and not supported here."""

    code: ClassVar[str] = "CKB-307"


class KeyConflict(BadInputError, ValueError):
    """Two tensors share one name, or a name is reserved."""

    code: ClassVar[str] = "CKB-308"


class ShardError(BadInputError, ValueError):
    """An index and its shards disagree."""

    code: ClassVar[str] = "CKB-309"


class SystemFailure(BridgeError, OSError):
    """The machine failed: disk, permission or memory. `errno` is the system's number, if there is one."""

    code: ClassVar[str] = "CKB-400"
    exit_code: ClassVar[int] = 4

    @classmethod
    def of(
        cls, error: OSError, what: str, *, path: str | os.PathLike[str] | None = None, hint: str | None = None
    ) -> SystemFailure:
        """Return the error for one of the system; `PermissionDenied` where that is its cause.

        Args:
            error: What the system raised.
            what: What failed, as a subject and a verb: ``"opening the file failed"``.
            path: The file or folder.
            hint: What the user can do.
        """
        denied = error.errno in (errno.EACCES, errno.EPERM)
        kind = PermissionDenied if denied and cls is SystemFailure else cls
        failure = kind(f"{what}: {error.strerror or error}.", path=path, hint=hint)
        failure.errno, failure.strerror, failure.filename = error.errno, error.strerror, error.filename
        return failure


class PermissionDenied(SystemFailure, PermissionError):
    """The system does not permit reading or writing."""

    code: ClassVar[str] = "CKB-401"
