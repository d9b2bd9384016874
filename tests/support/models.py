"""Pairs of torch and Flax layers that must compute the same, and how to compare them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import FlatState, Registry
from support.arrays import assert_same_bits
from support.errors import OutputsDiffer

TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Pair:
    """One layer in three spellings.

    Args:
        torch: Makes the torch layer.
        linen: Makes the Linen layer.
        nnx: Makes the NNX layer; None where NNX has none.
        shape: Shape of the input, channels last.
        channels_first: Whether torch wants the channels second.
        integers: Bound of the input, where it is indices.
        plain: Whether no template is needed to write the Flax form.
        usual: Whether its options are the usual ones; the others run in fewer of the default tests.
    """

    name: str
    torch: Callable[[], nn.Module]
    linen: Callable[[], linen.Module]
    nnx: Callable[[nnx.Rngs], nnx.Module] | None
    shape: tuple[int, ...]
    channels_first: bool = False
    integers: int | None = None
    plain: bool = True
    usual: bool = True

    def __str__(self) -> str:
        return self.name


class TorchModel(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.inner = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class LinenModel(linen.Module):
    inner: linen.Module

    def __call__(self, x: Any) -> Any:
        return self.inner(x)


class NnxModel(nnx.Module):
    def __init__(self, layer: nnx.Module) -> None:
        self.inner = layer

    def __call__(self, x: Any) -> Any:
        return self.inner(x)


# -- values -----------------------------------------------------------------------------------------


def values_for(shape: tuple[int, ...], rng: np.random.Generator, *, positive: bool = False) -> np.ndarray:
    """Random numbers of a size that keeps outputs near one, so that 1e-5 means something."""
    fan = max(1, int(np.prod(shape[1:], dtype=np.int64)))
    made = rng.standard_normal(shape) / np.sqrt(fan)
    return (np.abs(made) + 0.5 if positive else made).astype(np.float32)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and every statistic of a torch module random values."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                positive = name.endswith(("running_var", "weight_g", "original0"))
                tensor.copy_(torch.from_numpy(values_for(tuple(tensor.shape), rng, positive=positive)))
            else:
                tensor.fill_(7)
    return module.eval()


def random_tree(abstract: Any, seed: int = 0) -> Any:
    """Fill a Linen tree or an NNX state of shapes with random values."""
    rng = np.random.default_rng(seed)

    def make(path: Any, leaf: Any) -> Any:
        positive = "var" in jax.tree_util.keystr(path) or "scales" in jax.tree_util.keystr(path)
        return jnp.asarray(values_for(leaf.shape, rng, positive=positive))

    return jax.tree_util.tree_map_with_path(make, abstract)


def input_for(pair: Pair, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if pair.integers is not None:
        return rng.integers(0, pair.integers, pair.shape).astype(np.int32)
    return rng.standard_normal(pair.shape).astype(np.float32)


# -- running ----------------------------------------------------------------------------------------


def run_torch(pair: Pair, module: nn.Module, x: np.ndarray) -> np.ndarray:
    given = torch.from_numpy(np.moveaxis(x, -1, 1).copy() if pair.channels_first else x.copy())
    with torch.no_grad():
        made = module.eval()(given).numpy()
    return np.moveaxis(made, 1, -1) if pair.channels_first else made


def run_linen(model: linen.Module, variables: Any, x: np.ndarray) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(model.apply(variables, jnp.asarray(x)))


def run_nnx(model: nnx.Module, x: np.ndarray) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(model(jnp.asarray(x)))


def assert_same_output(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    assert np.isfinite(wanted).all()
    worst = float(np.max(np.abs(found - wanted)))
    if not worst <= TOLERANCE:
        raise OutputsDiffer(f"by {worst}")


# -- converting -------------------------------------------------------------------------------------


def to_neutral(value: Any, framework: str, registry: Registry | None = None, **options: Any) -> FlatState:
    """Use the public function of the framework's package, or the core's with another registry."""
    if registry is not None:
        return bridge_core.to_neutral(value, framework=framework, registry=registry, **options)
    package = {"torch": bridge_torch, "flax": bridge_flax}[framework]
    return package.to_neutral(value, **options)


def from_neutral(state: Any, framework: str, registry: Registry | None = None, **options: Any) -> Any:
    if registry is not None:
        return bridge_core.from_neutral(state, framework=framework, registry=registry, **options)
    package = {"torch": bridge_torch, "flax": bridge_flax}[framework]
    return package.from_neutral(state, **options)


def template_of(pair: Pair, model: linen.Module | None = None) -> bridge_flax.Template:
    return _template_of_usual(pair) if model is None else _template(pair, model)


@functools.cache  # tracing a model costs as much as all the rest of a test
def _template_of_usual(pair: Pair) -> bridge_flax.Template:
    return _template(pair, LinenModel(pair.linen()))


def _template(pair: Pair, model: linen.Module) -> bridge_flax.Template:
    dtype = np.int32 if pair.integers is not None else np.float32
    return bridge_flax.template(model, jax.ShapeDtypeStruct(pair.shape, dtype))


def nnx_model(pair: Pair) -> NnxModel:
    assert pair.nnx is not None
    return NnxModel(pair.nnx(nnx.Rngs(0)))


def abstract_nnx_model(pair: Pair) -> NnxModel:
    return nnx.merge(*_split_nnx_model(pair))


@functools.cache
def _split_nnx_model(pair: Pair) -> tuple[Any, Any]:
    """The parts of the abstract model; each test merges a model of its own from them."""
    return nnx.split(nnx.eval_shape(lambda: nnx_model(pair)))


def random_nnx_model(pair: Pair, seed: int = 0) -> NnxModel:
    graph, state = _split_nnx_model(pair)
    return nnx.merge(graph, random_tree(state, seed))


def as_variables(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A bare params tree in the form that `apply` takes."""
    return tree if {"params", "batch_stats"} & tree.keys() else {"params": tree}


# -- comparing --------------------------------------------------------------------------------------


def leaves_of(tree: Any) -> dict[str, np.ndarray]:
    """Every leaf of a tree, an NNX module or a state dict, by name."""
    if isinstance(tree, nnx.Module):
        tree = nnx.state(tree)
    if isinstance(tree, nnx.State):
        flat = nnx.to_flat_state(tree)
        return {
            ".".join(map(str, path)): np.asarray(leaf[...] if isinstance(leaf, nnx.Variable) else leaf)
            for path, leaf in flat
        }
    if all(isinstance(leaf, torch.Tensor) for leaf in tree.values()):
        return {name: numpy_of(leaf) for name, leaf in tree.items()}
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    """A torch tensor's bits, whatever numpy lacks."""
    tensor = tensor.detach()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.view({1: torch.uint8, 2: torch.int16}[tensor.element_size()]).numpy()


def assert_same_tree(found: Any, wanted: Any) -> None:
    """Names in their order, dtypes, shapes and bits are equal."""
    a, b = leaves_of(found), leaves_of(wanted)
    assert list(a) == list(b)
    for name in b:
        assert_same_bits(a[name], b[name], name)


def assert_same_state_dict(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert_same_bits(numpy_of(found[name]), numpy_of(tensor), name)


# -- swapped rules ----------------------------------------------------------------------------------


def swapped(registry: Registry, name: str, **leaves: dict[str, Any]) -> Registry:
    """Return a registry in which some leaves of one transform are spelt wrongly.

    Args:
        registry: The right one.
        name: Name of the transform.
        **leaves: Role -> fields of the leaf to change.
    """
    transform = registry.transforms[name]
    wrong = tuple(
        dataclasses.replace(leaf, **leaves[leaf.role]) if leaf.role in leaves else leaf
        for leaf in transform.leaves
    )
    assert wrong != transform.leaves
    table = {**registry.transforms, name: dataclasses.replace(transform, leaves=wrong)}
    return registry.with_tables(transforms=table)
