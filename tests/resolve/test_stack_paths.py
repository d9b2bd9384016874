"""A recurrent layer is matched entire: torch's stack of layers, and the cells that others run."""

import numpy as np
import pytest
from support.errors import refused

from bridge_core import FlatState, MismatchError, plan_conversion
from bridge_core.state import join_key

GATES = {"LSTM": "ifgo", "GRU": "rzn", "RNN": [""]}
SUMMED = {"LSTM": ("h", "ifgo"), "GRU": ("i", "rz"), "RNN": ("i", [""])}
"""The side whose biases Flax has, with the gates whose two biases are one there."""

HIDDEN, WIDTH = 3, 2


def torch_layer(kind, end, seed=0, *, bias=True, width=WIDTH):
    """The tensors of one layer of torch's stack."""
    random = np.random.default_rng(seed)
    rows = len(GATES[kind]) * HIDDEN
    shapes = {"weight_ih": (rows, width), "weight_hh": (rows, HIDDEN)}
    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)} if bias else {}
    return {f"{name}{end}": random.standard_normal(s).astype("float32") for name, s in shapes.items()}


def cell(kind, layer, end):
    """The same layer as Linen's cell has it."""
    leaves = {}
    for at, gate in enumerate(GATES[kind]):
        rows = slice(at * HIDDEN, (at + 1) * HIDDEN)
        of = {name: value[rows] for name, value in layer.items()}
        leaves[f"i{gate}.kernel"] = of[f"weight_ih{end}"].T
        leaves[f"h{gate}.kernel"] = of[f"weight_hh{end}"].T
        side, summed = SUMMED[kind]
        if gate in summed:
            leaves[f"{side}{gate}.bias"] = of[f"bias_ih{end}"] + of[f"bias_hh{end}"]
        else:
            leaves |= {f"i{gate}.bias": of[f"bias_ih{end}"], f"h{gate}.bias": of[f"bias_hh{end}"]}
    return leaves


def under(path, leaves):
    return {f"{path}.{name}" if path else name: value for name, value in leaves.items()}


OTHERS = [f"block_{number}.fc" for number in range(5)]


def both(kind, stacks, cells, *, others=True, layers=None):
    """A torch state and Flax's params: the layers of some stacks at some paths, and linear layers."""
    source, target = {}, {}
    for number, (stack, path) in enumerate(zip(stacks, cells, strict=True)):
        name, _, end = stack.rpartition(".")
        layer = torch_layer(kind, end, number)
        source |= under(name, layer)
        target |= under(f"params.{path}", cell(kind, layer, end))
    for number, name in enumerate(OTHERS if others else ()):
        weight = np.random.default_rng(90 + number).standard_normal((4, 2)).astype("float32")
        source[f"{name.replace('_', '.')}.weight"] = weight
        target[f"params.{name}.kernel"] = weight.T
    return source, target


NAMES = {
    "linen, adopted by the layer": (["gru._l0"], ["gru.cell"]),
    "linen, made in place": (["gru._l0"], ["cell"]),
    "linen, made in place without a name": (["gru._l0"], ["{cell}_0"]),
    "the cell has the stack's name": (["gru._l0"], ["gru"]),
    "deep": (["model.net.gru._l0"], ["model.net.gru.cell"]),
    "deep, made in place": (["model.net.gru._l0"], ["model.net.cell"]),
    "both directions": (["gru._l0", "gru._l0_reverse"], ["gru.forward_rnn.cell", "gru.backward_rnn.cell"]),
    "two stacks": (["a._l0", "b._l0"], ["a.cell", "b.cell"]),
    "a list of layers": (["gru._l0", "gru._l1"], ["gru_0.cell", "gru_1.cell"]),
    "cells of a list": (["gru._l0", "gru._l1"], ["{cell}_0", "{cell}_1"]),
    "in a list": (["gru.0._l0", "gru.1._l0"], ["gru_0.cell", "gru_1.cell"]),
}
CELLS = {"LSTM": "OptimizedLSTMCell", "GRU": "GRUCell", "RNN": "SimpleCell"}


def convert(source, to, like):
    state = source if isinstance(source, FlatState) else FlatState(source, layout="torch")
    return plan_conversion(state, to=to, like=FlatState(like, layout=to)).check().apply(state)


def assert_is(made, expected):
    values = {join_key(key): made[key] for key in made}
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, name)


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        ("GRU", True),
        ("GRU", False),
        ("RNN", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("LSTM", True), ("LSTM", False), ("RNN", False))
        ),
    ],
)
@pytest.mark.parametrize("names", NAMES)
def test_a_stack_is_matched_to_its_cells_and_back(names, kind, others):
    stacks, paths = NAMES[names]
    source, target = both(kind, stacks, [path.format(cell=CELLS[kind]) for path in paths], others=others)
    made = convert(source, to="flax", like=target)
    assert_is(made, target)
    assert_is(convert(made, to="torch", like=source), source)


@pytest.mark.parametrize("kind", GATES)
def test_a_cell_of_any_name_is_matched_entire_where_its_parts_would_be(kind):
    source, target = both(kind, ["gru._l0"], ["memory"], others=False)
    assert_is(convert(source, to="flax", like=target), target)


@pytest.mark.parametrize("names", [("gru._l0", "other._l0"), ("gru._l0", "gru._l1")])
def test_no_cell_is_chosen_between_stacks(names):
    source, target = both("GRU", list(names), ["cell", "unlike.cell"])
    with refused(MismatchError, "gru.weight_ih_l", "params.cell.in.kernel"):
        convert(source, to="flax", like=target)


def test_a_layer_of_another_kind_is_not_matched():
    source, _ = both("RNN", ["gru._l0"], ["cell"])
    _, target = both("GRU", ["gru._l0"], ["cell"])
    with refused(MismatchError, "params.cell.in.kernel"):
        convert(source, to="flax", like=target)


@pytest.mark.parametrize("kind", GATES)
def test_of_another_width_is_named_by_both_keys(kind):
    source, target = both(kind, ["gru._l0"], ["cell"])
    wide = torch_layer(kind, "_l0", width=5)
    with refused(MismatchError, "gru.weight_ih_l0", "params.cell.i"):
        convert(source | under("gru", wide), to="flax", like=target)


def fused():
    """An attention with one tensor for its inputs, and a target with two of the three."""
    random = np.random.default_rng(0)
    source = {
        "attn.in_proj_weight": random.standard_normal((12, 4)).astype("float32"),
        "attn.out_proj.weight": random.standard_normal((4, 4)).astype("float32"),
    }
    target = {f"params.attn.{name}.kernel": np.zeros((4, 4), "float32") for name in ("query", "value", "out")}
    return source, target


def test_a_tensor_that_is_used_in_part_is_not_to_be_left_out():
    source, target = fused()
    with refused(MismatchError, "attn.in_proj_weight", hint=("attn.in_proj_weight", "--rules")) as caught:
        convert(source, to="flax", like=target)
    assert caught.value.unexpected == ("attn.in_proj_weight",)
    assert "allow_unexpected" not in caught.value.hint


def test_only_a_tensor_that_is_not_used_may_be_left_out():
    source, target = fused()
    left = {"left.weight": np.zeros((3, 5), "float32")}
    with refused(MismatchError, "attn.in_proj_weight", hint="allow_unexpected=['left.weight']"):
        convert(source | left, to="flax", like=target)
