"""What is refused of a module or a state dict before values are loaded into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from bridge_core import UnsupportedFeature, UsageError, as_key
from bridge_core.messages import count, listed
from bridge_core.rules import Permissions

__all__ = ["device_of", "holds", "require_other_buffers", "require_own", "require_separate", "require_values"]


def device_of(device: Any) -> torch.device:
    """Return the device that a caller names.

    Raises:
        UsageError: This torch does not have it, or it is the meta device.
    """
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as err:
        text = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise UsageError(
            f"cannot use device={device!r}: {text}.".replace("..", "."),
            hint='Pass a device that this torch has, such as device="cpu".',
        ) from err
    if chosen.type == "meta":
        raise UsageError(
            "cannot load values onto the meta device, which has none.",
            hint='Pass device="cpu", or leave device= out.',
        )
    return chosen


def require_own(module: torch.nn.Module, entries: Mapping[str, Any]) -> None:
    """Refuse a module whose state dict has tensors that are not its parameters and buffers.

    Raises:
        UnsupportedFeature: It has some, as hooks of wrappers make them.
    """
    own = {id(child) for child in (*module.parameters(), *module.buffers())}
    others = [name for name, child in entries.items() if id(child) not in own]
    if others:
        raise UnsupportedFeature(
            f"expected a module whose state dict holds its own parameters and buffers, got "
            f"{count(len(others), 'tensor')} that its hooks made: {listed(others)}.",
            hint="Pass its state dict, like=module.state_dict(), and give the module the result with "
            "module.load_state_dict.",
        )


def require_other_buffers(
    module: torch.nn.Module, entries: Mapping[str, Any], permissions: Permissions
) -> None:
    """Refuse buffers on the meta device that are not in the state dict: nothing gives them values.

    Raises:
        UsageError: There are some that the permissions do not name.
    """
    saved = {id(child) for child in entries.values()}
    names = [
        name
        for name, buffer in module.named_buffers()
        if buffer.device.type == "meta" and id(buffer) not in saved and not permissions.may_miss(as_key(name))
    ]
    if names:
        raise UsageError(
            f"{count(len(names), 'buffer')} of the module, on the meta device, cannot get values from a "
            f"checkpoint, since state dicts do not hold non-persistent buffers: {listed(names)}.",
            key=names[0] if len(names) == 1 else None,
            hint="Give them values before this call, or make the module with its buffers on the CPU. To make "
            f"them later, pass allow_missing=[{names[0]!r}].",
        )


def require_values(children: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors on the meta device that a new state dict would have to take from its template.

    Raises:
        UsageError: There is one.
    """
    for name, child in children.items():
        if child.device.type == "meta":
            raise UsageError(
                "the checkpoint has no values for the tensor, and neither has like=, where it is on the meta "
                "device.",
                key=name,
                hint="Leave the tensor out of like=, or pass it there with values.",
            )


def require_separate(tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that share some of their memory: what is read for one would overwrite another.

    Args:
        tensors: The tensors to fill, by name; of those that are tied, one.

    Raises:
        UnsupportedFeature: Two share an element.
    """
    ranges: dict[torch.device, list[tuple[int, int, str]]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            ranges.setdefault(tensor.device, []).append((*_addresses(tensor), name))
    for on_device in ranges.values():
        on_device.sort()
        for number, (_, stop, name) in enumerate(on_device):
            for start, _, other in on_device[number + 1 :]:
                if start >= stop:
                    break
                if _share_elements(tensors[name], tensors[other]):
                    raise UnsupportedFeature(
                        f"{name} and {other} of the module share some of their memory, and are not one "
                        "tensor: one would overwrite the other.",
                        key=name,
                        hint="Pass like=module.state_dict(), which gives a new tensor for each, or give the "
                        "module a copy of one: torch.nn.Parameter(tensor.clone()).",
                    )


def _addresses(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the addresses of the first byte of a tensor, and after its last one."""
    strides = zip(tensor.shape, tensor.stride(), strict=True)
    length = 1 + sum((size - 1) * stride for size, stride in strides)
    return tensor.data_ptr(), tensor.data_ptr() + length * tensor.element_size()


def _share_elements(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Return whether two tensors have an element in common; of sizes or places that do not fit, True."""
    size = first.element_size()
    begin = min(first.data_ptr(), second.data_ptr())
    end = max(_addresses(first)[1], _addresses(second)[1])
    offsets = [tensor.data_ptr() - begin for tensor in (first, second)]
    if second.element_size() != size or any(offset % size for offset in offsets):
        return True
    used = torch.zeros((end - begin) // size, dtype=torch.bool)
    views = [
        used.as_strided(tensor.shape, tensor.stride(), offset // size)
        for tensor, offset in zip((first, second), offsets, strict=True)
    ]
    views[0].fill_(True)
    return bool(views[1].any())


def holds(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Return whether a dtype has every value of another one, of the same sort of number."""
    if dtype == other:
        return True
    if dtype.is_floating_point != other.is_floating_point or dtype.is_complex != other.is_complex:
        return False
    if torch.bool in (dtype, other):
        return False
    try:
        return torch.promote_types(dtype, other) == dtype
    except RuntimeError:  # torch promotes no float8
        return dtype in (torch.float32, torch.float64)
