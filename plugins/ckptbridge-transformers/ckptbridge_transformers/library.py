"""The adapters of transformers and diffusers: what a checkpoint folder shows about the weights in it."""

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
from ckptbridge_transformers.diffusers import diffusers_recipe
from ckptbridge_transformers.disk_names import as_on_disk
from ckptbridge_transformers.families import rules_for
from ckptbridge_transformers.folders import files_beside
from ckptbridge_transformers.types import with_flax_types

__all__ = ["LIBRARIES", "Diffusers", "Transformers"]

_SHARD_SIZE = {"flax": 10 * 10**9, "torch": 5 * 10**9}
"""Bytes above which transformers 4 shards, by framework."""


_SAID_TO_BE_TIED = frozenset({"longt5", "mt5", "t5", "umt5"})
"""Model types whose head transformers 5 ties without regard to the file, until it has read the weights."""

_STEMS = {"flax": "diffusion_flax_model", "torch": "diffusion_pytorch_model"}


class Transformers:
    """Folders whose ``config.json`` names a model type."""

    name = "transformers"

    def guide(self, checkpoint: Checkpoint) -> Guidance | None:
        """Return the models, rules and files of a checkpoint, or None for one of another library.

        Raises:
            UsageError: transformers has no such class, or cannot read the config.
            MissingDependency: transformers, or a framework that is needed, is not installed.
        """
        stored = read_config(checkpoint.folder)
        if stored is None or not isinstance(stored.get("model_type"), str):
            return None
        sidecar_files = files_beside(checkpoint.folder)
        limit = _SHARD_SIZE.get(checkpoint.to)
        if checkpoint.to == checkpoint.state.layout and checkpoint.model is None:
            return Guidance(
                sidecar_files=sidecar_files,
                sidecar_contents=_changed(stored, checkpoint),
                max_shard_size=limit,
            )
        if checkpoint.model is None and not is_known(stored):
            return Guidance(
                sidecar_files=sidecar_files,
                sidecar_contents=_changed(stored, checkpoint),
                notes=(
                    f"transformers {version()} does not know the config's model_type "
                    f"{stored['model_type']!r}, so that only names and shapes decide",
                ),
            )
        config = config_of(checkpoint.folder)
        if checkpoint.model:
            torch_class = class_named(checkpoint.model)
        else:
            torch_class = torch_class_of(config, checkpoint.folder)
        untied = _is_untied(stored, config)
        crossing = checkpoint.state.layout != checkpoint.to
        models = _Models(checkpoint, config, torch_class, untied and config.model_type in _SAID_TO_BE_TIED)
        return Guidance(
            model=models.of(checkpoint.state.layout),
            like=models.of(checkpoint.to),
            rules=(*(rules_for(config, torch_class.__name__) if crossing else ()), *models.left_out),
            sidecar_files=sidecar_files,
            sidecar_contents=_changed(stored, checkpoint, torch_class.__name__),
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
            UsageError: The caller names a model class; the config names the class of a diffusers model.
        """
        stored = read_config(checkpoint.folder)
        recipe = None if stored is None else diffusers_recipe(stored)
        if stored is None or recipe is None:
            return None
        if checkpoint.model is not None:
            raise UsageError(
                f"model={checkpoint.model!r} cannot be used for a diffusers model: the config field "
                f"'_class_name' names its class, {stored['_class_name']}.",
                path=checkpoint.folder,
                hint="Remove model= (--model).",
            )
        crossing = {checkpoint.state.layout, checkpoint.to} != {checkpoint.to}
        return Guidance(
            recipe=recipe if crossing else None,
            sidecar_files=files_beside(checkpoint.folder),
            sidecar_contents=_with_class(stored, checkpoint.to),
            base_name=_STEMS.get(checkpoint.to),
            max_shard_size=_SHARD_SIZE.get(checkpoint.to),
            notes=(f"{stored['_class_name']} of diffusers",),
        )


def _changed(
    stored: Mapping[str, Any], checkpoint: Checkpoint, model_class: str | None = None
) -> Mapping[str, bytes]:
    """Return the config with the dtype and the class that the caller asks for; nothing if unchanged."""
    config = dict(stored)
    if checkpoint.dtype is not None:
        # Both are read: transformers 4 writes the first name, 5 the second.
        config.update({name: checkpoint.dtype for name in ("torch_dtype", "dtype") if name in stored})
        if "dtype" not in stored:
            config["torch_dtype"] = checkpoint.dtype
    if checkpoint.model is not None and model_class is not None:
        config["architectures"] = [model_class]
    return {} if config == stored else {CONFIG: _as_json(config)}


def _with_class(stored: Mapping[str, Any], to: str) -> Mapping[str, bytes]:
    """Return diffusers' config with the name that the class has in a framework."""
    name = stored["_class_name"].removeprefix("Flax")
    config = {**stored, "_class_name": f"Flax{name}" if to == "flax" else name}
    return {} if config == stored else {CONFIG: _as_json(config)}


def _as_json(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _is_untied(stored: Mapping[str, Any], config: Any) -> bool:
    """Return whether input and output embeddings differ, according to the config's file."""
    stated = stored.get("tie_word_embeddings")
    if stated is None:
        return stored["model_type"] == "mt5" or getattr(config, "tie_word_embeddings", True) is False
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
            self.notes += (f"Flax's names and shapes are not used: {err.message}",)
            return None

    def of(self, layout: str | None) -> Any:
        """Return the model in a layout, if it has one."""
        return self._of.get(layout)


LIBRARIES: tuple[Library, ...] = (Transformers(), Diffusers())
"""The adapters that are registered."""
