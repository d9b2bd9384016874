"""Which objects can be run as models, and what each of them is."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
from flax import nnx

from bridge_core import BridgeError, FlatState, UsageError
from bridge_core.plugins import Inputs, cause_of, is_interrupt
from bridge_flax.templates import Template
from bridge_flax.trees.call_recorder import CallRecorder
from bridge_flax.trees.flatten import flatten, state_of
from bridge_flax.trees.linen_runs import LinenModel, TransformersModel
from bridge_flax.trees.nnx_runs import NnxModel
from bridge_flax.trees.nnx_split import split
from bridge_flax.trees.program import RunnableModel

__all__ = ["FunctionModel", "as_model", "user_failures"]


@dataclass(frozen=True, eq=False)
class FunctionModel:
    """A function of variables and inputs, in any JAX code."""

    function: Callable[..., Any]
    variables: Any

    @property
    def name(self) -> str:
        """What messages call the model."""
        return f"the function {getattr(self.function, '__name__', type(self.function).__name__)}"

    def tree(self, inputs: Inputs) -> Any:
        """Return the variables."""
        return self.variables

    def weights(self, inputs: Inputs) -> FlatState:
        """Return the variables as a flat state; nothing shows the types of modules."""
        return flatten(self.variables, form=None)

    def call(self, tree: Any, args: Any, kwargs: Any, seed: int, *, wide: bool = False) -> tuple[Any, Any]:
        """Call the function; it changes nothing."""
        return self.function(tree, *args, **kwargs), {}

    def observed(self, recorder: CallRecorder) -> Any:
        """Return a context that records nothing."""
        return contextlib.nullcontext()


def as_model(value: Any) -> RunnableModel:
    """Return an object as a model that can be run.

    Raises:
        UsageError: It is nothing that can be run; the message says what to return instead.
    """
    if isinstance(value, Template):
        if value.kind == "linen":
            raise UsageError(
                "the template of a Linen module has no module, so it cannot be run.",
                hint="Return the Linen module itself, or a pair: (module, variables).",
            )
        graphdef, state = value.tree
        return NnxModel(graphdef, state, value.state, graphdef_name(graphdef))
    if isinstance(value, nnx.Module):
        graphdef, state = split(value)
        return NnxModel(graphdef, state, state_of(value), type(value).__name__)
    if isinstance(value, nn.Module):
        if value.scope is None:
            return LinenModel(value)
        module, variables = value.unbind()
        return LinenModel(module, variables)
    if hasattr(value, "module") and hasattr(value, "params") and isinstance(value.module, nn.Module):
        return TransformersModel(value)
    if isinstance(value, tuple) and len(value) == 2:
        first, second = value
        if isinstance(first, nn.Module):
            return LinenModel(first, second)
        if isinstance(first, nnx.GraphDef):
            return as_model(nnx.merge(first, second))
        owner = getattr(first, "__self__", None)
        if isinstance(owner, nn.Module) and getattr(first, "__name__", "") == "apply":
            return LinenModel(owner, second)
        if callable(first):
            return FunctionModel(first, second)
    raise UsageError(
        f"expected a model that can be run, got {type(value).__name__}.",
        hint="Return a Flax module, or a pair: (module, variables) or (apply_fn, variables).",
    )


def graphdef_name(graphdef: Any) -> str:
    """Return the name of the class that an NNX structure describes."""
    nodes = getattr(graphdef, "nodes", None) or [graphdef]
    return getattr(getattr(nodes[0], "type", None), "__name__", "module")


@contextlib.contextmanager
def user_failures(name: str, what: str) -> Iterator[None]:
    """Turn what the user's model raises into an error that names it; no warning of it escapes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BridgeError:
        raise
    except BaseException as err:
        if is_interrupt(err):
            raise
        raise UsageError(
            f"{name} {what}: {cause_of(err).rstrip('.')}.",
            hint="Pass inputs of the shapes and dtypes that it takes (--inputs), or correct the model.",
        ) from err
