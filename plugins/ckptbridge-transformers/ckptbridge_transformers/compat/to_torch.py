"""Flax's weights for torch models, with the interface of the old functions: the model itself is filled."""

from __future__ import annotations

import logging
import os
import re
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge_core import FlatState, join_key, open_state
from bridge_core.messages import listed
from bridge_core.state import cast_is_exact, dtype_named
from ckptbridge_transformers.compat.computed import compute, initialise, without_source
from ckptbridge_transformers.compat.errors import LossyLoad, WrongWeights, as_before
from ckptbridge_transformers.compat.messages import log_loading_torch
from ckptbridge_transformers.compat.to_flax import check_any_fits, opened_files
from ckptbridge_transformers.loading import Loaded, torch_weights

__all__ = ["LOADING_INFO", "load_flax_checkpoint_in_pytorch_model", "load_flax_weights_in_pytorch_model"]

StrPath = str | os.PathLike[str]

logger = logging.getLogger("transformers.modeling_flax_pytorch_utils")

LOADING_INFO: weakref.WeakKeyDictionary[Any, dict[str, list[str]]] = weakref.WeakKeyDictionary()
"""Models that were filled -> what `from_pretrained` returns for ``output_loading_info=True``."""


def load_flax_checkpoint_in_pytorch_model(
    model: Any, flax_checkpoint_path: StrPath | Iterable[StrPath]
) -> Any:
    """Fill a torch model with a checkpoint of Flax, and return it.

    Args:
        model: A `PreTrainedModel`; see `load_flax_weights_in_pytorch_model`.
        flax_checkpoint_path: A msgpack or safetensors file, the index of a sharded set, or all its shards.

    Raises:
        WrongWeights: A tensor has another shape than in the model, or none belongs to the model.
        LossyLoad: The dtypes of the model's parameters cannot hold the values exactly.
        UnreadableWeights: A file is missing, damaged or unsafe.
        AmbiguousLayerError: No evidence decides the kind of some layers.
    """
    with as_before():
        if isinstance(flax_checkpoint_path, str | os.PathLike):
            logger.info("Loading Flax weights from %s", Path(flax_checkpoint_path).absolute())
            with open_state(flax_checkpoint_path) as state:
                return _filled(model, state)
        with opened_files(flax_checkpoint_path) as state:
            return _filled(model, state)


def load_flax_weights_in_pytorch_model(pt_model: Any, flax_state: Mapping[str, Any]) -> Any:
    """Fill a torch model with the weights of a Flax model, and return it.

    The weights are copied into the memory of parameters that have values, if their dtype holds the values
    exactly; dtype and ties do not change. A parameter on the meta device gets memory and the dtype of the
    weights. Parameters that are missing from the weights stay unchanged; on the meta device they are
    initialised.

    Args:
        pt_model: A `PreTrainedModel`, in memory or on the meta device.
        flax_state: The tree, as ``model.params``; it is not changed.

    Raises:
        WrongWeights, LossyLoad, AmbiguousLayerError: As `load_flax_checkpoint_in_pytorch_model`.
    """
    with as_before():
        return _filled(pt_model, flax_state)


def _filled(model: Any, source: FlatState | Mapping[str, Any]) -> Any:
    loaded = torch_weights(source, model, allow_missing=True, allow_unexpected=True)
    if isinstance(source, FlatState):
        check_any_fits(loaded, source, model)
    elif not loaded.weights:
        raise WrongWeights(
            f"expected weights of {type(model).__name__}, got a tree of which no tensor belongs to it.",
            hint="Pass the params of this model.",
        )
    places = _Places(model)
    missing = tuple(places.without(loaded.weights))
    _refuse_lossy(places, loaded)
    initialise(model, places.empty_parameters(missing))
    places.fill(loaded.weights)
    compute(model)
    computed = without_source(model, missing)
    reported = places.distinct(name for name in places.required(missing) if name not in computed)
    log_loading_torch(logger, model, loaded, reported, computed)
    LOADING_INFO[model] = {
        "missing_keys": list(reported),
        "unexpected_keys": [join_key(key) for key in loaded.unexpected],
        "mismatched_keys": [],
        "error_msgs": [],
    }
    return model


class _Places:
    """The parameters and saved buffers of a model, with the module and attribute of each of their names."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tensors: dict[str, Any] = dict(model.state_dict(keep_vars=True))
        self.owners: dict[str, tuple[Any, str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            own = (*module.named_parameters(recurse=False, remove_duplicate=False),)
            own += (*module.named_buffers(recurse=False, remove_duplicate=False),)
            for leaf, _ in own:
                self.owners[f"{path}.{leaf}" if path else leaf] = (module, leaf)

    def without(self, weights: Mapping[str, Any]) -> Iterator[str]:
        """Yield the names that need weights and get none, neither themselves nor through a tied name."""
        filled = {id(self.tensors[name]) for name in weights}
        yield from (name for name, tensor in self.tensors.items() if id(tensor) not in filled)

    def required(self, names: Iterable[str]) -> Iterator[str]:
        """Yield the names without those that may be missing according to the model's class."""
        patterns = getattr(self.model, "_keys_to_ignore_on_load_missing", None) or ()
        for name in names:
            if not any(re.search(pattern, name) for pattern in patterns):
                yield name

    def empty_parameters(self, names: Iterable[str]) -> list[str]:
        """Return the names of parameters that are on the meta device."""
        import torch

        places = ((name, self.tensors[name]) for name in names)
        return [name for name, old in places if isinstance(old, torch.nn.Parameter) and old.is_meta]

    def distinct(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return one name for each tensor."""
        first: dict[int, str] = {}
        for name in names:
            first.setdefault(id(self.tensors[name]), name)
        return tuple(first.values())

    def fill(self, weights: Mapping[str, Any]) -> None:
        """Give every named tensor its weights; tied names still share one tensor afterwards."""
        import torch

        replacements: dict[int, Any] = {}
        with torch.no_grad():
            for name, value in weights.items():
                old = self.tensors[name]
                if not old.is_meta:
                    old.copy_(value)
                    continue
                if id(old) not in replacements:
                    is_parameter = isinstance(old, torch.nn.Parameter)
                    new = torch.nn.Parameter(value, old.requires_grad) if is_parameter else value
                    replacements[id(old)] = new
            for name, old in self.tensors.items():
                if id(old) in replacements:
                    module, leaf = self.owners[name]
                    setattr(module, leaf, replacements[id(old)])


def _refuse_lossy(places: _Places, loaded: Loaded) -> None:
    narrow = {
        name: (value.dtype, places.tensors[name].dtype)
        for name, value in loaded.weights.items()
        if not places.tensors[name].is_meta and not _holds(places.tensors[name].dtype, value.dtype)
    }
    if narrow:
        pairs = listed(f"{name} ({new} into {old})" for name, (new, old) in narrow.items())
        raise LossyLoad(
            f"{len(narrow)} parameters of {type(places.model).__name__} cannot hold their weights exactly: "
            f"{pairs}.",
            hint="Call model.float() first, and cast the model afterwards if you need the narrow dtype.",
        )


def _holds(old: Any, new: Any) -> bool:
    names = (str(new).removeprefix("torch."), str(old).removeprefix("torch."))
    return names[0] == names[1] or cast_is_exact(*map(dtype_named, names))
