"""Which part of a checkpoint are the weights.

`torch.save` stores any object. Most checkpoints are a state dict, or a dict that holds one under a usual name
beside an optimizer, counters and options. The choice here is fixed and is reported, never silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core import KeyConflict, LimitExceeded, MalformedFile, UnsupportedFeature
from bridge_core.messages import listed
from bridge_core.state import is_unicode
from bridge_torch.safe_pickle import TensorRef, UnsupportedTensor

__all__ = ["WRAPPERS", "Weights", "find_weights"]

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
"""Usual names of the entry that holds the state dict; the first that holds tensors is taken."""

_NOT_WEIGHTS = frozenset(
    {
        "lr_scheduler",
        "lr_schedulers",
        "scheduler",
        "schedulers",
        "scaler",
        "grad_scaler",
        "amp",
        "callbacks",
        "loops",
    }
)
_MAX_ENTRIES = 5_000_000
_FREE_REPEATS, _MAX_REPEATS = 10_000, 10
"""Entries that dicts which stand in several places may show in all, and how often each beyond that."""


@dataclass(frozen=True)
class Weights:
    """The state dict of a checkpoint.

    Args:
        tensors: Dotted name -> view.
        wrapper: Path of the entry that holds them; empty if the root does.
        ignored: Names of entries that are no weights.
    """

    tensors: Mapping[str, TensorRef]
    wrapper: str
    ignored: tuple[str, ...]

    def provenance(self) -> dict[str, str]:
        """Return what reports say of it."""
        notes = {}
        if self.wrapper:
            notes["wrapper"] = self.wrapper
        if self.ignored:
            notes["ignored"] = listed(self.ignored)
        return notes


def find_weights(root: Any, *, path: str) -> Weights:
    """Choose the weights in what a checkpoint holds.

    Entries named as in `WRAPPERS` are followed, one inside the other; below that, nested dicts are joined by
    dots. Optimizers, schedulers and values that are no tensors are left out by name.

    Raises:
        MalformedFile: The root is no dict, a name is no string, or there is no tensor at all.
        UnsupportedFeature: A weight is sparse, quantised or otherwise not read, or stands in a list.
        KeyConflict: Two weights have one name.
        LimitExceeded: Nested dicts repeat each other beyond measure.
    """
    if not isinstance(root, dict):
        raise MalformedFile(
            f"holds {_kind(root)}; a state dict was expected.",
            path=path,
            hint="Save module.state_dict().",
        )
    holders = _holders(root)
    if root and id(root) not in holders:
        raise MalformedFile(f"holds no tensors; its entries are {_names(root)}.", path=path)
    node: dict[Any, Any] = root
    wrappers: list[str] = []
    ignored: list[str] = []
    while True:
        name = next((n for n in WRAPPERS if isinstance(node.get(n), dict) and id(node[n]) in holders), None)
        if name is None:
            break
        ignored += [".".join([*wrappers, _label(other)]) for other in node if other != name]
        wrappers.append(name)
        node = node[name]
    tensors: dict[str, TensorRef] = {}
    gather = _Gather(holders, tensors, ignored, path)
    gather.walk(node, "")
    gather.refuse()
    return Weights(tensors, ".".join(wrappers), tuple(ignored))


class _Gather:
    """Flattens a state dict, and notes everything that is wrong with it before raising."""

    def __init__(
        self, holders: frozenset[int], tensors: dict[str, TensorRef], ignored: list[str], path: str
    ) -> None:
        self.holders = holders
        self.tensors = tensors
        self.ignored = ignored
        self.path = path
        self.wrong_names: list[str] = []
        self.unread: list[str] = []
        self.visited = self.held = 0
        self.seen: set[int] = set()

    def walk(self, node: dict[Any, Any], prefix: str) -> None:
        self.visited += len(node)
        if id(node) not in self.seen:
            self.seen.add(id(node))
            self.held += len(node)
        if self.visited > _MAX_ENTRIES:
            raise LimitExceeded(f"has more than {_MAX_ENTRIES} entries.", path=self.path)
        if self.visited > _FREE_REPEATS + _MAX_REPEATS * self.held:
            raise LimitExceeded(f"repeats {self.held} entries into {self.visited} and more.", path=self.path)
        for key, value in node.items():
            label = prefix + _label(key)
            if isinstance(value, dict):
                if id(value) not in self.holders or _is_training_state(key):
                    self.ignored.append(label)
                elif not isinstance(key, str):
                    self.wrong_names.append(label)
                else:
                    self.walk(value, f"{prefix}{key}.")
            elif not isinstance(key, str) or not is_unicode(key):
                self.wrong_names.append(label)
            elif isinstance(value, TensorRef):
                name = prefix + key
                if name in self.tensors:
                    raise KeyConflict("two weights have this name.", path=self.path, key=name)
                self.tensors[name] = value
            elif isinstance(value, UnsupportedTensor):
                self.unread.append(f"{label} ({value.kind})")
            elif id(value) in self.holders and not key.endswith("_extra_state"):
                self.unread.append(f"{label} (tensors in a {type(value).__name__})")
            else:
                self.ignored.append(label)

    def refuse(self) -> None:
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


def _is_training_state(key: Any) -> bool:
    return isinstance(key, str) and (key in _NOT_WEIGHTS or key.startswith("optim"))


def _holders(root: dict[Any, Any]) -> frozenset[int]:
    """Return the identities of the containers that hold a tensor, at any depth."""
    found: set[int] = set()
    seen: set[int] = set()

    def visit(node: Any) -> bool:
        if isinstance(node, TensorRef | UnsupportedTensor):
            return True
        if not isinstance(node, dict | list | tuple):
            return False
        if id(node) not in seen:
            seen.add(id(node))
            children = node.values() if isinstance(node, dict) else node
            if any([visit(child) for child in children]):
                found.add(id(node))
        return id(node) in found

    visit(root)
    return frozenset(found)


def _kind(value: Any) -> str:
    if isinstance(value, TensorRef | UnsupportedTensor):
        return "a single tensor"
    return f"a {type(value).__name__}" if value is not None else "None"


def _label(key: Any) -> str:
    if isinstance(key, str):
        return key if key.isprintable() and key else ascii(key)
    return str(key) if isinstance(key, int | None) else f"({type(key).__name__})"


def _names(node: dict[Any, Any]) -> str:
    return listed([_label(key) for key in node])
