"""Causes in the numbers of positions: what an embedding of positions is indexed by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bridge_core.proof.causes.attention_differences import difference_text
from bridge_core.proof.causes.attention_words import place_text
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["position_id_causes"]


def position_id_causes(site: Site) -> Iterator[Cause]:
    """Yield the causes where a child is called with other position numbers.

    Args:
        site: Where two models part.
    """
    if site.at is None:
        return
    one, other = site.pairs[site.at]
    first, second = _integers(site.source.children[one]), _integers(site.target.children[other])
    if first is None or second is None:
        return
    try:
        ids, others = np.broadcast_arrays(first, second)
    except ValueError:
        return
    if (ids == others).all():
        return
    masks = [m for m in _masks(site, ids.shape[-1])]
    read, other_read = _read(ids, masks), _read(others, masks)
    if read is None or other_read is None:
        return
    (kind, start), (other_kind, other_start) = read, other_read
    if kind == other_kind:
        code, values = "position_offset", (f"from {start} on", f"from {other_start} on")
    elif "reversed" in (kind, other_kind):
        code, values = "position_order", (_text(kind, start), _text(other_kind, other_start))
    else:
        code, values = "positions", (_text(kind, start), _text(other_kind, other_start))
    without = float(np.abs(ids - others).max() / max(np.abs(ids).max(), 1))
    name = ".".join(map(str, site.target.children[other].path))
    yield Cause(
        code,
        f"{difference_text(f'the position numbers given to {name}', *values)}.",
        *values,
        without,
        0.0,
        f"{place_text(site.target)}: number the positions {values[0]}.",
    )


def _integers(view: ModuleView) -> Array | None:
    for value in view.inputs.values():
        array = np.asarray(value)
        if array.dtype.kind in "iu" and array.ndim and array.size:
            return array.astype(np.int64)
    return None


def _masks(site: Site, length: int) -> Iterator[Array]:
    for inputs in (site.source_inputs, site.target_inputs):
        for value in (*inputs.positional, *inputs.named.values()):
            array = np.asarray(value) if not isinstance(value, (dict, list, tuple, str)) else np.zeros(0)
            if array.dtype.kind not in "biu" or array.ndim != 2 or array.shape[-1] != length:
                continue
            if ((array == 0) | (array == 1)).all():
                yield array.astype(np.int64)
            else:
                for padding in (0, 1):
                    if (array == padding).any():
                        yield (array != padding).astype(np.int64)


def _read(ids: Array, masks: list[Array]) -> tuple[str, int] | None:
    """Return how ids are numbered, and the first number; None if they are not numbered in order."""
    length = ids.shape[-1]
    if length < 2:
        return None
    start = int(ids.min())
    if (ids == np.arange(length) + start).all():
        return "in order", start
    if (ids == np.arange(length)[::-1] + start).all():
        return "reversed", start
    for mask in masks:
        if mask.shape == ids.shape:
            counted = mask.cumsum(-1)
            seen = mask > 0
            offsets = np.unique((ids - counted)[seen])
            if len(offsets) == 1:
                return "counted", int(offsets[0]) + 1
    if (ids == start).all():
        return "constant", start
    return None


def _text(kind: str, start: int) -> str:
    return {
        "in order": f"from {start} on",
        "reversed": f"from the last one to {start}",
        "counted": f"from {start} on, without padding",
        "constant": f"{start} for all",
    }[kind]
