"""The Flax adapter as the core sees it: recognises Flax's objects without importing JAX."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge_core import FlatState, Key, MissingDependency, StateMetadata, TensorSpec, UsageError
from bridge_flax import tree_names
from bridge_flax.layers import COLLECTIONS
from bridge_flax.templates import Template

if TYPE_CHECKING:
    from bridge_core.plugins import Inputs, ModelRun, ModuleSettings, Precision, WeightsChoice

__all__ = ["FlaxFramework", "load_trees"]

_LIVE = frozenset({"Module", "Pytree", "State", "GraphState"})
"""NNX's classes whose objects hold weights."""

_OURS = frozenset({"kernel", "embedding", "scale", "negative_slope"})
_NOT_OURS = frozenset({"weight", "running_mean", "running_var", "num_batches_tracked"})
_OF_WRAPPERS = frozenset({"scale", "sigma", "u"})


class FlaxFramework:
    """Linen variables and parameters, NNX modules and states, train states, and templates."""

    name: str = "flax"
    collections: Mapping[str, tuple[str, ...]] = COLLECTIONS
    default_format: str = "msgpack"
    channels: str = "last"

    def owns(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Return whether the names of a state look like Flax's."""
        if not names:
            return False
        boxed = tree_names.boxes(names)
        last = [key[-2] if key in boxed else key[-1] for key in names if key]
        ours = sum(name in _OURS for name in last)
        not_ours = sum(name in _NOT_OURS for name in last)
        if any("parametrizations" in key for key in names):
            return False  # torch's; one of its modules may be named like a collection
        in_collections = all(len(key) > 1 and key[0] in self.collections for key in names)
        foreign = any("weight" in name for name in last)
        return ours > not_ours or (in_collections and (ours > 0 or not (not_ours or foreign)))

    def has_collections(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Return whether the keys of a tree begin with variable collections.

        Raises:
            KeyConflict: ``params`` is among the first parts, and another first part is not a collection.
        """
        return tree_names.has_collections(names)

    def boxes(self, names: Mapping[Key, TensorSpec]) -> Collection[Key]:
        """Return the keys of arrays in boxes, as ``layer.kernel.value``."""
        return tree_names.boxes(names)

    def choose_weights(
        self, names: Mapping[Key, TensorSpec], metadata: StateMetadata, entry: str = ""
    ) -> WeightsChoice | None:
        """Return which tensors of a train state are weights; None if the tree is none.

        Raises:
            KeyConflict: The names do not show which branch holds the weights, or what another branch is.
            ConversionError: There are no weights, only the state of an optimizer.
        """
        from bridge_flax.train_states import choose_weights, holds_training

        if metadata.tree_form.get(self.name) == "nnx" and not holds_training(names, metadata.collections):
            return None
        return choose_weights(names, metadata.empty, entry)

    def random_state(self, names: Mapping[Key, TensorSpec]) -> Collection[Key]:
        """Return the names that are NNX's random state."""
        return tree_names.random_state(names)

    def place(self, key: Key, present: Collection[Key]) -> tuple[Key, str] | None:
        """Return the layer that a tensor of Linen's ``WeightNorm`` or ``SpectralNorm`` belongs to.

        The wrapper stores the tensor as ``<layer>/<leaf>/scale`` under its own path. The layer is next to
        the wrapper, inside it, or further up.
        """
        *layer, leaf, last = key[-1].split("/") if "/" in key[-1] else ("", "", "")
        if last not in _OF_WRAPPERS or not layer:
            return None
        for depth in range(len(key) - 1, -1, -1):
            path = (*key[:depth], *layer)
            if (*path, leaf) in present:
                return path, f"{leaf}/{last}"
        return None

    def spell(self, path: Key, leaf: str) -> Key | None:
        """Return None: only a template shows where a wrapper stores the tensors of a layer."""
        return None

    def accepts(self, value: Any) -> bool:
        """Return whether a live object is Flax's; imports nothing.

        A mapping must hold at least one array, and only arrays of numpy and JAX, their specs, plain
        numbers and None. A mapping without nesting and with dots in its names is a flat state dict, not
        a tree.
        """
        if isinstance(value, Template):
            return True
        if isinstance(value, FlatState):
            return False
        if _is_nnx(value) or _is_linen(value) or _is_struct(value) or _is_optax(value):
            return True
        return isinstance(value, Mapping) and _is_tree(value)

    def state(self, value: Any) -> FlatState:
        """Return a live object's tensors.

        Of an abstract object, the tensors have specs and no values.

        Linen: keys are the tree's own, with its collections if it has them; boxes such as
        `flax.linen.Partitioned` are opened. NNX: integers in paths become decimal strings; random state
        (`nnx.RngState`) is not weights and is left out. Other typed PRNG keys give their ``uint32`` data.

        Raises:
            UsageError: The object is not Flax's, its values were deleted, or it is a bare Linen module.
            UnsupportedFeature: A leaf is not an array.
            KeyConflict: Two leaves have one name.
        """
        if _is_linen(value):
            raise UsageError(
                f"expected weights or a template, got the Linen module {type(value).__name__}, whose layers "
                "exist only when it is called.",
                hint="Pass the variables that module.init returned, or for like= and model= "
                "bridge_flax.template(module, *args), with the arguments of module.init.",
            )
        if _is_optax(value):
            raise UsageError(
                "expected weights, got the state of an optax optimizer, which holds none.",
                hint="Pass the parameters that the optimizer updates, or a train state with both.",
            )
        state: FlatState = load_trees().state_of(value)
        return state

    def build(self, state: FlatState, like: Any) -> Any:
        """Return live tensors in the structure of ``like``, which is not changed.

        Args:
            state: In Flax's layout, with exactly the keys of ``like``.
            like: A Linen tree, an NNX module or state, a template, or None for plain nested dicts.
                The random state of an NNX object is preserved; an abstract one is made from seed 0. Of a
                train state the weights are replaced, and all else is preserved.

        Raises:
            MismatchError: Keys or shapes differ; its attributes list all of them.
        """
        return self.filled(state, like)

    def filled(self, state: FlatState, like: Any, **reading: Any) -> Any:
        """Return what `build` returns.

        Args:
            state: As for `build`.
            like: As for `build`.
            **reading: ``read``, a function that reads the leaves.
        """
        from bridge_core.plugins import weights_of

        trees = load_trees()
        if like is None or isinstance(like, Template):
            return trees.build(state, like, **reading)
        tree_state = trees.state_of(like)
        weights = weights_of(tree_state, self)
        if weights is tree_state:
            return trees.build(state, like, **reading)
        names = weights.metadata.source_names
        keys = frozenset(names.get(key, key) for key in weights)
        return trees.build(state.rename(names), like, keys, **reading)

    def runs(self, model: Any) -> bool:
        """Return whether an object is a model that can be run; imports nothing.

        It is a Linen module, bound or not; an NNX module, concrete or abstract; a `template` (that of a Linen
        module is refused with what to return instead); transformers' ``FlaxPreTrainedModel``; or a pair
        ``(Linen module, variables)``, ``(apply_fn, variables)`` or ``(graphdef, state)``.
        """
        return _can_run(model)

    def example_inputs(self, model: Any) -> Inputs | None:
        """Return transformers' dummy inputs of a ``FlaxPreTrainedModel``; None for other models."""
        from bridge_core.plugins import Inputs

        if not _is_transformers(model):
            return None
        shape = getattr(model, "input_shape", None)
        if not isinstance(shape, tuple) or not all(isinstance(size, int) for size in shape):
            return None
        if len(shape) == 2:
            config = getattr(model, "config", None)
            words = getattr(config, "vocab_size", None)
            ids = np.arange(8, dtype=np.int32)[None] % (words if isinstance(words, int) and words else 8)
            both = getattr(config, "is_encoder_decoder", False) is True
            return Inputs((ids,), {"decoder_input_ids": ids} if both else {})
        batch, height, width, channels = shape if len(shape) == 4 else (0, 0, 0, 0)
        pixels = np.linspace(-1, 1, batch * height * width * channels, dtype=np.float32)
        return Inputs((pixels.reshape(batch, channels, height, width),)) if batch else None

    def model_weights(self, model: Any, inputs: Inputs) -> FlatState:
        """Return the state of a model's weights, with module types in the metadata.

        A Linen module without variables is initialised by shape: its parameters have specs and no values.
        The setting ``constants`` of a module names its leaves that are neither parameters nor statistics.

        Raises:
            UsageError: The model cannot be called with these inputs, or it is the template of a Linen module.
        """
        state: FlatState = load_trees().model_weights(model, inputs)
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
        """Call a model with weights and inputs; neither is changed.

        Matrix products are computed in the highest precision of the device. A model gets random streams and
        mutable collections if it asks for them. `bridge_core.plugins.RunsModels` documents the arguments.

        Raises:
            UsageError: The model cannot be called with these inputs.
            MismatchError: The weights do not have the keys and shapes of the model.
            UnsupportedFeature: The precision is not offered for this model.
        """
        run: ModelRun = load_trees().run_model(
            model, weights, inputs, trace=trace, precision=precision, seed=seed
        )
        return run

    def model_settings(self, model: Any, inputs: Inputs | None = None) -> Mapping[Key, ModuleSettings]:
        """Return the settings of each module by path, and none of a model that is a function.

        Raises:
            UsageError: The model is Linen's, so its modules exist only in a call, and there are no inputs.
        """
        if inputs is None:
            inputs = self.example_inputs(model)
        settings: Mapping[Key, ModuleSettings] = load_trees().model_settings(model, inputs)
        return settings


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


def _is_nnx(value: Any) -> bool:
    return any(
        base.__module__.startswith("flax.nnx.") and base.__name__ in _LIVE for base in type(value).__mro__
    )


def _is_linen(value: Any) -> bool:
    return any(
        base.__module__.startswith("flax.linen.") and base.__name__ == "Module"
        for base in type(value).__mro__
    )


def _can_run(value: Any) -> bool:
    if isinstance(value, type):
        return False
    if isinstance(value, Template) or _is_linen(value) or _is_transformers(value):
        return True
    if isinstance(value, tuple) and len(value) == 2 and not hasattr(value, "_fields"):
        first, second = value
        holds = isinstance(second, Mapping | list | tuple) or _is_nnx(second) or _is_struct(second)
        if _is_linen(first) or type(first).__name__ == "GraphDef":
            return holds
        return callable(first) and holds and _holds_arrays(second)
    return _is_nnx(value) and callable(value)


def _is_transformers(value: Any) -> bool:
    """Return whether an object is a ``FlaxPreTrainedModel`` or made like one."""
    if not callable(value) or isinstance(value, type):
        return False
    names = {base.__name__ for base in type(value).__mro__}
    return "FlaxPreTrainedModel" in names and _is_linen(value.module)


def _holds_arrays(tree: Any) -> bool:
    try:
        kinds = [_leaf_kind(leaf) for leaf in _leaves(tree, 0)]
    except UsageError:
        return False
    return None not in kinds and 1 in kinds


def _is_struct(value: Any) -> bool:
    return getattr(type(value), "_flax_dataclass", False) is True


def _is_optax(value: Any) -> bool:
    if not isinstance(value, tuple):
        return False
    return any(type(part).__module__.partition(".")[0] == "optax" for part in (value, *value))


def _is_tree(tree: Mapping[Any, Any]) -> bool:
    nested = any(isinstance(child, Mapping) for child in tree.values())
    if not nested and any(isinstance(name, str) and "." in name for name in tree):
        return False
    arrays = 0
    try:
        for leaf in _leaves(tree, 0):
            kind = _leaf_kind(leaf)
            if kind is None:
                return False
            arrays += kind
    except UsageError:
        return False
    return arrays > 0


def _leaves(node: Any, depth: int) -> Iterator[Any]:
    if depth > 256:
        raise UsageError("the tree is deeper than 256 levels, so it is not a parameter tree.")
    if isinstance(node, Mapping):
        if depth == 0 and any(isinstance(name, tuple) for name in node):
            raise UsageError("the mapping has tuples as names, so it is flat and not a tree.")
        for child in node.values():
            yield from _leaves(child, depth + 1)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _leaves(child, depth + 1)
    else:
        yield node


def _leaf_kind(leaf: Any) -> int | None:
    """Return 1 for an array, 0 for what a tree may hold in addition to arrays, None for anything else."""
    if isinstance(leaf, np.ndarray | np.generic):
        return 1
    if leaf is None or isinstance(leaf, bool | int | float | complex):
        return 0
    origins = {base.__module__.partition(".")[0] for base in type(leaf).__mro__}
    return 1 if origins & {"jax", "jaxlib", "flax"} else None
