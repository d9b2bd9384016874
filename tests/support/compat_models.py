"""Tiny models of transformers in both frameworks, and one of our own with layers that it got wrong."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

__all__ = [
    "alarms",
    "assert_same_tree",
    "FlaxOddModel",
    "FAMILIES",
    "flat",
    "odd_gap",
    "odd_pair",
    "pair",
    "randomise",
    "same_state",
    "warnings_of",
    "zeroed",
]

TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
SEQ2SEQ = {
    "vocab_size": 40,
    "d_model": 16,
    "max_position_embeddings": 32,
    **{f"{half}_layers": 1 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 24 for half in ("encoder", "decoder")},
}
IMAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "num_labels": 3}

FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    ),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", {**IMAGES, "layer_type": "bottleneck"}),
    "resnet-basic": ("ResNetForImageClassification", "ResNetConfig", {**IMAGES, "layer_type": "basic"}),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**TEXT, "tie_word_embeddings": True}),
}


def pair(family: str, *, torch_class: str = "", **options: Any) -> tuple[Any, type[Any], Any]:
    """Return a torch model with random weights, the Flax class beside it, and the config."""
    name, config_name, settings = FAMILIES[family]
    name = torch_class or name
    config = getattr(transformers, config_name)(**{**settings, **options})
    model = getattr(transformers, name)(config).eval()
    return randomise(model), getattr(transformers, f"Flax{name}"), config


def randomise(model: Any, seed: int = 0) -> Any:
    """Give every floating-point tensor values of its own, none of them an initial one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                low = -0.25 if tensor.ndim > 1 else 0.5
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + low)
    return model


def zeroed(flax_class: type[Any], config: Any) -> Any:
    """Return a Flax model with zeros for weights: the original needs some, and random ones take seconds."""
    model = flax_class(config, _do_init=False)
    model._is_initialized = True
    model.params = jax.tree.map(lambda spec: np.zeros(spec.shape, spec.dtype), model.params_shape_tree)
    return model


def flat(tree: Any) -> dict[tuple[str, ...], Any]:
    """Return the leaves of a tree by key."""
    from flax.traverse_util import flatten_dict

    return flatten_dict(tree)


def assert_same_tree(found: Any, wanted: Any) -> None:
    """Compare two trees: names, dtypes and values, bit for bit."""
    one, other = flat(found), flat(wanted)
    assert set(one) == set(other)
    for key, leaf in other.items():
        assert one[key].dtype == leaf.dtype, key
        assert np.array_equal(np.asarray(one[key]), np.asarray(leaf)), key


def same_state(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Tell whether two state dicts hold the same values, dtypes included."""
    assert list(found) == list(wanted)
    return all(
        not found[name].is_meta and found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in wanted.items()
    )


@contextlib.contextmanager
def warnings_of(*modules: str) -> Iterator[list[str]]:
    """Collect what transformers' modules log as a warning or worse."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    names = modules or ("modeling_flax_utils", "modeling_flax_pytorch_utils", "modeling_utils")
    loggers = [logging.getLogger(f"transformers.{name}") for name in names]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield found
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        found[:] = [text for text in found if "deprecated" not in text]


def alarms(told: list[str]) -> list[str]:
    """Return what is not the good news that transformers logs as warnings, too."""
    return [text for text in told if not text.startswith(("All Flax model weights", "All the weights"))]


class OddConfig(transformers.PretrainedConfig):
    model_type = "odd"


class OddModel(transformers.PreTrainedModel):
    """Layers and names whose old conversion gave other numbers and no error."""

    config_class = OddConfig
    base_model_prefix = "model"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.volume = torch.nn.Conv3d(2, 3, 3)
        self.up = torch.nn.ConvTranspose2d(3, 3, 3)
        self.statistics = torch.nn.BatchNorm2d(3)
        self.gamma = torch.nn.Parameter(torch.ones(3))
        self.variance_floor = torch.nn.Parameter(torch.ones(3))
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.statistics(self.up(self.volume(x).mean(2)))
        return x * self.gamma[:, None, None] + self.variance_floor[:, None, None]


class _Odd(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(3, (3, 3, 3), padding="VALID", name="volume")(x).mean(1)
        x = nn.ConvTranspose(3, (3, 3), padding="VALID", name="up")(x)
        x = nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="statistics")(x)
        gamma = self.param("gamma", nn.initializers.ones, (3,))
        return x * gamma + self.param("variance_floor", nn.initializers.ones, (3,))


class FlaxOddModel(transformers.FlaxPreTrainedModel):
    config_class = OddConfig
    base_model_prefix = "model"

    def __init__(self, config: Any, seed: int = 0, dtype: Any = jnp.float32, _do_init: bool = True) -> None:
        super().__init__(config, _Odd(), (1, 5, 5, 5, 2), seed, dtype, _do_init)

    def init_weights(self, rng: Any, input_shape: Any, params: Any = None) -> Any:
        return self.module.init(rng, jnp.zeros(input_shape))

    def __call__(self, x: jax.Array, params: Any) -> jax.Array:
        return self.module.apply(params, x)


def odd_pair() -> tuple[Any, Any]:
    """Return the torch model with random weights, and the Flax model without any."""
    config = OddConfig()
    return randomise(OddModel(config).eval()), FlaxOddModel(config, _do_init=False)


def odd_gap(model: Any, flax_model: Any, params: Any) -> float:
    """Return the greatest difference between the two models' outputs."""
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 5, 5)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    found = np.asarray(flax_model(jnp.asarray(x.transpose(0, 2, 3, 4, 1)), params)).transpose(0, 3, 1, 2)
    return float(np.abs(found - wanted).max())
