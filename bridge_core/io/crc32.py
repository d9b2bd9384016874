"""Joining the CRC-32s of consecutive pieces."""

from __future__ import annotations

import functools

__all__ = ["crc32_combine"]


def crc32_combine(first: int, second: int, length: int) -> int:
    """Return the CRC-32 of two consecutive pieces, from the CRC-32 of each.

    The method of `crc32_combine` in zlib since version 1.2.12, by Mark Adler: the first checksum is
    multiplied by x^(8 * length) modulo the CRC's polynomial, over GF(2).

    Args:
        first: CRC-32 of the first piece.
        second: CRC-32 of the second.
        length: Bytes of the second piece.

    >>> import zlib
    >>> crc32_combine(zlib.crc32(b"check"), zlib.crc32(b"point"), 5) == zlib.crc32(b"checkpoint")
    True
    """
    return _times(_shift(length), first) ^ second if first else second


_POLYNOMIAL = 0xEDB88320
"""The polynomial of CRC-32; the lowest bit of it, and of every other value, is the coefficient of x^31."""
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
