"""Which part of a checkpoint are the weights.

`torch.save` stores any object. Most checkpoints are a state dict, or a dict that holds one under a usual name
beside an optimizer, counters and options. The choice is fixed, or is the caller's, and it is always reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core import BridgeError, KeyConflict, LimitExceeded, MalformedFile, UnsupportedFeature
from bridge_core.messages import listed
from bridge_core.state import is_unicode
from bridge_torch.file_format.entry_choice import Choice, kind_of
from bridge_torch.file_format.left_out import LeftOut, is_training_state, reading_notes, shown_name
from bridge_torch.file_format.tensor_holders import holds_module, is_numpy_array
from bridge_torch.safe_pickle import (
    Global,
    Opaque,
    Storage,
    TensorRef,
    Unpickled,
    UnsupportedTensor,
    unsafe_names,
)

__all__ = ["Weights", "find_weights"]

_MAX_ENTRIES = 5_000_000
_FREE_REPEATS, _MAX_REPEATS = 10_000, 10
"""Entries that dicts which stand in several places may show in all, and how often each beyond that."""


@dataclass(frozen=True)
class Weights:
    """The state dict of a checkpoint.

    Args:
        tensors: Dotted name -> view.
        wrapper: Path of the entry that holds them; empty if the root does.
        left_out: What else the file holds.
        foreign: Names in the file that only its own code could give a meaning.
        entry: The entry that the caller asked for; empty if none was.
    """

    tensors: Mapping[str, TensorRef]
    wrapper: str
    left_out: tuple[LeftOut, ...]
    foreign: tuple[str, ...]
    entry: str = ""

    def provenance(self) -> dict[str, str]:
        """Return where the weights were, and what was left out."""
        ignored = listed(left.path for left in self.left_out)
        said = {"entry": self.entry, "wrapper": self.wrapper, "ignored": ignored}
        return {name: text for name, text in said.items() if text}

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of a report should know of the choice."""
        return reading_notes(self.wrapper, self.left_out, self.foreign)


def find_weights(pickle: Unpickled, *, path: str, entry: str | None = None) -> Weights:
    """Choose the weights in what a checkpoint holds.

    Entries of the usual names are followed, one inside the other; below that, nested dicts are joined by
    dots. Optimizers, schedulers and values that are not tensors are left out by name.

    Args:
        pickle: What the checkpoint holds.
        path: The file, for messages.
        entry: The entry to begin at, its path joined by dots; None for the root.

    Raises:
        MalformedFile: The root is not a dict, a name is not a string, or there are no tensors.
        UnsafeFile: A weight, or what holds the weights, is an object of an unknown class.
        UnsupportedFeature: A weight is sparse, quantised or otherwise not read, or stands in a list.
        KeyConflict: Two weights have one name.
        LimitExceeded: Nested dicts repeat each other beyond measure.
        UsageError: There is no such entry, or it does not hold tensors by name.
    """
    if not isinstance(pickle.value, dict):
        raise MalformedFile(
            f"holds {kind_of(pickle.value)}; a state dict was expected.",
            path=path,
            hint="Save module.state_dict().",
        )
    try:
        choice = Choice(pickle)
        if entry is not None:
            choice.enter(entry)
        choice.unwrap()
        found = _Gather(choice.holders, path)
        found.read(choice.node, ".".join(choice.names))
        found.refuse()
    except BridgeError as err:
        err.path = err.path or path
        raise
    left_out = (*choice.left_out, *found.left_out)
    return Weights(found.tensors, ".".join(choice.names), left_out, pickle.foreign, entry or "")


@dataclass
class _Gather:
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
    foreign_values: list[Any] = field(default_factory=list)
    visited: int = 0
    held: int = 0
    seen: set[int] = field(default_factory=set)

    def read(self, node: dict[Any, Any], where: str) -> None:
        """Add the tensors of a dict at a path of the file.

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
            self.foreign_values.append(value)
        elif is_numpy_array(value) and not beside and "." in key:  # named like a weight of a layer
            self.unread.append(f"{label} (a numpy array)")
        elif isinstance(value, Storage):
            self.unread.append(f"{label} (a storage without a tensor)")
        elif holds:
            kind = value.kind if isinstance(value, Opaque) else f"a {type(value).__name__}"
            self.unread.append(f"{label} (tensors in {kind})")
        else:
            self._leave_out(label, key, value)

    def _leave_out(self, label: str, key: Any, value: Any) -> None:
        self.left_out.append(LeftOut(label, value, is_training_state(key, value), id(value) in self.holders))

    def refuse(self) -> None:
        """Raise what was noted.

        Raises:
            UnsafeFile: Weights are objects of unknown classes.
            MalformedFile: Names are not strings.
            UnsupportedFeature: Tensors are of kinds that are not read.
        """
        if self.foreign:
            texts = [f"{name} (in {listed(labels)})" for name, labels in self.foreign.items()]
            raise unsafe_names(texts, holds_module=holds_module(self.foreign_values), path=self.path)
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
