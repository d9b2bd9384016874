"""Small helpers for tests of rules: states from names, files, and exact comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bridge_core import FlatState, join_key, open_state, plan_conversion, save_state
from support.arrays import assert_same_bits

__all__ = ["abstract", "assert_holds", "nothing_written", "plan_and_apply", "saved", "state_of"]


def state_of(tensors: Mapping[str, np.ndarray], layout: str) -> FlatState:
    return FlatState({tuple(name.split(".")): array for name, array in tensors.items()}, layout=layout)


def abstract(tensors: Mapping[str, np.ndarray], layout: str) -> FlatState:
    """The template: the same names and shapes, other values."""
    return state_of({name: np.zeros_like(array) for name, array in tensors.items()}, layout)


def saved(tensors: Mapping[str, np.ndarray], layout: str, path: Path) -> Path:
    save_state(state_of(tensors, layout), path)
    return path


def assert_holds(found: Mapping[Any, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """A file, a state or a dict holds exactly these tensors, bit for bit."""
    if isinstance(found, Path):
        with open_state(found) as state:
            assert_holds(state, wanted)
        return
    found = {join_key(key) if isinstance(key, tuple) else key: found[key] for key in found}
    assert sorted(found) == sorted(wanted)
    for name, array in wanted.items():
        assert_same_bits(found[name], array, name)


def plan_and_apply(path: Path, **options: Any) -> dict[tuple[str, ...], np.ndarray]:
    plan = plan_conversion(path, **options)
    with open_state(path) as state:
        made = plan.apply(state)
        return {key: made[key] for key in made}


def nothing_written(folder: Path, *given: Path) -> bool:
    """Whether a folder holds what was put there and nothing else, half-written files included."""
    return sorted(folder.rglob("*")) == sorted(given)
