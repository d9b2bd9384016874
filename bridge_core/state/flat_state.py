"""FlatState: the flat ``{tuple key: array}`` form that everything else passes around, lazily."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from bridge_core.errors import KeyConflict, UsageError
from bridge_core.state.keys import Key, as_key
from bridge_core.state.metadata import StateMetadata
from bridge_core.state.regions import Index
from bridge_core.state.tensors import Array, Tensor, TensorSpec, as_tensor, read_index

__all__ = ["FlatState", "as_state"]


class FlatState(Mapping[Key, Array]):
    """A read-only mapping from keys to tensors whose values are read on access.

    Args:
        tensors: Key -> `Tensor`, array or numpy scalar. The mapping is copied, values are not.
        layout: Whose names and axes these are: ``"torch"``, ``"flax"``, ``"neutral"``; None if unknown.
        metadata: What is known beside the tensors.
        close: Called by `close`.

    Raises:
        UnsupportedFeature: A value holds no plain numbers.
    """

    def __init__(
        self,
        tensors: Mapping[Key, Any],
        *,
        layout: str | None = None,
        metadata: StateMetadata | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Wrap every value."""
        self._tensors: dict[Key, Tensor] = {as_key(k): as_tensor(v) for k, v in tensors.items()}
        if len(self._tensors) != len(tensors):
            raise KeyConflict("two names stand for the same key.")
        self.layout = layout
        self.metadata = metadata if metadata is not None else StateMetadata()
        self._close = close

    def __getitem__(self, key: Key) -> Array:
        """Read one whole tensor."""
        return self.read(key)

    def __iter__(self) -> Iterator[Key]:
        """Iterate over the keys, in the order of the source."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Return the number of keys, ties included."""
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        """Tell whether a key is there; reads nothing."""
        return key in self._tensors

    def __repr__(self) -> str:
        """Summarise without reading."""
        return f"<FlatState {self.layout or 'unknown layout'}, {len(self)} tensors, {self.nbytes} bytes>"

    def tensor(self, key: Key) -> Tensor:
        """Return the lazy tensor itself."""
        return self._tensors[key]

    def tensors(self) -> Mapping[Key, Tensor]:
        """Return all lazy tensors; a copy."""
        return dict(self._tensors)

    def spec(self, key: Key) -> TensorSpec:
        """Return shape and dtype; reads nothing."""
        return self._tensors[key].spec

    def specs(self) -> dict[Key, TensorSpec]:
        """Return every spec; reads nothing."""
        return {key: tensor.spec for key, tensor in self._tensors.items()}

    def read(self, key: Key, index: Index = ...) -> Array:
        """Read what ``state[key][index]`` would give, without reading the rest.

        Args:
            key: Which tensor.
            index: Numbers, slices with any step, one ellipsis.
        """
        return read_index(self._tensors[key], index)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, those that share memory or a byte range counted once."""
        return sum(t.spec.nbytes for t in {id(t): t for t in self._tensors.values()}.values())

    def select(self, keys: Iterable[Key] | Callable[[Key], bool]) -> FlatState:
        """Return the state with some of the keys, in this state's order.

        Raises:
            KeyError: A named key is not there.
        """
        if callable(keys):
            chosen = {key for key in self if keys(key)}
        else:
            chosen = set(keys)
            for key in chosen:
                self.tensor(key)
        metadata = self.metadata.with_(
            ties={k: v for k, v in self.metadata.ties.items() if k in chosen and v in chosen},
            collections={k: v for k, v in self.metadata.collections.items() if k in chosen},
        )
        return self._derive({k: t for k, t in self._tensors.items() if k in chosen}, metadata)

    def rename(self, names: Mapping[Key, Key] | Callable[[Key], Key]) -> FlatState:
        """Return the state with keys renamed; a mapping leaves unnamed keys as they are.

        Layer paths in the metadata follow a callable, and stay under a mapping.

        Raises:
            KeyConflict: Two keys get one name.
        """
        if callable(names):
            mapping = {key: names(key) for key in self}
            metadata = self.metadata.map_keys(names)
        else:
            mapping = {key: names.get(key, key) for key in self}
            metadata = self.metadata.with_(
                ties={mapping.get(k, k): mapping.get(v, v) for k, v in self.metadata.ties.items()},
                collections={mapping.get(k, k): v for k, v in self.metadata.collections.items()},
                rules=self.metadata.rules_renamed(lambda key: mapping.get(key, key)),
            )
        tensors: dict[Key, Tensor] = {}
        for old, new in mapping.items():
            if new in tensors:
                raise KeyConflict("two tensors would get this name.", key=new)
            tensors[new] = self._tensors[old]
        return self._derive(tensors, metadata)

    def union(self, other: Mapping[Key, Any]) -> FlatState:
        """Return the tensors of both; layout and metadata are this state's.

        Raises:
            KeyConflict: A key is in both.
        """
        added = as_state(other)
        for key in added:
            if key in self._tensors:
                raise KeyConflict("stands in both states.", key=key)
        ties = {**self.metadata.ties, **added.metadata.ties}
        collections = {**self.metadata.collections, **added.metadata.collections}
        rules = self.metadata.rules
        if added.metadata.rules:
            rules = (*(rules or ()), *added.metadata.rules)
        return self._derive(
            {**self._tensors, **added._tensors},
            self.metadata.with_(ties=ties, collections=collections, rules=rules),
        )

    def replace(
        self,
        *,
        tensors: Mapping[Key, Any] | None = None,
        layout: str | None = None,
        metadata: StateMetadata | None = None,
    ) -> FlatState:
        """Return a state that stands on the same open files, with parts replaced."""
        return FlatState(
            self._tensors if tensors is None else tensors,
            layout=self.layout if layout is None else layout,
            metadata=self.metadata if metadata is None else metadata,
            close=self._close,
        )

    def _derive(self, tensors: Mapping[Key, Tensor], metadata: StateMetadata) -> FlatState:
        return self.replace(tensors=tensors, metadata=metadata)

    def close(self) -> None:
        """Close the files below. Arrays already read stay good; states derived from this one do not."""
        if self._close is not None:
            self._close()

    def is_part(self, identity: tuple[int, int]) -> bool:
        """Tell whether a file is one of several that make up the set that is open.

        Args:
            identity: Device and inode.
        """
        return identity in getattr(self._close, "identities", ())

    def check_unchanged(self) -> None:
        """Prove that the files below are still those that were opened.

        Raises:
            IntegrityError: One was written to, truncated or replaced meanwhile.
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


def as_state(value: Mapping[Key, Any], *, layout: str | None = None) -> FlatState:
    """Return a FlatState; a plain ``{key: array}`` dict is wrapped.

    Args:
        value: A state, or a mapping from tuple keys (or dotted names) to arrays.
        layout: Layout of a plain mapping.

    Raises:
        UsageError: It is no mapping, or a key is neither a name nor a sequence of names.
        UnsupportedFeature: A value holds no plain numbers.
    """
    if isinstance(value, FlatState):
        return value if layout is None or value.layout == layout else value.replace(layout=layout)
    if not isinstance(value, Mapping):
        raise UsageError(f"a {type(value).__name__} is no state; a mapping from keys to arrays was expected.")
    for key in value:
        if not isinstance(key, str | tuple):
            raise UsageError(f"{key!r} is no key; a tuple of strings, or a dotted name, was expected.")
    return FlatState(value, layout=layout)
