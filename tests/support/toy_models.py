"""Two tiny frameworks in numpy, whose models run and show their modules and settings.

A model is a list of modules, each a name, a function and arrays. The first framework stores a linear weight
as ``(out, in)``, the second as ``(in, out)``: the transforms of torch and Flax, under their names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge_core import FlatState, StateMetadata, UsageError, default_registry
from bridge_core.errors import UnsupportedFeature
from bridge_core.plugins import Inputs, ModelRun, ModuleCall, ModuleSettings
from bridge_core.state import ModuleInfo

__all__ = ["Container", "Function", "Linear", "Norm", "ToyModel", "toy_registry"]


@dataclass
class Linear:
    """A linear layer: ``weight`` of shape ``(out, in)``, or ``kernel`` of shape ``(in, out)``."""

    into: int
    out: int
    bias: bool = True

    def leaves(self, second: bool) -> dict[str, tuple[int, ...]]:
        name, shape = ("kernel", (self.into, self.out)) if second else ("weight", (self.out, self.into))
        return {name: shape} | ({"bias": (self.out,)} if self.bias else {})

    def apply(self, x: Any, w: dict[str, Any], run: Any) -> Any:
        kernel = w["kernel"] if "kernel" in w else w["weight"].T
        return run.dot(x, kernel) + w.get("bias", 0)


@dataclass
class Norm:
    """A layer norm."""

    size: int
    eps: float = 1e-5

    def leaves(self, second: bool) -> dict[str, tuple[int, ...]]:
        return {"scale" if second else "weight": (self.size,), "bias": (self.size,)}

    def apply(self, x: Any, w: dict[str, Any], run: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        return scaled * w.get("scale", w.get("weight")) + w["bias"]


@dataclass
class Function:
    """A module without weights."""

    function: Any
    settings: dict[str, Any] = field(default_factory=dict)

    def leaves(self, second: bool) -> dict[str, tuple[int, ...]]:
        return {}

    def apply(self, x: Any, w: dict[str, Any], run: Any) -> Any:
        return self.function(x, run)


@dataclass
class Container:
    """Named modules, one after the other, and a function of the input and the last output."""

    modules: dict[str, Any]
    join: Any = None


@dataclass
class ToyModel:
    """A model of one of the two frameworks."""

    framework: str
    body: Container
    offered: Any = None
    constants: dict[str, Any] = field(default_factory=dict)
    outputs: Any = None
    float64: bool = True
    dtypes: frozenset[str] = frozenset()


class _Run:
    def __init__(self, precision: str, seed: int, trace: bool) -> None:
        self.precision, self.rng = precision, np.random.default_rng(seed)
        self.trace, self.calls, self.clock = trace, [], 0

    def dot(self, x: Any, kernel: Any) -> Any:
        if self.precision == "reordered":
            return (x[..., ::-1] @ kernel[::-1]).astype(x.dtype)
        return x @ kernel

    def tick(self) -> int:
        self.clock += 1
        return self.clock


class ToyFramework:
    """Runs `ToyModel`; weights and layouts are those of the framework that it stands in for."""

    default_format = "safetensors"

    def __init__(self, real: Any) -> None:
        self.real, self.name, self.collections = real, real.name, {}
        self.channels = getattr(real, "channels", None)

    def owns(self, names: Any) -> bool:
        return bool(self.real.owns(names))

    def accepts(self, value: Any) -> bool:
        return isinstance(value, ToyModel) and value.framework == self.name

    def state(self, value: Any) -> FlatState:
        return self.model_weights(value, Inputs())

    def build(self, state: FlatState, like: Any) -> Any:
        return dict(state)

    def runs(self, model: Any) -> bool:
        return self.accepts(model)

    def example_inputs(self, model: ToyModel) -> Inputs | None:
        return None if model.offered is None else Inputs((model.offered,))

    def model_weights(self, model: ToyModel, inputs: Inputs) -> FlatState:
        tensors, modules = {}, {}
        for path, module in _modules(model.body):
            leaves = module.leaves(self.name == "flax") if not isinstance(module, Container) else {}
            for leaf, shape in leaves.items():
                tensors[(*path, leaf)] = np.zeros(shape, np.float32)
            if leaves and self.name == "torch":
                kind = {"Linear": "torch.nn.modules.linear.Linear"}.get(type(module).__name__)
                kind = kind or "torch.nn.modules.normalization.LayerNorm"
                modules[path] = ModuleInfo((kind,), {}, tuple(leaves))
        if model.constants:
            tensors |= {(name,): value for name, value in model.constants.items()}
            modules[()] = ModuleInfo(
                ("toy.Model",), {"constants": tuple(model.constants)}, tuple(model.constants)
            )
        return FlatState(tensors, layout=self.name, metadata=StateMetadata(modules=modules))

    def run_model(
        self,
        model: ToyModel,
        weights: FlatState,
        inputs: Inputs,
        *,
        trace: bool = False,
        precision: str = "native",
        seed: int = 0,
    ) -> ModelRun:
        if precision == "float64" and not model.float64:
            raise UnsupportedFeature("float64 is not offered for this model.")
        dtype = np.float64 if precision == "float64" else np.float32
        run = _Run(precision, seed, trace)
        x = np.asarray(inputs.positional[0])
        if not np.issubdtype(x.dtype, np.floating):
            raise UsageError("the toy model takes floats.")
        x = x.astype(dtype)
        values = {key: weights.read(key).astype(dtype) for key in weights}
        out = self._call((), model.body, x, values, run)
        outputs = model.outputs(out) if model.outputs else {"": out}
        calls = tuple(sorted(run.calls, key=lambda call: call.began))
        return ModelRun(outputs, calls, dtypes=model.dtypes)

    def _call(self, path: Any, module: Any, x: Any, values: Any, run: _Run) -> Any:
        began = run.tick()
        if isinstance(module, Container):
            out = x
            for name, inner in module.modules.items():
                out = self._call((*path, name), inner, out, values, run)
            if module.join is not None:
                out = module.join(x, out)
        else:
            own = {key[-1]: value for key, value in values.items() if key[:-1] == path}
            out = module.apply(x, own, run)
        if run.trace:
            kind = f"toy.{type(module).__name__}"
            run.calls.append(ModuleCall(path, kind, {"0": x}, {"": out}, {}, began, run.tick()))
        return out

    def model_settings(self, model: ToyModel, inputs: Inputs | None = None) -> dict[Any, ModuleSettings]:
        settings = {}
        for path, module in _modules(model.body):
            values = {"eps": module.eps} if isinstance(module, Norm) else getattr(module, "settings", {})
            settings[path] = ModuleSettings(f"toy.{type(module).__name__}", values)
        return settings


def _modules(body: Container, path: tuple[str, ...] = ()) -> Any:
    yield path, body
    for name, module in body.modules.items():
        if isinstance(module, Container):
            yield from _modules(module, (*path, name))
        else:
            yield (*path, name), module


def toy_registry() -> Any:
    """Return the registry with both frameworks replaced by toys."""
    registry = default_registry()
    return registry.with_tables(
        frameworks={name: ToyFramework(registry.frameworks[name]) for name in ("torch", "flax")}
    )
