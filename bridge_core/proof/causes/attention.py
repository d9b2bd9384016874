"""Causes in attention: each side's form is identified, and the forms are compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bridge_core.proof.causes.attention_core import Form, Parts
from bridge_core.proof.causes.attention_differences import described, form_differences
from bridge_core.proof.causes.attention_forms import Hints
from bridge_core.proof.causes.attention_parts import attention_parts
from bridge_core.proof.causes.attention_recovered import (
    dropped_share,
    masked_form,
    probabilities,
    rounded_form,
)
from bridge_core.proof.causes.attention_search import Recorded, error, identify, identify_near
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.measures import relative_error
from bridge_core.proof.causes.positions import position_causes
from bridge_core.proof.causes.rotary_sites import rotary_causes
from bridge_core.proof.causes.site import Site

__all__ = ["attention_causes"]


def attention_causes(site: Site) -> Iterator[Cause]:
    """Yield the causes in attention, rotary embeddings and positions; nothing if the site has none of them.

    Args:
        site: Where two models part.
    """
    yield from rotary_causes(site)
    yield from position_causes(site)
    found = attention_parts(site)
    if found is None:
        return
    parts, hints, (source, target) = found
    without = relative_error(source.output, target.output)
    if source.output.shape == target.output.shape and without <= source.limit:
        return
    yield from _causes(parts, hints, source, target, without)


def _causes(
    parts: Parts, hints: Hints, source: Recorded, target: Recorded, without: float
) -> Iterator[Cause]:
    first = identify(parts, hints, source)
    second = None
    if first is None:
        second = identify(parts, hints, target)
        if second is None:
            return
        first = identify_near(parts, hints, source, second)
    else:
        second = identify_near(parts, hints, target, first)
    if first is not None and second is not None:
        yield from _named(parts, first, second, error(parts, first, source), without)
        return
    known, other, recorded = (first, target, source) if first is not None else (second, source, target)
    assert known is not None
    yield from _recovered(parts, known, other, recorded, without, source_known=first is not None)


def _named(parts: Parts, first: Form, second: Form, with_it: float, without: float) -> Iterator[Cause]:
    differences = list(form_differences(first, second, parts))
    for difference in differences:
        others = [d.what[0].lower() + d.what[1:] for d in differences if d is not difference]
        together = f"; so does {' and '.join(others)}" if others else ""
        yield Cause(
            difference.code,
            f"{difference.what} differs: {difference.source} in the source, {difference.target} in the target"
            f"{together}.",
            difference.source,
            difference.target,
            without,
            with_it,
            f"In the target's attention: {difference.mend}.",
        )


def _recovered(
    parts: Parts, known: Form, other: Recorded, recorded: Recorded, without: float, *, source_known: bool
) -> Iterator[Cause]:
    """Yield what one side does that no form has, where the other's form is known."""
    off = error(parts, known, recorded)
    sides = ("source", "target") if source_known else ("target", "source")
    rounded = rounded_form(parts, known, other)
    if rounded is not None:
        forms = (known, rounded[0]) if source_known else (rounded[0], known)
        yield from _named(parts, *forms, off, without)
        return
    dropped = dropped_share(parts, known, other)
    if dropped is not None:
        values = ["0", f"{dropped.share:.2g}"] if source_known else [f"{dropped.share:.2g}", "0"]
        yield Cause(
            "dropout",
            f"The {sides[1]} drops a share of {dropped.share:.2g} of the attention's probabilities"
            f" ({dropped.count} are zero); the {sides[0]} drops none.",
            values[0],
            values[1],
            without,
            off,
            f"Run the {sides[1]} without dropout: model.eval(), or deterministic=True.",
        )
        return
    masked = masked_form(parts, known, other, "of the " + sides[1])
    if masked is not None:
        yield _other_mask(*masked, parts, known, without, off, sides)
        return
    if source_known:
        yield Cause(
            "other_computation",
            f"The source's attention is known ({described(known)}), the target's is none of the known forms.",
            described(known),
            "unknown",
            without,
            off,
            "Compare the target's attention with what the source computes.",
        )


def _other_mask(
    masked: Parts, form: Form, parts: Parts, known: Form, without: float, off: float, sides: tuple[str, str]
) -> Cause:
    """Return the cause that a mask differs, with the first query and key where it does."""
    seen = masked.masks[form.masks[0][0]] > 0
    place = _first_difference(parts, known, seen)
    text = ""
    values = ["known", "another"]
    if place is not None:
        query, key, sees = place
        text = f": query {query} {'sees' if sees else 'does not see'} key {key} in the {sides[1]} only"
        text = text if sees else f": query {query} sees key {key} in the {sides[0]} only"
        values = [
            f"query {query} {'does not see' if sees else 'sees'} key {key}",
            f"query {query} {'sees' if sees else 'does not see'} key {key}",
        ]
    if sides[0] == "target":
        values.reverse()
    return Cause(
        "mask",
        f"The masks of the attention differ{text}.",
        values[0],
        values[1],
        without,
        off,
        "In the target: give the attention the source's mask.",
    )


def _first_difference(parts: Parts, known: Form, seen: np.ndarray) -> tuple[int, int, bool] | None:
    expected = probabilities(parts, known)
    if expected is None:
        return None
    places = np.argwhere((expected > 0) != seen)
    if not len(places):
        return None
    _, _, query, key = places[0]
    return int(query), int(key), bool(seen[tuple(places[0])])
