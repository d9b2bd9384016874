"""Flax's weights for torch models, with the interface of the old functions: the model itself is filled."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bridge_core import FlatState, MissingDependency, join_key, open_state
from bridge_core.messages import listed
from bridge_core.state import cast_is_exact, dtype_named
from ckptbridge_transformers.classes import version
from ckptbridge_transformers.compat.errors import LossyLoad, WrongWeights, as_before
from ckptbridge_transformers.compat.to_flax import check_any_fits, opened_files
from ckptbridge_transformers.loading import Loaded, left_out_text, torch_weights

__all__ = ["load_flax_checkpoint_in_pytorch_model", "load_flax_weights_in_pytorch_model"]

StrPath = str | os.PathLike[str]

logger = logging.getLogger("transformers.modeling_flax_pytorch_utils")


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
    _initialise(model, [name for name in missing if places.tensors[name].is_meta])
    places.fill(loaded.weights)
    _report(model, places.distinct(missing), loaded)
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
        patterns = getattr(self.model, "_keys_to_ignore_on_load_missing", None) or ()
        for name, tensor in self.tensors.items():
            if id(tensor) not in filled and not any(re.search(pattern, name) for pattern in patterns):
                yield name

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


def _initialise(model: Any, names: list[str]) -> None:
    """Give parameters on the meta device memory and the model's own initial values.

    Raises:
        MissingDependency: This version of transformers does not have the private methods for it.
    """
    if not names:
        return
    try:
        move, initialise = model._move_missing_keys_from_meta_to_cpu, model._initialize_missing_keys
    except AttributeError as err:
        raise MissingDependency(
            f"{len(names)} parameters of {type(model).__name__} are on the meta device and have no weights: "
            f"{listed(names)}. transformers {version()} has no known method to initialise them.",
            hint="Pass a model in memory, not on the meta device.",
        ) from err
    for module in model.modules():
        module._is_hf_initialized = False  # on the meta device nothing is, whatever its constructor noted
    move(names, None, None)
    initialise(names, False)
    model.tie_weights()


def _report(model: Any, missing: tuple[str, ...], loaded: Loaded) -> None:
    name = type(model).__name__
    if loaded.unexpected:
        logger.warning(
            "%d tensors of the Flax checkpoint have no place in %s and were left out: %s. This is expected "
            "for a checkpoint of another task, and not for a checkpoint of exactly this model.",
            *(len(loaded.unexpected), name, ", ".join(sorted(map(join_key, loaded.unexpected)))),
        )
    if loaded.left_out:
        logger.info("%s does not use %s of the Flax checkpoint.", name, left_out_text(loaded))
    for warning in loaded.warnings:
        logger.warning("%s", warning.message)
    if missing:
        logger.warning(
            "%d parameters of %s are not in the Flax checkpoint and keep their initial values: %s. Train the "
            "model before using it.",
            *(len(missing), name, ", ".join(sorted(missing))),
        )
