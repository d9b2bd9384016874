"""From what a caller asks for to the plan of the whole conversion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridge_core.discovery import is_weights_name
from bridge_core.errors import BridgeError, LimitExceeded, PluginError, SystemFailure, UsageError
from bridge_core.libraries import Checkpoint, Guidance, Library
from bridge_core.patterns import Pattern
from bridge_core.plan import Plan
from bridge_core.plugins import Registry
from bridge_core.resolve import (
    collection_paused,
    config_beside,
    oriented,
    plan_from_neutral,
    plan_to_neutral,
)
from bridge_core.rulefile import Rules, as_rules
from bridge_core.sources import known_module, load_factory, template_of
from bridge_core.state import FlatState

__all__ = ["Asked", "Patterns", "guidance", "prepare"]

Patterns = bool | Iterable[str | Pattern]


@dataclass(frozen=True)
class Asked:
    """What settles a plan; see `bridge_core.plan_conversion` for each."""

    to: str
    like: Any = None
    model: Any = None
    rules: Rules = ()
    accept_guesses: bool = False
    allow_missing: Patterns = ()
    allow_unexpected: Patterns = ()
    allow_mismatched: Patterns = ()

    def guided(self, known: Guidance) -> Asked:
        """Return this with what a library knows, wherever the caller says nothing."""
        return replace(
            self,
            model=known.model if self.model is None or isinstance(self.model, str) else self.model,
            like=known.like if self.like is None else self.like,
            rules=(*as_rules(self.rules), *known.rules),
        )


def guidance(source: Any, state: FlatState, asked: Asked, registry: Registry) -> Guidance | None:
    """Return what an installed model library knows of a checkpoint, or None.

    It is asked where the source is a folder and the caller gives no model, and where the caller names a
    model class of a library (``"auto"`` for the one that the folder names); ``"none"`` keeps it out.

    Raises:
        UsageError: A class is named, and no library knows it or the checkpoint.
        BadInputError: A file beside the weights is damaged.
        SystemFailure: The system failed while a library read such a file.
        PluginError: A library's own code failed, or returned something else.
    """
    name = asked.model
    if name is not None and (not isinstance(name, str) or ":" in name or name == "none"):
        return None
    where = state.metadata.provenance.get("path")
    is_path = isinstance(source, str | os.PathLike)
    if is_path and where is not None and (name is not None or Path(source).is_dir()):
        wanted = None if name == "auto" else name
        checkpoint = Checkpoint(Path(where).absolute().parent, state, asked.to, wanted)
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
    for name in found.beside:
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


def prepare(state: FlatState, asked: Asked, registry: Registry) -> tuple[FlatState, Plan]:
    """Return the source with all its evidence, and the plan; problems stand in the plan.

    Raises:
        RuleError: A rule is wrong in itself, or does not fit.
        UsageError: What is asked for makes no sense for this source.
    """
    to, like, model, rules = asked.to, asked.like, asked.model, as_rules(asked.rules)
    if to != "neutral":
        registry.framework(to)
    if model == "none":
        model = None
    elif isinstance(model, str):
        model = load_factory(model)
    if model is not None:
        framework = registry.framework_of(model)
        if framework is not None and framework.name == to != state.layout and like is None:
            like = model
        else:
            state = known_module(state, model, registry)
    if to == "neutral":
        if like is not None:
            raise UsageError("like= describes tensors of a framework; a neutral target has no template.")
        ruled = oriented(rules, state.layout or to, to)
        config = config_beside(state)
        return state, plan_to_neutral(
            state, registry, rules=ruled, accept_guesses=asked.accept_guesses, config=config
        )
    with collection_paused(), template_of(like, to, registry) as template:
        ruled = oriented(rules, state.layout or to, to)
        config = config_beside(state, template) if ruled else None
        first = plan_to_neutral(state, registry, rules=ruled, config=config)
        second = plan_from_neutral(
            replace(first, idle_rules=()).apply(state),
            registry,
            to,
            like=template,
            rules=ruled,
            config=config,
            accept_guesses=asked.accept_guesses,
            allow_missing=asked.allow_missing,
            allow_unexpected=asked.allow_unexpected,
            allow_mismatched=asked.allow_mismatched,
            origin={t: step.sources[0] for step in first.steps if step.sources for t in step.targets},
        )
        return state, first.then(second)
