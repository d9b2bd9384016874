"""What a torch pickle holds, as plain data: tensors, storages, and objects that are not read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Global",
    "Opaque",
    "Storage",
    "TensorRef",
    "UnsupportedTensor",
    "kept_parts",
    "parts_of",
]


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A name of a class or function; never resolved.

    Args:
        module: Its module, as the file writes it.
        name: Its name there.
        known_as: The dotted name under which its meaning is known.
        is_foreign: Whether no list of this package knows it.
    """

    module: str
    name: str
    known_as: str = ""
    is_foreign: bool = False

    @property
    def path(self) -> str:
        """The dotted name, as the file writes it."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Opaque:
    """An object that is not read, since only code of its class could.

    Args:
        kind: Dotted name of its class, or of the function that would make it.
        is_foreign: Whether that name is not known to be harmless.
        parts: The tensors and containers among what the object is made of; nothing else of it is kept.
    """

    kind: str
    is_foreign: bool = False
    parts: list[Any] = field(default_factory=list, repr=False)


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A run of elements that tensors view.

    Args:
        key: Its name in the file.
        dtype: torch's name of the element type; ``"untyped"`` counts bytes.
        numel: Number of elements.
    """

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, eq=False, slots=True)
class TensorRef:
    """A view into a storage, unchecked: the numbers are as the file has them.

    Args:
        storage: What it views.
        dtype: torch's name of the dtype.
        offset: First element.
        shape: Sizes of the axes.
        strides: In elements.
        conj: The values are the complex conjugates of what is stored.
        neg: The values are the negatives of what is stored.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conj: bool = False
    neg: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class UnsupportedTensor:
    """A tensor of a kind that is not read: sparse, quantised, nested and so on."""

    kind: str


_KEPT = frozenset({dict, list, tuple, Opaque, Storage, TensorRef, UnsupportedTensor})


def kept_parts(values: Iterable[Any]) -> list[Any]:
    """Return those of some values that are, or may come to hold, tensors."""
    return [value for value in values if type(value) in _KEPT]


def parts_of(value: Any) -> Iterable[Any] | None:
    """Return what a container holds, and an object is made of; None for other values."""
    kind = type(value)
    if kind is dict:
        objects = [key for key in value if type(key) is Opaque]
        return [*value.values(), *objects] if objects else value.values()
    if kind is list or kind is tuple:
        contents: Iterable[Any] = value
        return contents
    if kind is Opaque:
        parts: Iterable[Any] = value.parts
        return parts
    return None
