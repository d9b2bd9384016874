"""The search for sums with a term that has another shape at first: what is left without one array."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bridge_core.proof.causes.chains import chains
from bridge_core.proof.causes.expressions import Expression, Term
from bridge_core.proof.causes.search import Search

__all__ = ["remainders"]

MOST_STARTS = 4


def remainders(search: Search) -> Iterator[Expression]:
    """Yield x + chain(y), for example with a branch over tokens that is transposed back."""
    shape = search.observed.shape
    whole = [
        n for n in search.bases if search.arrays[n].shape == shape and search.arrays[n].dtype.kind == "f"
    ]
    scale = float(np.max(np.abs(search.observed)))
    for name in whole[:MOST_STARTS]:
        rest = search.observed - search.arrays[name]
        largest = float(np.max(np.abs(rest)))
        if not largest > search.limit * scale:
            continue
        others = tuple(n for n in search.bases if n != name)
        inner = replace(search, observed=rest, bases=others, limit=search.limit * scale / largest)
        for found in itertools.islice(chains(inner), 8):
            if len(found.terms) == 1 and found.dropout is None:
                term = replace(found.terms[0], steps=(*found.terms[0].steps, *found.after))
                yield Expression((term, Term(name)), cost=found.cost + 1)
