"""Random damage of what files say in text: metadata, indexes and rule files; and what must become of them.

A draw is made of its seed alone. Whatever a file says, opening, inspecting and converting it ends in a result
that is whole, or in an error of ours with nothing written.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from flax import serialization

from bridge_core import BridgeError, FlatState, convert, join_key, open_state, plan_conversion
from bridge_core.cli.commands.inspect import _document
from bridge_core.cli.report import inspect_lines
from bridge_core.plugins import default_registry
from bridge_core.state import LayerInfo, StateMetadata, as_tensor, dump_metadata
from support.arrays import random_array

__all__ = ["Corpus", "Draw", "draw", "run", "write_safetensors"]

FORMATS = ("safetensors", "safetensors", "safetensors", "index", "npz", "msgpack")
TARGETS = ("torch", "flax", "neutral")
TOUCHED = frozenset(
    {"Sum", "SplitSum", "Fill", "RequireEqual", "Pad", "Unpad", "Duplicate", "Drop", "Select"}
)
"""Ops after which a tensor has more or fewer bytes than those it is made of."""

RULES = """
source = "torch"
target = "flax"

[[rule]]
source = "attn.in_proj_weight"
target = ["attn.q.kernel", "attn.k.kernel", "attn.v.kernel"]
rearrange = "(q k v) in -> in q, in k, in v"

[[rule]]
source = "blocks.{i:int}.weight"
target = "stack.kernel"
rearrange = "out in -> i in out"
sizes = { in = 3 }

[[rule]]
source = "old.{name}"
rename = "new.{name}"

[[rule]]
source = "table"
layer = "embedding"
optional = true

[[rule]]
source = "extra.**"
drop = "not needed"

[[rule]]
source = "wide.weight"
target = "wide.kernel"
rearrange = ["pad(vocab, 8)", "vocab dim -> vocab dim"]
when = { rank = 2, sizes = { dim = 4 } }
"""


_PIECES = (
    "(q k v)", "(v q)", "->", "in", "1", "*", "**", "{i:int}", "{name}", "pad(vocab, 8)", "unpad(in, 2)",
    "sizes = { in = 0 }", "where = 'i = block*2 + j'", "fallback = true", "fill = 1.5", "target = 'a'",
    "rename = '{x}'", "drop = 'x'", "layer = 'conv'", "when = { rank = -1 }", "[[rule]]", "é", "\0",
    "9" * 5000, "[" * 2000, "optional = 3", "", "((", "))", "i", "attn.*",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Tensors by flat name, and the metadata that a file of them carries."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Draw:
    """One damaged input.

    Args:
        seed: What it was made of.
        kind: Name of the file format, or ``index`` or ``rules``.
        source: The tensors.
        text: The damaged text: metadata, an index, or rules.
        accept_guesses: Whether the conversions guess.
    """

    seed: int
    kind: str
    source: Source
    text: str
    accept_guesses: bool

    def __str__(self) -> str:
        names = ", ".join(
            f"{name} {array.dtype}{list(array.shape)}" for name, array in self.source.tensors.items()
        )
        return f"seed {self.seed}, {self.kind}, guesses {self.accept_guesses}\n  text: {self.text}\n  {names}"


class Corpus:
    """The undamaged sources, made once.

    Args:
        folder: An empty folder to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch = self._torch_state()
        self.rules_source = _source_of(torch.replace(metadata=StateMetadata()))
        rules = folder / "rules.toml"
        rules.write_text(RULES)
        self.sources = [_source_of(torch), _tiny("torch"), _tiny("neutral")]
        for to, used in (("neutral", ()), ("flax", ()), ("neutral", rules)):
            path = folder / "made.safetensors"
            given = torch if used else torch.select(_has_no_rule)
            convert(given, path, to=to, rules=used, accept_guesses=True, overwrite=True)
            with open_state(path) as state:
                self.sources.append(_source_of(state))
            path.unlink()

    @staticmethod
    def _torch_state() -> FlatState:
        shapes = {
            "embed.weight": (6, 4), "head.weight": (6, 4), "fc.weight": (3, 4), "fc.bias": (3,),
            "conv.weight": (2, 3, 3, 3), "conv.bias": (2,), "up.weight": (3, 2, 2, 2), "scale": (3,),
            "bn.weight": (2,), "bn.bias": (2,), "bn.running_mean": (2,), "bn.running_var": (2,),
            "mha.in_proj_weight": (12, 4), "mha.in_proj_bias": (12,), "mha.out_proj.weight": (4, 4),
            "mha.out_proj.bias": (4,), "attn.in_proj_weight": (12, 4), "blocks.0.weight": (2, 3),
            "blocks.1.weight": (2, 3), "old.gain": (2,), "table": (5, 2), "extra.a": (1,),
            "wide.weight": (6, 4),
        }  # fmt: skip
        tensors: dict[Any, Any] = {
            tuple(name.split(".")): as_tensor(random_array(shape, "float32", number))
            for number, (name, shape) in enumerate(shapes.items())
        }
        tensors["head", "weight"] = tensors["embed", "weight"]
        tensors["bn", "num_batches_tracked"] = np.array(7, np.int64)
        leaves = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        splits = {"heads": (2, 2), "kv_heads": (2, 2)}
        metadata = StateMetadata(
            layers={("mha",): LayerInfo("attention", "module", leaves, axis_splits=splits)},
            ties={("head", "weight"): ("embed", "weight")},
        )
        return FlatState(tensors, layout="torch", metadata=metadata)


def _has_no_rule(key: tuple[str, ...]) -> bool:
    return key[0] not in ("attn", "blocks", "old", "table", "extra", "wide")


def _tiny(layout: str) -> Source:
    kernel = "kernel" if layout == "neutral" else "weight"
    layer = {"kind": "linear", "evidence": "module", "leaves": [kernel, "bias"], "paths": ["a"]}
    return Source(
        {f"a.{kernel}": random_array((2, 2), "float32", 1), "a.bias": random_array((2,), "float32", 2)},
        {"version": 1, "layout": layout, "layers": [layer]},
    )


def _source_of(state: FlatState) -> Source:
    tensors = {join_key(key): np.asarray(state[key]) for key in state}
    return Source(tensors, json.loads(dump_metadata(state.layout, state.metadata)))


# --- damage


def draw(corpus: Corpus, seed: int) -> Draw:
    """Return the draw of a seed."""
    chance = random.Random(seed)
    guesses = chance.random() < 0.5
    if chance.random() < 0.2:
        text = _damaged_rules(chance, corpus)
        return Draw(seed, "rules", corpus.rules_source, text, guesses)
    source = chance.choice(corpus.sources)
    kind = chance.choice(FORMATS)
    words = _words(source)
    document = copy.deepcopy(source.metadata)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 5))):
        _damage(chance, document, words)
    text = _spoilt(chance, json.dumps(document))
    if kind == "index":
        index: Any = {
            "metadata": {"total_size": sum(a.nbytes for a in source.tensors.values()), "ckptbridge": text},
            "weight_map": dict.fromkeys(source.tensors, "a.safetensors"),
        }
        for _ in range(chance.choice((0, 1, 1, 2))):
            _damage(
                chance, index, (*words, "../a.safetensors", "b.safetensors", "a/b.safetensors", "s" * 300)
            )
        text = _spoilt(chance, json.dumps(index))
    return Draw(seed, kind, source, text, guesses)


def _words(source: Source) -> tuple[str, ...]:
    registry = default_registry()
    names = [*source.tensors]
    paths = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    leaves = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    fields = ["version", "layout", "escaped_names", "layers", "ties", "collections", "residuals", "empty",
              "forms", "rules", "providers", "kind", "evidence", "leaves", "candidates", "factors",
              "unclaimed", "origin", "doubted", "paths", "rule", "layouts", "pending", "label"]  # fmt: skip
    odd = ["", ".", "a.", "\\", "\ud800", "\0", "é", "nope", "params", "neutral", "undecided", "parameter",
           "guess", "in", "out", "heads", "k", "kv_heads", "variables", "nnx", "Dense_0/kernel"]  # fmt: skip
    pools = (
        names,
        paths,
        leaves,
        [*registry.kinds],
        [*registry.transforms],
        [*registry.frameworks],
        fields,
        odd,
    )
    return tuple(word for pool in pools for word in pool)


def _value(chance: random.Random, words: tuple[str, ...], depth: int = 0) -> Any:
    number = chance.choice((0, 1, 2, -1, 3, 4, 12, 1 << 31, 1 << 63, 1 << 70, 10**400, 1.5, 1e308, 1e999))
    simple = (None, True, False, number, chance.choice(words), chance.choice(words))
    if depth > 2 or chance.random() < 0.6:
        return chance.choice(simple)
    return chance.choice(
        (
            lambda: [_value(chance, words, depth + 1) for _ in range(chance.randrange(4))],
            lambda: {
                chance.choice(words): _value(chance, words, depth + 1) for _ in range(chance.randrange(3))
            },
        )
    )()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a document with every name or number of its values."""
    pending = [document]
    while pending:
        node = pending.pop()
        names = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for name in names:
            yield node, name
            pending.append(node[name])


def _damage(chance: random.Random, document: Any, words: tuple[str, ...]) -> None:
    """Change one thing in a document, in place."""
    aimed = _AIMED if isinstance(document, dict) and "weight_map" not in document else ()
    if aimed and chance.random() < 0.5:
        chance.choice(aimed)(chance, document, words)
        return
    places = list(_places(document))
    if not places:
        document[chance.choice(words)] = _value(chance, words)
        return
    node, name = chance.choice(places)
    other, its = chance.choice(places)
    match chance.randrange(7):
        case 0:
            node[name] = _value(chance, words)
        case 1:
            del node[name]
        case 2 if isinstance(node, dict):
            node[chance.choice(words)] = node.pop(name)
        case 3 if isinstance(node, dict):
            node[chance.choice(words)] = copy.deepcopy(node[name])
        case 4:
            node[name] = copy.deepcopy(other[its])
        case 5 if isinstance(node[name], list):
            node[name].append(_value(chance, words))
        case _:
            node[name] = chance.choice(words)


def _in(document: dict[str, Any], field: str, kind: type) -> Any:
    if not isinstance(document.get(field), kind):
        document[field] = kind()
    return document[field]


def _tie(chance: random.Random, document: dict[str, Any], words: tuple[str, ...]) -> None:
    _in(document, "ties", dict)[chance.choice(words)] = chance.choice(words)


def _layer(chance: random.Random, document: dict[str, Any], words: tuple[str, ...]) -> None:
    layer: dict[str, Any] = {
        "kind": chance.choice((None, chance.choice(words), *default_registry().kinds)),
        "evidence": chance.choice(
            ("module", "undecided", "unclaimed", "guess", "rule", "template", "structure")
        ),
        "leaves": chance.sample(words, chance.randrange(4)),
        "paths": chance.sample(words, chance.randrange(1, 3)),
    }
    for field in ("candidates", "unclaimed"):
        if chance.random() < 0.4:
            layer[field] = chance.sample(words, chance.randrange(3))
    if chance.random() < 0.4:
        layer["forms"] = {chance.choice(words): chance.choice(words)}
    if chance.random() < 0.4:
        layer["factors"] = {chance.choice(words): [chance.randrange(5) for _ in range(chance.randrange(4))]}
    if chance.random() < 0.3:
        layer["origin"] = chance.choice(words)
    if chance.random() < 0.3:
        layer["doubted"] = True
    _in(document, "layers", list).append(layer)


def _edited_layer(chance: random.Random, document: dict[str, Any], words: tuple[str, ...]) -> None:
    layers = [layer for layer in _in(document, "layers", list) if isinstance(layer, dict)]
    if not layers:
        return _layer(chance, document, words)
    layer = chance.choice(layers)
    field = chance.choice(
        ("kind", "leaves", "paths", "forms", "factors", "unclaimed", "candidates", "origin")
    )
    match field:
        case "kind":
            layer[field] = chance.choice((None, "parameter", *default_registry().kinds))
        case "origin":
            layer[field] = chance.choice(("torch", "flax", "neutral", "", chance.choice(words)))
        case "factors":
            axes = ("in", "out", "heads", "kv_heads", "features", "k", "num", chance.choice(words))
            layer[field] = {chance.choice(axes): [chance.randrange(5) for _ in range(chance.randrange(1, 3))]}
        case "forms":
            layer[field] = {chance.choice(TARGETS): chance.choice([*default_registry().transforms])}
        case _:
            listed = layer.get(field)
            listed = listed if isinstance(listed, list) else []
            layer[field] = [*listed, chance.choice(words)] if chance.random() < 0.5 else listed[1:]
    return None


def _residual(chance: random.Random, document: dict[str, Any], words: tuple[str, ...]) -> None:
    dtype = chance.choice(("float32", "int64", "bfloat16", "bool", "nope"))
    shape = [chance.randrange(4) for _ in range(chance.randrange(3))]
    size = {"float32": 4, "int64": 8, "bfloat16": 2}.get(dtype, 1) * int(np.prod(shape))
    data = chance.choice(("00", "01", "ff", "3f")) * chance.choice((size, size, size, size + 1))
    _in(document, "residuals", dict)[chance.choice(words)] = [dtype, shape, data]


def _rule(chance: random.Random, document: dict[str, Any], words: tuple[str, ...]) -> None:
    rules = (
        {"source": chance.choice(words), "target": chance.choice(words)},
        {"source": chance.choice(words), "target": chance.choice(words), "rearrange": "a b -> b a"},
        {"source": chance.choice(words), "rename": chance.choice(words)},
        {"source": chance.choice(words), "layer": chance.choice(words)},
        {"target": chance.choice(words), "fill": _value(chance, words), "reason": "x"},
        _value(chance, words),
    )
    row = {
        "rule": chance.choice(rules),
        "layouts": [chance.choice(TARGETS), chance.choice((*TARGETS, ""))],
        "pending": chance.sample(words, chance.randrange(3)),
        "label": chance.choice(words),
    }
    _in(document, "rules", list).append(row)


def _whole(chance: random.Random, document: dict[str, Any], words: tuple[str, ...]) -> None:
    match chance.randrange(4):
        case 0:
            document["layout"] = chance.choice((*TARGETS, None, chance.choice(words)))
        case 1:
            document["forms"] = {"flax": chance.choice(("variables", "params", "nnx", chance.choice(words)))}
        case 2:
            _in(document, "collections", dict)[chance.choice(words)] = chance.choice(words)
        case 3:
            _in(document, "empty", list).append(chance.choice(words))


_AIMED: tuple[Callable[[random.Random, dict[str, Any], tuple[str, ...]], None], ...] = (
    _tie, _layer, _edited_layer, _edited_layer, _residual, _rule, _whole,
)  # fmt: skip


def _spoilt(chance: random.Random, text: str) -> str:
    """Return a text with a few characters changed, now and then."""
    if chance.random() < 0.9:
        return text
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.randrange(3))
        middle = chance.choice(
            ("", '"', "[", "]", "{", "}", ",", ":", "0", "-1", "1e999", "NaN", "null", "9" * 5000, "\\ud800")
        )
        text = text[:at] + middle + text[end:]
    return text


def _damaged_rules(chance: random.Random, corpus: Corpus) -> str:
    lines = RULES.strip().split("\n")
    pieces = (*_PIECES, *corpus.rules_source.tensors)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(lines))
        words = lines[at].split(" ")
        match chance.randrange(4):
            case 0:
                words[chance.randrange(len(words))] = chance.choice(pieces)
                lines[at] = " ".join(words)
            case 1:
                lines.insert(at, chance.choice((*lines, *pieces)))
            case 2 if len(lines) > 1:
                del lines[at]
            case _:
                start = chance.randrange(len(lines[at]) + 1)
                lines[at] = (
                    lines[at][:start] + chance.choice(pieces) + lines[at][start + chance.randrange(4) :]
                )
    return "\n".join(lines)


# --- files


def _written(made: Draw, folder: Path) -> Path:
    """Write a draw's file as a program that does not know what it says would."""
    tensors, text = made.source.tensors, made.text
    if made.kind == "index":
        write_safetensors(folder / "a.safetensors", tensors, None)
        path = folder / "model.safetensors.index.json"
        path.write_text(text, "utf-8", "surrogatepass")
        return path
    path = folder / "source"
    if made.kind == "npz":
        side = json.dumps({"metadata": text, "dtypes": {}, "extra": {}}).encode()
        with path.open("wb") as file:
            np.savez(file, **tensors, __ckptbridge__=np.frombuffer(side, np.uint8))
    elif made.kind == "msgpack":
        tree: dict[str, Any] = {"__ckptbridge__": text.encode("utf-8", "replace").decode()}
        for name, array in tensors.items():
            node = tree
            *above, leaf = name.split(".")
            for part in above:
                node = node.setdefault(part, {})
            node[leaf] = array
        pack = serialization._msgpack_ext_pack
        path.write_bytes(msgpack.packb(tree, default=pack, strict_types=True))
    else:
        write_safetensors(path, tensors, None if made.kind == "rules" else text)
    return path


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], text: str | None) -> None:
    """Write a file with any text for the bridge's metadata; None for none."""
    header: dict[str, Any] = {} if text is None else {"__metadata__": {"ckptbridge": text}}
    at = 0
    codes = {"float32": "F32", "int64": "I64"}
    for name, array in tensors.items():
        header[name] = {
            "dtype": codes[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data + b"".join(a.tobytes() for a in tensors.values()))


# --- verdict


def run(made: Draw, folder: Path) -> tuple[int, int]:
    """Open, inspect and convert a draw's file.

    Returns:
        How many conversions were made, and how many refused.

    Raises:
        AssertionError: A refusal wrote something, or a result is not whole.
        Exception: Anything that is not ours, as it came.
    """
    work = folder / "work"
    work.mkdir()
    try:
        path = _written(made, work)
        rules: Any = ()
        if made.kind == "rules":
            rules = work / "rules.toml"
            rules.write_text(made.text, "utf-8", "surrogatepass")
        else:
            _inspect(path)
        results = [_convert(made, path, to, rules, work) for to in TARGETS]
        return sum(results), len(results) - sum(results)
    finally:
        shutil.rmtree(work)


def _inspect(path: Path) -> None:
    try:
        with _quiet(), open_state(path) as state:
            used = default_registry().format(state.metadata.provenance["format"])
            inspect_lines(str(path), used.name, state, {})
            json.dumps(_document(used, state, {}, {}))
    except BridgeError as err:
        str(err)


def _convert(made: Draw, path: Path, to: str, rules: Any, work: Path) -> bool:
    """Convert a draw's file to one layout; tell whether it was done."""
    layout = "torch" if made.kind == "rules" else None
    target = work / f"to-{to}" / "result.safetensors"
    target.parent.mkdir()
    options: dict[str, Any] = {
        "to": to,
        "accept_guesses": made.accept_guesses,
        "rules": rules,
        "layout": layout,
    }
    with _quiet():
        try:
            plan = plan_conversion(path, **options)
            str(plan)
            convert(path, target, **options)
        except BridgeError as err:
            str(err)
            assert not any(target.parent.iterdir()), f"{to}: a refusal left {[*target.parent.iterdir()]}"
            return False
        with open_state(path, layout=layout) as source, open_state(target) as result:
            _check_whole(plan, source, result)
    return True


def _quiet() -> warnings.catch_warnings[None]:
    return warnings.catch_warnings(action="ignore", category=UserWarning)


def _check_whole(plan: Any, source: FlatState, result: FlatState) -> None:
    """Check that every tensor of the source went somewhere, and that no bytes were lost or added."""
    made = [key for step in plan.steps for key in step.targets]
    assert sorted({*made, *plan.ties}) == sorted(result)
    used = {key for step in (*plan.steps, *plan.keeps) for key in step.sources}
    gone = {dropped.key for dropped in plan.dropped}
    assert used | gone >= set(source), "a tensor of the source was forgotten"
    for step in plan.steps:
        if step.sources and step.targets and not _names(step.ops) & TOUCHED:
            before = sum(source.spec(key).nbytes for key in step.sources)
            after = sum(result.spec(key).nbytes for key in step.targets)
            assert before == after, f"{step}: {before} bytes became {after}"
    for key in result:
        np.asarray(result[key])


def _names(ops: Any) -> set[str]:
    names = {type(op).__name__ for op in ops}
    for op in ops:
        for chain in getattr(op, "chains", ()):
            names |= _names(chain)
    return names
