"""Refusals, exit code 1: going on could give wrong weights, or destroy something."""

from __future__ import annotations

from typing import ClassVar

from bridge_core.errors.base import BridgeError

__all__ = [
    "AmbiguousLayerError",
    "ConversionError",
    "DestinationExists",
    "DestinationIsFolder",
    "LossyCastError",
    "MismatchError",
    "PlanError",
    "PluginConflict",
    "PluginError",
    "RuleError",
    "UnclaimedTensorError",
    "UnsupportedLayerError",
    "VerificationError",
]


class ConversionError(BridgeError):
    """The conversion was refused, because going on could give wrong weights."""

    code: ClassVar[str] = "CKB-100"


class PlanError(ConversionError, ValueError):
    """A plan, or a chain of ops in it, is inconsistent in itself."""

    code: ClassVar[str] = "CKB-101"


class RuleError(ConversionError, ValueError):
    """A rule is wrong in itself, matches nothing, or claims what another rule claims."""

    code: ClassVar[str] = "CKB-102"


class MismatchError(ConversionError, ValueError):
    """Source and target do not fit: missing or unexpected keys, or other shapes.

    Attributes:
        missing: Names the target wants and the source lacks.
        unexpected: Names the source has and the target has no place for.
        mismatched: Names whose shapes differ.
    """

    code: ClassVar[str] = "CKB-103"

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

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of all tensors that do not fit: missing, unexpected, then mismatched."""
        return (*self.missing, *self.unexpected, *self.mismatched)


class AmbiguousLayerError(ConversionError, ValueError):
    """Layers whose kind no evidence settles.

    Attributes:
        candidates: For each key, the readings that remain possible.
    """

    code: ClassVar[str] = "CKB-104"

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

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors that are listed."""
        return tuple(self.candidates)


class UnclaimedTensorError(ConversionError, ValueError):
    """Tensors with names of layers that no evidence explains, which are not copied to another framework.

    Attributes:
        reasons: For each key, why it is not copied.
    """

    code: ClassVar[str] = "CKB-105"

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

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors that are listed."""
        return tuple(self.reasons)


class UnsupportedLayerError(ConversionError, ValueError):
    """Layers that the target framework has no form for, or that no other framework takes.

    Attributes:
        reasons: For each key, why.
    """

    code: ClassVar[str] = "CKB-106"

    def __init__(self, message: str, *, reasons: dict[str, str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reasons = reasons

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors that are listed."""
        return tuple(self.reasons)


class LossyCastError(ConversionError, ValueError):
    """Values would change, and nobody asked for that."""

    code: ClassVar[str] = "CKB-107"


class VerificationError(ConversionError):
    """What was written is not what the plan says."""

    code: ClassVar[str] = "CKB-108"


class DestinationExists(ConversionError, FileExistsError):
    """The destination is there already, or is the source itself."""

    code: ClassVar[str] = "CKB-109"


class DestinationIsFolder(DestinationExists, IsADirectoryError):
    """The destination is a folder, and one file is to be written."""

    code: ClassVar[str] = "CKB-110"


class PluginError(ConversionError, RuntimeError):
    """A plugin broke its contract."""

    code: ClassVar[str] = "CKB-111"


class PluginConflict(PluginError):
    """Two plugins provide the same name."""

    code: ClassVar[str] = "CKB-112"
