"""A state for a notebook: its tensors with names folded, and what its metadata records."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from bridge_core.html import Table, fragment, section, verdict_line
from bridge_core.messages import count, fold_names, folded, size_text
from bridge_core.state.keys import join_key
from bridge_core.state.tensors import TensorSpec

if TYPE_CHECKING:
    from bridge_core.state.flat_state import FlatState

__all__ = ["state_fragment"]

_DIGITS = re.compile(r"[0-9]+")
_FEW = 12
"""Rows up to which the table is open at first."""


def state_fragment(state: FlatState) -> str:
    """Return a state as HTML for a notebook; of many rows only the first are shown."""
    alike: dict[tuple[str, TensorSpec], list[str]] = {}
    for key, spec in state.specs().items():
        name = join_key(key)
        alike.setdefault((_DIGITS.sub("0", name), spec), []).append(name)
    rows = []
    for (_, spec), names in alike.items():
        for text, number in fold_names(names):
            shape = f"[{', '.join(map(str, spec.shape))}]"
            times = f"x{number}" if number > 1 else ""
            rows.append((text, spec.dtype.name, shape, times, str(spec.nbytes * number)))
    known = state.metadata
    kinds = Counter(info.kind or info.evidence for info in known.layers.values())
    ties = folded(f"{join_key(key)} = {join_key(other)}" for key, other in known.ties.items())
    table = Table(("name", "dtype", "shape", "", "bytes in all"), rows, (3, 4))
    size = f"{count(len(state), 'tensor')}, {size_text(state.nbytes)}"
    return fragment(
        verdict_line("", "plain", f"FlatState, {state.layout or 'unknown'} layout: {size}"),
        section(f"Tensors: {len(state)}", table, opened=len(rows) <= _FEW),
        section("Recorded layers", [f"{kind}: {number}" for kind, number in kinds.items()]),
        section("Tied", ties),
        section("Stored in the metadata", folded(map(join_key, known.auxiliary_tensors))),
        section("Left out", [f"{one.name}: {one.reason}" for one in known.left_out]),
        section("Notes", known.notes),
    )
