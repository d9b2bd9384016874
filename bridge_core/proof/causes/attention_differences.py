"""What differs between two forms of attention, for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from bridge_core.proof.causes.attention_core import Buckets, Form, Parts
from bridge_core.proof.causes.attention_words import (
    CHANGES,
    LAYOUTS,
    ORDERS,
    PLAIN,
    ROTARY,
    USED,
    USES,
    causal_text,
    counts_text,
    names_text,
    relative_text,
    rotary_text,
)
from bridge_core.proof.causes.rotary import Rotary
from bridge_core.proof.causes.rotary_readings import read_table

__all__ = ["Difference", "difference_text", "form_differences", "relative_difference", "rotary_differences"]


@dataclass(frozen=True)
class Difference:
    """One respect in which two forms differ.

    Args:
        code: The cause's code.
        what: The respect, as what completes "the models differ in".
        source: The source's value.
        target: The target's value.
        mend: What the target must do, in the imperative.
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
            "head_count",
            "the number of heads",
            counts_text(source),
            counts_text(target),
            f"use {counts_text(source)}",
        )
    plain = [one for one in PLAIN if one[1] not in ("splits", "merge")]
    if _ordered(source) and _ordered(target):
        if source.merge != target.merge:
            a, b = ORDERS[source.merge], ORDERS[target.merge]
            yield Difference(
                "head_order",
                "the order of the numbers of the heads",
                a,
                b,
                f"reshape projections to {a}, and the heads' outputs back from it",
            )
    else:
        plain = list(PLAIN)
    for code, name, what, text, mend in plain:
        a, b = getattr(source, name), getattr(target, name)
        if a != b and not (name == "scale" and _scale_follows(source, target)):
            yield Difference(code, what, text(a), text(b), mend(a))
    if source.rotary != target.rotary:
        if source.rotary is None or target.rotary is None:
            values = (rotary_text(source.rotary), rotary_text(target.rotary))
            todo = "do not rotate queries and keys"
            if source.rotary is not None:
                todo = f"rotate queries and keys: {values[0]}"
            yield Difference("rotary_missing", "the rotary embedding", *values, todo)
        else:
            pair = [_readable(rotary, parts) for rotary in (source.rotary, target.rotary)]
            if pair[0] == pair[1]:
                pair = [source.rotary, target.rotary]
            yield from rotary_differences(pair[0], pair[1])
    yield from _mask_differences(source, target)
    if source.changes != target.changes:
        for change in (*source.changes, *target.changes):
            if (change in source.changes) == (change in target.changes):
                continue
            leaf, how = change.split()
            code = "transposed_weight" if how == "transposed" else "projection_bias"
            usual = {"transposed": "not transposed", "missing": "used once", "doubled": "used once"}[how]
            values = (how, usual) if change in source.changes else (usual, how)
            yield Difference(code, f"{leaf} of the attention", *values, CHANGES[values[0]].format(leaf))


def _mask_differences(source: Form, target: Form) -> Iterator[Difference]:
    if source.causal != target.causal:
        code = "causal_mask" if None in (source.causal, target.causal) else "mask_shift"
        values = causal_text(source.causal), causal_text(target.causal)
        yield Difference(code, "what a query sees", *values, f"let {causal_text(source.causal, 'see')}")
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
                f"the use of the mask {name!r}",
                USES[a],
                USES[b],
                USED[a].format(repr(name)),
            )
    if source.biases != target.biases:
        values = (names_text(source.biases), names_text(target.biases))
        yield Difference(
            "attention_bias", "what is added to the logits", *values, f"add {values[0]} to the logits"
        )
    if source.relative != target.relative:
        yield relative_difference(source.relative, target.relative)
    if source.rounding != target.rounding:
        dtypes = [form.rounding[0] if form.rounding else "the full dtype" for form in (source, target)]
        mend = f"compute logits and softmax in {dtypes[0] if source.rounding else 'float32'}"
        yield Difference("softmax_dtype", "the dtype of the softmax", dtypes[0], dtypes[1], mend)


def relative_difference(source: Buckets | str | None, target: Buckets | str | None) -> Difference:
    """Return how two biases by relative positions differ."""
    pair = relative_text(source), relative_text(target)
    mend = "add no bias by relative positions"
    if source is not None:
        mend = f"add a bias by relative positions: {pair[0]}"
    return Difference("relative_position", "the bias by relative positions", *pair, mend)


def rotary_differences(source: Rotary, target: Rotary) -> Iterator[Difference]:
    """Yield every respect in which two rotations differ."""
    if (source.table is None) != (target.table is None):
        values = (rotary_text(source), rotary_text(target))
        code = "rotary_theta" if source.offset == target.offset == 0 else "position_offset"
        yield Difference(code, "the angles of the rotary embedding", *values, f"rotate {values[0]}")
        if source.layout != target.layout:
            yield _layout(source.layout, target.layout)
        return
    for code, name, what, text, mend in ROTARY:
        a, b = getattr(source, name), getattr(target, name)
        if a == b:
            continue
        if name == "layout":
            yield _layout(a, b)
        else:
            yield Difference(code, what, text(a), text(b), mend(a))


def _readable(rotary: Rotary, parts: Parts) -> Rotary:
    """Return the rotation by what its table shows, where it has one and that is a usual one."""
    if rotary.table is None:
        return rotary
    cosine, sine = parts.given[rotary.table]
    rotation = read_table(cosine + 1j * sine, rotary.layout, 1e-5)
    if rotation is None:
        return rotary
    return replace(rotation.rotary, on=rotary.on, exchanged=rotary.exchanged, sign=rotary.sign)


def _layout(source: str, target: str) -> Difference:
    return Difference(
        "rotary_layout",
        "which numbers the rotary embedding turns together",
        LAYOUTS[source],
        LAYOUTS[target],
        f"rotate {LAYOUTS[source]}, or reorder the rows of the query and key projections",
    )


def difference_text(what: str, source: str, target: str) -> str:
    """Return the sentence that two values differ, without its end.

    Args:
        what: The respect in which they differ.
        source: The source's value.
        target: The target's value.
    """
    return f"The models differ in {what}: {source} in the source, {target} in the target"


def _ordered(form: Form) -> bool:
    """Return whether projections are split as the heads' outputs are joined."""
    return set(form.splits) == {form.merge}


def _scale_follows(source: Form, target: Form) -> bool:
    """Return whether the scale differs only because the number of heads does."""
    return source.heads != target.heads
