"""Contents of files with impossible sizes, made from a small file of any format."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

__all__ = ["FOREIGN", "hostile_contents"]

FOREIGN = (b"\0", b"{}", b"[]", b"<html>", b"PK\3\4", bytes(4096), b"\xff" * 4096)
"""Content of no format, or of another one."""

_TIB = 1 << 40
_HUGE = {8: _TIB, 4: 1 << 28}
"""Width in bytes -> a size that no small file holds; small enough that four bytes of it harm no machine."""
_INTEGERS: tuple[tuple[int, Literal["little", "big"]], ...] = (
    (8, "little"),
    (8, "big"),
    (4, "little"),
    (4, "big"),
)
_PLAUSIBLE = 1 << 16
"""Numbers below this look like sizes or counts in a small file."""
_NUMBER = re.compile(rb"(?<![0-9A-Za-z_.\"'-])[0-9]{1,6}(?![0-9A-Za-z_.\"'])")
_ONES = re.compile(rb"(?<![0-9])1(?:[, \n]{1,9}1){5,}(?![0-9])")
"""The sizes of a tensor with axes of size 1, in text."""


def hostile_contents(data: bytes, most: int) -> Iterator[tuple[str, bytes]]:
    """Yield what was changed, and the content, for what may be a size in a file.

    Integers of four and eight bytes, in either byte order; rows of ones, as the shape of the sample is
    stored; and numbers in text, with the length of the file unchanged where padding can be left out.

    Args:
        data: The content of a small file.
        most: How many contents to yield of each sort.
    """
    for found in _ONES.finditer(data):
        nines = found.group().replace(b"1", b"9")
        yield f"the sizes set to {nines.decode()}", data[: found.start()] + nines + data[found.end() :]
    yield from _rows_of_ones(data)
    yield from _spread(list(_integers(data)), most)
    yield from _spread(list(_texts(data)), most // 2)


def _rows_of_ones(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Replace six or more integers of value 1 in a row by larger ones."""
    for width, order in _INTEGERS:
        one, more = ((n).to_bytes(width, order) for n in (1, 9))
        at = data.find(one * 6)
        if at >= 0:
            count = 0
            while data[at + count * width : at + (count + 1) * width] == one:
                count += 1
            changed = data[:at] + more * count + data[at + count * width :]
            yield f"{count} integers of {width} bytes at byte {at} set to 9", changed


def _integers(data: bytes) -> Iterator[tuple[str, bytes]]:
    for width, order in _INTEGERS:
        claim = _HUGE[width].to_bytes(width, order)
        for at in range(len(data) - width + 1):
            value = int.from_bytes(data[at : at + width], order)
            if 0 < value < _PLAUSIBLE:
                changed = data[:at] + claim + data[at + width :]
                yield f"the {width} bytes at byte {at} ({order} endian) set to {_HUGE[width]}", changed


def _texts(data: bytes) -> Iterator[tuple[str, bytes]]:
    claim = str(_TIB).encode()
    for number in _NUMBER.finditer(data):
        before, after = data[: number.start()], data[number.end() :]
        what = f"the number {number.group().decode()} at byte {number.start()} set to {_TIB}"
        yield what, before + claim + after
        extra = len(claim) - len(number.group())
        spaces = re.search(rb" {%d,}" % extra, after) or re.search(rb"\0{%d,}" % extra, after)
        if spaces:
            kept = after[: spaces.start()] + after[spaces.start() + extra :]
            yield f"{what}, and {extra} bytes of padding left out", before + claim + kept
        for changed in _with_length(before, claim + after, extra):
            yield f"{what}, and the length before it corrected", changed


def _with_length(before: bytes, rest: bytes, extra: int) -> Iterator[bytes]:
    """Add to an integer of eight or four bytes at the beginning of a file, which may be a header's length."""
    for width in (8, 4):
        for at in (0, 4, 8, 12, 16):
            length = int.from_bytes(before[at : at + width], "little")
            if at + width <= len(before) and 0 < length < _PLAUSIBLE:
                yield before[:at] + (length + extra).to_bytes(width, "little") + before[at + width :] + rest


def _spread(found: list[tuple[str, bytes]], most: int) -> list[tuple[str, bytes]]:
    """Return at most so many, from all places alike."""
    step = max(1, -(-len(found) // max(most, 1)))
    return found[::step]
