"""The search for expressions: what it reads, and that it ends."""

import numpy as np
import pytest
from support.proof_sites import between, normal

from bridge_core.proof.causes import between as search, find_causes, work


def relu(x):
    return np.maximum(x, 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def children(*outputs):
    return [(normal(*y.shape, seed=9), y) for y in outputs]


def named(site):
    causes = find_causes(site)
    assert causes
    return causes[0].code


a, b, g = normal(3, 6, seed=1), normal(3, 4, seed=2), normal(3, 6, seed=3)
c, share = normal(3, 6, seed=11), sigmoid(g)
tokens, mixed = normal(2, 5, 8, seed=4), normal(2, 8, 5, seed=5)
maps, gate, flat = normal(2, 5, 4, 6, seed=6), normal(2, 1, 1, 6, seed=7), normal(2, 24, seed=8)
half = np.concatenate


@pytest.mark.parametrize(
    ("outputs", "source", "target", "code"),
    [
        ((a, b), half((relu(a), b), 1), half((b, relu(a)), 1), "concat_order"),
        ((a,), half((np.sin(a), np.cos(a)), 1), half((np.cos(a), np.sin(a)), 1), "concat_order"),
        (
            (a, g, c),
            share * relu(a) + (1 - share) * c,
            share * c + (1 - share) * relu(a),
            "gated_half",
        ),
        ((a, g), 10 / 3 * np.tanh(a) * g, np.tanh(a) * g, "scale"),
        ((a, g), g + 0.3 * np.tanh(a), g + np.tanh(a), "residual_scale"),
        (
            (tokens, mixed),
            tokens + relu(mixed).swapaxes(1, 2),
            relu(mixed).swapaxes(1, 2),
            "missing_residual",
        ),
        (
            (flat,),
            relu(flat).reshape(2, 4, 3, 2),
            relu(flat).reshape(2, 3, 2, 4).transpose(0, 3, 1, 2),
            "flatten_order",
        ),
    ],
    ids=[
        "pieces",
        "functions",
        "mixture",
        "factor of a product",
        "factor of a branch",
        "other shape",
        "unflattened",
    ],
)
def test_what_is_computed_from_several_arrays(outputs, source, target, code):
    x = normal(*outputs[0].shape, seed=10)
    assert named(between(x, children(*outputs), source.astype("f4"), target.astype("f4"))) == code


def test_a_gate_that_is_spread_over_space_and_pooled():
    values = [(silu(maps) * f(gate)).mean((1, 2)).astype("f4") for f in (sigmoid, np.tanh)]
    assert named(between(normal(2, 5, 4, 6), children(maps, gate), *values, images=True)) == "activation"


def test_noise_ends_the_search_and_a_small_budget_ends_it_early(monkeypatch):
    outputs = [normal(2, 4, 3, 6, seed=seed) for seed in range(20, 32)]
    noise = between(normal(2, 4, 3, 6), children(*outputs), normal(2, 72, seed=50), normal(2, 72, seed=51))
    tried = []
    allows = work.Work.allows

    def counted(self, values):
        tried.append(values)
        return allows(self, values)

    monkeypatch.setattr(work.Work, "allows", counted)
    assert find_causes(noise) == ()
    usual = len(tried)
    tried.clear()
    monkeypatch.setattr(search, "LEVEL", 200_000)
    assert find_causes(noise) == ()
    assert len(tried) < usual / 4
