"""The options of a conversion as plain data, for a work list, and back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from bridge_core.conversion.options import given_only
from bridge_core.errors import MalformedFile, UsageError
from bridge_core.io import scheme_of, shown_url
from bridge_core.messages import nearest, shown
from bridge_core.plugins import Recipe, Registry, default_registry, loaded_registry
from bridge_core.rules import Allowed, Permissions, Rules, as_rules
from bridge_core.state import RecordedRule
from bridge_core.transfer import parse_size

if TYPE_CHECKING:
    from bridge_core.conversion.recipes import GivenRecipe

__all__ = [
    "GivenOptions",
    "options_as_data",
    "options_of_data",
    "path_as_data",
    "plugins_as_data",
    "registry_of_data",
]

_PATTERNS = ("allow_missing", "allow_unexpected", "allow_mismatched", "allow_unclaimed")
_FLAGS = ("accept_guesses", "allow_inexact", "follow_links")
_PLAIN: dict[str, type] = {
    "to": str,
    "format": str,
    "layout": str,
    "entry": str,
    "step": int,
}


class GivenOptions(TypedDict, total=False):
    """The options of `convert` that decide what is written, but for the layout of the target."""

    format: str | None
    like: str | os.PathLike[str] | None
    model: str | None
    rules: Rules
    recipe: GivenRecipe
    only: str | Iterable[str]
    accept_guesses: bool
    allow_missing: Allowed
    allow_unexpected: Allowed
    allow_mismatched: Allowed
    allow_unclaimed: Allowed
    allow_inexact: bool
    dtype: str | Mapping[str, str] | None
    max_shard_size: int | str | None
    layout: str | None
    follow_links: bool
    entry: str | None
    step: int | None


def path_as_data(value: Any, argument: str) -> str:
    """Return a path as an absolute one, or a URL, for a document that other processes read.

    Args:
        value: What the caller gave.
        argument: Its name, for errors.

    Raises:
        UsageError: It is a live object, or a URL with credentials.
    """
    option = f" (--{argument})" if argument not in ("src", "dst") else ""
    if not isinstance(value, str | os.PathLike):
        raise UsageError(
            f"expected {argument}={option} to be a path or a URL for a conversion in parts, got "
            f"{shown(value)}: other processes have no access to an object in memory.",
            hint="Save it to a file first (bridge_core.save_state), and pass the path.",
        )
    text = os.fspath(value)
    scheme = scheme_of(text) if isinstance(text, str) else None
    if scheme is None or os.path.lexists(text):
        return str(Path(text).absolute())
    if shown_url(text) != text:
        raise UsageError(
            f"{argument}={option}: the URL holds credentials or a signature, which a work list must not.",
            path=shown_url(text),
            hint="Give the URL without them, and credentials by the environment, as the store's tools do.",
        )
    return text


def options_as_data(options: Mapping[str, Any], registry: Registry) -> dict[str, Any]:
    """Return the options of a conversion as plain data; those with their default are left out.

    Args:
        options: Name of an argument of `convert` -> what the caller gave.
        registry: The plugins.

    Raises:
        UsageError: A value is a live object, or of another type.
        RuleError: A rule file is not valid, or a rule cannot be written to a document.
    """
    unknown = sorted(options.keys() - GivenOptions.__annotations__.keys() - {"to"})
    if unknown:
        known = [*GivenOptions.__annotations__]
        hint = nearest(unknown[0], known, listing="Options")
        raise UsageError(f"a conversion in parts has no option {unknown[0]!r}.", hint=hint)
    data: dict[str, Any] = {}
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    for name, kind in _PLAIN.items():
        if name in given:
            if not isinstance(given[name], kind) or isinstance(given[name], bool):
                raise UsageError(
                    f"expected {name}= (--{name}) to be {'a number' if kind is int else 'a text'}, got "
                    f"{shown(given[name])}."
                )
            data[name] = given[name]
    if "like" in given:
        data["like"] = path_as_data(given["like"], "like")
    if "model" in given:
        if not isinstance(given["model"], str):
            raise UsageError(
                "expected model= (--model) to be a text for a conversion in parts, got "
                f"{shown(given['model'])}: other processes have no access to an object in memory.",
                hint='Pass the function that makes it, model="package.module:function".',
            )
        data["model"] = given["model"]
    if rules := as_rules(given.get("rules", ())):
        data["rules"] = [_rule_as_data(rule) for rule in rules]
    if "recipe" in given:
        data["recipe"] = _recipe_as_data(given["recipe"], registry)
    if only := given_only(given.get("only", ())):
        data["only"] = [one.text for one in only]
    permissions = Permissions.of(
        given.get("accept_guesses", False),
        *(given.get(name, ()) for name in _PATTERNS),
        allow_inexact=given.get("allow_inexact", False),
    )
    for name in _PATTERNS:
        if patterns := getattr(permissions, name):
            data[name] = list(map(str, patterns))
    data.update({name: True for name in _FLAGS if given.get(name)})
    if "dtype" in given:
        # Of several patterns the last that matches decides, and a document has no order of names.
        dtype = given["dtype"]
        data["dtype"] = [list(pair) for pair in dtype.items()] if isinstance(dtype, Mapping) else dtype
    if "max_shard_size" in given:
        data["max_shard_size"] = parse_size(given["max_shard_size"])
    return data


def options_of_data(data: Mapping[str, Any], *, path: str) -> dict[str, Any]:
    """Return the arguments of `convert` that a work list records.

    Args:
        data: What `options_as_data` returned.
        path: The list, for errors.

    Raises:
        MalformedFile: An option is not known, or a rule cannot be read.
    """
    unknown = sorted(data.keys() - GivenOptions.__annotations__.keys() - {"to"})
    if unknown or "to" not in data:
        problem = f"it has the unknown option {unknown[0]!r}" if unknown else "it has no option 'to'"
        raise MalformedFile(
            f"the work list is not valid: {problem}.",
            path=path,
            hint="Use the version of ckptbridge that wrote it.",
        )
    options = dict(data)
    try:
        if "rules" in data:
            options["rules"] = tuple(_rule_of_data(rule) for rule in data["rules"])
        if isinstance(data.get("recipe"), list):
            name, sizes = data["recipe"]
            options["recipe"] = (name, sizes)
        if isinstance(data.get("dtype"), list):
            options["dtype"] = dict(map(tuple, data["dtype"]))
    except (TypeError, ValueError, KeyError) as err:
        raise MalformedFile(f"the work list is not valid: {err}.", path=path) from err
    return options


def plugins_as_data(registry: Registry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the modules that were added as plugins, and the plugins that are disabled.

    Raises:
        UsageError: The registry has values that only this process has.
    """
    if registry is default_registry():
        return (), tuple(sorted({plugin.name for plugin in registry.disabled}))
    added: list[str] = []
    for plugin in registry.plugins:
        if plugin.distribution == "--plugin":
            added.append(plugin.name)
        elif plugin.distribution.startswith("("):
            raise UsageError(
                f"the plugin {plugin.name!r} is only in this process, so other processes cannot load it.",
                hint="Put it into a module, and pass registry=loaded_registry(added=['package.module']) "
                "(--plugin PKG.MOD).",
            )
    return tuple(added), tuple(sorted({plugin.name for plugin in registry.disabled}))


def registry_of_data(added: tuple[str, ...], disabled: tuple[str, ...]) -> Registry:
    """Return the plugins that a work list names.

    Raises:
        UsageError: One is not installed.
    """
    return loaded_registry(disabled=disabled, added=added) if added or disabled else default_registry()


def _rule_as_data(rule: Any) -> dict[str, Any]:
    from bridge_core.rules import read_recorded, recorded

    record = recorded(rule, "")
    if read_recorded(record) is None:
        raise rule.error(
            "the rule cannot be written to a work list: a rule file cannot express it.",
            hint="Write it in another way, with names that a rule file can hold.",
        )
    return {"rule": json.loads(record.text), "layouts": list(rule.layouts or ()), "label": record.label}


def _rule_of_data(data: Mapping[str, Any]) -> Any:
    from bridge_core.rules import read_recorded

    layouts = tuple(data["layouts"]) or ("", "")
    rule = read_recorded(RecordedRule(json.dumps(data["rule"]), layouts, data["label"]))
    if rule is None:
        raise ValueError(f"the rule {data['label']!r} cannot be read")
    return rule


def _recipe_as_data(recipe: Any, registry: Registry) -> Any:
    if isinstance(recipe, tuple) and len(recipe) == 2 and isinstance(recipe[1], Mapping):
        sizes = {name: value if isinstance(value, int) else str(value) for name, value in recipe[1].items()}
        return [_recipe_as_data(recipe[0], registry), sizes]
    if isinstance(recipe, Recipe):
        if registry.recipes.get(recipe.name) is not recipe:
            raise UsageError(
                f"the recipe {recipe.name!r} is only in this process, so other processes cannot load it.",
                hint="Install it with a plugin, and pass its name, recipe= (--recipe).",
            )
        return recipe.name
    if not isinstance(recipe, str):
        raise UsageError(f"expected recipe= (--recipe) to be the name of a recipe, got {shown(recipe)}.")
    return recipe
