"""Random rule files: what they make is what numpy makes, slices included, and the way back restores all."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings, strategies as st
from support.arrays import assert_same_bits, random_array
from support.examples import examples
from support.ops import indices
from support.rule_files import abstract, assert_holds, saved, state_of

from bridge_core import convert, join_key, load_rules, plan_conversion
from bridge_core.state.dtypes import DTYPES

SIZES = st.sampled_from([0, 1, 1, 2, 3, 4])
dtypes = st.sampled_from(["float32", "bfloat16", "int8", "float8_e4m3fn", "bool", "complex64"])
often = settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass(frozen=True)
class Unit:
    """One rule and its tensors: layers for themselves on one side, stacked, cut and moved on the other.

    Args:
        text: The rule in TOML, from the first side to the second.
        first: The tensors of the rule's sources by name.
        second: Those of its targets.
    """

    text: str
    first: dict[str, np.ndarray]
    second: dict[str, np.ndarray]


@st.composite
def groups(draw, names):
    """Names in any order, cut into runs that are one axis each, an axis of size one here and there."""
    order = draw(st.permutations(names))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(order) - 1))))) if len(order) > 1 else []
    runs = [list(order[a:b]) for a, b in itertools.pairwise([0, *cuts, len(order)])] if order else []
    if draw(st.integers(0, 5)) == 0:
        runs.insert(draw(st.integers(0, len(runs))), [])
    return runs


def written(runs):
    texts = [run[0] if len(run) == 1 else f"({' '.join(run)})" if run else "1" for run in runs]
    return " ".join(texts)


def arranged(array, names, runs, sizes):
    """Bring an array with one axis for each name into the order and the axes of runs of names."""
    order = [name for run in runs for name in run]
    shape = [math.prod(sizes[name] for name in run) for run in runs]
    return array.transpose([names.index(name) for name in order]).reshape(shape)


def pattern(name, **captures):
    return name.format(
        **{key: f"{{{key}:int}}" if value is None else value for key, value in captures.items()}
    )


@st.composite
def units(draw, number):
    rank = draw(st.integers(0, 3))
    plain = [f"a{n}" for n in range(rank)]
    sizes = {name: draw(SIZES) for name in plain}
    parts = [f"p{n}" for n in range(draw(st.sampled_from([0, 0, 2, 3])))]
    sizes |= {name: draw(SIZES) for name in parts}
    stacked = draw(st.booleans())
    step = draw(st.sampled_from([1, 1, 2, 3])) if stacked else 1
    blocks = draw(st.integers(1, 3)) if stacked else 1
    count = blocks * step
    dtype = DTYPES[draw(dtypes)]
    seed = draw(st.integers(0, 2**32 - 1))

    # The side of single layers: (name, ...) with the parts as one axis.
    whole = ["whole"] if parts else []
    runs = draw(groups([*plain, *whole]))
    length = {**sizes, "whole": sum(sizes[p] for p in parts)}
    names = [*plain, *whole]
    full = random_array((count, *(length[n] for n in names)), dtype, seed)
    left = written(runs).replace("whole", f"({' '.join(parts)})")
    leaf = f"u{number}.{{i}}.weight" if stacked else f"u{number}.weight"
    first = {leaf.format(i=i): arranged(full[i], names, runs, length) for i in range(count)}

    # The side of stacks: a term for each part, each with its own order; the axis of layers anywhere.
    axis = ["block" if step > 1 else "i"] if stacked else []
    terms, orders, targets = [], [], []
    second = {}
    edges = list(itertools.accumulate((sizes[p] for p in parts), initial=0))
    for n, part in enumerate(parts or [""]):
        own = draw(groups([*axis, *plain, *([part] if part else [])]))
        terms.append(written(own))
        orders.append(own)
        piece = full[..., edges[n] : edges[n + 1]] if part else full
        known = [*(axis or ["none"]), *plain, *([part] if part else [])]
        place = f"v{number}.{n}" + (".l_{j}" if step > 1 else "") + ".kernel"
        targets.append(place)
        for j in range(step):
            layers = piece[j::step] if stacked else piece[0][None]
            lengths = {**sizes, axis[0]: blocks} if stacked else {**sizes, "none": 1}
            order = own if stacked else [*own, ["none"]]
            made = arranged(layers, known, order, lengths)
            second[place.format(j=j)] = made if stacked else made[..., 0]
    settled = [n for n in plain if [n] in runs and all([n] in own for own in orders)]
    needed = {n: s for n, s in sizes.items() if n not in settled or draw(st.booleans())}
    if stacked and (0 in sizes.values() or draw(st.booleans())):
        needed[axis[0]] = blocks  # nothing times any number of layers is nothing
    sides = (
        [pattern(leaf, i=None) if stacked else leaf],
        [pattern(t, j=None) if step > 1 else t for t in targets],
    )
    equation = [left, ", ".join(terms)]
    turned = draw(st.booleans())
    if turned:
        sides, equation, first, second = sides[::-1], equation[::-1], second, first
    lines = ["[[rule]]", f"source = {list(sides[0])}", f"target = {list(sides[1])}"]
    lines.append(f"rearrange = {' -> '.join(equation)!r}")
    if needed:
        lines.append(f"sizes = {{ {', '.join(f'{n} = {s}' for n, s in needed.items())} }}")
    if step > 1:
        lines.append(f"where = 'i = block*{step} + j'")
    return Unit("\n".join(lines), first, second)


@st.composite
def renames(draw, number):
    """Plain tensors that get other names."""
    count = draw(st.integers(1, 3))
    arrays = [random_array((draw(SIZES),), DTYPES[draw(dtypes)], number + i) for i in range(count)]
    text = f"[[rule]]\nsource = 'old{number}.{{i:int}}.**'\nrename = 'new{number}_{{i}}.**'"
    first = {f"old{number}.{i}.x.table": array for i, array in enumerate(arrays)}
    return Unit(text, first, {f"new{number}_{i}.x.table": array for i, array in enumerate(arrays)})


@st.composite
def rule_files(draw):
    made = [draw(units(n)) for n in range(draw(st.integers(1, 4)))]
    made += [draw(renames(100 + n)) for n in range(draw(st.integers(0, 2)))]
    made = draw(st.permutations(made))
    text = "\n\n".join(["source = 'torch'\ntarget = 'flax'", *(unit.text for unit in made)])
    first = {name: array for unit in made for name, array in unit.first.items()}
    second = {name: array for unit in made for name, array in unit.second.items()}
    return text, first, second


@often
@given(rule_files(), st.data())
def test_a_random_rule_file_does_what_numpy_does_and_back(tmp_path_factory, made, data):
    text, first, second = made
    rules = tmp_path_factory.mktemp("rules") / "rules.toml"
    rules.write_text(text)
    source = state_of(first, "torch")
    plan = plan_conversion(source, to="flax", rules=rules)
    lazy = plan.apply(source)
    assert_holds(lazy, second)
    for key in lazy:
        index = data.draw(indices(lazy.spec(key).shape))
        assert_same_bits(lazy.read(key, index), second[join_key(key)][index], key)

    there = state_of(second, "flax")
    back = plan_conversion(there, to="torch", rules=rules).apply(there)
    assert_holds(back, first)
    for key in back:
        index = data.draw(indices(back.spec(key).shape))
        assert_same_bits(back.read(key, index), first[join_key(key)][index], key)
    assert plan.exact
    assert_holds(plan.inverse().apply(there), first)


@settings(often, max_examples=examples(12))
@given(rule_files())
def test_a_random_rule_file_from_file_to_file_and_through_neutral(tmp_path_factory, made):
    text, first, second = made
    folder = tmp_path_factory.mktemp("files")
    rules = folder / "rules.toml"
    rules.write_text(text)
    source = saved(first, "torch", folder / "source.safetensors")
    once, neutral, twice, again = (folder / f"{n}.safetensors" for n in ("once", "neutral", "twice", "again"))
    convert(source, once, to="flax", rules=rules, layout="torch")
    assert_holds(once, second)
    convert(source, neutral, to="neutral", rules=rules, layout="torch")
    convert(neutral, twice, to="flax", rules=rules)
    assert once.read_bytes() == twice.read_bytes()
    convert(once, again, to="torch", rules=rules, layout="flax")
    assert_holds(again, first)


@settings(often, max_examples=examples(20))
@given(rule_files())
def test_a_template_changes_nothing(tmp_path_factory, made):
    text, first, second = made
    path = tmp_path_factory.mktemp("rules") / "rules.toml"
    path.write_text(text)
    rules = load_rules(path)
    for tensors, layout, to, wanted in ((first, "torch", "flax", second), (second, "flax", "torch", first)):
        source = state_of(tensors, layout)
        plan = plan_conversion(source, to=to, rules=rules, like=abstract(wanted, to))
        assert_holds(plan.apply(source), wanted)
