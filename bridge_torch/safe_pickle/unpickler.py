"""A pickle reader that runs no code: the opcodes are interpreted here, into plain data.

Python's own unpickler imports and calls what the file names, recurses in C and takes any length that it is
told. This one gives names no meaning but that of `calls`, checks each length against the data, and bounds
objects and depth. What only code of the file's classes could read becomes an `Opaque`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bridge_core import BridgeError, LimitExceeded, MalformedFile, TruncatedFile, UnsafeFile
from bridge_torch.safe_pickle.machine import Limits, Machine
from bridge_torch.safe_pickle.opcodes import OPERATIONS, STOP, refuse_opcode
from bridge_torch.safe_pickle.values import Opaque, Storage, parts_of

__all__ = ["Limits", "Unpickled", "unpickle", "unsafe_names"]

_NAMES_SHOWN, _LONGEST_SHOWN = 200, 500
_NESTED = frozenset({dict, list, tuple})


@dataclass(frozen=True)
class Unpickled:
    """What a pickle held.

    Args:
        value: Its root, of None, numbers, strings, lists, tuples, dicts and the classes of `values`.
        length: Bytes that the pickle took.
        storages: Storage key -> storage.
        foreign: Names of classes and functions in it that are not known to be harmless; none was imported.
        holds_module: Whether it holds a pickled `torch.nn.Module`.
    """

    value: Any
    length: int
    storages: dict[str, Storage]
    foreign: tuple[str, ...] = ()
    holds_module: bool = False


def unpickle(data: bytes, *, path: str, what: str = "the pickle", limits: Limits | None = None) -> Unpickled:
    """Read the pickle at the start of ``data``.

    Args:
        data: Bytes; more may follow the pickle.
        path: The file, for messages.
        what: The part of the file, for messages.
        limits: Bounds; by default those of `Limits`.

    Raises:
        TruncatedFile: The data ends within the pickle.
        UnsafeFile: It names classes or functions that no weights need, and its root is not a dict, or it is
            damaged; all of them are listed.
        LimitExceeded: It is too large, too deep, or a list or dict in it contains itself.
        UnsupportedFeature: It uses opcodes of no known protocol, or buffers outside it.
        MalformedFile: It is damaged.
    """
    machine = Machine(data, limits or Limits())
    try:
        try:
            value = _run(machine)
            _check_depth(value, machine.limits.depth)
        except TruncatedFile:
            raise
        except MalformedFile as err:
            if not machine.foreign:
                raise
            unsafe = unsafe_names(machine.foreign, holds_module=_holds_module(machine))
            unsafe.message += f" It is damaged, too: {err.message}"
            raise unsafe from err
        if machine.foreign and not isinstance(value, dict):
            raise unsafe_names(machine.foreign, holds_module=_holds_module(machine))
    except BridgeError as err:
        if err.path is None:
            err.path = path
            err.message = f"{what}, byte {machine.at}: {err.message}"
        raise
    names, holds_module = tuple(machine.foreign), _holds_module(machine)
    return Unpickled(value, machine.position, machine.storages, names, holds_module)


def _holds_module(machine: Machine) -> bool:
    return machine.holds_module or any(name.startswith("torch.nn.modules.") for name in machine.foreign)


def unsafe_names(names: Iterable[str], *, holds_module: bool, path: str | None = None) -> UnsafeFile:
    """Return the error for a file whose weights cannot be had without code that it names."""
    shown = [name[:_LONGEST_SHOWN] if name.isprintable() else ascii(name[:_LONGEST_SHOWN]) for name in names]
    text = ", ".join(shown[:_NAMES_SHOWN])
    if len(shown) > _NAMES_SHOWN:
        text += f" and {len(shown) - _NAMES_SHOWN} more"
    hint = "Load it where you trust it, and save a plain dict of plain tensors, as module.state_dict() is."
    if holds_module:
        hint = (
            "It holds a whole pickled module, not its weights: load it where you trust it, "
            "and save module.state_dict() instead."
        )
    return UnsafeFile(f"asks for code that no weights need: {text}.", path=path, hint=hint)


def _run(machine: Machine) -> Any:
    """Interpret until STOP."""
    data, operations = machine.data, OPERATIONS
    end = min(len(data), machine.limits.pickle_bytes)
    try:
        while machine.position < end:
            machine.at = machine.position
            code = data[machine.position]
            machine.position += 1
            if code == STOP:
                return machine.stack.pop()
            operation = operations.get(code)
            if operation is None:
                refuse_opcode(code)
            operation(machine)
            if machine.objects > machine.limits.objects:
                raise LimitExceeded(f"holds more than {machine.limits.objects} objects.")
    except IndexError:
        raise MalformedFile("takes a value that is not there.") from None
    if len(data) > end:
        raise LimitExceeded(f"is longer than {end} bytes.")
    raise TruncatedFile("the data ends within it.")


def _check_depth(root: Any, limit: int) -> None:
    """Refuse containers that contain themselves, or nest too deep; every container is visited once.

    An object of a class may refer to what holds it, as a schedule to its optimizer does, so what it is made
    of counts anew from there.
    """
    objects = [root]
    met = {id(root)}
    heights: dict[int, int] = {}
    while objects:
        for inner in _check_containers(objects.pop(), limit, heights):
            if id(inner) not in met:
                met.add(id(inner))
                objects.append(inner)


def _check_containers(root: Any, limit: int, heights: dict[int, int]) -> list[Opaque]:
    """Check the containers below a value down to objects, which are returned.

    Args:
        root: A container or an object.
        limit: The most containers that may nest.
        heights: Identity of a container that was checked -> how many nest in it, itself included.
    """
    first = parts_of(root)
    objects: list[Opaque] = []
    if first is None or id(root) in heights:
        return objects
    path: list[tuple[Any, Iterator[Any]]] = [(root, iter(first))]
    inside = {id(root)}
    tops = [0]
    while path:
        node, children = path[-1]
        for child in children:
            kind = type(child)
            if kind is Opaque:
                objects.append(child)
                continue
            if kind not in _NESTED:
                continue
            if id(child) in inside:
                raise LimitExceeded("holds a container that contains itself.")
            height = heights.get(id(child))
            if height is None:
                path.append((child, iter(parts_of(child) or ())))
                inside.add(id(child))
                tops.append(0)
                break
            tops[-1] = max(tops[-1], height)
        else:
            path.pop()
            inside.discard(id(node))
            height = heights[id(node)] = tops.pop() + 1
            if tops:
                tops[-1] = max(tops[-1], height)
        if len(path) > limit or (tops and tops[-1] + len(path) > limit):
            raise LimitExceeded(f"nests containers more than {limit} deep.")
    return objects
