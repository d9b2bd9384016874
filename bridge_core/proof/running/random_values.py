"""Random values for a model's weights, of sizes at which activations stay near one and mistakes show."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.conversion import plan_conversion
from bridge_core.errors import BridgeError, UsageError
from bridge_core.messages import listed
from bridge_core.ops import chain_specs
from bridge_core.plugins import Registry
from bridge_core.proof.running.models import Side, module_path
from bridge_core.state import Array, ArrayTensor, FlatState, Key, Tensor, TensorSpec, is_floating, join_key

__all__ = ["Randomised", "constant_keys", "has_values", "random_array", "randomised", "with_ties"]

_SIGMA_KINDS = ("spectral_norm", "spectral_norm_transpose")
"""Kinds with statistics that must fit their weights: all their leaves keep the model's values."""


@dataclass(frozen=True, eq=False)
class Randomised:
    """Weights with random values.

    Args:
        state: The weights, all values in memory.
        preserved: Keys that keep the model's own values.
        notes: What a reader should know.
    """

    state: FlatState
    preserved: tuple[Key, ...] = ()
    notes: tuple[str, ...] = ()


def randomised(side: Side, registry: Registry, *, seed: int = 0) -> Randomised:
    """Return a model's weights with random values for every parameter and statistic.

    Integers, booleans and constants that the model computes itself keep its values. The values depend on the
    seed and the key only.

    Args:
        side: The model.
        registry: Where layer kinds are found.
        seed: The seed.

    Raises:
        UsageError: A tensor that must keep its value has none.
    """
    weights = side.weights
    roles = _roles(weights, registry)
    preserved = constant_keys(side)
    preserved |= {
        key for key, (kind, _, _) in roles.items() if kind in _SIGMA_KINDS and has_values(weights, key)
    }
    preserved |= {key for key, spec in weights.specs().items() if not is_floating(spec.dtype)}
    tensors: dict[Key, Tensor] = {}
    by_tensor: dict[int, Tensor] = {}
    ties = weights.metadata.ties
    invented: list[str] = []
    for key, tensor in weights.tensors().items():
        if ties.get(key) in weights:
            continue
        if id(tensor) in by_tensor:
            tensors[key] = by_tensor[id(tensor)]
            continue
        if key in preserved and has_values(weights, key):
            value = np.array(weights.read(key))
        elif key in preserved and not is_floating(tensor.spec.dtype):
            value = np.zeros(tensor.spec.shape, tensor.spec.dtype)
            invented.append(join_key(key))
        else:
            value = random_array(key, tensor.spec, roles.get(key), seed)
        tensors[key] = by_tensor[id(tensor)] = ArrayTensor(value)
    tensors = with_ties(weights, tensors)
    notes = []
    if invented:
        notes.append(f"The source model has no values for {listed(invented)}; they are zeros.")
    own = sorted(join_key(key) for key in preserved if is_floating(weights.spec(key).dtype))
    if own:
        notes.append(f"The source model's own values are used for {listed(own)}.")
    return Randomised(
        weights.replace(tensors=tensors, metadata=weights.metadata), tuple(sorted(preserved)), tuple(notes)
    )


def with_ties(weights: FlatState, tensors: Mapping[Key, Tensor]) -> dict[Key, Tensor]:
    """Return tensors in the order of the weights; each tied key has the tensor of its owner."""
    ties = weights.metadata.ties
    owners = {key: ties[key] if ties.get(key) in tensors else key for key in weights}
    return {key: tensors[owner] for key, owner in owners.items()}


def constant_keys(side: Side) -> set[Key]:
    """Return the keys of what a model computes itself, such as frequencies."""
    weights, keys = side.weights, set[Key]()
    constants = {
        (*path, *str(leaf).split("."))
        for path, info in weights.metadata.modules.items()
        for leaf in info.settings.get("constants", ())
    }
    collections: Collection[str] = side.framework.collections
    for key in weights:
        plain = module_path(key, weights, side.framework)
        of_other_collection = plain != key and key[0] not in collections
        if plain in constants or key in constants or of_other_collection:
            keys.add(key)
    return keys


def has_values(state: FlatState, key: Key) -> bool:
    """Return whether a tensor of a state has values, which those of an abstract model do not have."""
    try:
        state.tensor(key).read(tuple(slice(0, min(1, size)) for size in state.spec(key).shape))
    except (BridgeError, ValueError, TypeError, RuntimeError):
        return False
    return True


Role = tuple[str, str, int]
"""Layer kind, leaf name in neutral form, and how many inputs each output sums."""


def _roles(weights: FlatState, registry: Registry) -> Mapping[Key, Role]:
    """Return what each tensor is, as far as module types, names and shapes show it."""
    try:
        plan = plan_conversion(weights, to="neutral", registry=registry, recipe="none", check=False)
    except (UsageError, BridgeError):
        return {}
    roles: dict[Key, Role] = {}
    for step in plan.steps:
        if not step.targets or not step.sources or step.kind in ("parameter", "undecided"):
            continue
        try:
            spec = chain_specs(tuple(plan.specs[key] for key in step.sources), step.ops)[0]
        except BridgeError:
            continue
        leaf = step.targets[0][-1].rpartition(".")[2]
        fan = int(np.prod(spec.shape[:-1], dtype=np.int64)) if leaf == "kernel" else 1
        for key in step.sources:
            roles[key] = (step.kind, leaf, max(1, fan))
    return roles


def random_array(key: Key, spec: TensorSpec, role: Role | None = None, seed: int = 0) -> Array:
    """Return the random values of one tensor.

    Args:
        key: Its key, which with the seed decides the values.
        spec: Shape and floating dtype.
        role: What it is; None to go by its name and shape.
        seed: The seed.
    """
    rng = np.random.default_rng([seed, zlib.crc32(join_key(key).encode())])
    leaf = role[1] if role is not None else _named(key, spec)
    fan = role[2] if role is not None else max(1, spec.size // max((1, *spec.shape)))
    return _values(leaf, spec, fan, rng).astype(spec.dtype)


def _values(leaf: str, spec: TensorSpec, fan: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = spec.shape
    if leaf == "embedding":  # rows of several sizes: small ones show the epsilon of the norm after them
        rows = np.exp(rng.uniform(np.log(0.05), 0.0, (*shape[:1], *(1,) * (len(shape) - 1))))
        return rng.standard_normal(shape) * rows
    if leaf in ("scale", "g"):
        return rng.uniform(0.6, 1.4, shape)
    if leaf == "var":  # a tenth of them small: these show the epsilon of a batch norm
        return np.where(rng.random(shape) < 0.1, rng.uniform(0.05, 0.2, shape), rng.uniform(0.5, 1.5, shape))
    if leaf == "mean":
        return rng.standard_normal(shape) * 0.3
    if leaf == "negative_slope":
        return rng.uniform(0.1, 0.4, shape)
    if leaf in ("bias", "offset"):
        return rng.choice((-1.0, 1.0), shape) * rng.uniform(0.05, 0.4, shape)
    if leaf == "free":
        return rng.uniform(0.5, 1.5, shape)
    if leaf == "token":
        return rng.standard_normal(shape) * 0.5
    kernel: np.ndarray[Any, Any] = rng.standard_normal(shape) / np.sqrt(fan)
    return kernel


def _named(key: Key, spec: TensorSpec) -> str:
    """Return the role of a tensor that belongs to no known layer, by its name and shape."""
    words = set(re.split(r"[^a-z]+", key[-1].lower()))
    before = set(re.split(r"[^a-z]+", ".".join(key[-2:]).lower()))
    if words & {"var", "variance"}:
        return "var"
    if "mean" in words:
        return "mean"
    if words & {"bias", "beta", "b"}:
        return "bias"
    axes = [size for size in spec.shape if size > 1]
    if words & {"token", "tokens", "pos", "position", "query", "latents"} or (
        len(spec.shape) > 1 and len(axes) < 2
    ):
        return "token"
    if words & {"embed", "embedding", "embeddings", "wte", "wpe"} and len(axes) == 2:
        return "embedding"
    if len(axes) >= 2:
        return "kernel"
    if words & {"scale", "weight", "gamma", "g"} or before & {"norm", "ln", "layernorm", "rmsnorm"}:
        return "scale"
    return "free"
