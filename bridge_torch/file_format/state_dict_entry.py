"""The weights of a checkpoint: which of its entries they are, and what else it holds.

`torch.save` stores any object. Most checkpoints are a state dict, or a dict that holds one under a usual
name, next to an optimizer, counters and options. The order in which usual names are tried is fixed; the
caller may choose another entry. Reports name the entry that was read and those that were not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core import BridgeError, KeyConflict, LimitExceeded, MalformedFile, UnsupportedFeature
from bridge_core.messages import count, listed
from bridge_core.state import is_unicode
from bridge_torch.file_format.entry_choice import Choice, kind_of
from bridge_torch.file_format.left_out import LeftOut, is_training_state, reading_notes, shown_name
from bridge_torch.file_format.tensor_holders import holds_module, is_numpy_array
from bridge_torch.hints import SAVE_WEIGHTS
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
"""Entries that may be visited where dicts are shared: in any case, and as a multiple of those stored."""


@dataclass(frozen=True)
class Weights:
    """The state dict of a checkpoint.

    Args:
        tensors: Dotted name -> view.
        wrapper: Path of the entry that holds them; empty if the root does.
        left_out: The entries that were not read.
        foreign: Classes and functions in the file that are not known to be harmless.
        entry: The entry that the caller chose; empty for none.
    """

    tensors: Mapping[str, TensorRef]
    wrapper: str
    left_out: tuple[LeftOut, ...]
    foreign: tuple[str, ...]
    entry: str = ""

    def provenance(self) -> dict[str, str]:
        """Return the metadata on where the weights were, and what was left out; values are not empty."""
        ignored = listed(left.path for left in self.left_out)
        texts = {"entry": self.entry, "wrapper": self.wrapper, "ignored": ignored}
        return {name: text for name, text in texts.items() if text}

    def notes(self) -> tuple[str, ...]:
        """Return the notes of a report on which entry was read, and which were not."""
        return reading_notes(self.wrapper, self.left_out, self.foreign)


def find_weights(pickle: Unpickled, *, path: str, entry: str | None = None) -> Weights:
    """Return the weights of a checkpoint.

    Entries of the usual names are followed, one inside the other; below that, nested dicts are joined by
    dots. Optimizers, schedulers and values that are not tensors are left out by name.

    Args:
        pickle: The values of the checkpoint.
        path: The file, for messages.
        entry: The entry to begin at, its names joined by dots; None for the root.

    Raises:
        MalformedFile: The root is not a dict, a name is not a string, or there are no tensors.
        UnsafeFile: A weight, or an object that holds weights, is of an unknown class.
        UnsupportedFeature: A weight is sparse, quantised or otherwise not read, or is in a list.
        KeyConflict: Two weights have one name.
        LimitExceeded: Nested dicts refer to each other too often.
        UsageError: There is no such entry, or it is not a dict of tensors.
    """
    if not isinstance(pickle.value, dict):
        raise MalformedFile(
            f"the file does not hold a state dict: expected a dict of tensors, got {kind_of(pickle.value)}.",
            path=path,
            hint=f"Save a state dict: {SAVE_WEIGHTS}.",
        )
    try:
        choice = Choice(pickle)
        if entry is not None:
            choice.enter(entry)
        choice.unwrap()
        gathered = _Gather(choice.holders, path)
        gathered.read(choice.node, ".".join(choice.names))
        gathered.refuse()
    except BridgeError as err:
        err.path = err.path or path
        raise
    left_out = (*choice.left_out, *gathered.left_out)
    return Weights(gathered.tensors, ".".join(choice.names), left_out, pickle.foreign, entry or "")


@dataclass
class _Gather:
    """The tensors of a state dict, and all of its problems, which are collected before any is raised.

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

        Objects in a dict of state dicts are left out; in a dict of tensors they are refused, since they may
        be weights.
        """
        has_own_tensors = any(type(value) is TensorRef for value in node.values())
        self._walk(node, "", f"{where}." if where else "", has_own_tensors)

    def _walk(self, node: dict[Any, Any], prefix: str, where: str, has_tensors: bool = True) -> None:
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
                    raise KeyConflict(
                        "two weights have this name.",
                        path=self.path,
                        key=name,
                        hint="Rename one of them, and save the state dict again.",
                    )
                self.tensors[name] = value
            else:
                self._other(label, key, value, has_tensors)

    def _count(self, node: dict[Any, Any]) -> None:
        self.visited += len(node)
        if id(node) not in self.seen:
            self.seen.add(id(node))
            self.held += len(node)
        if self.visited > _MAX_ENTRIES:
            raise LimitExceeded(f"the state dict has more than {_MAX_ENTRIES} entries.", path=self.path)
        if self.visited > _FREE_REPEATS + _MAX_REPEATS * self.held:
            raise LimitExceeded(
                f"nested dicts refer to each other too often: their {self.held} entries expand to more than "
                f"{self.visited}.",
                path=self.path,
                hint=f"Save a state dict with each tensor once: {SAVE_WEIGHTS}.",
            )

    def _other(self, label: str, key: str, value: Any, has_tensors: bool) -> None:
        """Leave out or note a value that is neither a dict nor a tensor that can be read."""
        holds = id(value) in self.holders
        if isinstance(value, UnsupportedTensor):
            self.unread.append(f"{label} ({value.kind})")
        elif key.endswith("_extra_state") or is_training_state(key, value):
            self._leave_out(label, key, value)
        elif isinstance(value, Opaque | Global) and value.is_foreign and (holds or has_tensors):
            name = value.kind if isinstance(value, Opaque) else value.path
            self.foreign.setdefault(name, []).append(label)
            self.foreign_values.append(value)
        elif is_numpy_array(value) and has_tensors and "." in key:  # named like a weight of a layer
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
        """Raise the error for the problems that were noted, if there are any.

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
                f"expected strings in valid Unicode as the keys of the state dict, got "
                f"{count(len(self.wrong_names), 'other key')}: {listed(self.wrong_names)}.",
                path=self.path,
                hint=f"Save a state dict: {SAVE_WEIGHTS}.",
            )
        if self.unread:
            raise UnsupportedFeature(
                f"the file has {count(len(self.unread), 'weight')} of a kind that is not read: "
                f"{listed(self.unread)}.",
                path=self.path,
                hint="Replace each by a dense tensor (tensor.dequantize(), tensor.to_dense()), and save the "
                "state dict again.",
            )
