"""Completes the options of a conversion with what an installed model library knows of a checkpoint."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge_core.conversion.inputs import load_factory
from bridge_core.conversion.options import ConversionOptions
from bridge_core.errors import BadInputError, BridgeError, PluginError, UsageError
from bridge_core.io import system_failures
from bridge_core.plugins import Checkpoint, Guidance, Library, Registry
from bridge_core.state import FlatState

if TYPE_CHECKING:
    from bridge_core.plan import Plan

__all__ = ["guidance", "guidance_of_file", "with_config_way"]

_CONFIG = "config.json"
_UNREAD = "was read without what its folder tells of it"


def guidance(source: Any, state: FlatState, options: ConversionOptions, registry: Registry) -> Guidance:
    """Return what is known of a checkpoint in addition to the options; nothing may be.

    A library is asked where the source is a folder and the caller gives no model, and where the caller names
    a model class of a library (``"auto"`` for the one that the folder names); ``"none"`` keeps it out. In
    place of a library ``"PKG.MOD:FACTORY"`` makes the model.

    A file is read by itself. What its folder tells is asked for only where that leaves something open, since
    a library takes seconds to import; see `guidance_of_file`.

    Raises:
        UsageError: A class is named, and no library knows it or the checkpoint; the function fails; or there
            is no such framework.
        BadInputError: A file next to the weights is damaged.
        SystemFailure: The system failed while a library read such a file.
        PluginError: A library's own code failed, or returned something else.
    """
    if options.to != "neutral":
        registry.framework(options.to)
    name = options.model
    if not (name is None or isinstance(name, str)) or name == "none":
        return Guidance()
    if name is not None and ":" in name:
        return Guidance(model=load_factory(name))
    where = state.metadata.provenance.get("path")
    is_path = isinstance(source, str | os.PathLike)
    if is_path and where is not None:
        folder = Path(where).absolute().parent
        model = None if name == "auto" else name
        checkpoint = Checkpoint(folder, state, options.to, model, options.dtype)
        if name is not None or Path(source).is_dir():
            known = _first_guidance(checkpoint, registry)
            if known is not None:
                return known
    if name is None:
        return Guidance()
    raise UsageError(
        f"no installed model library knows this checkpoint, so that model={name!r} (--model {name}) says "
        "nothing of it.",
        path=source if is_path else None,
        hint="Name a function that builds the model: model='PKG.MOD:FACTORY', --model PKG.MOD:FACTORY. "
        f"Adapters of libraries are plugins; installed are: {', '.join(registry.libraries) or 'none'}.",
    )


def _first_guidance(checkpoint: Checkpoint, registry: Registry) -> Guidance | None:
    """Return what the first library that knows the checkpoint says."""
    for library in registry.libraries.values():
        known = _guide(library, checkpoint, registry)
        if known is not None:
            return known
    return None


def guidance_of_file(
    source: Any, state: FlatState, options: ConversionOptions, registry: Registry
) -> Guidance | None:
    """Return what the folder of a file tells of it; None if the source is not a file that it stands for.

    That is one with a usual name of weights: a config beside another file may be that of other weights, and
    `with_config_way` offers it. Where the library fails, a note says so, which the refusal repeats.

    Args:
        source: What the caller gave.
        state: Its state.
        options: What the caller asked for.
        registry: Where libraries are found.
    """
    where = state.metadata.provenance.get("path")
    if where is None or options.model is not None or not isinstance(source, str | os.PathLike):
        return None
    path = Path(where).absolute()
    if Path(source).is_dir() or not registry.libraries or not _stands_for(path.parent, path.name, registry):
        return None
    try:
        return _first_guidance(Checkpoint(path.parent, state, options.to, None, options.dtype), registry)
    except BridgeError as err:
        return Guidance(notes=(f"{path.name} {_UNREAD}: {err}",))


def with_config_way(
    plan: Plan, source: Any, options: ConversionOptions, known: Guidance, registry: Registry
) -> Plan:
    """Return a plan whose refusal says what a config next to the source decides, or would decide.

    Args:
        plan: The plan.
        source: What the caller gave.
        options: The options as the caller gave them.
        known: What a library knows of the source.
        registry: Where libraries are found.
    """
    if not isinstance(source, str | os.PathLike):
        return plan
    path = Path(source)
    has_config = ((path if path.is_dir() else path.parent) / _CONFIG).is_file()
    ways: list[tuple[str, str]] = []
    is_guided = known.like is not None and options.like is None and options.model in (None, "auto")
    if is_guided and (plan.missing or plan.unexpected or plan.mismatched):
        ways.append((_way_of_class(_CONFIG if has_config else "the folder", known), "--model none"))
    if not is_guided and known.like is None:
        ways += [(note, "") for note in known.notes if _UNREAD in note]
    is_open = bool(plan.ambiguous or plan.unexplained) and options.model is None and bool(registry.libraries)
    if is_open and has_config and not path.is_dir():
        way = (
            f"{_CONFIG} is beside {path.name}; if it is this file's, let it say what the layers are "
            "(model='auto', --model auto)."
        )
        ways.append((way, "--model auto"))
    return replace(plan, problems=replace(plan.problems, ways=tuple(ways))) if ways else plan


def _way_of_class(where: str, known: Guidance) -> str:
    """Return where a template comes from that the caller did not give, and how to go without it."""
    which = f": {known.notes[0]}" if known.notes else ""
    return (
        f"The expected names and shapes come from the class that {where} names{which}. If these weights are "
        "of another class, name it (model='CLASS', --model CLASS), or do without it (model='none', "
        "--model none)."
    )


def _stands_for(folder: Path, name: str, registry: Registry) -> bool:
    """Tell whether a folder's config is that of a file: its name is a usual one of whole weights."""
    from bridge_core.checkpoint import is_weights_name, part_of

    return part_of(folder / name) is None and is_weights_name(registry.formats.values())(name)


def _asked(library: Library, checkpoint: Checkpoint, hint: str) -> Guidance | None:
    """Return what a library says; an error about a file that it reads says how to do without it."""
    try:
        return library.guide(checkpoint)
    except BadInputError as err:
        if err.hint is None:
            err.hint = f"Fetch it again. {hint}"
        raise


def _guide(library: Library, checkpoint: Checkpoint, registry: Registry) -> Guidance | None:
    """Ask one library; whatever goes wrong in its code becomes an error that names it."""
    folder, hint = checkpoint.folder, "Use model='none' (--model none) to do without it."
    with (
        registry.failures_of("libraries", library.name, f"look at {folder}", hint=hint),
        system_failures(folder, library.name, foreign=True),
    ):
        known = _asked(library, checkpoint, hint)
        if known is not None:
            _check(known, registry)
        return known


def _check(known: Any, registry: Registry) -> None:
    """Check what a library returned.

    Raises:
        PluginError: It is not a guidance, or would write weights.
    """
    from bridge_core.checkpoint import is_weights_name

    if not isinstance(known, Guidance):
        raise PluginError(
            f"returned an object of the type {type(known).__name__}; a Guidance or None was expected."
        )
    weights = is_weights_name(registry.formats.values())
    for name in known.sidecar_files:
        if weights(name):
            raise PluginError(f"names {name!r} beside the weights, which is a name of weights.")
