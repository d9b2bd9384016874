"""The axis notation: reading it, what it refuses, and that its ops do what explicit loops over indices do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.arrays import assert_same_bits, random_array
from support.errors import refused
from support.examples import examples
from support.ops import indices

from bridge_core import ArrayTensor, PlanError, RuleError, TensorSpec
from bridge_core.axes.equation import Equation, Group, ListAxes, Term
from bridge_core.axes.rearrangement import rearrange
from bridge_core.axes.structure import check_equation
from bridge_core.ops.chain import Parallel, chain_tensors, inverse_chain
from bridge_core.ops.select import Duplicate, Reorder, RequireEqual
from bridge_core.ops.shape import Permute, Reshape
from bridge_core.ops.split_concat import Concat, Split, Stack, Unstack
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.tensors import LazyTensor, read_index

often = settings(max_examples=examples(125), deadline=None)
seeds = st.integers(0, 2**32 - 1)

# Random equations. An axis is a name, "1", "...", ("*", axes), a product, or ("+", axes), a concatenation.


@dataclass(frozen=True)
class Tensors:
    """One term: its axes and the names that it is a list along."""

    axes: tuple
    list_axes: tuple


@dataclass(frozen=True)
class Case:
    left: tuple
    right: tuple
    sizes: dict
    dots: tuple

    @property
    def equation(self):
        sides = (", ".join(" ".join(map(text, t.axes)) for t in side) for side in (self.left, self.right))
        return Equation.parse(" -> ".join(sides))

    @property
    def list_axes(self):
        return ListAxes(tuple(t.list_axes for t in self.left), tuple(t.list_axes for t in self.right))

    def all_sizes(self):
        return self.sizes | {f"...{i}": n for i, n in enumerate(self.dots)}

    def values(self, dtype, seed):
        """Random values for every piece, by the set of its names; their axes are sorted by name."""
        sizes = self.all_sizes()
        found = {}
        for tensors in (*self.left, *self.right):
            for names in pieces(spread(tensors.axes, self.dots)):
                names = sorted({*names, *tensors.list_axes})
                found[frozenset(names)] = random_array([sizes[n] for n in names], dtype, seed + len(found))
        return found

    def side(self, terms, values, dtype):
        """The tensors of a side, element by element."""
        sizes = self.all_sizes()
        made = []
        for tensors in terms:
            axes = spread(tensors.axes, self.dots)
            for place in itertools.product(*(range(sizes[name]) for name in tensors.list_axes)):
                array = np.empty([length(axis, sizes) for axis in axes], dtype)
                for index in np.ndindex(array.shape):
                    at = dict(zip(tensors.list_axes, place, strict=True))
                    for axis, i in zip(axes, index, strict=True):
                        at |= decode(axis, i, sizes)
                    array[index] = values[frozenset(at)][tuple(at[name] for name in sorted(at))]
                made.append(array)
        return tuple(made)


def text(axis):
    return axis if isinstance(axis, str) else f"({' '.join(map(text, axis[1]))})"


def spread(axes, dots):
    return [a for axis in axes for a in ([f"...{i}" for i in range(len(dots))] if axis == "..." else [axis])]


def pieces(axes):
    """The sets of names that the choices of parts lead to."""
    found = [()]
    for axis in axes:
        if axis == "1":
            options = [()]
        elif isinstance(axis, str):
            options = [(axis,)]
        elif axis[0] == "+":
            options = [names for member in axis[1] for names in pieces([member])]
        else:
            options = pieces(axis[1])
        found = [(*names, *more) for names in found for more in options]
    return found


def length(axis, sizes):
    if isinstance(axis, str):
        return 1 if axis == "1" else sizes[axis]
    lengths = [length(member, sizes) for member in axis[1]]
    return sum(lengths) if axis[0] == "+" else int(np.prod(lengths))


def decode(axis, i, sizes):
    """Where along each name an index along an axis stands."""
    if axis == "1":
        return {}
    if isinstance(axis, str):
        return {axis: i}
    at = {}
    if axis[0] == "+":
        for member in axis[1]:
            if i < length(member, sizes):
                return decode(member, i, sizes)
            i -= length(member, sizes)
    for member in reversed(axis[1]):
        i, rest = divmod(i, length(member, sizes))
        at |= decode(member, rest, sizes)
    return at


@st.composite
def cases(draw):
    names = iter("abcdefghijklmnopqrstuvwxyz")
    sizes = {}
    dots = tuple(draw(st.lists(st.sampled_from([0, 1, 2]), max_size=2)))

    def name(least=0):
        new = next(names)
        sizes[new] = draw(st.sampled_from([n for n in (0, 1, 2, 2, 3) if n >= least]))
        return new

    def axis(depth):
        kind = draw(st.sampled_from(["name", "name", "*", "+"] if depth else ["name"]))
        if kind == "name":
            return name(draw(st.integers(0, 1)))
        return kind, [axis(depth - 1) for _ in range(draw(st.integers(1 if kind == "*" else 2, 2)))]

    def sprinkled(axes, with_dots):
        axes = list(axes)
        for _ in range(draw(st.integers(0, 1))):
            axes.insert(draw(st.integers(0, len(axes))), "1")
        if with_dots:
            axes.insert(draw(st.integers(0, len(axes))), "...")
        return tuple(axes or ["1"])

    def grouped(loose):
        axes = []
        for new in draw(st.permutations(loose)):
            if axes and draw(st.integers(0, 2)) == 0:
                last = axes.pop()
                members = last[1] if isinstance(last, tuple) and draw(st.booleans()) else [last]
                axes.append(("*", [*members, new]))
            else:
                axes.append(new)
        return axes

    sides = ([], [])
    for _ in range(draw(st.integers(1, 2))):
        with_dots = draw(st.booleans())
        whole = [axis(2) for _ in range(draw(st.integers(1, 2)))]
        lists = tuple(name(1) for _ in range(draw(st.integers(0, 1))))
        one = [Tensors(sprinkled(whole, with_dots), lists)]
        if draw(st.integers(0, 4)) == 0:
            one.append(Tensors(sprinkled(draw(st.permutations(whole)), with_dots), lists))
        other = []
        for piece in pieces(whole):
            for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
                own = [n for n in (*piece, *lists) if sizes[n] and draw(st.integers(0, 3)) == 0]
                loose = [n for n in (*piece, *lists) if n not in own]
                own = tuple(draw(st.permutations(own)))
                other.append(Tensors(sprinkled(grouped(loose), with_dots), own))
        for side, more in zip(sides, (one, other) if draw(st.booleans()) else (other, one), strict=True):
            side.extend(more)
    left, right = (tuple(draw(st.permutations(side))) for side in sides)
    return Case(left, right, sizes, dots)


def run(chain, arrays):
    for op in chain:
        arrays = op.apply(arrays)
    return arrays


def specs_of(arrays):
    return [TensorSpec(array.shape, array.dtype) for array in arrays]


def all_ops(chain):
    for op in chain:
        yield op
        for inner in op.chains if isinstance(op, Parallel) else ():
            yield from all_ops(inner)


@pytest.mark.slow
@given(cases(), st.sampled_from(sorted(DTYPES)), seeds, st.data())
@often
def test_the_ops_do_what_loops_over_indices_do_and_undo_it(case, dtype, seed, data):
    values = case.values(DTYPES[dtype], seed)
    inputs = case.side(case.left, values, DTYPES[dtype])
    expected = case.side(case.right, values, DTYPES[dtype])
    made = rearrange(case.equation, specs_of(inputs), sizes=case.sizes, list_axes=case.list_axes)
    assert list(made.specs) == specs_of(expected)
    assert made.sizes == case.sizes
    outputs = run(made.ops, inputs)
    back = run(inverse_chain(made.ops), outputs)
    turned = rearrange(
        case.equation.inverse(), made.specs, sizes=made.sizes, list_axes=case.list_axes.inverse()
    )
    for found, wanted in (
        *zip(outputs, expected, strict=True),
        *zip(back, inputs, strict=True),
        *zip(run(turned.ops, outputs), inputs, strict=True),
    ):
        assert_same_bits(found, wanted, str(case.equation))
    lazy = chain_tensors([ArrayTensor(array) for array in inputs], made.ops)
    for tensor, wanted in zip(lazy, expected, strict=True):
        index = data.draw(indices(wanted.shape))
        assert_same_bits(read_index(tensor, index), wanted[index], str(case.equation))


@given(cases())
@often
def test_no_op_does_nothing(case):
    arrays = case.side(case.left, case.values(DTYPES["int8"], 0), DTYPES["int8"])
    made = rearrange(case.equation, specs_of(arrays), sizes=case.sizes, list_axes=case.list_axes)
    for op in all_ops(made.ops):
        assert not (isinstance(op, Permute) and op.axes == tuple(range(len(op.axes))))
        assert not (isinstance(op, Reorder) and op.indices == tuple(range(len(op.indices))))
        assert not (isinstance(op, Reshape) and op.source == op.target)
        assert not (isinstance(op, Parallel) and (not any(op.chains) or len(op.chains) == 1))
        assert not (isinstance(op, Duplicate | RequireEqual) and op.count == 1)


@given(cases(), seeds)
@often
def test_what_the_target_wants_settles_sizes_or_they_are_refused(case, seed):
    values = case.values(DTYPES["int16"], seed)
    inputs = case.side(case.left, values, DTYPES["int16"])
    expected = case.side(case.right, values, DTYPES["int16"])
    listed = {name for own in (*case.list_axes.left, *case.list_axes.right) for name in own}
    given_sizes = {name: n for name, n in case.sizes.items() if name in listed}
    wanted = [array.shape for array in expected]
    try:
        made = rearrange(
            case.equation, specs_of(inputs), sizes=given_sizes, list_axes=case.list_axes, wanted=wanted
        )
    except RuleError as error:
        if "sizes = {" in (error.hint or "") or "+" in repr(case):  # equal parts may be no right guess
            return
        raise
    assert [spec.shape for spec in made.specs] == wanted
    if made.sizes == case.sizes or "+" not in repr(case):
        for found, right in zip(run(made.ops, inputs), expected, strict=True):
            assert_same_bits(found, right, str(case.equation))


@given(cases())
@often
def test_an_equation_is_read_and_written_back_and_turned_around(case):
    equation = case.equation
    check_equation(equation, case.list_axes)
    check_equation(equation.inverse(), case.list_axes.inverse())
    assert Equation.parse(str(equation)) == equation
    assert equation.inverse().inverse() == equation
    assert equation.axes <= set(case.sizes)


# Documented cases against numpy written by hand.


def numbers(*shape, start=0):
    return np.arange(start, start + int(np.prod(shape)), dtype=np.float32).reshape(shape)


def stacked(count, *shape):
    return [numbers(*shape, start=1000 * i) for i in range(count)]


QKV = numbers(12, 5)
MIXED = numbers(
    2 * 4 * 3, 5
)  # two groups of keys: two queries, one key and one value each, of three elements
LAYERS = stacked(4, 3, 2)
FUSED = stacked(2, 12, 5)
EXPERTS = stacked(6, 3, 2)
ROPE = numbers(2 * 6, 5)
LIST_I = ((("i",),), ((),))
DOCUMENTED = {
    "transpose": ("out in -> in out", [QKV], {}, None, [QKV.T]),
    "qkv": ("(q k v) in -> in q, in k, in v", [QKV], {}, None, [QKV[:4].T, QKV[4:8].T, QKV[8:].T]),
    "qkv of an own order": ("(q k v) in -> v in, q in, k in", [QKV], {}, None, [QKV[8:], QKV[:4], QKV[4:8]]),
    "qkv joined": ("in q, in k, in v -> (q k v) in", [QKV[:6].T, QKV[6:8].T, QKV[8:].T], {}, None, [QKV]),
    "qkv along the last axis": (
        "in (q k v) -> in q, in k, in v",
        [QKV.T],
        {},
        None,
        [QKV.T[:, :4], QKV.T[:, 4:8], QKV.T[:, 8:]],
    ),
    "qkv interleaved by head": (
        "(h (q k v) d) in -> (h q d) in, (h k d) in, (h v d) in",
        [QKV],
        {"h": 2, "q": 1, "k": 1, "v": 1},
        None,
        [QKV.reshape(2, 3, 2, 5)[:, i].reshape(4, 5) for i in range(3)],
    ),
    "grouped queries in one block each": (
        "((hq d) (hk d) (hv d)) in -> in hq d, in hk d, in hv d",
        [QKV],
        {"d": 2, "hk": 1, "hv": 1},
        None,
        [QKV[:8].T.reshape(5, 4, 2), QKV[8:10].T.reshape(5, 1, 2), QKV[10:].T.reshape(5, 1, 2)],
    ),
    "grouped queries interleaved": (
        "(g (q k v) d) in -> (g q d) in, (g k d) in, (g v d) in",
        [MIXED],
        {"d": 3, "g": 2, "k": 1, "v": 1},
        None,
        [
            MIXED.reshape(2, 4, 3, 5)[:, :2].reshape(12, 5),
            MIXED.reshape(2, 4, 3, 5)[:, 2].reshape(6, 5),
            MIXED.reshape(2, 4, 3, 5)[:, 3].reshape(6, 5),
        ],
    ),
    "gate and up": ("(gate up) in -> in gate, in up", [QKV], {}, None, [QKV[:6].T, QKV[6:].T]),
    "layers stacked": (
        "out in -> i in out",
        LAYERS,
        {"i": 4},
        LIST_I,
        [np.stack([layer.T for layer in LAYERS])],
    ),
    "layers stacked in the middle": (
        "out in -> in i out",
        LAYERS,
        {"i": 4},
        LIST_I,
        [np.stack([layer.T for layer in LAYERS], 1)],
    ),
    "layers unstacked": ("i in out -> out in", [np.stack([a.T for a in LAYERS])], {}, LIST_I[::-1], LAYERS),
    "layers in blocks": (
        "out in -> block j in out",
        LAYERS,
        {"block": 2, "j": 2},
        ((("block", "j"),), ((),)),
        [np.stack([layer.T for layer in LAYERS]).reshape(2, 2, 2, 3)],
    ),
    "blocks of layers under keys of their own": (
        "out in -> block in out",
        LAYERS,
        {"block": 2, "j": 2},
        ((("block", "j"),), (("j",),)),
        [np.stack([LAYERS[j].T, LAYERS[2 + j].T]) for j in range(2)],
    ),
    "layers stacked, split and cut into heads": (
        "((h q) (h k) (h v)) in -> i in h q, i in h k, i in h v",
        FUSED,
        {"i": 2, "h": 2},
        ((("i",),), ((), (), ())),
        [
            np.stack([w[4 * p : 4 * p + 4].reshape(2, 2, 5).transpose(2, 0, 1) for w in FUSED])
            for p in range(3)
        ],
    ),
    "experts": (
        "out in -> e in out",
        EXPERTS,
        {"e": 6},
        ((("e",),), ((),)),
        [np.stack([w.T for w in EXPERTS])],
    ),
    "layers of experts": (
        "out in -> l e in out",
        EXPERTS,
        {"l": 2, "e": 3},
        ((("l", "e"),), ((),)),
        [np.stack([w.T for w in EXPERTS]).reshape(2, 3, 2, 3)],
    ),
    "layers of experts, experts outermost": (
        "out in -> e l in out",
        EXPERTS,
        {"l": 2, "e": 3},
        ((("l", "e"),), ((),)),
        [np.stack([w.T for w in EXPERTS]).reshape(2, 3, 2, 3).swapaxes(0, 1)],
    ),
    "experts' gate and up": (
        "gate in, up in -> e in (gate up)",
        [*EXPERTS[:2], *EXPERTS[2:4]],
        {"e": 2},
        ((("e",), ("e",)), ((),)),
        [np.stack([np.concatenate([EXPERTS[i].T, EXPERTS[2 + i].T], 1) for i in range(2)])],
    ),
    "rotary halves to pairs": (
        "(h two half) in -> (h half two) in",
        [ROPE],
        {"h": 2, "two": 2},
        None,
        [ROPE[[0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]]],
    ),
    "rotary pairs to halves": (
        "(h half two) in -> (h two half) in",
        [ROPE],
        {"h": 2, "two": 2},
        None,
        [ROPE[[0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]]],
    ),
    "heads": ("(h d) in -> in h d", [QKV], {"h": 3}, None, [QKV.T.reshape(5, 3, 4)]),
    "heads of a bias": ("(h d) -> h d", [numbers(12)], {"d": 4}, None, [numbers(3, 4)]),
    "heads joined": ("h d out -> out (h d)", [numbers(3, 4, 5)], {}, None, [QKV.T]),
    "copy": ("v d -> v d, d v", [QKV], {}, None, [QKV, QKV.T]),
    "tie": ("v d, d v -> v d", [QKV, QKV.T], {}, None, [QKV]),
    "blocks of a matrix": (
        "(a b) (c d) -> a c, a d, b c, b d",
        [QKV[:, :4]],
        {"a": 4, "c": 1},
        None,
        [QKV[:4, :1], QKV[:4, 1:4], QKV[4:, :1], QKV[4:, 1:4]],
    ),
    "further axes": (
        "out in ... -> ... in out",
        [numbers(2, 3, 4, 5)],
        {},
        None,
        [numbers(2, 3, 4, 5).transpose(2, 3, 1, 0)],
    ),
    "no further axes": ("out in ... -> ... in out", [QKV], {}, None, [QKV.T]),
    "axes of size one": ("1 out in 1 -> in 1 out", [QKV[None, ..., None]], {}, None, [QKV.T[:, None]]),
    "scalars stacked": (
        "-> i",
        [np.float32(n).reshape(()) for n in range(3)],
        {"i": 3},
        LIST_I,
        [numbers(3)],
    ),
    "unlike lists": (
        "q in, k in -> (q k) in",
        [*FUSED, *LAYERS[:0], *[f + 1 for f in FUSED]],
        {"i": 2},
        ((("i",), ("i",)), (("i",),)),
        [np.concatenate([f, f + 1]) for f in FUSED],
    ),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_cases(name):
    equation_text, arrays, sizes, lists, expected = DOCUMENTED[name]
    equation = Equation.parse(equation_text)
    lists = ListAxes(*lists) if lists else None
    made = rearrange(equation, specs_of(arrays), sizes=sizes, list_axes=lists)
    for found, wanted in zip(run(made.ops, tuple(arrays)), expected, strict=True):
        assert_same_bits(found, np.asarray(wanted, np.float32))
    for found, wanted in zip(run(inverse_chain(made.ops), run(made.ops, tuple(arrays))), arrays, strict=True):
        assert_same_bits(found, wanted)
    back = rearrange(
        equation.inverse(), made.specs, sizes=made.sizes, list_axes=lists.inverse() if lists else None
    )
    for found, wanted in zip(run(back.ops, tuple(expected)), arrays, strict=True):
        assert_same_bits(found, wanted)


F32 = np.dtype("float32")


def ops_of(equation_text, *shapes, list_axes=None, **sizes):
    specs = [TensorSpec(shape, F32) for shape in shapes]
    return rearrange(
        Equation.parse(equation_text),
        specs,
        sizes=sizes,
        list_axes=ListAxes(*list_axes) if list_axes else None,
    ).ops


TURN = (Permute((1, 0)),)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (ops_of("out in -> in out", (3, 4)), TURN),
        (ops_of("out in -> out in", (3, 4)), ()),
        (ops_of("... a -> ... a", (3, 4)), ()),
        (ops_of("->", ()), ()),
        (ops_of("a, b -> b, a", (3,), (4,)), (Reorder((1, 0)),)),
        (
            ops_of("out in -> i in out", *[(3, 4)] * 4, list_axes=LIST_I, i=4),
            (Parallel((TURN,) * 4), Stack(0, 4)),
        ),
        (ops_of("in out -> in i out", *[(3, 4)] * 4, list_axes=LIST_I, i=4), (Stack(1, 4),)),
        (
            ops_of("i in out -> out in", (4, 3, 2), list_axes=LIST_I[::-1]),
            (Unstack(0, 4), Parallel((TURN,) * 4)),
        ),
        (ops_of("out in -> i in out", (3, 4), list_axes=LIST_I, i=1), (Permute((1, 0)), Stack(0, 1))),
        (ops_of("(q k) in -> q in, k in", (6, 4), q=4), (Split(0, (4, 2)),)),
        (ops_of("q in, k in -> (q k) in", (4, 4), (2, 4)), (Concat(0, (4, 2)),)),
        (ops_of("((q k) v) in -> q in, k in, v in", (8, 4)), (Split(0, (2, 2, 4)),)),
        (ops_of("(q k) in -> in q, in k", (6, 4)), (Split(0, (3, 3)), Parallel((TURN, TURN)))),
        (ops_of("(h d) in -> h d in", (6, 4), h=2), (Reshape((6, 4), (2, 3, 4)),)),
        (ops_of("1 a b -> a b 1", (1, 3, 4)), (Reshape((1, 3, 4), (3, 4, 1)),)),
        (ops_of("a b 1 -> 1 b a", (3, 4, 1)), (Permute((2, 1, 0)),)),
        (ops_of("(a b c) d -> d (a b c)", (8, 4), a=2, b=2, c=2), TURN),
        (ops_of("v d -> v d, d v", (3, 4)), (Duplicate(2), Parallel(((), TURN)))),
        (ops_of("v d, d v -> v d", (3, 4), (4, 3)), (Parallel(((), TURN)), RequireEqual(2))),
    ],
)
def test_chains_are_as_short_as_can_be(found, expected):
    assert found == expected


def test_a_slice_of_a_stack_reads_one_layer_only():
    reads = []

    def layer(i):
        def reader(region):
            reads.append(i)
            return LAYERS[i][region]

        return LazyTensor(TensorSpec((3, 2), F32), reader)

    made = rearrange(
        Equation.parse("out in -> i in out"),
        [TensorSpec((3, 2), F32)] * 4,
        sizes={"i": 4},
        list_axes=ListAxes(*LIST_I),
    )
    (whole,) = chain_tensors([layer(i) for i in range(4)], made.ops)
    assert read_index(whole, 2).tolist() == LAYERS[2].T.tolist()
    assert reads == [2]


def test_tied_tensors_that_differ_are_refused_when_they_are_read():
    ops = ops_of("v d, d v -> v d", (2, 2), (2, 2))
    with refused(PlanError, "tensor 1 of 2", "tensor 2 of 2", "[0, 1]", "1.0 and 2.0"):
        run(ops, (numbers(2, 2), numbers(2, 2)))
    both = ops_of("v d, v d -> v d, v d", (2, 2), (2, 2))
    with refused(PlanError, "tensor 1 of 2", "tensor 2 of 2", "[0, 0]", "0.0 and 1.0"):
        run(both, (numbers(2, 2), numbers(2, 2) + 1))


# Reading.


def test_parts_of_an_equation():
    equation = Equation.parse(" (h (q k)) ... in,1 e->... h q in , (k) h in ... ,e ")
    assert equation.left == (
        Term((Group(("h", Group(("q", "k")))), "...", "in")),
        Term(("1", "e")),
    )
    assert str(equation) == "(h (q k)) ... in, 1 e -> ... h q in, (k) h in ..., e"
    assert equation.axes == {"h", "q", "k", "in", "e"}
    assert equation.left[0].names == ("h", "q", "k", "in")
    assert [equation.left[0].position(name) for name in ("in", "h", "...")] == [-1, None, None]
    assert [equation.right[1].position(name) for name in ("h", "in")] == [1, 2]


@pytest.mark.parametrize(
    ("equation_text", "column", "named", "hint"),
    [
        ("", 1, ("'->'", "the end"), "'out in -> in out'"),
        ("a b", 4, ("'->'", "the end"), "'out in -> in out'"),
        ("a -> b -> c", 8, ("the end", "got '->'"), "one ->"),
        ("a b = c", 5, ("got '='",), "->"),
        ("a 0 -> a", 3, ("got '0'",), "spaces"),
        ("a 02 -> a", 3, ("got '02'",), "spaces"),
        ("a " + "9" * 5000 + " -> a", 3, ("got '999",), "spaces"),
        ("a 2.5 -> a", 4, ("got '.'",), "spaces"),
        ("a + b -> c", 3, ("an axis, got '+'",), "'(q + k) in'"),
        ("(+ a) -> a", 2, ("before this '+'",), "'(q + k) in'"),
        ("(a + ) -> a", 4, ("after this '+'",), "'(q + k) in'"),
        ("(a + + b) -> a", 6, ("before this '+'",), "'(q + k) in'"),
        ("(a + b -> a", 1, ("')'",), ""),
        ("(a + , b) -> a", 1, ("')'",), ""),
        ("a, -> 2", 2, ("comma",), "comma"),
        ("2 -> , a", 6, ("comma",), "comma"),
        ("a, b -> ,", 9, ("comma",), "comma"),
        ("a 1b -> a", 3, ("got '1b'",), "spaces"),
        ("a - b", 3, ("got '-'",), "->"),
        ("a é -> a", 3, ("got 'é'",), ""),
        ("(a b -> a b", 1, ("')'",), ""),
        ("a (b, c) -> a", 3, ("')'",), ""),
        ("a b) -> a b", 4, ("'('", "')'"), ""),
        ("a () -> a", 3, ("in the group",), "Write 1"),
        ("a, -> a", 2, ("comma",), "comma"),
        ("a,, b -> a", 2, ("comma",), "comma"),
        ("... a ... -> ... a", 7, ("'...'", "twice"), ""),
        ("a (... b) -> a ... b", 4, ("'...'", "group"), "outside"),
        ("(" * 30 + "a" + ")" * 30 + " -> a", 21, ("at most 20",), ""),
    ],
)
def test_what_is_no_equation_is_refused_with_its_column(equation_text, column, named, hint):
    shown = equation_text if len(equation_text) < 100 else equation_text[:100]
    with refused(RuleError, f"'{shown}", f"', column {column}: ", *named, hint=hint) as caught:
        Equation.parse(equation_text)
    assert len(str(caught.value)) < 600


def test_an_equation_of_any_length_is_refused_in_few_words():
    with refused(RuleError, "10000", "20004"):
        Equation.parse("a " * 10_000 + "-> a")
    with refused(RuleError, "column 6001: ", "got '='") as caught:
        Equation.parse("ab " * 2000 + "= a" + " b" * 1000)
    assert len(str(caught.value)) < 600


# Checks without shapes.


@pytest.mark.parametrize(
    ("equation_text", "lists", "named", "hint"),
    [
        ("a b -> a", None, ("'b'", "left side"), "write 1"),
        ("a -> a b", None, ("'b'", "right side"), "write 1"),
        ("width in -> with in", None, ("'width'", "left side"), "Did you mean 'with'?"),
        ("... a -> a", None, ("'...'", "left side"), "both sides"),
        ("a a -> a", None, ("'a a'", "'a' twice"), "name of its own"),
        ("(a (b c) a) -> a b, a c", None, ("'a' twice",), ""),
        ("a (b (c a)) -> (a b), c a", None, ("'a' twice",), ""),
        ("a b, c d -> a c, b d", None, ("'a b' on the left side", "axes a, b"), "commas"),
        ("(a b) c -> a c, b", None, ("'(a b) c' on the left side",), "commas"),
        ("... a, b -> a, b ...", None, ("'... a' on the left side", "axes ..., a"), ""),
        (
            "(q k v) in -> (q k) in, v in",
            None,
            ("'(q k v)'", "on the right side q and k are", "q and v are not"),
            "'(q k + v)'",
        ),
        (
            "q in, (v k) in -> (q k v) in",
            None,
            ("'(q k v)'", "on the left side k and v are", "q and k are not"),
            "'(q + k v)'",
        ),
        ("a -> a", ((("i",),), ((),)), ("left side", "each i,", "axis 'i'"), "Write i there"),
        ("a -> a", (((),), (("i",),)), ("right side", "each i,", "axis 'i'"), "Write i there"),
        ("i a -> i a", ((("i",),), ((),)), ("'i a'", "each i,"), "Remove i"),
        ("a -> i a", ((("i", "i"),), ((),)), ("'a'", "each i,"), "Remove i"),
        ("a -> a", (((), ()), ((),)), ("2 tensors on the left side", "got 1"), ""),
        ("a -> a", (((),), ()), ("0 tensors on the right side", "got 1"), ""),
        ("(q k) in -> q in, k in", (((),), (("i",), ())), ("right side", "axis 'i'"), ""),
        ("a, b -> i a, b", ((("i",), ("i",)), ((), ())), ("'b' on the left side", "axes b, i,"), ""),
        (
            " ".join(f"(a{i} b{i})" for i in range(9))
            + " -> "
            + ", ".join(" ".join(f"{x}{i}" for i in range(9)) for x in "ab"),
            None,
            ("256 pieces",),
            "",
        ),
    ],
)
def test_equations_that_make_no_sense_are_refused_without_shapes(equation_text, lists, named, hint):
    equation = Equation.parse(equation_text)
    lists = ListAxes(*lists) if lists else None
    with refused(RuleError, *named, hint=hint):
        check_equation(equation, lists)
    with pytest.raises(RuleError):
        rearrange(equation, [TensorSpec((1,), F32)], list_axes=lists)


# Checks of shapes.

MADE_OF = ("12", "h = 3", "d = 5", "15")


@pytest.mark.parametrize(
    ("equation_text", "shapes", "options", "named", "hint"),
    [
        ("a b -> b a", [(2, 3, 4)], {}, ("'a b'", "rank 2,", "float32[2, 3, 4]"), ""),
        ("a b ... -> b a ...", [(2,)], {}, ("'a b ...'", "rank 2 or more", "float32[2]"), ""),
        ("... a, ... b -> a ..., b ...", [(2, 3), (2, 3, 4)], {}, ("rank 2 or", "float32[2, 3, 4]"), ""),
        ("(h d) -> h d", [(12,)], {}, ("'h'", "shapes"), ("sizes = { h = 12 }", "--like")),
        ("(h d) -> h d", [(12,)], {"sizes": {"h": 5}}, ("multiple of size 5", "h = 5", "got 12"), ""),
        ("(h d) -> h d", [(12,)], {"sizes": {"h": 0}}, ("multiple of size 0", "h = 0", "got 12"), ""),
        ("(h d) -> h d", [(12,)], {"sizes": {"h": 3, "d": 5}}, MADE_OF, ""),
        ("(h d) -> h d", [(0,)], {"sizes": {"h": 0}}, ("'d'", "shapes"), "sizes = { d = 12 }"),
        ("(h d e) -> h d e", [(12,)], {"sizes": {"h": 5, "d": 1}}, ("h = 5, d = 1", "got 12"), ""),
        ("(q k v) -> q, k, v", [(10,)], {}, ("3 equal parts", "got 10"), "sizes = { q = 12 }"),
        ("(q k v) -> q, k, v", [(9,)], {"sizes": {"q": 3}}, ("'k'", "shapes"), "sizes = { k = 12 }"),
        (
            "(q k v) -> q, k, v",
            [(9,)],
            {"sizes": {"q": 6, "k": 4}},
            ("size 10 or more", "q = 6, k = 4", "got 9"),
            "",
        ),
        (
            "(q k v) -> q, k, v",
            [(9,)],
            {"sizes": {"q": 4, "k": 2, "v": 2}},
            ("'(q k v)' in '(q k v)' (float32[9])", "size 8", "sum of q = 4, k = 2, v = 2", "got 9"),
            "",
        ),
        ("(h (q k)) -> (h q), (h k)", [(10,)], {"sizes": {"h": 4}}, ("h = 4", "got 10"), ""),
        (
            "v d, v d -> v d",
            [(2, 3), (2, 4)],
            {},
            ("'d'", "3 in 'v d' (float32[2, 3])", "4 in 'v d' (float32[2, 4])"),
            "",
        ),
        ("a -> a", [(3,)], {"sizes": {"a": 4}}, ("'a'", "4 in sizes", "3 in 'a' (float32[3])"), ""),
        ("a -> a", [(3,)], {"sizes": {"b": 4}}, ("sizes.b", "'a -> a'"), "Known are: a."),
        ("a -> a", [(3,)], {"sizes": {"a": -3}}, ("sizes.a", "-3"), ""),
        ("1 a -> a", [(2, 3)], {}, ("'1' in '1 a' (float32[2, 3])", "size 1", "got 2"), ""),
        ("a, b -> a, b", [(2,)], {}, ("'a, b -> a, b'", "2 tensors", "got 1"), ""),
        ("a -> i a", [(2,)], {"list_axes": LIST_I}, ("list axis 'i'",), "sizes = { i = 12 }"),
        ("a -> i a", [(2,)], {"list_axes": LIST_I, "sizes": {"i": 0}}, ("list axis 'i'", "got none"), ""),
        ("a -> i a", [(2,)], {"list_axes": LIST_I, "sizes": {"i": 2}}, ("2 tensors", "got 1"), ""),
        (
            "a -> i a",
            [(2,), (3,)],
            {"list_axes": LIST_I, "sizes": {"i": 2}},
            ("'a'", "2 in 'a', i = 0 (float32[2])", "3 in 'a', i = 1 (float32[3])"),
            "",
        ),
        (
            "i a -> a",
            [(4, 2)],
            {"list_axes": LIST_I[::-1], "sizes": {"i": 3}},
            ("'i'", "3 in sizes", "4 in"),
            "",
        ),
        ("i a -> a", [(0, 2)], {"list_axes": LIST_I[::-1]}, ("list axis 'i'", "got none"), ""),
        ("a b -> b a", [(2, 3)], {"wanted": [(2, 3)]}, ("'b a'", "[2, 3], got [3, 2]"), "Write 'a b'"),
        ("a b -> b a", [(2, 3)], {"wanted": [(3, 3)]}, ("'b a'", "[3, 3], got [3, 2]"), ""),
        ("a b -> b a", [(2, 3)], {"wanted": [(3, 2, 1)]}, ("'b a'", "3 axes", "[3, 2, 1]", "got 2"), ""),
        ("a b -> b a", [(2, 3)], {"wanted": [None, None]}, ("2 tensors", "makes 1"), ""),
        ("(q k) -> q, k", [(9,)], {"wanted": [(4,), (4,)]}, ("sum of q = 4, k = 4", "8", "got 9"), ""),
        ("(h d) -> h d", [(12,)], {"wanted": [(3, 5)]}, MADE_OF, ""),
        (
            "i a -> a",
            [(2, 3)],
            {"list_axes": LIST_I[::-1], "wanted": [None, (4,)]},
            ("'a', i = 1", "[4], got [3]"),
            "",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(equation_text, shapes, options, named, hint):
    options = {
        **options,
        **({"list_axes": ListAxes(*options["list_axes"])} if "list_axes" in options else {}),
    }
    with refused(RuleError, *named, hint=hint) as caught:
        rearrange(Equation.parse(equation_text), [TensorSpec(shape, F32) for shape in shapes], **options)
    if "wanted" in options and not hint:
        assert caught.value.hint is None


def test_tensors_of_different_dtypes_cannot_become_one():
    specs = [TensorSpec((2,), F32), TensorSpec((2,), DTYPES["bfloat16"])]
    for equation_text in ("a, b -> (a b)", "a, a -> a"):
        with refused(RuleError, "bfloat16, float32", hint="cast(bfloat16, float32)"):
            rearrange(Equation.parse(equation_text), specs)
    assert rearrange(Equation.parse("a, b -> b, a"), specs).specs == (specs[1], specs[0])


@pytest.mark.parametrize(
    ("equation_text", "shape", "options", "sizes"),
    [
        ("(q k v) in -> q in, k in, v in", (12, 2), {}, (4, 4, 4)),
        ("(q k v) in -> q in, k in, v in", (12, 2), {"sizes": {"q": 8, "k": 2}}, (8, 2, 2)),
        ("(q k v) in -> q in, k in, v in", (12, 2), {"wanted": [(6, 2), None, (2, 2)]}, (6, 4, 2)),
        ("(q k v) in -> q in, k in, v in", (0, 2), {}, (0, 0, 0)),
        (
            "(h (q k v) d) in -> (h q d) in, (h k d) in, (h v d) in",
            (24, 2),
            {"sizes": {"h": 2, "d": 2}},
            (2, 2, 2),
        ),
        ("(a (q k v)) -> a q, a k, a v", (24,), {"wanted": [(4, 2), (4, 3), None]}, (2, 3, 1)),
    ],
)
def test_parts_are_equal_where_nothing_is_known_of_them_and_solved_otherwise(
    equation_text, shape, options, sizes
):
    made = rearrange(Equation.parse(equation_text), [TensorSpec(shape, F32)], **options)
    assert tuple(made.sizes[name] for name in "qkv") == sizes


GROUPED = "((hq d) (hk d) (hv d)) e -> hq d e, hk d e, hv d e"


@pytest.mark.parametrize(("heads", "rows", "d"), [((4, 1, 1), 12, 2), ((4, 2, 2), 24, 3), ((1, 0, 0), 5, 5)])
def test_a_name_that_every_part_shares_is_solved_from_their_sum(heads, rows, d):
    sizes = dict(zip(("hq", "hk", "hv"), heads, strict=True))
    made = rearrange(Equation.parse(GROUPED), [TensorSpec((rows, 3), F32)], sizes=sizes)
    assert made.sizes["d"] == d
    assert [spec.shape for spec in made.specs] == [(n, d, 3) for n in heads]


@pytest.mark.parametrize(
    ("heads", "rows", "named"),
    [
        ((4, 1, 1), 13, ("size 6 * d", "got 13")),
        ((0, 0, 0), 12, ("size 0 * d", "got 12")),
        ((0, 0, 0), 0, ("axis 'd'", "shapes")),
    ],
)
def test_a_sum_that_no_shared_name_explains_is_refused(heads, rows, named):
    sizes = dict(zip(("hq", "hk", "hv"), heads, strict=True))
    with refused(RuleError, *named):
        rearrange(Equation.parse(GROUPED), [TensorSpec((rows, 3), F32)], sizes=sizes)
