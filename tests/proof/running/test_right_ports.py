"""Proofs of real models, right and wrong: nothing is found on a right one."""

import numpy as np
import pytest
import torch
from support.flax_resnet import LinenResNet, TorchResNet
from support.models import LinenModel, TorchModel, input_for
from support.pairs import FAMILIES
from support.proof_transformers import encoder_inputs
from support.proof_transformers_linen import LinenEncoder
from support.proof_transformers_torch import TorchEncoder
from support.rule_proofs import RECIPES

from bridge_core.proof import prove

flax = pytest.importorskip("flax.linen")

USUAL = [next(pair for pair in family if pair.usual) for family in FAMILIES.values()]


def proof(source, target, inputs, **options):
    return prove(source_model=source.eval(), model=target, inputs=inputs, **options)


@pytest.mark.zoo
@pytest.mark.parametrize("pair", USUAL, ids=str)
def test_right_layers(pair):
    x = input_for(pair)
    given = {"source": np.moveaxis(x, -1, 1) if pair.channels_first else x, "target": x}
    done = proof(TorchModel(pair.torch()), LinenModel(pair.linen()), given)
    assert done.equal, "\n".join(done.lines())
    assert not done.problems
    assert done.error_in_float64 < 1e-12
    assert done.hidden is None


def images(side):
    x = np.random.default_rng(0).standard_normal((2, side, side, 3)).astype("f4")
    return {"source": x.transpose(0, 3, 1, 2).copy(), "target": x}


@pytest.mark.zoo
def test_a_resnet_by_a_recipe():
    """Its pooling is padded as torch's only where sizes are odd."""
    rules = RECIPES / "resnet-flax.toml"
    assert proof(TorchResNet(18), LinenResNet(18), images(33), rules=rules).equal
    done = proof(TorchResNet(18), LinenResNet(18), images(32), rules=rules)
    assert not done.equal
    assert done.first.before == ("layer1.0", "ResNetBlock_0")


class TorchNorm(torch.nn.Module):
    def __init__(self, momentum):
        super().__init__()
        self.fc, self.bn = torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8, momentum=momentum)

    def forward(self, x):
        return self.bn(self.fc(x))


class FlaxNorm(flax.Module):
    training: bool = True

    @flax.compact
    def __call__(self, x):
        norm = flax.BatchNorm(use_running_average=not self.training, epsilon=1e-5, momentum=0.9, name="bn")
        return norm(flax.Dense(8, name="fc")(x))


@pytest.mark.slow
def test_statistics_after_a_run_in_training_mode():
    x = np.random.default_rng(0).standard_normal((16, 6)).astype("f4")
    right = prove(source_model=TorchNorm(0.1).train(), model=FlaxNorm(), inputs=x)
    assert right.equal
    assert any("unbiased" in note for note in right.notes)
    wrong = prove(source_model=TorchNorm(0.3).train(), model=FlaxNorm(), inputs=x)
    assert not wrong.equal
    assert [(cause.code, cause.source, cause.target) for cause in wrong.causes] == [
        ("momentum", "0.3", "0.1")
    ]
    other = prove(source_model=TorchNorm(0.1).train(), model=FlaxNorm(training=False), inputs=x)
    assert not other.equal
    assert other.first.source == "bn"


ONCE = pytest.mark.parametrize("side", ["source", pytest.param("target", marks=pytest.mark.zoo)])


@pytest.mark.slow
@ONCE
def test_a_softmax_in_bfloat16_on_one_side_is_different(side):
    made = {"source": None, "target": None, side: "softmax_dtype"}
    done = prove(
        source_model=TorchEncoder(mistake=made["source"]),
        model=LinenEncoder(mistake=made["target"]),
        inputs=encoder_inputs(),
    )
    assert not done.equal
    assert done.error_in_float64 < 1e-13
    assert [cause.code for cause in done.causes] == ["softmax_dtype"]
    assert done.first.source == "blocks.0.attention"
    assert f"The {side} rounds" in done.problems[0]
    assert "in bfloat16" in done.problems[0]


@pytest.mark.zoo
def test_a_softmax_in_bfloat16_on_both_sides_is_equal():
    both = "softmax_dtype"
    sides = TorchEncoder(mistake=both), LinenEncoder(mistake=both)
    assert prove(source_model=sides[0], model=sides[1], inputs=encoder_inputs()).equal


class TorchNormed(torch.nn.Module):
    """Its norm gets values far from zero, or large ones."""

    def __init__(self, eps=1e-5, shift=0.0):
        super().__init__()
        self.up, self.ln, self.down = (
            torch.nn.Linear(8, 12),
            torch.nn.LayerNorm(12, eps),
            torch.nn.Linear(12, 4),
        )
        self.shift = shift

    def forward(self, x):
        return self.down(torch.tanh(self.ln(self.up(x) + self.shift)))


class LinenNormed(flax.Module):
    eps: float = 1e-5
    shift: float = 0.0

    @flax.compact
    def __call__(self, x):
        y = flax.Dense(12, name="up")(x) + self.shift
        y = flax.LayerNorm(epsilon=self.eps, name="ln")(y)
        return flax.Dense(4, name="down")(flax.tanh(y))


class TorchGelu(torch.nn.Module):
    def __init__(self, approximate="none"):
        super().__init__()
        self.up, self.down = torch.nn.Linear(8, 12, bias=False), torch.nn.Linear(12, 4)
        self.approximate = approximate

    def forward(self, x):
        return self.down(torch.nn.functional.gelu(self.up(x), approximate=self.approximate))


class LinenGelu(flax.Module):
    approximate: bool = False

    @flax.compact
    def __call__(self, x):
        y = flax.gelu(flax.Dense(12, use_bias=False, name="up")(x), approximate=self.approximate)
        return flax.Dense(4, name="down")(y)


VALUES = np.random.default_rng(0).standard_normal((4, 8)).astype("f4")


@pytest.mark.slow
def test_cancelling_sums_are_no_lower_precision():
    """Linen's norm takes the variance from the squares, which rounds far more coarsely here."""
    done = proof(TorchNormed(shift=50.0), LinenNormed(shift=50.0), VALUES)
    assert done.controls[1] > 30 * done.controls[0]
    assert done.equal


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("source", "target", "x", "code", "first"),
    [
        (TorchNormed(), LinenNormed(eps=1e-6), VALUES * 30, "epsilon", "ln"),
        (TorchGelu(), LinenGelu(approximate=True), VALUES * 0.02, "activation", ""),
        (TorchGelu("tanh"), LinenGelu(), VALUES * 0.02, "activation", ""),
    ],
)
def test_what_rounding_hides(source, target, x, code, first):
    done = proof(source, target, x)
    assert done.equal
    assert (done.hidden.first.source, done.hidden.causes[0].code) == (first, code)


@pytest.mark.zoo
def test_a_stride_is_named_though_no_output_can_be_compared():
    class TorchConvs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 5, 3, padding=1)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    class LinenConvs(flax.Module):
        @flax.compact
        def __call__(self, x):
            x = flax.relu(flax.Conv(4, (3, 3), strides=2, padding=1, name="a")(x))
            return flax.Conv(5, (3, 3), padding=1, name="b")(x)

    done = proof(TorchConvs(), LinenConvs(), images(8))
    assert not done.equal
    assert (done.first.source, done.causes[0].code) == ("a", "stride")
    assert done.error == float("inf")
