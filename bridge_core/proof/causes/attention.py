"""Causes in attention: each side's form is identified, and the forms are compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bridge_core.proof.causes.attention_buckets import bucket_causes
from bridge_core.proof.causes.attention_core import Form, Parts
from bridge_core.proof.causes.attention_differences import difference_text, form_differences
from bridge_core.proof.causes.attention_forms import Hints
from bridge_core.proof.causes.attention_parts import attention_parts
from bridge_core.proof.causes.attention_recovered import (
    dropped_share,
    masked_form,
    probabilities,
    rounded_form,
)
from bridge_core.proof.causes.attention_search import (
    Recorded,
    error,
    identify,
    identify_further,
    identify_near,
)
from bridge_core.proof.causes.attention_words import described, place_text
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
    yield from bucket_causes(site)
    found = attention_parts(site)
    if found is None:
        return
    parts, hints, (source, target) = found
    without = relative_error(source.output, target.output)
    if source.output.shape == target.output.shape and without <= source.limit:
        return
    yield from _causes(parts, hints, source, target, without, place_text(site.target))


def _causes(
    parts: Parts, hints: Hints, source: Recorded, target: Recorded, without: float, place: str
) -> Iterator[Cause]:
    first = identify(parts, hints, source)
    second = None
    if first is None:
        second = identify(parts, hints, target)
        if second is None:
            return
    source_known = first is not None
    known = first or second
    assert known is not None
    other, recorded = (target, source) if source_known else (source, target)
    off = error(parts, known, recorded)
    if not np.isfinite(without):  # one side was recorded before its output projection
        without = error(parts, known, other)
    near = identify_near(parts, hints, other, known)
    if near is None:
        causes = list(_recovered(parts, known, other, off, without, place, source_known=source_known))
        if causes:
            yield from causes
            return
        near = identify_further(parts, hints, other, known)
    if near is not None:
        forms = (known, near) if source_known else (near, known)
        yield from _named(parts, *forms, off, without, place)
    elif source_known:
        yield Cause(
            "other_computation",
            f"The source computes attention with {described(known)}; what the target computes is not known.",
            described(known),
            "unknown",
            without,
            off,
            f"{place}: compute attention with {described(known)}.",
        )


def _named(
    parts: Parts, first: Form, second: Form, with_it: float, without: float, place: str
) -> Iterator[Cause]:
    differences = list(form_differences(first, second, parts))
    for difference in differences:
        others = [d.what for d in differences if d is not difference]
        together = f"; they also differ in {' and '.join(others)}" if others else ""
        yield Cause(
            difference.code,
            f"{difference_text(difference.what, difference.source, difference.target)}{together}.",
            difference.source,
            difference.target,
            without,
            with_it,
            f"{place}: {difference.mend}.",
        )


def _recovered(
    parts: Parts,
    known: Form,
    other: Recorded,
    off: float,
    without: float,
    place: str,
    *,
    source_known: bool,
) -> Iterator[Cause]:
    """Yield what one side does that no form has, where the other's form is known."""
    sides = ("source", "target") if source_known else ("target", "source")
    rounded = rounded_form(parts, known, other)
    if rounded is not None:
        forms = (known, rounded[0]) if source_known else (rounded[0], known)
        yield from _named(parts, *forms, off, without, place)
        return
    dropped = dropped_share(parts, known, other)
    if dropped is not None:
        values = ["0", f"{dropped.share:.2g}"] if source_known else [f"{dropped.share:.2g}", "0"]
        yield Cause(
            "dropout",
            f"The {sides[1]} drops a share of {dropped.share:.2g} of the attention's probabilities"
            f" ({dropped.count} {'is' if dropped.count == 1 else 'are'} zero); the {sides[0]} drops none.",
            values[0],
            values[1],
            without,
            off,
            f"Run the {sides[1]} without dropout: model.eval(), or deterministic=True.",
        )
        return
    masked = masked_form(parts, known, other, "of the " + sides[1])
    if masked is not None:
        yield _other_mask(*masked, parts, known, without, off, sides, place)


def _other_mask(
    masked: Parts,
    form: Form,
    parts: Parts,
    known: Form,
    without: float,
    off: float,
    sides: tuple[str, str],
    place: str,
) -> Cause:
    """Return the cause that a mask differs, with the first query and key where it does."""
    seen = masked.masks[form.masks[0][0]] > 0
    differing = _first_difference(parts, known, seen)
    text = ""
    values = ["known", "another"]
    if differing is not None:
        query, key, sees = differing
        text = f": query {query} sees key {key} in the {sides[1] if sees else sides[0]} only"
        values = [
            f"query {query} {'does not see' if sees else 'sees'} key {key}",
            f"query {query} {'sees' if sees else 'does not see'} key {key}",
        ]
    if sides[0] == "target":
        values.reverse()
    return Cause(
        "mask",
        f"The models differ in the mask of the attention{text}.",
        values[0],
        values[1],
        without,
        off,
        f"{place}: use the source's mask.",
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
