"""One way to test a layer of several tensors: convert it every way there is, run it, and bring it back."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from bridge_core import Registry
from support.models import (
    assert_same_output,
    assert_same_state_dict,
    assert_same_tree,
    from_neutral,
    random_tree,
    to_neutral,
)

__all__ = [
    "abstract",
    "assert_from_flax_and_back",
    "assert_from_torch_and_back",
    "random_nnx",
    "respelt",
    "run",
    "spec",
]


def spec(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def abstract(make: Any) -> nnx.Module:
    """The shapes of an NNX model; ``make`` takes random streams."""
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def random_nnx(make: Any, seed: int = 0) -> nnx.Module:
    """An NNX model with random weights, its random streams left as they are."""
    graph, params, rest = nnx.split(make(nnx.Rngs(0)), nnx.Param, ...)
    return nnx.merge(graph, random_tree(params, seed), rest)


def run(model: Any, variables: Any, *inputs: Any, **options: Any) -> np.ndarray:
    """Call an NNX model, a Linen one with its variables, or a torch one, and return an array."""
    if isinstance(model, nn.Module):
        with torch.no_grad():
            given = [torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x for x in inputs]
            return model.eval()(*given, **options).numpy()
    given = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in inputs]
    with jax.default_matmul_precision("highest"):
        if isinstance(model, nnx.Module):
            return np.asarray(model(*given, **options))
        return np.asarray(model.apply(variables, *given, **options))


def assert_from_torch_and_back(module: nn.Module, like: Any, model: Any, *inputs: Any) -> Any:
    """Convert to Flax by a live module and by a state dict, compare outputs, and come back.

    Args:
        module: The torch model.
        like: A Linen template or an abstract NNX model.
        model: The Linen model; None for NNX.
        *inputs: What both models take.

    Returns:
        What was made in Flax.
    """
    made = from_neutral(to_neutral(module, "torch"), "flax", like=like)
    assert_same_output(_run_flax(model, made, inputs), run(module, None, *inputs))
    state_dict = module.state_dict()
    plain = from_neutral(to_neutral(dict(state_dict), "torch"), "flax", like=like)
    assert_same_tree(plain, made)

    known = {"module": like} if model is not None else {}
    neutral = to_neutral(made, "flax", **known)
    assert_same_state_dict(from_neutral(neutral, "torch", like=module), state_dict)
    neutral = to_neutral(_without_types(made), "flax")
    on_meta = {name: tensor.to("meta") for name, tensor in state_dict.items()}
    assert_same_state_dict(from_neutral(neutral, "torch", like=on_meta), state_dict)
    return made


def assert_from_flax_and_back(weights: Any, like: Any, model: Any, module: nn.Module, *inputs: Any) -> None:
    """Convert to torch, compare outputs, and come back by a live module and by a state dict.

    Args:
        weights: Linen variables or an NNX model.
        like: The template that is filled on the way back.
        model: The Linen model; None for NNX.
        module: The torch model; its weights are changed.
        *inputs: What both models take.
    """
    known = {"module": like} if model is not None else {}
    state_dict = from_neutral(to_neutral(weights, "flax", **known), "torch", like=module)
    module.load_state_dict(state_dict)
    assert_same_output(run(module, None, *inputs), _run_flax(model, weights, inputs))
    untyped = from_neutral(to_neutral(_without_types(weights), "flax"), "torch", like=module)
    assert_same_state_dict(untyped, state_dict)
    for value in (module, dict(state_dict)):
        back = from_neutral(to_neutral(value, "torch"), "flax", like=like)
        assert_same_tree(_without_types(back), _without_types(weights))


def _run_flax(model: Any, weights: Any, inputs: tuple[Any, ...]) -> np.ndarray:
    return run(weights, None, *inputs) if model is None else run(model, weights, *inputs)


def _without_types(weights: Any) -> Any:
    """Linen's variables as they are; of an NNX model the state, which knows no modules."""
    return nnx.state(weights, nnx.Param) if isinstance(weights, nnx.Module) else weights


def respelt(registry: Registry, name: str, **leaves: dict[str, Any]) -> Registry:
    """Return a registry in which some leaves of one transform, given by native name, are spelt wrongly.

    Dots in names stand as two underscores.
    """
    transform = registry.transforms[name]
    changes = {leaf.replace("__", "."): fields for leaf, fields in leaves.items()}
    assert changes.keys() <= transform.by_name().keys()
    wrong = tuple(dataclasses.replace(leaf, **changes.get(leaf.name, {})) for leaf in transform.leaves)
    assert wrong != transform.leaves
    table = {**registry.transforms, name: dataclasses.replace(transform, leaves=wrong)}
    return registry.with_tables(transforms=table)
