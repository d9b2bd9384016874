"""The adapter of torch for the core; torch itself is imported only for a live object."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

from bridge_core import FlatState, Key, MissingDependency, TensorSpec
from bridge_core.ops import ArrayOps
from bridge_core.plugins import Inputs, ModelRun, ModuleSettings, Precision
from bridge_torch.layers import place_in_stack, spell_in_stack

__all__ = ["TorchFramework"]

_TORCH_LEAVES = frozenset(
    {
        "in_proj_bias",
        "in_proj_weight",
        "num_batches_tracked",
        "original0",
        "original1",
        "q_proj_weight",
        "running_mean",
        "running_var",
        "weight",
        "weight_g",
        "weight_hh",
        "weight_hh_l0",
        "weight_ih",
        "weight_ih_l0",
        "weight_orig",
        "weight_v",
    }
)
_FLAX_LEAVES = frozenset({"embedding", "kernel"})
_FLAX_COLLECTIONS = frozenset({"batch_stats", "params"})
_EXTRA_STATE = "_extra_state"
_PARAMETRIZATIONS = "parametrizations"


class TorchFramework:
    """Modules and state dicts of torch."""

    name = "torch"
    collections: Mapping[str, tuple[str, ...]] = {}
    default_format = "safetensors"
    channels = "first"

    def owns(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Return whether the names are torch's.

        They are if at least one leaf name is only torch's, and none is only Flax's.
        """
        leaves = {key[-1] for key in names if key}
        if any(key[0] in _FLAX_COLLECTIONS and _PARAMETRIZATIONS not in key for key in names if key):
            return False
        return bool(leaves & _TORCH_LEAVES) and not leaves & _FLAX_LEAVES

    def place(self, key: Key, present: Collection[Key]) -> tuple[Key, str] | None:
        """Return the path and leaf name of one layer in a recurrent stack, else None."""
        return place_in_stack(key, present)

    def spell(self, path: Key, leaf: str) -> Key | None:
        """Return the key of a leaf in a recurrent stack, the inverse of `place`; else None."""
        return spell_in_stack(path, leaf)

    def accepts(self, value: Any) -> bool:
        """Return whether the value is a module or a state dict of torch; imports nothing."""
        torch = sys.modules.get("torch")
        module, tensor = getattr(getattr(torch, "nn", None), "Module", None), getattr(torch, "Tensor", None)
        if module is None or tensor is None:
            return False
        if isinstance(value, module):
            return True
        if not isinstance(value, Mapping) or isinstance(value, FlatState) or not value:
            return False
        if not all(isinstance(name, str) for name in value):
            return False
        tensors = [isinstance(child, tensor) for name, child in value.items() if not _is_extra(name)]
        return bool(tensors) and all(tensors)

    def state(self, value: Any) -> FlatState:
        """Return the tensors of a module or a state dict.

        CPU tensors are read-only views, not copies.

        Later changes of the object show in the state.

        Args:
            value: An `nn.Module` or a mapping from names to tensors. Tensors on another device are
                copied when they are read; those on the meta device have a spec and no values.

        Raises:
            UnsupportedFeature: A tensor is sparse, quantised, uninitialised or of a dtype that is not
                supported.
            MissingDependency: torch cannot be imported.
            UsageError: The value is neither, or has a value that is not a tensor.
        """
        state: FlatState = _live().read_state(value)
        return state

    def build(self, state: FlatState, like: Any) -> Any:
        """Return a state dict of new CPU tensors; each value is read once.

        Args:
            state: A state in torch's layout.
            like: A module or a state dict, whose order of names the result has; None for the state's own.
                It is not changed.

        Raises:
            KeyConflict: Two keys join to one name.
            MissingDependency: torch cannot be imported.
            UnsupportedFeature: torch has no such dtype.
            UsageError: ``like`` is neither a module nor a state dict.
        """
        return _live().build_state_dict(state, like)

    def runs(self, model: Any) -> bool:
        """Return whether an object is an `nn.Module`; imports nothing."""
        module = getattr(getattr(sys.modules.get("torch"), "nn", None), "Module", None)
        return module is not None and isinstance(model, module)

    def example_inputs(self, model: Any) -> Inputs | None:
        """Return transformers' ``dummy_inputs``, or Lightning's ``example_input_array``.

        None if the module has neither, or its ``forward`` does not take them.
        """
        inputs: Inputs | None = _live().example_inputs(model)
        return inputs

    def model_weights(self, model: Any, inputs: Inputs) -> FlatState:
        """Return the state of a module, as `state` does.

        Parameters of lazy modules get their shapes by a run of a copy, and have no values.

        Args:
            model: An `nn.Module`, which is not changed.
            inputs: What it is called with; used for lazy modules only.

        Raises:
            UnsupportedFeature: As for `state`.
            UsageError: A lazy module cannot be called with the inputs.
        """
        state: FlatState = _live().model_weights(model, inputs)
        return state

    def run_model(
        self,
        model: Any,
        weights: FlatState,
        inputs: Inputs,
        *,
        trace: bool = False,
        precision: Precision = "native",
        seed: int = 0,
    ) -> ModelRun:
        """Call a copy of a module on the CPU, in the mode (training or not) that it is in.

        Gradients are not computed. torch's fused paths of attention and encoder layers are switched off, and
        compiled modules run uncompiled, so that inner modules are called. The state of all random generators
        is restored. Everything is in memory at the same time: the copy, and with ``trace`` all inputs and
        outputs.

        Args:
            model: An `nn.Module`, which is not changed; on the meta device, the weights give it values.
            weights: With the keys of `model_weights`; cast to the dtypes of the module.
            inputs: numpy arrays, or arrays of torch or JAX. Integers become int64, floats get the dtype of
                the module's first float weight, or float64.
            trace: Whether to record the calls of all modules.
            precision: ``"float64"`` also replaces casts to narrower floats in the module's own code.
            seed: For torch's, numpy's and Python's random numbers.

        Raises:
            UnsupportedFeature: The module runs, but not with this precision; or it returns an array that
                numpy does not have.
            UsageError: The module cannot be copied or called, the weights are not its own, or a buffer
                outside the state dict has no value.
        """
        run: ModelRun = _live().run_model(model, weights, inputs, trace=trace, precision=precision, seed=seed)
        return run

    def model_settings(self, model: Any, inputs: Inputs | None = None) -> Mapping[Key, ModuleSettings]:
        """Return the settings of each module, by path.

        Those of torch's own layers are read exactly; those of other modules from attributes with usual names,
        and from the config that they hold. Nothing is run.

        Args:
            model: An `nn.Module`, which may be on the meta device.
            inputs: Not used: the modules of torch exist without a call.
        """
        settings: Mapping[Key, ModuleSettings] = _live().model_settings(model)
        return settings

    def array_ops(self) -> ArrayOps:
        """Return the primitives in which plans are computed on torch tensors, on their device.

        Raises:
            MissingDependency: torch cannot be imported.
        """
        array_ops: ArrayOps = _live().TorchOps()
        return array_ops


def _live() -> ModuleType:
    try:
        from bridge_torch import torch_objects as modules
    except ImportError as err:
        raise MissingDependency(
            f"modules and state dicts in memory need torch, which cannot be imported: {err}.",
            hint='Install it: pip install "ckptbridge[torch]".',
        ) from err
    return modules


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _EXTRA_STATE
