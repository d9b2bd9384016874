"""Errors of plugin code, as errors that name the plugin or the file that it was given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bridge_core.errors import BridgeError, MalformedFile, PluginError

__all__ = ["plugin_failures"]


@contextlib.contextmanager
def plugin_failures(
    plugin: str, doing: str = "", *, damaged: str | None = None, hint: str | None = None
) -> Iterator[None]:
    """Turn whatever plugin code raises, except errors of ours, into one that names its cause.

    Args:
        plugin: Name of the plugin, or of what it provides.
        doing: What it was asked to do: ``"look at a.bin"``.
        damaged: The file that it reads, if that is the likely cause: the error is a `MalformedFile` then,
            and otherwise a `PluginError`.
        hint: What the user can do.
    """
    try:
        yield
    except PluginError as err:
        err.plugin = err.plugin or plugin
        raise
    except BridgeError:
        raise
    except Exception as err:  # plugin code, or a library below it, may raise anything
        text = f"{type(err).__name__}: {err}."
        if damaged is not None:
            raise MalformedFile(f"cannot be read as {plugin}: {text}", path=damaged) from err
        raise PluginError(f"could not {doing}: {text}", plugin=plugin, hint=hint) from err
