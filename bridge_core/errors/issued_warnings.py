"""Warnings, each with a word that stays the same for its cause."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BridgeWarning",
    "ConversionWarning",
    "DeprecatedName",
    "FileWarning",
    "PluginWarning",
]


class BridgeWarning(Warning):
    """Base of every warning issued on purpose.

    Args:
        message: What happened, and what it means for the user.
        code: A stable word for the cause, such as ``"overflow"``; by default that of the class.
    """

    code: str = "warning"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        """Return the text with its code."""
        return f"{self.message} [{self.code}]"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message,), {"code": self.code}


class ConversionWarning(BridgeWarning, UserWarning):
    """What a conversion into live tensors has to tell its user, for want of a report."""

    code = "conversion"


class DeprecatedName(BridgeWarning, DeprecationWarning):
    """A name that will go away was used."""

    code = "deprecated"


class FileWarning(BridgeWarning, UserWarning):
    """A file was read, and something in it deserves a look."""

    code = "file"


class PluginWarning(BridgeWarning, RuntimeWarning):
    """A plugin failed and is left out."""

    code = "plugin"
