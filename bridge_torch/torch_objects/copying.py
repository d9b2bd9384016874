"""Copies of modules that have other weights, so that a run cannot change the user's module."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge_core import Key, UsageError, as_key
from bridge_core.messages import listed, nearest
from bridge_torch.torch_objects.tensors import entries_of

__all__ = ["copy_with_weights", "native_dtype"]


def copy_with_weights(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], *, double: bool
) -> torch.nn.Module:
    """Return a copy on the CPU that has the given weights; nothing of the module's own memory is in it.

    Args:
        model: The module, which is not changed. Its own weights are not read.
        weights: Name as in the state dict -> value; cast to the module's dtypes.
        double: Whether all floats of the copy become float64, also those that are not weights.

    Raises:
        UsageError: The weights are not those of this module, or a buffer that is not in the state dict has
            no value.
    """
    entries = {name: child for name, child in entries_of(model).items() if isinstance(child, torch.Tensor)}
    _check_names(entries, weights)
    replaced = {}
    names: dict[int, str] = {}
    for name, child in entries.items():
        if name not in weights:
            continue
        if id(child) not in replaced:
            replaced[id(child)] = _replacement(name, child, weights[name], double)
            names[id(child)] = name
        elif not _same(weights[names[id(child)]], weights[name]):
            raise UsageError(
                f"{names[id(child)]} and {name} are one tensor of the module, but their given values differ.",
                key=as_key(name),
                hint="Give both the same values.",
            )
    for name, buffer in model.named_buffers():
        if id(buffer) not in replaced and buffer.device.type == "meta":
            raise UsageError(
                "the buffer is on the meta device and not in the state dict, so it has no value.",
                key=as_key(name),
                hint="Build the model on the CPU, without torch.device('meta').",
            )
    with _OntoCpu(double):
        result = copy.deepcopy(model, dict(replaced))
    _load_indirect(result, weights, double)
    return result


def native_dtype(module: torch.nn.Module) -> torch.dtype:
    """Return the dtype of a module's float inputs: that of its first float weight, else torch's default."""
    for child in (*module.parameters(), *module.buffers()):
        if child.is_floating_point():
            return child.dtype
    return torch.get_default_dtype()


def _check_names(entries: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    given = {id(child) for name, child in entries.items() if name in weights}
    missing = [name for name, child in entries.items() if name not in weights and id(child) not in given]
    unknown = [name for name in weights if name not in entries]
    if missing:
        raise UsageError(
            f"the weights do not have {listed(missing)}, which the module has.",
            key=as_key(missing[0]),
            hint=nearest(missing[0], weights),
        )
    if unknown:
        raise UsageError(
            f"the module does not have {listed(unknown)}, which the weights have.",
            key=as_key(unknown[0]),
            hint=nearest(unknown[0], entries),
        )


def _replacement(name: str, child: torch.Tensor, value: torch.Tensor, double: bool) -> torch.Tensor:
    key: Key = as_key(name)
    if child.shape != value.shape:
        raise UsageError(
            f"expected a weight of shape {_shape(child.shape)}, got {_shape(value.shape)}.", key=key
        )
    if _family(child.dtype) != _family(value.dtype):
        raise UsageError(f"expected a weight of dtype {child.dtype}, got {value.dtype}.", key=key)
    tensor = value.detach().to(_dtype(child.dtype, double), copy=True)
    if isinstance(child, torch.nn.Parameter):
        return torch.nn.Parameter(tensor, requires_grad=child.requires_grad)
    return tensor


def _shape(shape: Sequence[int]) -> str:
    return str([*shape])


def _family(dtype: torch.dtype) -> str:
    if dtype.is_complex:
        return "complex"
    return "float" if dtype.is_floating_point else "bool" if dtype == torch.bool else "integer"


def _dtype(dtype: torch.dtype, double: bool) -> torch.dtype:
    if double and dtype.is_complex:
        return torch.complex128
    return torch.float64 if double and dtype.is_floating_point else dtype


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left is right:
        return True
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    bits = (left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8))
    return torch.equal(*bits)


class _OntoCpu(TorchFunctionMode):
    """While modules are copied: tensors go to the CPU, and results of other tensors may be copied, too."""

    def __init__(self, double: bool) -> None:
        super().__init__()
        self._double = double

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__ or (func is torch.Tensor.clone and args):
            tensor = args[0].detach()
            device = tensor.device if tensor.device.type == "meta" else "cpu"
            return tensor.to(device, _dtype(tensor.dtype, self._double), copy=True)
        return func(*args, **(kwargs or {}))


def _load_indirect(module: torch.nn.Module, weights: Mapping[str, torch.Tensor], double: bool) -> None:
    """Load what copying does not replace: weights of scripted modules, and names that hooks make."""
    if double:
        for child in module.modules():
            if isinstance(child, torch.jit.ScriptModule):
                child.double()
    if not _differing(module, weights):
        return
    state = {name: child for name, child in module.state_dict().items()}
    module.load_state_dict({**state, **weights}, strict=False)
    if differing := _differing(module, weights):
        raise UsageError(
            f"the module does not take {listed(differing)} through load_state_dict.", key=as_key(differing[0])
        )


def _differing(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> list[str]:
    state = module.state_dict()
    return [
        name
        for name, value in weights.items()
        if name not in state
        or state[name].shape != value.shape
        or not _same(state[name], value.to(state[name].dtype))
    ]
