"""Attention's probabilities, solved for from what was recorded, where no form reproduces it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bridge_core.proof.causes.attention_core import Form, Parts
from bridge_core.proof.causes.attention_layout import separated, split_heads
from bridge_core.proof.causes.attention_search import Recorded, error, predicted
from bridge_core.state import Array

__all__ = ["Dropped", "dropped_share", "masked_form", "probabilities", "rounded_form"]

_MOST = 1 << 20
"""Probabilities that are solved for; one small system for each query and head."""

_STEPS = (
    ("logits", "weights"),
    ("weights",),
    ("logits",),
    ("logits", "steps", "weights"),
    ("steps", "weights"),
    ("inputs", "logits", "weights"),
    ("inputs", "logits", "steps", "weights"),
    ("inputs", "logits"),
    ("inputs", "logits", "weights", "values"),
    ("inputs", "logits", "weights", "values", "output"),
    ("inputs", "logits", "steps", "weights", "values", "output"),
    ("weights", "values", "output"),
)


@dataclass(frozen=True)
class Dropped:
    """A share of the probabilities was dropped, and the others grew.

    Args:
        share: The share that the growth shows.
        count: Number of probabilities that are zero.
    """

    share: float
    count: int


def rounded_form(parts: Parts, form: Form, recorded: Recorded) -> tuple[Form, float] | None:
    """Return a form that rounds in a narrower dtype, and its error; None if none comes much nearer."""
    plain = error(parts, form, recorded)
    if not recorded.limit < plain < 0.05:
        return None
    best: tuple[Form, float] | None = None
    for dtype in ("bfloat16", "float16", "float32"):
        for steps in _STEPS:
            rounded = replace(form, rounding=(dtype, steps))
            off = error(parts, rounded, recorded)
            if best is None or off < best[1]:
                best = rounded, off
            if off <= recorded.limit:
                return rounded, off
    assert best is not None
    return best if best[1] < plain / 3 else None


def dropped_share(parts: Parts, form: Form, recorded: Recorded) -> Dropped | None:
    """Return what was dropped of a form's probabilities; None if that does not explain what was recorded."""
    expected = probabilities(parts, form)
    if expected is None:
        return None
    found = _solved(parts, form, recorded, expected > 0)
    if found is None:
        return None
    visible = np.isfinite(found) & (expected > 1e-3)
    zero = visible & (np.abs(np.where(visible, found, 1)) < 1e-4 * expected)
    grown = found[visible & ~zero] / expected[visible & ~zero]
    if not zero.any() or not grown.size:
        return None
    growth = float(np.median(grown))
    if growth < 1.005 or not np.allclose(grown, growth, rtol=1e-2):
        return None
    return Dropped(1 - 1 / growth, int(zero.sum()))


def masked_form(parts: Parts, form: Form, recorded: Recorded, name: str) -> tuple[Parts, Form] | None:
    """Return the form with the mask that was recorded, under a name; None if no mask explains it.

    Args:
        parts: What both sides have in common.
        form: A form that is right but for its masks.
        recorded: What was recorded.
        name: The name of the mask.
    """
    open_form = replace(form, causal=None, window=None, masks=(), biases=(), fill=None)
    expected = probabilities(parts, open_form)
    if expected is None:
        return None
    found = _solved(parts, open_form, recorded, np.ones(expected.shape, bool))
    if found is None or not np.isfinite(found).all():
        return None
    seen = np.abs(found) > 1e-4 * expected
    if seen.all() or not seen.any(-1).all():
        return None
    for biases in ((), form.biases):
        masked = replace(parts, masks={**parts.masks, name: seen.astype(float)})
        with_mask = replace(open_form, biases=biases, masks=((name, "keep"),))
        if error(masked, with_mask, recorded) <= recorded.limit:
            return masked, with_mask
    return None


def _solved(parts: Parts, form: Form, recorded: Recorded, visible: Array) -> Array | None:
    """Return probabilities solved for, ``(batch, heads, queries, keys)``.

    They are zero where keys are not visible, and NaN for a query that sees more keys than a head has numbers.
    """
    values = _values(parts, form)
    wanted = _before_projection(recorded)
    if values is None or wanted is None or form.sequence == 0 or form.merge == "h t d":
        return None
    _, keys, heads, size = values.shape
    outputs = split_heads(wanted, heads, form.merge)
    if outputs is None or outputs.shape[-1] != size or visible.shape[-1] != keys or visible.size > _MOST:
        return None
    outputs = outputs.transpose(0, 2, 1, 3)
    solvable = visible.sum(-1) <= size
    found = np.full(visible.shape, np.nan)
    for place in zip(*np.nonzero(solvable), strict=True):
        batch, head, _ = place
        some = visible[place]
        matrix = values[batch, some, head].T
        if not some.any() or np.linalg.cond(matrix) > 1e4:
            continue
        solution = np.linalg.lstsq(matrix, outputs[place], rcond=None)[0]
        if np.abs(matrix @ solution - outputs[place]).max() <= 10 * recorded.limit * np.abs(outputs).max():
            found[place] = 0
            found[(*place, some)] = solution
    return found if np.isfinite(found).any() else None


def _values(parts: Parts, form: Form) -> Array | None:
    """Return the values that each head of queries sees, ``(batch, keys, heads, head_dim)``."""
    arrays = separated(parts.projected, parts.weights, form)
    if arrays is None:
        return None
    values = split_heads(arrays[2], form.kv_heads, form.splits[2])
    if values is None or form.heads % form.kv_heads:
        return None
    times = form.heads // form.kv_heads
    return np.repeat(values, times, 2) if form.groups == "repeat" else np.tile(values, (1, 1, times, 1))


def _before_projection(recorded: Recorded) -> Array | None:
    if recorded.kernel is None:
        return recorded.output
    kernel = recorded.kernel
    if kernel.shape[1] < kernel.shape[0] or np.linalg.cond(kernel) > 1e4:
        return None
    output = recorded.output if recorded.bias is None else recorded.output - recorded.bias
    result: Array = output @ np.linalg.pinv(kernel)
    return result


def probabilities(parts: Parts, form: Form) -> Array | None:
    """Return a form's probabilities, ``(batch, heads, queries, keys)``: its output for unit vectors."""
    layout = replace(form, splits=("h d", "h d", "h d"), merge="h d")
    arrays = separated(parts.projected, parts.weights, form)
    if arrays is None:
        return None
    q = split_heads(arrays[0], form.heads, form.splits[0])
    k = split_heads(arrays[1], form.kv_heads, form.splits[1])
    if q is None or k is None:
        return None
    batch, queries = q.shape[:2]
    keys = k.shape[1]
    units = np.broadcast_to(np.eye(keys)[None, :, None], (batch, keys, form.kv_heads, keys))
    projected = {
        "q": q.reshape(batch, queries, -1),
        "k": k.reshape(batch, k.shape[1], -1),
        "v": units.reshape(batch, keys, -1),
    }
    plain = replace(parts, projected=projected, weights={}, cache={})
    flat = predicted(plain, replace(layout, roles="qkv", changes=()), Recorded(np.zeros(0)))
    if flat is None:
        return None
    return flat.reshape(batch, queries, form.heads, keys).transpose(0, 2, 1, 3)
