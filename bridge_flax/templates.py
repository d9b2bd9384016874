"""Template: what a Flax model's weights look like, without the weights.

This module does not import JAX, so that an object can be recognised as a template in a process that never
loads JAX.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from bridge_core import FlatState

__all__ = ["Template"]


@dataclass(frozen=True, eq=False)
class Template:
    """Names, shapes, dtypes and layer types of a Flax model.

    Args:
        kind: Which of Flax's two module systems the model uses.
        state: Tensors with a spec and no values; its metadata has the modules' types.
        tree: What is filled to build the result: for Linen the abstract variables that ``init`` would
            return, for NNX a graph definition and an abstract state.
    """

    kind: Literal["linen", "nnx"]
    state: FlatState
    tree: Any = field(repr=False)
