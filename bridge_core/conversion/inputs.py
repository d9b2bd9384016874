"""Makes a state of a path, a state, a plain mapping or a live object."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bridge_core.checkpoint import locate, open_state
from bridge_core.conversion.options import ConversionOptions, given_only
from bridge_core.conversion.whole_source import require_whole
from bridge_core.errors import BridgeError, ConversionError, UsageError
from bridge_core.io import is_location, scheme_of, shown_path
from bridge_core.plugins import Framework, Registry, TrainStates, weights_of
from bridge_core.rules import Permissions, as_rules
from bridge_core.state import (
    FlatState,
    as_state,
    mapping_entry,
    read_from_entry,
    require_entry_path,
    select_entry,
    separator_of,
    split_name,
    unflatten_tree,
)

__all__ = [
    "conversion_options",
    "known_module",
    "located",
    "opened",
    "refuse_empty",
    "state_of",
    "template_of",
    "weights_in",
]


def located(value: Any, registry: Registry) -> Any:
    """Return where the URL that a user gives is, and every other value unchanged.

    What was asked of a server is remembered by the result, so that a source is located once for a conversion,
    and seen in one version.

    Raises:
        MissingDependency, UsageError, AccessDenied, RemoteFailure: As `locate`.
    """
    return locate(value, registry) if isinstance(value, str) and scheme_of(value) else value


def conversion_options(given: Mapping[str, Any], registry: Registry) -> ConversionOptions:
    """Return the options of a conversion from the arguments of `convert` or `plan_conversion`.

    Args:
        given: Name of an argument -> its value; those that are left out have their default. Arguments about
            opening the source and writing the result are ignored.
        registry: The plugins.

    Raises:
        UsageError, RuleError: A value is not valid.
        MissingDependency, AccessDenied, RemoteFailure: The template cannot be located.
    """
    permissions = Permissions.of(
        given.get("accept_guesses", False),
        given.get("allow_missing", ()),
        given.get("allow_unexpected", ()),
        given.get("allow_mismatched", ()),
        given.get("allow_unclaimed", ()),
        allow_inexact=given.get("allow_inexact", False),
    )
    return ConversionOptions(
        given["to"],
        located(given.get("like"), registry),
        given.get("model"),
        as_rules(given.get("rules", ())),
        permissions,
        given.get("layout"),
        given.get("follow_links", False),
        given.get("dtype"),
        recipe=given.get("recipe"),
        only=given_only(given.get("only", ())),
    )


def state_of(
    value: Any,
    registry: Registry,
    *,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    what: str = "source",
    purpose: ConversionOptions | None = None,
) -> FlatState:
    """Return the state of a path, a state, a mapping or a live object.

    Args:
        value: A path or URL, a FlatState, a mapping from keys to arrays, or a framework's live object.
        registry: Where formats and adapters are found.
        layout: The layout; None for the one that the value has.
        follow_links: Whether shards may be symbolic links that lead out of their folder.
        entry: The entry to take, as for `open_state`; None for all of a live value, or a file's usual one.
        step: The step to take, as for `open_state`; only a path has steps.
        what: The word for the value in errors.
        purpose: The conversion that the value is the source of; a file with a part of a model is refused.
            None for another purpose.

    Raises:
        UsageError: The value is of another type, or has no such entry.
        ShardError, UnsupportedFeature: The value is a file with a part of a model.
    """
    if layout is not None:
        registry.require_layout(layout, "layout")
    if is_location(value):
        open_all = functools.partial(
            open_state, located(value, registry), registry=registry, follow_links=follow_links, step=step
        )
        state = open_all(layout=layout, entry=entry)
        if purpose is not None:
            require_whole(state, purpose)
        try:
            inner = state.metadata.provenance.get("entry")
            if entry is not None and inner:
                item = state.metadata.provenance.get("item") or None
                rest = functools.partial(open_all, layout=state.layout, entry=item)
                state = _completed(state, rest, inner, registry, is_file=True)
            return weights_in(state, registry)
        except BaseException:
            state.close()
            raise
    if step is not None:
        raise UsageError(
            f"step={step} (--step) applies to checkpoints with steps, and the {what} is a {_sort_of(value)}.",
            hint="Remove step=, or pass the path of the checkpoint.",
        )
    if entry is None:
        return weights_in(_everything(value, registry, layout, what), registry)
    require_entry_path(entry)
    return weights_in(_entry_of(value, registry, entry, layout, what), registry)


def _everything(value: Any, registry: Registry, layout: str | None, what: str) -> FlatState:
    """Return the state of a value in memory, with everything that it holds."""
    if isinstance(value, FlatState):
        return as_state(value, layout=layout)
    framework = registry.framework_of(value)
    if framework is not None:
        if isinstance(value, Mapping):
            return _mapped_state(value, framework, layout, registry)
        return _live_state(value, framework, registry)
    if isinstance(value, Mapping):
        state = as_state(value, layout=layout)
        return state if state.layout else _with_matching_layout(state, registry)
    raise UsageError(
        f"expected the {what} to be a path, a state, a mapping from keys to arrays, or a live object of "
        f"{' or '.join(registry.frameworks)}, got {_sort_of(value)}."
    )


def weights_in(state: FlatState, registry: Registry, entry: str = "") -> FlatState:
    """Return the weights of a train state, under the names that a conversion sees; else the state itself."""
    framework = registry.frameworks.get(state.layout or "")
    if not isinstance(framework, TrainStates):
        return state
    with registry.foreign_failures("frameworks", framework.name, "find the weights of a tree"):
        return weights_of(state, framework, entry)


def _completed(
    state: FlatState,
    open_all: Callable[[], FlatState],
    entry: str,
    registry: Registry,
    *,
    is_file: bool = False,
) -> FlatState:
    """Return an entry with the collections next to it, if it is another copy of a model's weights.

    Args:
        state: The tensors of the entry.
        open_all: Gives all that the entry was taken from.
        entry: The entry.
        registry: Where adapters are found.
        is_file: Whether ``open_all`` opens a file: of the two states the one that is not returned is closed.
    """
    if not isinstance(registry.frameworks.get(state.layout or ""), TrainStates):
        return state
    try:
        others = open_all()
    except BridgeError:
        return state
    try:
        completed = weights_in(others, registry, entry)
    except BridgeError:
        completed = others
    if is_file:
        (others if completed is others else state).close()
    return state if completed is others else completed


def _sort_of(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _with_matching_layout(state: FlatState, registry: Registry) -> FlatState:
    """Return a state in the layout that its keys match; unchanged if it is not just one."""
    layout = registry.layout_of(state.specs())
    if layout is None:
        return state
    provenance = {**state.metadata.provenance, "layout": "the only layout that the keys match"}
    return state.replace(layout=layout, metadata=state.metadata.with_(provenance=provenance))


def _entry_of(value: Any, registry: Registry, entry: str, layout: str | None, what: str) -> FlatState:
    """Return an entry of a live value: a mapping within a mapping, or the keys with a prefix."""
    if isinstance(value, Mapping) and not isinstance(value, FlatState):
        inner = mapping_entry(value, entry)
        if inner is not None:
            others = [str(name) for name in value if not f"{entry}.".startswith(f"{name}.")]
            state = read_from_entry(_everything(inner, registry, layout, what), entry, others)
            return _completed(state, lambda: _everything(value, registry, layout, what), entry, registry)
    complete = _everything(value, registry, layout, what)
    return _completed(select_entry(complete, entry), lambda: complete, entry, registry)


def _live_state(value: Any, framework: Framework, registry: Registry) -> FlatState:
    """Return the state that an adapter makes of a live object.

    Raises:
        PluginError: Another plugin's adapter fails, or does not return a FlatState.
    """
    doing = f"read a {type(value).__name__}"
    with registry.foreign_failures("frameworks", framework.name, doing):
        state = framework.state(value)
        if not isinstance(state, FlatState):
            raise TypeError(f"reading a live object should return a FlatState, got {type(state).__name__}")
        if registry.foreign_plugin("frameworks", framework.name) is None:
            return state
        from bridge_core.plugins import guarded_state

        return guarded_state(state, lambda: registry.failures_of("frameworks", framework.name, doing))


def _mapped_state(
    value: Mapping[Any, Any], framework: Framework, layout: str | None, registry: Registry
) -> FlatState:
    """Return the state of a mapping that a framework accepts; ``layout`` may be another one."""
    if layout not in (None, framework.name):
        tensors = _live_state(value, framework, registry).tensors()
        return as_state({key[0] if len(key) == 1 else key: t for key, t in tensors.items()}, layout=layout)
    if framework.collections and all(isinstance(name, str) for name in value):
        nested = any(isinstance(child, Mapping) for child in value.values())
        if not nested and separator_of(value) == "/":
            value = unflatten_tree({split_name(name, "/"): child for name, child in value.items()})
    return _live_state(value, framework, registry)


@contextlib.contextmanager
def opened(
    value: Any,
    registry: Registry,
    *,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    what: str = "source",
    purpose: ConversionOptions | None = None,
) -> Iterator[FlatState]:
    """Give the state of a value; a file that is opened here is closed again.

    Args:
        value: As for `state_of`.
        registry: As for `state_of`.
        layout: As for `state_of`.
        follow_links: As for `state_of`.
        entry: As for `state_of`.
        step: As for `state_of`.
        what: As for `state_of`.
        purpose: As for `state_of`.

    Raises:
        UsageError: As `state_of`.
    """
    state = state_of(
        value,
        registry,
        layout=layout,
        follow_links=follow_links,
        entry=entry,
        step=step,
        what=what,
        purpose=purpose,
    )
    try:
        yield state
    finally:
        if is_location(value):
            state.close()


def refuse_empty(source: Any, state: FlatState) -> None:
    """Refuse a file or a folder without a tensor; an empty state in memory is converted.

    Raises:
        ConversionError: The file or folder holds no tensor.
    """
    if is_location(source) and not state:
        left_out = "".join(f" {note[:1].upper()}{note[1:]}." for note in state.metadata.notes)
        raise ConversionError(
            f"the file does not hold a tensor, so there is nothing to convert.{left_out}",
            path=state.metadata.provenance.get("path") or shown_path(source),
            hint="Give the file that holds the weights.",
        )


@contextlib.contextmanager
def template_of(like: Any, framework: str, registry: Registry) -> Iterator[FlatState | None]:
    """Give the state of a template in a framework's layout; None if there is no template.

    Raises:
        UsageError: The template is not a path, a state or a live object, or is of another framework.
    """
    if like is None:
        yield None
        return
    with opened(like, registry, what="template") as state:
        if state.layout not in (None, framework):
            raise UsageError(
                f"expected a template in the layout {framework!r}, got one in the layout {state.layout!r}.",
                path=shown_path(like),
                hint=f"Pass weights of a {framework} model as like= (--like), or convert to {state.layout}.",
            )
        if not state:
            raise UsageError(
                "the template holds no tensor.",
                path=shown_path(like),
                hint=f"Pass weights of a {framework} model as like= (--like).",
            )
        yield state.replace(layout=framework)


def known_module(
    state: FlatState, module: Any, registry: Registry, *, may_be_target: bool = False
) -> FlatState:
    """Return the state with a live module of its own framework as evidence.

    Args:
        state: The source.
        module: The caller's model.
        registry: Where adapters are found.
        may_be_target: Whether a model of the target's framework would be its template.

    Raises:
        UsageError: The module is not a live object, or is of another framework.
    """
    described = state_of(module, registry, what="model")
    if described.layout != state.layout:
        other = " or, without like= (--like), of the target's framework" * may_be_target
        raise UsageError(
            f"expected a model of {state.layout}, the source's framework, got "
            f"{f'one of {described.layout}' if described.layout else _sort_of(module)}.",
            hint=f"Pass a model of {state.layout}{other}.",
        )
    from bridge_core.resolve import with_model_evidence

    return with_model_evidence(state, described, registry)
