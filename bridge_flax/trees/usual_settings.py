"""Settings of modules that are not Flax's, by the names that the core knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from flax import nnx

from bridge_core.plugins import AttributeReader, settings_of_attributes
from bridge_flax.trees.activations import activation_name
from bridge_flax.trees.layer_settings import Seen

__all__ = ["usual_settings"]


def usual_settings(
    seen: Seen, inside: Iterable[str], *, has_weights: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return settings and the names of those that concern a module of its kind and cannot be read.

    Args:
        seen: The module.
        inside: The names of the classes of all modules inside it.
        has_weights: Whether it owns weights itself.
    """
    names = tuple(inside)

    def training() -> bool | None:
        deterministic = seen.merged("deterministic")
        return not deterministic if isinstance(deterministic, bool) else None

    return settings_of_attributes(
        seen.module, _READER, lambda: names, has_weights=has_weights, training=training
    )


def _number(value: Any) -> float | None:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        is_one = value.ndim == 0 and not isinstance(value, jax.core.Tracer)
        return float(value.item()) if is_one else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


_READER = AttributeReader(
    held=lambda module, name: None,
    number=_number,
    activation=activation_name,
    ignores=lambda value: isinstance(value, nnx.Variable),
)
