"""``FlaxPreTrainedModel.from_pretrained`` without random weights and without a second copy.

The arguments, the places where files are looked for, and the result are those of the original. `install`
replaces the original by this function.
"""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bridge_core import FlatState, Key, open_state
from bridge_core.state import flatten_tree, unflatten_tree
from ckptbridge_transformers.classes import library
from ckptbridge_transformers.compat.errors import UnreadableWeights, as_before
from ckptbridge_transformers.compat.messages import log_loading_flax, log_narrow
from ckptbridge_transformers.compat.to_flax import check_any_fits
from ckptbridge_transformers.loading import flax_weights
from ckptbridge_transformers.templates import abstract_flax, clip_with_old_names

__all__ = ["from_pretrained", "resolved_token", "weights_file"]

logger = logging.getLogger("transformers.modeling_flax_utils")

_FLAX = ("flax_model.msgpack", "flax_model.msgpack.index.json")
_SAFE = ("model.safetensors", "model.safetensors.index.json")
_TORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def from_pretrained(
    cls: type[Any],
    pretrained_model_name_or_path: str | os.PathLike[str],
    dtype: Any = jnp.float32,
    *model_args: Any,
    config: Any = None,
    cache_dir: str | os.PathLike[str] | None = None,
    ignore_mismatched_sizes: bool = False,
    force_download: bool = False,
    local_files_only: bool = False,
    token: str | bool | None = None,
    revision: str = "main",
    **kwargs: Any,
) -> Any:
    """Return a Flax model with a checkpoint's weights, or with ``_do_init=False`` the model and its params.

    The files show the layout of the weights; ``from_pt`` only chooses which files are looked for. The dtype
    of the weights is preserved. Parameters that are missing from the checkpoint, and no others, are
    initialised; with ``_do_init=False`` they are left out.

    Args:
        cls: The model class.
        pretrained_model_name_or_path: A folder, a file of weights, or a model's name on the Hub.
        dtype: The dtype of the computation; that of the weights is preserved.
        *model_args: For the model's constructor.
        config: A config, or where to read one; None for the config next to the weights.
        cache_dir: For `transformers.utils.cached_file`, like the arguments for fetching below.
        ignore_mismatched_sizes: Whether weights of other shapes are left out.
        force_download: For fetching.
        local_files_only: For fetching.
        token: For fetching.
        revision: For fetching.
        **kwargs: ``from_pt``, ``_do_init``, ``subfolder``, ``proxies`` and the like; options of the config;
            the rest is passed to the model's constructor.

    Raises:
        WrongWeights: Shapes differ and that is not allowed, or no tensor belongs to the model.
        UnreadableWeights: There is no file of weights, or it is damaged or unsafe.
        AmbiguousLayerError: No evidence decides the kind of some layers.
    """
    from_pt, do_init = kwargs.pop("from_pt", False), kwargs.pop("_do_init", True)
    pipeline, auto = kwargs.pop("_from_pipeline", None), kwargs.pop("_from_auto", False)
    kwargs.pop("adapter_kwargs", None)
    if kwargs.pop("trust_remote_code", None) is True:
        logger.warning(
            "The argument `trust_remote_code` is to be used with Auto classes. It has no effect here and is "
            "ignored."
        )
    fetching = {
        "cache_dir": cache_dir,
        "force_download": force_download,
        "resume_download": kwargs.pop("resume_download", None),
        "proxies": kwargs.pop("proxies", None),
        "local_files_only": local_files_only or library().utils.is_offline_mode(),
        "token": resolved_token(token, kwargs),
        "revision": revision,
        "subfolder": kwargs.pop("subfolder", ""),
        "_commit_hash": kwargs.pop("_commit_hash", None),
    }
    name = str(pretrained_model_name_or_path)
    origin = {"_from_auto": auto, "_from_pipeline": pipeline}
    if isinstance(config, library().PretrainedConfig):
        options = dict(kwargs)
    else:
        config, options = cls.config_class.from_pretrained(
            name if config is None else config, return_unused_kwargs=True, **fetching, **origin, **kwargs
        )
    fetching["_commit_hash"] = fetching["_commit_hash"] or getattr(config, "_commit_hash", None)
    agent = {"file_type": "model", "framework": "flax", "from_auto_class": auto}
    agent |= {} if pipeline is None else {"using_pipeline": pipeline}
    kinds = (_SAFE, _TORCH) if from_pt else (_FLAX, _SAFE)
    path = weights_file(name, kinds, {**fetching, "user_agent": agent})
    logger.info("loading weights file %s", path)
    model = _empty(cls, config, model_args, {**options, "dtype": dtype})
    params = _loaded(model, path, name, ignore_mismatched_sizes, do_init=do_init)
    if model.can_generate():
        del fetching["_commit_hash"]
        _take_generation_config(model, name, {**fetching, **origin, **kwargs})
    if not do_init:
        return model, params
    model._is_initialized = True
    model.params = params
    return model


def resolved_token(token: Any, kwargs: dict[str, Any]) -> Any:
    """Return ``token``, or else the deprecated ``use_auth_token``, which is removed from ``kwargs``.

    Raises:
        ValueError: Both are given.
    """
    old = kwargs.pop("use_auth_token", None)
    if old is None:
        return token
    warnings.warn(
        "The `use_auth_token` argument is deprecated and will be removed in v5 of Transformers. Please use "
        "`token` instead.",
        FutureWarning,
        stacklevel=3,
    )
    if token is not None:
        raise ValueError(
            "`token` and `use_auth_token` are both specified. Please set only the argument `token`."
        )
    return old


def weights_file(name: str, kinds: Iterable[tuple[str, str]], fetching: Mapping[str, Any]) -> str:
    """Return the local path of a checkpoint's file or index; files that are not local are fetched.

    Args:
        name: A folder, a file, an address, or a model's name on the Hub.
        kinds: The pairs of names, single file and index, to look for in this order.
        fetching: For `transformers.utils.cached_file`.

    Raises:
        UnreadableWeights: There is no such file.
    """
    utils = library().utils
    if os.path.isfile(name):  # noqa: PTH113 - a name on the Hub is not a path
        return name
    if utils.is_remote_url(name):
        return str(utils.download_url(name))
    quietly = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries")}
    looked: list[str] = []
    for single, index in kinds:
        for file in (single, index):
            local = utils.cached_file(name, file, **fetching, **quietly)
            looked.append(file)
            if local is None:
                continue
            if file == index and not os.path.isdir(name):  # noqa: PTH112
                utils.hub.get_checkpoint_shard_files(name, local, **fetching)
            return str(local)
    folder = Path(name, fetching["subfolder"])
    others = [file for file in (*_FLAX, *_TORCH) if (folder / file).is_file()]
    option = "from_pt=True" if others and others[0] in _TORCH else "from_pt=False"
    raise UnreadableWeights(
        f"the folder has none of the files of weights that were looked for: {', '.join(looked)}.",
        path=folder,
        hint=f"Pass {option} to load its {others[0]}." if others else "Pass the folder of a checkpoint.",
    )


def _empty(cls: type[Any], config: Any, model_args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    by_name = list(inspect.signature(cls).bind(config, *model_args).arguments.items())[1:]
    return abstract_flax(cls, config, **dict(by_name), **options)


def _loaded(
    model: Any, path: str, name: str, ignore_mismatched_sizes: bool, *, do_init: bool
) -> dict[str, Any]:
    with as_before(), open_state(path) as state:
        loaded = flax_weights(
            state.replace(layout=_layout(state, path)),
            model,
            allow_missing=True,
            allow_unexpected=True,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
        )
        check_any_fits(loaded, state, model)
    params: dict[str, Any] = loaded.weights
    present = flatten_tree(params)[0]
    missing = tuple(key for key in flatten_tree(model.params_shape_tree)[0] if key not in present)
    if missing and do_init:
        params = unflatten_tree({**present, **_initial(model, missing)})
    elif missing:
        model._missing_keys = set(missing)  # what `init_weights(key, shape, params)` will add
    other_shapes = {pair.target for pair in loaded.mismatched}
    absent = [key for key in missing if key not in other_shapes]
    log_loading_flax(logger, model, name, loaded, absent, do_init=do_init)
    log_narrow(logger, model, name, {key: str(leaf.dtype) for key, leaf in present.items()})
    return params


def _layout(state: FlatState, path: str) -> str:
    if state.metadata.extra.get("format") in ("pt", "flax", None) and state.layout in ("torch", "flax"):
        return state.layout
    framework = state.metadata.extra.get("format") or "a framework that cannot be determined"
    raise UnreadableWeights(
        f"expected weights of PyTorch or Flax, got those of {framework}.",
        path=path,
        hint="Save the model again with save_pretrained.",
    )


def _initial(model: Any, keys: tuple[Key, ...]) -> dict[Key, Any]:
    """Return initial values for some parameters; the compiler removes the computation of the others."""

    def some(rng: Any) -> dict[Key, Any]:
        initial = flatten_tree(model.init_weights(rng, model.input_shape))[0]
        return {key: initial[key] for key in keys}

    with clip_with_old_names():
        values: dict[Key, Any] = jax.jit(some)(model.key)
    return values


def _take_generation_config(model: Any, name: str, options: dict[str, Any]) -> None:
    try:
        model.generation_config = library().GenerationConfig.from_pretrained(name, **options)
    except OSError:
        logger.info(
            "Generation config file not found, using a generation config created from the model config."
        )
