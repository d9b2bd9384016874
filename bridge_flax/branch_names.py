"""What a branch of a train state may be by its name: an optimizer, a copy of the weights, a counter."""

from __future__ import annotations

import re

__all__ = [
    "PARAMS",
    "SLOTS",
    "WEIGHTS",
    "is_gradients",
    "is_metrics",
    "is_optimizer",
    "is_scaling",
    "may_be_copy",
    "may_be_counter",
    "may_be_optimizer",
    "may_be_random",
    "may_be_step",
]

PARAMS = "params"
"""The field of a train state, and the collection of Linen, that hold the parameters."""

WEIGHTS = ("params", "model", "target", "variables", "weights", "model_params", "network", "net", "module")
"""Usual names of the branch with the weights; the first of several that may be it is."""

_MOMENTS = {"mu", "nu", "m", "v", "trace", "momentum", "velocity", "exp_avg", "exp_avg_sq"}
SLOTS = frozenset(_MOMENTS | {"sum_of_squares", "accumulator", "acc_grads", "grad_sum"})
"""Usual names of an optimizer's values for each weight."""

_OPTIMIZER = re.compile(
    r"(?:^|_)(?:opt|optim|optimizer|optimiser|optax|tx)_(?:state|states|vars|variables)(?:_|$)"
)
_MAYBE_OPTIMIZER = re.compile(r"(?:^|_)(?:opt|optim|optims|optimizer|optimizers|optimiser|solver)(?:_|$)")
_AVERAGES = {"ema", "avg", "average", "averaged", "averages", "mean", "moving", "polyak", "smoothed", "swa"}
_EARLIER = {"best", "init", "initial", "old", "prev", "previous"}
_COPIES = frozenset(
    _AVERAGES
    | _EARLIER
    | {
        "anchor",
        "backup",
        "copy",
        "frozen",
        "momentum",
        "ref",
        "reference",
        "shadow",
        "slow",
        "target",
        "teacher",
    }
)
_STEPS = frozenset({"step", "steps", "epoch", "epochs", "iteration", "iterations", "iter"})
_COUNTERS = _STEPS | {"count", "counter", "version"}
_RANDOM = frozenset({"rng", "rngs", "key", "keys", "prng", "prngs", "seed", "seeds"})
_SCALING = frozenset({"dynamic_scale", "loss_scale", "loss_scaler", "grad_scaler"})
_GRADIENTS = frozenset({"grad", "grads", "gradient", "gradients"})
_METRICS = frozenset({"metric", "metrics"})


def is_optimizer(name: str) -> bool:
    """Return whether a name is that of an optimizer's state and of nothing else.

    >>> is_optimizer("opt_state"), is_optimizer("actor_opt_state"), is_optimizer("optimizer")
    (True, True, False)
    """
    return _OPTIMIZER.search(name) is not None


def may_be_optimizer(name: str) -> bool:
    """Return whether a name may be that of an optimizer's state, or of a module."""
    return _MAYBE_OPTIMIZER.search(name) is not None


def may_be_copy(name: str) -> bool:
    """Return whether a name may be that of another copy of the weights."""
    return not _COPIES.isdisjoint(_words(name))


def may_be_counter(name: str) -> bool:
    """Return whether a name may be that of a counter."""
    return not _COUNTERS.isdisjoint(_words(name))


def may_be_step(name: str) -> bool:
    """Return whether a name may be that of the number of steps that a training program has done."""
    return not _STEPS.isdisjoint(_words(name))


def may_be_random(name: str) -> bool:
    """Return whether a name may be that of random keys."""
    return not _RANDOM.isdisjoint(_words(name))


def is_gradients(name: str) -> bool:
    """Return whether a name is that of gradients."""
    return not _GRADIENTS.isdisjoint(_words(name))


def is_scaling(name: str) -> bool:
    """Return whether a name is that of the scale of a loss."""
    return name in _SCALING


def is_metrics(name: str) -> bool:
    """Return whether a name is that of metrics."""
    return not _METRICS.isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    """Return the words of a name.

    >>> _words("emaParams_2")
    ['ema', 'params', '2']
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
