"""What an adapter may offer beyond weights: running its models, and the settings of their modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from bridge_core.state import Array, FlatState, Key

__all__ = [
    "Inputs",
    "ModelRun",
    "ModuleCall",
    "ModuleSettings",
    "Precision",
    "ReadsSettings",
    "RunsModels",
    "SETTING_NAMES",
]

Precision = Literal["native", "float64", "reordered"]
"""How a model computes: unchanged; in float64; unchanged but for the order in which it adds."""


@dataclass(frozen=True)
class Inputs:
    """What a model is called with.

    Args:
        positional: numpy arrays and plain values, in order.
        named: The same by keyword.
    """

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One call of a module while its model ran.

    Args:
        path: The module's path, as in the keys of its weights without a collection; empty for the model.
        type: Qualified name of its class.
        inputs: The arrays it was called with: ``"0"`` for the first positional one, the name for a keyword,
            dotted names inside containers: indexes (``"0.1"``), keys of dicts, names of fields, and of
            public attributes of other objects (``"cache.layers.0.keys"``). None is left out.
        outputs: The arrays that it returned; ``""`` if it returned one array, else named as inside a
            container: ``"0"``, ``"logits"``.
        plain: Arguments that are plain values, as ``{"train": False}``, named as in ``inputs``.
        began: Place of the call's start among all starts and ends of calls; calls are in this order.
        ended: Place of its end: another call is inside this one if it began later and ended earlier.
    """

    path: Key
    type: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    plain: Mapping[str, Any] = field(default_factory=dict)
    began: int = 0
    ended: int = 0


@dataclass(frozen=True, eq=False)
class ModelRun:
    """What a model returned, and what its modules computed.

    Args:
        outputs: The arrays of the result, named as those of a `ModuleCall`.
        calls: The calls of all modules in the order in which they began, the model's own first; empty if
            they were not asked for.
        updates: The weights that the run changed, by key as in the state: statistics in training mode.
        notes: What could not be done or seen, for people: modules inside a compiled loop, for example.
        dtypes: Names of the float dtypes that the run's operations give, native or with reordered sums;
            empty if they are unknown.
    """

    outputs: Mapping[str, Array]
    calls: tuple[ModuleCall, ...] = ()
    updates: Mapping[Key, Array] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dtypes: frozenset[str] = frozenset()


SETTING_NAMES = frozenset(
    {
        *("activation", "align_corners", "bias", "bidirectional", "causal", "ceil_mode", "count_include_pad"),
        *("dilation", "dropout", "dtype", "eps", "groups", "head_dim", "heads", "kv_heads", "layers"),
        *("momentum", "norm_first", "output_size", "padding", "padding_idx", "padding_mode", "resize"),
        *("rope_theta", "scale", "stride", "tied_to", "training", "window"),
    }
)
"""The names that `ModuleSettings.values` may have."""


@dataclass(frozen=True)
class ModuleSettings:
    """Settings of one module, under names that all frameworks share.

    ``values`` may have:

    - ``activation``: ``"relu"``, ``"gelu"`` (exact), ``"gelu_tanh"``, ``"quick_gelu"``, ``"silu"``,
      ``"sigmoid"``, ``"tanh"``, ``"softplus"``, ``"mish"``, ``"hard_swish"``, ``"identity"``, ...; parameters
      in brackets, written with format ``g``: ``"leaky_relu(0.01)"``, ``"elu(1)"``, ``"softmax(-1)"``.
    - ``bias`` (bool): whether it adds one.
    - ``dtype``: name of the dtype it computes in: of a layer with weights without a setting of its own, that
      of its weights.
    - ``dropout`` (float): share that is dropped. ``training`` (bool): whether it drops; of a batch norm,
      whether it normalises by the batch's own statistics.
    - ``eps`` (float). ``momentum`` (float): share of the new statistic; None: all batches count alike.
    - ``window``, ``stride``, ``dilation``: a number for each axis of space, in the order of these axes.
      ``groups``: of a convolution or a group norm.
    - ``padding``: a pair (low, high) for each axis of space; ``"SAME"`` only where it depends on the input's
      size. Of a transposed convolution, what is cut at each end: its output has ``(in - 1) * stride +
      dilation * (window - 1) + 1 - low - high`` places. ``padding_mode``: ``"circular"``, ``"reflect"`` or
      ``"replicate"``; absent for zeros. ``ceil_mode``, ``count_include_pad`` (bool): of pooling.
    - ``output_size``: of adaptive pooling or resizing, None for an axis that stays. ``resize``:
      ``"nearest"``, ``"linear"``, ``"cubic"``. ``align_corners`` (bool).
    - ``heads``, ``kv_heads``, ``head_dim`` (int), ``scale`` (float, multiplies the products of queries and
      keys), ``causal`` (bool), ``rope_theta`` (float): of attention.
    - ``layers`` (int), ``bidirectional`` (bool): of recurrent stacks. ``padding_idx`` (int): of embeddings.
      ``norm_first`` (bool): of a transformer's layer, whether the norms come before attention.
    - ``tied_to``: dotted key of the weight that it shares.

    Args:
        type: Qualified name of the module's class.
        values: Name -> value; a name that is absent does not concern a module of this type.
        unread: Names that concern it, and that cannot be read.
    """

    type: str
    values: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


@runtime_checkable
class RunsModels(Protocol):
    """A framework adapter that can run its live models, and show what their modules compute."""

    def runs(self, model: Any) -> bool:
        """Return whether an object is a model that can be run; raising means no.

        Args:
            model: Any object, as the user's function returned it.
        """
        ...

    def example_inputs(self, model: Any) -> Inputs | None:
        """Return inputs that the model offers itself; None if it offers none."""
        ...

    def model_weights(self, model: Any, inputs: Inputs) -> FlatState:
        """Return the state of the model's weights, with module types in the metadata.

        A module's settings there have ``"constants"`` if it has any: the names below its path of float
        tensors that are neither parameters nor statistics, whose values the model computes itself.

        A model without weights of its own, as a Linen module, is initialised by shape: then the tensors have
        specs and no values.

        Args:
            model: An object for which `runs` returned True; it is not changed.
            inputs: What the model is called with.

        Raises:
            UsageError: The model cannot be called with these inputs.
        """
        ...

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
        """Call the model with weights and inputs; neither is changed.

        Args:
            model: As for `model_weights`.
            weights: In this framework's layout, with the keys of `model_weights`.
            inputs: What the model is called with; float inputs get the dtype that the precision requires.
            trace: Whether to record the calls of all modules.
            precision: How it computes. All float arrays of a run in float64 are float64.
            seed: For random numbers that the model draws, as dropout does.

        Raises:
            UsageError: The model cannot be called with these inputs; the message has the framework's reason.
            UnsupportedFeature: The precision is not offered for this model.
        """
        ...


@runtime_checkable
class ReadsSettings(Protocol):
    """A framework adapter that can read the settings of a model's modules, without running it."""

    def model_settings(self, model: Any, inputs: Inputs | None = None) -> Mapping[Key, ModuleSettings]:
        """Return the settings of each module, by path.

        Args:
            model: A live model, which is not changed; values of weights are not needed.
            inputs: What it is called with, where its modules exist only in a call (Linen); None if unknown.

        Raises:
            UsageError: The modules exist only in a call, and there are no inputs.
        """
        ...
