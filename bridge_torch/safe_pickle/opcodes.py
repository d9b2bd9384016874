"""The opcodes of pickle protocols 0 to 5, and the refusal of those that are not read."""

from __future__ import annotations

import codecs
import struct
import warnings
from collections.abc import Callable
from typing import NoReturn

from bridge_core import LimitExceeded, MalformedFile, TruncatedFile, UnsafeFile, UnsupportedFeature
from bridge_torch.hints import FETCH_AGAIN, SAVE_WEIGHTS
from bridge_torch.safe_pickle.calls import described
from bridge_torch.safe_pickle.machine import Machine
from bridge_torch.safe_pickle.values import Global, Opaque, kept_parts

__all__ = ["OPERATIONS", "STOP", "refuse_opcode"]

_LONG_BYTES = 255
_LONG_DIGITS = 640
"""At least as many decimal digits as an integer of `_LONG_BYTES` bytes has."""
_DEFAULT_PROTOCOL = "Save it again with torch.save, without the argument pickle_protocol."
_MARKS_PER_LEVEL = 4
"""The most marks a container needs while it is filled: its own, a call's in it and a storage's in that."""


def refuse_opcode(code: int) -> NoReturn:
    """Raise the error for an opcode that is not in `OPERATIONS`.

    Raises:
        UnsafeFile: It asks for a registered extension.
        UnsupportedFeature: It asks for a buffer outside the pickle, or belongs to no protocol up to 5.
    """
    shown = repr(bytes([code]))
    if code in _EXTENSIONS:
        raise UnsafeFile(
            f"opcode {shown} calls a registered extension, which no weights need.",
            hint=f"Do not load the file unless you trust it; save a state dict instead: {SAVE_WEIGHTS}.",
        )
    if code in _BUFFERS:
        raise UnsupportedFeature(
            f"opcode {shown} needs a buffer that is not in the file.",
            hint=_DEFAULT_PROTOCOL,
        )
    raise UnsupportedFeature(
        f"{shown} is not an opcode of pickle protocols 0 to 5.",
        hint=FETCH_AGAIN,
    )


def _protocol(m: Machine) -> None:
    version = m.number(1)
    if version > 5:
        raise MalformedFile(f"the pickle has an unknown protocol: expected 0 to 5, got {version}.")


def _frame(m: Machine) -> None:
    length = m.number(8)
    missing = m.position + length - len(m.data)
    if missing > 0:
        raise TruncatedFile(f"the data is cut off: a frame needs {missing} more bytes.")


def _mark(m: Machine) -> None:
    m.objects += 1
    if len(m.frames) >= _MARKS_PER_LEVEL * m.limits.depth:
        raise LimitExceeded(f"the pickle opens more than {len(m.frames)} marks at once.")
    m.frames.append(m.stack)
    m.stack = []


def _long(m: Machine, length: int) -> None:
    if length > _LONG_BYTES:
        raise LimitExceeded(f"an integer has {length} bytes; at most {_LONG_BYTES} are read.")
    m.push(int.from_bytes(m.take(length), "little", signed=True))


def _unicode(m: Machine, length: int) -> None:
    try:
        m.push(m.take(length).decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        raise MalformedFile("a string is not valid UTF-8.") from None


def _python2_string(m: Machine, length: int) -> None:
    _push_text(m, m.take(length))


def _push_text(m: Machine, text: bytes) -> None:
    try:
        m.push(text.decode("utf-8"))
    except UnicodeDecodeError:
        m.push(Opaque("bytes"))


def _skip_bytes(m: Machine, length: int) -> None:
    m.take(length)
    m.push(Opaque("bytes"))


def _new_object_with_names(m: Machine) -> None:
    named_args, args, kind = m.stack.pop(), m.stack.pop(), m.stack.pop()
    if not isinstance(named_args, dict) or not isinstance(args, tuple):
        raise MalformedFile(
            f"the arguments of {described(kind)}: expected a tuple and a dict, got {described(args)} and "
            f"{described(named_args)}."
        )
    if named_args:
        name = kind.path if isinstance(kind, Global) else getattr(kind, "kind", "an object")
        m.new(Opaque(name, is_foreign=True, parts=kept_parts((kind, args, named_args))))
        return
    m.stack += [kind, args]
    m.reduce()


def _instance(m: Machine) -> None:
    kind = m.global_(m.name(), m.name())
    m.stack += [kind, tuple(m.since_mark())]
    m.reduce()


def _object(m: Machine) -> None:
    items = m.since_mark()
    if not items or not isinstance(items[0], Global):
        raise MalformedFile(
            "an object is created: expected the name of its class, got "
            f"{described(items[0]) if items else 'nothing'}."
        )
    m.stack += [items[0], tuple(items[1:])]
    m.reduce()


def _dict(m: Machine) -> None:
    items = m.since_mark()
    m.new({})
    m.set_items(items)


def _line_int(m: Machine) -> None:
    """Push an integer that is written in decimal; 00 and 01 are False and True."""
    text = m.line()
    m.push(text == b"01" if text in (b"00", b"01") else _decimal(text))


def _line_long(m: Machine) -> None:
    m.push(_decimal(m.line().removesuffix(b"L")))


def _decimal(text: bytes) -> int:
    if len(text) > _LONG_DIGITS:
        raise LimitExceeded(f"an integer has {len(text)} digits; at most {_LONG_DIGITS} are read.")
    try:
        return int(text)
    except ValueError:
        raise MalformedFile(f"expected an integer, got {text[:40]!r}.") from None


def _line_float(m: Machine) -> None:
    text = m.line()
    if len(text) > _LONG_DIGITS:
        raise LimitExceeded(f"a number has {len(text)} characters; at most {_LONG_DIGITS} are read.")
    try:
        m.push(float(text))
    except ValueError:
        raise MalformedFile(f"expected a number, got {text[:40]!r}.") from None


def _line_string(m: Machine) -> None:
    """Push a string of Python 2, which has quotes and may have escapes."""
    text = m.line().strip()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise MalformedFile(f"expected a string in quotes, got {text[:40]!r}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # an escape that does not exist
            plain, _ = codecs.escape_decode(text[1:-1])
    except ValueError:
        raise MalformedFile("a string has an invalid escape.") from None
    _push_text(m, plain)


def _line_unicode(m: Machine) -> None:
    try:
        m.push(m.line().decode("raw-unicode-escape"))
    except UnicodeDecodeError:
        raise MalformedFile("a string has an invalid escape.") from None


def _line_persistent(m: Machine) -> NoReturn:
    name = m.line()[:80].decode("ascii", "replace")
    raise UnsupportedFeature(
        f"the pickle refers to the storage {name!r} as protocol 0 does, which torch cannot read either.",
        hint=_DEFAULT_PROTOCOL,
    )


def _frozen_set(m: Machine) -> None:
    items = m.since_mark()
    m.new(Opaque("builtins.frozenset"))
    m.add_items(items)


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.since_mark()


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


STOP = ord(".")
"""The opcode that ends a pickle."""

_EXTENSIONS = frozenset(b"\x82\x83\x84")
_BUFFERS = frozenset(b"\x97\x98")

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
    b"c": lambda m: m.push(m.global_(m.name(), m.name())),
    b"i": _instance,
    b"o": _object,
    b"R": lambda m: m.reduce(),
    b"\x81": lambda m: m.reduce(),
    b"b": lambda m: m.build(),
    b"Q": lambda m: m.persistent(),
    # Protocol 0
    b"I": _line_int,
    b"L": _line_long,
    b"F": _line_float,
    b"S": _line_string,
    b"V": _line_unicode,
    b"P": _line_persistent,
    b"l": lambda m: m.new(m.since_mark()),
    b"d": _dict,
    b"p": lambda m: m.remember(_decimal(m.line())),
    b"g": lambda m: m.recall(_decimal(m.line())),
    # Protocols 4 and 5
    b"\x95": _frame,
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"\x93": lambda m: m.stack_global(),
    b"\x8c": lambda m: _unicode(m, m.number(1)),
    b"\x8d": lambda m: _unicode(m, m.number(8)),
    b"\x8e": lambda m: _skip_bytes(m, m.number(8)),
    b"\x96": lambda m: _skip_bytes(m, m.number(8)),
    b"\x8f": lambda m: m.new(Opaque("builtins.set")),
    b"\x90": lambda m: m.add_items(m.since_mark()),
    b"\x91": _frozen_set,
    b"\x92": _new_object_with_names,
}
OPERATIONS = {code[0]: operation for code, operation in _BY_BYTE.items()}
