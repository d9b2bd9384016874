"""Equations drawn from the grammar, with marks, numbers, repeats and lists, do what plain numpy does."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings, strategies as st
from support.arrays import assert_same_bits, random_array
from support.examples import examples
from support.ops import indices

from bridge_core import ArrayTensor, TensorSpec
from bridge_core.axes.equation import Equation, ListAxes
from bridge_core.axes.rearrangement import rearrange
from bridge_core.axes.structure import check_equation
from bridge_core.ops.chain import chain_tensors, inverse_chain
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.tensors import read_index

often = settings(max_examples=examples(15), deadline=None)

# An axis is a text, ("*", axes), a product, or ("+", parts), a concatenation of lists of axes.


@dataclass(frozen=True)
class Written:
    """One term: its axes, its list axes, and its place along the number if it is stacked."""

    axes: list
    lists: tuple
    place: dict


@dataclass(frozen=True)
class Drawn:
    left: list
    right: list
    sizes: dict
    dots: tuple
    number: str | None
    repeated: frozenset
    text: str

    @property
    def equation(self):
        return Equation.parse(self.text)

    @property
    def list_axes(self):
        return ListAxes(*(tuple(term.lists for term in side) for side in (self.left, self.right)))

    @property
    def named_sizes(self):
        return {name: n for name, n in self.sizes.items() if name.isidentifier()}


@st.composite
def equations(draw):
    names = list("abcdefgh")
    sizes = {name: draw(st.sampled_from([1, 2, 2, 3, 0])) for name in names} | {"r": 2, "s": 3}
    dots = draw(st.sampled_from([None, None, (), (2,), (1, 3)]))
    sizes |= {f"...{i}": n for i, n in enumerate(dots or ())}
    number = draw(st.sampled_from([None, None, "2", "3"]))
    pieces = draw(
        st.lists(st.frozensets(st.sampled_from(names), min_size=1, max_size=4), min_size=1, max_size=4)
    )
    pieces = list(dict.fromkeys(pieces))

    def partition(items, least=1):
        count = draw(st.integers(min(least, len(items)), len(items)))
        places = [*range(count), *(draw(st.integers(0, count - 1)) for _ in items[count:])]
        groups = [[] for _ in range(count)]
        for item, place in zip(draw(st.permutations(items)), places, strict=True):
            groups[place].append(item)
        return groups

    def grouped(nodes):
        axes = []
        for node in draw(st.permutations(nodes)):
            if axes and draw(st.integers(0, 3)) == 0:
                axes[-1] = ("*", [axes[-1], node])
            else:
                axes.append(node)
        return axes

    def tree(own):
        if len(own) == 1:
            return grouped(sorted(own[0]))
        outside = {name for name in sorted(frozenset.intersection(*own)) if draw(st.booleans())}
        parts = [tree(part) for part in partition([piece - outside for piece in own], 2)]
        return grouped([*sorted(outside), ("+", parts)])

    def with_repeat(axes, name):
        """Return the axes with a name in one place; in a group perhaps, or in one part of it."""
        at = draw(st.integers(0, len(axes)))
        if at < len(axes) and isinstance(axes[at], tuple) and draw(st.booleans()):
            kind, inner = axes[at]
            if kind == "+":
                i = draw(st.integers(0, len(inner) - 1))
                inner = [*inner[:i], with_repeat(inner[i], name), *inner[i + 1 :]]
            else:
                inner = with_repeat(inner, name)
            return [*axes[:at], (kind, inner), *axes[at + 1 :]]
        return [*axes[:at], name, *axes[at:]]

    def term(own, repeats, place):
        shared = sorted(name for name in frozenset.intersection(*own) if name.isidentifier() and sizes[name])
        lists = tuple(draw(st.permutations([name for name in shared if draw(st.integers(0, 5)) == 0])))
        axes = tree([piece - set(lists) for piece in own])
        for name in repeats:
            if draw(st.booleans()):
                axes = with_repeat(axes, name)
        for more in (
            *(["1"] if not axes or draw(st.integers(0, 4)) == 0 else []),
            *([] if dots is None else ["..."]),
        ):
            axes.insert(draw(st.integers(0, len(axes))), more)
        return Written(axes, lists, place)

    def side(own, repeats):
        more = [piece for piece in own if draw(st.integers(0, 6)) == 0]
        groups = [*partition(own), *(partition(more) if more else [])]
        return [term(group, repeats, {}) for group in draw(st.permutations(groups))]

    repeats = draw(st.sampled_from([(), (), ("r",), ("r", "s")]))
    if number is None:
        sides = [side(pieces, repeats), side(pieces, ())]
    else:
        sizes[number] = int(number)
        stacked = [term(pieces, (), {number: i}) for i in range(int(number))]
        sides = [side([piece | {number} for piece in pieces], repeats), stacked]
    left, right = draw(st.permutations(sides))

    def text(node):
        if isinstance(node, str):
            return node
        if node[0] == "*":
            return f"({' '.join(map(text, node[1]))})"
        marks = []
        for part in node[1]:
            inner = " ".join(map(text, part)) or "1"
            marks.append(f"({inner})" if draw(st.booleans()) else inner)
        return f"({draw(st.sampled_from(['+', ' + ', ' +'])).join(marks)})"

    written = " -> ".join(", ".join(" ".join(map(text, t.axes)) for t in terms) for terms in (left, right))
    used = {name for terms in (left, right) for t in terms for name in (*leaves(t.axes), *t.lists)}
    sizes = {name: n for name, n in sizes.items() if name in used or name.startswith("...")}
    return Drawn(left, right, sizes, dots or (), number, frozenset(repeats), written)


def leaves(nodes):
    for node in nodes:
        if isinstance(node, str):
            yield node
        else:
            yield from leaves(itertools.chain(*node[1]) if node[0] == "+" else node[1])


def flat(nodes, dots):
    """Return the axes without products and ones: names and concatenations."""
    factors = []
    for node in nodes:
        if node == "...":
            factors += [f"...{i}" for i in range(len(dots))]
        elif isinstance(node, tuple) and node[0] == "*":
            factors += flat(node[1], dots)
        elif node != "1":
            factors.append(node)
    return factors


def piece_names(factors):
    """Return the names of each piece."""
    for i, factor in enumerate(factors):
        if isinstance(factor, tuple):
            return [
                names
                for part in factor[1]
                for names in piece_names([*factors[:i], *flat(part, ()), *factors[i + 1 :]])
            ]
    return [factors]


def values_of(drawn, dtype, seed):
    values = {}
    for term in (*drawn.left, *drawn.right):
        for names in piece_names(flat(term.axes, drawn.dots)):
            key = frozenset((*names, *term.lists, *term.place)) - drawn.repeated
            if key not in values:
                shape = [drawn.sizes[name] for name in sorted(key)]
                values[key] = random_array(shape, dtype, seed + len(values))
    return values


def opened(factors, fixed, values, drawn):
    """Return a tensor that has an axis for each factor."""
    for i, factor in enumerate(factors):
        if isinstance(factor, tuple):
            parts = []
            for part in factor[1]:
                inner = flat(part, ())
                whole = opened([*factors[:i], *inner, *factors[i + 1 :]], fixed, values, drawn)
                before, own, after = np.split(whole.shape, [i, i + len(inner)])
                parts.append(whole.reshape(*map(int, before), math.prod(map(int, own)), *map(int, after)))
            return np.concatenate(parts, axis=i)
    kept = [name for name in factors if name not in drawn.repeated]
    key = sorted({*kept, *fixed})
    array = values[frozenset(key)][tuple(fixed.get(name, slice(None)) for name in key)]
    left = [name for name in key if name not in fixed]
    array = array.transpose([left.index(name) for name in kept])
    for i, name in enumerate(factors):
        if name in drawn.repeated:
            array = np.repeat(np.expand_dims(array, i), drawn.sizes[name], axis=i)
    return array


def size(node, sizes):
    if isinstance(node, str):
        return 1 if node == "1" else sizes[node]
    if node[0] == "*":
        return math.prod(size(inner, sizes) for inner in node[1])
    return sum(math.prod(size(inner, sizes) for inner in part) for part in node[1])


def tensors(terms, values, drawn):
    made = []
    for term in terms:
        whole = [node for n in term.axes for node in (flat(["..."], drawn.dots) if n == "..." else [n])]
        for place in itertools.product(*(range(drawn.sizes[name]) for name in term.lists)):
            fixed = dict(zip(term.lists, place, strict=True)) | term.place
            array = opened(flat(whole, ()), fixed, values, drawn)
            made.append(np.ascontiguousarray(array).reshape([size(node, drawn.sizes) for node in whole]))
    return made


def run(chain, arrays):
    for op in chain:
        arrays = op.apply(arrays)
    return arrays


def specs_of(arrays):
    return [TensorSpec(array.shape, array.dtype) for array in arrays]


@given(equations(), st.sampled_from(sorted(DTYPES)), st.integers(0, 2**32 - 1), st.data())
@often
def test_forward_is_what_numpy_makes_and_back_is_the_input(drawn, dtype, seed, data):
    values = values_of(drawn, DTYPES[dtype], seed)
    inputs, expected = (tensors(side, values, drawn) for side in (drawn.left, drawn.right))
    equation, sizes, lists = drawn.equation, drawn.named_sizes, drawn.list_axes
    made = rearrange(equation, specs_of(inputs), sizes=sizes, list_axes=lists)
    assert list(made.specs) == specs_of(expected)
    assert made.sizes == sizes
    outputs = run(made.ops, inputs)
    turned = rearrange(equation.inverse(), made.specs, sizes=sizes, list_axes=lists.inverse())
    for found, wanted in (
        *zip(outputs, expected, strict=True),
        *zip(run(inverse_chain(made.ops), outputs), inputs, strict=True),
        *zip(run(turned.ops, expected), inputs, strict=True),
    ):
        assert_same_bits(found, wanted, drawn.text)
    for ops, given_arrays, made_arrays in ((made.ops, inputs, expected), (turned.ops, expected, inputs)):
        lazy = chain_tensors([ArrayTensor(array) for array in given_arrays], ops)
        number = data.draw(st.integers(0, len(lazy) - 1))
        index = data.draw(indices(made_arrays[number].shape))
        assert_same_bits(read_index(lazy[number], index), made_arrays[number][index], drawn.text)


@given(equations())
@often
def test_the_text_is_read_back_and_turned_around(drawn):
    equation = drawn.equation
    assert Equation.parse(str(equation)) == equation
    assert str(Equation.parse(str(equation))) == str(equation)
    turned = equation.inverse()
    assert Equation.parse(str(turned)) == turned
    assert turned.inverse() == equation
    check_equation(equation, drawn.list_axes, drawn.named_sizes)
    check_equation(turned, drawn.list_axes.inverse(), drawn.named_sizes)
    assert equation.axes | {name for t in (*drawn.left, *drawn.right) for name in t.lists} == set(
        drawn.named_sizes
    )
