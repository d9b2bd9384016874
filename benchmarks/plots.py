"""Drawing results. matplotlib is wanted only here: pip install "ckptbridge[bench]".

    python benchmarks/plots.py docs/benchmarks/*.json

draws stored results again, each beside its JSON file.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

_OURS, _THEIRS, _BASE = "#2b6cb0", "#b0b7c0", "#4a5562"
_STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_CLIP = 8.0
"""Longest bar, in multiples of the baseline; longer ones are cut and say so."""


def draw(name: str, document: Mapping[str, Any], path: Path) -> None:
    """Draw the results of a benchmark into a PNG file, or say why not."""
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
        from PIL import Image
    except ImportError:
        print('no plot: run pip install "ckptbridge[bench]" for matplotlib', file=sys.stderr)
        return
    with plt.rc_context(_STYLE):
        figure = _DRAWN[name](plt, document)
        path.parent.mkdir(parents=True, exist_ok=True)
        with io.BytesIO() as buffer:
            figure.savefig(buffer, dpi=100, bbox_inches="tight")
            Image.open(buffer).convert("RGB").quantize(32).save(path, optimize=True)
        plt.close(figure)


def _bars(axes: Any, names: Sequence[str], values: Sequence[Sequence[float]], base: float, unit: str) -> None:
    """Draw medians as bars, with the spread as a line and the number beside it."""
    for row, (name, found) in enumerate(zip(names, values, strict=True)):
        middle = median(found) / base
        colour = _BASE if row == 0 else _THEIRS if _is_theirs(name) else _OURS
        shown = min(middle, _CLIP) if unit == "x" else middle
        axes.barh(row, shown, color=colour, height=0.7)
        text = f"{middle:.2f}x" if unit == "x" else f"{middle:.0f} {unit}"
        end = shown
        if shown == middle and len(found) > 1:
            end = min(max(found) / base, _CLIP) if unit == "x" else max(found) / base
            axes.plot([min(found) / base, end], [row, row], color="black", linewidth=0.8)
        axes.annotate(
            f"{text} (cut)" if shown < middle else text,
            (max(end, shown), row),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.18)


def _is_theirs(name: str) -> bool:
    return name.startswith(("plain script", "transformers", "safetensors.", "python", "import numpy"))


def _file_to_file(plt: Any, document: Mapping[str, Any]) -> Any:
    sizes = document["sizes"]
    counts = [len(result["runs"]) for result in sizes.values()]
    figure, grid = plt.subplots(
        len(sizes),
        2,
        figsize=(8.4, 0.7 * len(sizes) + 0.22 * sum(counts)),
        squeeze=False,
        sharey="row",
        height_ratios=counts,
        layout="constrained",
    )
    for row, (result, (time_axes, memory_axes)) in enumerate(zip(sizes.values(), grid, strict=True)):
        runs = result["runs"]
        base = median(r["seconds"] for r in runs[document["baseline"]])
        _bars(time_axes, list(runs), [[r["seconds"] for r in found] for found in runs.values()], base, "x")
        time_axes.axvline(1, color="black", linewidth=0.6, linestyle=":")
        cache = "cold" if document["cold"] else "warm"
        time_axes.set_title(f"{result['bytes'] / 1e9:.1f} GB, {cache} cache: time, x {document['baseline']}")
        idle = document["idle_peak_bytes"]
        # A small program counts its launcher's memory, which is less than numpy's.
        peaks = [[max(0.0, r["peak_bytes"] - idle) / 1e6 for r in found] for found in runs.values()]
        _bars(memory_axes, list(runs), peaks, 1.0, "MB")
        memory_axes.tick_params(labelleft=False)
        if row == 0:
            memory_axes.set_title("peak memory above Python with numpy")
        memory_axes.set_xscale("symlog", linthresh=100)
        memory_axes.set_xticks([0, 100, 1000, 10000], ["0", "100 MB", "1 GB", "10 GB"])
        memory_axes.minorticks_off()
    return figure


def _work(plt: Any, document: Mapping[str, Any]) -> Any:
    if document["sizes"]:
        return _file_to_file(plt, document)
    rows = document["lists"]
    figure, axes = plt.subplots(figsize=(5.2, 0.3 * len(rows) + 0.5), layout="constrained")
    names = [f"{row['tensors']} tensors, {row['what']}" for row in rows]
    _bars(axes, names, [[run["seconds"] for run in row["runs"]] for row in rows], 1.0, "s")
    axes.set_title("Making a work list, seconds")
    return figure


def _remote(plt: Any, document: Mapping[str, Any]) -> Any:
    contests = document["contests"]
    sizes = dict(enumerate(contests))
    figure = _file_to_file(plt, {**document, "sizes": sizes, "cold": False})
    for axes, contest in zip(figure.axes[::2], contests, strict=True):
        size, delay = contest["bytes"] / 1e9, contest["delay_ms"]
        axes.set_title(f"{size:.1f} GB, answers after {delay:.0f} ms: time, x {document['baseline']}")
    return figure


def _load(plt: Any, document: Mapping[str, Any]) -> Any:
    groups = [
        (size, title, group)
        for size, result in document["sizes"].items()
        for title, group in result["groups"].items()
    ]
    figure, grid = plt.subplots(
        len(groups), 2, figsize=(8.4, 0.9 * len(groups)), squeeze=False, sharey="row", layout="constrained"
    )
    for (size, title, group), (time_axes, memory_axes) in zip(groups, grid, strict=True):
        found = group["contestants"]
        times = [one["touched"] for one in found.values()]
        _bars(time_axes, list(found), times, median(times[0]), "x")
        time_axes.set_title(f"{size} {title}: time")
        idle = group["idle_peak_bytes"]
        peaks = [[(r["peak_bytes"] - idle) / 1e6 for r in one["runs"]] for one in found.values()]
        _bars(memory_axes, list(found), peaks, 1.0, "MB")
        memory_axes.tick_params(labelleft=False)
        memory_axes.set_title("peak memory above the imports")
    return figure


def _from_pretrained(plt: Any, document: Mapping[str, Any]) -> Any:
    sizes = document["sizes"]
    figure, grid = plt.subplots(
        len(sizes), 2, figsize=(8.4, 1.2 * len(sizes)), squeeze=False, sharey="row", layout="constrained"
    )
    for (size, result), (time_axes, memory_axes) in zip(sizes.items(), grid, strict=True):
        found = result["contestants"]
        _bars(time_axes, list(found), [one["seconds"] for one in found.values()], 1.0, "s")
        time_axes.set_title(f"{size} into a Flax model: seconds")
        peaks = [[peak / 1e6 for peak in one["peak_bytes"]] for one in found.values()]
        _bars(memory_axes, list(found), peaks, 1.0, "MB")
        memory_axes.axvline(result["bytes"] / 1e6, color="black", linewidth=0.6, linestyle=":")
        memory_axes.tick_params(labelleft=False)
        memory_axes.set_title("peak memory above the imports; dotted: the parameters")
    return figure


def _memory(plt: Any, document: Mapping[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
    idle = document["idle_peak_bytes"]
    sizes = [row["bytes"] / 1e9 for row in document["rows"]]
    budget = document["max_ram"] / 1e6
    highest: list[float] = []
    for what, label, colour in (
        ("checkpoint", "checkpoint of this size, default settings", _OURS),
        ("tensor", f"one tensor of this size, --max-ram {budget:.0f}MB", _BASE),
    ):
        peaks = [(median(r["peak_bytes"] for r in row[what]) - idle) / 1e6 for row in document["rows"]]
        highest.append(max(peaks))
        axes.plot(sizes, peaks, marker="o", markersize=3, color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.set_ylim(0, 1.4 * max(highest))
    axes.set_xlabel("GB")
    axes.set_title("Peak memory above Python with numpy, MB")
    axes.legend(loc="lower right")
    return figure


def _stacking(plt: Any, document: Mapping[str, Any]) -> Any:
    stacks = document["stacks"]
    layers = [stack["layers"] for stack in stacks]
    idle = document["idle_peak_bytes"]
    figure, (time_axes, memory_axes) = plt.subplots(1, 2, figsize=(8.4, 2.8), layout="constrained")
    for name, colour, line in (
        (document["baseline"], _THEIRS, "-"),
        ("stack layers", _OURS, "-"),
        ("unstack layers", _BASE, "-"),
        ("stack experts", _OURS, ":"),
        ("unstack experts", _BASE, ":"),
    ):
        runs = [stack["runs"][name] for stack in stacks]
        times = [median(r["seconds"] for r in found) for found in runs]
        peaks = [max(0.0, median(r["peak_bytes"] for r in found) - idle) / 1e6 for found in runs]
        style = {"color": colour, "linestyle": line, "marker": "o", "markersize": 3, "label": name}
        time_axes.plot(layers, times, **style)
        if name != document["baseline"]:
            memory_axes.plot(layers, peaks, **style)
    memory_axes.plot(layers, [stack["bytes"] / 1e6 for stack in stacks], color=_THEIRS, linestyle="--")
    end = (layers[-1], stacks[-1]["bytes"] / 1e6)
    memory_axes.annotate("the stack", end, (-18, 0), textcoords="offset points", ha="right", va="center")
    for axes in (time_axes, memory_axes):
        axes.set_xticks(layers)
        axes.set_ylim(0)
        axes.set_xlabel(f"layers of {document['layer_bytes'] / 1e6:.1f} MB")
    figure.legend(*time_axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    time_axes.set_title("Time, seconds")
    memory_axes.set_title("Peak memory above Python with numpy, MB")
    return figure


def _plan_time(plt: Any, document: Mapping[str, Any]) -> Any:
    figure, axes = plt.subplots(figsize=(5.2, 2.8), layout="constrained")
    keys = [row["keys"] for row in document["rows"]]
    for what, label, colour in (("plain", "without a template", _OURS), ("like", "with like=", _BASE)):
        times = [median(row[what]) for row in document["rows"]]
        axes.plot(keys, times, marker="o", markersize=3, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="keys")
    axes.set_title("Planning, seconds")
    axes.legend()
    return figure


def _rules_plan(plt: Any, document: Mapping[str, Any]) -> Any:
    rows = document["rows"]
    figure, axes = plt.subplots(figsize=(5.2, 0.3 * len(rows) + 0.5), layout="constrained")
    names = [f"{row['what']}, {row['rules']} rules" for row in rows]
    _bars(axes, names, [[seconds * 1e3 for seconds in row["seconds"]] for row in rows], 1.0, "ms")
    axes.set_title(f"Planning {rows[0]['keys']} tensors, milliseconds")
    return figure


def _match(plt: Any, document: Mapping[str, Any]) -> Any:
    rows = document["rows"]
    figure, axes = plt.subplots(figsize=(5.2, 0.24 * len(rows) + 0.8), layout="constrained")
    places = range(len(rows))
    axes.barh(places, [row["leaves"] for row in rows], color="0.9", label="leaves")
    axes.barh(places, [row["matched"] for row in rows], color=_OURS, height=0.5, label="matched")
    axes.plot([row["determined"] for row in rows], places, "|", color="k", label="determined by headers")
    axes.set_yticks(places, [row["pair"] for row in rows])
    axes.invert_yaxis()
    axes.set(xscale="log", title="Leaves that are matched")
    axes.legend()
    return figure


def _transpose_kernel(plt: Any, document: Mapping[str, Any]) -> Any:
    rows = document["rows"]
    items = list(dict.fromkeys(row["item_size"] for row in rows))
    names = list(dict.fromkeys(row["shape_name"] for row in rows))
    figure, grid = plt.subplots(
        1, len(items), figsize=(8.4, 3.4), squeeze=False, sharey=True, sharex=True, layout="constrained"
    )
    marks = {
        "numpy": ("v", _THEIRS),
        "torch": ("s", _THEIRS),
        "OpenCV": ("D", _THEIRS),
        "bridge_core": ("o", _OURS),
        "from file": ("*", _OURS),
    }
    for item, axes in zip(items, grid[0], strict=True):
        for row in rows:
            if row["item_size"] == item:
                for who, (mark, colour) in marks.items():
                    if row["gb_s"].get(who):
                        where = (median(row["gb_s"][who]), names.index(row["shape_name"]))
                        axes.plot(*where, mark, color=colour, markersize=5, label=who)
        copies = [median(row["gb_s"]["memcpy"]) for row in rows if row["item_size"] == item]
        axes.set_title(f"{item} byte{'s' * (item > 1)}; memcpy {median(copies):.0f}")
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="y", linewidth=0.3)
    grid[0][0].set_ylim(len(names) - 0.5, -0.5)
    fastest = max(median(row["gb_s"][who]) for row in rows for who in marks if row["gb_s"].get(who))
    grid[0][0].set_xlim(0, 1.08 * fastest)
    handles = {h.get_label(): h for axes in grid[0] for h in axes.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    figure.suptitle("Transposing, GB/s on one thread", fontsize=9, x=0.01, ha="left")
    return figure


def _import_time(plt: Any, document: Mapping[str, Any]) -> Any:
    runs = document["runs"]
    figure, axes = plt.subplots(figsize=(5.2, 0.3 * len(runs) + 0.5), layout="constrained")
    _bars(axes, list(runs), [[r["seconds"] * 1e3 for r in found] for found in runs.values()], 1.0, "ms")
    axes.set_title("Starting, milliseconds")
    return figure


_DRAWN = {
    "file_to_file": _file_to_file,
    "from_pretrained": _from_pretrained,
    "load": _load,
    "memory": _memory,
    "remote": _remote,
    "stacking": _stacking,
    "orbax_checkpoints": _file_to_file,
    "work": _work,
    "plan_time": _plan_time,
    "rules_plan": _rules_plan,
    "match": _match,
    "transpose_kernel": _transpose_kernel,
    "import_time": _import_time,
}


if __name__ == "__main__":
    for stored in map(Path, sys.argv[1:]):
        results = json.loads(stored.read_text())
        draw(results["benchmark"], results, stored.with_suffix(".png"))
