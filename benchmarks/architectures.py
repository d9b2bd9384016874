"""How twenty public architectures convert as bare files: right, refused, or guessed wrongly.

    python benchmarks/architectures.py            # prints the table
    python benchmarks/architectures.py --write    # writes it into docs/architectures.md

For each architecture a tiny model is made from its config and filled with distinct numbers; nothing is
downloaded. Its state dict is saved as a safetensors file alone, without a config, and converted to Flax:
unaided, then with one option after the other. What comes out is compared with the values that the live
modules' types say, worked out with numpy, and goes back to torch bit for bit. Where transformers has a Flax
class, the same file is converted for that class and compared with what the library's own loader makes of it.

Needs torch, flax and transformers 4; takes about a minute.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from architecture_models import ARCHITECTURES, Architecture, bare_state, build, config_of, expected_tree

import bridge_core
from bridge_core.messages import listed

__all__ = ["DOCUMENT", "judge", "main", "table", "written"]

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
_START, _END = "<!-- table: benchmarks/architectures.py --write -->", "<!-- end of table -->"

WAYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("unaided", ()),
    ("guesses", ("accept_guesses",)),
    ("model", ("model",)),
    ("model and unclaimed", ("model", "allow_unclaimed")),
    ("model and guesses", ("model", "accept_guesses")),
    ("model, guesses and unclaimed", ("model", "accept_guesses", "allow_unclaimed")),
)
"""Name of a way -> the options that it takes."""


BACK: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("unaided", ()),
    ("like", ("like",)),
    ("like and model", ("like", "model", "rules")),
)
"""The ways back from Flax's own file, which holds a bare tree, and their options."""


def judge(architecture: Architecture, *, loader: bool = True) -> dict[str, Any]:
    """Return how one architecture converts, as plain data.

    Args:
        architecture: Which.
        loader: Whether to compare with the library's own loader, which takes seconds.
    """
    with tempfile.TemporaryDirectory() as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _Judge(architecture, Path(made)).row(loader=loader)


class _Judge:
    """Converts one architecture by every way.

    Args:
        architecture: Which.
        folder: Where files go.
    """

    def __init__(self, architecture: Architecture, folder: Path) -> None:
        from safetensors.torch import save_file

        self.architecture = architecture
        self.folder = folder
        self.model = build(architecture)
        self.meta = build(architecture, meta=True)
        self.file = folder / "model.safetensors"
        state = bare_state(self.model)
        save_file(state, self.file)
        self.arrays = {name: tensor.numpy() for name, tensor in state.items()}
        self.expected = expected_tree(self.model)
        stored = {
            tensor.data_ptr(): name for name, tensor in self.model.state_dict().items() if name in state
        }
        self.canonical = {
            name: stored[tensor.data_ptr()]
            for name, tensor in self.model.state_dict().items()
            if tensor.data_ptr() in stored and name not in state
        }

    def row(self, *, loader: bool) -> dict[str, Any]:
        ways = {}
        for name, options in WAYS:
            ways[name] = self.to_flax(self.file, {option: self._option(option) for option in options})
        row: dict[str, Any] = {
            "name": self.architecture.name,
            "class": self.architecture.torch,
            "tensors": len(self.arrays),
            "ways": ways,
            "live": self.to_flax(self.model, {}),
            "live and unclaimed": self.to_flax(self.model, {"allow_unclaimed": True}),
        }
        if self.architecture.flax and loader:
            row.update(self.flax_class())
        return row

    def _option(self, name: str) -> Any:
        return self.meta if name == "model" else True

    def to_flax(self, source: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a conversion to Flax gives, checked."""
        known = inspect.signature(bridge_core.convert).parameters
        there, back = self.folder / "there.msgpack", self.folder / "back.safetensors"
        options = {name: value for name, value in options.items() if name in known}
        try:
            report = bridge_core.convert(source, there, to="flax", overwrite=True, **options).to_json()
        except bridge_core.BridgeError as error:
            return _refusal(error)
        found = _read(there)
        wrong = [name for name in self.expected if not self._right(name, found)]
        result = {
            "outcome": "wrong" if wrong else "right",
            "evidence": report["evidence"],
            "guessed": report["guessed"],
            "unclaimed": report.get("unclaimed", []),
            "wrong": wrong,
        }
        try:
            bridge_core.convert(there, back, to="torch", like=self.meta, overwrite=True)
            result["back"] = "exact" if self._differing(back) == [] else "differs"
        except bridge_core.BridgeError as error:
            result["back"] = f"refused: {type(error).__name__}"
        return result

    def _right(self, name: str, found: Mapping[str, np.ndarray]) -> bool:
        for leaf, value in self.expected[name].readings.items():
            path = name.split(".")
            path = path[: path.index("parametrizations")] if "parametrizations" in path else path[:-1]
            held = found.get(".".join((*path, leaf)))
            if held is not None and held.shape == value.shape and np.array_equal(held, value):
                return True
        return False

    def _differing(self, file: Path, *, counts: bool = True) -> list[str]:
        """Return the names of tensors that are not those of the model, bit for bit.

        Args:
            file: What was converted.
            counts: Whether counts of batches are compared: a bare Flax tree has no place for them.
        """
        found = {self.canonical.get(name, name): value for name, value in _read(file).items()}
        return [
            name
            for name, value in self.arrays.items()
            if not (name.endswith("num_batches_tracked") and not counts)
            and (
                name not in found
                or found[name].shape != value.shape
                or found[name].tobytes() != value.tobytes()
            )
        ]

    def flax_class(self) -> dict[str, Any]:
        """Compare with the library's own Flax class, and convert its weights back."""
        import transformers
        from flax.serialization import to_bytes

        from ckptbridge_transformers import flax_template
        from ckptbridge_transformers.families import rules_for
        from ckptbridge_transformers.templates import clip_with_old_names

        config = config_of(self.architecture)
        model_class = getattr(transformers, self.architecture.flax)
        folder, there = self.folder / "torch", self.folder / "class.msgpack"
        self.model.save_pretrained(folder)
        with clip_with_old_names():
            loaded = model_class.from_pretrained(folder, from_pt=True)
            template = flax_template(loaded)
        tree = dict(_walk(loaded.params))
        known = {"model": self.meta, "rules": rules_for(config, self.architecture.flax)}
        result: dict[str, Any] = {}
        try:
            bridge_core.convert(self.file, there, to="flax", like=template, overwrite=True, **known)
            found = _read(there)
            same = {n for n, v in tree.items() if n in found and np.array_equal(found[n], np.asarray(v))}
            differing = sorted((tree.keys() | found.keys()) - same)
            result["class"] = {"outcome": "wrong" if differing else "right", "wrong": differing}
        except bridge_core.BridgeError as error:
            result["class"] = _refusal(error)
        bare = self.folder / "flax_model.msgpack"
        bare.write_bytes(to_bytes(loaded.params))
        back = {"like": self.meta, "model": template, "rules": known["rules"]}
        result["way back"] = {
            name: self._back(bare, {option: back[option] for option in options}) for name, options in BACK
        }
        return {"flax": {"name": self.architecture.flax, **result}}

    def _back(self, file: Path, options: Mapping[str, Any]) -> dict[str, Any]:
        target = self.folder / "again.safetensors"
        try:
            report = bridge_core.convert(file, target, to="torch", overwrite=True, **options).to_json()
        except bridge_core.BridgeError as error:
            return _refusal(error)
        wrong = self._differing(target, counts=False)
        return {
            "outcome": "wrong" if wrong else "right",
            "wrong": wrong,
            "unclaimed": report.get("unclaimed", []),
        }


def _refusal(error: bridge_core.BridgeError) -> dict[str, Any]:
    names: set[str] = set()
    for attribute in ("candidates", "reasons", "unclaimed", "missing", "unexpected", "mismatched"):
        names.update(getattr(error, attribute, ()))
    return {"outcome": "refused", "error": type(error).__name__, "keys": sorted(names), "message": str(error)}


def _read(file: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file by dotted name, read by the formats' own libraries."""
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(file)
    from flax.serialization import msgpack_restore

    return dict(_walk(msgpack_restore(file.read_bytes())))


def _walk(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a tree by dotted name, without the collection."""
    for name, part in tree.items():
        below = _walk(part) if isinstance(part, Mapping) else [("", part)]
        for rest, leaf in below:
            bare = name in ("params", "batch_stats") and rest
            yield (rest if bare else f"{name}.{rest}" if rest else name), leaf


_OPTIONS = {
    "unaided": "nothing",
    "model": "`model=`",
    "model and unclaimed": "`model=`, `allow_unclaimed=`",
    "model and guesses": "`model=`, `accept_guesses=True`",
    "model, guesses and unclaimed": "`model=`, `accept_guesses=True`, `allow_unclaimed=`",
    "guesses": "`accept_guesses=True`",
}
"""Name of a way -> the options to write; the safest comes first."""

_FILES = ("architecture", "tensors", "unaided", "guesses", "model", "live", "needs", "evidence", "unclaimed")
_CLASSES = ("architecture", "Flax class", "to Flax", "back: unaided", "back: `like=`", "back: and `model=`")


def table(rows: list[dict[str, Any]]) -> str:
    """Return the lines of the first table: bare files to Flax."""
    return _table(_FILES, [_file_cells(row) for row in rows])


def written(rows: list[dict[str, Any]]) -> str:
    """Return both tables, and what is refused."""
    classes = [_class_cells(row) for row in rows if "flax" in row]
    refused = [
        f"- {row['name']}: {listed(row['ways']['unaided']['keys'], 12)}"
        for row in rows
        if row["ways"]["unaided"]["outcome"] == "refused"
    ]
    parts = [table(rows)]
    if refused:
        parts.append("What is refused unaided:\n\n" + "\n".join(refused))
    if classes:
        parts.append("Where transformers 4 has a Flax class:\n\n" + _table(_CLASSES, classes))
    return "\n\n".join(parts)


def needs(row: Mapping[str, Any]) -> str:
    """Return the safest way that gives right weights; empty if there is none."""
    return next((way for way in _OPTIONS if row["ways"][way]["outcome"] == "right"), "")


def _file_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    way = needs(row)
    chosen = row["ways"][way] if way else {}
    evidence = ", ".join(f"{count} {name}" for name, count in sorted(chosen.get("evidence", {}).items()))
    unclaimed = listed(chosen.get("unclaimed", ()), 6) if chosen.get("unclaimed") else ""
    return (
        row["name"],
        str(row["tensors"]),
        _mark(row["ways"]["unaided"]),
        _mark(row["ways"]["guesses"]),
        _mark(row["ways"]["model"]),
        _mark(row["live"]),
        _OPTIONS[way] if way else "the Flax class",
        evidence,
        unclaimed,
    )


def _class_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    flax = row["flax"]
    return (
        row["name"],
        flax["name"],
        _mark(flax["class"]),
        *(_mark(flax["way back"][way]) for way, _ in BACK),
    )


def _mark(result: Mapping[str, Any]) -> str:
    if result["outcome"] == "refused":
        return f"refused ({len(result['keys'])})" if result["keys"] else "refused"
    if result["outcome"] == "wrong":
        return f"**wrong{' guess' if result.get('guessed') else ''}** ({len(result['wrong'])})"
    back = result.get("back", "exact")
    return "right" if back == "exact" else f"right; back: {back}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def document(rows: list[dict[str, Any]], text: str) -> str:
    """Return the text of the document with new tables between its marks."""
    before, _, rest = text.partition(_START)
    return f"{before}{_START}\n\n{written(rows)}\n\n{_END}{rest.partition(_END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these architectures, as the table names them"
    )
    parser.add_argument(
        "--no-loader", action="store_true", help="do not compare with transformers' Flax classes"
    )
    parser.add_argument("--write", action="store_true", help=f"write the tables into {DOCUMENT.name}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    arguments = parser.parse_args()
    chosen = [a for a in ARCHITECTURES if not arguments.only or a.name in arguments.only]
    if arguments.write and (len(chosen) < len(ARCHITECTURES) or arguments.no_loader):
        parser.error("--write needs all of the table.")
    rows = [judge(architecture, loader=not arguments.no_loader) for architecture in chosen]
    if arguments.json:
        arguments.json.write_text(json.dumps({"benchmark": "architectures", "rows": rows}, indent=1) + "\n")
    if arguments.write:
        DOCUMENT.write_text(document(rows, DOCUMENT.read_text()))
    else:
        print(written(rows))


if __name__ == "__main__":
    main()
