"""What a conversion starts from: a file, a folder, a state, a plain mapping or a live object."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge_core.errors import UsageError
from bridge_core.keys import Key
from bridge_core.metadata import ModuleInfo
from bridge_core.plugins import Registry
from bridge_core.resolve.groups import group_state
from bridge_core.resolve.names import match_paths
from bridge_core.state import FlatState, as_state
from bridge_core.storage import open_state
from bridge_core.tensors import Tensor, equal_values

__all__ = ["known_module", "load_factory", "opened", "state_of", "template_of"]


def state_of(
    value: Any,
    registry: Registry,
    *,
    layout: str | None = None,
    follow_links: bool = False,
    what: str = "source",
) -> FlatState:
    """Return the state of whatever a caller may hand over.

    Args:
        value: A path, a FlatState, a mapping from keys to arrays, or a framework's live object.
        registry: Where formats and adapters are found.
        layout: The layout, where the value does not tell.
        follow_links: Whether shards may be symbolic links that lead out of their folder.
        what: What errors call it.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(value, str | os.PathLike):
        return open_state(value, layout=layout, registry=registry, follow_links=follow_links)
    if isinstance(value, FlatState):
        return as_state(value, layout=layout)
    framework = registry.framework_of(value)
    if framework is not None:
        return framework.state(value)
    if isinstance(value, Mapping):
        state = as_state(value, layout=layout)
        return state if state.layout else state.replace(layout=registry.layout_of(state.specs()))
    raise UsageError(
        f"the {what} is a {type(value).__name__}; a path, a state, a mapping from keys to arrays, "
        f"or a live object of {' or '.join(registry.frameworks)} was expected."
    )


@contextlib.contextmanager
def opened(
    value: Any,
    registry: Registry,
    *,
    layout: str | None = None,
    follow_links: bool = False,
    what: str = "source",
) -> Iterator[FlatState]:
    """Give the state of a value; a file that was opened here is closed, a caller's state is not.

    Raises:
        UsageError: As `state_of`.
    """
    state = state_of(value, registry, layout=layout, follow_links=follow_links, what=what)
    try:
        yield state
    finally:
        if isinstance(value, str | os.PathLike):
            state.close()


@contextlib.contextmanager
def template_of(like: Any, framework: str, registry: Registry) -> Iterator[FlatState | None]:
    """Give the state of a template in a framework's layout; None for none.

    Raises:
        UsageError: It is no template, or another framework's.
    """
    if like is None:
        yield None
        return
    with opened(like, registry, what="template") as state:
        if state.layout not in (None, framework):
            raise UsageError(f"the template is in the layout of {state.layout}, not of {framework}.")
        yield state.replace(layout=framework)


def known_module(state: FlatState, module: Any, registry: Registry) -> FlatState:
    """Return the state with a live module of its own framework as evidence.

    Raises:
        UsageError: It is no live object, or another framework's.
    """
    described = state_of(module, registry, what="module")
    if described.layout != state.layout:
        raise UsageError(f"the module is one of {described.layout}; {state.layout} was expected.")
    return _with_model(state, described, registry)


def _with_model(state: FlatState, model: FlatState, registry: Registry) -> FlatState:
    """Return the state with a live model's module types and ties as evidence.

    The model's names may differ from the state's by one uniform prefix. A tensor that the model ties and
    the state lacks is added as a tie.

    Args:
        state: The weights.
        model: The state of a live object of the same framework; its values are not used.
        registry: Where transforms are found.
    """
    framework = registry.framework(state.layout or "")
    transforms = registry.transforms_of.get(framework.name, ())
    groups = group_state(state, framework, transforms)
    wanted = group_state(model, framework, transforms)
    match = match_paths(groups, wanted)
    modules: dict[Key, ModuleInfo] = {}
    names: dict[Key, Key] = {}
    for path, target in match.targets.items():
        if target in model.metadata.modules:
            modules[path] = model.metadata.modules[target]
        for leaf, key in wanted[target].keys.items():
            if leaf in groups[path].keys:
                names[key] = groups[path].keys[leaf]
    tensors: dict[Key, Tensor] = dict(state.tensors())
    ties = dict(state.metadata.ties)
    groups_of_ties: dict[Key, list[Key]] = {}
    for alias, keeper in model.metadata.ties.items():
        groups_of_ties.setdefault(keeper, [keeper]).append(alias)
    for tied in groups_of_ties.values():
        kept = next((names[key] for key in tied if key in names), None)
        if kept is None:
            continue
        for key in tied:
            if key in names:
                other = names[key]
                if tensors[other] is not tensors[kept] and _agree(tensors[other], tensors[kept]):
                    tensors[other] = tensors[kept]
                    ties[other] = ties.get(kept, kept)
                continue
            added = match.removed + key if match.removed else key[len(match.added) :]
            tensors[added] = tensors[kept]
            ties[added] = ties.get(kept, kept)
            if key[:-1] in model.metadata.modules:
                modules[added[:-1]] = model.metadata.modules[key[:-1]]
    return state.replace(tensors=tensors, metadata=state.metadata.with_(modules=modules, ties=ties))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors hold the same values, as a file that keeps a tied tensor twice has them."""
    if one.spec != other.spec:
        return False
    try:
        return equal_values(one, other)
    except UsageError:  # nothing but shapes is known
        return False


def load_factory(name: str) -> Any:
    """Import and call ``PKG.MOD:FACTORY``; a factory that is no callable is taken as it is.

    Raises:
        UsageError: The module or the name is not there, or the factory fails.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"{name!r} reads not as PKG.MOD:FACTORY.")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        factory: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
        return factory() if callable(factory) and not _is_module(factory) else factory
    except (ImportError, AttributeError) as err:
        raise UsageError(f"{name!r} cannot be loaded: {err}.") from err
    except Exception as err:  # the user's own code may raise anything
        raise UsageError(f"{name!r} failed with {type(err).__name__}: {err}.") from err
    finally:
        if added:
            sys.path.remove(here)


def _is_module(value: Any) -> bool:
    """Tell whether a callable is a model already: an instance, not a function or a class."""
    return not isinstance(value, type) and not hasattr(value, "__code__") and not hasattr(value, "__func__")
