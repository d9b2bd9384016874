"""The values of a torch pickle as plain data: tensors, storages, and objects that are not read."""

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
        module: Its module, as in the file.
        name: Its name in that module.
        known_as: The dotted name in current versions of Python, torch and numpy.
        is_foreign: Whether it is in none of the lists of harmless names.
    """

    module: str
    name: str
    known_as: str = ""
    is_foreign: bool = False

    @property
    def path(self) -> str:
        """The dotted name, as in the file."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Opaque:
    """An object that is not read, since only code of its class could.

    Args:
        kind: Dotted name of its class, or of the function that would make it.
        is_foreign: Whether that name is not known to be harmless.
        parts: The tensors and containers that the object is made of; its other values are dropped.
    """

    kind: str
    is_foreign: bool = False
    parts: list[Any] = field(default_factory=list, repr=False)


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """A run of elements that tensors view.

    Args:
        key: Its name in the file.
        dtype: torch's name of the element type; ``"untyped"`` for bytes.
        numel: Number of elements; of an untyped storage, bytes.
    """

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, eq=False, slots=True)
class TensorRef:
    """A view into a storage; its numbers are those of the file and may be wrong.

    Args:
        storage: The storage.
        dtype: torch's name of the dtype.
        offset: Index of the first element.
        shape: Sizes of the axes.
        strides: Steps along the axes, in elements.
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


_HOLDERS = frozenset({dict, list, tuple, Opaque, Storage, TensorRef, UnsupportedTensor})


def kept_parts(values: Iterable[Any]) -> list[Any]:
    """Return the values that are tensors or may hold some."""
    return [value for value in values if type(value) in _HOLDERS]


def parts_of(value: Any) -> Iterable[Any] | None:
    """Return the values in a container, or the parts of an object; None for other values."""
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
