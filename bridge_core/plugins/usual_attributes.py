"""Settings of modules that are not a framework's own, from attributes with usual names and from configs.

What a module is is read from the name of its class. A setting that concerns such a module and has none of the
usual names is returned as unread. The names are the same in every framework; how an attribute is read without
running code of the module is not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["AttributeReader", "settings_of_attributes"]

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
    *("scaling", "softmax_scale", "attn_scale", "attention_scale", "inv_norm_factor", "scale"),
    *("norm_factor", "query_pre_attn_norm"),
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


@dataclass(frozen=True)
class AttributeReader:
    """How a framework's modules hold their attributes.

    Args:
        held: Returns what a module holds under a name besides its ``__dict__``, such as a child; else None.
        number: Returns a number as a float, of an array of one as of a plain one; None for another value.
        activation: Returns the name of an activation, in the words of `ModuleSettings`; None if the value is
            none, or an unknown one.
        ignores: Returns whether a value of the ``__dict__`` is not a setting, as a weight is not.
    """

    held: Callable[[Any, str], Any]
    number: Callable[[Any], float | None]
    activation: Callable[[Any], str | None]
    ignores: Callable[[Any], bool] = lambda value: False

    def attribute(self, module: Any, name: str) -> Any:
        """Return an attribute without running code of the module, as properties would; else None."""
        if name in vars(module):
            value = vars(module)[name]
            return None if self.ignores(value) else value
        value = self.held(module, name)
        if value is not None:
            return value
        value = inspect.getattr_static(type(module), name, None)
        return value if isinstance(value, bool | int | float | str) else None

    def flag(self, module: Any, names: Iterable[str]) -> bool | None:
        """Return the first attribute that is a bool."""
        values = (self.attribute(module, name) for name in names)
        return next((value for value in values if isinstance(value, bool)), None)

    def first_number(self, module: Any, names: Iterable[str], config: Iterable[str] = ()) -> float | None:
        """Return the first attribute, else entry of a config, that is a number."""
        attributes = (self.attribute(module, name) for name in names)
        entries = (_of_config(module, name) for name in config)
        values = (self.number(value) for some in (attributes, entries) for value in some)
        return next((value for value in values if value is not None), None)


def settings_of_attributes(
    module: Any,
    reader: AttributeReader,
    inside: Callable[[], Iterable[str]],
    *,
    has_weights: bool,
    training: Callable[[], bool | None],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return a module's settings, and the names of those that cannot be read.

    A name is returned if it concerns modules of this kind.

    Args:
        module: The module.
        reader: How its attributes are read.
        inside: Returns the names of the classes of all modules inside it.
        has_weights: Whether it owns weights itself.
        training: Returns whether it drops values; None if that is unknown.
    """
    class_name = type(module).__name__
    values: dict[str, Any] = {}
    expected: list[str] = []

    def is_own(pattern: re.Pattern[str]) -> bool:
        return bool(pattern.search(class_name)) and not any(map(pattern.search, inside()))

    if is_own(_NORM) and (has_weights or reader.first_number(module, _EPS) is not None):
        expected.append("eps")
        _set(values, "eps", reader.first_number(module, _EPS), float)
    elif is_own(_ATTENTION):
        expected += ["heads", "head_dim", "scale"]
        _read_attention(module, reader, values, training)
    elif _ROTARY.search(class_name) and not _NORM.search(class_name):
        expected.append("rope_theta")
        _set(values, "rope_theta", reader.first_number(module, _BASE, ("rope_theta",)), float)
    elif _DROPOUT.search(class_name) and (share := reader.first_number(module, _SHARE)) is not None:
        values["dropout"] = float(share)
        expected.append("training")
        _set(values, "training", training(), bool)
    _read_activation(module, reader, values, expected)
    _set(values, "norm_first", reader.flag(module, _NORM_FIRST), bool)
    return values, tuple(name for name in dict.fromkeys(expected) if name not in values)


def _read_attention(
    module: Any, reader: AttributeReader, values: dict[str, Any], training: Callable[[], bool | None]
) -> None:
    _set(values, "heads", reader.first_number(module, _HEADS, _HEADS), int)
    _set(values, "kv_heads", reader.first_number(module, _KV_HEADS, _KV_HEADS), int)
    _set(values, "head_dim", reader.first_number(module, _HEAD_DIM, ("head_dim",)), int)
    scale = reader.first_number(module, _SCALE)
    _set(values, "scale", None if scale is None or scale > 1 else scale, float)  # larger ones are divisors
    if "scale" not in values:
        _set(values, "scale", _scale_of_gpt2(module, reader, values), float)
    _set(values, "causal", reader.flag(module, _CAUSAL), bool)
    share = reader.first_number(module, _ATTENTION_DROPOUT)
    if share is not None and 0 <= share <= 1:
        values["dropout"] = float(share)
        _set(values, "training", training(), bool)


def _scale_of_gpt2(module: Any, reader: AttributeReader, values: Mapping[str, Any]) -> float | None:
    """Return the scale of an attention with GPT-2's two flags; None without them."""
    is_scaled = reader.flag(module, ("scale_attn_weights",))
    by_layer = reader.flag(module, ("scale_attn_by_inverse_layer_idx",))
    layer, size = reader.first_number(module, ("layer_idx",)), values.get("head_dim")
    if is_scaled is None or size is None or (by_layer and layer is None):
        return None
    scale = size**-0.5 if is_scaled else 1.0
    return float(scale / (layer + 1) if by_layer and layer is not None else scale)


def _read_activation(
    module: Any, reader: AttributeReader, values: dict[str, Any], expected: list[str]
) -> None:
    """Read an activation that a module holds as a function, a name or a child."""
    held = [value for name in _ACTIVATION if (value := reader.attribute(module, name)) is not None]
    if not held and _FEED_FORWARD.search(type(module).__name__):
        held = [value for name in _ACTIVATION if (value := _of_config(module, name)) is not None]
    if not held:
        return
    expected.append("activation")
    names = [name for value in held if (name := reader.activation(value)) is not None]
    if names:
        values["activation"] = names[0]


def _set(values: dict[str, Any], name: str, value: Any, as_type: Callable[[Any], Any]) -> None:
    if value is not None:
        values[name] = as_type(value)


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
