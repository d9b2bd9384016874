"""Causes in positions: their numbers, learned tables, sinusoids, and the class token's place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bridge_core.proof.causes.attention_differences import difference_text
from bridge_core.proof.causes.attention_words import place_text
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.measures import comparable, relative_error, rounding
from bridge_core.proof.causes.position_ids import position_id_causes
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["PositionForm", "position_causes", "position_vectors"]

_LARGEST = 1 << 22
"""Numbers of an array over which nothing is tried."""

_LAYOUTS = {
    "sin cos": "all sines, then all cosines",
    "cos sin": "all cosines, then all sines",
    "sin, cos": "sine and cosine in turn",
    "cos, sin": "cosine and sine in turn",
}


@dataclass(frozen=True)
class PositionForm:
    """How positions enter.

    Args:
        table: Name of a learned table, ``"sinusoid"``, or None for nothing.
        offset: The row of the first position.
        reversed: Whether the last position comes first.
        layout: Of a sinusoid.
        theta: Of a sinusoid.
        shortened: Whether a sinusoid's exponents are divided by one frequency less.
        token: Where the class token is: ``"first"``, ``"last"`` or None.
        bare: Whether the class token has no position.
    """

    table: str | None = None
    offset: int = 0
    reversed: bool = False
    layout: str = "sin cos"
    theta: float = 1e4
    shortened: bool = False
    token: str | None = None
    bare: bool = False


def position_causes(site: Site) -> Iterator[Cause]:
    """Yield the causes in position numbers, position embeddings and class tokens.

    Args:
        site: Where two models part.
    """
    yield from position_id_causes(site)
    observed = _observed(site)
    if observed is None:
        return
    first, second, limit = observed
    batch, length, width = first.shape
    terms = _terms(site, batch, length, width)
    tables = dict(_tables(site, width, length))
    tokens = dict(_tokens(site, width))
    forms = list(_forms(tables, bool(tokens), length, width))
    if not terms or len(forms) < 2:
        return
    read = [_identified(y, terms, tables, tokens, forms, limit) for y in (first, second)]
    if read[0] is None or read[1] is None or read[0][0] == read[1][0]:
        return
    without = relative_error(first, second)
    yield from _causes(read[0][0], read[1][0], read[0][1], without, place_text(site.target))


def position_vectors(form: PositionForm, table: Array | None, length: int, width: int) -> Array | None:
    """Return ``(length, width)`` that a form adds; None if the table has too few rows.

    Args:
        form: How positions enter.
        table: The learned table, ``(rows, width)``; None for a sinusoid.
        length: Number of positions.
        width: Numbers of one position.
    """
    places = np.arange(length) + form.offset
    if form.reversed:
        places = places[::-1]
    if form.table is None:
        return np.zeros((length, width))
    if form.table != "sinusoid":
        if table is None or places.min() < 0 or places.max() >= len(table):
            return None
        return table[places]
    half = width // 2
    if 2 * half != width:
        return None
    steps = np.arange(half) / (max(half - 1, 1) if form.shortened else half)
    angles = places[:, None] * form.theta**-steps
    sine, cosine = np.sin(angles), np.cos(angles)
    pair = (sine, cosine) if form.layout.startswith("sin") else (cosine, sine)
    if "," in form.layout:
        return np.stack(pair, -1).reshape(length, 2 * half)
    return np.concatenate(pair, -1)


def _observed(site: Site) -> tuple[Array, Array, float] | None:
    """Return what differs as float64 ``(batch, length, width)`` of both sides, and the limit of rounding."""
    arrays = []
    for side, view in enumerate((site.source, site.target)):
        found = view.outputs if site.at is None else view.children[site.pairs[site.at][side]].inputs
        array = next((np.asarray(a) for a in found.values() if np.asarray(a).dtype.kind == "f"), None)
        if array is None or array.ndim != 3 or not 0 < array.size <= _LARGEST:
            return None
        arrays.append(array)
    limit = rounding(site, *arrays)
    first, second = (np.asarray(a, np.float64).reshape(-1, *a.shape[-2:]) for a in arrays)
    if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    if first.shape[1] < 2 or relative_error(first, second) <= limit:
        return None
    return first, second, limit


def _terms(site: Site, batch: int, length: int, width: int) -> list[Array]:
    """Return arrays that may be terms of the sum, float64 ``(batch or 1, length or less, width)``."""
    before = site.pairs if site.at is None else site.pairs[: site.at]
    arrays = [np.asarray(a) for one, _ in before[-6:] for a in site.source.children[one].outputs.values()]
    arrays += [np.asarray(a) for a in site.source.inputs.values()]
    result: list[Array] = []
    for array in arrays:
        if array.dtype.kind != "f" or array.size > _LARGEST:
            continue
        for shaped in _sequences(np.asarray(array, np.float64), width):
            fits = shaped.shape[0] in (1, batch) and shaped.shape[1] in (length, length - 1)
            if fits and not any(np.array_equal(t, shaped) for t in result):
                result.append(shaped)
    if len(result) > 4:
        return []
    return result


def _sequences(x: Array, width: int) -> Iterator[Array]:
    if x.ndim in (2, 3) and x.shape[-1] == width:
        yield x.reshape(-1, *x.shape[-2:])
    elif x.ndim == 4 and x.shape[-1] == width:
        yield x.reshape(x.shape[0], -1, width)
    elif x.ndim == 4 and x.shape[1] == width:
        yield x.reshape(x.shape[0], width, -1).swapaxes(1, 2)


def _own(view: ModuleView) -> Iterator[tuple[str, Array]]:
    for key, value in view.weights.items():
        array = np.asarray(value)
        if array.dtype.kind == "f" and comparable(array) and array.size <= _LARGEST:
            yield ".".join(map(str, key)), np.asarray(array, np.float64)


def _tables(site: Site, width: int, length: int) -> Iterator[tuple[str, Array]]:
    """Yield learned tables of positions, ``(rows, width)``."""
    seen: list[Array] = []
    for view in (site.source, site.target):
        for name, array in _own(view):
            rows = array.size // width
            if array.ndim < 2 or rows * width != array.size or not length - 1 <= rows <= 4096:
                continue
            if array.shape[-1] == width and "pos" in name.lower():
                table = array.reshape(rows, width)
                if not any(t.shape == table.shape and (t == table).all() for t in seen):
                    seen.append(table)
                    yield name, table


def _tokens(site: Site, width: int) -> Iterator[tuple[str, Array]]:
    for view in (site.source, site.target):
        for name, array in _own(view):
            if array.size == width and (
                "cls" in name.lower() or "class" in name.lower() or "token" in name.lower()
            ):
                yield name, array.reshape(width)


def _forms(tables: dict[str, Array], tokens: bool, length: int, width: int) -> Iterator[PositionForm]:
    places: list[tuple[str | None, bool]] = [("first", False), ("last", False), ("first", True)]
    for token, bare in places if tokens else [(None, False)]:
        for name, table in tables.items():
            count = length - 1 if bare else length
            for offset in range(min(len(table) - count, 8) + 1):
                yield PositionForm(name, offset, token=token, bare=bare)
            yield PositionForm(name, reversed=True, token=token, bare=bare)
        for offset in (0, 1, 2, -1):
            for layout in _LAYOUTS:
                for shortened in (False, True):
                    yield PositionForm("sinusoid", offset, False, layout, shortened=shortened, token=token)
        for theta in (1e3, 1e5, 1e6):
            for layout in _LAYOUTS:
                yield PositionForm("sinusoid", 0, False, layout, theta, token=token)
        yield PositionForm(token=token, bare=bare)


def _identified(
    y: Array,
    terms: list[Array],
    tables: dict[str, Array],
    tokens: dict[str, Array],
    forms: list[PositionForm],
    limit: float,
) -> tuple[PositionForm, float] | None:
    """Return the form whose sum of terms and positions, each with a factor, is an array; and its error."""
    _, length, width = y.shape
    for form in forms:
        count = length - 1 if form.bare else length
        added = position_vectors(form, tables.get(form.table or ""), count, width)
        if added is None:
            continue
        if form.bare:
            added = np.concatenate((np.zeros((1, width)), added))
        columns = []
        for term in terms:
            columns.append(_with_token(term, form, tokens, length))
        known = [np.broadcast_to(c, y.shape).reshape(-1) for c in columns if c is not None]
        if form.table is not None:
            known.append(np.broadcast_to(added, y.shape).reshape(-1))
        if not known:
            continue
        matrix = np.stack(known, 1)
        factors = np.linalg.lstsq(matrix, y.reshape(-1), rcond=None)[0]
        if form.table is not None and abs(factors[-1]) < 1e-3:
            continue
        off = relative_error(y.reshape(-1), matrix @ factors)
        if off <= limit:
            return form, off
    return None


def _with_token(term: Array, form: PositionForm, tokens: dict[str, Array], length: int) -> Array | None:
    if form.token is None or term.shape[1] == length:
        return term if term.shape[1] == length else None
    token = np.broadcast_to(next(iter(tokens.values())), (term.shape[0], 1, term.shape[2]))
    return np.concatenate((token, term) if form.token == "first" else (term, token), 1)


def _causes(
    source: PositionForm, target: PositionForm, error: float, without: float, place: str
) -> Iterator[Cause]:
    for code, what, a, b, todo in _differences(source, target):
        yield Cause(
            code,
            f"{difference_text(what, a, b)}.",
            a,
            b,
            without,
            error,
            f"{place}: {todo}.",
        )


def _differences(a: PositionForm, b: PositionForm) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield code, respect, both values, and what to do."""
    if a.token != b.token:
        names = (a.token or "none", b.token or "none")
        todo = "leave the class token out" if a.token is None else f"put the class token {a.token}"
        yield "class_token", "the place of the class token", *names, todo
    if a.bare != b.bare:
        on = {True: "on all but the class token", False: "on every token"}
        yield "position_offset", "where positions are added", on[a.bare], on[b.bare], _adding(on[a.bare])
    if a.table != b.table:
        code = "position_table"
        if a.table is None or b.table is None:
            code = "extra_positions" if a.table is None else "missing_positions"
        todo = "add no position embedding" if a.table is None else f"add the position embedding {a.table}"
        yield code, "the position embedding", a.table or "none", b.table or "none", todo
        return
    if a.offset != b.offset and a.bare == b.bare:
        rows = (f"row {a.offset}", f"row {b.offset}")
        todo = f"take the position embedding from row {a.offset} on"
        yield "position_offset", "the row of the first position", *rows, todo
    if a.reversed != b.reversed:
        order = {True: "last first", False: "first to last"}
        todo = f"number the positions {order[a.reversed]}"
        yield "position_order", "the order of positions", order[a.reversed], order[b.reversed], todo
    if a.layout != b.layout:
        layouts = (_LAYOUTS[a.layout], _LAYOUTS[b.layout])
        yield "sinusoid_layout", "the order of the sinusoid", *layouts, f"put {layouts[0]}"
    if a.theta != b.theta:
        bases = (f"{a.theta:g}", f"{b.theta:g}")
        yield "sinusoid_theta", "the base of the sinusoid", *bases, f"compute the sinusoid with {bases[0]}"
    if a.shortened != b.shortened:
        by = {True: "the number of frequencies less one", False: "the number of frequencies"}
        what = "what the sinusoid's exponents are divided by"
        todo = f"divide the sinusoid's exponents by {by[a.shortened]}"
        yield "sinusoid_theta", what, by[a.shortened], by[b.shortened], todo


def _adding(where: str) -> str:
    return f"add the position embedding {where}"
