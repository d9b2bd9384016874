"""Forms of linear layers, embeddings and layers that multiply or add weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from bridge_core.proof.causes.forms import Candidate, Family, Settings, Task
from bridge_core.state import Array

__all__ = ["EMBEDDING", "LINEAR", "likely"]

FINE = 2.0**-40
"""Steps at 1 below this are those of float64."""

MAX_TIMES = 3
"""A bias is looked for up to so many times: two layers that both add it make it two."""


def likely(value: float, sizes: Iterable[int], precision: float, step: float = 2.0**-23) -> float:
    """Return the constant that people would have written for a fitted number.

    Args:
        value: The number.
        sizes: Sizes of axes: their roots and inverses are constants, too.
        precision: Relative precision of the number.
        step: Step at 1 of the arrays that it was fitted to: those of float64 give more digits.
    """
    numbers = [1.0, -1.0, 2.0, 0.5, 0.0, 4.0, 0.25, 0.1, 0.2, 10.0, 3.0]
    for size in sizes:
        numbers += [math.sqrt(size), 1 / math.sqrt(size), 1 / math.sqrt(2 * size), 1 / size, float(size)]
    near = [one for one in numbers if abs(value - one) <= precision * max(abs(value), abs(one), precision)]
    return (
        min(near, key=lambda one: abs(value - one))
        if near
        else float(f"{value:.{6 if step > FINE else 10}g}")
    )


def _linear(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return ``scale * (x @ kernel) + times * bias``, x ``[.., in]``, kernel ``[in, out]``."""
    kernel = weights[settings["kernel"]]
    value = settings["scale"] * (x @ (kernel.T if settings["transposed"] else kernel))
    return np.asarray(value + settings["bias"] * weights[settings["bias_of"]] if settings["bias"] else value)


def _linear_candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    if x.dtype.kind != "f" or x.shape[:-1] != observed.shape[:-1]:
        return
    ins, outs = x.shape[-1], observed.shape[-1]
    biases = [name for name, w in task.weights.items() if w.shape == (outs,)]
    options = [
        (name, turned)
        for name, w in task.weights.items()
        for turned in (False, True)
        if w.ndim == 2 and (w.shape[::-1] if turned else w.shape) == (ins, outs)
    ]
    for (name, turned), bias in itertools.product(options, [*biases[:3], None]):
        kernel = task.weights[name]
        if not task.work.allows(x.size * outs // 16 + 16 * observed.size):
            return
        product = x @ (kernel.T if turned else kernel)
        columns = [product.reshape(-1)]
        if bias is not None:
            columns.append(np.broadcast_to(task.weights[bias], product.shape).reshape(-1))
        factors = np.linalg.lstsq(np.stack(columns, 1), observed.reshape(-1), rcond=None)[0]
        scale = likely(float(factors[0]), (ins, outs), 1e-4, task.precision)
        times = round(float(factors[1])) if bias is not None else 0
        for value in dict.fromkeys((1.0, scale)):
            settings = {
                "kernel": name,
                "transposed": turned,
                "scale": value,
                "bias_of": biases[0] if bias is None and biases else bias,
                "bias": times if 0 <= times <= MAX_TIMES else 1,
            }
            unused = bias is None and bool(biases)
            yield settings, float(turned) + (value != 1.0) + unused + 0.5 * (times > 1)


def _linear_sketch(task: Task) -> Task:
    """Return the task with at most 512 rows: each row is computed by itself."""
    x, observed = task.x, task.observed
    if x.ndim < 2 or x.shape[:-1] != observed.shape[:-1]:
        return task
    rows = x.reshape(-1, x.shape[-1])
    step = max(1, len(rows) // 512)
    if step == 1:
        return task
    few = observed.reshape(-1, observed.shape[-1])[::step]
    return replace(task, x=rows[::step], observed=few)


def _embedding(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return rows of a table ``[num, features]``, scaled, for ids of any shape."""
    table = weights[settings["table"]]
    rows = x + settings["offset"]
    value = settings["scale"] * table[np.clip(rows, 0, len(table) - 1)]
    zero = settings["zero_row"]
    return value if zero is None else np.where((x == zero)[..., None], 0.0, value)


def _embedding_candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    if x.dtype.kind != "i" or observed.shape[: x.ndim] != x.shape or observed.ndim != x.ndim + 1:
        return
    tables = [n for n, w in task.weights.items() if w.ndim == 2 and w.shape[1] == observed.shape[-1]]
    for name, offset in itertools.product(tables, (0, 1, 2, -1, -2, 3, 4)):
        rows = task.weights[name]
        if np.max(x, initial=0) + offset >= len(rows) or np.min(x, initial=0) + offset < 0:
            continue
        taken = rows[x + offset]
        squares = np.sum(taken * taken)
        used = np.any(observed != 0, axis=-1, keepdims=True)
        scale = float(np.sum(taken * observed) / max(np.sum(taken * taken * used), 1e-30)) if squares else 1.0
        scale = likely(scale, (rows.shape[1],), 1e-4, task.precision)
        zeros = np.unique(x[~used[..., 0]])
        empty = [int(row) for row in zeros if np.any(rows[row + offset])]
        zero = empty[0] if len(empty) == 1 else None
        settings = {"table": name, "offset": offset, "scale": scale, "zero_row": zero}
        yield settings, abs(offset) + (scale != 1.0) + (zero is not None)


LINEAR = Family("linear", _linear_candidates, _linear, _linear_sketch)
EMBEDDING = Family("embedding", _embedding_candidates, _embedding)
