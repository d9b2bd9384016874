"""Structural rules with their sources and targets, the targets made by hand in numpy alone.

Every case is one rule, or a few, from torch's names to Flax's, beside an ordinary linear layer that no rule
is about. Sources hold random bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core import Rule
from bridge_core.state.dtypes import DTYPES
from support.arrays import random_array

__all__ = ["CASES", "RuleCase", "case_named"]

BOTH = ("torch", "flax")
Arrays = Mapping[str, np.ndarray]
Fresh = Callable[..., np.ndarray]


@dataclass(frozen=True)
class RuleCase:
    """One structural case.

    Args:
        rules: The rules, from torch to Flax.
        source: torch's tensors by name.
        target: Flax's tensors by name.
        config: What stands in the checkpoint's config.json; None for no such file.
        back: Whether the shapes of the source are needed on the way back.
        forth: Whether the shapes of the target are needed on the way there.
    """

    rules: tuple[Rule, ...]
    source: Arrays
    target: Arrays
    config: Mapping[str, Any] | None = None
    forth: bool = False
    back: bool = False


def move(sources: Any, targets: Any, ops: Any = (), **more: Any) -> Rule:
    return Rule.rearrange(sources, targets, ops, layouts=BOTH, **more)


MAKERS: dict[str, Callable[[Fresh], RuleCase]] = {}
CASES: tuple[str, ...]
"""The names of all cases."""


def case(make: Callable[[Fresh], RuleCase]) -> Callable[[Fresh], RuleCase]:
    MAKERS[make.__name__] = make
    return make


def case_named(name: str, dtype: str = "float32", seed: int = 0) -> RuleCase:
    """Make a case with random bits of a dtype."""
    seeds = itertools.count(seed * 1000)
    fresh: Fresh = lambda *shape: random_array(shape, DTYPES[dtype], next(seeds))  # noqa: E731
    made = MAKERS[name](fresh)
    weight, bias = fresh(5, 4), fresh(5)
    source = {"head.weight": weight, **made.source, "head.bias": bias}
    target = {"head.kernel": weight.T, **made.target, "head.bias": bias}
    return RuleCase(made.rules, source, target, made.config, made.forth, made.back)


# -- layers stacked into one tensor -----------------------------------------------------------------


def layers(fresh: Fresh, name: str, count: int, *shape: int) -> dict[str, np.ndarray]:
    return {name.format(i): fresh(*shape) for i in range(count)}


@case
def stacked_transposed(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "h.{}.fc.weight", 4, 3, 5)
    rule = move("h.{i:int}.fc.weight", "h.fc.kernel", "out in -> i in out")
    return RuleCase((rule,), source, {"h.fc.kernel": np.stack([w.T for w in source.values()])})


@case
def stacked_along_the_last_axis(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "h.{}.ln.weight", 11, 3)
    rule = move("h.{i:int}.ln.weight", "h.ln.scale", "e -> e i")
    return RuleCase((rule,), source, {"h.ln.scale": np.stack(list(source.values()), axis=1)})


@case
def stacked_in_blocks_of_six(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "h.{}.fc.weight", 12, 2, 3)
    rule = move(
        "h.{i:int}.fc.weight", "layers_{j:int}.fc.kernel", "out in -> block in out", where="i = block*6 + j"
    )
    target = {
        f"layers_{j}.fc.kernel": np.stack([source[f"h.{block * 6 + j}.fc.weight"].T for block in range(2)])
        for j in range(6)
    }
    return RuleCase((rule,), source, target)


@case
def stacked_along_two_axes_of_blocks(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "h.{}.fc.weight", 6, 2, 3)
    rule = move("h.{i:int}.fc.weight", "h.fc.kernel", "out in -> block j in out", where="i = block*2 + j")
    whole = np.stack([w.T for w in source.values()]).reshape(3, 2, 3, 2)
    return RuleCase((rule,), source, {"h.fc.kernel": whole})


@case
def stacked_in_blocks_of_blocks(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "h.{}.fc.weight", 24, 2)
    rule = move(
        "h.{i:int}.fc.weight",
        "s{b:int}.fc.kernel",
        "e -> c a e",
        where="i = a*12 + b*6 + c",
    )
    target = {
        f"s{b}.fc.kernel": np.stack(
            [np.stack([source[f"h.{a * 12 + b * 6 + c}.fc.weight"] for a in range(2)]) for c in range(6)]
        )
        for b in range(2)
    }
    return RuleCase((rule,), source, target)


@case
def stacked_per_stage(fresh: Fresh) -> RuleCase:
    """A capture of both sides tells the uses of the rule apart, each with its own number of layers."""
    source = {f"{s}.h.{i}.weight": fresh(2, 3) for s, n in (("enc", 2), ("dec", 3)) for i in range(n)}
    rule = move("{stage}.h.{i:int}.weight", "{stage}.h.kernel", "out in -> i in out")
    target = {
        f"{s}.h.kernel": np.stack([source[f"{s}.h.{i}.weight"].T for i in range(n)])
        for s, n in (("enc", 2), ("dec", 3))
    }
    return RuleCase((rule,), source, target)


@case
def one_layer_stacked(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "h.{}.fc.weight", 1, 3, 5)
    rule = move("h.{i:int}.fc.weight", "h.fc.kernel", "out in -> i in out")
    return RuleCase((rule,), source, {"h.fc.kernel": source["h.0.fc.weight"].T[None]})


# -- fused tensors ----------------------------------------------------------------------------------


@case
def qkv_contiguous(fresh: Fresh) -> RuleCase:
    w, b = fresh(12, 4), fresh(12)
    names = [f"attn.{n}" for n in ("query", "key", "value")]
    rules = (
        move("attn.qkv.weight", [f"{n}.kernel" for n in names], "(q k v) in -> in q, in k, in v"),
        move("attn.qkv.bias", [f"{n}.bias" for n in names], "(q k v) -> q, k, v"),
    )
    target = {f"{n}.kernel": w[4 * i : 4 * i + 4].T for i, n in enumerate(names)}
    target |= {f"{n}.bias": b[4 * i : 4 * i + 4] for i, n in enumerate(names)}
    return RuleCase(rules, {"attn.qkv.weight": w, "attn.qkv.bias": b}, target)


@case
def qkv_contiguous_with_heads(fresh: Fresh) -> RuleCase:
    w, b = fresh(12, 4), fresh(12)
    names = [f"attn.{n}" for n in ("query", "key", "value")]
    sizes = {"q": 2, "k": 2, "v": 2}
    rules = (
        move(
            "attn.qkv.weight",
            [f"{n}.kernel" for n in names],
            "((q d) (k d) (v d)) in -> in q d, in k d, in v d",
            sizes=sizes,
        ),
        move(
            "attn.qkv.bias",
            [f"{n}.bias" for n in names],
            "((q d) (k d) (v d)) -> q d, k d, v d",
            sizes=sizes,
        ),
    )
    target = {f"{n}.kernel": w[4 * i : 4 * i + 4].T.reshape(4, 2, 2) for i, n in enumerate(names)}
    target |= {f"{n}.bias": b[4 * i : 4 * i + 4].reshape(2, 2) for i, n in enumerate(names)}
    return RuleCase(rules, {"attn.qkv.weight": w, "attn.qkv.bias": b}, target)


@case
def qkv_interleaved_per_head(fresh: Fresh) -> RuleCase:
    w = fresh(2 * 3 * 5, 4)  # (head, q k v, d)
    rule = move(
        "attn.qkv.weight",
        ["attn.query.kernel", "attn.key.kernel", "attn.value.kernel"],
        "(h (q k v)) in -> in h q, in h k, in h v",
        sizes={"h": 2},
    )
    parts = w.reshape(2, 3, 5, 4)
    target = {
        f"attn.{n}.kernel": np.moveaxis(parts[:, i], -1, 0) for i, n in enumerate(("query", "key", "value"))
    }
    return RuleCase((rule,), {"attn.qkv.weight": w}, target)


@case
def qkv_grouped_contiguous(fresh: Fresh) -> RuleCase:
    w = fresh((8 + 2 + 2) * 3, 4)  # 8 query heads, 2 of keys and values, all of 3
    rule = move(
        "attn.qkv.weight",
        ["attn.query.kernel", "attn.key.kernel", "attn.value.kernel"],
        "((q d) (k d) (v d)) in -> in q d, in k d, in v d",
        sizes={"q": 8, "k": 2, "v": 2},
    )
    q, k, v = np.split(w, [24, 30])
    target = {
        "attn.query.kernel": q.T.reshape(4, 8, 3),
        "attn.key.kernel": k.T.reshape(4, 2, 3),
        "attn.value.kernel": v.T.reshape(4, 2, 3),
    }
    return RuleCase((rule,), {"attn.qkv.weight": w}, target)


@case
def qkv_grouped_interleaved(fresh: Fresh) -> RuleCase:
    w = fresh(2 * (4 + 1 + 1) * 3, 5)  # two groups, each of four query heads, a key and a value
    rule = move(
        "attn.qkv.weight",
        ["attn.query.kernel", "attn.key.kernel", "attn.value.kernel"],
        "(g (q k v) d) in -> in (g q) d, in (g k) d, in (g v) d",
        sizes={"g": 2, "q": 4, "k": 1, "v": 1},
    )
    parts = w.reshape(2, 6, 3, 5)
    cuts = {"query": parts[:, :4], "key": parts[:, 4:5], "value": parts[:, 5:]}
    target = {f"attn.{n}.kernel": np.moveaxis(p.reshape(-1, 3, 5), -1, 0) for n, p in cuts.items()}
    return RuleCase((rule,), {"attn.qkv.weight": w}, target)


@case
def qkv_stacked_over_layers(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "h.{}.attn.qkv.weight", 3, 12, 4)
    rule = move(
        "h.{i:int}.attn.qkv.weight",
        ["h.attn.query.kernel", "h.attn.key.kernel", "h.attn.value.kernel"],
        "((q d) (k d) (v d)) in -> i in q d, i in k d, i in v d",
        sizes={"q": 2, "k": 2, "v": 2},
    )
    target = {
        f"h.attn.{n}.kernel": np.stack([w[4 * p : 4 * p + 4].T.reshape(4, 2, 2) for w in source.values()])
        for p, n in enumerate(("query", "key", "value"))
    }
    return RuleCase((rule,), source, target)


@case
def separate_projections_fused(fresh: Fresh) -> RuleCase:
    source = {f"attn.{n}.weight": fresh(4, 3) for n in "qkv"}
    rule = move([f"attn.{n}.weight" for n in "qkv"], "attn.qkv.kernel", "q in, k in, v in -> in (q k v)")
    fused = np.concatenate([w.T for w in source.values()], axis=1)
    return RuleCase((rule,), source, {"attn.qkv.kernel": fused})


@case
def parts_of_unequal_sizes_fused(fresh: Fresh) -> RuleCase:
    source = {"attn.q.weight": fresh(6, 3), "attn.k.weight": fresh(2, 3), "attn.v.weight": fresh(2, 3)}
    rule = move([*source], "attn.qkv.kernel", "q in, k in, v in -> in (q k v)")
    fused = np.concatenate([w.T for w in source.values()], axis=1)
    return RuleCase((rule,), source, {"attn.qkv.kernel": fused}, back=True)


@case
def gate_up(fresh: Fresh) -> RuleCase:
    w = fresh(8, 3)
    rule = move("mlp.gate_up.weight", ["mlp.gate.kernel", "mlp.up.kernel"], "(g u) in -> in g, in u")
    return RuleCase(
        (rule,), {"mlp.gate_up.weight": w}, {"mlp.gate.kernel": w[:4].T, "mlp.up.kernel": w[4:].T}
    )


@case
def gate_up_interleaved_in_experts(fresh: Fresh) -> RuleCase:
    w = fresh(3, 4, 10)  # experts, in, rows of gate and up by turns
    rule = move(
        "mlp.experts.weight",
        ["mlp.gate.kernel", "mlp.up.kernel"],
        "e in (f (g u)) -> e in (f g), e in (f u)",
        sizes={"g": 1, "u": 1},
    )
    return RuleCase(
        (rule,),
        {"mlp.experts.weight": w},
        {"mlp.gate.kernel": w[..., ::2], "mlp.up.kernel": w[..., 1::2]},
    )


# -- experts ----------------------------------------------------------------------------------------


@case
def experts_stacked(fresh: Fresh) -> RuleCase:
    source = layers(fresh, "moe.experts.{}.w1.weight", 5, 6, 4)
    rule = move("moe.experts.{e:int}.w1.weight", "moe.w1.kernel", "out in -> e in out")
    return RuleCase((rule,), source, {"moe.w1.kernel": np.stack([w.T for w in source.values()])})


@case
def experts_of_every_layer_stacked(fresh: Fresh) -> RuleCase:
    source = {f"h.{i}.experts.{e}.w1.weight": fresh(2, 3) for i in range(2) for e in range(3)}
    rule = move("h.{i:int}.experts.{e:int}.w1.weight", "h.moe.w1.kernel", "out in -> e i in out")
    whole = np.stack(
        [np.stack([source[f"h.{i}.experts.{e}.w1.weight"].T for i in range(2)]) for e in range(3)]
    )
    return RuleCase((rule,), source, {"h.moe.w1.kernel": whole})


@case
def experts_stacked_layer_by_layer(fresh: Fresh) -> RuleCase:
    source = {f"h.{i}.experts.{e}.w1.weight": fresh(2, 3) for i in range(2) for e in range(3)}
    rule = move("h.{i:int}.experts.{e:int}.w1.weight", "h_{i:int}.moe.w1.kernel", "out in -> e in out")
    target = {
        f"h_{i}.moe.w1.kernel": np.stack([source[f"h.{i}.experts.{e}.w1.weight"].T for e in range(3)])
        for i in range(2)
    }
    return RuleCase((rule,), source, target)


@case
def experts_gate_and_up_joined_and_stacked(fresh: Fresh) -> RuleCase:
    source = {f"moe.{e}.{n}.weight": fresh(3, 2) for e in range(4) for n in ("w1", "w3")}
    rule = move(
        ["moe.{e:int}.w1.weight", "moe.{e:int}.w3.weight"], "moe.wi.kernel", "g in, u in -> e in (g u)"
    )
    whole = np.stack(
        [
            np.concatenate([source[f"moe.{e}.w1.weight"].T, source[f"moe.{e}.w3.weight"].T], axis=1)
            for e in range(4)
        ]
    )
    return RuleCase((rule,), source, {"moe.wi.kernel": whole})


# -- axes of one tensor -----------------------------------------------------------------------------


@case
def rope_rows(fresh: Fresh) -> RuleCase:
    w, b = fresh(3 * 8, 4), fresh(3 * 8)  # three heads whose rows are halves: two of four
    rules = (
        move("attn.q.weight", "attn.q.kernel", "(h two d) in -> in (h d two)", sizes={"h": 3, "two": 2}),
        move("attn.q.bias", "attn.q.bias", "(h two d) -> (h d two)", sizes={"h": 3, "two": 2}),
    )
    rows = [h * 8 + two * 4 + d for h in range(3) for d in range(4) for two in range(2)]
    return RuleCase(
        rules, {"attn.q.weight": w, "attn.q.bias": b}, {"attn.q.kernel": w[rows].T, "attn.q.bias": b[rows]}
    )


@case
def heads_from_sizes(fresh: Fresh) -> RuleCase:
    w = fresh(6, 4)
    rule = move("attn.q.weight", "attn.q.kernel", "(h d) in -> in h d", sizes={"h": 2})
    return RuleCase((rule,), {"attn.q.weight": w}, {"attn.q.kernel": w.T.reshape(4, 2, 3)})


@case
def heads_from_the_config(fresh: Fresh) -> RuleCase:
    w, o = fresh(6, 4), fresh(4, 6)
    size = "config.num_attention_heads"
    rules = (
        move("attn.q.weight", "attn.q.kernel", "(h d) in -> in h d", sizes={"h": size}),
        move(
            "attn.o.weight",
            "attn.o.kernel",
            "out (h d) -> h d out",
            sizes={"d": "config.text.width / config.num_attention_heads"},
        ),
    )
    target = {"attn.q.kernel": w.T.reshape(4, 3, 2), "attn.o.kernel": o.T.reshape(3, 2, 4)}
    config = {"num_attention_heads": 3, "text": {"width": 6}}
    return RuleCase(rules, {"attn.q.weight": w, "attn.o.weight": o}, target, config=config)


@case
def heads_from_the_template(fresh: Fresh) -> RuleCase:
    w = fresh(6, 4)
    rule = move("attn.q.weight", "attn.q.kernel", "(h d) in -> in h d")
    target = {"attn.q.kernel": w.T.reshape(4, 3, 2)}
    return RuleCase((rule,), {"attn.q.weight": w}, target, forth=True)


@case
def kernels_of_any_rank(fresh: Fresh) -> RuleCase:
    source = {"a.weight": fresh(2, 3, 4), "b.weight": fresh(2, 3, 4, 5), "c.weight": fresh(2, 3)}
    rule = move("{name}.weight", "{name}.kernel", "out in ... -> ... in out", when={"sizes": {"in": 3}})
    target = {
        "a.kernel": source["a.weight"].transpose(2, 1, 0),
        "b.kernel": source["b.weight"].transpose(2, 3, 1, 0),
        "c.kernel": source["c.weight"].T,
    }
    return RuleCase((rule,), source, target)


@case
def axes_of_size_one(fresh: Fresh) -> RuleCase:
    w = fresh(3, 1, 4)
    rule = move("conv.weight", "conv.kernel", "out 1 k -> 1 k out 1")
    return RuleCase((rule,), {"conv.weight": w}, {"conv.kernel": w.reshape(3, 4).T.reshape(1, 4, 3, 1)})


@case
def moved_as_they_are(fresh: Fresh) -> RuleCase:
    source = {"a.0.lora.weight": fresh(2, 3), "a.1.lora.weight": fresh(4, 3)}
    rule = move("a.{i:int}.lora.weight", "lora.a_{i:int}.kernel")
    target = {"lora.a_0.kernel": source["a.0.lora.weight"], "lora.a_1.kernel": source["a.1.lora.weight"]}
    return RuleCase((rule,), source, target)


@case
def told_apart_by_rank(fresh: Fresh) -> RuleCase:
    source = {"a.weight": fresh(2, 3, 4), "b.weight": fresh(2, 3, 4, 5)}
    rules = (
        move("{n}.weight", "{n}.kernel", "out in k -> k in out", when={"rank": 3}),
        move("{n}.weight", "{n}.kernel", "out in h w -> h w in out", when={"rank": 4}),
    )
    target = {
        "a.kernel": source["a.weight"].transpose(2, 1, 0),
        "b.kernel": source["b.weight"].transpose(2, 3, 1, 0),
    }
    return RuleCase(rules, source, target)


@case
def conditions_on_the_first_of_several(fresh: Fresh) -> RuleCase:
    """The axis of the condition stands in the first term alone; the others' shapes do not matter."""
    source = {"attn.q.weight": fresh(6, 3), "attn.k.weight": fresh(2, 3)}
    rule = move(
        ["{n}.q.weight", "{n}.k.weight"],
        "{n}.qk.kernel",
        "q in, k in -> in (q k)",
        sizes={"q": 6},
        when={"sizes": {"q": 6}},
    )
    whole = np.concatenate([source["attn.q.weight"].T, source["attn.k.weight"].T], axis=1)
    return RuleCase((rule,), source, {"attn.qk.kernel": whole}, back=True)


# -- one tensor in two places -----------------------------------------------------------------------


@case
def untied(fresh: Fresh) -> RuleCase:
    w = fresh(6, 4)
    rule = move("wte.weight", ["wte.embedding", "out.kernel"], "v d -> v d, d v")
    return RuleCase((rule,), {"wte.weight": w}, {"wte.embedding": w, "out.kernel": w.T})


@case
def tied(fresh: Fresh) -> RuleCase:
    w = fresh(6, 4)
    rule = move(["wte.weight", "lm.weight"], "wte.embedding", "v d, v d -> v d")
    return RuleCase((rule,), {"wte.weight": w, "lm.weight": w.copy()}, {"wte.embedding": w})


CASES = tuple(MAKERS)
