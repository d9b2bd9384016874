"""Turns what plugin code raises into errors that name the plugin, or the file that it was given."""

from __future__ import annotations

from types import TracebackType

from bridge_core.errors import BridgeError, MalformedFile, PluginError

__all__ = ["cause_of", "is_interrupt", "plugin_failures"]

_LONGEST = 300
"""Characters of a foreign error's text that are shown."""


def is_interrupt(error: BaseException) -> bool:
    """Return whether a user's Ctrl-C was raised.

    It is not a failure of the code that it interrupted.
    """
    return isinstance(error, KeyboardInterrupt)


def cause_of(error: BaseException) -> str:
    """Return an error's class and text in one line, also where its own text cannot be made.

    >>> cause_of(ValueError("no such leaf"))
    'ValueError: no such leaf'
    >>> cause_of(SystemExit(0))
    'SystemExit: 0 (it would have ended the program)'
    """
    try:
        text = " ".join(str(error).split())
    except BaseException as err:
        if is_interrupt(err):
            raise
        text = "(its text cannot be made)"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    if isinstance(error, SystemExit):
        text = f"{text} (it would have ended the program)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class plugin_failures:
    """Turns what plugin code raises into an error that names its cause.

    A `BridgeError` and Ctrl-C are raised unchanged.

    Args:
        plugin: Name of the plugin, or of what it provides.
        doing: What it was asked to do: ``"look at a.bin"``.
        damaged: The file that it reads, if that is the likely cause: the error is a `MalformedFile` then,
            and otherwise a `PluginError`.
        origin: The distribution that the plugin comes from, and its version; empty if it is not to be named.
        hint: What the user can do; a `MalformedFile` has one only with an origin.
    """

    __slots__ = ("_damaged", "_doing", "_hint", "_origin", "_plugin")

    def __init__(
        self,
        plugin: str,
        doing: str = "",
        *,
        damaged: str | None = None,
        origin: str = "",
        hint: str | None = None,
    ) -> None:
        self._plugin = plugin
        self._doing = doing
        self._damaged = damaged
        self._origin = origin
        self._hint = hint

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, PluginError):
            if self._origin and error.plugin in (None, self._plugin):
                error.hint = error.hint or self._hint
            error.plugin = error.plugin or self._plugin
        if error is None or isinstance(error, BridgeError) or is_interrupt(error):
            return
        text = f"{cause_of(error).rstrip('.')}."
        if self._damaged is not None:
            by = f" by {self._origin}" if self._origin else ""
            raise MalformedFile(
                f"the file cannot be read as {self._plugin}{by}: {text}",
                path=self._damaged,
                hint=self._hint if self._origin else None,
            ) from error
        subject = self._origin or "the plugin"
        raise PluginError(
            f"{subject} could not {self._doing}: {text}", plugin=self._plugin, hint=self._hint
        ) from error
