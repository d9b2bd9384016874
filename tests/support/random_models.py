"""Random models of nested layers, and what each framework holds for them.

A model is a list of placed layers; torch modules, Linen modules, trees and neutral dicts are made from it.
What a user does to a neutral state (an edit, a rename) is done to the model as well, so the truth follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from support.random_layers import STANDARD, Arrays, Layer, Numbers, Path, Tree, draw_tied
from support.random_odd_layers import ODD

__all__ = ["draw_model", "linen_cells", "Model", "Placed"]

_NAMES = (
    *("fc", "conv", "norm", "head", "proj", "block", "encoder", "layer"),
    *("fc1", "layers_0", "block2", "0", "1", "params", "cache", "value", "weight", "query", "mlp_10"),
)
_COLLECTIONS = ("params", "batch_stats")


@dataclass(frozen=True)
class Placed:
    """A layer at a path; a container's own tensors are at the container's path."""

    path: Path
    layer: Layer

    def names(self) -> Iterator[str]:
        """Yield every name that a message may have for it."""
        for tree in (*self.layer.flax, self.layer.neutral or {}):
            for key in tree:
                yield ".".join((*self.path, *key))
        for name in self.layer.torch:
            yield ".".join((*self.path, name))


@dataclass(frozen=True)
class Model:
    """Placed layers.

    Args:
        places: In the order of the state dict.
        tied: Pairs of paths of an embedding and a linear layer that share one tensor.
    """

    places: tuple[Placed, ...]
    tied: tuple[tuple[Path, Path], ...] = ()

    def __str__(self) -> str:
        lines = []
        for place in self.places:
            leaves = ", ".join(f"{name} {list(array.shape)}" for name, array in place.layer.torch.items())
            lines.append(f"  {'.'.join(place.path) or '(top)'}: {place.layer.kind}: {leaves}")
        return "\n".join([*lines, *(f"  tied: {'.'.join(a)} = {'.'.join(b)}" for a, b in self.tied)])

    def without(self, number: int) -> Model:
        """Return the model without one layer."""
        gone = self.places[number].path
        places = tuple(place for i, place in enumerate(self.places) if i != number)
        return Model(places, tuple(pair for pair in self.tied if gone not in pair))

    def swapped(self, number: int, *places: Placed) -> Model:
        """Return the model with one layer replaced."""
        return replace(self, places=(*self.places[:number], *places, *self.places[number + 1 :]))

    def torch_state(self) -> Arrays:
        return {
            ".".join((*place.path, name)): array
            for place in self.places
            for name, array in place.layer.torch.items()
        }

    def torch_module(self) -> Any:
        root = torch.nn.Module()
        for place in self.places:
            own = place.layer.module is None
            parent = root
            for name in place.path if own else place.path[:-1]:
                if name not in parent._modules:
                    parent.add_module(name, torch.nn.Module())
                parent = parent._modules[name]
            if own:
                for name, array in place.layer.torch.items():
                    parent.register_parameter(name, torch.nn.Parameter(torch.from_numpy(array.copy())))
            else:
                parent.add_module(place.path[-1], place.layer.module)
        for one, other in self.tied:
            root.get_submodule(".".join(other)).weight = root.get_submodule(".".join(one)).weight
        return root

    @property
    def has_flax(self) -> bool:
        return all(place.layer.flax for place in self.places)

    @property
    def has_neutral(self) -> bool:
        return all(place.layer.neutral is not None for place in self.places)

    @property
    def has_linen(self) -> bool:
        return all(place.layer.linen or place.layer.own for place in self.places)

    @property
    def is_typed(self) -> bool:
        """Whether the types of its modules say all that a conversion needs."""
        return all(place.layer.typed and not place.layer.marked for place in self.places)

    def neutral_state(self) -> Tree:
        return {
            (*place.path, *key): array
            for place in self.places
            for key, array in (place.layer.neutral or {}).items()
        }

    def flax_tree(self) -> dict[str, Any]:
        """Return nested dicts: a bare tree of parameters where nothing else is there."""
        params: dict[str, Any] = {}
        stats: dict[str, Any] = {}
        for place in self.places:
            for key, array in place.layer.flax[0].items():
                _put(stats if key in place.layer.stats else params, (*place.path, *key), array)
        if stats:
            return {"params": params, "batch_stats": stats}
        return {"params": params} if set(_COLLECTIONS) & params.keys() else params

    def linen_template(self) -> Any:
        import bridge_flax

        branches: dict[str, Any] = {}
        for place in self.places:
            if place.layer.own:
                for name, array in place.layer.torch.items():
                    _put(branches, (*place.path, name), array)
            else:
                _put(branches, place.path, place.layer.linen)
        return bridge_flax.template(linen_tree()(lambda: branches))


def _put(tree: dict[str, Any], path: Path, value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


@functools.cache
def linen_tree() -> Any:
    """Return a Linen module that runs nested layers, each on zeros of its own."""
    from flax import linen

    class Tree(linen.Module):
        branches: Callable[[], Any]

        @linen.compact
        def __call__(self) -> None:
            for name, part in self.branches().items():
                if isinstance(part, dict):
                    Tree(lambda part=part: part, name=name)()
                elif isinstance(part, np.ndarray):
                    self.param(name, lambda _, part=part: part)
                else:
                    part(name)

    return Tree


@functools.cache
def linen_cells() -> Any:
    """Return a Linen module that holds recurrent cells by name: name -> class, hidden size, inputs."""
    import jax.numpy as jnp
    from flax import linen

    class Cells(linen.Module):
        cells: Any

        @linen.compact
        def __call__(self) -> None:
            for name, (cell, hidden, inputs) in self.cells.items():
                carry = jnp.zeros((1, hidden))
                state = (carry, carry) if cell == "LSTMCell" else carry
                getattr(linen, cell)(hidden, name=name)(state, jnp.zeros((1, inputs)))

    return Cells


def draw_model(rng: np.random.Generator, *, odd: bool) -> Model:
    """Return a random model.

    Args:
        rng: Where all randomness comes from.
        odd: Whether layers may be of sorts that nobody knows, or that Flax lacks.
    """
    numbers = Numbers(rng)
    places: list[Placed] = []
    taken: set[Path] = set()
    containers: list[Path] = [()]
    for _ in range(int(rng.integers(0, 3))):
        path = (*containers[int(rng.integers(len(containers)))], str(rng.choice(_NAMES)))
        if path not in containers:
            containers.append(path)

    def free() -> Path:
        while True:
            path = (*containers[int(rng.integers(len(containers)))], str(rng.choice(_NAMES)))
            if path not in taken and path not in containers:
                taken.add(path)
                return path

    for _ in range(int(rng.integers(1, 6))):
        layer = _layer(numbers, odd=odd)
        if not layer.own:
            places.append(Placed(free(), layer))
            continue
        path = containers[int(rng.integers(len(containers)))]
        (name,) = layer.torch
        if (*path, name) not in taken:
            taken.add((*path, name))
            places.append(Placed(path, layer))
    tied: tuple[tuple[Path, Path], ...] = ()
    if rng.random() < 0.2:
        pair = draw_tied(numbers)
        one, other = free(), free()
        places += [Placed(one, pair[0]), Placed(other, pair[1])]
        tied = ((one, other),)
    if all(place.layer.own for place in places):
        places.append(Placed(free(), _layer(numbers, odd=False)))
    return Model(_in_order(tuple(places)), tied)


def _layer(numbers: Numbers, *, odd: bool) -> Layer:
    choices = (*STANDARD, *ODD) if odd else STANDARD
    return choices[int(numbers.rng.integers(len(choices)))](numbers)


def _in_order(places: tuple[Placed, ...]) -> tuple[Placed, ...]:
    return tuple(sorted(places, key=lambda place: place.path))
