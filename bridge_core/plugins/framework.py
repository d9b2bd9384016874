"""What a framework adapter must offer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

from bridge_core.state import FlatState, Key, TensorSpec

__all__ = ["Framework", "Relocating", "TreeNaming"]


@runtime_checkable
class Framework(Protocol):
    """An adapter between a framework's live objects and flat states in that framework's layout.

    An adapter may have one more attribute, ``channels``: ``"first"`` or ``"last"``, where its feature maps
    keep their channels. Between two that differ, a conversion warns of linear layers next to flattened
    feature maps, and of norms over channels and space. Without it nothing is known, and nothing is said.
    """

    name: str
    """Also the name of its layout, e.g. ``"torch"``."""
    collections: Mapping[str, tuple[str, ...]]
    """First parts of keys, e.g. ``{"params": (), "batch_stats": ("mean", "var")}``: collection -> roles that
    are in it; the first is the default. Empty if keys have no collections."""
    default_format: str
    """Format of a destination that does not say which."""

    def owns(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Tell from names alone whether a state looks like this framework's; raising means no."""
        ...

    def accepts(self, value: Any) -> bool:
        """Tell whether a live object is this framework's; must not import the framework. Raising means no."""
        ...

    def state(self, value: Any) -> FlatState:
        """Return a live object's tensors (shapes alone where it is abstract), with module types in
        the metadata. The object is not changed and its tensors are not copied where possible."""
        ...

    def build(self, state: FlatState, like: Any) -> Any:
        """Return live tensors in the structure of ``like`` (None: the framework's plain tree)."""
        ...


@runtime_checkable
class Relocating(Protocol):
    """A framework adapter some of whose leaves stand apart from the layer that they belong to."""

    def place(self, key: Key, present: Collection[Key]) -> tuple[Key, str] | None:
        """Return the layer path and leaf name of such a leaf, or None for one that stands where it belongs.

        Args:
            key: A key without its collection.
            present: Every key of the state, without collections.
        """
        ...

    def spell(self, path: Key, leaf: str) -> Key | None:
        """Return the key of a leaf that `place` gave, or None for one that stands where it belongs.

        Args:
            path: The layer's path.
            leaf: Its leaf name.
        """
        ...


@runtime_checkable
class TreeNaming(Protocol):
    """A framework adapter whose trees may hold more in their names than layers and leaves."""

    def has_collections(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Return whether the keys of a tree, which does not record it, begin with collections.

        Args:
            names: Key without box -> spec.

        Raises:
            KeyConflict: The names allow both readings.
        """
        ...

    def boxes(self, names: Mapping[Key, TensorSpec]) -> Collection[Key]:
        """Return the keys whose last part only names the value in a box, as ``value`` of
        ``layer.kernel.value``."""
        ...

    def random_state(self, names: Mapping[Key, TensorSpec]) -> Collection[Key]:
        """Return the names that hold random state and no weights.

        Args:
            names: Key without collection and box -> spec.
        """
        ...
