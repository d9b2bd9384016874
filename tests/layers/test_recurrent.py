"""Recurrent layers in torch, Linen and NNX: gates in one tensor there, a small layer for each gate here.

torch has two biases where Flax has one. Their sum is what is computed with; the parts are kept beside it, so
that a file brings both back.
"""

from __future__ import annotations

from functools import cache, partial

import flax.serialization
import jax
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import assert_same_bits
from support.converting import (
    abstract,
    assert_from_flax_and_back,
    assert_from_torch_and_back,
    random_nnx,
    respelt,
    run,
    spec,
)
from support.errors import OutputsDiffer
from support.loading import assert_same_tensors
from support.models import (
    assert_same_output,
    assert_same_state_dict,
    assert_same_tree,
    from_neutral,
    leaves_of,
    random_tree,
    randomise,
    to_neutral,
)
from support.recurrent_models import (
    CELLS,
    LinenNet,
    NnxNet,
    Stack,
    TorchCellNet,
    TorchNet,
    inputs,
    padded_inputs,
)
from torch import nn

import bridge_core
import bridge_flax
from bridge_core import BridgeError, Rule, default_registry

ONE = Stack()
STACKS = {
    "1_layer": ONE,
    "3_layers": Stack(layers=3),
    "2_layers_both_ways": Stack(layers=2, both_ways=True),
    "as_wide_as_its_input": Stack(width=6, hidden=6, layers=2),
}
USUAL = {cell.name: cell for cell in CELLS}
of_cells = pytest.mark.parametrize("cell", CELLS, ids=str)
QUICK = ("linen-rnn", "nnx-optimized_lstm", "nnx-gru")
"""One of each kind of cell, in either API."""


def of_cells_and_stacks(usual, *marks):
    """Each cell with each stack: what is compiled anew runs with the slow tests, or at night if both are."""

    def marks_of(name, cell):
        unusual = (name != usual) + (cell.name not in QUICK)
        return (marks, pytest.mark.slow, pytest.mark.zoo)[unusual]

    return pytest.mark.parametrize(
        ("cell", "stack"),
        [
            pytest.param(cell, stack, id=f"{name}-{cell}", marks=marks_of(name, cell))
            for name, stack in STACKS.items()
            for cell in CELLS
        ],
    )


with_biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])


@cache  # tracing a stack costs more than converting it
def flax_side(cell, stack, **options):
    """The template to fill, and the model that runs Linen's variables; None for NNX."""
    if cell.linen is not None:
        model = LinenNet(cell.linen, stack, **options)
        return bridge_flax.template(model, spec(3, 7, stack.width)), model
    return abstract(partial(NnxNet, cell.nnx, stack, **options)), None


def random_flax(cell, stack, like, **options):
    if cell.linen is not None:
        return random_tree(like.tree)
    return random_nnx(partial(NnxNet, cell.nnx, stack, **options))


def call(model, weights, *given):
    return run(weights, None, *given) if model is None else run(model, weights, *given)


def one_bias(module, *, kept="bias_ih"):
    """Random weights; the bias that Flax lacks changes no sum: then one says all, in memory, too."""
    randomise(module)
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if "bias_" in name and kept not in name:
                tensor.fill_(-0.0)
    return module


def without_state_bias(module):
    """Zero the bias on the state's side of a GRU's new gate, for which `nnx.GRUCell` has no place."""
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            if "bias_hh" in name:
                tensor[-tensor.shape[0] // 3 :].zero_()
    return module


# -- outputs and bits -------------------------------------------------------------------------------


@of_cells_and_stacks("1_layer", pytest.mark.slow)
def test_without_biases_torch_to_flax_and_back(cell, stack):
    like, model = flax_side(cell, stack)
    module = randomise(TorchNet(cell, stack, bias=False))
    made = from_neutral(to_neutral(module, "torch"), "flax", like=like)
    assert_same_output(call(model, made, inputs(stack)), run(module, None, inputs(stack)))
    biases = {name: v for name, v in leaves_of(made).items() if "bias" in name and "fc" not in name}
    assert biases
    assert not any(value.any() for value in biases.values())
    lean = from_neutral(to_neutral(made, "flax"), "torch", like=TorchNet(cell, stack))
    assert not any(tensor.any() for name, tensor in lean.items() if "bias_" in name)
    for name, tensor in module.state_dict().items():
        assert_same_bits(lean[name].numpy(), tensor.numpy(), name)


@of_cells_and_stacks("2_layers_both_ways")
def test_with_biases_torch_to_flax(cell, stack):
    like, model = flax_side(cell, stack)
    module = randomise(TorchNet(cell, stack))
    neutral = to_neutral(module, "torch")
    allowed = {}
    if not cell.bias:
        with pytest.raises(BridgeError, match="reset gate"):
            from_neutral(neutral, "flax", like=like)
        neutral = to_neutral(without_state_bias(module), "torch")
        allowed = {"allow_unexpected": ["**.hn.bias"]}
    made = from_neutral(neutral, "flax", like=like, **allowed)
    assert_same_output(call(model, made, inputs(stack)), run(module, None, inputs(stack)))
    padded, lengths = padded_inputs(stack)
    wanted = run(module, None, padded, torch.from_numpy(lengths))
    assert_same_output(call(model, made, padded, lengths), wanted)
    again = TorchNet(cell, stack)
    again.load_state_dict(from_neutral(to_neutral(made, "flax"), "torch", like=again))
    assert_same_output(run(again, None, inputs(stack)), run(module, None, inputs(stack)))


@of_cells_and_stacks("as_wide_as_its_input", pytest.mark.slow)
def test_flax_to_torch_and_back(cell, stack):
    like, model = flax_side(cell, stack)
    weights = random_flax(cell, stack, like)
    if not cell.bias:
        module = TorchNet(cell, stack)
        module.load_state_dict(from_neutral(to_neutral(weights, "flax"), "torch", like=module))
        assert_same_output(run(module, None, inputs(stack)), call(model, weights, inputs(stack)))
        neutral = to_neutral(module, "torch")
        back = from_neutral(neutral, "flax", like=like, allow_unexpected=["**.hn.bias"])
        assert_same_tree(nnx.state(back), nnx.state(weights))
        return
    assert_from_flax_and_back(weights, like, model, TorchNet(cell, stack), inputs(stack))


@pytest.mark.slow
@of_cells
@with_biases
def test_a_single_cell(cell, bias):
    """A cell has no number in its names, and stands where it is."""
    like, model = flax_side(cell, ONE, alone=True)
    module = randomise(TorchCellNet(cell, ONE, bias=bias))
    allowed = {}
    if bias and not cell.bias:
        without_state_bias(module)
        allowed = {"allow_unexpected": ["**.hn.bias"]}
    made = from_neutral(to_neutral(module, "torch"), "flax", like=like, **allowed)
    assert_same_output(call(model, made, inputs(ONE)), run(module, None, inputs(ONE)))
    weights = random_flax(cell, ONE, like, alone=True)
    if cell.bias:
        assert_from_flax_and_back(weights, like, model, TorchCellNet(cell, ONE), inputs(ONE))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linen-lstm", "nnx-optimized_lstm", "linen-rnn", "nnx-rnn"])
def test_one_bias_in_torch_comes_back_in_memory(name):
    """The bias that Flax adds the other to keeps its bits where the other is zero."""
    cell, stack = USUAL[name], STACKS["2_layers_both_ways"]
    like, model = flax_side(cell, stack)
    module = one_bias(TorchNet(cell, stack), kept="bias_hh" if "lstm" in name else "bias_ih")
    assert_from_torch_and_back(module, like, model, inputs(stack))


def test_a_negative_zero_stays_one():
    """What fills the bias that Flax lacks must not change a sign on the way back."""
    cell = USUAL["linen-lstm"]
    like, _ = flax_side(cell, ONE)
    weights = jax.tree.map(lambda leaf: -0.0 * np.ones(leaf.shape, np.float32), like.tree)
    module = TorchNet(cell, ONE)
    module.load_state_dict(from_neutral(to_neutral(weights, "flax"), "torch", like=module))
    back = from_neutral(to_neutral(module, "torch"), "flax", like=like)
    assert_same_tree(back, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_biases_are_summed_in_the_dtype_that_they_have(dtype):
    cell = USUAL["linen-lstm"]
    module = randomise(TorchNet(cell, ONE)).to(dtype)
    neutral = to_neutral(module, "torch")
    made = from_neutral(neutral, "flax")
    wanted = (module.rnn.bias_ih_l0 + module.rnn.bias_hh_l0).detach().double().numpy()
    found = [np.asarray(made["rnn"]["0"][f"h{gate}"]["bias"]).astype(np.float64) for gate in "ifgo"]
    np.testing.assert_array_equal(np.concatenate(found), wanted)


# -- without a template -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [TorchNet, TorchCellNet], ids=["stack", "cell"])
@pytest.mark.parametrize("name", ["linen-lstm", "linen-gru", "linen-rnn"])
def test_names_and_shapes_alone_prove_what_it_is(name, make):
    """Linen's form is written without a template, and read again without one."""
    cell = USUAL[name]
    module = randomise(make(cell, ONE))
    like, _ = flax_side(cell, ONE, alone=make is TorchCellNet)
    neutral = to_neutral(module.state_dict(), "torch")
    plain = from_neutral(neutral, "flax")
    templated = from_neutral(neutral, "flax", like=like)
    found, wanted = leaves_of({"params": plain}), leaves_of(templated)
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in wanted.items()
    }
    back = from_neutral(to_neutral(plain, "flax"), "torch")
    assert back.keys() == {k for k in module.state_dict() if "bias_" not in k} | {
        k for k in back if "bias_" in k
    }
    for key, tensor in back.items():
        if "bias_" not in key:
            assert_same_bits(tensor.numpy(), module.state_dict()[key].numpy(), key)


@pytest.mark.parametrize(
    ("name", "gates"), [("linen-lstm", "ifgo"), ("linen-gru", "rzn"), ("linen-rnn", [""])]
)
def test_the_neutral_form_names_every_gate(name, gates):
    """Checked against the rows that torch documents for each gate."""
    stack = STACKS["2_layers_both_ways"]
    module = randomise(TorchNet(USUAL[name], stack))
    neutral = to_neutral(module, "torch")
    wanted = {}
    for layer in ("0", "0_reverse", "1", "1_reverse"):
        for side, letter in (("ih", "i"), ("hh", "h")):
            weight = getattr(module.rnn, f"weight_{side}_l{layer}").detach().numpy()
            bias = getattr(module.rnn, f"bias_{side}_l{layer}").detach().numpy()
            for at, gate in enumerate(gates):
                rows = slice(at * stack.hidden, (at + 1) * stack.hidden)
                wanted["rnn", layer, letter + gate, "kernel"] = weight[rows].T
                wanted["rnn", layer, letter + gate, "bias"] = bias[rows]
    found = {key: neutral[key] for key in neutral if key[0] == "rnn"}
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert_same_bits(found[key], value, key)


@pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
def test_a_stack_returns_to_torch_exactly(stack):
    for name in ("linen-lstm", "linen-gru", "linen-rnn"):
        module = randomise(TorchNet(USUAL[name], stack))
        neutral = to_neutral(module, "torch")
        assert from_neutral(neutral, "torch").keys() == module.state_dict().keys()
        assert_same_state_dict(from_neutral(neutral, "torch", like=module), module.state_dict())


# -- through files ----------------------------------------------------------------------------------


class Encoder(nn.Module):
    """A speaker encoder: a stack of three LSTM layers, and a linear layer on its last state."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, x):
        return self.linear(self.lstm(x)[0])


@pytest.mark.parametrize("suffix", [".msgpack", ".safetensors"])
def test_a_speaker_encoder_goes_through_files_and_comes_back(tmp_path, suffix):
    module = randomise(Encoder())
    source, flax, back = tmp_path / "a.pt", tmp_path / f"b{suffix}", tmp_path / "c.pt"
    torch.save(module.state_dict(), source)
    stack = Stack(40, 256, 3)
    model = LinenNet(USUAL["linen-optimized_lstm"].linen, stack, out=256)
    like = bridge_flax.template(model, spec(2, 9, 40))
    names = (Rule.rename("lstm.**", "rnn.**"), Rule.rename("linear.**", "fc.**"))
    bridge_core.convert(source, flax, to="flax", like=like, rules=names)
    if suffix == ".msgpack":
        tree = flax_tree(flax)
        x = np.random.default_rng(1).standard_normal((2, 9, 40)).astype(np.float32)
        assert_same_output(run(model, tree, x), run(module, None, x))
    undo = (Rule.rename("rnn.**", "lstm.**"), Rule.rename("fc.**", "linear.**"))
    bridge_core.convert(flax, back, to="torch", rules=undo)
    # Both biases of each gate are there again, bit for bit, though Flax holds their sum alone.
    assert_same_tensors(torch.load(back, weights_only=True), module.state_dict())


def flax_tree(path):
    tree = flax.serialization.msgpack_restore(path.read_bytes())
    return {"params": tree["params"]}


@pytest.mark.parametrize("name", ["linen-gru", "linen-rnn", "nnx-optimized_lstm"])
def test_every_kind_comes_back_through_files(tmp_path, name):
    cell, stack = USUAL[name], STACKS["2_layers_both_ways"]
    module = randomise(TorchNet(cell, stack))
    like, _ = flax_side(cell, stack)
    torch.save(module.state_dict(), tmp_path / "a.pt")
    bridge_core.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="flax", like=like)
    bridge_core.convert(tmp_path / "b.safetensors", tmp_path / "c.pt", to="torch")
    assert_same_tensors(torch.load(tmp_path / "c.pt", weights_only=True), module.state_dict())


def test_a_changed_sum_is_not_overwritten_by_its_parts(tmp_path):
    """Training in Flax changes the bias: the parts that were kept no longer count."""
    cell = USUAL["linen-lstm"]
    module = randomise(TorchNet(cell, ONE))
    like, model = flax_side(cell, ONE)
    torch.save(module.state_dict(), tmp_path / "a.pt")
    bridge_core.convert(tmp_path / "a.pt", tmp_path / "b.safetensors", to="flax", like=like)
    with bridge_core.open_state(tmp_path / "b.safetensors") as state:
        changed = {key: np.array(state[key]) for key in state}
        bias = next(key for key in changed if key[-2:] == ("hf", "bias"))
        changed[bias] += 1
        trained = bridge_core.FlatState(changed, layout="flax", metadata=state.metadata)
        bridge_core.save_state(trained, tmp_path / "c.safetensors")
    bridge_core.convert(tmp_path / "c.safetensors", tmp_path / "d.pt", to="torch")
    again = TorchNet(cell, ONE)
    again.load_state_dict(torch.load(tmp_path / "d.pt", weights_only=True))
    tree = from_neutral(to_neutral(trained, "flax"), "flax", like=like)
    assert_same_output(run(again, None, inputs(ONE)), run(model, tree, inputs(ONE)))


# -- what cannot go over ----------------------------------------------------------------------------


@pytest.mark.parametrize("stack", [ONE, Stack(layers=2, both_ways=True)], ids=["1_layer", "2_both_ways"])
@with_biases
def test_a_projection_returns_to_torch_and_is_refused_by_flax(stack, bias):
    module = nn.ModuleDict(
        {
            "rnn": nn.LSTM(
                stack.width, stack.hidden, stack.layers, bias=bias, bidirectional=stack.both_ways, proj_size=3
            )
        }
    )
    randomise(module)
    for value in (module, module.state_dict()):
        neutral = to_neutral(value, "torch")
        assert_same_state_dict(from_neutral(neutral, "torch", like=module), module.state_dict())
        assert from_neutral(neutral, "torch").keys() == module.state_dict().keys()
        with pytest.raises(BridgeError, match="proj_size"):
            from_neutral(neutral, "flax")


@pytest.mark.parametrize("wrong", ["linen-gru", "linen-rnn", "nnx-rnn"])
def test_another_kind_of_cell_is_refused(wrong):
    module = randomise(TorchNet(USUAL["linen-lstm"], ONE))
    like, _ = flax_side(USUAL[wrong], ONE)
    with pytest.raises(BridgeError, match="rnn"):
        from_neutral(to_neutral(module, "torch"), "flax", like=like)


def test_another_width_is_refused():
    cell = USUAL["linen-lstm"]
    module = randomise(TorchNet(cell, ONE))
    like, _ = flax_side(cell, Stack(hidden=7))
    with pytest.raises(BridgeError, match="rnn"):
        from_neutral(to_neutral(module, "torch"), "flax", like=like)


def test_a_leaf_with_such_a_name_in_another_layer_goes_as_it_is():
    module = nn.Module()
    module.weight_ih_l0 = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    neutral = to_neutral(module, "torch")
    assert list(neutral) == [("weight_ih_l0",)]
    assert_same_state_dict(from_neutral(neutral, "torch", like=module), module.state_dict())


def test_a_stack_of_an_unknown_type_is_not_taken_for_torchs():
    """It may well order its gates another way."""

    class Custom(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight_ih_l0 = nn.Parameter(torch.randn(24, 5))
            self.weight_hh_l0 = nn.Parameter(torch.randn(24, 6))

    module = nn.ModuleDict({"rnn": Custom()})
    neutral = to_neutral(module, "torch")
    assert neutral.metadata.layers["rnn", "0"].kind is None
    assert_same_state_dict(from_neutral(neutral, "torch", like=module), module.state_dict())
    with pytest.raises(BridgeError):
        from_neutral(neutral, "flax")


# -- controls ---------------------------------------------------------------------------------------

SWAPS = [
    ("torch.lstm", "linen-lstm", {"weight_ih_l": {"role": tuple(f"i{g}.kernel" for g in "figo")}}),
    ("torch.lstm", "linen-lstm", {"weight_hh_l": {"role": tuple(f"h{g}.kernel" for g in "ifog")}}),
    ("torch.lstm", "nnx-optimized_lstm", {"bias_ih_l": {"role": tuple(f"i{g}.bias" for g in "igfo")}}),
    ("torch.lstm", "nnx-lstm", {"weight_hh_l": {"flip": ("hidden",)}}),
    ("torch.gru", "linen-gru", {"weight_ih_l": {"role": tuple(f"i{g}.kernel" for g in "zrn")}}),
    ("torch.gru", "linen-gru", {"bias_hh_l": {"role": tuple(f"h{g}.bias" for g in "nzr")}}),
    ("torch.rnn", "linen-rnn", {"weight_hh_l": {"axes": "state hidden"}}),
    ("flax.lstm_cell", "linen-lstm", {"hi__bias": {"added_leaves": ()}}),
    ("flax.nnx_gru_cell", "nnx-gru", {"dense_h__kernel": {"role": tuple(f"h{g}.kernel" for g in "zrn")}}),
    ("flax.nnx_simple_cell", "nnx-rnn", {"dense_h__kernel": {"axes": "hidden state"}}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "name", "changes"), SWAPS, ids=[f"{rule}: {next(iter(c))}" for rule, _, c in SWAPS]
)
def test_a_swapped_rule_is_noticed(rule, name, changes):
    cell = USUAL[name]
    like, model = flax_side(cell, ONE)
    module = without_state_bias(randomise(TorchNet(cell, ONE)))
    wanted = run(module, None, inputs(ONE))
    for registry, differs in (
        (default_registry(), False),
        (respelt(default_registry(), rule, **changes), True),
    ):
        neutral = to_neutral(module, "torch", registry)
        made = from_neutral(
            neutral, "flax", registry, like=like, allow_unexpected=["**.hn.bias", "**.ii.bias"]
        )
        found = call(model, made, inputs(ONE))
        if not differs:
            assert_same_output(found, wanted)
            continue
        with pytest.raises(OutputsDiffer):
            assert_same_output(found, wanted)
