"""A pickle reader that runs no code: it interprets the opcodes into plain data.

Python's own unpickler imports and calls what the file names, recurses in C and allocates any length that the
file states. This one gives names only the meaning of `calls`, checks each length against the data, and bounds
objects and depth. An object that only code of its class could read becomes an `Opaque`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bridge_core import (
    BridgeError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    TruncatedFile,
    UnsafeFile,
)
from bridge_core.messages import listed
from bridge_torch.hints import SAVE_WEIGHTS
from bridge_torch.safe_pickle.machine import Limits, Machine
from bridge_torch.safe_pickle.opcodes import OPERATIONS, STOP, refuse_opcode
from bridge_torch.safe_pickle.values import Opaque, Storage, parts_of

__all__ = ["Limits", "Unpickled", "unpickle", "unsafe_names"]

_LONGEST_SHOWN = 500
_RUNS_COMMANDS = re.compile(
    r"(os|posix|nt|subprocess|pty|runpy|shutil|socket|importlib|ctypes|webbrowser)\."
    r"|(builtins|__builtin__)\.(eval|exec|execfile|compile|__import__|open)\b"
)
"""Names with which a pickle takes over a machine; only for messages: none of these is ever run."""
_HINTS: dict[type[BridgeError], str] = {
    TruncatedFile: "Fetch the file again.",
    MalformedFile: f"Fetch the file again. If it does not hold a state dict, save one: {SAVE_WEIGHTS}.",
    KeyConflict: f"Fetch the file again. If it does not hold a state dict, save one: {SAVE_WEIGHTS}.",
    LimitExceeded: f"No state dict needs this. Save one: {SAVE_WEIGHTS}.",
}
_NESTED = frozenset({dict, list, tuple})


@dataclass(frozen=True)
class Unpickled:
    """The contents of a pickle.

    Args:
        value: Its root: None, a number, a string, a list, tuple or dict, or an object of the classes of
            `values`.
        length: Bytes of the pickle.
        storages: Storage key -> storage.
        foreign: Classes and functions in it that are not known to be harmless; none was imported.
        holds_module: Whether it holds a pickled `torch.nn.Module`.
    """

    value: Any
    length: int
    storages: dict[str, Storage]
    foreign: tuple[str, ...] = ()
    holds_module: bool = False


def unpickle(data: bytes, *, path: str, what: str = "the pickle", limits: Limits | None = None) -> Unpickled:
    """Return the contents of the pickle at the start of ``data``.

    Args:
        data: Bytes; more may follow the pickle.
        path: The file, for messages.
        what: The part of the file, for messages.
        limits: Bounds; None for those of `Limits`.

    Raises:
        TruncatedFile: The data ends within the pickle.
        UnsafeFile: It names classes or functions that no weights need, and its root is not a dict, or it is
            damaged.
        LimitExceeded: It is too large, too deep, or a list or dict in it contains itself.
        UnsupportedFeature: It has opcodes of no known protocol, or needs buffers outside it.
        KeyConflict: A dict has one key twice.
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
            unsafe.message += f" The pickle is damaged, too: {err.message}"
            raise unsafe from err
        if machine.foreign and not isinstance(value, dict):
            raise unsafe_names(machine.foreign, holds_module=_holds_module(machine))
    except BridgeError as err:
        if err.path is None:
            err.path = path
            err.message = f"{what}, at byte {machine.at}: {err.message}"
            err.hint = err.hint or _HINTS.get(type(err))
        raise
    names, holds_module = tuple(machine.foreign), _holds_module(machine)
    return Unpickled(value, machine.position, machine.storages, names, holds_module)


def _holds_module(machine: Machine) -> bool:
    return machine.holds_module or any(name.startswith("torch.nn.modules.") for name in machine.foreign)


def unsafe_names(names: Iterable[str], *, holds_module: bool, path: str | None = None) -> UnsafeFile:
    """Return the error for a file whose weights cannot be read without code that it names.

    Args:
        names: Classes and functions, each followed by the entries that need it if these are known. Those
            that run commands are listed first.
        holds_module: Whether a pickled `torch.nn.Module` is among the objects.
        path: The file.
    """
    shown = [name[:_LONGEST_SHOWN] if name.isprintable() else ascii(name[:_LONGEST_SHOWN]) for name in names]
    shown.sort(key=lambda name: not _RUNS_COMMANDS.match(name))
    hint = (
        "If you trust the file, load it with torch.load(path, weights_only=False) where its classes are "
        f"installed, and save its weights: {SAVE_WEIGHTS}."
    )
    if shown and _RUNS_COMMANDS.match(shown[0]):
        hint = (
            f"Do not load the file with torch.load: {shown[0].split(' ')[0]} can run commands or change "
            f"files. Ask its author for a state dict: {SAVE_WEIGHTS}."
        )
    elif holds_module:
        hint = (
            "The file holds a pickled module, not a state dict. If you trust it, load it with "
            f"torch.load(path, weights_only=False), and save its weights: {SAVE_WEIGHTS}."
        )
    return UnsafeFile(
        "the weights cannot be read without running code that the file names"
        f"{f' ({len(shown)} names)' if len(shown) > 1 else ''}: {listed(shown)}.",
        path=path,
        hint=hint,
    )


def _run(machine: Machine) -> Any:
    """Return the root of the pickle, which ends at STOP."""
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
                raise LimitExceeded(f"the pickle has more than {machine.limits.objects} objects.")
    except IndexError:
        raise MalformedFile("an opcode needs a value, but the stack is empty.") from None
    if len(data) > end:
        raise LimitExceeded(f"the pickle is longer than {end} bytes.")
    raise TruncatedFile("the data is cut off before the pickle ends.")


def _check_depth(root: Any, limit: int) -> None:
    """Refuse containers that contain themselves, or nest too deep; each container is visited once.

    An object may refer to the container that it is in, as a schedule does to its optimizer, so the depth of
    its parts is counted from the object.
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
    """Check the containers below a value, and return the objects in them.

    Args:
        root: A container or an object.
        limit: The most containers that may nest.
        heights: Identity of a container that was checked -> levels of containers in it, itself included.
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
                raise LimitExceeded("a container (list, tuple or dict) contains itself.")
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
            raise LimitExceeded(f"containers are nested more than {limit} deep.")
    return objects
