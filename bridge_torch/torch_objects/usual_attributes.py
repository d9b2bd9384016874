"""Settings of modules that are not torch's, from attributes with usual names and from configs.

What a module is is read from the name of its class. A setting that concerns such a module and has none of the
usual names is returned as unread.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from bridge_torch.torch_objects.activations import activation_name

__all__ = ["usual_settings"]

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_NORM = re.compile(r"norm", re.IGNORECASE)
_ROTARY = re.compile(r"rotary|rope", re.IGNORECASE)
_FEED_FORWARD = re.compile(r"mlp|feed_?forward|ffn|intermediate", re.IGNORECASE)
_DROPOUT = re.compile(r"drop", re.IGNORECASE)

_EPS = (
    "eps",
    "epsilon",
    "variance_epsilon",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_eps",
    "rms_norm_eps",
)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "num_q_heads", "heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "kv_heads")
_HEAD_DIM = (
    *("head_dim", "attention_head_size", "head_size", "dim_head", "key_value_proj_dim", "d_head"),
    *("dim_per_head", "d_kv"),
)
_SCALE = ("scaling", "softmax_scale", "attn_scale", "attention_scale", "inv_norm_factor", "scale")
_CAUSAL = ("is_causal", "causal")
_BASE = ("rope_theta", "rotary_emb_base", "rope_base", "base", "theta")
_ACTIVATION = (
    *("act_fn", "activation_fn", "act", "activation", "intermediate_act_fn", "transform_act_fn"),
    *("hidden_act", "hidden_activation", "activation_function", "nonlinearity", "actv", "act_layer"),
)
_ATTENTION_DROPOUT = (
    "attention_dropout",
    "attn_dropout",
    "dropout_p",
    "dropout_prob",
    "dropout",
    "attn_pdrop",
)
_NORM_FIRST = ("norm_first", "normalize_before", "pre_norm", "prenorm", "do_layer_norm_before")
_CONFIGS = ("config", "cfg", "args", "hparams")


def usual_settings(module: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return settings and the names of those that concern a module of its kind and cannot be read."""
    name = type(module).__name__
    values: dict[str, Any] = {}
    expected: list[str] = []
    activation = activation_name(module)
    if activation is not None:
        return {"activation": activation}, ()
    if type(module).__module__ == "transformers.activations":
        return {}, ("activation",)
    if _is_own(_NORM, module) and ([*module.parameters(recurse=False)] or _number(module, _EPS) is not None):
        expected.append("eps")
        _set(values, "eps", _number(module, _EPS), float)
    elif _is_own(_ATTENTION, module):
        expected += ["heads", "head_dim", "scale"]
        _read_attention(module, values)
    elif _ROTARY.search(name) and not _NORM.search(name):
        expected.append("rope_theta")
        _set(values, "rope_theta", _number(module, _BASE, config=("rope_theta",)), float)
    elif _DROPOUT.search(name) and (share := _number(module, ("p", "drop_prob", "drop", "rate"))) is not None:
        values |= {"dropout": float(share), "training": module.training}
    _read_activation(module, values, expected)
    first = _plain(module, _NORM_FIRST, (), lambda value: isinstance(value, bool))
    if first is not None:
        values["norm_first"] = first
    return values, tuple(name for name in dict.fromkeys(expected) if name not in values)


def _is_own(pattern: re.Pattern[str], module: nn.Module) -> bool:
    """Return whether a module is of a kind itself, and not around one of its modules that is."""
    if not pattern.search(type(module).__name__):
        return False
    return not any(pattern.search(type(child).__name__) for child in [*module.modules()][1:])


def _read_attention(module: nn.Module, values: dict[str, Any]) -> None:
    _set(values, "heads", _number(module, _HEADS, config=_HEADS), int)
    _set(values, "kv_heads", _number(module, _KV_HEADS, config=_KV_HEADS), int)
    _set(values, "head_dim", _number(module, _HEAD_DIM, config=("head_dim",)), int)
    scale = _number(module, _SCALE)
    _set(values, "scale", None if scale is None or scale > 1 else scale, float)  # larger ones are divisors
    if "scale" not in values and _plain(module, ("scale_attn_weights",), (), _is_flag) is not None:
        _set(values, "scale", _scale_of_gpt2(module, values), float)
    causal = _plain(module, _CAUSAL, (), _is_flag)
    if causal is not None:
        values["causal"] = causal
    share = _number(module, _ATTENTION_DROPOUT)
    if share is not None and 0 <= share <= 1:
        values |= {"dropout": float(share), "training": module.training}


def _scale_of_gpt2(module: nn.Module, values: dict[str, Any]) -> float | None:
    """Return the scale of an attention with GPT-2's two flags."""
    by_layer = _plain(module, ("scale_attn_by_inverse_layer_idx",), (), _is_flag)
    layer, size = _number(module, ("layer_idx",)), values.get("head_dim")
    if size is None or (by_layer and layer is None):
        return None
    scale = size**-0.5 if _plain(module, ("scale_attn_weights",), (), _is_flag) else 1.0
    return float(scale / (layer + 1) if by_layer and layer is not None else scale)


def _read_activation(module: nn.Module, values: dict[str, Any], expected: list[str]) -> None:
    """Read an activation that a module holds as a function, a name or a child."""
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


def _number(module: nn.Module, names: Iterable[str], *, config: Iterable[str] = ()) -> float | None:
    value = _plain(module, names, config, _is_number)
    return value.item() if isinstance(value, torch.Tensor) else value


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.ndim == 0 and value.device.type != "meta" and not isinstance(value, nn.Parameter)
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _plain(
    module: nn.Module, names: Iterable[str], config: Iterable[str], fits: Callable[[Any], bool]
) -> Any:
    """Return the first attribute, else entry of a config, that is of the right kind."""
    attributes = (_attribute(module, name) for name in names)
    entries = (_of_config(module, name) for name in config)
    return next((value for values in (attributes, entries) for value in values if fits(value)), None)


def _attribute(module: nn.Module, name: str) -> Any:
    """Return an attribute or a child without running code of the module, as properties would."""
    for held in (vars(module), module._modules, module._buffers):
        if name in held:
            return held[name]
    value = inspect.getattr_static(type(module), name, None)
    return value if isinstance(value, bool | int | float | str) else None


def _of_config(module: nn.Module, name: str) -> Any:
    for place in _CONFIGS:
        config = vars(module).get(place)
        if config is None or isinstance(config, bool | int | float | str):
            continue
        try:
            value = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
        except Exception:  # attributes of configs may be computed
            value = None
        if value is not None:
            return value
    return None
