"""One tensor at a time: Flax's name and axes of a tensor of torch, determined only from names."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from bridge_core import Key

__all__ = ["rename_key_and_reshape_tensor"]

_HALVES = {"original0": "_g", "original1": "_v"}
"""How weight normalisation names its two parts: torch's parametrization, and what Flax appends."""


def rename_key_and_reshape_tensor(
    pt_tuple_key: Key, pt_tensor: Any, random_flax_state_dict: Collection[Key], model_prefix: str
) -> tuple[Key, Any]:
    """Return the key and the array that Flax has for one tensor of torch.

    One tensor and a list of names are not always enough: a transposed convolution is read as a plain one.
    `convert_pytorch_state_dict_to_flax` uses the layers' types instead.

    Args:
        pt_tuple_key: The torch name, split at its dots.
        pt_tensor: The array; a kernel is returned as a view with its axes moved.
        random_flax_state_dict: The keys of the Flax model; values are not read.
        model_prefix: The base model's name, which may be the first part of the Flax model's keys.
    """
    *before, leaf = pt_tuple_key
    path = tuple(before)

    def known(key: Key) -> bool:
        return key in random_flax_state_dict or (model_prefix, *key) in random_flax_state_dict

    if known(pt_tuple_key):
        return pt_tuple_key, pt_tensor
    if leaf in ("weight", "gamma") and known((*path, "scale")):
        return (*path, "scale"), pt_tensor
    if leaf in ("running_mean", "running_var"):
        return (*path, leaf.removeprefix("running_")), pt_tensor
    if leaf == "weight" and known((*path, "embedding")):
        return (*path, "embedding"), pt_tensor
    if leaf == "weight":
        return (*path, "kernel"), pt_tensor.transpose(_kernel_axes(pt_tensor.ndim))
    if leaf in ("gamma", "beta"):
        return (*path, "weight" if leaf == "gamma" else "bias"), pt_tensor
    if len(path) >= 2 and path[-2] == "parametrizations" and leaf in _HALVES:
        return (*path[:-2], path[-1] + _HALVES[leaf]), pt_tensor
    return pt_tuple_key, pt_tensor


def _kernel_axes(rank: int) -> tuple[int, ...]:
    """Return how ``out in *k`` becomes ``*k in out``."""
    return (*range(2, rank), 1, 0) if rank > 1 else tuple(range(rank))
