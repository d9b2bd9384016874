"""Tables of cosine and sine among arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bridge_core.state import Array

__all__ = ["half_table", "tables_among"]


def tables_among(
    arrays: Mapping[str, Array], batch: int, length: int
) -> Iterator[tuple[str, tuple[Array, Array]]]:
    """Yield names with cosine and sine ``(batch or 1, length, n)``, where n is half the rotated size."""
    for name, array in arrays.items():
        if array.dtype.kind == "c":
            pair = _shaped(array.real, batch, length), _shaped(array.imag, batch, length)
            if pair[0] is not None and pair[1] is not None:
                yield name, (pair[0], pair[1])
    real = [(name, a) for name, a in arrays.items() if a.dtype.kind == "f" and a.ndim >= 2]
    for n, (name, first) in enumerate(real):
        for other, second in real[n + 1 :]:
            if first.shape != second.shape:
                continue
            squares = first.astype(np.float64) ** 2 + second.astype(np.float64) ** 2
            if not np.allclose(squares, squares.flat[0], rtol=1e-2) or squares.flat[0] < 0.25:
                continue
            cosine, sine = (
                (second, first) if "sin" in name.lower() or "cos" in other.lower() else (first, second)
            )
            pair = _shaped(cosine, batch, length), _shaped(sine, batch, length)
            if pair[0] is not None and pair[1] is not None:
                yield f"{name}, {other}", (half_table(pair[0]), half_table(pair[1]))


def half_table(table: Array) -> Array:
    """Return one number for each rotated pair, whichever way the table repeats them."""
    n = table.shape[-1]
    if n % 2 == 0 and n > 1:
        if np.array_equal(table[..., : n // 2], table[..., n // 2 :]):
            return table[..., : n // 2]
        if np.array_equal(table[..., 0::2], table[..., 1::2]):
            return table[..., 0::2]
    return table


def _shaped(table: Array, batch: int, length: int) -> Array | None:
    shape = tuple(n for n in table.shape[:-1] if n != 1)
    n = table.shape[-1]
    if shape in ((length,), ()) and table.size == length * n:
        return table.reshape(1, length, n).astype(np.float64)
    if shape == (batch, length):
        return table.reshape(batch, length, n).astype(np.float64)
    return None
