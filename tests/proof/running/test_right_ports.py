"""Proofs of real models, right and wrong: nothing is found on a right one."""

import numpy as np
import pytest
import torch
from support.flax_resnet import LinenResNet, TorchResNet
from support.models import LinenModel, TorchModel, input_for
from support.pairs import FAMILIES
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
