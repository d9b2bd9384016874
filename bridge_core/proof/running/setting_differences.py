"""Compares the settings of modules that belong together, by what they compute."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge_core.messages import count
from bridge_core.plugins import ModuleSettings
from bridge_core.proof.running.alignment import LinkedPaths, paired_paths
from bridge_core.state import Key, join_key

__all__ = ["ComparedSettings", "SettingDifference", "compared_settings", "same_padding"]

_ABSENT = {"padding_mode": "zeros", "ceil_mode": False}
"""What a setting means that is absent, in a module with a window."""

_HIDDEN = {
    "momentum": "it matters in training only",
    "dropout": "it matters in training only",
    "training": "it decides whether dropout and running statistics are used",
}


@dataclass(frozen=True)
class SettingDifference:
    """One setting that two modules which belong together do not share.

    Args:
        source: Path of the source's module.
        target: Path of the target's.
        name: Name of the setting, as in `bridge_core.plugins.ModuleSettings`.
        source_value: The source's value, for people and in JSON.
        target_value: The target's.
        note: What else a reader should know.
    """

    source: str
    target: str
    name: str
    source_value: str
    target_value: str
    note: str = ""

    def to_json(self) -> dict[str, str]:
        """Return it as plain data."""
        return {
            "source": self.source,
            "target": self.target,
            "name": self.name,
            "source_value": self.source_value,
            "target_value": self.target_value,
            "note": self.note,
        }

    @property
    def in_training_only(self) -> bool:
        """Whether outputs in evaluation mode cannot show it."""
        return self.name in ("momentum", "dropout")


@dataclass(frozen=True)
class ComparedSettings:
    """The settings of two models, compared.

    Args:
        differences: What differs.
        unread: What cannot be read or has no counterpart, a phrase each.
        compared: How many pairs of modules were compared.
    """

    differences: tuple[SettingDifference, ...] = ()
    unread: tuple[str, ...] = ()
    compared: int = 0


def compared_settings(
    source: Mapping[Key, ModuleSettings], target: Mapping[Key, ModuleSettings], linked: LinkedPaths
) -> ComparedSettings:
    """Return the differences of all pairs of modules.

    Modules with weights belong together through the plan; others, such as activations and pooling, by their
    order inside modules that do.

    Args:
        source: The source's settings by path.
        target: The target's.
        linked: What the plan links.
    """
    pairs = [
        ((one,), (other,))
        for ones, others in paired_paths(source, target, linked)
        for one in ones
        for other in others
    ]
    pairs = list(dict.fromkeys([*pairs, *([(((),), ((),))] if () in source and () in target else [])]))
    differences: list[SettingDifference] = []
    unread: list[str] = []
    free = list(
        _weightless_pairs(source, target, linked, [(one[0], other[0]) for one, other in pairs], unread)
    )
    everything = [(one[0], other[0]) for one, other in pairs] + free
    for one, other in everything:
        differences += _differences(one, source[one], other, target[other])
    for side, settings in (("source", source), ("target", target)):
        for path, known in settings.items():
            if known.unread:
                unread.append(f"{', '.join(known.unread)} of {join_key(path) or 'the model'} ({side})")
    return ComparedSettings(tuple(differences), tuple(unread), len(everything))


def _weightless_pairs(
    source: Mapping[Key, ModuleSettings],
    target: Mapping[Key, ModuleSettings],
    linked: LinkedPaths,
    pairs: Sequence[tuple[Key, Key]],
    unread: list[str],
) -> Iterator[tuple[Key, Key]]:
    """Give pairs of modules without weights, and add to ``unread`` those without a counterpart."""
    ours = _by_owner(source, [one for one, _ in pairs], lambda path: not linked.below(path))
    theirs = _by_owner(
        target, [other for _, other in pairs], lambda path: not linked.below(path, target=True)
    )
    twins = dict(pairs)
    twins.setdefault((), ())
    for owner, modules in ours.items():
        others = theirs.pop(twins.get(owner, ("?",)), [])
        for sort in dict.fromkeys(_sort_of(source[path]) for path in modules):
            one = [path for path in modules if _sort_of(source[path]) == sort]
            other = [path for path in others if _sort_of(target[path]) == sort]
            if len(one) == len(other):
                yield from zip(one, other, strict=True)
                others = [path for path in others if path not in other]
            else:
                unread.append(_without_twin(one, source, "source", "target"))
        unread += [_without_twin([path], target, "target", "source") for path in others]
    unread += [_without_twin(paths, target, "target", "source") for paths in theirs.values() if paths]


def _without_twin(paths: Sequence[Key], settings: Mapping[Key, ModuleSettings], side: str, other: str) -> str:
    first = settings[paths[0]]
    what = ", ".join(first.values) or "settings"
    more = f" and {count(len(paths) - 1, 'more module')}" if len(paths) > 1 else ""
    return (
        f"{what} of {join_key(paths[0])} ({first.type}){more} ({side}): the {other} has no module for it, "
        "so it may be in code"
    )


def _by_owner(
    settings: Mapping[Key, ModuleSettings], owners: Sequence[Key], is_free: Any
) -> dict[Key, list[Key]]:
    """Return the modules without weights by the innermost paired module that they are in."""
    owned: dict[Key, list[Key]] = {}
    known = {*owners, ()}
    for path, own in settings.items():
        if path and own.values and is_free(path):
            owner = next(path[:n] for n in range(len(path) - 1, -1, -1) if path[:n] in known)
            owned.setdefault(owner, []).append(path)
    return owned


def _sort_of(settings: ModuleSettings) -> str:
    for name in ("activation", "window", "dropout"):
        if name in settings.values:
            return name
    return ",".join(sorted(settings.values))


def _differences(
    source: Key, ours: ModuleSettings, target: Key, theirs: ModuleSettings
) -> Iterator[SettingDifference]:
    for name in dict.fromkeys((*ours.values, *theirs.values)):
        if (name in ours.values and name in theirs.values) or (
            name in _ABSENT and "padding" in ours.values and "padding" in theirs.values
        ):
            one, other = (each.values.get(name, _ABSENT.get(name)) for each in (ours, theirs))
        else:
            continue
        note = _HIDDEN.get(name, "")
        if name == "padding":
            equal, note = same_padding(ours.values, theirs.values)
        elif name == "dtype":
            equal = _dtype(one) == _dtype(other)
        elif name == "tied_to":
            equal = (one is None) == (other is None)
        else:
            equal = _equal(one, other)
        if not equal:
            yield SettingDifference(
                join_key(source), join_key(target), name, _shown(one), _shown(other), note
            )


def _dtype(name: Any) -> str:
    return "float32" if name is None else str(name)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return bool(one) == bool(other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=0.0)
    one, other = _tuple(one), _tuple(other)
    if isinstance(one, tuple) and isinstance(other, int):
        other = (other,) * len(one)
    if isinstance(other, tuple) and isinstance(one, int):
        one = (one,) * len(other)
    return bool(one == other)


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list | tuple) else value


def same_padding(source: Mapping[str, Any], target: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether two windows are padded alike, and a note where that depends on the input's size.

    ``"SAME"`` at stride 1 is the pairs of numbers that keep the size; at larger strides it depends on that.

    >>> same_padding({"padding": "SAME", "window": (3,), "stride": (1,)}, {"padding": ((1, 1),)})
    (True, '')
    """
    one, other = _explicit(source, target), _explicit(target, source)
    if one == other:
        return True, ""
    if isinstance(one, str) != isinstance(other, str) and "SAME" in (one, other):
        return False, "SAME pads by the input's size at this stride: equal for some sizes only"
    return False, ""


def _explicit(settings: Mapping[str, Any], other: Mapping[str, Any]) -> Any:
    """Return padding as pairs of numbers, where it does not depend on the input's size."""
    padding = _tuple(settings["padding"])
    if isinstance(padding, str):
        padding = padding.upper()
    window = _tuple(settings.get("window", other.get("window")))
    window = (window,) if isinstance(window, int) else window
    if padding == "VALID" and window is not None:
        return tuple((0, 0) for _ in window)
    if isinstance(padding, int) and window is not None:
        return tuple((padding, padding) for _ in window)
    if padding != "SAME" or window is None:
        return padding
    stride, dilation = (
        _axes(settings.get(name, other.get(name, 1)), len(window)) for name in ("stride", "dilation")
    )
    if any(step != 1 and size > 1 for step, size in zip(stride, window, strict=True)):
        return "SAME"
    totals = [gap * (size - 1) for gap, size in zip(dilation, window, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _axes(value: Any, number: int) -> tuple[int, ...]:
    value = _tuple(1 if value is None else value)
    return value if isinstance(value, tuple) else (value,) * number


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)
