"""What one line of the zoo says: a Flax class, its torch twin, and the smallest config that runs both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """A pair of classes with a config.

    Args:
        name: Unique, e.g. ``"bert-masked-lm"``.
        family: E.g. ``"bert"``.
        flax: Name of the Flax class.
        torch: Name of the torch class.
        config: Builds the smallest config; transformers is imported inside.
        inputs: numpy inputs under torch's argument names.
        flax_inputs: The inputs under Flax's names and layout, where those differ.
        flax_kwargs: Options of the Flax class's constructor, e.g. ``input_shape``.
        skip_outputs: Why outputs cannot be compared: a reason in transformers' own code. The weights are
            checked all the same.
        no_flax: Why the Flax class cannot even be built.
        tolerance: Largest absolute difference of outputs.
        fast: Whether it is part of every run of the checks, and not of the nightly one alone.
        torch_kwargs: Options of the torch class's constructor, e.g. ``add_pooling_layer``.
    """

    name: str
    family: str
    flax: str
    torch: str
    config: Callable[[], Any]
    inputs: Callable[[], dict[str, np.ndarray]]
    flax_inputs: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None
    flax_kwargs: Mapping[str, Any] = field(default_factory=dict)
    skip_outputs: str = ""
    no_flax: str = ""
    tolerance: float = 1e-5
    fast: bool = False
    torch_kwargs: Mapping[str, Any] = field(default_factory=dict)
