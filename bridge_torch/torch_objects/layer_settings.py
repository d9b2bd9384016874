"""Settings of torch's own layers, read from their attributes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bridge_torch.torch_objects.activations import activation_name

__all__ = ["layer_settings"]


@dataclass(frozen=True)
class _Reader:
    """How settings of a class are read.

    Args:
        names: All names that it may return.
        read: Returns them for a module.
    """

    names: tuple[str, ...]
    read: Callable[[Any], Mapping[str, Any]]


def layer_settings(module: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]] | None:
    """Return settings and names of those that cannot be read; None for a module that is not torch's.

    Modules of classes derived from torch's layers, and scripted ones, are read as these layers.
    """
    classes: tuple[Any, ...] = type(module).__mro__
    if isinstance(module, torch.jit.ScriptModule):
        classes = getattr(getattr(nn, str(module.original_name), None), "__mro__", ())
    reader = next((_READERS[cls] for cls in classes if cls in _READERS), None)
    if reader is None:
        return None
    try:
        return dict(reader.read(module)), ()
    except Exception:  # a derived class, or a scripted module, may not have the attributes
        return {}, reader.names


def _each(value: Any, axes: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * axes


def _axes(module: nn.Module) -> int:
    """Return the number of axes of space, which torch has in the names of its classes."""
    names = [cls.__name__ for cls in type(module).__mro__] + [str(getattr(module, "original_name", ""))]
    return next(int(match[1]) for name in names if (match := re.search(r"(\d)d$", name)))


def _has_bias(module: Any) -> bool:
    return module.bias is not None


def _convolution(module: Any) -> dict[str, Any]:
    window, stride, dilation = module.kernel_size, module.stride, module.dilation
    axes = len(window)
    values: dict[str, Any] = {
        "window": tuple(window),
        "stride": tuple(stride),
        "dilation": tuple(dilation),
        "groups": module.groups,
        "bias": _has_bias(module),
    }
    if module.transposed:
        ends = zip(_each(module.padding, axes), _each(module.output_padding, axes), strict=True)
        padding = tuple((p, p - more) for p, more in ends)
    elif module.padding == "same":
        totals = [d * (size - 1) for d, size in zip(dilation, window, strict=True)]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    elif module.padding == "valid":
        padding = ((0, 0),) * axes
    else:
        padding = tuple((p, p) for p in _each(module.padding, axes))
    values["padding"] = padding
    if module.padding_mode != "zeros":
        values["padding_mode"] = module.padding_mode
    return values


def _pooling(module: Any) -> dict[str, Any]:
    axes = _axes(module)
    window = _each(module.kernel_size, axes)
    values = {"window": window, "stride": window if module.stride is None else _each(module.stride, axes)}
    if hasattr(module, "padding"):
        values["padding"] = tuple((p, p) for p in _each(module.padding, axes))
    if hasattr(module, "dilation"):
        values["dilation"] = _each(module.dilation, axes)
    for name in ("ceil_mode", "count_include_pad"):
        if hasattr(module, name):
            values[name] = getattr(module, name)
    return values


def _padding(module: Any) -> dict[str, Any]:
    """Read a padding layer, whose amounts begin with the last axis."""
    amounts = module.padding
    pairs = [*zip(amounts[::2], amounts[1::2], strict=True)]
    values: dict[str, Any] = {"padding": tuple(reversed(pairs))}
    mode = next((m for m in ("Reflect", "Replicat", "Circular") if m in type(module).__name__), "")
    if mode:
        values["padding_mode"] = {"Replicat": "replicate"}.get(mode, mode.lower())
    return values


def _resizing(module: Any) -> dict[str, Any]:
    linear = module.mode in ("linear", "bilinear", "trilinear")
    values: dict[str, Any] = {
        "resize": "linear" if linear else {"bicubic": "cubic"}.get(module.mode, module.mode)
    }
    if module.align_corners is not None:
        values["align_corners"] = module.align_corners
    if module.size is not None:
        values["output_size"] = tuple(module.size) if isinstance(module.size, tuple | list) else module.size
    return values


def _statistics_norm(module: Any) -> dict[str, Any]:
    values = {
        "eps": module.eps,
        "bias": _has_bias(module),
        "training": module.training or module.running_mean is None,
    }
    if module.track_running_stats:
        values["momentum"] = module.momentum
    return values


def _rms_norm(module: Any) -> dict[str, Any]:
    if module.eps is not None:
        return {"eps": module.eps}
    dtype = torch.get_default_dtype() if module.weight is None else module.weight.dtype
    return {"eps": float(torch.finfo(dtype).eps)}  # as torch computes it


def _recurrent(module: Any) -> dict[str, Any]:
    values = {"layers": module.num_layers, "bidirectional": module.bidirectional, "bias": module.bias}
    if module.num_layers > 1:
        values |= {"dropout": float(module.dropout), "training": module.training}
    if module.mode.startswith("RNN_"):
        values["activation"] = module.mode.removeprefix("RNN_").lower()
    return values


def _recurrent_cell(module: Any) -> dict[str, Any]:
    values = {"bias": module.bias}
    return values | {"activation": module.nonlinearity} if hasattr(module, "nonlinearity") else values


def _attention(module: Any) -> dict[str, Any]:
    return {
        "heads": module.num_heads,
        "kv_heads": module.num_heads,
        "head_dim": module.head_dim,
        "scale": float(module.head_dim**-0.5),
        "bias": module.in_proj_bias is not None or module.bias_k is not None,
        "dropout": float(module.dropout),
        "training": module.training,
    }


def _transformer_layer(module: Any) -> dict[str, Any]:
    name = activation_name(module.activation)
    return {"norm_first": module.norm_first} | ({} if name is None else {"activation": name})


_BIAS = _Reader(("bias",), lambda m: {"bias": _has_bias(m)})
_CONVOLUTION = _Reader(("window", "stride", "dilation", "groups", "bias", "padding"), _convolution)
_POOLING = _Reader(("window", "stride", "padding"), _pooling)
_SIZED = _Reader(("output_size",), lambda m: {"output_size": _each(m.output_size, _axes(m))})
_PADDING = _Reader(("padding",), _padding)
_STATISTICS = _Reader(("eps", "momentum", "training", "bias"), _statistics_norm)
_DROPOUT = _Reader(("dropout", "training"), lambda m: {"dropout": float(m.p), "training": m.training})
_EMBEDDING = _Reader(
    ("padding_idx",), lambda m: {} if m.padding_idx is None else {"padding_idx": m.padding_idx}
)
_LAYER = _Reader(("norm_first", "activation"), _transformer_layer)

_READERS: Mapping[Any, _Reader] = {
    nn.Linear: _BIAS,
    nn.Bilinear: _BIAS,
    nn.modules.conv._ConvNd: _CONVOLUTION,
    nn.LayerNorm: _Reader(("eps", "bias"), lambda m: {"eps": m.eps, "bias": _has_bias(m)}),
    nn.GroupNorm: _Reader(
        ("eps", "groups", "bias"), lambda m: {"eps": m.eps, "groups": m.num_groups, "bias": _has_bias(m)}
    ),
    nn.modules.batchnorm._NormBase: _STATISTICS,
    nn.MultiheadAttention: _Reader(
        ("heads", "kv_heads", "head_dim", "scale", "bias", "dropout", "training"), _attention
    ),
    nn.RNNBase: _Reader(("layers", "bidirectional", "bias", "dropout", "training"), _recurrent),
    nn.RNNCellBase: _Reader(("bias",), _recurrent_cell),
    nn.TransformerEncoderLayer: _LAYER,
    nn.TransformerDecoderLayer: _LAYER,
    nn.Upsample: _Reader(("resize", "align_corners", "output_size"), _resizing),
    nn.Embedding: _EMBEDDING,
    nn.EmbeddingBag: _EMBEDDING,
    nn.modules.dropout._DropoutNd: _DROPOUT,
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d), _POOLING),
    **dict.fromkeys((nn.AvgPool3d, nn.modules.pooling._LPPoolNd), _POOLING),
    **dict.fromkeys((nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd), _SIZED),
    **dict.fromkeys((nn.modules.padding._ConstantPadNd, nn.modules.padding._ReflectionPadNd), _PADDING),
    **dict.fromkeys((nn.modules.padding._ReplicationPadNd, nn.modules.padding._CircularPadNd), _PADDING),
    nn.RMSNorm: _Reader(("eps",), _rms_norm),
}
