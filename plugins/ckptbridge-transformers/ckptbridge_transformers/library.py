"""The adapter of transformers: what a checkpoint folder tells about the weights in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bridge_core import Checkpoint, Guidance, Library, Rule, UsageError
from ckptbridge_transformers.buffers import made_by_model
from ckptbridge_transformers.classes import (
    CONFIG,
    class_named,
    config_of,
    flax_class_of,
    is_known,
    read_config,
    torch_class_of,
    version,
)
from ckptbridge_transformers.diffusers import diffusers_rules, is_diffusers
from ckptbridge_transformers.disk_names import as_on_disk
from ckptbridge_transformers.families import rules_for
from ckptbridge_transformers.folders import files_beside
from ckptbridge_transformers.types import with_flax_types

__all__ = ["LIBRARIES", "Diffusers", "Transformers"]

_SHARD_SIZE = {"flax": 10 * 10**9, "torch": 5 * 10**9}
"""Bytes from which transformers 4 shards."""


_SAID_TO_BE_TIED = frozenset({"longt5", "mt5", "t5", "umt5"})
"""Model types whose head transformers 5 ties whatever the file says, until it has seen the weights."""

_STEMS = {"flax": "diffusion_flax_model", "torch": "diffusion_pytorch_model"}


class Transformers:
    """Folders whose ``config.json`` names a model type."""

    name = "transformers"

    def guide(self, checkpoint: Checkpoint) -> Guidance | None:
        """Return the models, rules and files of a checkpoint, or None for one of another library.

        Raises:
            UsageError: transformers knows no such class, or not the config.
            MissingDependency: transformers, or a framework that is needed, is not installed.
        """
        found = read_config(checkpoint.folder)
        if found is None or not isinstance(found.get("model_type"), str):
            return None
        sidecar_files = files_beside(checkpoint.folder)
        limit = _SHARD_SIZE.get(checkpoint.to)
        if checkpoint.to == checkpoint.state.layout and checkpoint.model is None:
            return Guidance(
                sidecar_files=sidecar_files,
                sidecar_contents=_changed(found, checkpoint),
                max_shard_size=limit,
            )
        if checkpoint.model is None and not is_known(found):
            return Guidance(
                sidecar_files=sidecar_files,
                sidecar_contents=_changed(found, checkpoint),
                notes=(
                    f"transformers {version()} does not know the model type {found['model_type']!r} of the "
                    "config, so that names and shapes alone decide",
                ),
            )
        config = config_of(checkpoint.folder)
        named = (checkpoint.model or "").removeprefix("Flax")
        torch_class = class_named(named) if named else torch_class_of(config)
        untied = _is_untied(found, config)
        crossing = checkpoint.state.layout != checkpoint.to
        models = _Models(checkpoint, config, torch_class, untied and config.model_type in _SAID_TO_BE_TIED)
        return Guidance(
            model=models.of(checkpoint.state.layout),
            like=models.of(checkpoint.to),
            rules=(*(rules_for(config, torch_class.__name__) if crossing else ()), *models.left_out),
            sidecar_files=sidecar_files,
            sidecar_contents=_changed(found, checkpoint, torch_class.__name__),
            max_shard_size=limit,
            duplicate_tied=checkpoint.to == "torch" and untied,
            notes=(f"{torch_class.__name__} of transformers {version()}", *models.notes),
        )


class Diffusers:
    """Folders whose ``config.json`` names one of diffusers' models that once had a Flax class."""

    name = "diffusers"

    def guide(self, checkpoint: Checkpoint) -> Guidance | None:
        """Return the rules and file names of a checkpoint, or None for one of another library.

        Raises:
            UsageError: A model class is named; diffusers' models are known by their names alone.
        """
        found = read_config(checkpoint.folder)
        if found is None or not is_diffusers(found):
            return None
        if checkpoint.model is not None:
            raise UsageError(
                f"diffusers' models go by their names; {checkpoint.model!r} says nothing.",
                path=checkpoint.folder,
                hint="Leave --model out.",
            )
        crossing = {checkpoint.state.layout, checkpoint.to} != {checkpoint.to}
        return Guidance(
            rules=diffusers_rules() if crossing else (),
            sidecar_files=files_beside(checkpoint.folder),
            sidecar_contents=_with_class(found, checkpoint.to),
            base_name=_STEMS.get(checkpoint.to),
            max_shard_size=_SHARD_SIZE.get(checkpoint.to),
            notes=(f"{found['_class_name']} of diffusers",),
        )


def _changed(
    found: Mapping[str, Any], checkpoint: Checkpoint, model_class: str | None = None
) -> Mapping[str, bytes]:
    """Return the config as it is after a cast, or with the class that was asked for."""
    config = dict(found)
    if checkpoint.dtype is not None:
        # Both are read: transformers 4 writes the first name, 5 the second.
        config.update({name: checkpoint.dtype for name in ("torch_dtype", "dtype") if name in found})
        if "dtype" not in found:
            config["torch_dtype"] = checkpoint.dtype
    if checkpoint.model is not None and model_class is not None:
        config["architectures"] = [model_class]
    return {} if config == found else {CONFIG: _as_json(config)}


def _with_class(found: Mapping[str, Any], to: str) -> Mapping[str, bytes]:
    """Return diffusers' config with the name that the class has in a framework."""
    name = found["_class_name"].removeprefix("Flax")
    config = {**found, "_class_name": f"Flax{name}" if to == "flax" else name}
    return {} if config == found else {CONFIG: _as_json(config)}


def _as_json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _is_untied(found: Mapping[str, Any], config: Any) -> bool:
    """Tell whether input and output embeddings differ, by what stands in the config's file."""
    stated = found.get("tie_word_embeddings")
    if stated is None:
        return found["model_type"] == "mt5" or getattr(config, "tie_word_embeddings", True) is False
    return stated is False


class _Models:
    """The abstract models of a conversion, each as its framework has it."""

    def __init__(self, checkpoint: Checkpoint, config: Any, torch_class: type[Any], untied: bool) -> None:
        from ckptbridge_transformers.templates import meta_model

        state = checkpoint.state
        layouts = (state.layout, checkpoint.to)
        torch_model = meta_model(torch_class, config)
        self.left_out: tuple[Rule, ...] = ()
        self.notes: tuple[str, ...] = ()
        described = as_on_disk(torch_model, state, untied=untied)
        self._of: dict[str | None, Any] = {"torch": described}
        if state.layout == "torch":
            self.left_out = tuple(made_by_model(state, torch_model))
        if "flax" in layouts:
            self._of["flax"] = self._flax(torch_class, config)
        if state.layout == "flax" and self._of["flax"] is None:
            self._of["flax"] = with_flax_types(state, described)

    def _flax(self, torch_class: type[Any], config: Any) -> Any:
        """Return the Flax model's template, or None, with the reason in the notes."""
        from ckptbridge_transformers.templates import abstract_flax, flax_template

        flax_class = flax_class_of(torch_class)
        if flax_class is None:
            self.notes += (f"transformers {version()} has no Flax{torch_class.__name__}",)
            return None
        try:
            return flax_template(abstract_flax(flax_class, config))
        except UsageError as err:
            self.notes += (f"without Flax's names and shapes: {err.message}",)
            return None

    def of(self, layout: str | None) -> Any:
        """Return the model in a layout, if it has one."""
        return self._of.get(layout)


LIBRARIES: tuple[Library, ...] = (Transformers(), Diffusers())
"""The adapters that are registered."""
