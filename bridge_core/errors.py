"""Every error the bridge raises on purpose, in one tree.

A caller needs one ``except BridgeError``; the command maps each class to an exit code.
Each error carries what it is about (``path``, ``key``, ``plugin``) apart from its text, so that
programs need not parse messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import os
    from types import TracebackType

__all__ = [
    "about_tensor",
    "AmbiguousLayerError",
    "BadInputError",
    "BridgeError",
    "ConversionError",
    "ConversionWarning",
    "DestinationExists",
    "IntegrityError",
    "KeyConflict",
    "LimitExceeded",
    "LossyCastError",
    "MalformedFile",
    "MismatchError",
    "MissingDependency",
    "PlanError",
    "PluginConflict",
    "PluginError",
    "RuleError",
    "ShardError",
    "SystemFailure",
    "TruncatedFile",
    "UnclaimedTensorError",
    "UnsafeFile",
    "UnsupportedFeature",
    "UnsupportedLayerError",
    "UsageError",
    "VerificationError",
]


class BridgeError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: What happened, where, and what was found against what was expected.
        path: The file or folder it is about.
        key: The tensor it is about, as a tuple key or a flat name.
        plugin: The plugin it is about.
        hint: What the user can do; shown after the message.

    Attributes:
        options: Options of the command that are most likely to go on, the safest first.
    """

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

    def __str__(self) -> str:
        """Return one paragraph: where, what, and what to do."""
        where = f"{self.path}: " if self.path is not None else ""
        if self.key is not None:
            name = self.key if isinstance(self.key, str) else ".".join(self.key)
            where += f"tensor {name!r}: "
        if self.plugin is not None:
            where += f"plugin {self.plugin}: "
        gap = "" if not self.hint or self.hint.startswith("\n") else " "
        return f"{where}{self.message}{gap}{self.hint or ''}"


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


class ConversionWarning(UserWarning):
    """What a conversion into live tensors has to tell its user, for want of a report."""


class UsageError(BridgeError):
    """The call itself makes no sense: an unknown name, two options that exclude each other."""

    exit_code: ClassVar[int] = 2


class MissingDependency(UsageError):
    """An optional package is needed and not installed."""


class ConversionError(BridgeError):
    """The conversion was refused, because going on could give wrong weights."""


class PlanError(ConversionError):
    """A plan, or a chain of ops in it, is inconsistent in itself."""


class RuleError(ConversionError):
    """A rule is wrong in itself, matches nothing, or claims what another rule claims."""


class MismatchError(ConversionError):
    """Source and target do not fit: missing or unexpected keys, or other shapes.

    Attributes:
        missing: Names the target wants and the source lacks.
        unexpected: Names the source has and the target has no place for.
        mismatched: Names whose shapes differ.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        mismatched: tuple[str, ...] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.missing = missing
        self.unexpected = unexpected
        self.mismatched = mismatched


class AmbiguousLayerError(ConversionError):
    """Layers whose kind no evidence settles.

    Attributes:
        candidates: For each key, the readings that remain possible.
    """

    def __init__(
        self,
        message: str,
        *,
        candidates: dict[str, tuple[str, ...]],
        hint: str | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.candidates = candidates
        self.options = options


class UnclaimedTensorError(ConversionError):
    """Tensors with names of layers that no evidence explains, which are not copied to another framework.

    Attributes:
        reasons: For each key, why it is not copied.
    """

    def __init__(
        self,
        message: str,
        *,
        reasons: dict[str, str],
        hint: str | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.reasons = reasons
        self.options = options


class UnsupportedLayerError(ConversionError):
    """Layers that the target framework has no form for, or that no other framework takes.

    Attributes:
        reasons: For each key, why.
    """

    def __init__(self, message: str, *, reasons: dict[str, str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reasons = reasons


class LossyCastError(ConversionError):
    """Values would change, and nobody asked for that."""


class VerificationError(ConversionError):
    """What was written is not what the plan says."""


class DestinationExists(ConversionError):
    """The destination is there already, or is the source itself."""


class PluginError(ConversionError):
    """A plugin broke its contract."""


class PluginConflict(PluginError):
    """Two plugins provide the same name."""


class BadInputError(BridgeError):
    """The input is damaged, unsafe or beyond what is supported."""

    exit_code: ClassVar[int] = 3


class MalformedFile(BadInputError):
    """The bytes break the rules of their format."""


class TruncatedFile(MalformedFile):
    """The file ends before its own header says so."""


class IntegrityError(BadInputError):
    """A checksum differs, or the file changed while it was read."""


class UnsafeFile(BadInputError):
    """The file asks for something no weights need: code, or files elsewhere."""


class LimitExceeded(BadInputError):
    """The input claims more memory, depth or entries than it can have a reason for."""


class UnsupportedFeature(BadInputError):
    """A dtype, protocol or kind that is valid elsewhere and not supported here."""


class KeyConflict(BadInputError):
    """Two tensors share one name, or a name is reserved."""


class ShardError(BadInputError):
    """An index and its shards disagree."""


class SystemFailure(BridgeError):
    """The machine failed: disk, permission or memory."""

    exit_code: ClassVar[int] = 4
