"""The names that a torch model's weights have on disk, where they differ from those in memory.

transformers 5 renames some layers while it loads a checkpoint, and names them back while it saves one. Files
keep the names of transformers 4, so a model of transformers 5 describes them only after the way back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bridge_core import FlatState, Key, TensorSpec, as_key
from bridge_core.state import LazyTensor, ModuleInfo
from bridge_torch import TorchFramework

__all__ = ["as_in_memory", "as_on_disk"]

_SHARED_BIAS = ("decoder", "bias")
"""A bias that transformers 4 always shares with the head around it, and 5 only if embeddings are tied."""


def as_on_disk(model: Any, source: Iterable[Key], *, untied: bool = False) -> FlatState:
    """Return what a torch model's weights are on disk: names, shapes, ties and layer types.

    Args:
        model: A torch model on the meta device.
        source: Names of the checkpoint that the state is to describe, or that its weights come from. Some
            models are saved with a prefix or without; the source decides.
        untied: Whether the output embedding is a tensor of its own, also if the model ties it.
    """
    state = TorchFramework().state(model)
    if untied:
        state = _without_head_ties(state, model)
    names = _names(model, [".".join(key) for key in source])
    return state if names is None else _renamed(state, names)


def as_in_memory(state: FlatState, torch_class: type[Any]) -> FlatState:
    """Return a checkpoint with the names that its class gives them while it loads them.

    Classes of models with images read names of older releases: ``language_model.model.layers`` is
    ``model.language_model.layers`` in memory.

    Args:
        state: A checkpoint in torch's layout.
        torch_class: The class of its model.
    """
    changes = getattr(torch_class, "_checkpoint_conversion_mapping", None) or {}

    def name(key: Key) -> Key:
        text = ".".join(key)
        for pattern, new in changes.items():
            text, number = re.subn(pattern, new, text)
            if number:
                return as_key(text)
        return key

    return state.rename(name) if changes else state


def _names(model: Any, source: list[str]) -> Mapping[str, tuple[tuple[int, ...], str | None]] | None:
    """Return name on disk -> (shape, name in memory if it is one tensor there); None if they are the same."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import PrefixChange, revert_weight_conversion
    except ImportError:  # transformers 4
        return None
    used = [
        change
        for change in get_model_conversion_mapping(model, add_legacy=False)
        if not isinstance(change, PrefixChange)
        or any(change.rename_source_key(name)[1] is not None for name in source)
    ]
    tensors = {name: tensor.new_empty(tensor.shape) for name, tensor in model.state_dict().items()}
    known = {id(tensor): name for name, tensor in tensors.items()}
    before = getattr(model, "_weight_conversions", None)
    model._weight_conversions = used
    try:
        on_disk = revert_weight_conversion(model, tensors) if used else tensors
    finally:
        model._weight_conversions = before
    return {name: (tuple(tensor.shape), known.get(id(tensor))) for name, tensor in on_disk.items()}


def _renamed(state: FlatState, names: Mapping[str, tuple[tuple[int, ...], str | None]]) -> FlatState:
    tensors = {}
    new: dict[Key, Key] = {}
    for name, (shape, old) in names.items():
        key = as_key(name)
        if old is not None:
            tensors[key] = state.tensor(as_key(old))
            new[as_key(old)] = key
        else:  # several in memory, one on disk
            dtype = next(iter(state.specs().values())).dtype
            tensors[key] = LazyTensor(TensorSpec(shape, dtype), _without_values)
    ties = {
        new[key]: new[canonical]
        for key, canonical in state.metadata.ties.items()
        if key in new and canonical in new
    }
    for key, canonical in _shared_biases(tensors, ties):
        ties[key], tensors[key] = canonical, tensors[canonical]  # tied keys share one tensor
    modules = {path: info for path, info in _moved(state.metadata.modules, new)}
    return state.replace(tensors=tensors, metadata=state.metadata.with_(ties=ties, modules=modules))


def _without_head_ties(state: FlatState, model: Any) -> FlatState:
    """Return the state with an untied head: in transformers 5 T5's config always declares it tied."""
    head = model.get_output_embeddings()
    heads = {as_key(name) for name, module in model.named_modules() if module is head}
    tied = {key for key in state.metadata.ties if key[:-1] in heads and key[-1] == "weight"}
    untied = {key: LazyTensor(state.spec(key), _without_values) for key in tied}
    ties = {key: canonical for key, canonical in state.metadata.ties.items() if key not in tied}
    return state.replace(tensors={**state.tensors(), **untied}, metadata=state.metadata.with_(ties=ties))


def _shared_biases(keys: Iterable[Key], ties: Mapping[Key, Key]) -> Iterator[tuple[Key, Key]]:
    known = set(keys)
    for key in known:
        canonical = (*key[:-2], key[-1])
        if key[-2:] == _SHARED_BIAS and canonical in known and key not in ties and canonical not in ties:
            yield key, canonical


def _moved(modules: Mapping[Key, ModuleInfo], new: Mapping[Key, Key]) -> Iterator[tuple[Key, ModuleInfo]]:
    """Yield what is known of each module that holds weights, under its path on disk."""
    for path, info in modules.items():
        keys = [(*path, *leaf.split(".")) for leaf in info.parameters]
        places = {new[key][: len(new[key]) - (len(key) - len(path))] for key in keys if key in new}
        if len(places) == 1 and all(key in new for key in keys):
            yield places.pop(), info


def _without_values(region: Any) -> Any:
    raise AssertionError(f"a tensor on the meta device has no values, and region {region} was read")
