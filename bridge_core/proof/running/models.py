"""The two models of a proof: which adapter runs each, with which weights and inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from bridge_core.conversion import load_factory
from bridge_core.errors import BridgeError, UnsupportedFeature, UsageError
from bridge_core.plugins import (
    Framework,
    Inputs,
    ModelRun,
    ModuleSettings,
    Precision,
    ReadsSettings,
    Registry,
    RunsModels,
    cause_of,
    is_interrupt,
)
from bridge_core.state import FlatState, Key

__all__ = ["Side", "What", "live_model", "model_side", "module_path"]

What = Literal["source", "target"]

_ARGUMENTS = {"source": "source_model", "target": "model"}


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two models, with the adapter that runs it.

    Args:
        what: Which of the two.
        model: The live model; it is not changed.
        framework: Its adapter, which also is a `bridge_core.plugins.RunsModels`.
        inputs: What it is called with.
        weights: The state of its weights; set by `with_inputs`, and by `replace` for other values.
    """

    what: What
    model: Any
    framework: Any
    inputs: Inputs
    weights: FlatState

    @property
    def layout(self) -> str:
        """Name of the framework, and of its layout."""
        adapter: Framework = self.framework
        return adapter.name

    @property
    def channels(self) -> Literal["first", "last"] | None:
        """Where the framework's feature maps have their channels."""
        place: Literal["first", "last"] | None = getattr(self.framework, "channels", None)
        return place

    @property
    def type_name(self) -> str:
        """Name of the model's class; of a pair, that of its first part."""
        pair = isinstance(self.model, tuple) and self.model
        return type(self.model[0] if pair else self.model).__name__

    def with_inputs(self, inputs: Inputs) -> Side:
        """Return the side with inputs, and with the weights that the model has for them.

        Raises:
            UsageError: The model cannot be called with them.
        """
        with failures_of_model(self, "asked for its weights"):
            weights = self.framework.model_weights(self.model, inputs)
        if not isinstance(weights, FlatState):
            raise UsageError(f"the adapter of {self.layout} returned no weights of the {self.what} model.")
        return replace(self, inputs=inputs, weights=weights.replace(layout=self.layout))

    def run(
        self,
        weights: FlatState,
        *,
        trace: bool = False,
        precision: Precision = "native",
        seed: int = 0,
    ) -> ModelRun:
        """Call the model.

        Args:
            weights: In the framework's layout, with the keys of ``self.weights``.
            trace: Whether to record the calls of all modules.
            precision: How it computes.
            seed: For random numbers that the model draws.

        Raises:
            UsageError: The model cannot be called.
            UnsupportedFeature: The precision is not offered for this model.
        """
        with failures_of_model(self, "run"):
            run: ModelRun = self.framework.run_model(
                self.model, weights, self.inputs, trace=trace, precision=precision, seed=seed
            )
        return run

    def settings(self) -> dict[Key, ModuleSettings] | None:
        """Return the settings of the modules by path; None if the framework's adapter does not offer them."""
        if not isinstance(self.framework, ReadsSettings):
            return None
        with failures_of_model(self, "asked for its settings"):
            return dict(self.framework.model_settings(self.model, self.inputs))


@contextlib.contextmanager
def failures_of_model(side: Side, doing: str) -> Iterator[None]:
    """Turn what a user's model raises, or its end of the program, into an error that names the model."""
    try:
        yield
    except BridgeError as err:
        if isinstance(err, UsageError | UnsupportedFeature) and f"the {side.what}" not in err.message:
            err.message = f"the {side.what}: {err.message}"
        raise
    except BaseException as err:
        if is_interrupt(err):
            raise
        raise UsageError(
            f"the {side.what} model, of the class {type(side.model).__name__}, failed when it was {doing}: "
            f"{cause_of(err).rstrip('.')}.",
            hint="Correct the model, or the inputs that it is called with.",
        ) from err


def live_model(value: Any, what: What) -> Any:
    """Return a model, made by calling ``"PKG.MOD:FUNCTION"`` if a text names it.

    Raises:
        UsageError: The function cannot be imported, fails, or returns None.
    """
    argument = _ARGUMENTS[what]
    if value is None:
        raise UsageError(
            f"{argument}= (--{argument.replace('_', '-')}) is not given.",
            hint=f'Pass a live model, or {argument}="mynet:make_model" '
            f"(--{argument.replace('_', '-')} mynet:make_model).",
        )
    return load_factory(value, argument) if isinstance(value, str) else value


def model_side(value: Any, what: What, registry: Registry) -> Side:
    """Return a side without inputs yet.

    Args:
        value: A live model, or ``"PKG.MOD:FUNCTION"``.
        what: Which of the two models.
        registry: Where adapters are found.

    Raises:
        UsageError: No framework runs what the value is.
        UnsupportedFeature: Its framework's adapter cannot run models.
    """
    model = live_model(value, what)
    runners = [one for one in registry.frameworks.values() if isinstance(one, RunsModels)]
    for framework in runners:
        if registry.asks("frameworks", framework, "runs", model):
            return Side(what, model, framework, Inputs(), FlatState({}))
    argument = _ARGUMENTS[what]
    subject = f"{argument}= (--{argument.replace('_', '-')})"
    owner = registry.framework_of(model)
    if owner is not None and not isinstance(owner, RunsModels):
        raise UnsupportedFeature(
            f"running models is not offered by {owner.name}, whose object is given as {subject}.",
            hint="Compare the outputs of the two models yourself.",
        )
    names = " or ".join(one.name for one in runners) or "a framework that runs models"
    raise UsageError(
        f"expected a model of {names} as {subject}, got "
        f"{f'the class {model.__name__}' if isinstance(model, type) else f'a {type(model).__name__}'}.",
        hint=f"Let the function return a model that can be called, e.g. {_examples(runners)}.",
    )


def _examples(runners: list[Any]) -> str:
    known = {
        "torch": "a torch.nn.Module",
        "flax": "a flax.linen.Module, an nnx.Module, or a pair of a Linen module and its variables",
    }
    return "; ".join(known[one.name] for one in runners if one.name in known) or "a live model"


def module_path(key: Key, state: FlatState, framework: Any) -> Key:
    """Return a key without the collection that it begins with: the path of its module, then the leaf's name.

    Args:
        key: A key of the state.
        state: A state in the framework's layout.
        framework: The adapter.
    """
    collections = framework.collections
    if not collections or len(key) < 2:
        return key
    form = state.metadata.tree_form.get(framework.name)
    starts = form == "variables" if form is not None else all(other[0] in collections for other in state)
    return key[1:] if starts else key
