"""A stack of blocks in both toy frameworks, whose blocks can be changed one by one."""

import numpy as np

from bridge_core.proof import Proof, prove
from support.toy_models import Container, Function, Linear, Norm, ToyModel, toy_registry

__all__ = ["X", "block", "model", "proof", "relu"]

X = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)


def relu(x, run):
    return np.maximum(x, 0)


def block(eps=1e-5, act=relu, join=np.add, width=8):
    """A norm and an MLP, with a residual if ``join`` is not None."""
    inner = {
        "norm": Norm(width, eps),
        "up": Linear(width, 12),
        "act": Function(act, {"activation": act.__name__}),
    }
    return Container({**inner, "down": Linear(12, width)}, join)


def model(framework, blocks=3, changed=None, join=np.add, **options):
    """A stack of blocks and a head; ``changed`` is (number, options) of one block that is made otherwise."""
    number, change = changed or (None, {})
    body = {f"block{n}": block(**{"join": join} | (change if n == number else {})) for n in range(blocks)}
    return ToyModel(framework, Container({**body, "head": Linear(8, 4)}), **options)


def proof(source, target, **options) -> Proof:
    options.setdefault("inputs", X)
    return prove(source_model=source, model=target, registry=toy_registry(), **options)
