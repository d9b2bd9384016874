"""One leaf at a time: JAX arrays to tensors that are read on demand, and tensors to JAX arrays.

A value is preserved bit for bit, or refused. What JAX cannot hold (64-bit numbers while ``jax_enable_x64``
is off, 6-bit floats) stays a numpy array.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from bridge_core import ArrayTensor, Key, Tensor, TensorSpec, UnsupportedFeature, UsageError
from bridge_core.state import Array, LazyTensor, Region, as_tensor

__all__ = [
    "SpreadTensor",
    "StandIn",
    "as_leaf",
    "first_key",
    "fits_jax",
    "has_no_devices",
    "is_key_array",
    "is_spread",
    "sharding_of",
    "tensor_of",
    "to_abstract",
]


class StandIn(np.ndarray[Any, np.dtype[Any]]):
    """A shape and a dtype as an array, for code that takes only arrays; its values mean nothing."""

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: np.dtype[Any]) -> StandIn:
        """Return a read-only array of this shape that uses the memory of one element."""
        return np.broadcast_to(np.zeros((), dtype), shape).view(cls)


def is_key_array(leaf: Any) -> bool:
    """Return whether a leaf is a typed PRNG key, concrete or abstract."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and bool(jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key))


def tensor_of(key: Key, leaf: Any) -> Tensor:
    """Wrap a leaf; values are not copied, and abstract leaves raise only when they are read.

    Args:
        key: Path of the leaf in the user's tree, for errors.
        leaf: What is there.

    Raises:
        UnsupportedFeature: It is not an array, or of a dtype that is not supported.
        UsageError: It is traced by a JAX transformation, or was deleted by one.
    """
    if isinstance(leaf, jax.core.Tracer):
        raise UsageError(
            "the leaf is traced by a JAX transformation and has no value.",
            key=key,
            hint="Convert outside of jit, grad and vmap.",
        )
    if is_key_array(leaf):
        return _key_tensor(key, leaf)
    if isinstance(leaf, jax.Array):
        return _array_tensor(key, leaf)
    if isinstance(leaf, StandIn):
        return _abstract(key, TensorSpec(leaf.shape, leaf.dtype))
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex):
        return as_tensor(leaf)
    if isinstance(leaf, jax.ShapeDtypeStruct | jax.core.ShapedArray):
        return _abstract(key, TensorSpec(leaf.shape, np.dtype(leaf.dtype)))
    raise UnsupportedFeature(f"expected an array, got {type(leaf).__name__}.", key=key)


def _array_tensor(key: Key, array: jax.Array) -> Tensor:
    if array.is_deleted():
        raise UsageError(
            "the array was deleted; JAX deletes donated arrays.",
            key=key,
            hint="Convert it before the call that donates it.",
        )
    if not array.is_fully_addressable and array.is_fully_replicated:
        array = array.addressable_data(0)
    if not array.is_fully_addressable:
        return SpreadTensor(key, array)
    devices = array.devices()
    if len(devices) == 1 and next(iter(devices)).platform == "cpu":
        return ArrayTensor(np.asarray(array))
    spec = TensorSpec(array.shape, np.dtype(array.dtype))
    if len(devices) == 1:
        return LazyTensor(spec, lambda region: np.asarray(array[region]))
    return LazyTensor(spec, lambda region: _gather(array, region))


@dataclass(frozen=True, eq=False, slots=True)
class SpreadTensor:
    """An array that is partly on devices of other hosts, so that this process cannot read it by itself.

    Args:
        key: Path of the leaf in the user's tree.
        array: The array.
    """

    key: Key
    array: jax.Array

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype."""
        return TensorSpec(self.array.shape, np.dtype(self.array.dtype))

    def read(self, region: Region) -> NoReturn:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise UsageError(
            "the array is partly on devices of other hosts.",
            key=self.key,
            hint="Save the tree with bridge_flax.save, or gather it first: "
            "jax.experimental.multihost_utils.process_allgather(tree, tiled=True).",
        )


def _gather(array: jax.Array, region: Region) -> Array:
    """Read a region from the shards it touches; only the region's elements leave the devices."""
    out = np.empty(tuple(len(range(s.start, s.stop, s.step)) for s in region), array.dtype)
    for shard in array.addressable_shards:
        if shard.replica_id:
            continue
        pairs = [
            _overlap(asked, range(n)[held])
            for asked, held, n in zip(region, shard.index, array.shape, strict=True)
        ]
        out[tuple(into for into, _ in pairs)] = np.asarray(shard.data[tuple(taken for _, taken in pairs)])
    return out


def _overlap(asked: slice, held: range) -> tuple[slice, slice]:
    """Return where one axis of a shard's part of a region is: in the result, and in the shard."""
    first, last = (-((asked.start - edge) // asked.step) for edge in (held.start, held.stop))
    count = len(range(asked.start, asked.stop, asked.step))
    first, last = max(first, 0), max(first, 0, min(last, count))
    start = asked.start + first * asked.step - held.start
    return slice(first, last), slice(start, start + (last - first) * asked.step, asked.step)


def _key_tensor(key: Key, leaf: Any) -> Tensor:
    if isinstance(leaf, jax.Array):
        return ArrayTensor(np.asarray(jax.random.key_data(leaf)))
    data = jax.eval_shape(jax.random.key_data, leaf)
    return _abstract(key, TensorSpec(data.shape, np.dtype(data.dtype)))


def _abstract(key: Key, spec: TensorSpec) -> Tensor:
    def reader(region: Region) -> NoReturn:
        raise UsageError(
            f"the leaf has no values, only a shape and a dtype: {spec}.",
            key=key,
            hint="Pass the object that holds the weights, not a template or an abstract state.",
        )

    return LazyTensor(spec, reader)


def to_abstract(leaf: Any) -> Any:
    """Return the shape and dtype of an array leaf; other leaves are returned unchanged."""
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf


def as_leaf(values: Array, like: Any) -> Any:
    """Return values in the place and type of ``like``.

    Args:
        values: The values, in memory that nothing else refers to.
        like: The leaf they replace: a PRNG key gives a PRNG key, a plain number a plain number, and an array
            one on the same device.
    """
    if is_key_array(like):
        return _wrap_key(values, like)
    if isinstance(like, bool | int | float | complex) and not isinstance(like, np.generic):
        value = values.item()
        if type(value) is type(like):
            return value
    if not fits_jax(values.dtype):
        return values
    return jax.device_put(values, sharding_of(like))


def is_spread(like: Any) -> bool:
    """Return whether a leaf is on several devices or hosts, so that this host reads only its own parts."""
    sharding = sharding_of(like)
    return sharding is not None and (len(sharding.device_set) > 1 or not sharding.is_fully_addressable)


def fits_jax(dtype: np.dtype[Any]) -> bool:
    """Return whether JAX has arrays of a dtype."""
    return _probe(dtype, bool(jax.config.jax_enable_x64))


@functools.cache
def _probe(dtype: np.dtype[Any], x64: bool) -> bool:
    try:
        return bool(jax.dtypes.canonicalize_dtype(dtype) == dtype) and jnp.empty((), dtype).dtype == dtype
    except (TypeError, ValueError, RuntimeError):
        return False


def sharding_of(like: Any) -> Any:
    """Return the sharding that a leaf asks for; None for the default device.

    What `jax.eval_shape` returns within `jax.set_mesh` has shardings without devices; they get those of the
    mesh that is set now.

    Raises:
        UsageError: It is a `PartitionSpec`, which needs a mesh.
    """
    if not isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return None
    try:
        sharding = getattr(like, "sharding", None)
    except TypeError as err:  # of a PartitionSpec outside of jax.set_mesh
        raise UsageError(
            f"the sharding of a leaf of shape {list(like.shape)} has no mesh: {err}",
            hint="Pass jax.sharding.NamedSharding(mesh, spec), or call it within jax.set_mesh(mesh).",
        ) from err
    if not isinstance(sharding, jax.sharding.Sharding):
        return None
    if isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh):
        return _on_devices(sharding)
    if isinstance(sharding, jax.sharding.SingleDeviceSharding) and not getattr(like, "committed", True):
        return None
    return sharding


def has_no_devices(like: Any) -> bool:
    """Return whether a leaf asks to be divided over a mesh of which no devices are known."""
    sharding: Any = getattr(like, "sharding", None)
    is_abstract = isinstance(getattr(sharding, "mesh", None), jax.sharding.AbstractMesh)
    return is_abstract and any(sharding.spec) and sharding_of(like) is None


def _on_devices(sharding: jax.sharding.NamedSharding) -> jax.sharding.NamedSharding | None:
    """Return a sharding of an abstract mesh on the devices of the mesh that is set, if that is the same."""
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # while JAX traces
        return None
    if mesh.empty or mesh.abstract_mesh != sharding.mesh:
        return None
    return jax.sharding.NamedSharding(mesh, sharding.spec, memory_kind=sharding.memory_kind)


def _wrap_key(data: Array, like: Any) -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(data), impl=_key_impl(like))


def _key_impl(leaf: Any) -> Any:
    """Return the algorithm of a typed PRNG key; JAX shows that of an abstract key only while tracing."""
    algorithms: list[Any] = []
    jax.eval_shape(lambda key: algorithms.append(jax.random.key_impl(key)), leaf)
    return algorithms[0]


def first_key(like: Any) -> jax.Array:
    """Return keys of seed 0 in the shape and algorithm of ``like``."""
    key = jax.random.key(0, impl=_key_impl(like))
    return jax.random.split(key, like.shape) if like.shape else key
