"""The tensors of live objects of torch, read and made.

Reading returns numpy views of the tensors' memory, and the types of the modules. Writing returns tensors in
new memory. Floats that numpy does not have are exchanged as integers of the same width.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

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
from bridge_core.messages import count, listed
from bridge_core.state import LazyTensor, ModuleInfo, Region, dtype_named, flat_names
from bridge_core.transfer import load_values
from bridge_torch.torch_objects.arrays import DTYPES, NAMES, to_numpy, to_torch

__all__ = [
    "build_state_dict",
    "entries_of",
    "is_foreign_extra",
    "layers_of",
    "memory_key",
    "read_state",
    "require_dtypes",
    "ties_of",
    "type_of",
]

_PARAMETRIZATIONS = "parametrizations"
_EXTRA_STATE = "_extra_state"
_DERIVED = ("training", "weight_norm", "spectral_norm")
"""Attributes that are not settings of a module: a flag, and names that this file computes itself."""


def read_state(value: Any, seen_as: Callable[[Any], Any] = lambda child: child) -> FlatState:
    """Return the tensors of a module or a state dict, with its ties and, of a module, its types.

    Args:
        value: The module or state dict.
        seen_as: Returns the tensor that is read in place of each value.

    Raises:
        UnsupportedFeature: Some tensors cannot be converted.
        UsageError: The value is neither, or has a value that is not a tensor.
    """
    entries = entries_of(value)
    ignored = [name for name, child in entries.items() if is_foreign_extra(name, child)]
    children = {as_key(n): seen_as(child) for n, child in entries.items() if not is_foreign_extra(n, child)}
    problems = {key: problem for key, child in children.items() if (problem := _problem(child))}
    _refuse(problems, "expected a dense tensor of a supported dtype")
    ties = _ties(children)
    tensors: dict[Key, Tensor] = {}
    for key, child in children.items():
        tensors[key] = tensors[ties[key]] if key in ties else _wrap(key, child)
    provenance = {"source": f"a live {_qualified(type(value))}"}
    if ignored:
        provenance["ignored"] = ", ".join(ignored)
    modules = _modules(value, tensors) if isinstance(value, torch.nn.Module) else {}
    metadata = StateMetadata(modules=modules, ties=ties, provenance=provenance)
    return FlatState(tensors, layout="torch", metadata=metadata)


def ties_of(module: torch.nn.Module) -> dict[Key, Key]:
    """Return the keys of a module's tensors that are the same memory as an earlier one: key -> that one."""
    children = {as_key(name): child for name, child in entries_of(module).items()}
    return _ties({key: child for key, child in children.items() if _problem(child) is None})


def _ties(children: Mapping[Key, torch.Tensor]) -> dict[Key, Key]:
    ties: dict[Key, Key] = {}
    first: dict[tuple[Any, ...], Key] = {}
    for key, child in children.items():
        owner = first.setdefault(memory_key(child), key)
        if owner != key:
            ties[key] = owner
    return ties


def build_state_dict(state: FlatState, like: Any) -> OrderedDict[str, torch.Tensor]:
    """Return new CPU tensors under the state's names; tied keys share one tensor.

    Args:
        state: A state in torch's layout.
        like: Module or state dict whose order of names the result has; None for the state's own.

    Raises:
        KeyConflict: Two keys join to one name.
        UnsupportedFeature: torch does not have the dtypes of some tensors.
        UsageError: ``like`` is neither a module nor a state dict.
    """
    template = None if like is None else entries_of(like)
    flat_names(state)  # raises for two keys that join to one name
    keys = {".".join(key): key for key in state}
    require_dtypes(state)
    order = dict.fromkeys([*(name for name in template or () if name in keys), *keys])
    loaded = load_values(state, shared=True)
    built: dict[int, torch.Tensor] = {}
    result: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name in order:
        tensor = loaded.tensor(keys[name])
        if id(tensor) not in built:
            built[id(tensor)] = to_torch(tensor)
        result[name] = built[id(tensor)]
    versions = getattr(template, "_metadata", None)
    if versions is not None:
        result._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
    return result


def entries_of(value: Any) -> Mapping[str, Any]:
    """Return the names and values of a state dict; of a module, its own tensors, with their gradients."""
    if isinstance(value, torch.nn.Module):
        entries: Mapping[str, Any] = value.state_dict(keep_vars=True)
        return entries
    if isinstance(value, Mapping):
        for name, child in value.items():
            if not isinstance(name, str):
                raise UsageError(
                    f"expected strings as the keys of a state dict, got {name!r} ({_type_name(name)}).",
                    hint="Pass model.state_dict().",
                )
            if not isinstance(child, torch.Tensor) and not is_foreign_extra(name, child):
                inner = f"checkpoint[{name if isinstance(child, Mapping) else 'state_dict'!r}]"
                raise UsageError(
                    f"expected a torch.Tensor as the value in a state dict, got {_type_name(child)}.",
                    key=name,
                    hint=f"Pass only the state dict: model.state_dict(), or of a checkpoint {inner}.",
                )
        return value
    raise UsageError(
        f"expected a torch.nn.Module or a state dict, got {_type_name(value)}.",
        hint="Pass the module, or model.state_dict().",
    )


def is_foreign_extra(name: str, child: Any) -> bool:
    """Return whether a value of a state dict is a module's extra state, and not a tensor."""
    return name.rpartition(".")[2] == _EXTRA_STATE and not isinstance(child, torch.Tensor)


def _problem(child: Any) -> tuple[str, str] | None:
    """Return what a tensor is that cannot be converted, and what to do about it; None for all others."""
    if not isinstance(child, torch.Tensor):
        return _type_name(child), "Leave it out, or replace it by a tensor."
    if is_lazy(child):
        return "an uninitialised parameter", "Run the module once on an example input."
    if type(child).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return (
            f"{_type_name(child)}, a subclass of torch.Tensor",
            "Convert it to a plain tensor, as tensor.full_tensor() or tensor.dequantize() does.",
        )
    if child.is_quantized:
        return "a quantised tensor", "Pass tensor.dequantize() in its place."
    if child.layout is not torch.strided:
        return f"the layout {child.layout}", "Pass tensor.to_dense() in its place."
    if child.dtype not in NAMES:
        supported = torch.complex64 if child.is_complex() else torch.float32
        return f"{child.dtype}", f"Pass tensor.to({supported}) in its place."
    return None


def _refuse(problems: Mapping[Key, tuple[str, str]], expected: str) -> None:
    """Raise the error for tensors that cannot be converted, if there are any.

    Args:
        problems: Key -> what it is in place of what was expected, and what to do.
        expected: What was expected, as the beginning of a sentence.
    """
    if not problems:
        return
    hint = " ".join([*dict.fromkeys(way for _, way in problems.values())][:2])
    if len(problems) == 1:
        ((key, (got, _)),) = problems.items()
        raise UnsupportedFeature(f"{expected}, got {got}.", key=key, hint=hint)
    names: dict[str, list[str]] = {}
    for key, (got, _) in problems.items():
        names.setdefault(got, []).append(".".join(key))
    texts = [f"{got} ({listed(keys)})" for got, keys in names.items()]
    raise UnsupportedFeature(
        f"{count(len(problems), 'tensor')} cannot be converted: {expected}, got {'; '.join(texts[:8])}"
        f"{f' and {len(texts) - 8} more' if len(texts) > 8 else ''}.",
        hint=hint,
    )


def memory_key(child: torch.Tensor) -> tuple[Any, ...]:
    """Return a value that is equal for tensors that are the same elements of the same memory.

    Addresses are compared, since two storages may share one array. A tensor without bytes has no address, so
    its storage is compared.
    """
    has_address = child.numel() > 0 and child.device.type != "meta"
    where = child.data_ptr() if has_address else (id(child.untyped_storage()), child.storage_offset())
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
    spec = TensorSpec(tuple(tensor.shape), dtype_named(NAMES[tensor.dtype]))
    if tensor.device.type == "meta":
        return LazyTensor(spec, _without_values(key))
    if tensor.device.type != "cpu" or tensor.is_conj() or tensor.is_neg():
        return LazyTensor(spec, lambda region: to_numpy(tensor[region]))
    return ArrayTensor(to_numpy(tensor))


def _without_values(key: Key) -> Callable[[Region], NoReturn]:
    def read(region: Region) -> NoReturn:
        raise UsageError(
            "the tensor is on the meta device and has no values.",
            key=key,
            hint="Load the weights into the module first. Without values, pass it only as a template or a "
            "model: like= (--like), model= (--model).",
        )

    return read


def require_dtypes(state: FlatState) -> None:
    """Refuse dtypes that torch does not have.

    Raises:
        UnsupportedFeature: There are some.
    """
    problems = {
        key: (spec.dtype.name, "Cast it before this call, for example to float32 or int8.")
        for key, spec in state.specs().items()
        if spec.dtype.name not in DTYPES
    }
    _refuse(problems, f"expected a dtype that torch {torch.__version__} has")


def _modules(root: torch.nn.Module, keys: Iterable[Key]) -> dict[Key, ModuleInfo]:
    """Return type, settings and leaves of each module; modules inside a parametrized layer belong to it."""
    modules = layers_of(root)
    leaves: dict[Key, list[str]] = {path: [] for path in modules}
    for key in keys:
        path = _layer_path(key[:-1], modules)
        if path in leaves:
            leaves[path].append(".".join(key[len(path) :]))
    return {
        path: ModuleInfo(_types(module), _settings(module), tuple(leaves[path]))
        for path, module in modules.items()
    }


def layers_of(root: torch.nn.Module) -> dict[Key, torch.nn.Module]:
    """Return all modules by path, shared ones under each of their paths; parametrizations are left out."""
    modules: dict[Key, torch.nn.Module] = {}
    for name, module in root.named_modules(remove_duplicate=False):
        path = as_key(name) if name else ()
        if _layer_path(path, modules) == path:
            modules[path] = module
    return modules


def type_of(module: torch.nn.Module) -> str:
    """Return the qualified name of a module's class.

    Of a parametrized one it is that of the layer's class, of a lazy one that of the class it becomes.
    """
    cls = type(module)
    if is_parametrized(module):
        cls = cls.__mro__[1]
    return _qualified(getattr(cls, "cls_to_become", None) or cls)


def _layer_path(path: Key, modules: Mapping[Key, torch.nn.Module]) -> Key:
    """Return the path of the layer for a path into its parametrizations; any other path unchanged."""
    for at, part in enumerate(path):
        if part == _PARAMETRIZATIONS and path[:at] in modules and is_parametrized(modules[path[:at]]):
            return path[:at]
    return path


def _types(module: torch.nn.Module) -> tuple[str, ...]:
    skipped = (object, torch.nn.Module)
    return tuple(_qualified(cls) for cls in type(module).__mro__ if cls not in skipped)


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _type_name(value: Any) -> str:
    return _qualified(type(value)).removeprefix("builtins.")


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
    """Return the axis along which the weight is normalised: None for all axes, no item without a weight norm.

    torch's classes are compared by name, since one is private and one deprecated.
    """
    if is_parametrized(module, "weight"):
        chain: Any = module.parametrizations["weight"]  # type: ignore[index]
        if len(chain) == 1 and _qualified(type(chain[0])).endswith(".parametrizations._WeightNorm"):
            return {"weight_norm": _axis(chain[0].dim, chain.original1.ndim)}
        return {"weight_norm": None}  # the parametrization is another, although its tensors have such names
    hooks: list[Any] = list(module._forward_pre_hooks.values())
    for hook in hooks:
        if _qualified(type(hook)) == "torch.nn.utils.weight_norm.WeightNorm" and hook.name == "weight":
            return {"weight_norm": _axis(hook.dim, module.get_parameter("weight_v").ndim)}
    return {}


def _spectral_norm(module: torch.nn.Module) -> dict[str, int | None]:
    """Return the axis of the outputs in a weight with spectral norm; None for other parametrizations."""
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
    if dim == -1:  # means all axes
        return None
    return dim % rank
