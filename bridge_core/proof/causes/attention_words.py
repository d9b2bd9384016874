"""The words for forms of attention: values for people, and what to do to compute as the source does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bridge_core.proof.causes.attention_core import Buckets, Form
from bridge_core.proof.causes.rotary import Rotary
from bridge_core.proof.causes.site import ModuleView

__all__ = [
    "CHANGES",
    "LAYOUTS",
    "ORDERS",
    "PLAIN",
    "ROTARY",
    "USED",
    "USES",
    "causal_text",
    "counts_text",
    "described",
    "names_text",
    "place_text",
    "relative_text",
    "rotary_text",
]


def place_text(view: ModuleView) -> str:
    """Return where to write what mends a cause.

    Args:
        view: The target's module.
    """
    return f"In the target, at {'.'.join(map(str, view.path)) or 'the model'}"


def described(form: Form) -> str:
    """Return a form in words, for the one of two that was identified."""
    pieces = [counts_text(form), f"logits times {number_text(form.scale)}"]
    if form.rotary is not None:
        pieces.append(f"rotary embedding of {rotary_text(form.rotary)}")
    if form.causal is not None:
        pieces.append(causal_text(form.causal))
    if form.window is not None:
        pieces.append(f"a window of {form.window}")
    pieces += [f"mask {name!r}, {USES[use]}" for name, use in form.masks]
    if form.biases:
        pieces.append(f"{names_text(form.biases)} added to the logits")
    if form.relative is not None:
        pieces.append(relative_text(form.relative))
    if form.softcap is not None:
        pieces.append(f"logits capped at {number_text(form.softcap)}")
    return ", ".join(pieces)


def counts_text(form: Form) -> str:
    """Return the numbers of heads, and of heads of keys where they are others."""
    heads = f"{form.heads} head" + "s" * (form.heads != 1)
    if form.kv_heads == form.heads:
        return heads
    return f"{heads}, {form.kv_heads} of keys and values"


def number_text(x: float | None) -> str:
    if x is None:
        return "none"
    return f"{x:.6g}"


def names_text(names: tuple[str, ...]) -> str:
    """Return names joined, or "nothing"."""
    return " and ".join(repr(name) for name in names) if names else "nothing"


def causal_text(ahead: int | None, verb: str = "sees") -> str:
    """Return what a query sees; ``verb="see"`` for after "let"."""
    if ahead is None:
        return f"a query {verb} all keys"
    if ahead == 0:
        return f"a query {verb} itself and what is before it"
    if ahead == -1:
        return f"a query {verb} only what is before it"
    places = f"{abs(ahead)} position{'s' * (abs(ahead) != 1)}"
    if ahead > 0:
        return f"a query {verb} up to {places} ahead"
    return f"a query {verb} only what is at least {places} before it"


def rotary_text(rotary: Rotary | None) -> str:
    """Return what is rotated together, and by which angles."""
    if rotary is None:
        return "none"
    if rotary.table is not None:
        return f"{LAYOUTS[rotary.layout]}, by the tables {rotary.table}"
    offset = f", positions from {number_text(rotary.offset)} on" if rotary.offset else ""
    return f"{LAYOUTS[rotary.layout]}, theta {number_text(rotary.theta)}{offset}"


def relative_text(relative: Buckets | str | None) -> str:
    """Return a bias by relative positions."""
    if relative is None:
        return "none"
    if isinstance(relative, str):
        return "ALiBi"
    ways = "both directions" if relative.bidirectional else "one direction"
    turned = ", query and key exchanged" if relative.reverse else ""
    return f"buckets of {relative.table}, {ways}, distances up to {relative.distance}{turned}"


LAYOUTS = {"halves": "the two halves of a head", "interleaved": "neighbours (0 with 1, 2 with 3)"}
ORDERS = {"h d": "(heads, head_dim)", "d h": "(head_dim, heads)", "h t d": "(heads, length, head_dim)"}
USES = {
    None: "not used",
    "keep": "1 may be seen",
    "masked": "0 may be seen",
    "added": "its numbers are added to the logits",
    "multiplied": "its numbers multiply the logits",
    "afterwards": "its numbers multiply the probabilities",
}
_FUSED = {
    "3 h d": "query, key and value one after another",
    "h 3 d": "query, key and value of each head together",
    "h d 3": "query, key and value as the last axis",
    "g 3 d": "query, key and value of each group together",
}
_EMPTY = {"uniform": "the mean of all", "unmasked": "as if there were no mask", "zero": "zeros"}
USED = {
    None: "do not use the mask {}",
    "keep": "let queries see where the mask {} is 1",
    "masked": "let queries see where the mask {} is 0",
    "added": "add the numbers of the mask {} to the logits",
    "multiplied": "multiply the logits by the mask {}",
    "afterwards": "multiply the probabilities by the mask {}",
}
CHANGES = {
    "transposed": "transpose {}",
    "not transposed": "do not transpose {}",
    "missing": "leave {} out",
    "doubled": "add {} twice",
    "used once": "add {} once",
}
_GROUPS = {
    "repeat": "neighbouring heads share a key (repeat)",
    "tile": "every n-th head shares a key (tile)",
}
_GROUPED = {
    "repeat": "repeat each key and value for neighbouring heads, as jnp.repeat and repeat_interleave do",
    "tile": "repeat all keys and values one after another, as jnp.tile and torch's repeat do",
}


def _splits(splits: tuple[str, str, str]) -> str:
    if len(set(splits)) == 1:
        return ORDERS[splits[0]]
    return ", ".join(f"{n} {ORDERS[s]}" for n, s in zip(("query", "key", "value"), splits, strict=True))


def _roles(roles: str) -> str:
    names = {"q": "query", "k": "key", "v": "value"}
    return ", ".join(names[r] for r in roles)


def _fill(fill: tuple[str, float] | None) -> str:
    if fill is None:
        return "minus infinity, or nearly"
    how, value = fill
    return f"{'' if how == 'set' else 'the logit plus '}{number_text(value)}"


def _text(x: Any) -> str:
    return str(x)


def _window(window: int | None) -> str:
    return "none" if window is None else f"{window} key{'s' * (window != 1)}"


def _late(late: bool) -> str:
    return "after biases are added" if late else "before biases are added"


def _capped(cap: float | None) -> str:
    if cap is None:
        return "do not cap the logits"
    return f"cap the logits: {number_text(cap)} * tanh(logits / {number_text(cap)})"


def _windowed(window: int | None) -> str:
    if window is None:
        return "mask nothing for its distance"
    return f"let a query see only {_window(window)}, its own included"


_ON = {"qk": "queries and keys", "q": "queries only", "k": "keys only"}


def _places(positions: str | None) -> str:
    return "positions 0, 1, 2 ..." if positions is None else f"the positions of {positions!r}"


_Row = tuple[str, str, str, Callable[[Any], str], Callable[[Any], str]]
"""Code, attribute, respect, the value's text, and what to do to have that value."""

PLAIN: tuple[_Row, ...] = (
    (
        "head_order",
        "splits",
        "the axes into which projections are split",
        _splits,
        lambda x: f"reshape projections to {_splits(x)}",
    ),
    (
        "head_order",
        "merge",
        "the axes that are joined after the heads",
        ORDERS.__getitem__,
        lambda x: f"join the heads' outputs as {ORDERS[x]}",
    ),
    ("kv_groups", "groups", "how heads share keys and values", _GROUPS.__getitem__, _GROUPED.__getitem__),
    (
        "projection_roles",
        "roles",
        "the projections that are used as query, key and value",
        _roles,
        lambda x: f"use the projections of {_roles(x)} as query, key and value",
    ),
    (
        "projection_roles",
        "exchanged",
        "the roles of queries and keys",
        {False: "as projected", True: "exchanged"}.__getitem__,
        {False: "use queries and keys as projected", True: "exchange queries and keys"}.__getitem__,
    ),
    (
        "fused_order",
        "fused",
        "how one projection holds query, key and value",
        _FUSED.__getitem__,
        lambda x: f"split the projection into {_FUSED[x]}",
    ),
    (
        "attention_scale",
        "scale",
        "the scale of the logits",
        number_text,
        lambda x: f"multiply the logits by {number_text(x)}",
    ),
    ("attention_softcap", "softcap", "the cap of the logits", number_text, _capped),
    (
        "softmax_axis",
        "axis",
        "what probabilities sum to one over",
        _text,
        lambda x: f"take the softmax over {x}",
    ),
    ("window", "window", "the window of keys that a query sees", _window, _windowed),
    ("mask_value", "fill", "what masked logits become", _fill, lambda x: f"set masked logits to {_fill(x)}"),
    (
        "mask_value",
        "empty",
        "what a query gets that sees nothing",
        _EMPTY.__getitem__,
        lambda x: f"give a query that sees nothing {_EMPTY[x]}",
    ),
    ("bias_scale", "late_scale", "when logits are scaled", _late, lambda x: f"scale the logits {_late(x)}"),
    (
        "batch_axis",
        "sequence",
        "the axis of positions",
        _text,
        lambda x: f"take axis {x} of the input as that of positions",
    ),
)
ROTARY: tuple[_Row, ...] = (
    ("rotary_layout", "layout", "which numbers are turned together", _text, _text),
    (
        "rotary_theta",
        "theta",
        "the base theta of the rotary embedding",
        number_text,
        lambda x: f"compute the angles of the rotary embedding with theta = {number_text(x)}",
    ),
    (
        "rotary_size",
        "size",
        "how many numbers of a head are rotated",
        _text,
        lambda x: f"rotate the first {x} numbers of each head",
    ),
    (
        "rotary_theta",
        "divisor",
        "what the exponents of theta are divided by",
        lambda x: "the rotated numbers of a head" if x is None else str(x),
        lambda x: f"divide the exponents of theta by {'the rotated numbers of a head' if x is None else x}",
    ),
    (
        "rotary_theta",
        "step",
        "the step of the exponents of theta",
        _text,
        lambda x: f"let the exponents of theta grow by {x}",
    ),
    (
        "position_offset",
        "offset",
        "the position of the first token in the rotary embedding",
        number_text,
        lambda x: f"number the positions of the rotary embedding from {number_text(x)} on",
    ),
    (
        "position_offset",
        "ahead",
        "the positions of queries less those of keys",
        number_text,
        lambda x: f"add {number_text(x)} to the positions of queries only" if x else "number queries as keys",
    ),
    (
        "position_scale",
        "factor",
        "what positions are multiplied by in the rotary embedding",
        number_text,
        lambda x: f"multiply positions by {number_text(x)} in the rotary embedding",
    ),
    (
        "rotary_sign",
        "sign",
        "the direction of the rotation",
        {1: "as usual", -1: "reversed"}.__getitem__,
        {
            1: "rotate (a, b) to (a cos - b sin, b cos + a sin)",
            -1: "rotate (a, b) to (a cos + b sin, b cos - a sin)",
        }.__getitem__,
    ),
    (
        "rotary_sign",
        "exchanged",
        "the use of cosine and sine",
        {False: "as usual", True: "exchanged"}.__getitem__,
        {False: "do not exchange cosine and sine", True: "exchange cosine and sine"}.__getitem__,
    ),
    ("rotary_inputs", "on", "what is rotated", _ON.__getitem__, lambda x: f"rotate {_ON[x]}"),
    (
        "positions",
        "positions",
        "the positions of the rotary embedding",
        _places,
        lambda x: f"use {_places(x)}",
    ),
    ("rotary_theta", "table", "the tables of the rotary embedding", _text, lambda x: f"rotate by {x}"),
)
