"""Making templates: a model is run on shapes without values, and what it would create is recorded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.errors
import flax.linen as nn
import jax
from flax import nnx

from bridge_core import Key, UsageError
from bridge_core.state import ModuleInfo, VariableCollections
from bridge_flax.layers import COLLECTIONS
from bridge_flax.templates import Template
from bridge_flax.trees.arrays import to_abstract
from bridge_flax.trees.callbacks import fresh_traces
from bridge_flax.trees.flatten import flatten, state_of
from bridge_flax.trees.module_types import LinenRecorder, nnx_modules
from bridge_flax.trees.nnx_split import split
from bridge_flax.trees.walk import is_empty, rebuild, walk

__all__ = ["make_template"]


def make_template(module: Any, *args: Any, **kwargs: Any) -> Template:
    """Return a template of a Linen or NNX model; see `bridge_flax.template`."""
    if isinstance(module, nn.Module):
        return _linen(module, args, kwargs)
    if isinstance(module, nnx.Pytree):
        if args or kwargs:
            name = type(module).__name__
            raise UsageError(
                f"the {name} is built already, so template() takes no arguments for it; got "
                f"{len(args) + len(kwargs)}.",
                hint=f"Pass only the {name}, or the class and its arguments: template({name}, ...).",
            )
        return _nnx(module)
    if inspect.isclass(module) and issubclass(module, nn.Module):
        raise UsageError(
            f"expected an instance of a Linen module, got the class {module.__name__}.",
            hint=f"Pass template({module.__name__}(...), *args), with the arguments of its init.",
        )
    if callable(module):
        return _function(module, args, kwargs)
    raise UsageError(
        f"expected a Flax module, got {type(module).__name__}.",
        hint="Pass a linen.Module, an nnx.Module, or a function that returns an nnx.Module or variables.",
    )


def _linen(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Template:
    rngs = kwargs.pop("rngs", None)
    leaves, structure = jax.tree.flatten((args, kwargs))
    # Real arguments keep their values (a flag decides what is built); only shapes are traced.
    shapes = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)}
    recorder = LinenRecorder()

    def init(traced: dict[int, Any]) -> Any:
        filled = [traced.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(structure, filled)
        keys = {"params": jax.random.key(0)} if rngs is None else rngs
        with nn.intercept_methods(recorder):
            return module.init(keys, *args, **kwargs)

    with fresh_traces():
        abstract = jax.eval_shape(init, shapes)
    return _linen_template(recorder, abstract)


def _linen_template(recorder: LinenRecorder, tree: Any, *, own: bool = True) -> Template:
    """Return the template of a tree that Linen's ``init`` returned.

    Args:
        recorder: The modules that ran.
        tree: The abstract variables.
        own: Whether the tree comes from ``init`` directly, so that no other code can have rearranged it.
    """
    state = flatten(tree, form="variables" if own else None)
    collections = VariableCollections(COLLECTIONS, state.metadata.tree_form["flax"] == "variables")
    modules = recorder.modules(dict.fromkeys(map(collections.strip, state)))
    if not own and any("." in leaf for info in modules.values() for leaf in info.parameters):
        modules = {}  # the modules' paths are not the tree's
    return Template("linen", state.replace(metadata=state.metadata.with_(modules=modules)), tree)


def _nnx(module: Any) -> Template:
    graphdef, concrete = split(module)
    abstract = rebuild(concrete, lambda _, leaf: to_abstract(leaf), abstract=True)
    return _nnx_template(graphdef, abstract, state_of(module).metadata.modules)


def _function(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Template:
    # Random streams count what is drawn from them: they enter as copies, and through the trace.
    given = {i: value for i, value in enumerate(args) if isinstance(value, nnx.Pytree)}
    named = {name: value for name, value in kwargs.items() if isinstance(value, nnx.Pytree)}
    streams, numbers = nnx.split((given, named))
    makes_rngs = "rngs" not in kwargs and _requires_rngs(factory, len(args))
    recorder = LinenRecorder()
    name = getattr(factory, "__name__", type(factory).__name__)
    noted: list[Any] = []

    def make(numbers: Any) -> Any:
        given, named = nnx.merge(streams, numbers)
        options = {**kwargs, **named}
        if makes_rngs:
            options["rngs"] = nnx.Rngs(0)
        with nn.intercept_methods(recorder):
            model = factory(*(given.get(i, value) for i, value in enumerate(args)), **options)
        if isinstance(model, Mapping):
            return model
        if not isinstance(model, nnx.Pytree):
            raise UsageError(
                f"expected an nnx.Module or a dict of variables from the function {name}, got "
                f"{type(model).__name__}.",
                hint=f"Let {name} return the module, or what the module's init returns.",
            )
        graphdef, state = split(model, tracing=True)
        keys = tuple(key for key, leaf, _ in walk(state) if not is_empty(leaf))
        noted.extend((graphdef, nnx_modules(model, keys)))
        return state

    try:
        abstract = jax.eval_shape(make, numbers)
    except flax.errors.TraceContextError as err:
        raise UsageError(
            f"the function {name} uses random streams (nnx.Rngs) that were made outside of it.",
            hint=f"Give {name} a parameter rngs, and pass the streams to template() as rngs=.",
        ) from err
    if not noted:
        return _linen_template(recorder, abstract, own=False)
    graphdef, modules = noted
    return _nnx_template(graphdef, abstract, modules)


def _nnx_template(graphdef: Any, abstract: Any, modules: Mapping[Key, ModuleInfo]) -> Template:
    state = flatten(abstract, form="nnx")
    metadata = state.metadata.with_(modules=modules)
    return Template("nnx", state.replace(metadata=metadata), (graphdef, abstract))


def _requires_rngs(factory: Callable[..., Any], given: int) -> bool:
    # NNX's metaclass hides the signature of a class; that of `__init__` counts self, too.
    is_class = inspect.isclass(factory)
    try:
        parameters = inspect.signature(factory.__init__ if is_class else factory).parameters
    except (TypeError, ValueError):
        return False
    rngs = parameters.get("rngs")
    if rngs is None or rngs.default is not rngs.empty or rngs.kind is rngs.POSITIONAL_ONLY:
        return False
    return rngs.kind is rngs.KEYWORD_ONLY or list(parameters).index("rngs") >= given + is_class
