"""Random rule files from the whole grammar do what numpy does, there and back, or lose what they declare."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.numpy import load_file, save_file
from support.arrays import assert_same_bits
from support.examples import examples

from bridge_core import convert, load_rules
from bridge_core.rules import read_recorded, recorded

FEW = st.integers(1, 4)
often = settings(
    max_examples=examples(25),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Part:
    """Rules about names that begin with one prefix, and the tensors of both sides.

    Args:
        rules: The rules in TOML.
        source: torch's tensors.
        target: Flax's tensors, made by hand.
        tables: Lines of ``[tables]``.
        back: What the way back gives in place of sources, where that is declared to be something else.
        like: Whether the way back needs the names of the source.
        config: Entries of the config.
    """

    rules: str
    source: dict[str, np.ndarray]
    target: dict[str, np.ndarray]
    tables: str = ""
    back: dict[str, np.ndarray] = field(default_factory=dict)
    like: bool = False
    config: dict[str, int] = field(default_factory=dict)


class Draws:
    """Arrays of normal numbers, all different."""

    def __init__(self, seed):
        self.numbers = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.numbers.standard_normal(shape, np.float32)


def rule(source, target, ops=(), **more):
    """Return a rule that rearranges tensors, in TOML."""
    lines = ["[[rule]]", f"source = {json.dumps(source)}", f"target = {json.dumps(target)}"]
    if ops:
        lines.append(f"rearrange = {json.dumps(ops)}")
    for key, value in more.items():
        if isinstance(value, dict):
            value = "{ " + ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) + " }"
        elif not isinstance(value, bool):
            value = json.dumps(value)
        else:
            value = str(value).lower()
        lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


@st.composite
def shifted(draw, p, fresh):
    first, count, width = draw(st.integers(0, 5)), draw(FEW), draw(FEW)
    index = f"n = m + {first}" if first else "n = m"
    old, new = f"{p}.norm{{n:int}}.*", f"{p}.Norm_{{m:int}}.*"
    text = f'[[rule]]\nsource = "{old}"\nrename = "{new}"\nwhere = "{index}"\n'
    source, target = {}, {}
    for m in range(count):
        for old, new in (("weight", "scale"), ("bias", "bias")):
            source[f"{p}.norm{m + first}.{old}"] = target[f"{p}.Norm_{m}.{new}"] = fresh(width + 1)
    return Part(text, source, target)


@st.composite
def tabled(draw, p, fresh):
    count = draw(FEW)
    olds = draw(st.permutations(["q_proj", "k", "deep.v", "out"]))[:count]
    news = draw(st.permutations(["query", "key", "a.value", "o"]))[:count]
    table = ", ".join(f"{json.dumps(o)} = {json.dumps(n)}" for o, n in zip(olds, news, strict=True))
    h, d, i = draw(FEW), draw(FEW), draw(FEW)
    text = rule(f"{p}.{{{p}t}}.weight", f"{p}.{{{p}t}}.kernel", "(h d) in -> in h d", sizes={"h": h})
    source = {f"{p}.{old}.weight": fresh(h * d, i) for old in olds}
    pairs = zip(olds, news, strict=True)
    target = {f"{p}.{new}.kernel": source[f"{p}.{old}.weight"].T.reshape(i, h, d) for old, new in pairs}
    return Part(text, source, target, f"{p}t = {{ {table} }}\n")


@st.composite
def offsets(draw, p, fresh):
    lengths = draw(st.lists(FEW, min_size=1, max_size=4))
    starts = [0, *itertools.accumulate(lengths)][:-1]
    first = draw(st.integers(0, 1))
    index = "s - 1" if first else "s"
    counted = draw(st.booleans())
    n = f"n_{p}"  # rules that write one count share its numbers
    where = f"{n} counts s, b" if counted else f"{n} = {starts}[{index}] + b"
    if counted and draw(st.booleans()):
        where = [where, f"{first} <= s < {first + len(lengths)}", f"b < {lengths}[{index}]"]
    text = rule(f"{p}.s{{s:int}}.{{b:int}}.w", f"{p}.Block_{{{n}:int}}.k", "a b -> b a", where=where)
    source, target = {}, {}
    for s, length in enumerate(lengths):
        for b in range(length):
            source[f"{p}.s{s + first}.{b}.w"] = fresh(2, 3)
            target[f"{p}.Block_{starts[s] + b}.k"] = source[f"{p}.s{s + first}.{b}.w"].T
    return Part(text, source, target, like=where == f"{n} counts s, b")


@st.composite
def residues(draw, p, fresh):
    step, count = draw(st.integers(2, 3)), draw(st.integers(1, 7))
    stacked = draw(st.booleans())
    texts, source, target = [], {f"{p}.l.{i}.w": fresh(2) for i in range(count)}, {}
    for r in range(min(step, count)):
        where = f"i = {step}*m + {r}" if r else f"i = {step}*m"
        members = [source[f"{p}.l.{i}.w"] for i in range(r, count, step)]
        if stacked:
            texts.append(rule(f"{p}.l.{{i:int}}.w", f"{p}.r{r}.k", "e -> e m", where=where))
            target[f"{p}.r{r}.k"] = np.stack(members, axis=1)
        else:
            texts.append(rule(f"{p}.l.{{i:int}}.w", f"{p}.r{r}_{{m:int}}.k", where=where))
            target |= {f"{p}.r{r}_{m}.k": member for m, member in enumerate(members)}
    return Part("\n".join(texts), source, target)


@st.composite
def remainders(draw, p, fresh):
    block, count = draw(st.integers(2, 4)), draw(st.integers(2, 10))
    whole, size = count // block * block, f"{block}*(config.{p}n // {block})"
    source = {f"{p}.{i}.w": fresh(2, 3) for i in range(count)}
    target, texts = {}, []
    if whole:
        where = [f"i = block*{block} + j", f"i < {size}"]
        texts.append(rule(f"{p}.{{i:int}}.w", f"{p}.in_{{j:int}}.k", "o i_ -> block i_ o", where=where))
        for j in range(block):
            members = [source[f"{p}.{i}.w"].T for i in range(j, whole, block)]
            target[f"{p}.in_{j}.k"] = np.stack(members)
    if whole < count:
        texts.append(
            rule(f"{p}.{{i:int}}.w", f"{p}.rest_{{r:int}}.k", "o i_ -> i_ o", where=f"i = {size} + r")
        )
        target |= {f"{p}.rest_{i - whole}.k": source[f"{p}.{i}.w"].T for i in range(whole, count)}
    return Part("\n".join(texts), source, target, config={f"{p}n": count})


@st.composite
def numbered_axis(draw, p, fresh):
    count, layers = draw(st.integers(2, 3)), draw(FEW)
    n, h, d = draw(FEW), draw(FEW), draw(FEW)
    at = draw(st.integers(0, 4))
    right = ["i", "n", "d", "h"]
    right.insert(at, str(count))
    left = ", ".join(["(n h) d"] * count)
    text = rule(
        [f"{p}.{{i:int}}.{x}.w" for x in "abc"[:count]],
        f"{p}.all.k",
        f"{left} -> {' '.join(right)}",
        sizes={"n": n},
    )
    source = {f"{p}.{i}.{x}.w": fresh(n * h, d) for i in range(layers) for x in "abc"[:count]}
    by_layer = [
        np.stack([source[f"{p}.{i}.{x}.w"].reshape(n, h, d) for x in "abc"[:count]]) for i in range(layers)
    ]
    made = np.stack(by_layer).transpose(0, 2, 4, 3, 1)  # i n d h, and the axis of the tensors last
    return Part(text, source, {f"{p}.all.k": np.moveaxis(made, 4, at)})


@st.composite
def marked(draw, p, fresh):
    names = ["x", "y", "z"][: draw(st.integers(2, 3))]
    order = draw(st.permutations(names))
    sizes = {name: draw(FEW) for name in names}
    h, e = draw(FEW), draw(FEW)
    inside = draw(st.booleans())
    source = fresh(h * sum(sizes.values()), e)
    starts = dict(zip(names, [0, *itertools.accumulate(sizes[name] for name in names)], strict=False))
    pieces = {n: source.reshape(h, -1, e)[:, starts[n] : starts[n] + sizes[n]] for n in names}
    joined = np.concatenate([pieces[name] for name in order], axis=1)
    if inside:
        ops = f"(h ({' + '.join(names)})) e -> e (h ({' + '.join(order)}))"
        target = joined.reshape(-1, e).T
    else:
        ops = f"(h ({' + '.join(names)})) e -> ({' + '.join(f'h {name}' for name in order)}) e"
        target = np.concatenate([pieces[name].reshape(-1, e) for name in order])
    return Part(
        rule(f"{p}.w", f"{p}.k", ops, sizes={"h": h, **sizes}), {f"{p}.w": source}, {f"{p}.k": target}
    )


@st.composite
def repeated(draw, p, fresh):
    kv, r, d, e = draw(FEW), draw(st.integers(1, 3)), draw(FEW), draw(FEW)
    source = fresh(kv * d, e)
    target = np.repeat(source.reshape(kv, d, e), r, axis=0).transpose(2, 0, 1)
    text = rule(f"{p}.w", f"{p}.k", "(kv d) e -> e (kv r) d", sizes={"kv": kv, "r": r})
    return Part(text, {f"{p}.w": source}, {f"{p}.k": target})


@st.composite
def scaled(draw, p, fresh):
    n, h, e = draw(FEW), draw(st.sampled_from([1, 4, 16])), draw(FEW)
    source = fresh(n * h, e)
    ops = ["(n h) e -> e n h", "scale(h ** -0.5)"]
    if draw(st.booleans()):
        ops = ["scale(1 / config.s)", "(n h) e -> e n h"]
    factor = h**-0.5 if "h **" in ops[1] else 0.25
    target = (source * np.float32(factor)).T.reshape(e, n, h)
    text = rule(f"{p}.w", f"{p}.k", ops, sizes={"n": n})
    return Part(text, {f"{p}.w": source}, {f"{p}.k": target}, config={"s": 4})


@st.composite
def alternative(draw, p, fresh):
    heads = draw(st.permutations(["model.", "lm.model.", ""]))
    used = draw(st.sampled_from(heads))
    text = "|".join(head.rstrip(".") for head in heads)
    source = {f"{p}.{used}fc.weight": fresh(3, 4), f"{p}.{used}fc.bias": fresh(3)}
    target = {
        f"{p}.dense.kernel": source[f"{p}.{used}fc.weight"].T,
        f"{p}.dense.bias": source[f"{p}.{used}fc.bias"],
    }
    rename = f'[[rule]]\nsource = "{p}.{{{text}}}.fc.*"\nrename = "{p}.dense.*"\n'
    return Part(rename, source, target, like=used != heads[0])


@st.composite
def tied(draw, p, fresh):
    marked = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    stored = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    stored = tuple(s or not m for s, m in zip(stored, marked, strict=True))
    value = fresh(4, 3)
    names = [f"{p}.embed.w", f"{p}.head.w"]
    patterns = [name + "?" * mark for name, mark in zip(names, marked, strict=True)]
    source = {name: value for name, is_stored in zip(names, stored, strict=True) if is_stored}
    text = rule(patterns, f"{p}.table", "v d, v d -> v d")
    return Part(text, source, {f"{p}.table": value}, like=True)


@st.composite
def cut(draw, p, fresh):
    kept, lost = draw(FEW), draw(FEW)
    source = fresh(kept + lost, 3)
    zeros = source.copy()
    zeros[kept:] = 0
    text = rule(f"{p}.w", f"{p}.k", f"cut(0, {kept + lost}, {kept})")
    return Part(text, {f"{p}.w": source}, {f"{p}.k": source[:kept]}, back={f"{p}.w": zeros})


PARTS = (
    shifted,
    tabled,
    offsets,
    residues,
    remainders,
    numbered_axis,
    marked,
    repeated,
    scaled,
    alternative,
    tied,
    cut,
)


@st.composite
def files(draw, kinds=PARTS):
    fresh = Draws(draw(st.integers(0, 2**32 - 1)))
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    return [draw(kind(f"p{number}", fresh)) for number, kind in enumerate(chosen)]


def merged(parts, name):
    return {key: value for part in parts for key, value in getattr(part, name).items()}


def text_of(parts):
    tables = "".join(part.tables for part in parts)
    head = 'source = "torch"\ntarget = "flax"\n' + (f"[tables]\n{tables}" if tables else "")
    return head + "\n".join(part.rules for part in parts)


def check(parts, folder):
    folder.mkdir(exist_ok=True)
    (folder / "r.toml").write_text(text_of(parts))
    config = folder / "config.json"
    config.write_text(json.dumps(merged(parts, "config")))
    rules = load_rules(folder / "r.toml")
    source, there, back = (folder / f"{name}.safetensors" for name in ("in", "out", "back"))
    save_file(merged(parts, "source"), source)
    report = convert(source, there, layout="torch", to="flax", rules=rules, overwrite=True)
    made, expected = load_file(there), merged(parts, "target")
    assert made.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(made[name], array)
    lost = merged(parts, "back")
    assert report.exact == (not lost)
    like = source if any(part.like for part in parts) else None
    convert(there, back, layout="flax", to="torch", like=like, rules=rules, overwrite=True)
    made, expected = load_file(back), {**merged(parts, "source"), **lost}
    assert made.keys() == expected.keys()
    for name, array in expected.items():
        assert_same_bits(made[name], array)
    for one in rules:
        assert one.reversed().reversed() == one
        assert read_recorded(recorded(one, "torch")) == one
        assert read_recorded(recorded(one.reversed(), "flax")) == one.reversed()


@often
@given(files())
def test_a_random_file_does_what_numpy_does_and_back(tmp_path_factory, parts):
    check(parts, tmp_path_factory.getbasetemp() / "language")


def test_each_part_of_the_grammar(tmp_path):
    for kind in PARTS:

        @settings(max_examples=examples(3), deadline=None, derandomize=True, database=None)
        @given(files((kind,)))
        def of_kind(parts):
            check(parts, tmp_path / "one")

        of_kind()


def test_control_a_changed_tensor_is_seen(tmp_path):
    fresh = Draws(0)
    array = fresh(4, 3)
    part = Part(rule("p.w", "p.k", "a b -> b a"), {"p.w": array}, {"p.k": array})
    with pytest.raises(AssertionError):
        check([part], tmp_path / "control")
