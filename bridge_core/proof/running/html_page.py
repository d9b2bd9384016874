"""A proof as one page of HTML: a picture of the error along the depth, tables, and no external resource."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bridge_core.html import escape, page as html_page
from bridge_core.proof.running.common_axes import error_text

if TYPE_CHECKING:
    from bridge_core.proof.causes import Cause
    from bridge_core.proof.running.module_pairs import ModuleError
    from bridge_core.proof.running.proof_report import Proof

__all__ = ["page"]

_LOWEST, _HIGHEST = 1e-17, 1e3
"""Errors are drawn between these; 0 is drawn at the lowest, infinities at the highest."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 960, 340, 64, 28
_LONGEST = 60
"""Characters of a module's path in the picture."""

_STYLE = """
tr.first { background: color-mix(in srgb, var(--wrong) 14%, transparent); }
svg { width: 100%; min-width: 40rem; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .limit { stroke: var(--limit); stroke-dasharray: 6 4;
} svg .path { stroke: var(--soft); fill: none; stroke-width: 1; } svg .dot { fill: var(--equal); }
svg .dot.over { fill: var(--wrong); } svg .mark { stroke: var(--wrong); fill: none; stroke-width: 2; }
svg text.limit { fill: var(--limit); stroke: none; } svg text.mark { fill: var(--wrong); stroke: var(--paper);
  stroke-width: 4; paint-order: stroke; font-weight: 600; }
"""


def page(proof: Proof) -> str:
    """Return a complete page, with everything that comes from the models escaped."""
    names = f"{_models(proof)}"
    verdict = "equal" if proof.equal else "different"
    body = [
        f"<h1><span class='{verdict}'>{verdict}</span>: {names}</h1>",
        f"<p class='next'><b>Next:</b> {_e(proof.next_step)}</p>",
        _summary(proof),
        _hidden(proof),
        _first(proof),
        _causes(proof),
        _picture(proof),
        _outputs(proof),
        _settings(proof),
        _modules(proof),
        _texts("Not compared", proof.unread),
        _texts("Notes", (*proof.problems, *proof.blind, *proof.notes)),
    ]
    title = f"{verdict}: {proof.source.type} and {proof.target.type}"
    return html_page(title, "\n".join(part for part in body if part), style=_STYLE)


def _models(proof: Proof) -> str:
    return (
        f"{_e(proof.source.type)} ({_e(proof.source.framework)}) and {_e(proof.target.type)} "
        f"({_e(proof.target.framework)})"
    )


def _summary(proof: Proof) -> str:
    if not proof.ran:
        return "<p>The models were not run; the settings of their modules were compared.</p>"
    sharp = f" In float64 it is {_n(proof.error_in_float64)}." if proof.error_in_float64 is not None else ""
    return (
        f"<p>The largest error of the outputs is <b>{_n(proof.error)}</b>; rounding explains "
        f"<b>{_n(proof.control)}</b> (source {_n(proof.controls[0])}, target {_n(proof.controls[1])})."
        f"{sharp} <span class='soft'>An error is the largest absolute difference divided by the largest "
        "absolute value of the source.</span></p>"
    )


def _first(proof: Proof) -> str:
    first = proof.first
    if first is None:
        return ""
    before = ""
    if first.before is not None:
        before = (
            f"<br>The mistake is in what it computes before <code>{_e(first.before[0])}</code> "
            f"(target: <code>{_e(first.before[1])}</code>)."
        )
    return (
        "<h2>First module that differs</h2><div class='card'>"
        f"source <code>{_e(first.source) or '(the model itself)'}</code> "
        f"<span class='soft'>{_e(first.source_type)}</span><br>"
        f"target <code>{_e(first.target) or '(the model itself)'}</code> "
        f"<span class='soft'>{_e(first.target_type)}</span><br>"
        f"error of its inputs {_n(first.input_error)}, of its outputs {_n(first.output_error)}{before}</div>"
        "<p class='soft'>Only the first difference is named; others may follow it.</p>"
    )


def _hidden(proof: Proof) -> str:
    if proof.hidden is None:
        return ""
    first = proof.hidden.first
    return (
        f"<h2>Hidden by rounding in these values</h2><p>In float64 the outputs differ by "
        f"<b>{_n(proof.hidden.error)}</b>, first in <code>{_e(first.source) or '(the model itself)'}</code> "
        f"(target: <code>{_e(first.target) or '(the model itself)'}</code>).</p>"
        + _cards(proof.hidden.causes)
    )


def _causes(proof: Proof) -> str:
    return f"<h2>Causes</h2>{_cards(proof.causes)}" if proof.causes else ""


def _cards(causes: Iterable[Cause]) -> str:
    cards = [
        f"<div class='card'><b>{_e(cause.text)}</b> <span class='soft'>{_e(cause.code)}</span><br>"
        f"error {_n(cause.error_without)} unchanged, {_n(cause.error_with)} with the source's way<br>"
        f"<code>{_e(cause.mend)}</code></div>"
        for cause in causes
    ]
    return "".join(cards)


def _picture(proof: Proof) -> str:
    drawn = [one for one in proof.modules if one.outputs is not None]
    drawn.sort(key=lambda one: one.pair.source[-1].ended)  # what is inside a module comes before it
    if len(drawn) < 2:
        return ""
    marked = _marked(proof, drawn)
    step = (_WIDTH - _LEFT - 16) / len(drawn)
    places = [(_LEFT + (n + 0.5) * step, _y(one.outputs)) for n, one in enumerate(drawn)]
    radius = min(4.0, max(1.5, 0.4 * step))
    levels = [(_LOWEST, "0"), *((10.0**power, f"1e{power}") for power in range(-16, 4, 4))]
    if any(one.outputs is not None and not math.isfinite(one.outputs) for one in drawn):
        levels.append((_HIGHEST, "inf"))
    parts = [
        f"<line class='grid' x1='{_LEFT}' x2='{_WIDTH}' y1='{_y(level):.1f}' y2='{_y(level):.1f}'/>"
        f"<text x='{_LEFT - 8}' y='{_y(level) + 4:.1f}' text-anchor='end'>{label}</text>"
        for level, label in levels
    ]
    level = _y(proof.limit)
    parts.append(
        f"<line class='limit' x1='{_LEFT}' x2='{_WIDTH}' y1='{level:.1f}' y2='{level:.1f}'/>"
        f"<text class='limit' x='{_LEFT + 6}' y='{level - 5:.1f}'>limit {_n(proof.limit)}</text>"
    )
    parts.append(f"<polyline class='path' points='{' '.join(f'{x:.1f},{y:.1f}' for x, y in places)}'/>")
    last = ""
    for one, (x, y) in zip(drawn, places, strict=True):
        over = " over" if one.outputs is not None and not one.outputs <= proof.limit else ""
        title = f"{one.source or 'the model'} / {one.target or 'the model'}: {_n(one.outputs)}"
        parts.append(
            f"<circle class='dot{over}' cx='{x:.1f}' cy='{y:.1f}' r='{radius:.1f}'><title>{_e(title)}</title>"
            "</circle>"
        )
        if one is marked:
            last = _label(one, x, y)
    parts.append(
        f"{last}<text x='{_LEFT}' y='{_HEIGHT - 6}'>first of {len(drawn)}</text>"
        f"<text x='{_WIDTH}' y='{_HEIGHT - 6}' text-anchor='end'>last, in the order in which the source "
        "computes them</text>"
    )
    return (
        "<h2>Error of each module's output, along the depth</h2><div class='scroll'>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='Error of each module along the depth'>"
        + "".join(parts)
        + "</svg></div>"
    )


def _label(one: ModuleError, x: float, y: float) -> str:
    """Return the ring around the first module that differs, and its name next to it."""
    name = one.source or "the model"
    name = name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}...{name[-_LONGEST // 2 + 2 :]}"
    side = "end" if x > _WIDTH / 2 else "start"
    height = y - 12 if y > 40 else y + 22
    return (
        f"<circle class='mark' cx='{x:.1f}' cy='{y:.1f}' r='8'/>"
        f"<text class='mark' x='{x + (-12 if side == 'end' else 12):.1f}' y='{height:.1f}' "
        f"text-anchor='{side}'>{_e(name)}</text>"
    )


def _marked(proof: Proof, drawn: Sequence[ModuleError]) -> ModuleError | None:
    """Return the pair that is the first module that differs; the model itself gives the pair inside it."""
    if proof.first is None:
        return None
    names = (proof.first.source, proof.first.target)
    if not names[0] and proof.first.before is not None:
        names = proof.first.before
    return next((one for one in drawn if (one.source, one.target) == names), None)


def _outputs(proof: Proof) -> str:
    if proof.outputs is None:
        return ""
    rows = [
        f"<tr><td>{_code(one.source, '(one array)')}</td><td>{_code(one.target, '(one array)')}"
        f"</td><td>{_e(str(list(one.shape)))}</td><td class='number'>{_n(one.error)}</td>"
        f"<td>{_e(one.how)}</td></tr>"
        for one in proof.outputs.pairs
    ]
    for what, names in (("source", proof.outputs.only_source), ("target", proof.outputs.only_target)):
        rows += [
            f"<tr><td colspan='5'>only the {what} returns <code>{_e(name) or '(one array)'}</code></td></tr>"
            for name in names
        ]
    return _table("Outputs", ("source", "target", "shape", "error", "axes"), rows)


def _settings(proof: Proof) -> str:
    rows = [
        f"<tr><td>{_code(one.source, 'the model')}</td><td>{_code(one.target, 'the model')}</td>"
        f"<td>{_e(one.name)}</td><td>{_e(one.source_value)}</td><td>{_e(one.target_value)}</td>"
        f"<td>{_e(one.note)}</td></tr>"
        for one in proof.settings
    ]
    title = "Settings that differ" + (", not visible in these outputs" if proof.ran and proof.equal else "")
    return _table(title, ("source", "target", "setting", "in the source", "in the target", ""), rows)


def _modules(proof: Proof) -> str:
    marked = _marked(proof, proof.modules)
    rows = [
        f"<tr{' class=first' if one is marked else ''}><td style='padding-left:{0.6 + one.depth}rem'>"
        f"{_code(one.source, '(the model)')}</td><td>{_code(one.target, '(the model)')}</td>"
        f"<td class='soft'>{_e(_short(one.pair.source[0].type))} / {_e(_short(one.pair.target[0].type))}</td>"
        f"<td class='number'>{_n(one.inputs)}</td><td class='number'>{_n(one.outputs)}</td></tr>"
        for one in proof.modules
    ]
    return _table("Modules that belong together", ("source", "target", "types", "inputs", "outputs"), rows)


def _texts(title: str, texts: Iterable[str]) -> str:
    items = "".join(f"<li>{_e(text)}</li>" for text in texts)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def _table(title: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{_e(text)}</th>" for text in heads)
    return (
        f"<h2>{_e(title)}</h2><div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>"
        + "".join(rows)
        + "</tbody></table></div>"
    )


def _code(name: str, unnamed: str) -> str:
    return f"<code>{_e(name or unnamed)}</code>"


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _y(error: float | None) -> float:
    value = _HIGHEST if error is None or not math.isfinite(error) else min(max(error, _LOWEST), _HIGHEST)
    low, high = math.log10(_LOWEST), math.log10(_HIGHEST)
    return 8 + (_HEIGHT - _BOTTOM - 16) * (high - math.log10(value)) / (high - low)


def _n(error: float | None) -> str:
    return _e(error_text(error))


def _e(text: str) -> str:
    return escape(text)
