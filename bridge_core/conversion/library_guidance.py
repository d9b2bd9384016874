"""Asking the installed model libraries what they know of a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from bridge_core.checkpoint import is_weights_name
from bridge_core.errors import BridgeError, LimitExceeded, PluginError, SystemFailure, UsageError
from bridge_core.plugins import Checkpoint, Guidance, Library, Registry
from bridge_core.state import FlatState

__all__ = ["guidance"]


def guidance(
    source: Any, state: FlatState, to: str, model: Any, registry: Registry, *, dtype: str | None = None
) -> Guidance | None:
    """Return what an installed model library knows of a checkpoint, or None.

    It is asked where the source is a folder and the caller gives no model, and where the caller names a
    model class of a library (``"auto"`` for the one that the folder names); ``"none"`` keeps it out.

    Raises:
        UsageError: A class is named, and no library knows it or the checkpoint.
        BadInputError: A file beside the weights is damaged.
        SystemFailure: The system failed while a library read such a file.
        PluginError: A library's own code failed, or returned something else.
    """
    name = model
    if name is not None and (not isinstance(name, str) or ":" in name or name == "none"):
        return None
    where = state.metadata.provenance.get("path")
    is_path = isinstance(source, str | os.PathLike)
    if is_path and where is not None and (name is not None or Path(source).is_dir()):
        wanted = None if name == "auto" else name
        checkpoint = Checkpoint(Path(where).absolute().parent, state, to, wanted, dtype)
        for library in registry.libraries.values():
            found = _guide(library, checkpoint, registry)
            if found is not None:
                return found
    if name is None:
        return None
    raise UsageError(
        f"no installed model library knows this checkpoint, so that --model {name} says nothing.",
        path=source if is_path else None,
        hint="Name a function that builds the model: --model PKG.MOD:FACTORY. Adapters of libraries are "
        f"plugins; installed are: {', '.join(registry.libraries) or 'none'}.",
    )


def _guide(library: Library, checkpoint: Checkpoint, registry: Registry) -> Guidance | None:
    """Ask one library; whatever goes wrong in a stranger's code becomes an error that names it."""
    try:
        found = library.guide(checkpoint)
    except PluginError as err:
        err.plugin = err.plugin or library.name
        raise
    except BridgeError:
        raise
    except MemoryError as err:
        raise LimitExceeded(
            f"{library.name} needs more memory than there is.", path=checkpoint.folder
        ) from err
    except OSError as err:
        if err.errno is None:  # raised by a library for reasons of its own
            raise _failed(library, checkpoint, err) from err
        raise SystemFailure(
            f"{library.name} could not look at it: {err.strerror or err}.",
            path=err.filename or checkpoint.folder,
        ) from err
    except Exception as err:  # a stranger's code may raise anything
        raise _failed(library, checkpoint, err) from err
    if found is None:
        return None
    if not isinstance(found, Guidance):
        raise PluginError(f"returned {found!r}; a Guidance or None was expected.", plugin=library.name)
    weights = is_weights_name(registry.formats.values())
    for name in found.sidecar_files:
        if weights(name):
            raise PluginError(
                f"names {name!r} beside the weights, which is a name of weights.", plugin=library.name
            )
    return found


def _failed(library: Library, checkpoint: Checkpoint, err: Exception) -> PluginError:
    return PluginError(
        f"could not look at {checkpoint.folder}: {type(err).__name__}: {err}.",
        plugin=library.name,
        hint="Use --model none to do without it.",
    )
