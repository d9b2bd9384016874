"""The adapters of transformers and diffusers: what a checkpoint folder shows about the weights in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge_core import Checkpoint, FlatState, Guidance, Library, Rule, UsageError, default_registry
from bridge_core.checkpoint import read_config as config_in
from bridge_core.io import exists_beside
from ckptbridge_transformers.buffers import made_by_model
from ckptbridge_transformers.classes import (
    CONFIG,
    class_named,
    config_from,
    config_of,
    flax_class_of,
    is_known,
    quiet,
    read_config,
    torch_class_of,
    version,
)
from ckptbridge_transformers.diffusers import diffusers_recipe
from ckptbridge_transformers.disk_names import as_in_memory, as_on_disk
from ckptbridge_transformers.families import rules_for
from ckptbridge_transformers.folders import files_beside
from ckptbridge_transformers.part_config import config_of_part, ids_within
from ckptbridge_transformers.types import with_flax_types

__all__ = ["LIBRARIES", "Diffusers", "Transformers"]

_SHARD_SIZE = {"flax": 10 * 10**9, "torch": 5 * 10**9}
"""Bytes above which transformers 4 shards, by framework."""


_SAID_TO_BE_TIED = frozenset({"longt5", "mt5", "t5", "umt5"})
"""Model types whose head transformers 5 ties without regard to the file, until it has read the weights."""

_NO_CONFIG = "config.json is not written: no config of this model has exactly the tensors that were chosen"

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
        if checkpoint.selected is None:
            return _guidance(checkpoint, stored)
        whole, part = replace(checkpoint, selected=None), checkpoint.selected
        model = _part_model(whole, part, stored)
        if model is None:
            known = _guidance(whole, stored)
            return replace(known, notes=(*known.notes, _NO_CONFIG))
        known = _guidance(replace(whole, state=part), stored, model)
        return replace(known, notes=(*known.notes, *model.notes), describes_selection=True)


@dataclass(frozen=True)
class _PartModel:
    """The config of a part of a checkpoint.

    Args:
        stored: The config as its file holds it.
        config: The object of transformers.
        sidecar_contents: What other files hold instead.
        notes: What a reader of the report should know.
    """

    stored: Mapping[str, Any]
    config: Any
    sidecar_contents: Mapping[str, bytes]
    notes: tuple[str, ...]


def _guidance(checkpoint: Checkpoint, stored: Mapping[str, Any], part: _PartModel | None = None) -> Guidance:
    """Return the guidance for a checkpoint, or for a part of one with a config of its own."""
    sidecar_files = files_beside(checkpoint.folder)
    limit = _SHARD_SIZE.get(checkpoint.to)
    now = stored if part is None else part.stored
    others = {} if part is None else part.sidecar_contents
    contents = {**others, **_changed(stored, checkpoint, None, now)}
    if checkpoint.to == checkpoint.state.layout and checkpoint.model is None:
        return Guidance(
            sidecar_files=sidecar_files,
            sidecar_contents=contents,
            max_shard_size=limit,
        )
    if checkpoint.model is None and not is_known(stored):
        return Guidance(
            sidecar_files=sidecar_files,
            sidecar_contents=contents,
            notes=(
                f"transformers {version()} does not know the config's model_type "
                f"{stored['model_type']!r}, so that only names and shapes decide",
            ),
        )
    config = config_of(checkpoint.folder) if part is None else part.config
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
        sidecar_contents={**others, **_changed(stored, checkpoint, torch_class.__name__, now)},
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
    stored: Mapping[str, Any], checkpoint: Checkpoint, model_class: str | None, now: Mapping[str, Any]
) -> Mapping[str, bytes]:
    """Return the config with the dtype and the class that the caller asks for; nothing if unchanged.

    Args:
        stored: The config in the folder.
        checkpoint: What the caller asks for.
        model_class: Name of the class.
        now: The config to change: that in the folder, or that of a part of the checkpoint.
    """
    config = dict(now)
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


def _part_model(checkpoint: Checkpoint, part: FlatState, stored: Mapping[str, Any]) -> _PartModel | None:
    """Return the config of a part of a checkpoint; None if none describes it."""
    if checkpoint.model is None and not is_known(stored):
        return None
    try:
        config = config_of(checkpoint.folder)
        if checkpoint.model:
            torch_class = class_named(checkpoint.model)
        else:
            torch_class = torch_class_of(config, checkpoint.folder)
    except UsageError:
        if checkpoint.to == checkpoint.state.layout and checkpoint.model is None:
            return None
        raise
    layout = str(checkpoint.state.layout)

    def describe(changed: Mapping[str, Any]) -> FlatState:
        new = config_from(config, changed)
        inside = replace(checkpoint, state=part, to=layout)
        untied = _is_untied(changed, new) and new.model_type in _SAID_TO_BE_TIED
        model = _Models(inside, new, torch_class, untied).of(layout)
        if model is None:
            raise UsageError(f"{torch_class.__name__} has no names in the layout {layout}.")
        return model if isinstance(model, FlatState) else default_registry().framework(layout).state(model)

    with quiet():
        known = config.to_dict()
    all_named, part_named = checkpoint.state, part
    if layout == "torch":
        all_named, part_named = (as_in_memory(state, torch_class) for state in (all_named, part))
    new = config_of_part(stored, known, all_named, part_named, describe)
    if new is None:
        return None
    contents, notes = {}, ["config.json is that of a model with the chosen part"]
    if new.get("vocab_size") != stored.get("vocab_size"):
        notes.append("the tokenizer is the complete one; the model has no rows for its later ids")
    generation = checkpoint.folder / "generation_config.json"
    if exists_beside(generation) and isinstance(new.get("vocab_size"), int):
        values = config_in(generation)
        within = {**values, **ids_within(values, new["vocab_size"])}
        if within != values:
            contents[generation.name] = _as_json(within)
    return _PartModel(new, config_from(config, new), contents, tuple(notes))


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
