"""How one case of the zoo is built, filled, converted and compared."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from support.errors import OutputsDiffer
from zoo.case import Case

import bridge_flax
import bridge_torch
from ckptbridge_transformers import flax_template
from ckptbridge_transformers.families import rules_for

LIBRARY = Path(transformers.__file__).parent / "models"

COMPUTED = ("distilbert", "marian", "pegasus", "roformer")
"""Families whose Flax classes compute the tables that torch keeps untrained; other values would not do."""


@functools.cache
def _homes() -> dict[str, str]:
    """Class name -> module of the library that defines it, exported or not."""
    found = {}
    for path in sorted(LIBRARY.glob("*/modeling_*.py")):
        if not path.name.startswith("modeling_tf_"):
            for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE):
                found.setdefault(name, f"transformers.models.{path.parent.name}.{path.stem}")
    return found


def find_class(name: str) -> Any:
    """Return a class of the library, exported at top level or not."""
    return getattr(importlib.import_module(_homes()[name]), name)


def flax_model_classes() -> set[str]:
    """Every Flax model class that the library defines: those that its own code can give weights to."""
    found = set()
    for path in LIBRARY.glob("*/modeling_flax_*.py"):
        module = importlib.import_module(f"transformers.models.{path.parent.name}.{path.stem}")
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__ and is_model(value):
                found.add(name)
    return found


def is_model(value: type) -> bool:
    abstract = value.__name__.endswith("PreTrainedModel")
    return issubclass(value, transformers.FlaxPreTrainedModel) and not abstract


def build_torch(case: Case, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.nn.Module:
    """Return the torch model with every parameter and statistic randomised."""
    torch.manual_seed(seed)
    model = find_class(case.torch)(outspoken(case.config()), **case.torch_kwargs).eval()
    randomise(model, frozen=case.family in COMPUTED, seed=seed)
    return model.to(dtype)


def outspoken(config: Any) -> Any:
    """Let the config's models, and those inside, return hidden states and attentions."""
    config._attn_implementation = "eager"
    config.output_hidden_states = config.output_attentions = True
    for part in vars(config).values():
        if isinstance(part, transformers.PretrainedConfig):
            outspoken(part)
    return config


def randomise(model: torch.nn.Module, *, frozen: bool = False, seed: int = 0) -> None:
    """Give everything in the state dict values of its own, of a size that keeps outputs near one.

    Args:
        model: The model.
        frozen: Whether to leave parameters that are not trained as they are.
        seed: Of the values.
    """
    untrained = {name for name, value in model.named_parameters() if frozen and not value.requires_grad}
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict(keep_vars=True).items():
            if name in untrained:
                continue
            tensor.copy_(torch.from_numpy(np.asarray(_random(rng, name, tensor))))


def _random(rng: np.random.Generator, name: str, tensor: torch.Tensor) -> np.ndarray:
    shape, leaf = tuple(tensor.shape), name.rpartition(".")[2]
    if not tensor.is_floating_point():
        return rng.integers(1, 1000, shape) if leaf == "num_batches_tracked" else tensor.numpy()
    if leaf in ("running_var", "original0", "weight_g"):
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) > 1:
        return rng.normal(size=shape) * min(0.5, 0.7 / np.sqrt(np.prod(shape[1:])))
    centre = 0.0 if leaf in ("bias", "running_mean") else 1.0
    return centre + 0.2 * rng.normal(size=shape)


def build_flax(case: Case) -> Any:
    """Return the Flax model, without weights where its class can be."""
    initialised = "EncoderDecoder" in case.flax or "DualEncoder" in case.flax
    return find_class(case.flax)(case.config(), _do_init=initialised, **case.flax_kwargs)


@contextlib.contextmanager
def old_clip() -> Iterator[None]:
    """Give `jax.numpy.clip` its old argument names, which T5 and its kin still use."""
    clip = jnp.clip

    def named_as_before(
        arr: Any, min: Any = None, max: Any = None, *, a_min: Any = None, a_max: Any = None
    ) -> Any:
        return clip(arr, min=a_min if min is None else min, max=a_max if max is None else max)

    jnp.clip = named_as_before
    try:
        yield
    finally:
        jnp.clip = clip


def to_flax(source: torch.nn.Module, model: Any) -> Any:
    """Convert a torch model into the parameters of a Flax model."""
    rules = rules_for(source.config, type(model).__name__)
    neutral = bridge_torch.to_neutral(source, rules=rules)
    return bridge_flax.from_neutral(neutral, like=flax_template(model), rules=rules)


def to_torch(params: Any, model: Any, like: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Convert the parameters of a Flax model into the state dict of a torch model."""
    rules = rules_for(like.config, type(like).__name__)
    neutral = bridge_flax.to_neutral(params, module=flax_template(model), rules=rules)
    return bridge_torch.from_neutral(neutral, like=like, rules=rules)


def run_torch(case: Case, model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return every output of the torch model by name."""
    inputs = {name: torch.from_numpy(np.asarray(value)) for name, value in case.inputs().items()}
    with torch.no_grad():
        return dict(flatten(model(**inputs, **_wishes(model.forward))))


def run_flax(case: Case, model: Any, params: Any) -> dict[str, np.ndarray]:
    """Return every output of the Flax model by name."""
    inputs = case.inputs()
    if case.flax_inputs is not None:
        inputs = case.flax_inputs(inputs)
    narrow = {name: _narrow(np.asarray(value)) for name, value in inputs.items()}
    return dict(flatten(model(**narrow, params=params, **_wishes(model.__call__))))


def _narrow(value: np.ndarray) -> jax.Array:
    return jnp.asarray(value.astype(np.int32) if value.dtype == np.int64 else value)


def _wishes(call: Any) -> dict[str, bool]:
    wishes = {
        "output_hidden_states": True,
        "output_attentions": True,
        "return_dict": True,
        "use_cache": False,
    }
    return {name: value for name, value in wishes.items() if name in inspect.signature(call).parameters}


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of nested outputs by name, in order."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from flatten(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from flatten(part, f"{path}.{number}")
    elif isinstance(value, torch.Tensor | jax.Array | np.ndarray):
        yield path, np.asarray(value)


def assert_same_outputs(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float):
    """Compare every output that both sides name; the main one must be among them."""
    main = next(iter(wanted))
    assert main in found, f"torch's main output is {main}; Flax gives {list(found)}"
    wrong = {}
    for name in wanted.keys() & found.keys():
        assert found[name].shape == wanted[name].shape, name
        gap = float(np.abs(found[name].astype(np.float64) - wanted[name]).max(initial=0))
        if not gap <= tolerance:
            wrong[name] = gap
    if wrong:
        raise OutputsDiffer(wrong)


def made(name: str, config: Any) -> bool:
    """Tell whether a rule fills a leaf of the Flax tree with a constant."""
    key = tuple(name.split("."))
    constants = (rule for rule in rules_for(config) if rule.action == "fill")
    return any(pattern.match(key) is not None for rule in constants for pattern in rule.targets)


def without_counters(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict as it comes back from a bare Flax tree: that has no place for counts of batches."""
    return {
        name: torch.zeros_like(value) if name.endswith(".num_batches_tracked") else value
        for name, value in state.items()
    }


def assert_same_bits(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Compare two state dicts, bit for bit."""
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        one, other = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor))
        assert torch.equal(one, other), name
