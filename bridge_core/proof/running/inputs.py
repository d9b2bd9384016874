"""The inputs of a proof: what the user gives, or what a model offers, for each of the two models."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bridge_core.conversion import load_factory
from bridge_core.errors import MismatchError, UsageError
from bridge_core.plugins import Inputs, cause_of, is_interrupt
from bridge_core.proof.running.models import Side, failures_of_model
from bridge_core.state import Array

__all__ = [
    "as_inputs",
    "blind_spots",
    "hints_of_inputs",
    "input_arrays",
    "inputs_for_both",
    "misses_mask",
    "with_given_inputs",
]

_HOW = (
    "Write a function that returns what both models are called with, e.g. in mynet.py: def inputs(): return "
    'numpy.random.default_rng(0).normal(size=(2, 8, 16)).astype("float32"), and pass inputs="mynet:inputs" '
    "(--inputs mynet:inputs)."
)
_TWO = (
    'Let inputs= (--inputs) return {"source": ..., "target": ...}, each with the axes that its model takes, '
    'e.g. {"source": x, "target": x.transpose(0, 2, 3, 1)} for images.'
)


def inputs_for_both(value: Any, source: Side, target: Side) -> tuple[Inputs, Inputs]:
    """Return the inputs of the source and of the target.

    Args:
        value: A text ``"PKG.MOD:FUNCTION"``, a function, `Inputs`, an array, a tuple of them, a dict of
            arguments, or ``{"source": ..., "target": ...}``. None for those that a model offers itself.
        source: The source's model.
        target: The target's model.

    Raises:
        UsageError: Neither model offers any, or the value is of another type.
    """
    if value is None:
        for side in (source, target):
            with failures_of_model(side, "asked for inputs"):
                offered = side.framework.example_inputs(side.model)
            if offered is not None:
                return offered, offered
        raise UsageError(
            "neither model offers inputs of its own, and inputs= (--inputs) is not given.", hint=_HOW
        )
    if isinstance(value, str):
        value = load_factory(value, "inputs", "the inputs")
    elif callable(value) and not hasattr(value, "__array__"):
        value = _called(value)
    if isinstance(value, Mapping) and set(value) == {"source", "target"}:
        return as_inputs(value["source"]), as_inputs(value["target"])
    if isinstance(value, Mapping) and set(value) in ({"source"}, {"target"}):
        only = next(iter(value))
        if not any(only in _parameters(side.model) for side in (source, target)):
            raise UsageError(f"the inputs are given for the {only} only.", hint=_TWO)
    both = as_inputs(value)
    return both, both


def with_given_inputs(value: Any, source: Side, target: Side) -> tuple[Side, Side]:
    """Return both sides with inputs and weights.

    Args:
        value: As for `inputs_for_both`.
        source: The source's model.
        target: The target's model.

    Raises:
        UsageError: There are no inputs, or a model cannot be called with them.
    """
    ours, theirs = inputs_for_both(value, source, target)
    with hints_of_inputs(shared=ours is theirs):
        sides = source.with_inputs(ours), target.with_inputs(theirs)
    for side in sides:
        if not len(side.weights):
            raise UsageError(
                f"the {side.what} model, of the class {side.type_name}, has no weights, so there is nothing "
                "to convert.",
                hint="Let the function return the model that holds the weights.",
            )
    return sides


@contextlib.contextmanager
def hints_of_inputs(*, shared: bool, of_shapes: bool = False) -> Iterator[None]:
    """Add to errors of usage and of shapes how to give each model inputs of its own.

    Args:
        shared: Whether both models get the same.
        of_shapes: Whether only shapes of weights that do not match may come from the inputs.
    """
    try:
        yield
    except (UsageError, MismatchError) as err:
        if shared and (not of_shapes or (isinstance(err, MismatchError) and err.mismatched)):
            err.hint = f"{err.hint or ''} If the models take different inputs: {_TWO}".strip()
        raise


def as_inputs(value: Any) -> Inputs:
    """Return what a user gives for one model: an array, a tuple of arguments, or a dict of them.

    Args:
        value: Arrays may be of numpy or any framework; they become numpy arrays, and are not copied where
            possible. A tuple is one argument for each item, a list one argument.

    Raises:
        UsageError: It is None.
    """
    if isinstance(value, Inputs):
        return Inputs(
            tuple(map(_numpy, value.positional)), {name: _numpy(item) for name, item in value.named.items()}
        )
    if value is None:
        raise UsageError("expected inputs, got None.", hint=_HOW)
    numbers = bool | int | float | complex
    if not (isinstance(value, Mapping | list | tuple | numbers) or hasattr(value, "__array__")):
        raise UsageError(f"expected arrays as inputs, got {_a(type(value).__name__)}.", hint=_HOW)
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return Inputs((), {name: _numpy(item) for name, item in value.items()})
    if type(value) is tuple:
        return Inputs(tuple(map(_numpy, value)))
    return Inputs((_numpy(value),))


def _called(function: Any) -> Any:
    try:
        return function()
    except BaseException as err:
        if is_interrupt(err):
            raise
        raise UsageError(
            f"the function given as inputs= failed with {cause_of(err).rstrip('.')}.",
            hint="Correct the function; it is called without arguments and should return the inputs.",
        ) from err


def _numpy(value: Any) -> Any:
    """Return a value with all arrays in it as numpy arrays; plain values stay."""
    if isinstance(value, np.ndarray | str | bytes | bool | int | float | complex) or value is None:
        return value
    if isinstance(value, Mapping):
        return {name: _numpy(item) for name, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(map(_numpy, value))
    if not hasattr(value, "__array__"):
        return value
    if hasattr(value, "detach"):  # of torch: one that requires a gradient gives no array
        value = value.detach()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as err:
        raise UsageError(
            f"one of the inputs, a {type(value).__name__}, cannot be read as an array: {cause_of(err)}.",
            hint="Give numpy arrays.",
        ) from err


def input_arrays(inputs: Inputs) -> dict[str, Array]:
    """Return the arrays among the inputs: ``"0"`` for the first positional one."""
    arrays: dict[str, Array] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        elif isinstance(value, list | tuple):
            for n, item in enumerate(value):
                add(f"{name}.{n}", item)

    for n, value in enumerate(inputs.positional):
        add(str(n), value)
    for key, value in inputs.named.items():
        add(key, value)
    return arrays


def misses_mask(model: Any, inputs: Inputs) -> bool:
    """Return whether a model has a parameter for a mask, and is called without it.

    Args:
        model: The live model, or a pair of it and its variables.
        inputs: What it is called with.
    """
    names = _parameters(model)
    masks = [name for name in names if "mask" in name]
    given = {*names[: len(inputs.positional)], *inputs.named}
    return bool(masks) and not given & {*masks}


def _parameters(model: Any) -> list[str]:
    """Return the names of a model's parameters in order, as far as they can be seen."""
    called = model[0] if isinstance(model, tuple) and model else model
    for method in ("forward", "__call__"):
        with contextlib.suppress(Exception):  # a property of a user's class may raise anything
            return list(inspect.signature(getattr(called, method)).parameters)
    return []


def _a(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def blind_spots(inputs: Inputs, model: Any = None) -> list[str]:
    """Return what these inputs cannot show, a sentence each.

    Args:
        inputs: What a model is called with.
        model: The model.
    """
    sentences = []
    arrays = input_arrays(inputs)
    if not arrays:
        return ["The inputs hold no array, so they show only what the models compute from constants."]
    masks = {name for name, array in arrays.items() if "mask" in name}
    for name, array in arrays.items():
        label = f"Input {name}"
        if name in masks:
            if array.size and np.all(array == array.flat[0]):
                sentences.append(f"{label} is the same everywhere: a wrong sign would not be seen.")
            continue
        if array.size > 1 and np.all(array == array.flat[0]):
            sentences.append(f"{label} is constant: values in another order would not be seen.")
        if array.ndim > 1 and array.shape[0] == 1:
            sentences.append(f"{label} is a batch of one: sums over the batch would not be seen.")
        if np.issubdtype(array.dtype, np.integer) and array.ndim:
            if array.shape[-1] < 2:
                sentences.append(f"{label} is a single token: positions and attention would not be seen.")
            elif array.shape[-1] < 8:
                sentences.append(
                    f"{label} has {array.shape[-1]} tokens: what begins further on, such as a window of "
                    "attention, would not be seen."
                )
    if misses_mask(model, inputs):
        sentences.append("No mask is given: what the models do with padding would not be seen.")
    return sentences
