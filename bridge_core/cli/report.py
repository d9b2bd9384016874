"""The text that the commands print: folded names and aligned columns; names are never shortened."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from bridge_core.messages import count, fold_names, listed, size_text
from bridge_core.state import Key, join_key, natural_order

if TYPE_CHECKING:
    from bridge_core.conversion import Report
    from bridge_core.resolve import TreeNames
    from bridge_core.state import FlatState, RecordedRule

T = TypeVar("T")

__all__ = [
    "convert_lines",
    "exactness",
    "in_natural_order",
    "inspect_lines",
    "plugin_lines",
    "tensor_names",
]

_DIGITS = re.compile(r"[0-9]+")
_WIDEST = 72
"""Largest width of an aligned column; a longer text moves the rest of its line."""
_LONGEST_VALUE = 200
"""Characters of a text from the file that are shown; names of tensors are never shortened."""


def tensor_names(keys: Iterable[Key]) -> dict[Key, str]:
    """Return key -> flat name, escaped only if two names would be equal otherwise."""
    names = {key: join_key(key) for key in keys}
    if len(set(names.values())) == len(names):
        return names
    return {key: join_key(key, escape=True) for key in names}


def in_natural_order(state: FlatState) -> list[Key]:
    """Return the keys in the order to show them: the file's, or natural order if that is alphabetical.

    Files without an order of their own list names alphabetically, the names of each dtype together, so that
    `layers.10` comes before `layers.2`.

    Args:
        state: The state of a file.
    """
    separator = state.metadata.provenance.get("separator", ".")
    names: dict[str, list[str]] = {}
    for key in state:
        names.setdefault(state.spec(key).dtype.name, []).append(join_key(key, separator))
    if any(of_dtype != sorted(of_dtype) for of_dtype in names.values()):
        return list(state)
    return sorted(state, key=natural_order)


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows with aligned columns."""
    rows = [tuple(row) for row in rows]
    widths = [min(_WIDEST, max(map(len, column))) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def folded(names: Iterable[str], *, indent: str = "  ") -> list[str]:
    """Return one line for each set of names that differ only in numbers."""
    return [f"{indent}{name}" + (f"  x{number}" if number > 1 else "") for name, number in fold_names(names)]


def runs(named: Iterable[tuple[str, T]], alike: Callable[[T], Hashable]) -> Iterator[tuple[str, list[T]]]:
    """Yield ``(folded name, values)`` for names that differ only in numbers and whose values are alike."""
    groups: dict[tuple[str, Hashable], list[tuple[str, T]]] = {}
    for name, value in named:
        groups.setdefault((_DIGITS.sub("0", name), alike(value)), []).append((name, value))
    for group in groups.values():
        names = fold_names(name for name, _ in group)
        if len(names) == 1:
            yield names[0][0], [value for _, value in group]
        else:
            yield from ((name, [value]) for name, value in group)


def inspect_lines(
    path: str,
    format_name: str,
    state: FlatState,
    files: Mapping[Key, str],
    axes: Mapping[Key, tuple[str, ...]] | None = None,
    names: TreeNames | None = None,
) -> list[str]:
    """Return a state's header as text.

    Args:
        path: The file, the index or the folder.
        format_name: Name of its format.
        state: The state.
        files: Key -> name of the file that holds the tensor.
        axes: Key -> names of the tensor's axes, where its layer is known; None for no names.
        names: How the file's names differ from the printed ones; None if they do not.
    """
    axes = axes or {}
    known = state.metadata
    shards = dict.fromkeys(files.values())
    lines = [
        f"{path}: {format_name}, {_layout_text(state)}",
        f"{count(len(state), 'tensor')}, {size_text(state.nbytes)}"
        + (f", {len(shards)} shards" if len(shards) > 1 else ""),
        *([f"names: {names}"] if names else []),
    ]
    if state:
        head = ("name", "dtype", "shape", "axes", "bytes", "")
        rows = [head, *_tensor_rows(state, axes)]
        shown = [column for column in range(len(head)) if column != 3 or axes]
        lines += ["", *table([row[column] for column in shown] for row in rows)]
    kinds = Counter(
        info.kind
        or ("unclaimed" if info.evidence == "unclaimed" else f"undecided ({' or '.join(info.candidates)})")
        for info in known.layers.values()
    )
    sections = (
        ("recorded layers", [f"{kind}: {number}" for kind, number in kinds.items()]),
        ("tied", folded((f"{join_key(k)} = {join_key(v)}" for k, v in known.ties.items()), indent="")),
        (
            "to be rearranged by a rule",
            folded((f"{join_key(k)} ({r.label})" for k, r in _pending(state)), indent=""),
        ),
        ("recorded names", list(_recorded_names(state))),
        ("stored in the metadata", folded(map(join_key, known.auxiliary_tensors), indent="")),
        ("empty", folded(map(join_key, known.empty), indent="")),
        ("text in the file", [f"{name}: {_shortened(text)}" for name, text in known.extra.items()]),
        ("opened", [f"{name}: {_shortened(text)}" for name, text in known.provenance.items()]),
    )
    for title, texts in sections:
        if texts:
            lines += ["", f"{title}:", *(f"  {text}" for text in texts)]
    if known.notes:
        lines += ["", *(f"note: {note}" for note in known.notes)]
    return lines


def _layout_text(state: FlatState) -> str:
    """Return the layout with the reason for it, or how to give it."""
    if state.layout is None:
        return "unknown layout (pass --layout torch, flax or neutral)"
    reason = state.metadata.provenance.get("layout")
    return f"{state.layout} layout" + (f", {reason}" if reason else "")


def _recorded_names(state: FlatState) -> Iterator[str]:
    """Yield what the metadata records of the names in other layouts."""
    known = state.metadata
    for layout, separator in known.separators.items():
        if layout not in ("", state.layout):
            yield f"{layout}: joined by {separator!r} in flat files"
    for box, number in Counter(known.boxes.values()).items():
        yield f"{count(number, 'value')} in boxes named {box!r}"


def _pending(state: FlatState) -> Iterator[tuple[Key, RecordedRule]]:
    """Yield the tensors that a recorded rule will rearrange when the target is known, each with the rule."""
    for rule in state.metadata.rules or ():
        yield from ((key, rule) for key in rule.pending if key in state)


def _tensor_rows(state: FlatState, axes: Mapping[Key, tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    names = tensor_names(in_natural_order(state))
    named = ((name, (state.spec(key), axes.get(key))) for key, name in names.items())
    for name, alike in runs(named, lambda spec_and_axes: spec_and_axes):
        (spec, axis_names), number = alike[0], len(alike)
        shape = f"[{', '.join(map(str, spec.shape))}]"
        axes_text = "" if axis_names is None else f"[{', '.join(axis_names)}]"
        times = f"x{number}" if number > 1 else ""
        yield name, spec.dtype.name, shape, axes_text, str(spec.nbytes * number), times


def convert_lines(report: Report, seconds: float) -> list[str]:
    """Return a conversion's summary."""
    target = str(report.files[0]) if len(report.files) == 1 else f"{len(report.files)} files"
    rate = f", {size_text(int(report.total_bytes / seconds))}/s" if seconds > 0.5 else ""
    lines = [
        f"{report.source_layout} -> {report.target_layout}: {count(report.tensors, 'tensor')}, "
        f"{size_text(report.total_bytes)} in {seconds:.1f} s{rate}",
        f"wrote {target} ({report.format})",
    ]
    if len(report.files) > 1:
        lines += folded(map(str, report.files))
    if report.sidecar_files:
        lines.append(f"sidecar files: {', '.join(path.name for path in report.sidecar_files)}")
    if report.layout_reason:
        lines.append(f"source layout: {report.source_layout}, {report.layout_reason}")
    if report.evidence:
        counts = (f"{name} {number}" for name, number in report.evidence.items())
        lines.append(f"evidence: {', '.join(counts)}")
    for title, names in (
        ("guessed", [join_key(key) for key in report.guessed]),
        ("filled with constants", [join_key(key) for key in report.filled]),
        ("dropped", [f"{join_key(d.key)} ({d.reason})" for d in report.dropped]),
        ("left unfilled", [join_key(key) for key in report.unfilled]),
    ):
        if names:
            lines += [f"{title}:", *folded(names)]
    lines += [f"note: {note}" for note in report.notes]
    lines.append(exactness(report.exact, report.unclaimed))
    lines.append("verified: yes" if report.verified else "verified: no")
    return lines


def exactness(exact: bool, unclaimed: Iterable[Key] = ()) -> str:
    """Return the line about whether values are lost, and which tensors no evidence explains."""
    names = list(map(join_key, unclaimed))
    copied = f"{count(len(names), 'leaf')} copied as plain parameters: {listed(names)}" if names else ""
    copied = copied.replace(" leafs ", " leaves ", 1)
    if not exact:
        return "exact: no, the source cannot be restored bit for bit" + (f"; {copied}" if copied else "")
    return f"exact: yes, bytes exact; {copied}" if copied else "exact: yes"


def plugin_lines(document: Mapping[str, Any]) -> list[str]:
    """Return the list of plugins, and of those that are not used with the reason for each."""
    lines: list[str] = []
    for plugin in document["plugins"]:
        origin = f"{plugin['distribution']} {plugin['version']}".rstrip()
        lines.append(f"{plugin['name']} ({origin})")
        provided: dict[str, list[str]] = {}
        for what, _, name in (text.rpartition(" ") for text in plugin["provides"]):  # names have no spaces
            provided.setdefault(what, []).append(name.strip("'"))
        lines += [f"  {what}: {', '.join(names)}" for what, names in provided.items()]
    failures = [
        f"{_origin(failure)}{_hook(failure)}: {failure['reason']}" for failure in document["failures"]
    ]
    conflicts = [
        f"{conflict['what']} {conflict['name']}: {' and '.join(map(_origin, conflict['plugins']))}. "
        f"{conflict['hint']}".rstrip()
        for conflict in document["conflicts"]
    ]
    for title, texts in (
        ("failed to load:", failures),
        ("provided by several plugins, so none of them is used:", conflicts),
        ("disabled:", list(map(_origin, document["disabled"]))),
    ):
        if texts:
            lines += [title, *(f"  {text}" for text in texts)]
    return lines


def _origin(plugin: Mapping[str, Any]) -> str:
    return f"{plugin['name']} ({plugin['distribution']} {plugin.get('version', '')}".rstrip() + ")"


def _hook(failure: Mapping[str, Any]) -> str:
    return f", {failure['hook']}" if failure.get("hook") else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}... ({len(text)} characters)"
