"""FlatState: a checkpoint as a flat, lazy mapping from tuple keys to arrays."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bridge_core.errors import KeyConflict, UsageError
from bridge_core.state.keys import Key, as_key, join_key, unknown_key
from bridge_core.state.metadata import StateMetadata
from bridge_core.state.regions import Index
from bridge_core.state.tensors import Array, Tensor, TensorSpec, read_index
from bridge_core.state.wrapping import wrapped_tensors

if TYPE_CHECKING:
    from bridge_core.io import Location

__all__ = ["FlatState", "as_state"]


class FlatState(Mapping[Key, Array]):
    """A read-only mapping from keys to tensors whose values are read on access.

    Look-ups take a key, a dotted name, or a tuple with integers: ``state["layers.0.kernel"]``. A part of a
    key may hold a dot itself; the key that the dots of a name give comes first. A name that is not a dotted
    one may have slashes in place of dots.

    Args:
        tensors: Key or dotted name -> `Tensor`, array or numpy scalar, or a nested mapping or list of them
            (see `flatten_mapping`). The mapping is copied, values are not.
        layout: The layout of names and axes: ``"torch"``, ``"flax"``, ``"neutral"``; None if unknown.
        metadata: What is known in addition to the tensors; None for nothing.
        close: Called by `close`; None if no file is open.

    Attributes:
        location: The file or folder that it was opened from, by which other files next to it are found; None
            for a state in memory. A URL in it may hold credentials, which ``metadata.provenance`` does not.

    Raises:
        KeyConflict: Two names are the same key.
        UnsupportedFeature: A value is not an array of numbers or booleans.
        UsageError: A name is neither a string, an integer nor a tuple of them.
    """

    def __init__(
        self,
        tensors: Mapping[Any, Any],
        *,
        layout: str | None = None,
        metadata: StateMetadata | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Wrap every value."""
        empty: tuple[Key, ...] = ()
        self._tensors: dict[Key, Tensor]
        if isinstance(tensors, FlatState):
            self._tensors = dict(tensors._tensors)
        else:
            self._tensors, empty = wrapped_tensors(tensors)
        self.layout = layout
        self.metadata = metadata if metadata is not None else StateMetadata(empty=empty)
        self.location: Location | None = None
        self._close = close
        self._joined: dict[str, list[Key]] | None = None
        self._specs: dict[Key, TensorSpec] | None = None

    def __getitem__(self, key: Key | str) -> Array:
        """Read one complete tensor.

        Raises:
            UnknownKey: The state does not have the key. It is also a `KeyError`.
            KeyConflict: The dotted name is that of several keys, whose parts hold dots.
            UsageError: The argument is neither a key nor a dotted name.
        """
        return self.read(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """Read the tensor of a key or dotted name; return the default if there is none."""
        # Mapping.get makes an UnknownKey first, which looks for the nearest key.
        known = self._find(key)
        return default if known is None else self.read(known)

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys, in the order of the source."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return the number of keys, ties included."""
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        """Return whether the state has a key or a dotted name; reads nothing."""
        if type(key) is tuple and all([type(part) is str for part in key]):
            return key in self._tensors
        return isinstance(key, str | tuple | list) and self._find(key) is not None

    def __repr__(self) -> str:
        """Summarise without reading."""
        return f"<FlatState {self.layout or 'unknown layout'}, {len(self)} tensors, {self.nbytes} bytes>"

    def _repr_html_(self) -> str:
        """Return the state for a notebook, names folded; reads nothing."""
        from bridge_core.state.state_fragment import state_fragment

        return state_fragment(self)

    def tensor(self, key: Key | str) -> Tensor:
        """Return the lazy tensor itself; reads nothing.

        Args:
            key: A key or a dotted name.

        Raises:
            UnknownKey: The state does not have the key. It is also a `KeyError`.
            KeyConflict: The dotted name is that of several keys, whose parts hold dots.
            UsageError: The argument is neither a key nor a dotted name.
        """
        try:
            return self._tensors[key]  # type: ignore[index]
        except (KeyError, TypeError):
            return self._tensors[self._key(key)]

    def _key(self, name: Any) -> Key:
        key = self._find(name)
        if key is None:
            raise unknown_key(as_key(name), self._tensors)
        return key

    def _find(self, name: Any) -> Key | None:
        """Return the key that a name means; None if the state does not have it."""
        key = as_key(name)
        if key in self._tensors:
            return key
        if not isinstance(name, str):
            return None
        if self._joined is None:
            self._joined = {}
            for other in self._tensors:
                self._joined.setdefault(".".join(other), []).append(other)
        matching_keys = self._joined.get(name, [])
        if len(matching_keys) > 1:
            raise KeyConflict(
                f"the dotted name {name!r} is that of {len(matching_keys)} keys: "
                f"{', '.join(map(repr, matching_keys[:8]))}.",
                hint=f"Give the tuple, for example {matching_keys[0]!r}.",
            )
        if not matching_keys and "/" in name:
            split = as_key(name.replace("/", "."))
            return split if split in self._tensors else None
        return matching_keys[0] if matching_keys else None

    def tensors(self) -> Mapping[Key, Tensor]:
        """Return all lazy tensors; a copy."""
        return dict(self._tensors)

    def spec(self, key: Key | str) -> TensorSpec:
        """Return shape and dtype of a key or dotted name, as `tensor` finds it; reads nothing."""
        return self.tensor(key).spec

    def specs(self) -> dict[Key, TensorSpec]:
        """Return every spec; reads nothing."""
        if self._specs is None:
            # An array makes its spec each time; those that are equal are one object here.
            shared: dict[tuple[Any, ...], TensorSpec] = {}
            given = ((key, tensor.spec) for key, tensor in self._tensors.items())
            self._specs = {key: shared.setdefault((spec.shape, spec.dtype), spec) for key, spec in given}
        return dict(self._specs)

    def read(self, key: Key | str, index: Index = ...) -> Array:
        """Read what ``state[key][index]`` would give, without reading the rest.

        Args:
            key: A key or a dotted name.
            index: Integers, slices with any step, and at most one ellipsis, as in numpy.

        Raises:
            UnknownKey: The state does not have the key. It is also a `KeyError`.
            IndexError: The index does not fit the shape.
        """
        return read_index(self.tensor(key), index)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in memory; keys that share one `Tensor` are counted once."""
        return sum(t.spec.nbytes for t in {id(t): t for t in self._tensors.values()}.values())

    def select(self, keys: Iterable[Key | str] | Callable[[Key], bool]) -> FlatState:
        """Return the state with some of the keys, in this state's order, and their metadata.

        Args:
            keys: Keys or dotted names, or a function that is called with every key.

        Raises:
            UnknownKey: The state does not have one of the keys. It is also a `KeyError`.
            UsageError: An item is neither a key nor a dotted name.
        """
        if callable(keys):
            chosen = {key for key in self if keys(key)}
        else:
            chosen = {self._key(name) for name in ([keys] if isinstance(keys, str) else keys)}
        from bridge_core.state.metadata_moves import restricted_metadata

        metadata = restricted_metadata(self.metadata, self.layout, self._tensors, chosen)
        return self._derive({k: t for k, t in self._tensors.items() if k in chosen}, metadata)

    def rename(self, names: Mapping[Any, Any] | Callable[[Key], Key | str]) -> FlatState:
        """Return the state with keys renamed; keys that a mapping does not name stay unchanged.

        The metadata follows: a layer's record moves with its leaves if they stay together under their old
        names, and is forgotten if they are separated.

        Args:
            names: Key or dotted name -> new one, or a function that is called with every key. Names that the
                state does not have are ignored.

        Raises:
            KeyConflict: Two keys get one name.
            UsageError: A new name is neither a key nor a dotted name.
        """
        if callable(names):
            mapping = {key: as_key(names(key)) for key in self}
        else:
            new_names = {self._find(name): as_key(new) for name, new in names.items()}
            mapping = {key: new_names.get(key, key) for key in self}
        tensors: dict[Key, Tensor] = {}
        for old, new in mapping.items():
            if new in tensors:
                first = next(key for key, name in mapping.items() if name == new)
                raise KeyConflict(
                    f"both {join_key(first)!r} and {join_key(old)!r} would be renamed to this key.", key=new
                )
            tensors[new] = self._tensors[old]
        from bridge_core.state.metadata_moves import renamed_metadata

        return self._derive(tensors, renamed_metadata(self.metadata, self.layout, mapping))

    def union(self, other: Mapping[Any, Any]) -> FlatState:
        """Return a state with the tensors and the metadata of both.

        The record of a layer is forgotten if both states have one and they differ, or if one state adds a
        leaf to a layer that only the other has a record of.

        Args:
            other: A state, or a plain mapping, which is taken to be in the layout of this state.

        Raises:
            KeyConflict: A key is in both.
            UsageError: The states are in different layouts.
        """
        added = as_state(other)
        if None not in (self.layout, added.layout) and self.layout != added.layout:
            raise UsageError(
                f"expected the other state in the layout {self.layout!r}, got {added.layout!r}.",
                hint="Convert one of them first, or pass both through to_neutral.",
            )
        for key in added:
            if key in self._tensors:
                raise KeyConflict(
                    "both states have this key.",
                    key=key,
                    hint="Rename it in one of them, state.rename(...), or leave it out, state.select(...).",
                )
        from bridge_core.state.metadata_moves import joined_metadata

        layout = self.layout or added.layout
        keys = (self._tensors, added._tensors)
        metadata = joined_metadata(self.metadata, added.metadata, layout, keys)
        return self.replace(tensors={**self._tensors, **added._tensors}, layout=layout, metadata=metadata)

    def replace(
        self,
        *,
        tensors: Mapping[Any, Any] | None = None,
        layout: str | None = None,
        metadata: StateMetadata | None = None,
    ) -> FlatState:
        """Return a state on the same open files, with parts replaced.

        Args:
            tensors: The new tensors; None for those of this state. Ties of the metadata remain if both
                tensors are this state's, or are one tensor.
            layout: The new layout; None for this state's.
            metadata: The new metadata; None for this state's.
        """
        state = FlatState(
            self._tensors if tensors is None else tensors,
            layout=self.layout if layout is None else layout,
            metadata=self.metadata if metadata is None else metadata,
            close=self._close,
        )
        state.location = self.location
        if tensors is not None and metadata is None and self.metadata.ties:
            new, old = state._tensors, self._tensors
            ties = {
                key: other
                for key, other in self.metadata.ties.items()
                if (key in new and new.get(key) is new.get(other))
                or (new.get(key) is old.get(key) and new.get(other) is old.get(other))
            }
            if len(ties) != len(self.metadata.ties):
                state.metadata = self.metadata.with_(ties=ties)
        return state

    def _derive(self, tensors: Mapping[Key, Tensor], metadata: StateMetadata) -> FlatState:
        return self.replace(tensors=tensors, metadata=metadata)

    def with_tensors(self, tensors: Mapping[Any, Any]) -> FlatState:
        """Return the state with other tensors for some keys; shapes and dtypes may differ.

        Args:
            tensors: Key or dotted name -> `Tensor`, array or numpy scalar. Keys of one array are tied.

        Raises:
            UnknownKey: The state does not have the key. It is also a `KeyError`.
            UsageError: A key is tied to one that is not given.
            UnsupportedFeature: A value is not an array of numbers or booleans.
        """
        from bridge_core.state.exchange import new_tensors

        values = {self._key(name): value for name, value in tensors.items()}
        new = {**self._tensors, **new_tensors(values, self.metadata.ties, self._tensors)}
        # Ties of neutral tensors are compared when they are written; elsewhere tied keys are one tensor.
        return self.replace(tensors=new, metadata=self.metadata if self.layout == "neutral" else None)

    def close(self) -> None:
        """Close the open files.

        Arrays that were read stay valid; lazy tensors, also of states derived from this one, do not.
        """
        if self._close is not None:
            self._close()

    def is_part(self, identity: Hashable) -> bool:
        """Return whether a file is one of those of an open sharded set.

        Args:
            identity: Device and inode, or URL and version.
        """
        return identity in getattr(self._close, "identities", ())

    def check_unchanged(self) -> None:
        """Check that the open files are still those that were opened.

        Raises:
            IntegrityError: A file was written to, truncated or replaced since it was opened.
        """
        for owner in (self._close, getattr(self._close, "__self__", None)):
            check = getattr(owner, "check_unchanged", None)
            if check is not None:
                check()

    def __enter__(self) -> FlatState:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def as_state(value: Mapping[Any, Any], *, layout: str | None = None) -> FlatState:
    """Return a FlatState; a ``{key: array}`` dict is wrapped, and its arrays are not copied.

    Args:
        value: A state, or a mapping from tuple keys or dotted names to arrays, which may be nested.
        layout: The layout of the result; None for that of a state, and for an unknown one of a mapping.

    Raises:
        KeyConflict: Two names are the same key.
        UsageError: The value is not a mapping, or a key is neither a name nor a sequence of names.
        UnsupportedFeature: A value is not an array of numbers or booleans.
    """
    if isinstance(value, FlatState):
        return value if layout is None or value.layout == layout else value.replace(layout=layout)
    return FlatState(value, layout=layout)
