"""Joining the CRC-32s of consecutive pieces."""

from __future__ import annotations

import functools

__all__ = ["crc32_combine"]


def crc32_combine(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two pieces that follow each other, from the CRC-32 of each.

    As `crc32_combine` of zlib, by Mark Adler, in its form since version 1.2.12: the first checksum is
    multiplied by x^(8 * length) modulo the CRC's polynomial, over GF(2).

    Args:
        first: CRC-32 of the first piece.
        second: CRC-32 of the second.
        length: Bytes of the second.
    """
    return _times(_shift(length), first) ^ second if first else second


_POLYNOMIAL = 0xEDB88320
"""Of CRC-32, with the coefficient of x^31 in the lowest bit, as in all numbers here."""
_ONE, _X_TO_8 = 1 << 31, 1 << 23


@functools.lru_cache(256)
def _shift(length: int) -> int:
    """Return x^(8 * length); cached, since many pieces have the same length."""
    power = _ONE
    for bit in range(length.bit_length()):
        if length >> bit & 1:
            power = _times(_squared(bit), power)
    return power


@functools.cache
def _squared(times: int) -> int:
    """Return x^8, squared so many times."""
    return _times(_squared(times - 1), _squared(times - 1)) if times else _X_TO_8


def _times(one: int, other: int) -> int:
    """Return the product of two polynomials over GF(2), modulo that of CRC-32."""
    product = 0
    while one:
        if one & _ONE:
            product ^= other
        one = one << 1 & 0xFFFFFFFF
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return product
