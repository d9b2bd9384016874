"""Compares what two models return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.errors import MismatchError
from bridge_core.messages import listed
from bridge_core.proof.running.common_axes import best_fit
from bridge_core.state import Array, is_floating

__all__ = ["OutputError", "Outputs", "compared_outputs", "concatenated", "not_finite", "of_other_sizes"]


@dataclass(frozen=True)
class OutputError:
    """One array of the source's outputs against one of the target's.

    Args:
        source: Its name in the source's outputs; empty if the model returned one array.
        target: Its name in the target's.
        shape: Its shape in the source.
        error: Largest absolute difference, divided by the largest absolute value of the source.
        how: What was done to the target's axes before, for people; empty if nothing.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    error: float
    how: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "source": self.source,
            "target": self.target,
            "shape": list(self.shape),
            "error": self.error,
            "axes": self.how,
        }


@dataclass(frozen=True)
class Outputs:
    """All outputs of both models, compared.

    Args:
        pairs: Those that belong together.
        only_source: Names of outputs that only the source has.
        only_target: Names of outputs that only the target has.
    """

    pairs: tuple[OutputError, ...]
    only_source: tuple[str, ...] = ()
    only_target: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The largest error of all pairs."""
        return max((pair.error for pair in self.pairs), default=0.0)


def compared_outputs(source: Mapping[str, Array], target: Mapping[str, Array], limit: float) -> Outputs:
    """Return the outputs of two models, by name and else in order, in common axes.

    Args:
        source: The source's outputs.
        target: The target's.
        limit: The error up to which outputs are equal.

    Raises:
        MismatchError: No output of one has the shape of one of the other.
    """
    pairs: list[OutputError] = []
    left_source, left_target = list(source), list(target)
    for name in [name for name in source if name in target]:
        fit = best_fit(source[name], target[name], limit)
        if fit is not None:
            pairs.append(OutputError(name, name, source[name].shape, fit.error, fit.how))
            left_source.remove(name)
            left_target.remove(name)
    for name in list(left_source):
        for other in left_target:
            if name in target or other in source:
                continue  # their names belong to others
            fit = best_fit(source[name], target[other], limit)
            if fit is not None:
                pairs.append(OutputError(name, other, source[name].shape, fit.error, fit.how))
                left_source.remove(name)
                left_target.remove(other)
                break
    if not pairs:
        raise MismatchError(
            "no output of one model has the shape of one of the other: the source returns "
            f"{_shapes(source)}, the target {_shapes(target)}.",
            hint="Let both models return the same arrays, or give each its inputs: inputs= (--inputs) may "
            'return {"source": ..., "target": ...}.',
        )
    return Outputs(tuple(pairs), tuple(left_source), tuple(left_target))


def of_other_sizes(source: Mapping[str, Array], target: Mapping[str, Array]) -> Outputs:
    """Return outputs that cannot be compared as pairs with an infinite error, by name and else in order.

    Args:
        source: The source's outputs.
        target: The target's.
    """
    same = [name for name in source if name in target]
    named = list(zip(same, same, strict=True)) or list(zip(source, target, strict=False))
    pairs = tuple(
        OutputError(name, other, source[name].shape, float("inf"), f"target: {list(target[other].shape)}")
        for name, other in named
    )
    ours, theirs = ({pair[place] for pair in named} for place in (0, 1))
    return Outputs(
        pairs,
        tuple(name for name in source if name not in ours),
        tuple(name for name in target if name not in theirs),
    )


def not_finite(arrays: Mapping[str, Array]) -> dict[str, str]:
    """Return the outputs that hold NaN or infinities, and which of them."""
    named = {}
    for name, array in arrays.items():
        if not (is_floating(array.dtype) or np.issubdtype(array.dtype, np.complexfloating)):
            continue
        wide = array if np.issubdtype(array.dtype, np.complexfloating) else array.astype(np.float64)
        kinds = [word for word, test in (("NaN", np.isnan), ("infinities", np.isinf)) if test(wide).any()]
        if kinds:
            named[name] = " and ".join(kinds)
    return named


def concatenated(arrays: Sequence[Array]) -> Array | None:
    """Return the outputs of the parts of a layer joined along their last axis; None if they do not fit."""
    if len(arrays) == 1:
        return arrays[0]
    flat = []
    for array in arrays:
        if array.ndim < 2:
            return None
        flat.append(array)
    fewest = min(array.ndim for array in flat)
    merged = [array.reshape(*array.shape[: fewest - 1], -1) for array in flat]
    if any(array.shape[:-1] != merged[0].shape[:-1] for array in merged):
        return None
    return np.concatenate(merged, axis=-1)


def _shapes(arrays: Mapping[str, Array]) -> str:
    if not arrays:
        return "no array"
    return listed(f"{name or 'one array'} {array.dtype}{list(array.shape)}" for name, array in arrays.items())
