"""Torch's checkpoints as trees of a Flax model, with the interface of the old functions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bridge_core import FlatState, Key, as_key, default_registry, join_key, open_state
from bridge_core.messages import listed
from bridge_core.state import flatten_tree
from ckptbridge_transformers.compat.errors import WrongWeights, as_before
from ckptbridge_transformers.compat.names import rename_key_and_reshape_tensor
from ckptbridge_transformers.loading import Loaded, flax_weights, unwrapped

__all__ = [
    "check_any_fits",
    "convert_pytorch_sharded_state_dict_to_flax",
    "convert_pytorch_state_dict_to_flax",
    "load_pytorch_checkpoint_in_flax_state_dict",
    "opened_files",
]

StrPath = str | os.PathLike[str]


def load_pytorch_checkpoint_in_flax_state_dict(
    flax_model: Any,
    pytorch_checkpoint_path: StrPath | Iterable[StrPath],
    is_sharded: bool,
    allow_missing_keys: bool = False,
) -> dict[str, Any]:
    """Return a Flax model's tree from a checkpoint of torch.

    Tensors that do not belong to the model are included.

    Args:
        flax_model: The model, with weights or made with ``_do_init=False``; it is not changed.
        pytorch_checkpoint_path: A file of any format, the index of a sharded set, or with ``is_sharded`` the
            list of all shards.
        is_sharded: Whether the path is such a list; an index may be given either way.
        allow_missing_keys: Has no effect, as in transformers: parameters that are missing from the
            checkpoint are not in the result.

    Raises:
        WrongWeights: A tensor has another shape than in the model, or none belongs to the model.
        UnreadableWeights: A file is missing, damaged or unsafe.
        AmbiguousLayerError: No evidence decides the kind of some layers.
    """
    if isinstance(pytorch_checkpoint_path, str | os.PathLike):
        return convert_pytorch_sharded_state_dict_to_flax([pytorch_checkpoint_path], flax_model)
    if not is_sharded:
        raise WrongWeights(
            "expected one path for is_sharded=False, got a list of files.",
            hint="Pass is_sharded=True, or one path.",
        )
    return convert_pytorch_sharded_state_dict_to_flax(pytorch_checkpoint_path, flax_model)


def convert_pytorch_sharded_state_dict_to_flax(
    shard_filenames: Iterable[StrPath], flax_model: Any
) -> dict[str, Any]:
    """Return a Flax model's tree from all files of a sharded torch checkpoint.

    Args:
        shard_filenames: All shards: safetensors, or torch's own files.
        flax_model: As in `load_pytorch_checkpoint_in_flax_state_dict`.

    Raises:
        WrongWeights, UnreadableWeights, AmbiguousLayerError: As there.
    """
    with as_before(), opened_files(shard_filenames) as state:
        return _converted(state, flax_model)


def convert_pytorch_state_dict_to_flax(pt_state_dict: Mapping[str, Any], flax_model: Any) -> dict[str, Any]:
    """Return the tree of a Flax model from a state dict of torch, which is not changed.

    Args:
        pt_state_dict: Names and tensors on any device, or arrays of numpy or JAX.
        flax_model: As in `load_pytorch_checkpoint_in_flax_state_dict`.

    Raises:
        WrongWeights, AmbiguousLayerError: As there.
        UsageError: A value of the state dict is not a tensor.
    """
    with as_before():
        return _converted(_state_of(pt_state_dict), flax_model)


@contextlib.contextmanager
def opened_files(paths: Iterable[StrPath]) -> Iterator[FlatState]:
    """Yield the joint state of several files, which are closed afterwards."""
    with contextlib.ExitStack() as files:
        states = [files.enter_context(open_state(path)) for path in paths]
        if not states:
            raise WrongWeights("the list of files is empty.", hint="Pass all shards of the checkpoint.")
        joint = states[0]
        for state in states[1:]:
            joint = joint.union(state)
        # The layout of a shard with only biases cannot be determined; the other shards show it.
        layouts = {state.layout for state in states if state.layout is not None}
        if len(layouts) > 1:
            raise WrongWeights(
                f"expected files in one layout, got {len(layouts)} layouts: {', '.join(sorted(layouts))}.",
                hint="Pass the shards of one checkpoint only.",
            )
        yield joint.replace(layout=next(iter(layouts), "torch"))


def check_any_fits(loaded: Loaded, state: FlatState, model: Any) -> None:
    """Refuse the checkpoint of another model.

    Raises:
        WrongWeights: No tensor of the checkpoint belongs to the model.
    """
    if loaded.weights or not len(state):
        return
    names = tuple(join_key(key) for key in state)
    raise WrongWeights(
        f"expected weights of {type(model).__name__}, got {len(names)} tensors of which none belongs to it: "
        f"{listed(names)}.",
        unexpected=names,
        hint="Pass a checkpoint of this model, or rename its tensors first.",
    )


def _state_of(pt_state_dict: Mapping[str, Any]) -> FlatState:
    pt_state_dict = unwrapped(pt_state_dict)
    torch = default_registry().framework("torch")
    if torch.accepts(pt_state_dict):
        return torch.state(pt_state_dict)
    return FlatState({as_key(name): value for name, value in pt_state_dict.items()}, layout="torch")


def _converted(state: FlatState, flax_model: Any) -> dict[str, Any]:
    loaded = flax_weights(state, flax_model, allow_missing=True, allow_unexpected=True)
    check_any_fits(loaded, state, flax_model)
    return _with_unexpected(loaded, state, flax_model)


def _with_unexpected(loaded: Loaded, state: FlatState, flax_model: Any) -> dict[str, Any]:
    """Return the tree with the tensors that have no place in the model, so that callers can warn of them."""
    tree: dict[str, Any] = loaded.weights
    if not loaded.unexpected:
        return tree
    has_statistics = "batch_stats" in flax_model.params_shape_tree
    known = {key[1:] if has_statistics else key for key in flatten_tree(flax_model.params_shape_tree)[0]}
    leaves = set(flatten_tree(tree)[0])
    nodes = {key[:cut] for key in leaves for cut in range(1, len(key))}
    extra: dict[Key, Any] = {}
    for key in loaded.unexpected:
        if key[-1] == "num_batches_tracked":
            continue
        named, array = rename_key_and_reshape_tensor(key, state[key], known, flax_model.base_model_prefix)
        if has_statistics:
            named = ("batch_stats" if named[-1] in ("mean", "var") else "params", *named)
        above = {named[:cut] for cut in range(1, len(named))}
        if named in leaves or named in nodes or not above.isdisjoint(leaves):
            named, above = (join_key(key),), set()
        leaves.add(named)
        nodes |= above
        extra[named] = array
    added = default_registry().framework("flax").build(FlatState(extra, layout="flax"), None) if extra else {}
    return _merged(tree, added)


def _merged(tree: dict[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(tree)
    for name, child in added.items():
        old = result.get(name)
        result[name] = _merged(old, child) if isinstance(old, dict) and isinstance(child, Mapping) else child
    return result
