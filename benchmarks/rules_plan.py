"""Planning time of 10,000 tensors by many rules, from safetensors headers, there and back.

    python benchmarks/rules_plan.py --keys 10000

A model of five towers has its modules renamed, its experts and its gates stacked, its projections split and
its buffers dropped, by 60 rules with a wildcard for the tower, and by 300 rules that write the tower out.
Each is planned with and without a template. No tensor is read.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

import measure
import numpy as np

from bridge_core import Rule, plan_conversion
from bridge_core.state import join_key

TOWERS = ("vision", "text", "audio", "video", "decoder")
_EXPERTS = 8
_WIDTH = 16
_BOTH = ("torch", "flax")
Shapes = Mapping[str, tuple[int, ...]]

_PROJECTIONS = (
    ("attn.o_proj", "attention.out"),
    ("attn.gate_proj", "attention.gate"),
    ("cross.q_proj", "cross.query"),
    ("cross.o_proj", "cross.out"),
    *(
        (f"mlp.{old}", f"ffn.{new}")
        for old, new in (("up_proj", "wi"), ("down_proj", "wo"), ("gate_proj", "wg"))
    ),
    *(
        (f"adapter_{n}.{old}", f"lora{n}.{new}")
        for n in range(7)
        for old, new in (("down", "a"), ("up", "b"))
    ),
    ("pool.dense", "pooler"),
    ("router.classifier", "routing"),
)
_NORMS = (
    ("input_layernorm", "norm_in"),
    ("post_attention_layernorm", "norm_out"),
    *((f"adapter_{n}.norm", f"lora{n}.norm") for n in range(5)),
)
_BUFFERS = ("attn.rotary.inv_freq", "attn.bias_mask", "cross.bias_mask", "steps", "mlp.cache", "pool.ids")
_STACKED = ("w1", "w2", "w3")
_COPIED = (("layer_scale", "gamma"), ("drift.offset", "drift"), ("attn.temperature", "attention.tau"))


def names(keys: int) -> Shapes:
    """Return names with shapes of about so many tensors, as torch has them."""
    square, row = (_WIDTH, _WIDTH), (_WIDTH,)
    layer: dict[str, tuple[int, ...]] = {}
    for old, _ in _PROJECTIONS:
        layer |= {f"{old}.weight": (2 * _WIDTH, _WIDTH), f"{old}.bias": (2 * _WIDTH,)}
    for old, _ in _NORMS:
        layer |= {f"{old}.weight": row, f"{old}.bias": row}
    layer |= {name: row for name in _BUFFERS}
    layer |= {f"moe.experts.{e}.{name}.weight": square for e in range(_EXPERTS) for name in _STACKED}
    layer |= {old: row for old, _ in _COPIED}
    layer |= {"attn.qkv.weight": (3 * _WIDTH, _WIDTH), "attn.qkv.bias": (3 * _WIDTH,)}
    layer |= {"cross.kv.weight": (2 * _WIDTH, _WIDTH), "cross.kv.bias": (2 * _WIDTH,), "depth.gate": row}
    depth = -(-keys // (len(layer) * len(TOWERS)))
    stem = {f"{t}.embed.{leaf}": row for t in TOWERS for leaf in ("position", "kind", "start")}
    return stem | {
        f"{tower}.layers.{i}.{name}": shape
        for tower in TOWERS
        for i in range(depth)
        for name, shape in layer.items()
    }


def rules(*towers: str) -> tuple[Rule, ...]:
    """Return 60 rules for each of these texts in place of the tower's name, those of a file in this order."""
    return tuple(rule for tower in towers for rule in _rules(tower))


def _rules(tower: str) -> list[Rule]:
    old, new = f"{tower}.layers.{{i:int}}.", f"{tower}_model.block_{{i:int}}."

    def move(
        sources: str | list[str], targets: str | list[str], ops: str | tuple[str, ...] = (), **more: object
    ) -> Rule:
        return Rule.rearrange(sources, targets, ops, layouts=_BOTH, **more)  # type: ignore[arg-type]

    found = [Rule.rename(f"{old}{a}.**", f"{new}{b}.**", layouts=_BOTH) for a, b in (*_PROJECTIONS, *_NORMS)]
    found += [Rule.drop(f"{old}{name}", "a buffer", layouts=_BOTH) for name in _BUFFERS]
    found += [move(f"{old}{a}", f"{new}{b}") for a, b in _COPIED]
    experts = [(f"{old}moe.experts.{{e:int}}.{w}.weight", f"{new}moe.{w}") for w in _STACKED]
    found += [move(a, b, "o i -> e i o") for a, b in experts]
    of_qkv, of_kv = ("query", "key", "value"), ("key", "value")
    fused = [("attn.qkv", "attention", of_qkv, "(q k v)"), ("cross.kv", "cross", of_kv, "(k v)")]
    for name, module, parts, group in fused:
        axes = group.strip("()").split()
        sizes = dict.fromkeys(axes, _WIDTH)
        for leaf, made, more in (("weight", "kernel", " in"), ("bias", "bias", "")):
            targets = [f"{new}{module}.{part}.{made}" for part in parts]
            ends = ", ".join(f"in {axis}" if more else axis for axis in axes)
            found.append(move(f"{old}{name}.{leaf}", targets, f"{group}{more} -> {ends}", sizes=sizes))
    found.append(move(f"{old}depth.gate", f"{tower}_model.gates", "d -> i d"))
    found += [
        Rule.rename(f"{tower}.embed.{leaf}", f"{tower}_model.{leaf}_embedding", layouts=_BOTH)
        for leaf in ("position", "kind", "start")
    ]
    states = [
        f"{old}{name}.running.**"
        for name in ("moe", "attn", "cross", "mlp", "pool", "router", "drift", "depth", "norm", "act")
    ]
    found += [Rule.drop(name, "a state", layouts=_BOTH, optional=True) for name in states]
    return found


def write_header(path: Path, shapes: Shapes) -> Path:
    """Write a safetensors file with these tensors, a hole of zeros, and return it."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * 4
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def main() -> None:
    parser = measure.parser(__doc__, repeats=3)
    parser.add_argument("--keys", type=int, default=10_000)
    arguments = parser.parse_args()
    facts = measure.machine(arguments.work.parent)
    arguments.work.mkdir(parents=True, exist_ok=True)
    try:
        lines, rows = _measured(arguments)
    finally:
        measure.remove(arguments.work)
    print(measure.text_table(("", "rules", "keys", "median s", "min", "max", "us/key"), lines))
    measure.finish(arguments, facts, {"rows": rows})


def _measured(arguments: argparse.Namespace) -> tuple[list[tuple[str, ...]], list[dict[str, object]]]:
    shapes = names(arguments.keys)
    torch = write_header(arguments.work / "torch.safetensors", shapes)
    options = {"to": "flax", "accept_guesses": True}
    few = rules("{tower}")
    made = plan_conversion(torch, rules=few, **options).target_specs()
    flax = write_header(
        arguments.work / "flax.safetensors", {join_key(key): spec.shape for key, spec in made.items()}
    )
    lines, rows = [], []
    for ruled in (few, rules(*TOWERS)):
        for what, source, to, like in (
            ("there", torch, "flax", None),
            ("there, like=", torch, "flax", flax),
            ("back", flax, "torch", None),
            ("back, like=", flax, "torch", torch),
        ):
            seconds = []
            for _ in range(arguments.repeats):
                started = time.perf_counter()
                layout = {"layout": "torch" if to == "flax" else "flax"}
                plan_conversion(
                    source, to=to, like=like, rules=ruled, accept_guesses=True, check=False, **layout
                )
                seconds.append(time.perf_counter() - started)
            rows.append({"what": what, "rules": len(ruled), "keys": len(shapes), "seconds": seconds})
            middle = measure.median(seconds)
            figures = (f"{middle:.2f}", f"{min(seconds):.2f}", f"{max(seconds):.2f}")
            each = f"{middle / len(shapes) * 1e6:.0f}"
            lines.append((what, str(len(ruled)), str(len(shapes)), *figures, each))
    return lines, rows


if __name__ == "__main__":
    main()
