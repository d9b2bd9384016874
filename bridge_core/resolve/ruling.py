"""What rules say of a source's names: which are renamed, left out, or taken by a rule that moves tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bridge_core.dtypes import is_floating
from bridge_core.errors import LimitExceeded, RuleError
from bridge_core.files import SourceFile
from bridge_core.keys import Key, join_key
from bridge_core.metadata import strict_json
from bridge_core.resolve.claims import claimed_twice, held_keys
from bridge_core.rules import Rule
from bridge_core.state import FlatState
from bridge_core.tensors import TensorSpec

_LARGEST_CONFIG = 16 << 20

__all__ = [
    "Ruled",
    "check_constant",
    "config_beside",
    "label",
    "oriented",
    "rule_holds",
    "rule_names",
    "whole_label",
]


@dataclass
class Ruled:
    """What rules say of keys.

    Args:
        names: Key -> its new name.
        renamed: Key -> the rule that renames it.
        dropped: Key -> the reason it is left out.
        claimed: Key -> the rule that moves it.
        idle: Rules that had to match something and did not.
    """

    names: dict[Key, Key] = field(default_factory=dict)
    renamed: dict[Key, Rule] = field(default_factory=dict)
    dropped: dict[Key, str] = field(default_factory=dict)
    claimed: dict[Key, Rule] = field(default_factory=dict)
    idle: tuple[str, ...] = ()


def label(rule: Rule) -> str:
    """Return where a rule stands, or what it says if that is not known."""
    return rule.origin or str(rule).removeprefix("rule ")


def whole_label(rule: Rule) -> str:
    """Return where a rule stands, if that is known, and what it says."""
    text = str(rule).removeprefix("rule ")
    return f"{rule.origin}: {text}" if rule.origin else text


def oriented(rules: Iterable[Rule], layout: str, to: str) -> tuple[Rule, ...]:
    """Return rules as they are read in a conversion from one layout to another.

    Rules that do not tell whose names they hold are read as they stand.

    Raises:
        RuleError: A rule is about other frameworks.
    """
    found = []
    for rule in rules:
        if rule.layouts is None:
            found.append(rule)
            continue
        source, target = rule.layouts
        if layout in (source, "neutral") and to in (target, "neutral"):
            found.append(rule)
        elif layout in (target, "neutral") and to in (source, "neutral"):
            found.append(rule.reversed())
        else:
            raise rule.error(
                f"it leads between {source} and {target}; the conversion is from {layout} to {to}."
            )
    return tuple(found)


def rule_names(
    names: Mapping[Key, Key],
    specs: Mapping[Key, TensorSpec],
    rules: Iterable[Rule],
    config: Mapping[str, Any] | None,
) -> Ruled:
    """Apply rules to the names of a source.

    Args:
        names: Key -> its name without a collection head.
        specs: Key -> spec.
        rules: The rules, as they are read here.
        config: The checkpoint's config, if one is known.

    Raises:
        RuleError: Two rules claim one key, or two keys get one name.
    """
    ruled = Ruled()
    active = [r for r in rules if r.action in ("rename", "drop", "move") and rule_holds(r, config)]
    active.sort(key=lambda rule: rule.fallback)
    fired: set[int] = set()
    held = {
        number: held_keys(rule, {name: specs[key] for key, name in names.items()}, config)
        for number, rule in enumerate(active)
        if rule.action == "move" and (rule.when.rank is not None or rule.when.sizes)
    }
    for key, name in names.items():
        owner: Rule | None = None
        for number, rule in enumerate(active):
            captures = _captures(rule, name)
            if captures is None:
                continue
            fired.add(number)
            if name not in held.get(number, (name,)):
                continue
            if owner is not None:
                if rule.fallback and not owner.fallback:
                    break  # so are all that follow
                raise claimed_twice(rule, owner, "claim", name)
            owner = rule
            if rule.action == "rename":
                ruled.names[key] = rule.targets[0].fill(captures)
                ruled.renamed[key] = rule
            elif rule.action == "drop":
                ruled.dropped[key] = (
                    f"rule {rule.origin}: {rule.reason}" if rule.origin else f"rule: {rule.reason}"
                )
            else:
                ruled.claimed[key] = rule
    ruled.idle = tuple(
        whole_label(rule) for number, rule in enumerate(active) if number not in fired and not rule.optional
    )
    _check_new(names, ruled)
    return ruled


def _captures(rule: Rule, name: Key) -> Mapping[str, str] | None:
    if rule.action != "move":
        return rule.source.match(name)
    return next((c for p in rule.sources if (c := rule.bind(p, name)) is not None), None)


def rule_holds(rule: Rule, config: Mapping[str, Any] | None) -> bool:
    """Tell whether a rule's conditions on the config hold; where they do not, it is out, and not idle."""
    try:
        return replace(rule.when, rank=None, sizes=()).holds((), {}, config)
    except RuleError as err:
        raise rule.error(err.message) from err


def check_constant(rule: Rule, dtype: np.dtype[Any], key: Key) -> None:
    """Check that a dtype holds a rule's constant; floating-point numbers may be rounded.

    Raises:
        RuleError: It does not.
    """
    if rule.value is not None and not _holds(dtype, rule.value):
        raise rule.error(f"{dtype.name} cannot hold {rule.value}.", key)


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "b":
        return value in (0, 1)
    finite = value == value and abs(value) != math.inf  # math.isfinite cannot take every int
    if dtype.kind == "c":
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    if is_floating(dtype):
        if finite and abs(value) > float(ml_dtypes.finfo(dtype).max):  # type: ignore[no-untyped-call]
            return False
        with np.errstate(all="ignore"):
            made = float(np.array(float(value)).astype(dtype))
        # Some narrow dtypes lack infinities, NaN, zero or negative numbers.
        return math.isfinite(made) if finite else made == value or (made != made and value != value)
    limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return finite and value == int(value) and int(limits.min) <= value <= int(limits.max)


def _check_new(names: Mapping[Key, Key], ruled: Ruled) -> None:
    if not ruled.names:
        return
    seen: dict[Key, Key] = {}
    for key, name in names.items():
        if key in ruled.dropped:
            continue
        new = ruled.names.get(key, name)
        other = seen.setdefault(new, key)
        if other != key:
            raise RuleError(
                f"{join_key(other)!r} and {join_key(key)!r} are both named {join_key(new)!r} by the rules.",
                hint="Let the patterns keep them apart.",
            )


def config_beside(*states: FlatState | None) -> Mapping[str, Any] | None:
    """Return the ``config.json`` beside the first of the checkpoints that has one.

    Raises:
        MalformedFile: It is no JSON object.
        LimitExceeded: It is too large to be one.
        SystemFailure: It cannot be read.
    """
    for state in states:
        where = state.metadata.provenance.get("path") if state is not None else None
        if not where:
            continue
        path = Path(where).parent / "config.json"
        if not path.is_file():
            continue
        with SourceFile(path) as file:
            if file.size > _LARGEST_CONFIG:
                raise LimitExceeded(
                    f"is {file.size} bytes long; a config has {_LARGEST_CONFIG} at most.", path=path
                )
            return strict_json(file.read(0, file.size), path=str(path), what="the config")
    return None
