"""Dense layers over several axes against plain torch linear layers: the template tells the axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as linen
import numpy as np
import pytest
import torch
from flax import nnx
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
from support.models import (
    assert_same_output,
    assert_same_state_dict,
    from_neutral,
    leaves_of,
    random_tree,
    randomise,
    to_neutral,
)
from torch import nn

import bridge_flax
from bridge_core import BridgeError, default_registry


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer from some axes to others.

    Args:
        inputs: Sizes of the axes that go in.
        outputs: Sizes of the axes that come out.
        linen: Makes Linen's layer; called with whether there is a bias.
        nnx: Makes NNX's, with random streams.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    linen: Callable[[bool], linen.Module] | None = None
    nnx: Callable[[bool, nnx.Rngs], nnx.Module] | None = None

    def __str__(self):
        sizes = "x".join(map(str, self.inputs)) + "-" + "x".join(map(str, self.outputs))
        return f"{self.name}-{sizes}"

    def torch(self, bias):
        return TorchNet(self.inputs, self.outputs, bias)

    def x(self):
        return np.random.default_rng(1).standard_normal((2, 5, *self.inputs)).astype(np.float32)


class TorchNet(nn.Module):
    def __init__(self, inputs, outputs, bias):
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.fc = nn.Linear(int(np.prod(inputs)), int(np.prod(outputs)), bias=bias)

    def forward(self, x):
        return self.fc(x.flatten(-len(self.inputs))).unflatten(-1, self.outputs)


class LinenNet(linen.Module):
    make: Callable[[], Any]

    def setup(self):
        self.fc = self.make()

    def __call__(self, x):
        return self.fc(x)


class NnxNet(nnx.Module):
    def __init__(self, layer):
        self.fc = layer

    def __call__(self, x):
        return self.fc(x)


def general(inputs, outputs):
    axes = tuple(range(-len(inputs), 0))
    return (
        Case("DenseGeneral", inputs, outputs, linen=lambda b: linen.DenseGeneral(outputs, axes, use_bias=b)),
        Case(
            "LinearGeneral",
            inputs,
            outputs,
            nnx=lambda b, rngs: nnx.LinearGeneral(inputs, outputs, axis=axes, use_bias=b, rngs=rngs),
        ),
    )


def einsum(inputs, outputs, equation):
    shape = (*inputs, *outputs)
    return (
        Case("Einsum", inputs, outputs, linen=lambda b: linen.Einsum(shape, equation, use_bias=b)),
        Case(
            "nnx.Einsum",
            inputs,
            outputs,
            nnx=lambda b, rngs: nnx.Einsum(equation, shape, outputs if b else None, rngs=rngs),
        ),
    )


CASES = [
    *general((12,), (3, 4)),
    *general((4,), (4, 4)),
    *general((3, 4), (12,)),
    *general((3, 3), (3,)),
    *general((2, 3), (4, 5)),
    *general((2, 3), (2, 3)),
    *general((6,), (5,)),
    *general((2, 3), (2, 2, 3)),
    *general((1, 6), (5,)),
    *einsum((12,), (3, 4), "...a,abc->...bc"),
    *einsum((4,), (4, 4), "btd,dnh->btnh"),
    *einsum((3, 4), (12,), "btnh,nhd->btd"),
    *einsum((6,), (5,), "...a,ab->...b"),
]
of_cases = pytest.mark.parametrize("case", CASES, ids=str)
with_biases = pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])


@cache
def flax_side(case, bias):
    """The template to fill, and the model that runs Linen's variables; None for NNX."""
    if case.linen is not None:
        model = LinenNet(partial(case.linen, bias))
        return bridge_flax.template(model, spec(*case.x().shape)), model
    return abstract(lambda rngs: NnxNet(case.nnx(bias, rngs))), None


@of_cases
@with_biases
def test_torch_to_flax_and_back(case, bias):
    like, model = flax_side(case, bias)
    assert_from_torch_and_back(randomise(case.torch(bias)), like, model, case.x())


@pytest.mark.slow
@of_cases
@with_biases
def test_flax_to_torch_and_back(case, bias):
    like, model = flax_side(case, bias)
    if model is None:
        weights = random_nnx(lambda rngs: NnxNet(case.nnx(bias, rngs)))
    else:
        weights = random_tree(like.tree)
    assert_from_flax_and_back(weights, like, model, case.torch(bias), case.x())


@of_cases
@with_biases
def test_a_module_tells_which_axes_go_in(case, bias):
    """Then torch needs no template."""
    like, model = flax_side(case, bias)
    weights = (
        random_tree(like.tree) if model is not None else random_nnx(lambda rngs: NnxNet(case.nnx(bias, rngs)))
    )
    neutral = to_neutral(weights, "flax", **({"module": like} if model is not None else {}))
    module = case.torch(bias)
    made = from_neutral(neutral, "torch")
    assert {name: tuple(t.shape) for name, t in made.items()} == {
        name: tuple(t.shape) for name, t in module.state_dict().items()
    }
    module.load_state_dict(made)
    given = (weights, None) if model is None else (model, weights)
    assert_same_output(run(module, None, case.x()), run(*given, case.x()))


def test_a_bias_of_two_axes_proves_the_layer():
    """And a bias of one does not: a convolution has the same shapes."""
    kernel, rng = np.zeros((12, 3, 4), np.float32), np.random.default_rng(0)
    proven = {"params": {"fc": {"kernel": kernel, "bias": rng.random((3, 4)).astype(np.float32)}}}
    assert from_neutral(to_neutral(proven, "flax"), "torch")["fc.weight"].shape == (12, 12)
    open_ = {"params": {"fc": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}}
    neutral = to_neutral(open_, "flax")
    assert neutral.metadata.layers["fc",].kind is None
    with pytest.raises(BridgeError, match=r"fc\.kernel"):
        from_neutral(neutral, "torch")


def test_without_evidence_a_template_settles_which_axes_go_in():
    """One kernel, three ways to read it: as two axes in, as two out, and as a convolution."""
    kernel = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    neutral = to_neutral({"params": {"fc": {"kernel": kernel}}}, "flax")
    for layer, wanted in (
        (nn.Linear(6, 4, bias=False), kernel.reshape(6, 4).T),
        (nn.Linear(2, 12, bias=False), kernel.reshape(2, 12).T),
        (nn.Conv1d(3, 4, 2, bias=False), kernel.transpose(2, 1, 0)),
    ):
        made = from_neutral(neutral, "torch", like=nn.ModuleDict({"fc": layer}))
        np.testing.assert_array_equal(made["fc.weight"].numpy(), wanted)


@pytest.mark.parametrize(
    ("shape", "equation"),
    [
        ((4, 4, 4), "btd,ndh->btnh"),
        ((4, 4, 4), "nta,hab->nthb"),
        ((4, 4, 4), "btd,dhn->btnh"),
        ((4, 4, 4), "btnh,hnd->btd"),
        ((4, 4), "ab,bc->ca"),
        ((4, 4), "ab,cb->ac"),
        ((4, 4, 4), "bnd,ndh->bnh"),
    ],
)
def test_an_equation_of_another_order_is_not_taken_for_a_reshape(shape, equation):
    """Even where every size is equal, so that a reshape would fit."""
    sizes = (16, 4) if equation == "btnh,hnd->btd" else (4, 16) if len(shape) == 3 else (4, 4)
    module = nn.ModuleDict({"fc": nn.Linear(*sizes, bias=False)})
    model = LinenNet(lambda: linen.Einsum(shape, equation, use_bias=False))
    rank = len(equation.partition(",")[0])
    like = bridge_flax.template(model, spec(*(4,) * rank))
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(to_neutral(module, "torch"), "flax", like=like)
    made = abstract(lambda rngs: NnxNet(nnx.Einsum(equation, shape, rngs=rngs)))
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(to_neutral(module, "torch"), "flax", like=made)


def test_batch_axes_of_a_kernel_are_not_taken_for_inputs():
    module = randomise(nn.ModuleDict({"fc": nn.Linear(12, 5, bias=False)}))
    model = LinenNet(lambda: linen.DenseGeneral(5, batch_dims=(0,), axis=-1, use_bias=False))
    like = bridge_flax.template(model, spec(3, 4))
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(to_neutral(module, "torch"), "flax", like=like)
    made = abstract(
        lambda rngs: NnxNet(nnx.LinearGeneral(4, 5, batch_axis={0: 3}, use_bias=False, rngs=rngs))
    )
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(to_neutral(module, "torch"), "flax", like=made)


def test_other_sizes_are_refused():
    module = randomise(nn.ModuleDict({"fc": nn.Linear(12, 10)}))
    like = abstract(lambda rngs: NnxNet(nnx.LinearGeneral(12, (3, 4), rngs=rngs)))
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(to_neutral(module, "torch"), "flax", like=like)


def test_a_bias_that_the_source_lacks_is_missing():
    """Of a single layer, unlike the parts of attention: its bias may have been lost."""
    module = randomise(nn.ModuleDict({"fc": nn.Linear(12, 12, bias=False)}))
    like = abstract(lambda rngs: NnxNet(nnx.LinearGeneral(12, (3, 4), rngs=rngs)))
    with pytest.raises(BridgeError, match=r"fc\.bias"):
        from_neutral(to_neutral(module, "torch"), "flax", like=like)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("torch.linear", {"weight": {"axes": "in out"}}),
        ("torch.linear", {"weight": {"flip": ("out",)}}),
        ("flax.linear_general", {"kernel": {"axes": "out/+ in/+"}}),
        ("flax.linear_general", {"bias": {"flip": ("out",)}}),
    ],
)
def test_a_swapped_rule_is_noticed(rule, changes):
    case = next(c for c in CASES if str(c) == "LinearGeneral-2x3-2x3")
    like, _ = flax_side(case, bias=True)
    module = randomise(case.torch(True))
    wanted = run(module, None, case.x())
    right = default_registry()
    for registry, differs in ((right, False), (respelt(right, rule, **changes), True)):
        made = from_neutral(to_neutral(module, "torch", registry), "flax", registry, like=like)
        found = run(made, None, case.x())
        if not differs:
            assert_same_output(found, wanted)
            continue
        with pytest.raises(OutputsDiffer):
            assert_same_output(found, wanted)


def test_interleaved_outputs_are_noticed():
    case = CASES[1]
    like, _ = flax_side(case, bias=False)
    module = randomise(case.torch(False))
    made = from_neutral(to_neutral(module, "torch"), "flax", like=like)
    kernel = leaves_of(made)["fc.kernel"]
    made.fc.kernel[...] = kernel.swapaxes(1, 2).reshape(kernel.shape)
    with pytest.raises(OutputsDiffer):
        assert_same_output(run(made, None, case.x()), run(module, None, case.x()))


def test_torch_to_torch_is_not_touched():
    module = randomise(CASES[0].torch(True))
    back = from_neutral(to_neutral(module, "torch"), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())
    assert torch.equal(back["fc.weight"], module.fc.weight.detach())
