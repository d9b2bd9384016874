"""Attention between its projections and its output projection, computed in any form that models use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge_core.proof.causes.attention_layout import merged, separated, split_heads
from bridge_core.proof.causes.masks import alibi, diagonal, relative_buckets
from bridge_core.proof.causes.rotary import Rotary, rotated
from bridge_core.state import Array

__all__ = ["Buckets", "Form", "Parts", "attend", "rounded_to"]

_CACHED = 1 << 20
"""Bytes up to which logits are stored for the next form."""


@dataclass(frozen=True)
class Buckets:
    """T5's relative positions: a learned bias for each bucket of distances.

    Args:
        table: Name of the table among the parts, ``(buckets, heads)``.
        distance: From which distance on all pairs share the last bucket.
        bidirectional: Whether keys ahead have buckets of their own.
        reverse: Whether query and key are exchanged.
    """

    table: str
    distance: int = 128
    bidirectional: bool = True
    reverse: bool = False


@dataclass(frozen=True)
class Form:
    """One way to compute attention.

    Args:
        heads: Number of heads of queries.
        kv_heads: Number of heads of keys and values.
        splits: How the numbers of query, key and value become heads: ``"h d"``, ``"d h"``, or ``"h t d"`` for
            a reshape that takes the axes of heads and positions in the wrong order.
        merge: The same for the heads' outputs.
        groups: Whether heads that share a key are neighbours (``"repeat"``) or not (``"tile"``).
        roles: Which projections are used as query, key and value.
        exchanged: Whether queries and keys are exchanged after the rotation.
        fused: How one projection holds all three.
        rotary: How queries and keys are rotated; None if they are not.
        scale: What logits are multiplied by.
        softcap: Logits become ``softcap * tanh(logits / softcap)``; None if they do not.
        axis: What probabilities sum to one over.
        causal: How far ahead a query may see; None for everything.
        window: How many positions back it may see, its own included; None for all.
        masks: Names of masks with their use: ``"keep"`` (1 may be seen), ``"masked"`` (0 may be seen), or
            ``"added"``, ``"multiplied"``, ``"afterwards"`` as what is done with the numbers themselves.
        fill: What masked logits are: None for minus infinity, else ``("set" or "add", value)``.
        empty: What a query that sees nothing gets: ``"uniform"``, ``"unmasked"`` or ``"zero"``.
        biases: Names of what is added to logits.
        relative: What else is added: ``"alibi"``, or `Buckets`.
        late_scale: Whether logits are scaled after biases are added.
        rounding: A dtype, and the steps after which values are rounded to it; None if they are not.
        changes: Changes of the projections: ``"query.bias missing"``, ``"out.kernel transposed"`` ...
        sequence: Which axis of the arrays is the sequence.
    """

    heads: int
    kv_heads: int
    splits: tuple[str, str, str] = ("h d", "h d", "h d")
    merge: str = "h d"
    groups: str = "repeat"
    roles: str = "qkv"
    exchanged: bool = False
    fused: str = "3 h d"
    rotary: Rotary | None = None
    scale: float = 1.0
    softcap: float | None = None
    axis: str = "keys"
    causal: int | None = None
    window: int | None = None
    masks: tuple[tuple[str, str], ...] = ()
    fill: tuple[str, float] | None = None
    empty: str = "uniform"
    biases: tuple[str, ...] = ()
    relative: Buckets | str | None = None
    late_scale: bool = False
    rounding: tuple[str, tuple[str, ...]] | None = None
    changes: tuple[str, ...] = ()
    sequence: int = 1


@dataclass(frozen=True, eq=False)
class Parts:
    """What both sides computed alike before their attention, and what they may use in it.

    Args:
        projected: ``"q"``, ``"k"``, ``"v"`` (or ``"qkv"``, or ``"q"`` and ``"kv"``) -> float64
            ``(batch, length, n)``. Instead ``"x q"`` etc., the inputs of the projections in ``weights``.
        weights: Weights of an attention that is one layer, by neutral leaf names.
        masks: Name -> 0 or 1 as float64 ``(batch or 1, heads or 1, queries or 1, keys)``.
        biases: Name -> the same shape, added to logits.
        given: Name -> positions, or tables of cosine and sine.
        buckets: Name -> learned biases, ``(buckets, heads)``.
        cache: What was computed from these parts.
    """

    projected: Mapping[str, Array]
    weights: Mapping[str, Array] = field(default_factory=dict)
    masks: Mapping[str, Array] = field(default_factory=dict)
    biases: Mapping[str, Array] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    buckets: Mapping[str, Array] = field(default_factory=dict)
    cache: dict[Any, Any] = field(default_factory=dict)


def attend(parts: Parts, form: Form, rows: Array | None = None) -> Array | None:
    """Return the heads' outputs ``(batch, queries, n)``; None if the form does not fit the sizes.

    Args:
        parts: What is attended to.
        form: How.
        rows: Which queries to compute; None for all.
    """
    with np.errstate(all="ignore"):
        every = form.axis == "queries" or form.merge == "h t d"
        mixed = _mixed(parts, form, None if every else rows)
        if mixed is None:
            return None
        result = merged(mixed, form.merge)
        if every and rows is not None:
            result = result[:, rows]
        return result


def rounded_to(x: Array, dtype: str) -> Array:
    """Return float64 values rounded to the numbers of a narrower dtype."""
    if dtype != "bfloat16":
        return x.astype(dtype).astype(np.float64)
    bits = x.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32).astype(np.float64)


def _mixed(parts: Parts, form: Form, rows: Array | None) -> Array | None:
    """Return what each head sees, ``(batch, heads, queries, head_dim)``."""
    computed = _logits(parts, form, rows)
    if computed is None:
        return None
    logits, values = computed
    queries, keys = logits.shape[2:]
    places = np.arange(queries) if rows is None else rows
    dtype, steps = form.rounding or ("", ())

    def after(step: str, x: Array) -> Array:
        return rounded_to(x, dtype) if step in steps else x

    scale = 1.0 if form.late_scale else form.scale
    logits = after("logits", logits * scale)
    if form.softcap is not None:
        logits = form.softcap * np.tanh(logits / form.softcap)
    added = _added(parts, form, places, logits.shape)
    if added is None:
        return None
    if added.ndim:
        logits = logits + added
    if form.late_scale:
        logits = logits * form.scale
    axis = {"keys": -1, "queries": -2, "heads": 1}[form.axis]
    seen = diagonal(places, keys, form.causal, form.window)
    afterwards = None
    for name, use in form.masks:
        mask = parts.masks[name]
        if not _fits(mask, logits.shape) or 1 < mask.shape[2] <= places.max():
            return None
        mask = mask[:, :, places] if mask.shape[2] > 1 else mask
        if use in ("keep", "masked"):
            allowed = mask == (use == "keep")
            seen = allowed if seen is None else seen & allowed
        elif use == "added":
            logits = logits + mask
        elif use == "multiplied":
            logits = logits * mask
        else:
            afterwards = mask
    empty = None
    if seen is not None:
        seen = np.broadcast_to(seen, np.broadcast_shapes(seen.shape, logits.shape))
        empty = ~seen.any(axis, keepdims=True)
        if form.fill is not None:
            how, value = form.fill
            logits = np.where(seen, logits, value if how == "set" else logits + value)
        elif empty.any():
            nothing = logits if form.empty == "unmasked" else np.zeros_like(logits)
            logits = np.where(empty, nothing, np.where(seen, logits, -np.inf))
        else:
            logits = np.where(seen, logits, -np.inf)
    weights = _softmax(logits, axis, after)
    if empty is not None and form.empty == "zero":
        weights = np.where(empty, 0, weights)
    if afterwards is not None:
        weights = weights * afterwards
    return after("output", after("weights", weights) @ after("values", values))


def _softmax(logits: Array, axis: int, after: Any) -> Array:
    top = logits.max(axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    powers = after("steps", np.exp(after("steps", logits - top)))
    total = after("steps", powers.sum(axis, keepdims=True))
    result: Array = powers / np.where(total == 0, 1, total)
    return result


def _fits(array: Array, shape: tuple[int, ...]) -> bool:
    """Return whether a mask or a bias has the sizes of logits, in all axes but that of queries."""
    return array.shape[0] in (1, shape[0]) and array.shape[1] in (1, shape[1]) and array.shape[3] == shape[3]


def _added(parts: Parts, form: Form, places: Array, shape: tuple[int, ...]) -> Array | None:
    heads, keys = shape[1], shape[3]
    result = np.zeros(())
    for name in form.biases:
        bias = parts.biases[name]
        if not _fits(bias, shape) or 1 < bias.shape[2] <= places.max():
            return None
        result = result + (bias[:, :, places] if bias.shape[2] > 1 else bias)
    if form.relative == "alibi":
        result = result + alibi(places, keys, heads)
    elif isinstance(form.relative, Buckets):
        table, r = parts.buckets[form.relative.table], form.relative
        if table.shape[1] != heads:
            return None
        numbers = relative_buckets(places, keys, len(table), r.distance, r.bidirectional, r.reverse)
        result = result + table[numbers].transpose(2, 0, 1)
    return result


def _logits(parts: Parts, form: Form, rows: Array | None) -> tuple[Array, Array] | None:
    """Return logits before they are scaled ``(batch, heads, queries, keys)``, and values of each head."""
    rounds = form.rounding if form.rounding and "inputs" in form.rounding[1] else None
    key = (
        form.heads, form.kv_heads, form.splits, form.groups, form.roles, form.exchanged, form.fused,
        form.rotary, rounds, form.changes, form.sequence, None if rows is None else rows.tobytes(),
    )  # fmt: skip
    if key in parts.cache:
        result: tuple[Array, Array] | None = parts.cache[key]
        return result
    result = _new_logits(parts, form, rows, rounds[0] if rounds else None)
    if result is None or result[0].nbytes + result[1].nbytes < _CACHED:
        if len(parts.cache) >= 300:
            parts.cache.clear()
        parts.cache[key] = result
    return result


def _new_logits(
    parts: Parts, form: Form, rows: Array | None, dtype: str | None
) -> tuple[Array, Array] | None:
    arrays = separated(parts.projected, parts.weights, form)
    if arrays is None:
        return None
    q, k, v = arrays
    queries = split_heads(q, form.heads, form.splits[0])
    keys = split_heads(k, form.kv_heads, form.splits[1])
    values = split_heads(v, form.kv_heads, form.splits[2])
    if queries is None or keys is None or values is None or form.heads % form.kv_heads:
        return None
    if queries.shape[-1] != keys.shape[-1] or keys.shape[1] != values.shape[1]:
        return None
    if form.rotary is not None:
        for name in form.rotary.on:
            turned = rotated(queries if name == "q" else keys, form.rotary, parts.given, queries=name == "q")
            if turned is None:
                return None
            if name == "q":
                queries = turned
            else:
                keys = turned
    times = form.heads // form.kv_heads
    if times > 1:
        keys, values = (_shared(x, times, form.groups) for x in (keys, values))
    if dtype is not None:
        queries, keys = rounded_to(queries, dtype), rounded_to(keys, dtype)
    if form.exchanged:
        queries, keys = keys, queries
    if queries.shape[2] != form.heads or queries.shape[0] != keys.shape[0]:
        return None
    if rows is not None:
        if rows[-1] >= queries.shape[1]:
            return None
        queries = queries[:, rows]
    return queries.transpose(0, 2, 1, 3) @ keys.transpose(0, 2, 3, 1), values.transpose(0, 2, 1, 3)


def _shared(x: Array, times: int, groups: str) -> Array:
    return np.repeat(x, times, 2) if groups == "repeat" else np.tile(x, (1, 1, times, 1))
