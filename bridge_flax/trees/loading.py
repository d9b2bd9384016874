"""Reading the leaves of a tree: of each array what the devices of this process hold, each byte once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flax import nnx

from bridge_core import FlatState, Key, Tensor, UnsupportedFeature, UsageError, join_key
from bridge_core.errors import about_tensor
from bridge_core.state import Array, Region, regions
from bridge_core.transfer import LoadedTensor, boxed, grouped_by_chunks, load_values
from bridge_flax.templates import Template
from bridge_flax.trees.agreement import Processes
from bridge_flax.trees.arrays import (
    SpreadTensor,
    as_leaf,
    fits_jax,
    has_no_devices,
    is_key_array,
    is_spread,
    sharding_of,
)
from bridge_flax.trees.exchange import Share, share_of
from bridge_flax.trees.nnx_split import split
from bridge_flax.trees.placement import placement_of, spread_array
from bridge_flax.trees.walk import walk

__all__ = ["LeafReader", "read_here"]

_ALL = 1 << 62


@dataclass(frozen=True)
class _Reading:
    """What is read for one leaf.

    Args:
        key: Its key.
        tensor: The tensor.
        boxes: The regions to read.
        make: Makes the leaf, or what an exchange needs, of the values of the boxes.
    """

    key: Key
    tensor: Tensor
    boxes: tuple[Region, ...]
    make: Callable[[list[Array]], Any]


@dataclass
class _Part:
    """A box of a tensor, and which boxes of which leaves it is."""

    key: Key
    tensor: Tensor
    users: list[tuple[Key, int]] = field(default_factory=list)


def read_here(state: FlatState, leaves: Sequence[tuple[Key, Any]]) -> dict[Key, Any]:
    """Return a new leaf for each leaf of a tree, without any exchange between processes.

    Args:
        state: The tensors.
        leaves: Key and old leaf of each.
    """
    return _read([_of_leaf(key, state.tensor(key), leaf) for key, leaf in leaves], None, _ALL)


class LeafReader:
    """Reads the leaves of a tree in all processes that hold parts of it.

    Args:
        like: The tree.
        workers: Threads; None for one per processor, at most four.
        max_bytes: Bytes of the values that are in memory at once in addition to the result; the values of one
            leaf may take more.

    Raises:
        UsageError: A leaf has a sharding without devices.
    """

    def __init__(self, like: Any, workers: int | None, max_bytes: int) -> None:
        self._workers, self._max_bytes = workers, max_bytes
        leaves = [(key, leaf) for key, leaf, _ in walk(_tree_of(like))]
        shardings = {sharding_of(leaf) for _, leaf in leaves} - {None}
        for key, leaf in leaves:
            if has_no_devices(leaf):
                raise UsageError(
                    f"the leaf has the sharding {leaf.sharding.spec} of a mesh without devices.",
                    key=key,
                    hint="Call it within jax.set_mesh(mesh), with the mesh that was set for making the tree.",
                )
        spread = [each for each in shardings if not each.is_fully_addressable]
        self._processes = Processes(device for each in spread for device in each.device_set)
        self._agreed = False

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Let the other processes raise an error too if this one fails before all values are read."""
        try:
            yield
        except Exception as err:
            if not self._agreed:
                self._processes.agree("load the tree", err)
            raise

    def read(self, state: FlatState, leaves: Sequence[tuple[Key, Any]]) -> dict[Key, Any]:
        """Return a new leaf for each leaf of a tree.

        Args:
            state: The tensors. An array of the old tree that is partly on other hosts stays.
            leaves: Key and old leaf of each.

        Raises:
            ConversionError: Another process failed.
            UnsupportedFeature: JAX cannot hold a dtype.
        """
        result: dict[Key, Any] = {}
        readings = []
        shares: dict[Key, Share] = {}
        for key, leaf in leaves:
            tensor = state.tensor(key)
            if isinstance(tensor, SpreadTensor):
                result[key] = tensor.array
                continue
            share = None
            if is_spread(leaf) and not is_key_array(leaf):
                _require_fitting(key, tensor)
                with about_tensor(key):
                    share = share_of(tensor, sharding_of(leaf))
            if share is not None:
                shares[key] = share
                readings.append(_Reading(key, tensor, share.boxes, lambda values: values))
            else:
                readings.append(_of_leaf(key, tensor, leaf))
        result |= _read(readings, self._workers, self._max_bytes)
        exchanged = [f"{join_key(key)} {state.spec(key)} {share.cut.parts}" for key, share in shares.items()]
        spread = [(key, sharding_of(leaf)) for key, leaf in leaves if is_spread(leaf)]
        divided = [f"{join_key(key)} {each}" for key, each in spread if not each.is_fully_addressable]
        self._agreed = True
        self._processes.agree("load the tree", about=exchanged + divided)
        for key, share in shares.items():
            result[key] = share.exchanged(result.pop(key), state.spec(key).dtype)
        return result


def _tree_of(like: Any) -> Any:
    """Return what `walk` can walk; nothing for a template, whose leaves have no shardings."""
    if isinstance(like, Template):
        return None
    return split(like)[1] if isinstance(like, nnx.Pytree) else like


def _of_leaf(key: Key, tensor: Tensor, leaf: Any) -> _Reading:
    """Return what this process reads for a leaf by itself."""
    spec, sharding = tensor.spec, sharding_of(leaf)
    if not is_spread(leaf) or is_key_array(leaf) or not fits_jax(spec.dtype):
        return _Reading(key, tensor, (regions.full(spec.shape),), lambda values: as_leaf(values[0], leaf))
    with about_tensor(key):
        placement = placement_of(sharding, spec.shape)
    return _Reading(
        key,
        tensor,
        placement.boxes,
        lambda values: spread_array(placement, sharding, spec.shape, spec.dtype, values),
    )


def _read(readings: Iterable[_Reading], workers: int | None, max_bytes: int) -> dict[Key, Any]:
    """Read the boxes of all leaves, each box of a tensor once, and make the leaves."""
    result: dict[Key, Any] = {}
    values: dict[Key, list[Any]] = {}
    make = {}
    parts: dict[object, _Part] = {}
    for each in readings:
        make[each.key] = each.make
        values[each.key] = [None] * len(each.boxes)
        if not each.boxes:
            result[each.key] = each.make([])
        for number, box in enumerate(each.boxes):
            corners = (id(each.tensor), *((part.start, part.stop) for part in box))
            if corners not in parts:
                name = each.key if not number else (*each.key[:-1], f"{each.key[-1]}[{number}]")
                parts[corners] = _Part(name, boxed(each.tensor, box))
            parts[corners].users.append((each.key, number))
    items = list(parts.values())
    for group in grouped_by_chunks([part.tensor for part in items], max_bytes):
        chosen = [items[number] for number in group]
        loaded = load_values(FlatState({part.key: part.tensor for part in chosen}), workers=workers)
        arrays = {part.key: _array_of(loaded, part.key) for part in chosen}
        del loaded
        for part in chosen:
            array = arrays.pop(part.key)
            for use, (key, number) in enumerate(part.users):
                values[key][number] = array.copy() if use else array
                if all(value is not None for value in values[key]):
                    result[key] = make[key](values.pop(key))
    return result


def _array_of(loaded: FlatState, key: Key) -> Array:
    tensor = loaded.tensor(key)
    return tensor.array if isinstance(tensor, LoadedTensor) else loaded[key]


def _require_fitting(key: Key, tensor: Tensor) -> None:
    if not fits_jax(tensor.spec.dtype):
        raise UnsupportedFeature(
            f"JAX cannot hold {tensor.spec.dtype.name}, so the tensor cannot be sharded.",
            key=key,
            hint='Pass dtype="float32" to cast it, or set jax_enable_x64 for numbers of 64 bits.',
        )
