"""Template: what a Flax model's weights look like, without the weights.

It stands apart from the files that import JAX, so that an object can be recognised as a template in
a process that never loads JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from bridge_core import FlatState, MissingDependency

__all__ = ["Template", "load_trees", "template"]


@dataclass(frozen=True, eq=False)
class Template:
    """Names, shapes, dtypes and layer types of a Flax model.

    Args:
        kind: Which of Flax's two module systems the model uses.
        state: Specs alone, with the modules' types in its metadata.
        tree: What is filled in to build the result: for Linen the abstract variables that ``init``
            would return, for NNX a graph definition and an abstract state.
    """

    kind: Literal["linen", "nnx"]
    state: FlatState
    tree: Any = field(repr=False)


def template(module: Any | Callable[..., Any], *args: Any, **kwargs: Any) -> Template:
    """Return a model's names, shapes, dtypes and layer types; no weights are made.

    Args:
        module: A `flax.linen.Module`; an `nnx.Module`, concrete or abstract; a class or function that
            returns an `nnx.Module`; or a function that returns what a Linen module's ``init`` made, or its
            ``params`` alone.
        *args: For Linen, what ``init`` takes after the random keys: arrays or `jax.ShapeDtypeStruct`.
            For a class or function, its own arguments.
        **kwargs: Likewise. For Linen ``rngs`` and ``method`` mean what they mean to ``init``; for a
            class or function a required ``rngs`` that is left out is made here.

    Raises:
        UsageError: ``module`` is none of these, or takes no arguments and got some.

    ``template(model, jax.ShapeDtypeStruct((1, 28, 28, 1), "float32"))`` serves as ``like=`` and as
    ``module=`` of the conversions.
    """
    made: Template = load_trees().make_template(module, *args, **kwargs)
    return made


def load_trees() -> ModuleType:
    """Import the part that needs JAX and Flax.

    Raises:
        MissingDependency: One of them is not installed.
    """
    try:
        import bridge_flax.trees as trees
    except ImportError as err:
        raise MissingDependency(
            f"live Flax objects need JAX and Flax, and importing them failed: {err}.",
            hint='Run: pip install "ckptbridge[flax]"',
        ) from err
    return trees
