"""What differs between two forms of attention, for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bridge_core.proof.causes.attention_core import Buckets, Form, Parts
from bridge_core.proof.causes.rotary import Rotary

__all__ = ["Difference", "described", "form_differences", "rotary_differences"]


@dataclass(frozen=True)
class Difference:
    """One respect in which two forms differ.

    Args:
        code: The cause's code.
        what: The respect, as the subject of a sentence.
        source: The source's value.
        target: The target's value.
        mend: What the target must do.
    """

    code: str
    what: str
    source: str
    target: str
    mend: str


def form_differences(source: Form, target: Form, parts: Parts) -> Iterator[Difference]:
    """Yield every respect in which two forms differ.

    Args:
        source: The source's form.
        target: The target's form.
        parts: Arrays that the forms name.
    """
    if (source.heads, source.kv_heads) != (target.heads, target.kv_heads):
        yield Difference(
            "head_count", "The number of heads", _counts(source), _counts(target), f"use {_counts(source)}"
        )
    plain = [one for one in _PLAIN if one[1] not in ("splits", "merge")]
    if _ordered(source) and _ordered(target):
        if source.merge != target.merge:
            a, b = _ORDERS[source.merge], _ORDERS[target.merge]
            yield Difference(
                "head_order", "The order of the numbers of heads", a, b, f"reshape to {a}, and back"
            )
    else:
        plain = list(_PLAIN)
    for code, name, what, text in plain:
        a, b = getattr(source, name), getattr(target, name)
        if a != b and not (name == "scale" and _scale_follows(source, target)):
            yield Difference(code, what, text(a), text(b), f"use {text(a)}")
    if source.rotary != target.rotary:
        if source.rotary is None or target.rotary is None:
            values = (_rotary(source.rotary), _rotary(target.rotary))
            verb = (
                "rotate queries and keys" if source.rotary is not None else "do not rotate queries and keys"
            )
            yield Difference("rotary_missing", "The rotary embedding", *values, f"{verb}: {values[0]}")
        else:
            yield from rotary_differences(source.rotary, target.rotary)
    yield from _mask_differences(source, target)
    if source.changes != target.changes:
        for change in (*source.changes, *target.changes):
            if (change in source.changes) == (change in target.changes):
                continue
            leaf, how = change.split()
            code = "transposed_weight" if how == "transposed" else "projection_bias"
            usual = {"transposed": "not transposed", "missing": "used once", "doubled": "used once"}[how]
            values = (how, usual) if change in source.changes else (usual, how)
            yield Difference(code, f"{leaf} of the attention", *values, f"{leaf} must be {values[0]}")


def _mask_differences(source: Form, target: Form) -> Iterator[Difference]:
    if source.causal != target.causal:
        code = "causal_mask" if None in (source.causal, target.causal) else "mask_shift"
        values = _causal(source.causal), _causal(target.causal)
        yield Difference(code, "What a query may see", *values, f"let {values[0]}")
    if source.masks != target.masks:
        ours, theirs = dict(source.masks), dict(target.masks)
        for name in dict.fromkeys([*ours, *theirs]):
            a, b = ours.get(name), theirs.get(name)
            if a == b:
                continue
            code = "mask" if a is None or b is None else "mask_use"
            if {a, b} == {"keep", "masked"}:
                code = "mask_sign"
            yield Difference(
                code,
                f"The use of the mask {name!r}",
                _USES[a],
                _USES[b],
                f"the mask {name!r} must be: {_USES[a]}",
            )
    if source.biases != target.biases:
        values = (_list(source.biases), _list(target.biases))
        yield Difference("attention_bias", "What is added to the logits", *values, f"add {values[0]}")
    if source.relative != target.relative:
        pair = _relative(source.relative), _relative(target.relative)
        yield Difference("relative_position", "The bias by relative positions", *pair, f"use {pair[0]}")
    if source.rounding != target.rounding:
        dtypes = [form.rounding[0] if form.rounding else "the full dtype" for form in (source, target)]
        mend = f"compute logits and softmax in {dtypes[0] if source.rounding else 'float32'}"
        yield Difference("softmax_dtype", "The dtype of the softmax", dtypes[0], dtypes[1], mend)


def rotary_differences(source: Rotary, target: Rotary) -> Iterator[Difference]:
    """Yield every respect in which two rotations differ."""
    if (source.table is None) != (target.table is None):
        values = (_rotary(source), _rotary(target))
        code = "rotary_theta" if source.offset == target.offset == 0 else "position_offset"
        yield Difference(code, "The angles of the rotary embedding", *values, f"use {values[0]}")
        if source.layout != target.layout:
            yield _layout(source.layout, target.layout)
        return
    for code, name, what, text in _ROTARY:
        a, b = getattr(source, name), getattr(target, name)
        if a == b:
            continue
        if name == "layout":
            yield _layout(a, b)
        else:
            yield Difference(code, what, text(a), text(b), f"use {text(a)}")


def _layout(source: str, target: str) -> Difference:
    return Difference(
        "rotary_layout",
        "Which numbers the rotary embedding turns together",
        _LAYOUTS[source],
        _LAYOUTS[target],
        f"rotate {_LAYOUTS[source]}, or reorder the rows of the query and key projections",
    )


def described(form: Form) -> str:
    """Return a form in words, for the one of two that was identified."""
    pieces = [_counts(form), f"logits times {_number(form.scale)}"]
    if form.rotary is not None:
        pieces.append(f"rotary embedding of {_rotary(form.rotary)}")
    if form.causal is not None:
        pieces.append(_causal(form.causal))
    if form.window is not None:
        pieces.append(f"a window of {form.window}")
    pieces += [f"mask {name!r}, {_USES[use]}" for name, use in form.masks]
    if form.biases:
        pieces.append(f"{_list(form.biases)} added to the logits")
    if form.relative is not None:
        pieces.append(_relative(form.relative))
    if form.softcap is not None:
        pieces.append(f"logits capped at {_number(form.softcap)}")
    return ", ".join(pieces)


def _ordered(form: Form) -> bool:
    """Return whether projections are split as the heads' outputs are joined."""
    return set(form.splits) == {form.merge}


def _scale_follows(source: Form, target: Form) -> bool:
    """Return whether the scale differs only because the number of heads does."""
    return source.heads != target.heads


def _counts(form: Form) -> str:
    heads = f"{form.heads} head" + "s" * (form.heads != 1)
    if form.kv_heads == form.heads:
        return heads
    return f"{heads}, {form.kv_heads} of keys and values"


def _number(x: float | None) -> str:
    if x is None:
        return "none"
    return f"{x:.6g}"


def _list(names: tuple[str, ...]) -> str:
    return " and ".join(repr(name) for name in names) if names else "nothing"


def _causal(ahead: int | None) -> str:
    if ahead is None:
        return "every query see all keys"
    if ahead == 0:
        return "a query see itself and what is before it"
    if ahead == -1:
        return "a query see only what is before it"
    return f"a query see up to {abs(ahead)} positions {'ahead' if ahead > 0 else 'before itself'}"


def _rotary(rotary: Rotary | None) -> str:
    if rotary is None:
        return "none"
    if rotary.table is not None:
        return f"{_LAYOUTS[rotary.layout]}, by the tables {rotary.table}"
    offset = f", positions from {_number(rotary.offset)} on" if rotary.offset else ""
    return f"{_LAYOUTS[rotary.layout]}, theta {_number(rotary.theta)}{offset}"


def _relative(relative: Buckets | str | None) -> str:
    if relative is None:
        return "none"
    if isinstance(relative, str):
        return "ALiBi"
    ways = "both directions" if relative.bidirectional else "one direction"
    turned = ", query and key exchanged" if relative.reverse else ""
    return f"buckets of {relative.table}, {ways}, distances up to {relative.distance}{turned}"


_LAYOUTS = {"halves": "the two halves of a head", "interleaved": "neighbours (0 with 1, 2 with 3)"}
_ORDERS = {"h d": "(heads, head_dim)", "d h": "(head_dim, heads)", "h t d": "(heads, length, head_dim)"}
_USES = {
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
_EMPTY = {"uniform": "the mean of all", "unmasked": "as if there were no mask", "zero": "zero"}


def _splits(splits: tuple[str, str, str]) -> str:
    if len(set(splits)) == 1:
        return _ORDERS[splits[0]]
    return ", ".join(f"{n} {_ORDERS[s]}" for n, s in zip(("query", "key", "value"), splits, strict=True))


def _roles(roles: str) -> str:
    names = {"q": "query", "k": "key", "v": "value"}
    return ", ".join(names[r] for r in roles)


def _fill(fill: tuple[str, float] | None) -> str:
    if fill is None:
        return "minus infinity, or nearly"
    how, value = fill
    return f"{'' if how == 'set' else 'the logit plus '}{_number(value)}"


def _text(x: Any) -> str:
    return str(x)


_PLAIN: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("head_order", "splits", "The axes into which projections are split", _splits),
    ("head_order", "merge", "The axes that are joined after the heads", _ORDERS.__getitem__),
    (
        "kv_groups",
        "groups",
        "How heads share keys and values",
        {
            "repeat": "each key's heads are neighbours (repeat)",
            "tile": "each key's heads are far from each other (tile)",
        }.__getitem__,
    ),
    ("projection_roles", "roles", "The projections used as query, key, value", _roles),
    (
        "projection_roles",
        "exchanged",
        "Queries and keys",
        {False: "as projected", True: "exchanged"}.__getitem__,
    ),
    ("fused_order", "fused", "How one projection holds query, key and value", _FUSED.__getitem__),
    ("attention_scale", "scale", "The scale of the logits", _number),
    ("attention_softcap", "softcap", "The cap of the logits", _number),
    ("softmax_axis", "axis", "What probabilities sum to one over", _text),
    ("window", "window", "The window of keys that a query sees, itself included", _text),
    ("mask_value", "fill", "What masked logits become", _fill),
    ("mask_value", "empty", "What a query gets that may see nothing", _EMPTY.__getitem__),
    (
        "bias_scale",
        "late_scale",
        "When logits are scaled",
        lambda x: "after biases are added" if x else "before biases are added",
    ),
    ("batch_axis", "sequence", "The axis of positions", _text),
)
_ROTARY: tuple[tuple[str, str, str, Callable[[Any], str]], ...] = (
    ("rotary_layout", "layout", "Which numbers are turned together", _text),
    ("rotary_theta", "theta", "The base theta of the rotary embedding", _number),
    ("rotary_size", "size", "The numbers of a head that are rotated", _text),
    ("rotary_theta", "divisor", "What the exponents of theta are divided by", _text),
    ("rotary_theta", "step", "The step of the exponents of theta", _text),
    ("position_offset", "offset", "The position of the first token in the rotary embedding", _number),
    ("position_offset", "ahead", "The positions of queries less those of keys", _number),
    ("position_scale", "factor", "What positions are multiplied by in the rotary embedding", _number),
    ("rotary_sign", "sign", "The direction of the rotation", {1: "as usual", -1: "reversed"}.__getitem__),
    ("rotary_sign", "exchanged", "Cosine and sine", {False: "as usual", True: "exchanged"}.__getitem__),
    (
        "rotary_inputs",
        "on",
        "What is rotated",
        {"qk": "queries and keys", "q": "queries only", "k": "keys only"}.__getitem__,
    ),
    (
        "positions",
        "positions",
        "The positions of the rotary embedding",
        lambda x: "0, 1, 2 ..." if x is None else f"those of {x!r}",
    ),
    ("rotary_theta", "table", "The tables of the rotary embedding", _text),
)
