"""What users do to a neutral state by hand, done to the state and to the model that is its truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bridge_core import FlatState
from support.random_layers import Layer, Path, dense
from support.random_models import Model, Placed

__all__ = ["Edited", "EDITS"]


@dataclass(frozen=True)
class Edited:
    """A neutral state after an edit, the model that it should be, and the paths that are new: new -> old."""

    state: FlatState
    model: Model
    moved: Mapping[Path, Path] = field(default_factory=dict)


def _replaced(model: Model, state: FlatState, rng: np.random.Generator) -> Edited:
    """Replace the values of one tensor; metadata stays."""
    for number in rng.permutation(len(model.places)):
        place = model.places[number]
        keys = _keys(place, state)
        if place.layer.kind.startswith("recurrent") or not keys:
            continue
        key = keys[int(rng.integers(len(keys)))]
        old = state[key]
        if old.dtype != np.float32 or not any(np.isin(old, v).all() for v in place.layer.torch.values()):
            continue
        new = rng.permutation(old.size).reshape(old.shape).astype(np.float32) / 4096 + np.float32(300)
        layer = _changed(place.layer, old, new)
        changed = state.replace(tensors={**state.tensors(), key: new})
        tied = tuple(pair for pair in model.tied if place.path not in pair)
        return Edited(changed, replace(model.swapped(number, Placed(place.path, layer)), tied=tied))
    return Edited(state, model)


def _changed(layer: Layer, old: np.ndarray, new: np.ndarray) -> Layer:
    """Return the layer with values replaced one by one, wherever they are; all of them differ."""
    order = np.argsort(old, axis=None)
    keys, values = old.reshape(-1)[order], new.reshape(-1)[order]

    def change(array: np.ndarray) -> np.ndarray:
        flat = array.reshape(-1).copy()
        place = np.searchsorted(keys, flat).clip(0, len(keys) - 1)
        hit = keys[place] == flat
        flat[hit] = values[place[hit]].astype(flat.dtype)
        return flat.reshape(array.shape)

    def every(tree: Any) -> Any:
        return {key: change(array) for key, array in tree.items()}

    neutral = None if layer.neutral is None else every(layer.neutral)
    return replace(
        layer,
        torch=every(layer.torch),
        flax=tuple(map(every, layer.flax)),
        neutral=neutral,
        module=_refilled(layer, every(layer.torch)),
    )


def _refilled(layer: Layer, state: dict[str, np.ndarray]) -> Any:
    import copy

    import torch

    if layer.module is None:
        return None
    # A weight that torch works out of others cannot be copied.
    held = vars(layer.module)
    computed = [name for name, value in held.items() if isinstance(value, torch.Tensor)]
    made = {name: held.pop(name) for name in computed}
    module = copy.deepcopy(layer.module)
    held.update(made)
    vars(module).update({name: value.detach().clone() for name, value in made.items()})
    with torch.no_grad():
        for name, value in module.state_dict().items():
            value.copy_(torch.from_numpy(np.array(state[name])))
    return module


def _keys(place: Placed, state: FlatState) -> list[Path]:
    if place.layer.own:
        return [key for key in ((*place.path, *n.split(".")) for n in place.layer.torch) if key in state]
    return [key for key in state if key[: len(place.path)] == place.path]


def _renaming(*, by_mapping: bool) -> Callable[[Model, FlatState, np.random.Generator], Edited]:
    def rename(model: Model, state: FlatState, rng: np.random.Generator) -> Edited:
        """Move one layer to another path."""
        numbers = [i for i, place in enumerate(model.places) if not place.layer.own and place.path]
        if not numbers:
            return Edited(state, model)
        number = int(rng.choice(numbers))
        old = model.places[number].path
        new = (*old[:-1], "renamed")

        def moved(key: Path) -> Path:
            return (*new, *key[len(old) :]) if key[: len(old)] == old else key

        names = {key: moved(key) for key in state if moved(key) != key}
        renamed = state.rename(names if by_mapping else moved)
        tied = tuple((moved(one), moved(other)) for one, other in model.tied)
        truth = model.swapped(number, Placed(new, model.places[number].layer))
        return Edited(renamed, replace(truth, tied=tied), {new: old})

    return rename


def _moved_kernel(model: Model, state: FlatState, rng: np.random.Generator) -> Edited:
    """Move the kernel of a linear layer away from its bias."""
    for number, place in enumerate(model.places):
        key = (*place.path, "kernel")
        if place.layer.kind == "linear" and "bias" in place.layer.torch and key in state:
            new = (*place.path[:-1], "moved")
            kernel = _part(place.layer, ("weight",))
            bias = replace(_part(place.layer, ("bias",)), own=True, module=None, kind="lone bias")
            renamed = state.rename({key: (*new, "kernel")})
            truth = model.swapped(number, Placed(new, kernel), Placed(place.path, bias))
            return Edited(renamed, truth, {new: place.path})
    return Edited(state, model)


def _part(layer: Layer, names: tuple[str, ...]) -> Layer:
    """Return a layer with some of its leaves."""
    import torch

    links = tuple(link for link in layer.links if link[0] in names)
    neutral = {key: (layer.neutral or {})[key] for _, key, _ in links}
    module, linen = layer.module, None
    if names == ("weight",):
        rows, columns = layer.torch["weight"].shape
        module, linen = torch.nn.Linear(columns, rows, bias=False), dense(rows, columns, bias=False)
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(layer.torch["weight"]))
    return replace(
        layer,
        module=module,
        torch={old: layer.torch[old] for old, _, _ in links},
        flax=({key: layer.flax[0][key] for _, _, key in links},),
        neutral=neutral,
        links=links,
        linen=linen,
    )


def _dropped(model: Model, state: FlatState, rng: np.random.Generator) -> Edited:
    """Leave one layer out."""
    if len(model.places) < 2:
        return Edited(state, model)
    number = int(rng.integers(len(model.places)))
    gone = set(_keys(model.places[number], state))
    return Edited(state.select(lambda key: key not in gone), model.without(number))


def _joined(model: Model, state: FlatState, rng: np.random.Generator) -> Edited:
    """Cut the state in two, by layers, and join the parts."""
    first = [key for place in model.places[::2] for key in _keys(place, state)]
    chosen = set(first)
    parts = state.select(lambda key: key in chosen), state.select(lambda key: key not in chosen)
    return Edited(parts[0].union(parts[1]), model)


EDITS: dict[str, Callable[[Model, FlatState, np.random.Generator], Edited]] = {
    "edited": _replaced,
    "renamed by a mapping": _renaming(by_mapping=True),
    "renamed by a function": _renaming(by_mapping=False),
    "moved kernel": _moved_kernel,
    "filtered": _dropped,
    "joined": _joined,
}
"""What may be done to a neutral state; where nothing fits, it stays as it is."""
