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

from bridge_core import FlatState, Key, join_key, open_state
from bridge_core.state import flatten_tree, unflatten_tree
from ckptbridge_transformers.classes import library
from ckptbridge_transformers.compat.errors import UnreadableWeights, as_before
from ckptbridge_transformers.compat.to_flax import check_any_fits
from ckptbridge_transformers.loading import Loaded, flax_weights, left_out_text
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
        logger.warning("trust_remote_code=True has an effect only on Auto classes, and is ignored.")
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
    warnings.warn("`use_auth_token` is deprecated; use `token`.", FutureWarning, stacklevel=3)
    if token is not None:
        raise ValueError("`token` and its old name `use_auth_token` are both given. Pass only `token`.")
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
    _report(model, name, missing, loaded, do_init=do_init)
    _report_narrow(model, name, present)
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
        logger.info("%s has no generation config; one is made from the model's config.", name)


def _report(model: Any, name: str, missing: tuple[Key, ...], loaded: Loaded, *, do_init: bool) -> None:
    kind = type(model).__name__
    if loaded.unexpected:
        logger.warning(
            "%d tensors of %s have no place in %s and were left out: %s. This is expected for a checkpoint "
            "of another task, and not for a checkpoint of exactly this model.",
            *(len(loaded.unexpected), name, kind, _listed(loaded.unexpected)),
        )
    if loaded.left_out:
        logger.info("%s does not use %s of %s.", kind, left_out_text(loaded), name)
    for warning in loaded.warnings:
        logger.warning("%s", warning.message)
    if loaded.mismatched:
        logger.warning(
            "%d tensors of %s have other shapes than in %s and were left out: %s.",
            *(len(loaded.mismatched), name, kind, "; ".join(map(str, loaded.mismatched))),
        )
    if missing:
        done = "are newly initialized: %s. Train the model before using it."
        left = "are missing from the params: %s. model.init_weights(key, input_shape, params) adds them."
        logger.warning(
            "%d parameters of %s are not in %s and " + (done if do_init else left),
            *(len(missing), kind, name, _listed(missing)),
        )


def _listed(keys: Iterable[Key]) -> str:
    return ", ".join(sorted(join_key(key) for key in keys))


def _report_narrow(model: Any, name: str, present: Mapping[Key, Any]) -> None:
    for narrow in ("float16", "bfloat16"):
        count = sum(str(leaf.dtype) == narrow for leaf in present.values())
        if count:
            logger.warning(
                "%d parameters of %s are %s, as in %s; `model.to_fp32(params)` widens them.",
                *(count, type(model).__name__, narrow, name),
            )
