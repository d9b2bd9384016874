"""The opcodes that `torch.save` writes (pickle protocol 2, and 3), and why the others are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NoReturn

from bridge_core import LimitExceeded, MalformedFile, UnsafeFile, UnsupportedFeature
from bridge_torch.safe_pickle.machine import Machine
from bridge_torch.safe_pickle.values import Global, Opaque, call

__all__ = ["OPERATIONS", "STOP", "refuse_opcode"]

_LONG_BYTES = 255
_MARKS_PER_LEVEL = 4
"""A container that is being filled opens at most these: for itself, a call in it and a storage in that."""


def refuse_opcode(code: int) -> NoReturn:
    """Raise the error for an opcode that is not in `OPERATIONS`.

    Raises:
        UnsafeFile: It asks for a registered extension.
        UnsupportedFeature: It belongs to another protocol.
        MalformedFile: It does not exist.
    """
    shown = repr(bytes([code]))
    if code in _EXTENSIONS:
        raise UnsafeFile(f"opcode {shown} asks for a registered extension, which no weights need.")
    if code in _NEWER:
        raise UnsupportedFeature(
            f"opcode {shown} belongs to pickle protocol 4 or 5; 2 and 3 are read.",
            hint="Save it again with torch.save's default pickle_protocol.",
        )
    if code in _TEXT:
        raise UnsupportedFeature(
            f"opcode {shown} belongs to pickle protocol 0; 2 and 3 are read.",
            hint="Save it again with torch.save's default pickle_protocol.",
        )
    raise MalformedFile(f"{shown} is no pickle opcode.")


def _protocol(m: Machine) -> None:
    version = m.number(1)
    if version > 5:
        raise MalformedFile(f"names pickle protocol {version}, which does not exist.")
    if version > 3:
        raise UnsupportedFeature(
            f"is of pickle protocol {version}; 2 and 3 are read.",
            hint="Save it again with torch.save's default pickle_protocol.",
        )


def _mark(m: Machine) -> None:
    m.objects += 1
    if len(m.frames) >= _MARKS_PER_LEVEL * m.limits.depth:
        raise LimitExceeded(f"has more than {len(m.frames)} marks open.")
    m.frames.append(m.stack)
    m.stack = []


def _long(m: Machine, length: int) -> None:
    if length > _LONG_BYTES:
        raise LimitExceeded(f"holds an integer of {length} bytes.")
    m.push(int.from_bytes(m.take(length), "little", signed=True))


def _unicode(m: Machine, length: int) -> None:
    try:
        m.push(m.take(length).decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        raise MalformedFile("a string is not UTF-8.") from None


def _python2_string(m: Machine, length: int) -> None:
    text = m.take(length)
    try:
        m.push(text.decode("utf-8"))
    except UnicodeDecodeError:
        m.push(Opaque("bytes"))


def _skip_bytes(m: Machine, length: int) -> None:
    m.take(length)
    m.push(Opaque("bytes"))


def _new_object(m: Machine) -> None:
    args, kind = m.stack.pop(), m.stack.pop()
    m.new(call(kind, args))


def _instance(m: Machine) -> None:
    name = m.global_(m.line(), m.line())
    m.since_mark()
    m.new(Opaque(name.path))


def _object(m: Machine) -> None:
    items = m.since_mark()
    if not items or not isinstance(items[0], Global):
        raise MalformedFile("makes an object of what is no class.")
    m.new(Opaque(items[0].path))


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


STOP = ord(".")
"""Ends a pickle."""

_EXTENSIONS = frozenset(b"\x82\x83\x84")
_NEWER = frozenset(b"\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98")
_TEXT = frozenset(b"FILSVPdglp")

_BY_BYTE: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": _protocol,
    b"(": _mark,
    b"0": _pop,
    b"1": lambda m: m.since_mark().clear(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    b"\x8a": lambda m: _long(m, m.number(1)),
    b"\x8b": lambda m: _long(m, m.number(4)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: _unicode(m, m.number(4)),
    b"U": lambda m: _python2_string(m, m.number(1)),
    b"T": lambda m: _python2_string(m, m.number(4)),
    b"C": lambda m: _skip_bytes(m, m.number(1)),
    b"B": lambda m: _skip_bytes(m, m.number(4)),
    b")": lambda m: m.new(()),
    b"t": lambda m: m.new(tuple(m.since_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"]": lambda m: m.new([]),
    b"a": lambda m: m.extend([m.stack.pop()]),
    b"e": lambda m: m.extend(m.since_mark()),
    b"}": lambda m: m.new({}),
    b"s": _set_item,
    b"u": lambda m: m.set_items(m.since_mark()),
    b"q": lambda m: m.remember(m.number(1)),
    b"r": lambda m: m.remember(m.number(4)),
    b"h": lambda m: m.recall(m.number(1)),
    b"j": lambda m: m.recall(m.number(4)),
    b"c": lambda m: m.push(m.global_(m.line(), m.line())),
    b"i": _instance,
    b"o": _object,
    b"R": lambda m: m.reduce(),
    b"\x81": _new_object,
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.persistent(),
}
OPERATIONS = {code[0]: operation for code, operation in _BY_BYTE.items()}
