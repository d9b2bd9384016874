"""Models without weights: the names and shapes that their classes would create, and every layer's type."""

from __future__ import annotations

import contextlib
import functools
import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import bridge_flax
from bridge_core import UsageError
from ckptbridge_transformers.classes import quiet

__all__ = ["abstract_flax", "flax_template", "meta_model"]

_NEW_NAMES = {"a_min": "min", "a_max": "max"}
_TEMPLATES: weakref.WeakKeyDictionary[Any, bridge_flax.Template] = weakref.WeakKeyDictionary()
"""The templates of models that `abstract_flax` made, from the same trace."""


def meta_model(torch_class: type[Any], config: Any) -> Any:
    """Return a torch model on the meta device.

    It has names, shapes, ties and layer types, and no values.

    Raises:
        UsageError: The class cannot be built from this config.
    """
    import torch

    with quiet(), torch.device("meta"):
        try:
            return torch_class(config)
        except Exception as err:  # each class checks its config in its own way
            raise _not_built(torch_class, err) from err


def abstract_flax(flax_class: type[Any], config: Any, **options: Any) -> Any:
    """Return a Flax model without weights, as ``_do_init=False`` makes one, of any class.

    Args:
        flax_class: A subclass of `FlaxPreTrainedModel`.
        config: Its config.
        **options: Other arguments of its constructor, e.g. ``input_shape``.

    Raises:
        UsageError: The class cannot be built from this config.
    """
    import jax

    models: list[Any] = []

    def build() -> Any:
        # The classes of two models in one refuse `_do_init=False`; traced, the weights are never computed.
        models.append(flax_class(config, **options))
        return models[-1].params

    with quiet(), clip_with_old_names():
        try:
            template = bridge_flax.template(build)
        except Exception as err:  # each class checks its config in its own way
            raise _not_built(flax_class, err) from err
    model = models[-1]
    model._is_initialized = False
    del model._params
    model.key = jax.random.PRNGKey(options.get("seed", 0))
    _TEMPLATES[model] = template
    return model


def flax_template(model: Any) -> bridge_flax.Template:
    """Return a Flax model's names, shapes and layer types; nothing is initialised.

    Args:
        model: A `FlaxPreTrainedModel`, with weights or without.

    ``flax_template(model)`` serves as ``like=`` and as ``module=`` of the conversions.
    """
    known = _TEMPLATES.get(model)
    if known is not None:
        return known
    init = functools.partial(model.init_weights, input_shape=model.input_shape)
    with quiet(), clip_with_old_names():
        return bridge_flax.template(init, model.key)


def _not_built(model_class: type[Any], err: Exception) -> UsageError:
    text = str(err).strip().split("\n")[0].rstrip(".")
    return UsageError(
        f"the class {model_class.__name__} cannot be built from the config: {type(err).__name__}: {text}.",
        hint='Correct the config, or pass model="none" (--model none) to do without the model\'s class.',
    )


@contextlib.contextmanager
def clip_with_old_names() -> Iterator[None]:
    """Let `jax.numpy.clip` take ``a_min`` and ``a_max``, which T5 in transformers 4 still passes.

    JAX has removed these names of ``min`` and ``max``; without them the model cannot be traced.
    """
    import jax.numpy as jnp

    original = jnp.clip
    if "a_max" in inspect.signature(original).parameters:
        yield
        return

    @functools.wraps(original)
    def clip(x: Any, *limits: Any, **named: Any) -> Any:
        renamed = {_NEW_NAMES.get(name, name): value for name, value in named.items()}
        return original(x, *limits, **renamed)

    jnp.clip = clip  # type: ignore[assignment]
    try:
        yield
    finally:
        jnp.clip = original
