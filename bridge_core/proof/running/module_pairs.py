"""Errors of the inputs and the outputs of modules that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.plugins import ModuleCall
from bridge_core.proof.running.alignment import CallPair
from bridge_core.proof.running.common_axes import Fit, best_fit, relative_error
from bridge_core.proof.running.outputs import concatenated
from bridge_core.state import Array, is_floating, join_key

__all__ = ["ModuleError", "module_errors"]


@dataclass(frozen=True, eq=False)
class ModuleError:
    """One pair of modules, and the errors of what goes in and comes out.

    Args:
        pair: The calls.
        inputs: Error of the inputs; None if they cannot be compared.
        outputs: Error of the outputs; None if they cannot be compared, infinity if the inputs are equal and
            the outputs have other sizes.
        how: What was done to the axes of the target's output, for people; empty if nothing.
        depth: How many other pairs it is inside of.
    """

    pair: CallPair
    inputs: float | None
    outputs: float | None
    how: str = ""
    depth: int = 0

    @property
    def source(self) -> str:
        """Paths of the source's modules, joined; empty for the model."""
        return _named(self.pair.source)

    @property
    def target(self) -> str:
        """Paths of the target's modules, joined; empty for the model."""
        return _named(self.pair.target)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "source": self.source,
            "target": self.target,
            "source_type": self.pair.source[0].type,
            "target_type": self.pair.target[0].type,
            "depth": self.depth,
            "input_error": self.inputs,
            "output_error": self.outputs,
            "axes": self.how,
        }


def _named(calls: Sequence[ModuleCall]) -> str:
    return ", ".join(dict.fromkeys(join_key(call.path) for call in calls))


def module_errors(pairs: Sequence[CallPair], limit: float) -> list[ModuleError]:
    """Return the errors of each pair, in the same order.

    Args:
        pairs: Pairs of calls; the models' own come first.
        limit: The error up to which arrays are equal.
    """
    errors = []
    for pair in pairs:
        inputs, outputs = _input_error(pair, limit), _output_fit(pair, limit)
        if outputs is None and inputs is not None and inputs <= limit and _of_other_sizes(pair):
            outputs = Fit(float("inf"))
        errors.append(
            ModuleError(
                pair,
                inputs,
                None if outputs is None else outputs.error,
                "" if outputs is None else outputs.how,
                sum(_is_inside(pair, other) for other in pairs if other is not pair),
            )
        )
    return errors


def _is_inside(pair: CallPair, other: CallPair) -> bool:
    inner, outer = pair.source[0], other.source[0]
    return outer.began < inner.began and inner.ended < outer.ended


def _input_error(pair: CallPair, limit: float) -> float | None:
    """Return the error of the inputs; of parts of one layer, which share their input, that of the first."""
    source, target = _floats(pair.source[0].inputs), _floats(pair.target[0].inputs)
    if not source or not target:
        source, target = dict(pair.source[0].inputs), dict(pair.target[0].inputs)
        if not source or not target:
            return None
    main = best_fit(_first(source), _first(target), limit, of_channels=False, masks=True)
    if main is None:
        return None
    errors = [main.error]
    ours, theirs = (
        [array for array in list(arrays.values())[1:] if array.ndim > 2] for arrays in (source, target)
    )
    if len(ours) == len(theirs):  # else they are passed in other ways, such as masks and tables of positions
        for one, other in zip(ours, theirs, strict=True):
            if one.shape == other.shape:
                fit = best_fit(one, other, limit, of_channels=False, masks=True)
                errors += [fit.error] if fit is not None else []
    return max(errors)


def _output_fit(pair: CallPair, limit: float) -> Fit | None:
    if pair.single:
        return _calls_fit(pair.source[0].outputs, pair.target[0].outputs, limit)
    source = concatenated([_first(call.outputs) for call in pair.source if call.outputs])
    target = concatenated([_first(call.outputs) for call in pair.target if call.outputs])
    if source is None or target is None:
        return None
    fit = best_fit(source, target, limit, of_channels=False)
    if fit is None or fit.error <= limit:
        return fit
    flat = target.reshape(source.shape) if target.size == source.size else None
    if flat is not None and relative_error(np.sort(source, -1), np.sort(flat, -1)) <= limit:
        return Fit(relative_error(np.sort(source, -1), np.sort(flat, -1)), "parts in another order")
    return fit


def _of_other_sizes(pair: CallPair) -> bool:
    """Return whether both modules return one array, and these have other numbers of elements."""
    if not pair.single:
        return False
    ours, theirs = pair.source[0].outputs, pair.target[0].outputs
    return len(ours) == len(theirs) == 1 and _first(ours).size != _first(theirs).size


def _calls_fit(source: Mapping[str, Array], target: Mapping[str, Array], limit: float) -> Fit | None:
    """Return the fit of what two modules return: their first array, and all others of the same names."""
    ours, theirs = _floats(source) or dict(source), _floats(target) or dict(target)
    if not ours or not theirs:
        return None
    main = best_fit(_first(ours), _first(theirs), limit, of_channels=False)
    if main is None:
        return None
    error = main.error
    shared = [name for name in list(ours)[1:] if name in list(theirs)[1:]]
    for name in shared:
        fit = best_fit(ours[name], theirs[name], limit, of_channels=False)
        if fit is not None and len(ours) == len(theirs):
            error = max(error, fit.error)
    return Fit(error, main.how)


def _first(arrays: Mapping[str, Array]) -> Array:
    return next(iter(arrays.values()))


def _floats(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if is_floating(array.dtype) and array.size}
