"""Fills modules and state dicts with lazy tensors: what a process holds is read once, into its place.

Everything that can be refused is refused before a value is read.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bridge_core import FlatState, Key, Tensor, UnsupportedFeature, UsageError, as_key
from bridge_core.rules import Permissions
from bridge_core.state import Array
from bridge_core.transfer import boxed, load_values, parse_size
from bridge_torch.torch_objects.arrays import DTYPES, memory_of, to_torch
from bridge_torch.torch_objects.load_checks import (
    device_of,
    holds,
    require_other_buffers,
    require_own,
    require_separate,
    require_values,
)
from bridge_torch.torch_objects.shards import (
    Together,
    as_distributed,
    exchanged,
    is_distributed,
    local_region,
    local_tensor,
    placements_to_read,
    require_all,
    share_nbytes,
)
from bridge_torch.torch_objects.tensors import (
    entries_of,
    is_foreign_extra,
    memory_key,
    read_state,
    require_dtypes,
)

__all__ = ["fill", "loading_together", "read_template"]

_GROUP = 128 << 20
"""Bytes of tensors that are in memory at once where values cannot be read into their place."""


@dataclass(frozen=True, eq=False, slots=True)
class _Place:
    """Where the values of one tensor go.

    Args:
        key: The key of the tensor.
        names: All names of it, more than one if it is tied.
        child: The tensor of the template.
        tensor: The values that this process holds, lazily.
        device: Where they go.
        is_of_module: Whether the tensor is a module's, and not one of a state dict.
        placements: Of a distributed tensor: how it is read, before values are exchanged; None if each process
            reads what it holds.
    """

    key: Key
    names: tuple[str, ...]
    child: Any
    tensor: Tensor
    device: torch.device
    is_of_module: bool
    placements: tuple[Any, ...] | None = None

    @property
    def in_place(self) -> bool:
        """Whether the values go into the tensor that exists."""
        return self.is_of_module and self.child.device.type != "meta"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the values."""
        return DTYPES[self.tensor.spec.dtype.name]


def read_template(like: Any) -> FlatState:
    """Return the specs of a module or a state dict, of distributed tensors the complete ones, and its ties.

    Raises:
        UnsupportedFeature: Some tensors are of a kind that cannot be converted.
        UsageError: It is neither, or has a value that is not a tensor.
    """
    known: dict[tuple[Any, ...], torch.Tensor] = {}

    def specs_only(child: Any) -> Any:
        if not is_distributed(child):
            return child
        memory = (*memory_key(local_tensor(child)), tuple(child.shape), tuple(child.placements))
        if memory not in known:
            known[memory] = torch.empty(child.shape, dtype=child.dtype, device="meta")
        return known[memory]

    return read_state(like, specs_only)


def loading_together(like: Any) -> Together:
    """Return the processes that load the distributed tensors of a module or a state dict."""
    return Together(entries_of(like).values())


def fill(
    state: FlatState,
    like: Any,
    template: FlatState,
    together: Together,
    *,
    unfilled: Iterable[Key] = (),
    permissions: Permissions | None = None,
    device: Any = None,
    workers: int | None = None,
    max_ram: int | str | None = None,
    may_share: bool = False,
) -> Any:
    """Return a module with the values of a state, or a new state dict.

    Args:
        state: Lazy tensors under the keys of ``like``.
        like: The module, which is changed, or a state dict, which is not.
        template: What `read_template` returned for it.
        together: The processes that load, which are told when all has been checked.
        unfilled: Keys of ``like`` that the state has no values for, by permission.
        permissions: What may stay unfilled; None for nothing.
        device: As for `bridge_torch.load`.
        workers: Threads; None for the default.
        max_ram: Most bytes of buffers, or a text such as ``"512MB"``; None for the default.
        may_share: Whether the state may be on the memory of ``like``; then all is read before any is written.

    Raises:
        UnsupportedFeature: A tensor of the module, or a dtype, cannot be filled.
        UsageError: A device cannot be used, or a tensor has no value and none is read for it.
    """
    chosen = None if device is None else device_of(device)
    entries = {name: child for name, child in entries_of(like).items() if not is_foreign_extra(name, child)}
    skipped = frozenset(unfilled)
    is_module = isinstance(like, torch.nn.Module)
    if is_module:
        require_own(like, entries)
        require_other_buffers(like, entries, permissions or Permissions())
    else:
        require_values({name: entries[name] for name in entries if as_key(name) in skipped})
    require_dtypes(state)
    places = list(_places(state, entries, template.metadata.ties, skipped, chosen, is_module=is_module))
    _require_fit(places)
    together.planned()
    values = _filled(places, workers, max_ram, may_share=may_share)
    result: OrderedDict[str, Any] = OrderedDict()
    for name, child in entries.items():
        if name in values:
            result[name] = values[name]
        elif not is_module:
            result[name] = child.detach().clone()
    versions = getattr(entries_of(like), "_metadata", None)
    if versions is not None:
        result._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
    if not is_module:
        return result
    # The module takes its own tensors and the new ones, so that its hooks run, as those of fully_shard.
    # torch sets requires_grad again, which parameters made in inference mode refuse outside of it.
    with torch.inference_mode(any(child.is_inference() for child in result.values())):
        like.load_state_dict(result, strict=False, assign=True)
    return like


def _places(
    state: FlatState,
    entries: Mapping[str, Any],
    ties: Mapping[Key, Key],
    skipped: frozenset[Key],
    device: torch.device | None,
    *,
    is_module: bool,
) -> Iterator[_Place]:
    """Yield where the values of each tensor go; tied names are one place."""
    tied: dict[Key, list[str]] = {}
    for name in entries:
        key = as_key(name)
        if key in state and key not in skipped:
            tied.setdefault(ties.get(key, key), []).append(name)
    for names in tied.values():
        key = as_key(names[0])
        child, tensor = entries[names[0]], state.tensor(key)
        is_meta, distributed = child.device.type == "meta", is_distributed(child)
        placements = None
        if distributed:
            if local_region(key, child) is None:
                continue
            placements = placements_to_read(child, tensor)
            tensor = boxed(tensor, local_region(key, child, placements) or ())
        if not is_meta:
            usual = child.device
        elif distributed:
            usual = torch.device(child.device_mesh.device_type)
        else:
            usual = torch.device("cpu")
        if is_module and not is_meta and device is not None and not _is_at(child.device, device):
            raise UsageError(
                f"the tensor is on the device {child.device}, and a module is filled where it is.",
                key=names[0],
                hint="Leave device= out, or move the module first: module.to(device).",
            )
        if distributed and device is not None and device.type != usual.type:
            raise UsageError(
                f"the tensor is distributed over devices of the type {usual.type}, got "
                f"device={str(device)!r}.",
                key=names[0],
                hint="Leave device= out.",
            )
        target = usual if device is None or (is_module and not is_meta) else device
        yield _Place(key, tuple(names), child, tensor, target, is_module, placements)


def _is_at(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (other.index is None or one.index == other.index)


def _require_fit(places: Sequence[_Place]) -> None:
    """Refuse values that the existing tensors of a module cannot hold."""
    require_separate({p.names[0]: p.child for p in places if p.in_place and not is_distributed(p.child)})
    for place in places:
        strides = (
            () if is_distributed(place.child) else zip(place.child.shape, place.child.stride(), strict=True)
        )
        if place.in_place and any(n > 1 and stride == 0 for n, stride in strides):
            raise UnsupportedFeature(
                "the tensor of the module is expanded: several elements are one in memory.",
                key=place.names[0],
                hint="Replace it by tensor.contiguous() first.",
            )
        if place.in_place and not holds(place.child.dtype, place.dtype):
            dtype_name = str(place.child.dtype).removeprefix("torch.")
            hint = "Give the module another dtype first: module.to(dtype)."
            if place.child.is_floating_point():
                hint = f'Pass dtype="{dtype_name}" to round them, or give the module another dtype first.'
            raise UsageError(
                f"the tensor is {dtype_name} in the module, which cannot hold the values of the checkpoint, "
                f"{place.tensor.spec.dtype.name}.",
                key=place.names[0],
                hint=hint,
            )


def _filled(
    places: Iterable[_Place], workers: int | None, max_ram: int | str | None, *, may_share: bool
) -> dict[str, torch.Tensor]:
    """Read all values, and return the tensor of each name."""
    load = functools.partial(load_values, workers=workers, max_ram=max_ram)
    limit = _GROUP if max_ram is None else parse_size(max_ram) // 2
    own = [place for place in places if place.placements is None]
    shared = [place for place in places if place.placements is not None]
    values: dict[str, torch.Tensor] = {}
    error: BaseException | None = None
    try:
        for place, tensor in _read_own(own, load, limit, may_share=may_share):
            values.update(dict.fromkeys(place.names, tensor))
    except BaseException as err:
        if not shared:
            raise
        error = err  # the other processes wait for this one
    for group in _groups(shared, limit):
        mesh = group[0].child.device_mesh
        try:
            loaded = load(_state(group) if error is None else _state(()))
        except BaseException as err:
            error = err
        require_all(mesh, error)
        for place in group:
            read = to_torch(loaded.tensor(place.key)).to(mesh.device_type)
            tensor = _put(place, exchanged(read, place.child, place.placements))
            values.update(dict.fromkeys(place.names, tensor))
        del loaded, read  # before the next group is read
    return values


def _read_own(
    places: Iterable[_Place], load: Callable[..., FlatState], limit: int, *, may_share: bool
) -> Iterator[tuple[_Place, torch.Tensor]]:
    """Read what needs no exchange: into its place if that is possible, else in groups that are copied."""
    direct: list[_Place] = []
    copied: list[_Place] = []
    arrays: dict[Key, Array] = {}
    for place in places:
        if not place.in_place and place.device.type == "cpu":
            direct.append(place)
        elif place.in_place and not may_share and (array := _memory_of(place)) is not None:
            direct.append(place)
            arrays[place.key] = array
        else:
            copied.append(place)
    loaded = load(_state(direct), out=arrays)
    for place in direct:
        if not place.in_place:
            yield place, _new(place, to_torch(loaded.tensor(place.key)))
            continue
        if not place.child.is_inference():
            torch.autograd.graph.increment_version(place.child)
        yield place, place.child
    for group in [copied] if may_share else _groups(copied, limit):
        loaded = load(_state(group))
        for place in group:
            yield place, _put(place, to_torch(loaded.tensor(place.key)))
        del loaded  # before the next group is read


def _put(place: _Place, values: torch.Tensor) -> torch.Tensor:
    """Copy values to where they go, and return the tensor there."""
    if not place.in_place:
        return _new(place, values.to(place.device))
    child: torch.Tensor = place.child
    with torch.inference_mode(child.is_inference()), torch.no_grad():
        target = local_tensor(child) if is_distributed(child) else child
        target.copy_(values)
    return child


def _memory_of(place: _Place) -> Array | None:
    """Return the memory of an existing tensor as an array that values can be read into, if it is one."""
    child = local_tensor(place.child) if is_distributed(place.child) else place.child.detach()
    if child.device.type != "cpu" or child.dtype != place.dtype or not child.is_contiguous():
        return None
    if child.is_conj() or child.is_neg():
        return None
    return memory_of(child)


def _state(places: Iterable[_Place]) -> FlatState:
    return FlatState({place.key: place.tensor for place in places}, layout="torch")


def _groups(places: Iterable[_Place], limit: int) -> Iterator[list[_Place]]:
    """Yield runs of places of at most so many bytes, or of one tensor that is larger.

    Of tensors whose values are exchanged, all processes make the same groups, each of one mesh.
    """
    group: list[_Place] = []
    nbytes = 0
    for place in places:
        is_exchanged = place.placements is not None
        size = share_nbytes(place.child) if is_exchanged else place.tensor.spec.nbytes
        is_other_mesh = group and is_exchanged and group[0].child.device_mesh != place.child.device_mesh
        if group and (nbytes + size > limit or is_other_mesh):
            yield group
            group, nbytes = [], 0
        group.append(place)
        nbytes += size
    if group:
        yield group


def _new(place: _Place, local: torch.Tensor) -> torch.Tensor:
    """Return a new tensor that is distributed, and in a module a parameter, where the template's is."""
    old = place.child
    value = as_distributed(local, old) if is_distributed(old) else local
    if not place.is_of_module or not isinstance(old, torch.nn.Parameter):
        return value
    is_usual = type(old) is torch.nn.Parameter or is_distributed(old)
    new = torch.nn.Parameter(value, requires_grad=False) if is_usual else value.as_subclass(type(old))
    new.requires_grad_(old.requires_grad)
    for name, attribute in vars(old).items():  # as libraries give parameters, for their own loading
        vars(new).setdefault(name, attribute)
    return new
