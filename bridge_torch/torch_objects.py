"""Live objects of torch: the one file that imports it.

Reading gives numpy views of the tensors' own memory, and tells what the modules are. Writing gives
tensors in memory of their own. Floats that numpy lacks cross as integers of the same width.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from bridge_core import (
    ArrayTensor,
    FlatState,
    Key,
    StateMetadata,
    Tensor,
    TensorSpec,
    UnsupportedFeature,
    UsageError,
    as_key,
)
from bridge_core.state import Array, LazyTensor, ModuleInfo, Region, dtype_named, flat_names
from bridge_core.transfer import LoadedTensor, load_values

__all__ = ["build_state_dict", "read_state"]

_PLAIN = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_AS_INTEGERS = {
    "bfloat16": torch.int16,
    "float8_e4m3fn": torch.uint8,
    "float8_e4m3fnuz": torch.uint8,
    "float8_e5m2": torch.uint8,
    "float8_e5m2fnuz": torch.uint8,
    "float8_e8m0fnu": torch.uint8,
}
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, name) for name in (*_PLAIN, *_AS_INTEGERS) if hasattr(torch, name)
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_PARAMETRIZATIONS = "parametrizations"
_EXTRA_STATE = "_extra_state"
_DERIVED = ("training", "weight_norm", "spectral_norm")
"""Names that are no options of a module: a flag, and what is worked out here."""


def read_state(value: Any) -> FlatState:
    """Return the tensors of a module or a state dict, with its ties and, of a module, its types.

    Raises:
        UnsupportedFeature: Some tensors cannot be carried; all of them are named.
        UsageError: The value is neither, or holds something that is no tensor.
    """
    entries = _entries(value)
    ignored = [name for name, child in entries.items() if _is_foreign_extra(name, child)]
    found = {as_key(n): child for n, child in entries.items() if not _is_foreign_extra(n, child)}
    _check(found)
    tensors: dict[Key, Tensor] = {}
    ties: dict[Key, Key] = {}
    first: dict[tuple[Any, ...], Key] = {}
    for key, child in found.items():
        owner = first.setdefault(_memory(child), key)
        if owner != key:
            ties[key] = owner
        tensors[key] = tensors[owner] if owner != key else _wrap(key, child)
    provenance = {"source": f"a live {_qualified(type(value))}"}
    if ignored:
        provenance["ignored"] = ", ".join(ignored)
    modules = _modules(value, tensors) if isinstance(value, torch.nn.Module) else {}
    metadata = StateMetadata(modules=modules, ties=ties, provenance=provenance)
    return FlatState(tensors, layout="torch", metadata=metadata)


def build_state_dict(state: FlatState, like: Any) -> OrderedDict[str, torch.Tensor]:
    """Return new CPU tensors under the state's names; tied keys get one tensor.

    Args:
        state: A state in torch's layout.
        like: Module or state dict that gives the order; None for the state's own.

    Raises:
        KeyConflict: Two keys join to one name.
        UnsupportedFeature: torch lacks some dtypes; all the tensors are named.
        UsageError: ``like`` is neither.
    """
    template = None if like is None else _entries(like)
    flat_names(state)  # raises for two keys that join to one name
    keys = {".".join(key): key for key in state}
    problems = {
        key: f"torch has no dtype {spec.dtype.name}"
        for key, spec in state.specs().items()
        if spec.dtype.name not in _DTYPES
    }
    _refuse(problems, "Cast these tensors first.")
    order = dict.fromkeys([*(name for name in template or () if name in keys), *keys])
    loaded = load_values(state, shared=True)
    built: dict[int, torch.Tensor] = {}
    result: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name in order:
        tensor = loaded.tensor(keys[name])
        if id(tensor) not in built:
            built[id(tensor)] = _to_torch(tensor)
        result[name] = built[id(tensor)]
    versions = getattr(template, "_metadata", None)
    if versions is not None:
        result._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
    return result


def _entries(value: Any) -> Mapping[str, Any]:
    """Return what a state dict of the value holds: its own tensors, gradients and all."""
    if isinstance(value, torch.nn.Module):
        entries: Mapping[str, Any] = value.state_dict(keep_vars=True)
        return entries
    if isinstance(value, Mapping):
        for name, child in value.items():
            if not isinstance(name, str):
                raise UsageError(f"a state dict has names that are strings; found {name!r}.")
            if not isinstance(child, torch.Tensor) and not _is_foreign_extra(name, child):
                raise UsageError(
                    f"a state dict holds tensors; found {_qualified(type(child))}.",
                    key=name,
                    hint="Pass the inner state dict, e.g. checkpoint['state_dict'].",
                )
        return value
    raise UsageError(f"expected a torch.nn.Module or a state dict; found {_qualified(type(value))}.")


def _is_foreign_extra(name: str, child: Any) -> bool:
    return name.rpartition(".")[2] == _EXTRA_STATE and not isinstance(child, torch.Tensor)


def _check(found: Mapping[Key, Any]) -> None:
    problems: dict[Key, str] = {}
    for key, child in found.items():
        problem = _problem(child)
        if problem:
            problems[key] = problem
    _refuse(problems, "Turn these into plain dense tensors first.")


def _problem(child: Any) -> str | None:
    if not isinstance(child, torch.Tensor):
        return f"is a {_qualified(type(child))}, not a tensor"
    if is_lazy(child):
        return "is not initialised yet: run the module once"
    if type(child).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"is a {_qualified(type(child))}, not a plain tensor"
    if child.is_quantized:
        return "is quantised"
    if child.layout is not torch.strided:
        return f"has the layout {child.layout}, not torch.strided"
    if child.dtype not in _NAMES:
        return f"has the dtype {child.dtype}, which is not supported"
    return None


def _refuse(problems: Mapping[Key, str], hint: str) -> None:
    if len(problems) == 1:
        ((key, problem),) = problems.items()
        raise UnsupportedFeature(f"{problem}.", key=key, hint=hint)
    if problems:
        listed = "; ".join(f"{'.'.join(key)!r}: {problem}" for key, problem in problems.items())
        raise UnsupportedFeature(f"{len(problems)} tensors cannot be carried: {listed}.", hint=hint)


def _memory(child: torch.Tensor) -> tuple[Any, ...]:
    """Return what is equal for tensors that are the same elements of the same memory.

    Addresses tell, also where two storages stand on one array; tensors without bytes have no address,
    and only their storages can be compared.
    """
    placed = child.numel() > 0 and child.device.type != "meta"
    where = child.data_ptr() if placed else (id(child.untyped_storage()), child.storage_offset())
    return (
        where,
        child.device,
        child.dtype,
        child.shape,
        child.stride(),
        child.is_conj(),
        child.is_neg(),
    )


def _wrap(key: Key, child: torch.Tensor) -> Tensor:
    tensor = child.detach()
    spec = TensorSpec(tuple(tensor.shape), dtype_named(_NAMES[tensor.dtype]))
    if tensor.device.type == "meta":
        return LazyTensor(spec, _without_values(key))
    if tensor.device.type != "cpu" or tensor.is_conj() or tensor.is_neg():
        return LazyTensor(spec, lambda region: _to_numpy(tensor[region]))
    return ArrayTensor(_to_numpy(tensor))


def _without_values(key: Key) -> Callable[[Region], NoReturn]:
    def read(region: Region) -> NoReturn:
        raise UsageError(
            "is on the meta device and has no values.",
            key=key,
            hint="Such a module serves as a template; load its weights before converting them.",
        )

    return read


def _to_numpy(tensor: torch.Tensor) -> Array:
    """Return a read-only array, on the tensor's own memory where that is possible."""
    name = _NAMES[tensor.dtype]
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    array: Array
    if name in _AS_INTEGERS:
        array = tensor.view(_AS_INTEGERS[name]).numpy().view(dtype_named(name))
    else:
        array = tensor.numpy()
    array.flags.writeable = False
    return array


def _to_torch(tensor: Tensor) -> torch.Tensor:
    """Return a tensor on the array's own memory."""
    if not isinstance(tensor, LoadedTensor):
        raise AssertionError(f"{tensor!r} was not loaded")
    array, name = tensor.array, tensor.spec.dtype.name
    if name not in _AS_INTEGERS:
        return torch.from_numpy(array)
    integers = {1: np.uint8, 2: np.int16}[array.dtype.itemsize]
    return torch.from_numpy(array.view(integers)).view(_DTYPES[name])


def _modules(root: torch.nn.Module, keys: Iterable[Key]) -> dict[Key, ModuleInfo]:
    """Return what is known of every module; those inside a parametrized layer belong to it."""
    found: dict[Key, torch.nn.Module] = {}
    for name, module in root.named_modules(remove_duplicate=False):
        path = as_key(name) if name else ()
        if _layer_path(path, found) == path:
            found[path] = module
    leaves: dict[Key, list[str]] = {path: [] for path in found}
    for key in keys:
        path = _layer_path(key[:-1], found)
        if path in leaves:
            leaves[path].append(".".join(key[len(path) :]))
    return {
        path: ModuleInfo(_types(module), _settings(module), tuple(leaves[path]))
        for path, module in found.items()
    }


def _layer_path(path: Key, found: Mapping[Key, torch.nn.Module]) -> Key:
    """Cut a path that leads into the parametrizations of a layer back to the layer."""
    for at, part in enumerate(path):
        if part == _PARAMETRIZATIONS and path[:at] in found and is_parametrized(found[path[:at]]):
            return path[:at]
    return path


def _types(module: torch.nn.Module) -> tuple[str, ...]:
    skipped = (object, torch.nn.Module)
    return tuple(_qualified(cls) for cls in type(module).__mro__ if cls not in skipped)


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _settings(module: torch.nn.Module) -> dict[str, Any]:
    settings = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _DERIVED and _is_plain(value)
    }
    if "bias" in module._parameters:
        settings["bias"] = module._parameters["bias"] is not None
    return {**settings, **_weight_norm(module), **_spectral_norm(module)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _weight_norm(module: torch.nn.Module) -> dict[str, int | None]:
    """Return along which axis the weight is normalised: None if no one axis, nothing if it is plain.

    torch's own classes are told by name, since one is private and one deprecated.
    """
    if is_parametrized(module, "weight"):
        chain: Any = module.parametrizations["weight"]  # type: ignore[index]
        if len(chain) == 1 and _qualified(type(chain[0])).endswith(".parametrizations._WeightNorm"):
            return {"weight_norm": _axis(chain[0].dim, chain.original1.ndim)}
        return {"weight_norm": None}  # whatever the tensors' names look like
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    for hook in hooks:
        if _qualified(type(hook)) == "torch.nn.utils.weight_norm.WeightNorm" and hook.name == "weight":
            return {"weight_norm": _axis(hook.dim, module.get_parameter("weight_v").ndim)}
    return {}


def _spectral_norm(module: torch.nn.Module) -> dict[str, int | None]:
    """Return which axis of the weight counts the outputs; None or nothing if no spectral norm is on it."""
    if is_parametrized(module, "weight"):
        chain: Any = module.parametrizations["weight"]  # type: ignore[index]
        if len(chain) == 1 and _qualified(type(chain[0])).endswith(".parametrizations._SpectralNorm"):
            return {"spectral_norm": chain[0].dim}
        return {"spectral_norm": None}
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    for hook in hooks:
        if _qualified(type(hook)) == "torch.nn.utils.spectral_norm.SpectralNorm" and hook.name == "weight":
            return {"spectral_norm": hook.dim % module.get_parameter("weight_orig").ndim}
    return {}


def _axis(dim: int, rank: int) -> int | None:
    if dim == -1:  # how torch writes "all axes"
        return None
    return dim % rank
