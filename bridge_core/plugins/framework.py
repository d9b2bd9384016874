"""The interface of a framework adapter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from bridge_core.state import FlatState, Key, StateMetadata, TensorSpec

__all__ = ["Framework", "Relocating", "TrainStates", "TreeNaming", "WeightsChoice"]


@runtime_checkable
class Framework(Protocol):
    """An adapter between a framework's live objects and flat states in its layout.

    An adapter may have one more attribute, ``channels``: ``"first"`` or ``"last"``, where its feature maps
    have their channels. Between two that differ, a conversion warns of linear layers next to flattened
    feature maps, and of norms over channels and space. Without the attribute it does not warn.
    ``needs_template``, True where `build` refuses ``like=None``, as objects are made of more than tensors.
    """

    name: str
    """Also the name of its layout, e.g. ``"torch"``."""
    collections: Mapping[str, tuple[str, ...]]
    """First parts of keys, e.g. ``{"params": (), "batch_stats": ("mean", "var")}``: collection -> roles that
    are in it; the first is the default. Empty if keys have no collections."""
    default_format: str
    """Name of the format to write where the destination does not determine one."""

    def owns(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Return whether a state looks like this framework's, by its names; raising means no.

        Args:
            names: Key -> spec of every tensor, collections included.
        """
        ...

    def accepts(self, value: Any) -> bool:
        """Return whether a live object is this framework's; raising means no.

        Args:
            value: Any object. The framework is not imported: it is in `sys.modules` if the object is its own.
        """
        ...

    def state(self, value: Any) -> FlatState:
        """Return a live object's tensors, with module types in the metadata.

        Of an abstract object the tensors have specs and no values. The object is not changed, and its tensors
        are not copied where possible.

        Args:
            value: An object that `accepts` returned True for.
        """
        ...

    def build(self, state: FlatState, like: Any) -> Any:
        """Return live tensors in the structure of ``like``, which is not changed.

        Args:
            state: Tensors in this framework's layout; each value is read once.
            like: A live or abstract object of this framework; None for the framework's plain tree.
        """
        ...


@runtime_checkable
class Relocating(Protocol):
    """A framework adapter with leaves whose keys are not below their layer's path."""

    def place(self, key: Key, present: Collection[Key]) -> tuple[Key, str] | None:
        """Return the layer path and leaf name of such a leaf.

        None for a leaf that is below its layer's path.

        Args:
            key: A key without its collection.
            present: Every key of the state, without collections.
        """
        ...

    def spell(self, path: Key, leaf: str) -> Key | None:
        """Return the key of a leaf that `place` returned.

        None for a leaf that is below its layer's path.

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


@dataclass(frozen=True, slots=True)
class WeightsChoice:
    """Which tensors of a tree that holds more than a model's weights are the weights.

    Args:
        names: Name of each weight in the tree -> its name in the conversion.
        left_out: Path of a branch without weights -> what it is, for people; every name that is not in
            ``names`` is below one of them.
        wrapper: Path of the branch that the weights were below, without its name in theirs; empty for none.
        collections: Whether the new names begin with a collection.
        copies: Paths in ``left_out`` that hold other weights of the same model.
    """

    names: Mapping[Key, Key]
    left_out: Mapping[Key, str]
    wrapper: Key = ()
    collections: bool = True
    copies: frozenset[Key] = field(default=frozenset())


@runtime_checkable
class TrainStates(Protocol):
    """A framework adapter that knows the trees in which training programs keep their state."""

    def choose_weights(
        self, names: Mapping[Key, TensorSpec], metadata: StateMetadata, entry: str = ""
    ) -> WeightsChoice | None:
        """Return which tensors of a tree are weights; None if the tree is not a train state.

        Args:
            names: Key without box -> spec.
            metadata: The tree's metadata.
            entry: Dotted path of another copy of the weights, to be taken in their place; empty for the
                usual weights. None is returned where there is no such copy, or it is complete by itself.

        Raises:
            KeyConflict: The names do not show which branch holds the weights, or what another branch is.
            ConversionError: There are no weights, only the state of an optimizer.
        """
        ...
