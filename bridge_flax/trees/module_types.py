"""The types and settings of modules: the evidence that determines how their weights are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
from flax import nnx

from bridge_core import Key
from bridge_core.state import ModuleInfo
from bridge_flax.trees.walk import as_part

__all__ = ["LinenRecorder", "nnx_modules"]


_WRAPPED = "layer_instance"
"""The attribute in which NNX's wrappers store the layer."""


@dataclasses.dataclass(frozen=True)
class _Record:
    types: tuple[str, ...]
    settings: Mapping[str, Any]
    scaling: Callable[[Key, str], Iterable[Key]] | None
    """For a weight norm: the keys, best first, that a leaf of its own may scale."""


def nnx_modules(module: Any, keys: tuple[Key, ...]) -> dict[Key, ModuleInfo]:
    """Describe an NNX module and every module in it; a shared one under its first path."""
    records: dict[Key, _Record] = {}
    for raw, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            path: Key = ()
            for name in raw:
                path = (*path, as_part(name, path))
            scaling = _scaled_by_nnx if isinstance(node, nnx.WeightNorm) else None
            values = {name: value for name, value in vars(node).items() if not name.startswith("_")}
            records[path] = _Record(_types(node), {**_plain_values(values), **_derived(node)}, scaling)
    infos = _describe(records, keys)
    return {path: _absorbed(path, info, infos) for path, info in infos.items()}


def _absorbed(path: Key, info: ModuleInfo, infos: Mapping[Key, ModuleInfo]) -> ModuleInfo:
    """Give a weight norm the leaves of the layer that it wraps, and leave that layer none.

    The two are one layer: neither half of its weights means anything without the other.
    """
    if path and path[-1] == _WRAPPED and _direct(infos.get(path[:-1])):
        return dataclasses.replace(info, parameters=())
    if not _direct(info):
        return info
    inner = infos[(*path, _WRAPPED)]
    leaves = tuple(f"{_WRAPPED}.{leaf}" for leaf in inner.parameters)
    transposed = bool(inner.settings.get("transpose_kernel", False))
    return dataclasses.replace(
        info,
        settings={**info.settings, "transpose_kernel": transposed},
        parameters=(*info.parameters, *leaves),
    )


def _direct(info: ModuleInfo | None) -> bool:
    """Return whether a module is a weight norm directly around the layer with the weight."""
    return info is not None and "scales.kernel" in info.settings.get("weight_norm", ())


class LinenRecorder:
    """Notes every module that runs while it intercepts methods."""

    def __init__(self) -> None:
        self._records: dict[Key, _Record] = {}

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        """Note the module, then go on; the signature is that of a Linen interceptor."""
        module = context.module
        if module.scope is not None:
            self._note(tuple(module.path), module, args)
        return call(*args, **kwargs)

    def modules(self, names: Iterable[Key]) -> dict[Key, ModuleInfo]:
        """Describe what ran, given the keys of its variables without their collections."""
        return _describe(self._records, tuple(names))

    def _note(self, path: Key, module: nn.Module, args: Any) -> None:
        # Lifted transforms run a substitute of the module at the same path afterwards.
        if path in self._records:
            return
        fields = {f.name: getattr(module, f.name, None) for f in dataclasses.fields(module)}
        hidden = {name: value for name, value in fields.items() if name not in ("parent", "name")}
        scaling = _scaled_by_linen if isinstance(module, nn.WeightNorm) else None
        settings = {**_plain_values(hidden), **_derived(module), **_inputs(module, args)}
        self._records[path] = _Record(_types(module), settings, scaling)


def _describe(records: Mapping[Key, _Record], keys: tuple[Key, ...]) -> dict[Key, ModuleInfo]:
    own: dict[Key, list[str]] = {path: [] for path in records}
    scales: dict[Key, dict[str, Key]] = {}
    scaled: dict[Key, dict[str, Key]] = {}
    known = frozenset(keys)
    for key in keys:
        path = next((key[:i] for i in range(len(key) - 1, -1, -1) if key[:i] in records), None)
        if path is None:
            continue
        leaf = ".".join(key[len(path) :])
        own[path].append(leaf)
        scaling = records[path].scaling
        weight = next((k for k in scaling(path, leaf) if k in known), None) if scaling else None
        if weight is not None:
            scales.setdefault(path, {})[leaf] = weight
            scaled.setdefault(weight[:-1], {})[weight[-1]] = key
    return {
        path: ModuleInfo(
            types=info.types,
            settings={
                **info.settings,
                **({"weight_norm": scales[path]} if path in scales else {}),
                **({"scaled_by": scaled[path]} if path in scaled else {}),
            },
            parameters=tuple(own[path]),
        )
        for path, info in records.items()
    }


def _scaled_by_linen(path: Key, leaf: str) -> Iterable[Key]:
    """``fc/kernel/scale`` scales ``fc/kernel`` below the weight norm or, nearest first, above it."""
    *weight, last = leaf.split("/")
    if last == "scale" and len(weight) > 1:
        for depth in range(len(path), -1, -1):
            yield (*path[:depth], *weight)


def _scaled_by_nnx(path: Key, leaf: str) -> Iterable[Key]:
    """``scales.kernel`` scales ``layer_instance.kernel``."""
    head, _, weight = leaf.partition(".")
    if head == "scales":
        yield (*path, _WRAPPED, *weight.split("/"))


def _derived(module: Any) -> dict[str, Any]:
    """Return what follows from a module's options for its kernel, where no single option shows it.

    ``reordered`` of a dense layer: whether its kernel's axes are anything else than the input axes
    followed by the output axes.
    """
    if isinstance(module, nnx.SpectralNorm | nnx.WeightNorm):
        return {"wraps": _layout(module.layer_instance)}
    if isinstance(module, nn.Dense | nnx.Linear):
        return {"reordered": False}
    if isinstance(module, nn.DenseGeneral):
        return {"reordered": bool(module.batch_dims)}
    if isinstance(module, nnx.LinearGeneral):
        return {"reordered": bool(module.batch_axis)}
    if isinstance(module, nn.Einsum):
        return _of_equation(module.einsum_str, module.shape)
    if isinstance(module, nnx.Einsum):
        return _of_equation(module.einsum_str, module.kernel_shape)
    return {}


def _inputs(module: nn.Module, args: Any) -> dict[str, Any]:
    """Return the sizes of the axes that a general dense layer takes, which none of its options states."""
    shape = getattr(args[0], "shape", None) if args else None
    if not isinstance(module, nn.DenseGeneral) or shape is None:
        return {}
    axes = module.axis if isinstance(module.axis, Sequence) else (module.axis,)
    return {"in_features": tuple(shape[axis] for axis in axes)}


def _layout(layer: Any) -> str:
    """Return how a wrapped layer's kernel is laid out; a linear one is a convolution without taps."""
    if isinstance(layer, nnx.ConvTranspose):
        return "conv_transpose_kernel" if layer.transpose_kernel else "conv_transpose"
    return "conv" if isinstance(layer, nnx.Linear | nnx.Conv) else type(layer).__name__


def _of_equation(equation: str | None, shape: Sequence[int]) -> dict[str, Any]:
    """Return whether the axes of an equation's kernel are reordered, and its output sizes if not.

    In a kernel that is not reordered the contracted axes come first, in the input's order, then the last
    axes of the output. What is unknown before the call counts as reordered.
    """
    operands, _, result = (equation or "").replace(" ", "").partition("->")
    inputs, _, kernel = operands.partition(",")
    contracted = "".join(axis for axis in inputs if axis.isalpha() and axis not in result)
    produced = kernel.removeprefix(contracted)
    plain = contracted + produced == kernel and produced.isalpha() and result.endswith(produced)
    if not (plain and contracted and set(produced).isdisjoint(inputs) and len(shape) == len(kernel)):
        return {"reordered": True}
    return {"reordered": False, "features": tuple(shape[len(contracted) :])}


def _types(module: Any) -> tuple[str, ...]:
    return tuple(f"{base.__module__}.{base.__qualname__}" for base in type(module).__mro__[:-1])


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list | tuple) else value
        for name, value in values.items()
        if _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, bool | int | float | str)
