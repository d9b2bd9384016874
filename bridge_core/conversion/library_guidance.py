"""Completes the options of a conversion with what an installed model library knows about a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.checkpoint import as_location, location_of
from bridge_core.conversion.model_factory import load_factory
from bridge_core.conversion.options import ConversionOptions
from bridge_core.errors import BadInputError, BridgeError, MissingDependency, PluginError, UsageError
from bridge_core.io import (
    Location,
    RemotePath,
    exists_beside,
    is_location,
    shown_path,
    system_failures,
)
from bridge_core.plugins import Checkpoint, Guidance, Library, Registry
from bridge_core.state import FlatState

if TYPE_CHECKING:
    import os

    from bridge_core.plan import Plan
    from bridge_core.rules import Rule

__all__ = ["guidance", "guidance_of_file", "with_config_way"]

_CONFIG = "config.json"
_UNREAD = "was read without its folder's config"


def guidance(source: Any, state: FlatState, options: ConversionOptions, registry: Registry) -> Guidance:
    """Return what a model library, or a model function, adds to the options; it may be empty.

    A library is asked if the source is a folder and the caller gives no model, and if the caller names a
    model class of a library (``"auto"`` for the class that the folder names). With ``"none"`` no library is
    asked, and ``"PKG.MOD:FACTORY"`` makes the model without a library.

    A file is planned without its folder first; only if something remains open is the folder read as well,
    since a library takes seconds to import. See `guidance_of_file`.

    Args:
        source: The caller's source.
        state: The state of the source.
        options: The caller's options.
        registry: Where libraries are found.

    Raises:
        UsageError: A class is named, and no library recognises it or the checkpoint; the function fails; or
            the framework is unknown.
        BadInputError: A file next to the weights is damaged.
        SystemFailure: The system failed while a library read such a file.
        PluginError: A library's own code failed, or returned another type.
    """
    registry.require_layout(options.to, "to")
    name = options.model
    if not (name is None or isinstance(name, str)) or name == "none":
        return Guidance()
    if name is not None and ":" in name:
        return Guidance(model=load_factory(name))
    where = location_of(state)
    is_path = is_location(source)
    if is_path and where is not None:
        folder = where.absolute().parent
        model = None if name == "auto" else name
        checkpoint = _checkpoint(folder, state, options, model)
        if name is not None or _is_folder(source):
            known = _first_guidance(checkpoint, registry)
            if known is not None:
                return known
    if name is None:
        return Guidance()
    raise UsageError(
        f'model="{name}" (--model {name}) cannot be used: no adapter of a model library recognises this '
        f"checkpoint. Installed adapters: {', '.join(registry.libraries) or 'none'}.",
        path=shown_path(source),
        hint='For a model of your own, pass model="package.module:function" (--model PKG.MOD:FACTORY).',
    )


def _is_folder(source: str | os.PathLike[str] | RemotePath) -> bool:
    return as_location(source).is_dir()


def _checkpoint(
    folder: Location, state: FlatState, options: ConversionOptions, model: str | None
) -> Checkpoint:
    part = options.part
    selected = part.state if part is not None and part.selection.is_partial else None
    return Checkpoint(folder, state, options.to, model, options.main_dtype, selected)


def _first_guidance(checkpoint: Checkpoint, registry: Registry) -> Guidance | None:
    """Return the guidance of the first library that recognises the checkpoint; None if none does."""
    for library in registry.libraries.values():
        known = _guide(library, checkpoint, registry)
        if known is not None:
            return known if checkpoint.selected is None else _of_part(known)
    return None


def _of_part(known: Guidance) -> Guidance:
    """Return the guidance for a part of a checkpoint, without files that describe all of it."""
    if known.describes_selection or not known.sidecar_files:
        return known
    note = f"not copied, since they describe the entire model: {', '.join(known.sidecar_files)}"
    return replace(known, sidecar_files=(), sidecar_contents={}, notes=(*known.notes, note))


def guidance_of_file(
    source: Any, state: FlatState, options: ConversionOptions, registry: Registry
) -> Guidance | None:
    """Return the guidance from the folder of a file; None if the folder's config may be of other weights.

    It is taken for a file with a usual name of weights. For another file `with_config_way` offers it. If the
    library fails, the guidance is a note about that, which the refusal repeats.

    Args:
        source: The caller's source.
        state: Its state.
        options: The caller's options.
        registry: Where libraries are found.
    """
    where = location_of(state)
    if where is None or options.model is not None or not is_location(source):
        return None
    path = where.absolute()
    if _is_folder(source) or not registry.libraries or not _stands_for(path.parent, path.name, registry):
        return None
    try:
        return _first_guidance(_checkpoint(path.parent, state, options, None), registry)
    except BridgeError as err:
        return Guidance(notes=(f"{path.name} {_UNREAD}: {err}",))


def with_config_way(
    plan: Plan, source: Any, options: ConversionOptions, known: Guidance, registry: Registry
) -> Plan:
    """Return a plan whose refusal contains what a config next to the source decides, or would decide.

    Args:
        plan: The plan.
        source: The caller's source.
        options: The caller's options.
        known: What a library adds for the source.
        registry: Where libraries are found.
    """
    if not is_location(source):
        return plan
    path = as_location(source)
    has_config = exists_beside((path if path.is_dir() else path.parent) / _CONFIG)
    ways: list[tuple[str, str]] = []
    is_guided = known.like is not None and options.like is None and options.model in (None, "auto")
    if is_guided and (plan.missing or plan.unexpected or plan.mismatched):
        ways.append((_way_of_class(_CONFIG if has_config else "the folder", known), "--model none"))
    if not is_guided and known.like is None:
        ways += [(note, "") for note in known.notes if _UNREAD in note]
    is_open = bool(plan.ambiguous or plan.unexplained) and options.model is None and bool(registry.libraries)
    if is_open and has_config and not path.is_dir():
        way = f'If {_CONFIG} next to {path.name} is that of the same model, pass model="auto" (--model auto).'
        ways.append((way, "--model auto"))
    return replace(plan, problems=replace(plan.problems, ways=(*plan.problems.ways, *ways))) if ways else plan


def _way_of_class(where: str, known: Guidance) -> str:
    """Return where the template of a library comes from, and how to choose another or none."""
    which = f": {known.notes[0]}" if known.notes else ""
    return (
        f"The expected names and shapes are those of the class that {where} names{which}. If these weights "
        'are of another class, pass model="CLASS" (--model CLASS), or model="none" (--model none) for none.'
    )


def _stands_for(folder: Location, name: str, registry: Registry) -> bool:
    """Return whether a folder's config is that of a file: the name is a usual one of complete weights."""
    from bridge_core.checkpoint import is_weights_name, part_of

    return part_of(folder / name) is None and is_weights_name(registry.formats.values())(name)


def _asked(library: Library, checkpoint: Checkpoint, hint: str) -> Guidance | None:
    """Return a library's guidance; an error about a file that it reads gets a hint how to do without it."""
    try:
        return library.guide(checkpoint)
    except BadInputError as err:
        if hint not in (err.hint or ""):
            err.hint = f"{err.hint or 'Download it again.'} {hint}"
        raise


def _guide(library: Library, checkpoint: Checkpoint, registry: Registry) -> Guidance | None:
    """Return one library's guidance; a failure of its code becomes an error that names the library."""
    folder, hint = checkpoint.folder, 'Pass model="none" (--model none) to do without it.'
    with (
        registry.failures_of("libraries", library.name, f"look at {folder}", hint=hint),
        system_failures(folder, library.name, foreign=True),
    ):
        known = _asked(library, checkpoint, hint)
        if known is not None:
            _check(known, registry)
    if known is not None and known.recipe is not None:
        rules = (replace(rule, optional=True) for rule in _rules_of(known.recipe, library, registry))
        return replace(known, rules=(*rules, *known.rules))
    return known


def _rules_of(recipe: str, library: Library, registry: Registry) -> tuple[Rule, ...]:
    """Return the rules of the recipe that a library names.

    Raises:
        MissingDependency: No plugin provides it.
    """
    if recipe not in registry.recipes:
        raise MissingDependency(
            f"{library.name} checkpoints of this kind need the recipe {recipe!r}, which is not installed.",
            hint='Run `pip install ckptbridge-recipes`, or pass model="none" (--model none) to do without.',
        )
    return registry.recipe(recipe).rules()


def _check(known: Any, registry: Registry) -> None:
    """Check that a library returned a guidance whose sidecar files are not weights.

    Raises:
        PluginError: It is of another type, or names a sidecar file as weights are named.
    """
    from bridge_core.checkpoint import is_weights_name

    if not isinstance(known, Guidance):
        raise PluginError(f"the library should return a Guidance or None, got {type(known).__name__}.")
    weights = is_weights_name(registry.formats.values())
    for name in known.sidecar_files:
        if weights(name):
            raise PluginError(
                f"the library lists the sidecar file {name!r}, but only files of weights have such names."
            )
