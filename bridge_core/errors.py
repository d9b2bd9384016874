"""Every error and warning that the bridge raises on purpose.

A caller needs one ``except BridgeError``; the command maps each class to an exit code. Each class has a
stable code, listed in ``docs/errors.md``, and is also the built-in class that fits it, so that
``except FileNotFoundError`` works. What an error is about is in its attributes: programs parse no messages.
"""

from __future__ import annotations

import errno
import os
from typing import Any

from bridge_core.error_base import BridgeError, Named, about_tensor

__all__ = [
    "about_tensor",
    "AccessDenied",
    "AmbiguousLayerError",
    "BadInputError",
    "BridgeError",
    "BridgeWarning",
    "ConversionError",
    "ConversionWarning",
    "DeprecatedName",
    "DestinationExists",
    "DestinationIsFolder",
    "FileWarning",
    "IntegrityError",
    "KeyConflict",
    "LimitExceeded",
    "LossyCastError",
    "MalformedFile",
    "MismatchError",
    "MissingDependency",
    "NeedsLocalPath",
    "OutOfMemory",
    "PermissionDenied",
    "PlanError",
    "PluginConflict",
    "PluginError",
    "PluginWarning",
    "RecipeRequired",
    "RemoteFailure",
    "RuleError",
    "ShardError",
    "SourceIsFolder",
    "SourceNotFound",
    "SystemFailure",
    "TruncatedFile",
    "UnclaimedTensorError",
    "UnknownKey",
    "UnsafeFile",
    "UnsupportedFeature",
    "UnsupportedLayerError",
    "UsageError",
    "VerificationError",
]

Keys = tuple[str, ...]


class UsageError(BridgeError, ValueError, code="CKB-200", exit_code=2):
    """The call itself makes no sense: an unknown name, two options that exclude each other."""


class SourceNotFound(UsageError, FileNotFoundError, code="CKB-202", number=errno.ENOENT):
    """The file or folder to read does not exist."""


class UnknownKey(UsageError, KeyError, code="CKB-203"):
    """A state holds no tensor of that name."""


class MissingDependency(UsageError, ImportError, code="CKB-201"):  # type: ignore[misc] # two kinds of path
    """An optional package is needed and not installed."""


class NeedsLocalPath(UsageError, code="CKB-204"):
    """A file or folder is at a URL, and its format or the call needs one on this machine."""


class ConversionError(BridgeError, code="CKB-100"):
    """The conversion was refused, because going on could give wrong weights."""


class PlanError(ConversionError, ValueError, code="CKB-101"):
    """A plan, or a chain of ops in it, is inconsistent in itself."""


class RuleError(ConversionError, ValueError, code="CKB-102"):
    """A rule is wrong, matches nothing, or matches what another rule matches."""


class MismatchError(
    ConversionError, ValueError, code="CKB-103", lists=("missing", "unexpected", "mismatched")
):
    """Source and target do not match: missing or unexpected keys, or other shapes.

    Attributes:
        missing: Names of target tensors that have no source.
        unexpected: Names of source tensors that have no target.
        mismatched: Tensors with different shapes: name, a colon, and both shapes.
        proposed_rules: Rules as TOML that would pair missing and unexpected; empty if none are known.
    """

    def __init__(
        self, message: str, *, missing: Keys = (), unexpected: Keys = (), mismatched: Keys = (), **more: Any
    ) -> None:
        super().__init__(message, **more)
        self.missing, self.unexpected, self.mismatched = missing, unexpected, mismatched
        self.proposed_rules = ""


class AmbiguousLayerError(ConversionError, ValueError, code="CKB-104", lists=("candidates",)):
    """No evidence decides what kind some layers are.

    Attributes:
        candidates: For each key, the readings that remain possible.
    """

    def __init__(self, message: str, *, candidates: dict[str, tuple[str, ...]], **more: Any) -> None:
        super().__init__(message, **more)
        self.candidates = candidates


class UnclaimedTensorError(ConversionError, ValueError, code="CKB-105", lists=("reasons",)):
    """Tensors with names of layers that no evidence explains; they are not copied.

    Attributes:
        reasons: For each key, why it is not copied.
    """

    def __init__(self, message: str, *, reasons: dict[str, str], **more: Any) -> None:
        super().__init__(message, **more)
        self.reasons = reasons


class UnsupportedLayerError(ConversionError, ValueError, code="CKB-106", lists=("reasons",)):
    """Layers that the target framework has no form for, or that no other framework takes.

    Attributes:
        reasons: For each key, why.
    """

    def __init__(self, message: str, *, reasons: dict[str, str], **more: Any) -> None:
        super().__init__(message, **more)
        self.reasons = reasons


class LossyCastError(ConversionError, ValueError, code="CKB-107"):
    """Values would change, and nobody asked for that."""


class VerificationError(ConversionError, code="CKB-108"):
    """What was written is not what was planned."""


class DestinationExists(ConversionError, FileExistsError, code="CKB-109", number=errno.EEXIST):
    """The destination is there already, or is the source itself."""


class DestinationIsFolder(DestinationExists, IsADirectoryError, code="CKB-110", number=errno.EISDIR):
    """The destination is a folder, and one file is to be written."""


class PluginError(ConversionError, RuntimeError, code="CKB-111"):
    """A plugin broke its contract."""


class PluginConflict(PluginError, code="CKB-112"):
    """Two plugins provide the same name."""


class RecipeRequired(ConversionError, ValueError, code="CKB-113"):
    """The names are those of a model that only a recipe converts to another one."""


class BadInputError(BridgeError, code="CKB-300", exit_code=3):
    """The input is damaged, unsafe or beyond what is supported."""


class MalformedFile(BadInputError, ValueError, code="CKB-301"):
    """The bytes break the rules of their format."""


class TruncatedFile(MalformedFile, code="CKB-302"):
    """The file is shorter than its own header declares."""


class SourceIsFolder(MalformedFile, IsADirectoryError, code="CKB-310", number=errno.EISDIR):
    """A folder was given where one file is to be read."""


class IntegrityError(BadInputError, code="CKB-303"):
    """A checksum differs, or the file changed while it was read."""


class UnsafeFile(BadInputError, code="CKB-304"):
    """The file asks for something no weights need: code, or files elsewhere."""


class LimitExceeded(BadInputError, code="CKB-305"):
    """The input declares more memory, depth or entries than it can have a reason for."""


class OutOfMemory(LimitExceeded, MemoryError, code="CKB-306"):
    """The system gave no memory for what the input asks for."""


class UnsupportedFeature(BadInputError, code="CKB-307"):
    """A dtype, protocol or kind that is valid elsewhere and not supported here."""


class KeyConflict(BadInputError, ValueError, code="CKB-308"):
    """Two tensors share one name, or a name is reserved."""


class ShardError(BadInputError, ValueError, code="CKB-309"):
    """An index and its shards disagree."""


class SystemFailure(BridgeError, OSError, code="CKB-400", exit_code=4):
    """The machine failed: disk, permission or memory. `errno` is the system's number."""

    @classmethod
    def of(
        cls,
        error: OSError,
        what: str,
        *,
        path: str | os.PathLike[str] | Named | None = None,
        hint: str | None = None,
    ) -> SystemFailure:
        """Return the error for one of the system; `PermissionDenied` where that is its cause.

        Args:
            error: What the system raised; an error of ours is returned unchanged.
            what: What failed, as a subject and a verb: ``"opening the file failed"``.
            path: The file or folder.
            hint: What the user can do.
        """
        if isinstance(error, SystemFailure):  # its text names what failed
            return error
        kind = (
            PermissionDenied if cls is SystemFailure and error.errno in (errno.EACCES, errno.EPERM) else cls
        )
        failure = kind(f"{what}: {error.strerror or error}.", path=path, hint=hint)
        failure.errno, failure.strerror, failure.filename = error.errno, error.strerror, error.filename
        return failure


class PermissionDenied(SystemFailure, PermissionError, code="CKB-401", number=errno.EACCES):
    """The system does not permit reading or writing."""


class AccessDenied(PermissionDenied, code="CKB-402"):
    """A server does not permit reading or writing: no credentials, or not enough of them."""


class RemoteFailure(SystemFailure, code="CKB-403", number=errno.EIO):
    """A server cannot be reached, or its answer cannot be used.

    Attributes:
        is_temporary: Whether the same request may succeed later, as after status 503 or a broken connection.
        retry_after: Seconds that the server asks to wait; None if it does not.
    """

    def __init__(
        self, message: str, *, is_temporary: bool = False, retry_after: float | None = None, **more: Any
    ) -> None:
        super().__init__(message, **more)
        self.is_temporary, self.retry_after = is_temporary, retry_after


class BridgeWarning(Warning):
    """Base of every warning issued on purpose.

    Args:
        message: What happened, and what it means for the user.
        code: A stable word for the cause, such as ``"overflow"``; by default that of the class.
    """

    code: str = "warning"

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        super().__init_subclass__()
        cls.code = code or cls.code

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code = message, code or self.code

    def __str__(self) -> str:
        """Return the text with its code."""
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,), {"code": self.code}


class ConversionWarning(BridgeWarning, UserWarning, code="conversion"):
    """Warnings of a conversion into live tensors, which has no report."""


class DeprecatedName(BridgeWarning, DeprecationWarning, code="deprecated"):
    """A name that will go away was used."""


class FileWarning(BridgeWarning, UserWarning, code="file"):
    """A file was read, and something in it deserves a look."""


class PluginWarning(BridgeWarning, RuntimeWarning, code="plugin"):
    """A plugin failed and is left out."""
