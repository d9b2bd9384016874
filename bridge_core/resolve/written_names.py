"""The names that a user may write for a key: as ``inspect`` prints it, as its file has it, or shorter.

A shorter name leaves out the collection, the box, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge_core.errors import BridgeError
from bridge_core.plugins import Registry, TreeNaming, names_of
from bridge_core.rules import Permissions
from bridge_core.state import FlatState, Key, StateMetadata, TensorSpec, VariableCollections, join_key

if TYPE_CHECKING:
    from bridge_core.plan import Plan
    from bridge_core.rules import Pattern

__all__ = [
    "Spellings",
    "keys_named",
    "names_of_tensor",
    "own_name",
    "permitted_names",
    "source_spellings",
    "spellings_in_plan",
]

Spellings = Callable[[Key], tuple[Key, ...]]
"""Gives the names that a user may write for a key, the key itself first."""


def own_name(key: Key) -> tuple[Key, ...]:
    """Return the only name of a key whose collection and box are not known."""
    return (key,)


def names_of_tensor(
    key: Key, origin: Mapping[Key, Key], metadata: StateMetadata, spellings: Spellings
) -> tuple[Key, ...]:
    """Return the names of a neutral tensor that patterns see: its own, and those of its sources.

    Args:
        key: Its key.
        origin: Neutral key -> source key of the conversion that the plan is the second step of.
        metadata: The metadata of the neutral state.
        spellings: Gives the names that a user may write for a source key.
    """
    source, box = metadata.source_names.get(key, key), metadata.boxes.get(key)
    names = [key, source, *(spellings(origin[key]) if key in origin else ())]
    if box is not None:
        names += [(*key, box), source[:-1] if source[-1:] == (box,) else source]
    return tuple(dict.fromkeys(names))


def permitted_names(
    permissions: Permissions, source: FlatState, template: FlatState | None, registry: Registry
) -> tuple[Permissions, Spellings]:
    """Return permissions with patterns split at slashes as names show, and the source's names.

    Args:
        permissions: What the caller allows.
        source: The source.
        template: The target's template, if it is known.
        registry: Where frameworks are found.

    Raises:
        RuleError: A pattern matches names with its slashes, and others where it is split at them.
        KeyConflict: The names do not show whether they begin with collections.
    """
    spellings = source_spellings(source, registry)
    if permissions.has_slashes:
        of_target = _collections(template, registry) if template is not None else VariableCollections()
        if source.layout == "neutral":
            sources = [n for key in source for n in names_of_tensor(key, {}, source.metadata, own_name)]
        else:
            sources = [name for key in source for name in spellings(key)]
        targets = _spelled(template if template is not None else (), of_target)
        permissions = replace(
            permissions,
            allow_unexpected=_read(permissions.allow_unexpected, sources),
            allow_unclaimed=_read(permissions.allow_unclaimed, sources),
            allow_missing=_read(permissions.allow_missing, targets),
            allow_mismatched=_read(permissions.allow_mismatched, targets),
        )
    return permissions, spellings


def source_spellings(source: FlatState, registry: Registry) -> Spellings:
    """Return the names that a user may write for the keys of a source.

    Args:
        source: The source.
        registry: Where frameworks are found.

    Raises:
        KeyConflict: The names do not show whether they begin with collections.
    """
    collections, of_file = _collections(source, registry), source.metadata.source_names

    def spellings(key: Key) -> tuple[Key, ...]:
        names = collections.spellings(key)
        return (*names, *VariableCollections().spellings(of_file[key])) if key in of_file else names

    return spellings


def _collections(state: FlatState, registry: Registry) -> VariableCollections:
    framework = registry.frameworks.get(state.layout or "")
    return VariableCollections() if framework is None else names_of(state, framework)


def _spelled(keys: Iterable[Key], collections: VariableCollections) -> list[Key]:
    return [name for key in keys for name in collections.spellings(key)]


def _read(patterns: Iterable[Pattern], names: list[Key]) -> tuple[Pattern, ...]:
    from bridge_core.resolve.named_side import unslashed

    def is_of(pattern: Pattern) -> bool:
        return any(pattern.match(name) is not None for name in names)

    return tuple(unslashed(pattern, is_of) for pattern in patterns)


def spellings_in_plan(plan: Plan, registry: Registry) -> Spellings:
    """Return the names that a user may write for the keys of a plan's source and target.

    Args:
        plan: The plan.
        registry: Where frameworks are found.
    """
    targets = plan.target_specs()
    source = _of_specs(plan.specs, plan.source_layout, plan, registry)
    target = _of_specs(targets, plan.target_layout, plan, registry)
    boxes = {key[-1] for key in target.boxed}
    unfilled = {key for key in (*plan.missing, *plan.allowed_missing) if key[-1:] and key[-1] in boxes}
    target = replace(target, boxed=target.boxed | unfilled)

    def spellings(key: Key) -> tuple[Key, ...]:
        sides = [source] if key in plan.specs else []
        if key in targets or not sides:
            sides.append(target)
        return tuple(dict.fromkeys(name for side in sides for name in side.spellings(key)))

    return spellings


def _of_specs(
    specs: Mapping[Key, TensorSpec], layout: str, plan: Plan, registry: Registry
) -> VariableCollections:
    framework = registry.frameworks.get(layout)
    form = plan.metadata.tree_form.get(layout)
    if framework is None or not framework.collections:
        return VariableCollections()
    if not isinstance(framework, TreeNaming):
        return VariableCollections(framework.collections, form == "variables")
    boxed = frozenset(() if form == "nnx" else framework.boxes(specs))
    try:
        present = framework.has_collections({k[:-1] if k in boxed else k: s for k, s in specs.items()})
    except BridgeError:  # the plan was made from what the metadata records
        present = form == "variables"
    return VariableCollections(framework.collections, present, boxed)


def keys_named(text: str, keys: Iterable[Key], spellings: Spellings) -> set[Key]:
    """Return the keys that a user's name or pattern means, if any.

    The printed name of a key comes first, then shorter names, then both with slashes for dots, then patterns.

    Args:
        text: The name or the pattern.
        keys: The keys.
        spellings: Gives the names of a key.

    Raises:
        RuleError: The text has the signs of a pattern and is not a valid one, or has two meanings.
    """
    names = {key: spellings(key) for key in keys}
    for written in dict.fromkeys((text, text.replace("/", "."))):
        exact = {key for key in names if written in (join_key(key), join_key(key, escape=True))}
        named = exact or {
            key for key, shorter in names.items() if any(written == join_key(name) for name in shorter)
        }
        if named:
            return named
    if "*" not in text and "{" not in text:
        return set()
    from bridge_core.rules import Pattern

    (pattern,) = _read([Pattern.parse(text)], [name for spelled in names.values() for name in spelled])
    return {key for key, spelled in names.items() if any(pattern.match(n) is not None for n in spelled)}
