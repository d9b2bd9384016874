"""What a torch model computes itself and no checkpoint of Flax holds: positions, frequencies, masks."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from bridge_core import MissingDependency, UsageError, as_key
from bridge_core.messages import listed
from ckptbridge_transformers.classes import quiet, version
from ckptbridge_transformers.families import rules_for

__all__ = ["compute", "initialise", "without_source"]


def without_source(model: Any, names: Collection[str]) -> dict[str, str]:
    """Return those names of a torch model that its Flax class does not have, with the reason.

    Args:
        model: A `PreTrainedModel`.
        names: Names of its state dict.
    """
    drops = [rule for rule in rules_for(model.config, type(model).__name__) if rule.action == "drop"]
    return {
        name: rule.reason
        for name in names
        for rule in drops
        if rule.source is not None and rule.source.match(as_key(name)) is not None
    }


def initialise(model: Any, names: list[str]) -> None:
    """Give parameters on the meta device memory and the model's own initial values.

    Raises:
        MissingDependency: This version of transformers does not have the private methods for it.
    """
    if not names:
        return
    try:
        move, initial = model._move_missing_keys_from_meta_to_cpu, model._initialize_missing_keys
    except AttributeError as err:
        raise MissingDependency(
            f"{len(names)} parameters of {type(model).__name__} are on the meta device and have no weights: "
            f"{listed(names)}. transformers {version()} has no known method to initialise them.",
            hint="Pass a model in memory, not on the meta device.",
        ) from err
    for module in model.modules():
        module._is_hf_initialized = False  # on the meta device nothing is, whatever its constructor noted
    move(names, None, None)
    initial(names, False)
    model.tie_weights()


def compute(model: Any) -> None:
    """Give the buffers and plain tensors that are still on the meta device the values of a new model.

    Raises:
        UsageError: A model that its class makes from the config does not have them.
    """
    empty = dict(_on_meta(model))
    if not empty:
        return
    made = _twin(model)
    for name, (module, leaf, tensor) in list(empty.items()):
        value = _at(made, name)
        if value is not None and not value.is_meta and value.shape == tensor.shape:
            setattr(module, leaf, value.to(tensor.dtype))
            del empty[name]
    if empty:
        raise UsageError(
            f"{len(empty)} tensors of {type(model).__name__} are on the meta device and have no weights, and "
            f"the class does not make them from the config: {listed(empty)}.",
            hint="Pass a model in memory, not on the meta device.",
        )


def _on_meta(model: Any) -> Iterator[tuple[str, tuple[Any, str, Any]]]:
    import torch

    for path, module in model.named_modules():
        for leaf, value in (*module._buffers.items(), *vars(module).items()):
            if isinstance(value, torch.Tensor) and value.is_meta:
                yield f"{path}.{leaf}" if path else leaf, (module, leaf, value)


def _at(model: Any, name: str) -> Any:
    path, _, leaf = name.rpartition(".")
    try:
        return getattr(model.get_submodule(path), leaf, None)
    except AttributeError:
        return None


def _twin(model: Any) -> Any:
    """Return a new model with the same config, if possible without memory for its parameters."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        with contextlib.suppress(ImportError):
            from transformers.integrations.accelerate import init_empty_weights
            from transformers.modeling_utils import no_init_weights

            stack.enter_context(no_init_weights())
            stack.enter_context(init_empty_weights())
        return type(model)(model.config)
