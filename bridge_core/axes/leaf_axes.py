"""The axis names of leaves: parsed, checked, and bound to the sizes of real shapes.

``in out`` names two axes. ``*k`` is any number of axes and ``+k`` one or more, both in the framework's tensor
and in the kind's. ``heads/2`` is two axes of the framework that are one axis of the kind, ``out/+`` is one or
more of them. ``(q k v)`` is one axis of the framework, made of equal parts that go to different leaves. ``1``
has size one.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bridge_core.errors import PluginError

__all__ = ["Axis", "Binding", "Shape", "bind", "bind_axes", "parse_axes"]

Shape = tuple[int, ...]
Binding = dict[str, Shape]
"""Axis name -> the sizes of its axes."""


@dataclass(frozen=True)
class Axis:
    """One name among the axes of a leaf.

    Args:
        members: Its name; or the names of its parts if they go to different leaves.
        spread: ``*`` or ``+`` for a variable number of axes, or empty.
        split: How many axes of the framework it is; 0 for one or more.
    """

    members: tuple[str, ...]
    spread: str = ""
    split: int = 1

    @property
    def name(self) -> str:
        """The name, or that of the first part."""
        return self.members[0]

    @property
    def fixed(self) -> int:
        """The lowest number of axes that it can be."""
        if self.spread:
            return int(self.spread == "+")
        return max(1, self.split)

    @property
    def variable(self) -> bool:
        """Whether it can be more axes than `fixed`."""
        return bool(self.spread) or self.split == 0


_GROUP_HINT = (
    "Write a rule for parts that alternate, such as q, k and v of each head: only its equations have groups "
    "inside groups."
)
_NUMBER_HINT = "Name the axis: 'kv/3' is one axis of the other framework that is three axes here."


@functools.lru_cache(maxsize=4096)
def parse_axes(text: str) -> tuple[Axis, ...]:
    """Parse axis names.

    Raises:
        PluginError: The text is not in the notation, or names an axis twice.

    >>> parse_axes("in heads/2")
    (Axis(members=('in',), spread='', split=1), Axis(members=('heads',), spread='', split=2))
    """
    if text.count("(") != text.count(")"):
        raise PluginError(f"axes {text!r}: expected a ')' for each '(', got another number.")
    axes = []
    tokens = iter(text.replace("(", " ( ").replace(")", " ) ").split())
    for token in tokens:
        if token == "(":
            members = tuple(iter(lambda: next(tokens, ")"), ")"))
            if len(members) < 2 or not all(member.isidentifier() for member in members):
                got = " ".join(members) or "nothing"
                raise PluginError(
                    f"axes {text!r}: expected two names or more in a group, got {got}.",
                    hint=_GROUP_HINT if "(" in members else None,
                )
            axes.append(Axis(members))
            continue
        spread = token[0] if token[0] in "*+" else ""
        name, slash, split = token[len(spread) :].partition("/")
        fits_split = not slash or split == "+" or (split.isdecimal() and int(split) > 1)
        if not fits_split or (slash and spread) or not (name.isidentifier() or (name == "1" and not slash)):
            raise PluginError(
                f"axes {text!r}: expected an axis (name, *name, +name, name/2, name/+ or 1), got {token!r}.",
                hint=_NUMBER_HINT if token.isdecimal() else None,
            )
        axes.append(Axis((name,), spread, 1 if not slash else 0 if split == "+" else int(split)))
    names = [member for axis in axes for member in dict.fromkeys(axis.members) if member != "1"]
    twice = next((name for name, number in Counter(names).items() if number > 1), None)
    if twice is not None:
        raise PluginError(f"axes {text!r}: expected each name once, got {twice!r} twice.")
    if sum(bool(axis.spread) for axis in axes) > 1:
        raise PluginError(f"axes {text!r}: expected at most one '*' or '+', got more.")
    return tuple(axes)


@functools.lru_cache(maxsize=65536)
def bind(text: str, shape: Shape) -> tuple[tuple[tuple[str, Shape], ...], ...]:
    """Return every way to bind axis names to a shape, each as pairs of a name and its sizes.

    Raises:
        PluginError: As `parse_axes`.
    """
    axes = parse_axes(text)
    bindings = []
    for widths in _widths(axes, len(shape)):
        bound = _bound(axes, widths, shape)
        if bound is not None:
            bindings.append(tuple(bound.items()))
    return tuple(bindings)


def bind_axes(axes: str, shape: Shape) -> Binding | None:
    """Return the size of each axis name, or None.

    None if the shape does not fit the names, or fits in two ways.

    Raises:
        PluginError: As `parse_axes`.

    >>> bind_axes("out in +k", (8, 4, 3, 3))
    {'out': (8,), 'in': (4,), 'k': (3, 3)}
    >>> bind_axes("out in +k", (8, 4)) is None
    True
    >>> bind_axes("(q k v) in", (12, 8))
    {'q': (4,), 'k': (4,), 'v': (4,), 'in': (8,)}
    """
    bindings = bind(axes, shape)
    return dict(bindings[0]) if len(bindings) == 1 else None


def _widths(axes: tuple[Axis, ...], rank: int) -> Iterator[tuple[int, ...]]:
    if not axes:
        if rank == 0:
            yield ()
        return
    first, rest = axes[0], axes[1:]
    least_after = sum(axis.fixed for axis in rest)
    most = rank - least_after if first.variable else first.fixed
    for width in range(first.fixed, most + 1):
        for others in _widths(rest, rank - width):
            yield (width, *others)


def _bound(axes: tuple[Axis, ...], widths: tuple[int, ...], shape: Shape) -> Binding | None:
    bound: Binding = {}
    at = 0
    for axis, width in zip(axes, widths, strict=True):
        sizes = shape[at : at + width]
        at += width
        if axis.name == "1":
            if any(n != 1 for n in sizes):
                return None
        elif len(axis.members) > 1:
            if sizes[0] % len(axis.members):
                return None
            bound.update(dict.fromkeys(axis.members, (sizes[0] // len(axis.members),)))
        else:
            bound[axis.name] = sizes
    return bound
