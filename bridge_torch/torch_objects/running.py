"""Running live modules: outputs, calls of modules and changed statistics, with the module left as it was."""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from torch.nn.parameter import UninitializedBuffer, is_lazy

from bridge_core import BridgeError, FlatState, Key, UnsupportedFeature, UsageError, as_key
from bridge_core.messages import listed, shown
from bridge_core.plugins import Inputs, ModelRun, Precision, cause_of, is_interrupt
from bridge_core.state import Array, LazyTensor, Region
from bridge_torch.torch_objects.copying import copy_with_weights, native_dtype
from bridge_torch.torch_objects.float64 import in_float64
from bridge_torch.torch_objects.reordered import in_another_order
from bridge_torch.torch_objects.tensors import build_state_dict, read_state
from bridge_torch.torch_objects.tracing import Tracer
from bridge_torch.torch_objects.values import as_argument, named_arrays

__all__ = ["example_inputs", "model_weights", "run_model"]

_HINT = "Correct the inputs, or the model; the reason is that of torch or of the model's own code."


def run_model(
    model: torch.nn.Module,
    weights: FlatState,
    inputs: Inputs,
    *,
    trace: bool,
    precision: Precision,
    seed: int,
) -> ModelRun:
    """Run a copy of a module on the CPU; see `bridge_core.plugins.RunsModels`."""
    tensors = build_state_dict(weights, None)
    if _uninitialised(model):
        model = _initialised(model, inputs)
    try:
        return _run(model, tensors, inputs, trace, precision, seed)
    except UsageError as err:
        if precision == "native":
            raise
        _run(model, tensors, inputs, False, "native", seed)  # raises if the precision is not the reason
        way = "in float64" if precision == "float64" else "with its sums in another order"
        raise UnsupportedFeature(
            f"the model runs, but not {way}: {err.message}", hint='Use precision="native".'
        ) from err


def model_weights(model: torch.nn.Module, inputs: Inputs) -> FlatState:
    """Return the state of a module; uninitialised parameters get their shapes by a run, and no values."""
    uninitialised = _uninitialised(model)
    module = _initialised(model, inputs) if uninitialised else model
    state = _with_constants(read_state(module), module)
    if not uninitialised:
        return state
    abstract = {
        key: LazyTensor(state.spec(key), _without_value(key)) if key in uninitialised else state.tensor(key)
        for key in state
    }
    return state.replace(tensors=abstract)


def _uninitialised(model: torch.nn.Module) -> list[Key]:
    with _named_failures("the model's state dict cannot be read"):
        children = model.state_dict(keep_vars=True)
    return [as_key(name) for name, child in children.items() if is_lazy(child)]


def _initialised(model: torch.nn.Module, inputs: Inputs) -> torch.nn.Module:
    """Return a copy of a lazy module, called once so that its parameters have shapes."""
    with _quiet(0), _named_failures("the model fails"), torch.no_grad():
        # torch cannot copy buffers that are uninitialised.
        lazy = {
            id(child): UninitializedBuffer(dtype=child.dtype)  # type: ignore[call-arg]
            for child in model.buffers()
            if is_lazy(child)
        }
        module = copy.deepcopy(model, dict(lazy))
        positional, named = _arguments(inputs, torch.get_default_dtype())
        module(*positional, **named)
    return module


def _with_constants(state: FlatState, model: torch.nn.Module) -> FlatState:
    """Return the state with the names of float buffers that are not statistics in the modules' settings."""
    buffers = {id(child) for child in model.buffers()}
    constants = {
        as_key(name)
        for name, child in model.state_dict(keep_vars=True).items()
        if id(child) in buffers and child.is_floating_point()
    }
    modules = dict(state.metadata.modules)
    for path, info in modules.items():
        names = tuple(
            name
            for name in info.parameters
            if (*path, *as_key(name)) in constants and name not in ("running_mean", "running_var")
        )
        if names:
            modules[path] = replace(info, settings={**info.settings, "constants": names})
    return state.replace(metadata=replace(state.metadata, modules=modules))


def example_inputs(model: torch.nn.Module) -> Inputs | None:
    """Return the inputs that a module offers: transformers' ``dummy_inputs``, Lightning's example array.

    None if the module has neither, or they are not those of its ``forward``: transformers' base class offers
    token ids for models of images, too.
    """
    for name in ("dummy_inputs", "example_input_array"):
        try:
            value = getattr(model, name, None)
            if value is None:
                continue
            examples = _inputs(value)
            signature = inspect.signature(model.forward)
            bound = signature.bind(*examples.positional, **examples.named)
        except Exception:  # properties of models fail in many ways where they do not fit
            continue
        if name == "example_input_array" or _are_of(model, examples, signature, bound):
            return examples
    return None


def _are_of(
    model: Any, examples: Inputs, signature: inspect.Signature, bound: inspect.BoundArguments
) -> bool:
    """Return whether transformers' inputs are parameters of a model, its main one and images among them."""
    images = {"pixel_values"} & {*signature.parameters}
    needed = images | {getattr(model, "main_input_name", None) or next(iter(signature.parameters))}
    return needed <= {*examples.named} <= {*signature.parameters} and needed <= {*bound.arguments}


def _inputs(value: Any) -> Inputs:
    """Return arrays as inputs: of a mapping by name, of a tuple by place, else one array."""
    if isinstance(value, Mapping):
        return Inputs(named={str(name): _as_numpy(child) for name, child in value.items()})
    if isinstance(value, tuple | list):
        return Inputs(tuple(_as_numpy(child) for child in value))
    return Inputs((_as_numpy(value),))


def _as_numpy(value: Any) -> Any:
    return named_arrays(value)[""] if isinstance(value, torch.Tensor) else value


def _run(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    inputs: Inputs,
    trace: bool,
    precision: Precision,
    seed: int,
) -> ModelRun:
    double = precision == "float64"
    notes: list[str] = []
    dtypes: set[str] = set()
    with _quiet(seed):
        with _named_failures("the model cannot be copied"):
            module = copy_with_weights(model, tensors, double=double)
        native = native_dtype(model)
        positional, named = _arguments(inputs, torch.float64 if double else native)
        tracer = Tracer(module)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_named_failures("the model fails"))
            stack.enter_context(torch.no_grad())
            stack.enter_context(tracer if trace else contextlib.nullcontext())
            if double:
                stack.enter_context(in_float64(native))
            if precision == "reordered":
                dtypes = stack.enter_context(in_another_order())
            result = module(*positional, **named)
        outputs = named_arrays(result)
        updates = _updates(module, tensors)
    if not outputs:
        raise UsageError(
            f"the model returned no arrays, but {shown(result)}.", hint="Let it return a tensor, or several."
        )
    if trace:
        if unseen := tracer.unseen():
            notes.append(
                f"{listed('.'.join(path) for path in unseen)}: not called as a module, so its calls are "
                "not shown; the weights are unused, or another module or compiled code computes with them."
            )
        notes += dict.fromkeys(tracer.problems)
    if double:
        outputs = _all_double(outputs, notes)
    return ModelRun(outputs, tuple(tracer.calls), updates, tuple(notes), frozenset(dtypes))


def _arguments(inputs: Inputs, floats: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
    positional = tuple(as_argument(value, floats) for value in inputs.positional)
    return positional, {name: as_argument(value, floats) for name, value in inputs.named.items()}


def _updates(module: torch.nn.Module, given: Mapping[str, torch.Tensor]) -> dict[Key, Array]:
    """Return the weights of a copy that are not those it was given, as arrays."""
    updates = {}
    for name, child in module.state_dict().items():
        if isinstance(child, torch.Tensor) and name in given:
            before, after = named_arrays(given[name].to(child.dtype))[""], named_arrays(child)[""]
            if before.tobytes() != after.tobytes():
                updates[as_key(name)] = after
    return updates


def _all_double(outputs: Mapping[str, Array], notes: list[str]) -> dict[str, Array]:
    """Return outputs of a run in float64 as float64, and note those that were computed in another dtype."""
    wide: dict[str, Array] = {}
    narrow = []
    for name, array in outputs.items():
        wide_dtype = np.complex128 if array.dtype.kind == "c" else np.float64
        if array.dtype.kind in "biu" or array.dtype == wide_dtype:
            wide[name] = array
        else:
            wide[name] = array.astype(wide_dtype)
            narrow.append(name or "the output")
    if narrow:
        notes.append(f"computed in a narrower dtype than float64 by the model: {listed(narrow)}.")
    return wide


def _without_value(key: Key) -> Callable[[Region], NoReturn]:
    def read(region: Region) -> NoReturn:
        raise UsageError("the parameter is uninitialised and has no value.", key=key, hint="Give it weights.")

    return read


@contextlib.contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """Seed all global generators, silence warnings, and compute by modules; afterwards all is as before."""
    states = random.getstate(), np.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    dtype = torch.get_default_dtype()
    eager = getattr(torch.compiler, "set_stance", None)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        if eager is not None and "torch._dynamo" in sys.modules:
            stack.enter_context(eager("force_eager"))
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            torch.set_default_dtype(dtype)
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextlib.contextmanager
def _named_failures(what: str) -> Iterator[None]:
    """Turn what a model's code raises, which may also end the program, into an error with the reason."""
    try:
        yield
    except BridgeError:
        raise
    except BaseException as err:
        if is_interrupt(err):
            raise
        raise UsageError(f"{what}: {cause_of(err).rstrip('.')}.", hint=_HINT) from err
