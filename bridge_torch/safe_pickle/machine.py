"""The stack machine of pickles: its values, marks and memo. It runs no code of a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from bridge_core import MalformedFile, TruncatedFile, UnsupportedFeature
from bridge_core.messages import count
from bridge_torch.safe_pickle.calls import call, described, named, set_item
from bridge_torch.safe_pickle.values import (
    Global,
    Opaque,
    Storage,
    TensorRef,
    UnsupportedTensor,
    kept_parts,
)
from bridge_torch.storage_classes import STORAGE_DTYPES

__all__ = ["Limits", "Machine"]

_NAME_BYTES = 1024
_MEMO_INDEXES = 1 << 32


@dataclass(frozen=True)
class Limits:
    """Bounds on a pickle.

    Args:
        pickle_bytes: The most bytes of one pickle.
        objects: The most containers, items of dicts and values in the memo together.
        depth: The most containers within containers.
    """

    pickle_bytes: int = 256 << 20
    objects: int = 20_000_000
    depth: int = 200


class Machine:
    """The stack machine of one pickle.

    Args:
        data: The bytes that begin with the pickle.
        limits: Bounds.
    """

    def __init__(self, data: bytes, limits: Limits) -> None:
        self.data = data
        self.limits = limits
        self.position = 0
        self.at = 0
        self.stack: list[Any] = []
        self.frames: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        # Without a secret, a file could choose numbers that collide in the memo.
        self.salt = int.from_bytes(os.urandom(4), "little")
        self.globals: dict[tuple[str, str], Global] = {}
        self.foreign: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}
        self.objects = 0
        self.holds_module = False

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes; `TruncatedFile` if there are fewer."""
        begin, end = self.position, self.position + count
        if end > len(self.data):
            raise TruncatedFile(f"the data is cut off: a value needs {end - len(self.data)} more bytes.")
        self.position = end
        return self.data[begin:end]

    def number(self, count: int) -> int:
        """Return the next little-endian unsigned number."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> bytes:
        """Return the bytes up to the next line feed."""
        stop = self.data.find(b"\n", self.position)
        if stop < 0:
            raise TruncatedFile("the data is cut off within a line.")
        text = self.data[self.position : stop]
        self.position = stop + 1
        return text

    def name(self) -> str:
        """Return a name of a module, class or function, which ends with a line feed."""
        stop = self.data.find(b"\n", self.position, self.position + _NAME_BYTES)
        if stop < 0:
            if len(self.data) < self.position + _NAME_BYTES:
                raise TruncatedFile("the data is cut off within a name.")
            raise MalformedFile(f"the name of a class or function is longer than {_NAME_BYTES} bytes.")
        try:
            return self.line().decode("utf-8")
        except UnicodeDecodeError:
            raise MalformedFile("the name of a class or function is not valid UTF-8.") from None

    def stack_global(self) -> None:
        """Replace a module's name and a name in it by their `Global`."""
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedFile(
                "the name of a class or function: expected two strings, got "
                f"{described(module)} and {described(name)}."
            )
        if max(len(name), len(module)) > _NAME_BYTES:
            raise MalformedFile(f"the name of a class or function is longer than {_NAME_BYTES} characters.")
        self.push(self.global_(module, name))

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self.stack.append(value)

    def new(self, value: Any) -> None:
        """Put a new container on the stack."""
        self.objects += 1
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        """Remove the last mark and return the values that were pushed since."""
        items = self.stack
        self.stack = self.frames.pop()
        return items

    def tuple_of(self, count: int) -> None:
        """Replace the last values by a tuple of them."""
        if len(self.stack) < count:
            raise IndexError
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.new(items)

    def global_(self, module: str, name: str) -> Global:
        """Return the `Global` of a name; note it if it is foreign."""
        value = self.globals.get((module, name))
        if value is None:
            self.objects += 1
            value = self.globals[module, name] = named(module, name)
            if value.is_foreign:
                self.foreign[value.path] = None
        return value

    def remember(self, index: int) -> None:
        """Store the last value in the memo under a number."""
        if not 0 <= index < _MEMO_INDEXES:
            raise MalformedFile(f"the memo is given index {index}; expected one of 32 bits.")
        self.objects += 1
        self.memo[index ^ self.salt] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Push the value that the memo has under a number."""
        index_here = index ^ self.salt
        if index_here not in self.memo:
            raise MalformedFile(f"the memo has no value {index}, but the pickle refers to it.")
        self.push(self.memo[index_here])

    def extend(self, items: list[Any]) -> None:
        """Append to the list on the stack."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, Opaque):
            self._add_parts(target, items)
        else:
            raise MalformedFile(f"items are appended: expected a list, got {described(target)}.")

    def add_items(self, items: list[Any]) -> None:
        """Add to the set on the stack, of which only values that may hold tensors are stored."""
        target = self.stack[-1]
        if not isinstance(target, Opaque):
            raise MalformedFile(f"items are added: expected a set, got {described(target)}.")
        self._add_parts(target, items)

    def set_items(self, items: list[Any]) -> None:
        """Set items of the dict on the stack."""
        target = self.stack[-1]
        if len(items) % 2:
            raise MalformedFile("a dict has a key without a value.")
        if isinstance(target, Opaque):
            self._add_parts(target, items)
            return
        if not isinstance(target, dict):
            raise MalformedFile(f"items are set: expected a dict, got {described(target)}.")
        self.objects += len(items) // 2
        for key, value in zip(items[::2], items[1::2], strict=True):
            set_item(target, key, value)

    def build(self) -> None:
        """Set attributes of an object, of which only values that may hold tensors are stored."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Opaque):
            self._add_parts(target, [state])
        elif isinstance(target, TensorRef):
            self._replace(target, UnsupportedTensor("rebuilt in place"))
        elif not isinstance(target, dict | UnsupportedTensor | Global):
            raise MalformedFile(f"attributes are set: expected an object, got {described(target)}.")

    def _replace(self, old: Any, new: Any) -> None:
        """Put another value in place of the last one, on the stack and in the memo."""
        self.stack[-1] = new
        for index in reversed(self.memo):
            self.objects += 1
            if self.memo[index] is old:
                self.memo[index] = new
                return

    def _add_parts(self, target: Opaque, values: list[Any]) -> None:
        self.objects += len(values)
        target.parts.extend(kept_parts(values))

    def reduce(self) -> None:
        """Replace a function and its arguments by the result as plain data; see `calls.call`."""
        args = self.stack.pop()
        function = self.stack.pop()
        result = call(function, args)
        for value in (args, result):
            if isinstance(value, dict | tuple):  # the parts of an object are those of its arguments
                self.objects += len(value)
        self.new(result)

    def persistent(self) -> None:
        """Replace a persistent id by the storage that it refers to."""
        self.push(self._persistent(self.stack.pop()))

    def _persistent(self, identity: Any) -> Any:
        if not isinstance(identity, tuple) or not identity:
            raise MalformedFile(f"a persistent id: expected a tuple, got {described(identity)}.")
        if identity[0] == "module":
            self.holds_module = True
            kind = identity[1] if len(identity) > 1 else None
            return kind if isinstance(kind, Global) else Opaque("module class", is_foreign=True)
        if identity[0] != "storage" or len(identity) not in (5, 6):
            raise MalformedFile(
                "a persistent id: expected one of a storage, with 5 or 6 parts, got one with "
                f"{count(len(identity), 'part')} that begins with {described(identity[0])}."
            )
        kind, key, location, numel = identity[1:5]
        if not isinstance(kind, Global) or kind.name not in STORAGE_DTYPES:
            raise MalformedFile(f"a storage has an unknown class: {described(kind)}.")
        if not isinstance(key, str) or not isinstance(location, str) or not _is_size(numel):
            raise MalformedFile(
                "a storage: expected a key (a string), a device (a string) and a number of elements, got "
                f"{described(key)}, {described(location)} and {described(numel)}."
            )
        dtype = STORAGE_DTYPES[kind.name]
        storage = self.storages.setdefault(key, Storage(key, dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            raise MalformedFile(
                f"storage {key[:80]!r} has {storage.numel} elements of {storage.dtype} at first, and "
                f"{numel} elements of {dtype} later."
            )
        if len(identity) == 6 and identity[5] is not None:
            raise UnsupportedFeature(
                f"storage {key[:80]!r} is not read: it is a view of another storage, as in files of torch "
                "before 0.4.",
                hint="Load the file with torch.load and save it again with torch.save.",
            )
        return storage


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
