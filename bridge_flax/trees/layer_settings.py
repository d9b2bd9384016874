"""Settings of Flax's own layers, read from their attributes and the arguments of a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
from flax import nnx

from bridge_flax.trees.activations import activation_name

__all__ = ["Seen", "layer_settings"]


@dataclass(frozen=True, eq=False)
class Seen:
    """A module, and what it is called with.

    Args:
        module: A bound Linen module, or an NNX module.
        args: Positional arguments of its first call; empty if it was not called.
        kwargs: Those by keyword.
    """

    module: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def merged(self, name: str) -> Any:
        """Return an option that may be a field, or an argument of the call; None if it is neither."""
        if self.kwargs.get(name) is not None:
            return self.kwargs[name]
        return getattr(self.module, name, None)

    def width(self) -> int | None:
        """Return the size of the last axis of the first argument; None if it is unknown."""
        shape = getattr(self.args[0], "shape", None) if self.args else None
        return int(shape[-1]) if shape else None


def layer_settings(seen: Seen) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """Return settings and names of those that cannot be read; None for a module that is not Flax's.

    Modules of classes derived from Flax's layers are read as these layers.
    """
    for classes, names, read in _READERS:
        if not isinstance(seen.module, classes):
            continue
        try:
            values = read(seen)
        except Exception:  # a derived class may not have the attributes
            values = {}
        unread = tuple(name for name in names if name not in values or values[name] is None)
        return {name: value for name, value in values.items() if name not in unread}, unread
    return None


def _each(value: Any, axes: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * axes
    return (int(value),) * axes if isinstance(value, int) else tuple(int(size) for size in value)


def _pairs(padding: Any, axes: int) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, int):
        return ((padding, padding),) * axes
    pairs = [(p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding]
    return tuple(pairs * axes if len(pairs) == 1 else pairs)


def _around(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


def _convolution(seen: Seen) -> dict[str, Any]:
    module = seen.module
    window = _window(module)
    axes = len(window)
    stride, dilation = _each(module.strides, axes), _each(module.kernel_dilation, axes)
    spread = _each(module.input_dilation, axes)
    values: dict[str, Any] = {
        "window": window,
        "stride": stride,
        "dilation": dilation,
        "groups": int(module.feature_group_count),
        "bias": bool(module.use_bias),
    }
    reach = [d * (size - 1) for d, size in zip(dilation, window, strict=True)]
    mode = module.padding.upper() if isinstance(module.padding, str) else None
    padding: Any = None
    if mode is None:
        padding = _pairs(module.padding, axes)
    elif mode == "VALID":
        padding = ((0, 0),) * axes
    elif mode in ("CIRCULAR", "REFLECT"):
        values["padding_mode"] = mode.lower()
        padding = tuple((size // 2, size - size // 2) for size in reach)
    elif mode == "CAUSAL":
        padding = tuple((size, 0) for size in reach)
    elif mode in ("SAME", "SAME_LOWER"):
        if all(step == 1 for step in stride):
            padding = tuple(_around(size) for size in reach)
            padding = padding if mode == "SAME" else tuple((high, low) for low, high in padding)
        elif mode == "SAME":
            padding = "SAME"
    if any(step > 1 for step in spread):
        # With spread inputs it is a transposed convolution.
        del values["stride"]
        if all(step == 1 for step in stride) and padding is not None:
            values["stride"] = spread
            values["padding"] = tuple(
                (size - low, size - high) for size, (low, high) in zip(reach, padding, strict=True)
            )
    elif padding is not None:
        values["padding"] = padding
    return values


def _transposed(seen: Seen) -> dict[str, Any]:
    module = seen.module
    window = _window(module)
    axes = len(window)
    stride, dilation = _each(module.strides, axes), _each(module.kernel_dilation, axes)
    values = {
        "window": window,
        "stride": stride,
        "dilation": dilation,
        "bias": bool(module.use_bias),
        "groups": 1,
    }
    mode = module.padding.upper() if isinstance(module.padding, str) else None
    if mode == "CIRCULAR":
        return {**values, "padding_mode": "circular"}
    cut = []
    explicit = _pairs(module.padding, axes) if mode is None else ((0, 0),) * axes
    for size, d, step, (low, high) in zip(window, dilation, stride, explicit, strict=True):
        reach = d * (size - 1)
        if mode == "SAME":  # as jax.lax.conv_transpose pads
            total = reach + step - 1
            low = reach if step > reach else math.ceil(total / 2)
            high = total - low
        elif mode == "VALID":
            total = reach + step - 1 + max(reach + 1 - step, 0)
            low, high = reach, total - reach
        cut.append((reach - low, reach - high))
    return {**values, "padding": tuple(cut)}


def _window(module: Any) -> tuple[int, ...]:
    size = module.kernel_size
    return (int(size),) if isinstance(size, int) else tuple(int(part) for part in size)


def _norm(seen: Seen) -> dict[str, Any]:
    values: dict[str, Any] = {"eps": float(seen.module.epsilon), "bias": bool(seen.module.use_bias)}
    return values


def _eps(seen: Seen) -> dict[str, Any]:
    return {"eps": float(seen.module.epsilon)}


def _group_norm(seen: Seen) -> dict[str, Any]:
    module, values = seen.module, _norm(seen)
    if module.num_groups is not None:
        values["groups"] = int(module.num_groups)
    elif (width := seen.width()) is not None:
        values["groups"] = width // int(module.group_size)
    return values


def _batch_norm(seen: Seen) -> dict[str, Any]:
    values = _norm(seen)
    # Flax's momentum is the share of the old statistic.
    values["momentum"] = float(f"{1 - seen.module.momentum:.12g}")
    running = seen.merged("use_running_average")
    if len(seen.args) > 1 and seen.args[1] is not None:
        running = seen.args[1]
    if isinstance(running, bool):
        values["training"] = not running
    return values


def _instance_norm(seen: Seen) -> dict[str, Any]:
    return {**_norm(seen), "training": True}


def _dropout(seen: Seen) -> dict[str, Any]:
    deterministic = seen.merged("deterministic")
    if len(seen.args) > 1 and isinstance(seen.args[1], bool):
        deterministic = seen.args[1]
    values: dict[str, Any] = {"dropout": float(seen.module.rate)}
    if isinstance(deterministic, bool):
        values["training"] = not deterministic
    return values


def _attention(seen: Seen) -> dict[str, Any]:
    module = seen.module
    heads = int(module.num_heads)
    values: dict[str, Any] = {
        "heads": heads,
        "kv_heads": int(getattr(module, "num_kv_heads", None) or heads),
        "bias": bool(module.use_bias),
        "dropout": float(module.dropout_rate),
    }
    width = module.qkv_features or seen.width()
    if width is not None:
        values["head_dim"] = int(width) // heads
        if module.attention_fn in (nn.dot_product_attention, nnx.dot_product_attention):
            values["scale"] = float(values["head_dim"] ** -0.5)
    deterministic = seen.merged("deterministic")
    if isinstance(deterministic, bool):
        values["training"] = not deterministic
    elif not module.dropout_rate:
        values["training"] = False
    return values


def _bias(seen: Seen) -> dict[str, Any]:
    use = getattr(seen.module, "use_bias", None)
    return {"bias": bool(use) if use is not None else getattr(seen.module, "bias_shape", None) is not None}


def _cell(seen: Seen) -> dict[str, Any]:
    return {"bias": True, "activation": activation_name(seen.module.activation_fn)}


def _gated_cell(seen: Seen) -> dict[str, Any]:
    return {"bias": True}


_CONV = ("window", "stride", "dilation", "groups", "bias", "padding")
_Reader = tuple[tuple[type, ...], tuple[str, ...], Callable[[Seen], Mapping[str, Any]]]
_READERS: tuple[_Reader, ...] = (
    ((nn.Conv, nn.ConvLocal, nnx.Conv), _CONV, _convolution),
    ((nn.ConvTranspose, nnx.ConvTranspose), _CONV, _transposed),
    ((nn.BatchNorm, nnx.BatchNorm), ("eps", "momentum", "training", "bias"), _batch_norm),
    ((nn.GroupNorm, nnx.GroupNorm), ("eps", "groups", "bias"), _group_norm),
    ((nn.LayerNorm, nnx.LayerNorm), ("eps", "bias"), _norm),
    ((nn.InstanceNorm, nnx.InstanceNorm), ("eps", "bias", "training"), _instance_norm),
    ((nn.RMSNorm, nnx.RMSNorm), ("eps",), _eps),
    ((nn.WeightNorm, nnx.WeightNorm, nn.SpectralNorm, nnx.SpectralNorm), ("eps",), _eps),
    ((nn.Dropout, nnx.Dropout), ("dropout", "training"), _dropout),
    (
        (nn.MultiHeadDotProductAttention, nnx.MultiHeadAttention),
        ("heads", "kv_heads", "head_dim", "scale", "bias", "dropout", "training"),
        _attention,
    ),
    ((nn.Dense, nn.DenseGeneral, nn.Einsum, nnx.Linear, nnx.LinearGeneral, nnx.Einsum), ("bias",), _bias),
    ((nn.SimpleCell, nnx.SimpleCell), ("bias", "activation"), _cell),
    (
        (nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell, nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell),
        ("bias",),
        _gated_cell,
    ),
    ((nn.Embed, nnx.Embed, nn.RNN, nnx.RNN, nn.Sequential, nnx.Sequential), (), lambda _: {}),
    ((nn.Bidirectional, nnx.Bidirectional), ("bidirectional",), lambda _: {"bidirectional": True}),
    ((nn.PReLU, nnx.PReLU), ("activation",), lambda _: {"activation": "prelu"}),
)
