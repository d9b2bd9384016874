"""Settings of modules that are not Flax's, from attributes with usual names and from configs.

What a module is is read from the name of its class. A setting that concerns such a module and has none of the
usual names is returned as unread.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from bridge_flax.trees.activations import activation_name
from bridge_flax.trees.layer_settings import Seen

__all__ = ["usual_settings"]

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_NORM = re.compile(r"norm", re.IGNORECASE)
_ROTARY = re.compile(r"rotary|rope", re.IGNORECASE)
_FEED_FORWARD = re.compile(r"mlp|feed_?forward|ffn|intermediate", re.IGNORECASE)
_DROPOUT = re.compile(r"drop", re.IGNORECASE)

_EPS = (
    *("eps", "epsilon", "variance_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"),
    "rms_norm_eps",
)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "num_q_heads", "heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "kv_heads")
_HEAD_DIM = (
    *("head_dim", "attention_head_size", "head_size", "dim_head", "key_value_proj_dim", "d_head"),
    *("dim_per_head", "d_kv"),
)
_SCALE = (
    *("scaling", "softmax_scale", "attn_scale", "attention_scale", "scale", "norm_factor"),
    "query_pre_attn_norm",
)
_CAUSAL = ("is_causal", "causal")
_BASE = (
    *("rope_theta", "rotary_emb_base", "rope_base", "base", "theta", "max_wavelength", "rope_max_wavelength"),
    "base_frequency",
)
_ACTIVATION = (
    *("act_fn", "activation_fn", "act", "activation", "intermediate_act_fn", "transform_act_fn"),
    *("hidden_act", "hidden_activation", "activation_function", "nonlinearity", "actv", "act_layer"),
)
_ATTENTION_DROPOUT = (
    *("attention_dropout", "attn_dropout", "dropout_p", "dropout_prob", "dropout", "attn_pdrop"),
    "dropout_rate",
)
_SHARE = ("rate", "p", "drop_prob", "drop", "drop_rate", "dropout_rate")
_NORM_FIRST = ("norm_first", "normalize_before", "pre_norm", "prenorm", "do_layer_norm_before")
_CONFIGS = ("config", "cfg", "args", "hparams", "model_config")


def usual_settings(
    seen: Seen, inside: Iterable[str], *, has_weights: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return settings and the names of those that concern a module of its kind and cannot be read.

    Args:
        seen: The module.
        inside: The names of the classes of all modules inside it.
        has_weights: Whether it owns weights itself.
    """
    module, name = seen.module, type(seen.module).__name__
    values: dict[str, Any] = {}
    expected: list[str] = []
    around = [*inside]

    def is_own(pattern: re.Pattern[str]) -> bool:
        return bool(pattern.search(name)) and not any(pattern.search(other) for other in around)

    if is_own(_NORM) and (has_weights or _number(module, _EPS) is not None):
        expected.append("eps")
        _set(values, "eps", _number(module, _EPS), float)
    elif is_own(_ATTENTION):
        expected += ["heads", "head_dim", "scale"]
        _read_attention(seen, values)
    elif _ROTARY.search(name) and not _NORM.search(name):
        expected.append("rope_theta")
        _set(values, "rope_theta", _number(module, _BASE, ("rope_theta",)), float)
    elif _DROPOUT.search(name) and (share := _number(module, _SHARE)) is not None:
        values["dropout"] = float(share)
        expected.append("training")
        _read_training(seen, values)
    _read_activation(module, values, expected)
    first = _plain(module, _NORM_FIRST, (), _is_flag)
    if first is not None:
        values["norm_first"] = first
    return values, tuple(name for name in dict.fromkeys(expected) if name not in values)


def _read_attention(seen: Seen, values: dict[str, Any]) -> None:
    module = seen.module
    _set(values, "heads", _number(module, _HEADS, _HEADS), int)
    _set(values, "kv_heads", _number(module, _KV_HEADS, _KV_HEADS), int)
    _set(values, "head_dim", _number(module, _HEAD_DIM, ("head_dim",)), int)
    _set(values, "scale", _number(module, _SCALE), float)
    causal = _plain(module, _CAUSAL, (), _is_flag)
    if causal is not None:
        values["causal"] = causal
    share = _number(module, _ATTENTION_DROPOUT)
    if share is not None and 0 <= share <= 1:
        values["dropout"] = float(share)
        _read_training(seen, values)


def _read_training(seen: Seen, values: dict[str, Any]) -> None:
    deterministic = seen.merged("deterministic")
    if isinstance(deterministic, bool):
        values["training"] = not deterministic


def _read_activation(module: Any, values: dict[str, Any], expected: list[str]) -> None:
    """Read an activation that a module holds as a function or a name."""
    held = [value for name in _ACTIVATION for value in [_attribute(module, name)] if value is not None]
    if not held and _FEED_FORWARD.search(type(module).__name__):
        held = [value for name in _ACTIVATION for value in [_of_config(module, name)] if value is not None]
    if not held:
        return
    expected.append("activation")
    names = [name for value in held if (name := activation_name(value)) is not None]
    if names:
        values["activation"] = names[0]


def _set(values: dict[str, Any], name: str, value: Any, as_type: Callable[[Any], Any]) -> None:
    if value is not None:
        values[name] = as_type(value)


def _number(module: Any, names: Iterable[str], config: Iterable[str] = ()) -> float | None:
    value = _plain(module, names, config, _is_number)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = value.item()
    return None if value is None else float(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return value.ndim == 0 and not isinstance(value, jax.core.Tracer)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _plain(module: Any, names: Iterable[str], config: Iterable[str], fits: Callable[[Any], bool]) -> Any:
    """Return the first attribute, else entry of a config, that is of the right kind."""
    attributes = (_attribute(module, name) for name in names)
    entries = (_of_config(module, name) for name in config)
    return next((value for values in (attributes, entries) for value in values if fits(value)), None)


def _attribute(module: Any, name: str) -> Any:
    """Return an attribute without running code of the module, as properties would."""
    if name in vars(module):
        value = vars(module)[name]
        return None if isinstance(value, nnx.Variable) else value
    value = inspect.getattr_static(type(module), name, None)
    return value if isinstance(value, bool | int | float | str) else None


def _of_config(module: Any, name: str) -> Any:
    for place in _CONFIGS:
        config = vars(module).get(place)
        if config is None or isinstance(config, bool | int | float | str):
            continue
        try:
            value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
        except Exception:  # attributes of configs may be computed
            value = None
        if value is not None:
            return value
    return None
