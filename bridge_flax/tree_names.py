"""What the names of a Flax tree mean: variable collections, boxes around values, and random state.

All of it is determined from names, shapes and dtypes; this module does not import JAX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core import Key, KeyConflict, TensorSpec, join_key
from bridge_core.messages import listed
from bridge_flax.layers import COLLECTIONS, TRANSFORMS

__all__ = ["boxes", "has_collections", "is_collection", "is_parameter", "random_state"]

_PARAMS = next(iter(COLLECTIONS))

_OF_MODULES = frozenset({"kernel", "embedding"})
"""Leaves that only a layer, or a copy of its parameters, has."""

_NOT_LEARNT = frozenset({"batch_stats", "cache"})
"""Collections of Linen's own modules; parameters of layers are never in them."""

_ANYTHING = frozenset({"intermediates", "losses", "perturbations"})
"""Collections that Linen documents, and whose leaves a model names as it likes."""

_PARAMETERS = _OF_MODULES | {"scale", "bias", "negative_slope"}

_BOXED_VALUES = frozenset({"value", "raw_value"})
"""What an `nnx.Variable` and a box such as `flax.linen.Partitioned` call the array in them."""

_LEAVES = frozenset(leaf.parts[-1] for transform in TRANSFORMS for leaf in transform.leaves)

_WORDS_OF_A_KEY = (2, 4)
"""Axis sizes of the raw data of JAX's threefry and rbg keys."""


def has_collections(names: Iterable[Key]) -> bool:
    """Return whether the keys of a tree, without boxes, begin with variable collections.

    They do if ``params`` is one of the first parts, or if all first parts are collections that Linen uses.
    A first part that holds parameters of layers is a module, or a copy of the parameters.

    Raises:
        KeyConflict: ``params`` is among the first parts, and another first part is not a collection.
    """
    tensors: list[Key] = []
    first_parts: dict[str, None] = {}
    modules: dict[str, Key] = {}
    for key in names:
        if len(key) < 2:
            tensors.append(key)
            continue
        first_parts[key[0]] = None
        if key[0] != _PARAMS and key[0] not in modules and is_parameter(key):
            modules[key[0]] = key
    if _PARAMS not in first_parts:
        known = _NOT_LEARNT | _ANYTHING
        return bool(first_parts) and not tensors and not modules and known.issuperset(first_parts)
    if tensors or modules:
        raise _undetermined([*first_parts], tensors, modules)
    return True


def is_collection(name: str) -> bool:
    """Return whether a first part is the name of a collection of Linen's own other than the parameters."""
    return name in _NOT_LEARNT or name in _ANYTHING


def is_parameter(key: Key) -> bool:
    """Return whether a key that may begin with a collection is a leaf that only layers have."""
    return key[-1] in (_OF_MODULES if key[0] in _ANYTHING else _PARAMETERS)


def _undetermined(first_parts: list[str], tensors: list[Key], modules: Mapping[str, Key]) -> KeyConflict:
    reasons = [f"{name!r} holds {join_key(key)}" for name, key in [*modules.items()][:4]]
    reasons += [f"{key[0]!r} is a tensor" for key in tensors[:4] if key]
    return KeyConflict(
        "the first parts of the keys may be modules or variable collections: "
        f"{listed(map(repr, first_parts))}. Next to {_PARAMS!r}, expected only collections that hold no "
        f"parameters of layers, got: {', '.join(reasons)}.",
        hint=(
            f"To convert only the parameters, pass entry={_PARAMS!r} (--entry {_PARAMS}) for a file, "
            f"open_state(path).select(lambda key: key[0] == {_PARAMS!r}) for a state, or tree[{_PARAMS!r}]. "
            f"If all of them are modules, pass {{{_PARAMS!r}: tree}}, or for a file "
            f"bridge_core.open_state(path).rename(lambda key: ({_PARAMS!r}, *key))."
        ),
    )


def boxes(specs: Mapping[Key, TensorSpec]) -> frozenset[Key]:
    """Return the keys whose last part only names the array in a box: ``layer.kernel.value``.

    A tree has boxes if a matrix of a layer is in one, or if every leaf is in one and some are leaves of
    layers. In such a tree each ``value`` that has no neighbours and is not a scalar is in a box; a scalar is
    in a box if all leaves are, or if it is a leaf of a layer. In a tree without boxes ``value`` is a
    parameter.
    """
    candidates = {key for key in specs if len(key) > 1 and key[-1] in _BOXED_VALUES}
    if not candidates:
        return frozenset()
    all_boxed = len(candidates) == len(specs)
    parents = {key[:-1] for key in candidates}
    seen: set[Key] = set()
    shared: set[Key] = {key for key in specs if key in parents}
    for key in specs:
        for depth in range(1, len(key)):
            parent = key[:depth]
            if parent in parents:
                (shared if parent in seen else seen).add(parent)
    alone = {key for key in candidates if key[:-1] not in shared}
    ranks = {key: len(specs[key].shape) for key in alone}
    matrix = any(key[-2] in _OF_MODULES and ranks[key] > 1 for key in alone)
    if not matrix and not (all_boxed and any(key[-2] in _LEAVES and ranks[key] for key in alone)):
        return frozenset()
    return frozenset(key for key in alone if ranks[key] or all_boxed or key[-2] in _LEAVES)


def random_state(names: Mapping[Key, TensorSpec]) -> frozenset[Key]:
    """Return the keys that are NNX's random state: the key and the count of a stream.

    Args:
        names: Key without box and collection -> spec.
    """
    return frozenset(
        key
        for key in names
        if key
        and key[-1] in ("key", "count")
        and names[key].dtype.name == "uint32"
        and _is_stream(key, names)
    )


def _is_stream(key: Key, names: Mapping[Key, TensorSpec]) -> bool:
    path = key[:-1]
    number, words = names.get((*path, "count")), names.get((*path, "key"))
    if number is None or words is None:
        return "rngs" in path
    return (
        number.dtype == words.dtype
        and bool(words.shape)
        and words.shape[:-1] == number.shape
        and words.shape[-1] in _WORDS_OF_A_KEY
    )
