"""A pickle reader that runs no code: the opcodes are interpreted here, into plain data.

Python's own unpickler imports and calls what the file names, recurses in C and takes any length that it is
told. This one knows only the opcodes that `torch.save` writes, gives names no meaning but that of
`pickle_values`, checks each length against the data, and bounds objects and depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bridge_core import BridgeError, LimitExceeded, MalformedFile, TruncatedFile
from bridge_torch.safe_pickle.machine import Limits, Machine
from bridge_torch.safe_pickle.opcodes import OPERATIONS, STOP, refuse_opcode
from bridge_torch.safe_pickle.values import Storage

__all__ = ["Limits", "Unpickled", "unpickle"]


@dataclass(frozen=True)
class Unpickled:
    """What a pickle held.

    Args:
        value: Its root, of None, numbers, strings, bytes, lists, tuples, dicts and `pickle_values`.
        length: Bytes that the pickle took.
        storages: Storage key -> storage.
    """

    value: Any
    length: int
    storages: dict[str, Storage]


def unpickle(data: bytes, *, path: str, what: str = "the pickle", limits: Limits | None = None) -> Unpickled:
    """Read the pickle at the start of ``data``.

    Args:
        data: Bytes; more may follow the pickle.
        path: The file, for messages.
        what: The part of the file, for messages.
        limits: Bounds; by default those of `Limits`.

    Raises:
        TruncatedFile: The data ends within the pickle.
        UnsafeFile: It names classes or functions that no weights need; all of them are listed.
        LimitExceeded: It is too large, too deep, or refers to itself.
        UnsupportedFeature: It is of protocol 4 or 5, or uses opcodes that torch does not write.
        MalformedFile: It is damaged.
    """
    machine = Machine(data, limits or Limits())
    try:
        try:
            value = _run(machine)
            _check_depth(value, machine.limits.depth)
        except TruncatedFile:
            raise
        except BridgeError as err:
            machine.refuse_unknown(err)
            raise
        machine.refuse_unknown(None)
    except BridgeError as err:
        if err.path is None:
            err.path = path
            err.message = f"{what}, byte {machine.at}: {err.message}"
        raise
    return Unpickled(value, machine.position, machine.storages)


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


def _children(value: Any) -> Iterator[Any] | None:
    if isinstance(value, dict):
        return iter(value.values())
    if isinstance(value, list | tuple):
        return iter(value)
    return None


def _check_depth(root: Any, limit: int) -> None:
    """Refuse values that contain themselves, or nest too deep; every container is visited once."""
    first = _children(root)
    if first is None:
        return
    heights: dict[int, int] = {}
    path: list[tuple[Any, Iterator[Any]]] = [(root, first)]
    inside = {id(root)}
    tops = [0]
    while path:
        node, children = path[-1]
        for child in children:
            grandchildren = _children(child)
            if grandchildren is None:
                continue
            if id(child) in inside:
                raise LimitExceeded("holds a container that contains itself.")
            height = heights.get(id(child))
            if height is None:
                path.append((child, grandchildren))
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
