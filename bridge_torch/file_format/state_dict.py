"""A state dict as flat names and views: nested dicts joined by dots, everything else refused or left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bridge_core import KeyConflict, LimitExceeded, MalformedFile, UnsupportedFeature
from bridge_core.messages import listed
from bridge_core.state import is_unicode
from bridge_torch.file_format.left_out import LeftOut, is_training_state, shown_name
from bridge_torch.safe_pickle import Global, Opaque, Storage, TensorRef, UnsupportedTensor, unsafe_names

__all__ = ["StateDict"]

_MAX_ENTRIES = 5_000_000
_FREE_REPEATS, _MAX_REPEATS = 10_000, 10
"""Entries that dicts which stand in several places may show in all, and how often each beyond that."""


@dataclass
class StateDict:
    """The tensors of a state dict, and everything that is wrong with it, which is noted before raising.

    Args:
        holders: Identities of the containers and objects that hold tensors.
        path: The file, for messages.
    """

    holders: frozenset[int]
    path: str
    tensors: dict[str, TensorRef] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    wrong_names: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    foreign: dict[str, list[str]] = field(default_factory=dict)
    visited: int = 0
    held: int = 0
    seen: set[int] = field(default_factory=set)

    def read(self, node: dict[Any, Any], where: str) -> None:
        """Add the tensors of a dict that stands at a path of the file.

        Objects beside state dicts are left out; among tensors they would be weights that are not read.
        """
        beside = not any(type(value) is TensorRef for value in node.values())
        self._walk(node, "", f"{where}." if where else "", beside)

    def _walk(self, node: dict[Any, Any], prefix: str, where: str, beside: bool = False) -> None:
        self._count(node)
        for key, value in node.items():
            kind = type(value)
            label = where + prefix + shown_name(key)
            if kind is dict:
                if id(value) not in self.holders or is_training_state(key, value):
                    self._leave_out(label, key, value)
                elif not isinstance(key, str):
                    self.wrong_names.append(label)
                else:
                    self._walk(value, f"{prefix}{key}.", where)
            elif not isinstance(key, str) or not is_unicode(key):
                self.wrong_names.append(label)
            elif kind is TensorRef:
                name = prefix + key
                if name in self.tensors:
                    raise KeyConflict("two weights have this name.", path=self.path, key=name)
                self.tensors[name] = value
            else:
                self._other(label, key, value, beside)

    def _count(self, node: dict[Any, Any]) -> None:
        self.visited += len(node)
        if id(node) not in self.seen:
            self.seen.add(id(node))
            self.held += len(node)
        if self.visited > _MAX_ENTRIES:
            raise LimitExceeded(f"has more than {_MAX_ENTRIES} entries.", path=self.path)
        if self.visited > _FREE_REPEATS + _MAX_REPEATS * self.held:
            raise LimitExceeded(f"repeats {self.held} entries into {self.visited} and more.", path=self.path)

    def _other(self, label: str, key: str, value: Any, beside: bool) -> None:
        """Sort a value that is neither a dict nor a tensor that can be read."""
        holds = id(value) in self.holders
        if isinstance(value, UnsupportedTensor):
            self.unread.append(f"{label} ({value.kind})")
        elif key.endswith("_extra_state") or is_training_state(key, value):
            self._leave_out(label, key, value)
        elif isinstance(value, Opaque | Global) and value.is_foreign and (holds or not beside):
            name = value.kind if isinstance(value, Opaque) else value.path
            self.foreign.setdefault(name, []).append(label)
        elif isinstance(value, Storage):
            self.unread.append(f"{label} (a storage without a tensor)")
        elif holds:
            kind = value.kind if isinstance(value, Opaque) else f"a {type(value).__name__}"
            self.unread.append(f"{label} (tensors in {kind})")
        else:
            self._leave_out(label, key, value)

    def _leave_out(self, label: str, key: Any, value: Any) -> None:
        self.left_out.append(LeftOut(label, value, is_training_state(key, value)))

    def refuse(self, *, holds_module: bool) -> None:
        """Raise what was noted.

        Raises:
            UnsafeFile: Weights are objects of unknown classes.
            MalformedFile: Names are not strings.
            UnsupportedFeature: Tensors are of kinds that are not read.
        """
        if self.foreign:
            texts = [f"{name} in {listed(labels)}" for name, labels in self.foreign.items()]
            error = unsafe_names(texts, holds_module=holds_module)
            error.path = self.path
            raise error
        if self.wrong_names:
            raise MalformedFile(
                f"weights are named by strings; found {listed(self.wrong_names)}.", path=self.path
            )
        if self.unread:
            raise UnsupportedFeature(
                f"holds tensors of kinds that are not read: {listed(self.unread)}.",
                path=self.path,
                hint="Save them as plain dense tensors.",
            )
