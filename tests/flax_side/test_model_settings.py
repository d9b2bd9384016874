"""Settings of Flax's modules, under the names that all frameworks share."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.errors import refused

from bridge_core import UsageError
from bridge_core.plugins import SETTING_NAMES, Inputs, ReadsSettings
from bridge_flax import FlaxFramework

FLAX = FlaxFramework()
RNGS = nnx.Rngs(0)
KEY = jax.random.key(0)


def of_linen(module: Any, *shape: int, **named: Any) -> dict[str, Any]:
    settings = FLAX.model_settings(module, Inputs((np.zeros(shape, np.float32),), named))
    return {**settings[()].values, "unread": settings[()].unread}


def of_nnx(module: Any) -> dict[str, Any]:
    settings = FLAX.model_settings(module)
    return {**settings[()].values, "unread": settings[()].unread}


def places(x: int, settings: dict[str, Any], *, transposed: bool) -> int:
    """Return the number of places of an output along its only axis, by the settings alone."""
    (window,), (stride,) = settings["window"], settings["stride"]
    ((low, high),), (dilation,) = settings["padding"], settings["dilation"]
    if transposed:
        return (x - 1) * stride + dilation * (window - 1) + 1 - low - high
    return (x + low + high - dilation * (window - 1) - 1) // stride + 1


def test_the_adapter_reads_settings():
    assert isinstance(FLAX, ReadsSettings)


@pytest.mark.parametrize("make", ["linen", pytest.param("nnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 2},
        {"padding": ((1, 3),), "strides": 2},
        {"padding": "VALID", "strides": 3},
        {"padding": "SAME"},
        {"padding": "SAME", "kernel_dilation": 3},
        {"padding": "same"},
        {"padding": "CAUSAL", "strides": 2},
        {"padding": "CIRCULAR", "kernel_dilation": 2},
        {"padding": "REFLECT"},
        {"padding": ((2, 1),), "input_dilation": 3},
        {"padding": "SAME", "feature_group_count": 2, "use_bias": False},
    ],
)
def test_the_padding_of_a_convolution_gives_the_size_of_its_output(make, options):
    for window in (3, 4):
        if make == "linen":
            module = nn.Conv(4, (window,), **options)
            settings = of_linen(module, 1, 11, 4)
            shape = jax.eval_shape(lambda m=module: m.init_with_output(KEY, jnp.zeros((1, 11, 4)))[0])
        else:
            module = functools.partial(nnx.Conv, 4, 4, (window,), **options)
            settings = of_nnx(nnx.eval_shape(lambda m=module: m(rngs=nnx.Rngs(0))))
            shape = nnx.eval_shape(lambda m=module: m(rngs=nnx.Rngs(0))(jnp.zeros((1, 11, 4))))
        transposed = "input_dilation" in options
        assert places(11, settings, transposed=transposed) == shape.shape[1]
        assert settings["groups"] == options.get("feature_group_count", 1)
        assert settings["bias"] is options.get("use_bias", True)
        assert settings["unread"] == ()
        mode = {"CIRCULAR": "circular", "REFLECT": "reflect"}.get(
            options["padding"] if isinstance(options["padding"], str) else ""
        )
        assert settings.get("padding_mode") == mode


def test_explicit_padding_of_even_windows_is_lower_at_the_low_end():
    assert of_linen(nn.Conv(1, (4, 3), padding="SAME"), 1, 8, 8, 1)["padding"] == ((1, 2), (1, 1))
    assert of_linen(nn.Conv(1, (4, 3), padding=((1, 2), (3, 0))), 1, 8, 8, 1)["padding"] == ((1, 2), (3, 0))


def test_same_stays_where_it_depends_on_the_size():
    settings = of_linen(nn.Conv(1, (3, 3), strides=(2, 1)), 1, 8, 8, 1)
    assert (settings["padding"], settings["stride"]) == ("SAME", (2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((2, 0),)])
@pytest.mark.parametrize(
    ("window", "stride", "dilation"), [(3, 2, 1), (4, 2, 1), (2, 3, 1), (3, 2, 2), (5, 1, 1)]
)
def test_the_padding_of_a_transposed_convolution_is_what_is_cut(padding, window, stride, dilation):
    options = {"strides": (stride,), "kernel_dilation": (dilation,), "padding": padding}
    linen = nn.ConvTranspose(2, (window,), **options)
    on_nnx = nnx.eval_shape(lambda: nnx.ConvTranspose(2, 2, (window,), **options, rngs=nnx.Rngs(0)))
    shape = jax.eval_shape(lambda: linen.init_with_output(KEY, jnp.zeros((1, 7, 2)))[0])
    for settings in (
        of_linen(linen, 1, 7, 2),
        of_nnx(on_nnx),
    ):
        assert places(7, settings, transposed=True) == shape.shape[1]
        assert settings["unread"] == ()


def test_a_transposed_convolution_with_periodic_ends_has_unread_padding():
    settings = of_linen(nn.ConvTranspose(2, (3,), padding="CIRCULAR"), 1, 7, 2)
    assert (settings["padding_mode"], settings["unread"]) == ("circular", ("padding",))


@pytest.mark.parametrize(
    ("linen", "on_nnx", "expected"),
    [
        (nn.LayerNorm(epsilon=1e-3), nnx.LayerNorm(4, epsilon=1e-3, rngs=RNGS), {"eps": 1e-3, "bias": True}),
        (
            nn.LayerNorm(use_bias=False),
            nnx.LayerNorm(4, use_bias=False, rngs=RNGS),
            {"eps": 1e-6, "bias": False},
        ),
        (nn.RMSNorm(epsilon=1e-5), nnx.RMSNorm(4, epsilon=1e-5, rngs=RNGS), {"eps": 1e-5}),
        (nn.GroupNorm(2), nnx.GroupNorm(4, 2, rngs=RNGS), {"eps": 1e-6, "bias": True, "groups": 2}),
        (nn.GroupNorm(None, group_size=1), nnx.GroupNorm(4, None, group_size=1, rngs=RNGS), {"groups": 4}),
        (nn.InstanceNorm(), nnx.InstanceNorm(4, rngs=RNGS), {"eps": 1e-6, "bias": True, "training": True}),
        (nn.Dense(3, use_bias=False), nnx.Linear(4, 3, use_bias=False, rngs=RNGS), {"bias": False}),
        (nn.DenseGeneral((2, 3)), nnx.LinearGeneral(4, (2, 3), rngs=RNGS), {"bias": True}),
        (
            nn.Einsum((4, 3), "ab,bc->ac", use_bias=False),
            nnx.Einsum("ab,bc->ac", (4, 3), rngs=RNGS),
            {"bias": False},
        ),
        (nn.PReLU(), nnx.PReLU(), {"activation": "prelu"}),
        (
            nn.BatchNorm(use_running_average=True, momentum=0.9),
            nnx.BatchNorm(4, use_running_average=True, momentum=0.9, rngs=RNGS),
            {"eps": 1e-5, "momentum": 0.1, "training": False, "bias": True},
        ),
        (
            nn.Dropout(0.25, deterministic=False),
            nnx.Dropout(0.25, deterministic=False, rngs=RNGS),
            {"dropout": 0.25, "training": True},
        ),
        (
            nn.MultiHeadDotProductAttention(2, qkv_features=8, dropout_rate=0.1, deterministic=True),
            nnx.MultiHeadAttention(2, 4, 8, dropout_rate=0.1, deterministic=True, decode=False, rngs=RNGS),
            {"heads": 2, "kv_heads": 2, "head_dim": 4, "scale": 0.5, "dropout": 0.1, "training": False},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_both_libraries_settings_are_the_same(linen, on_nnx, expected):
    for settings in (of_linen(linen, 2, 4), of_nnx(on_nnx)):
        assert {name: settings.get(name) for name in expected} == expected
        assert settings["unread"] == ()
        assert {*settings} <= {*SETTING_NAMES, "unread"}


def test_arguments_of_the_call_count_as_settings():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.BatchNorm()(x, use_running_average=not train)
            x = nn.MultiHeadDotProductAttention(2)(x, deterministic=not train)
            return nn.Dropout(0.5)(x, not train)

    for train in (False, True):
        settings = FLAX.model_settings(Net(), Inputs((np.zeros((2, 3, 4), np.float32), train)))
        assert settings["BatchNorm_0",].values["training"] is train
        assert settings["Dropout_0",].values["training"] is train
        assert settings["MultiHeadDotProductAttention_0",].values["training"] is train


def test_what_an_attention_cannot_tell_is_unread():
    module = nn.MultiHeadDotProductAttention(2, attention_fn=lambda *args, **kwargs: args[2])
    assert of_linen(module, 2, 4, 4)["unread"] == ("scale",)
    module = nnx.BatchNorm(4, use_running_average=None, rngs=RNGS)
    assert of_nnx(module)["unread"] == ("training",)


def test_dtypes_are_those_of_the_computation():
    assert of_linen(nn.Dense(2, dtype=jnp.bfloat16), 2, 4)["dtype"] == "bfloat16"
    assert of_linen(nn.Dense(2), 2, 4)["dtype"] == "float32"
    assert of_nnx(nnx.Linear(2, 2, param_dtype=jnp.float16, rngs=RNGS))["dtype"] == "float16"
    variables = {"params": {"kernel": np.zeros((4, 2), jnp.bfloat16), "bias": np.zeros(2, jnp.bfloat16)}}
    assert of_linen((nn.Dense(2), variables), 2, 4)["dtype"] == "bfloat16"
    assert "dtype" not in of_linen(nn.Dropout(0.5, deterministic=True), 2, 4)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (nn.gelu, "gelu_tanh"),
        (nnx.gelu, "gelu_tanh"),
        (functools.partial(nn.gelu, approximate=False), "gelu"),
        (functools.partial(jax.nn.gelu, approximate=True), "gelu_tanh"),
        (lambda x: jax.nn.gelu(x, approximate=False), "gelu"),
        (lambda x: x * jax.nn.sigmoid(1.702 * x), "quick_gelu"),
        (nn.swish, "silu"),
        (nn.relu, "relu"),
        (jnp.tanh, "tanh"),
        (nn.leaky_relu, "leaky_relu(0.01)"),
        (functools.partial(nn.leaky_relu, negative_slope=0.3), "leaky_relu(0.3)"),
        (nn.softmax, "softmax(-1)"),
        (lambda x: jnp.square(nn.relu(x)), "relu_squared"),
        ("gelu", "gelu"),
        ("gelu_new", "gelu_tanh"),
        (lambda x: x + 1, None),
    ],
)
def test_an_activation_that_a_module_holds_is_named(function, expected):
    class Mlp(nn.Module):
        act: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x)

    class OnNnx(nnx.Module):
        def __init__(self):
            self.act_fn = function

    for settings in (of_linen(Mlp(function), 2, 4), of_nnx(OnNnx())):
        assert settings.get("activation") == expected
        assert settings["unread"] == (() if expected else ("activation",))


def test_usual_names_of_modules_that_are_not_flax_own():
    class Attention(nnx.Module):
        def __init__(self):
            self.num_heads, self.num_kv_heads, self.head_dim, self.scaling = 4, 2, 8, 0.25
            self.is_causal = True

    class SelfAttention(nn.Module):
        config: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(4)(x)

    class Rotary(nnx.Module):
        def __init__(self):
            self.config = {"rope_theta": 1e6}

    class MyNorm(nn.Module):
        variance_epsilon: float = 1e-5

        @nn.compact
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, (4,))

    class OtherNorm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x * self.param("scale", nn.initializers.ones, (4,))

    values = {"heads": 4, "kv_heads": 2, "head_dim": 8, "scale": 0.25, "causal": True, "unread": ()}
    assert of_nnx(Attention()) == values
    config = SimpleNamespace(num_attention_heads=2, num_key_value_heads=1)
    settings = of_linen(SelfAttention(config), 2, 4)
    assert (settings["heads"], settings["kv_heads"]) == (2, 1)
    assert settings["unread"] == ("head_dim", "scale")
    assert of_nnx(Rotary())["rope_theta"] == 1e6
    assert of_linen(MyNorm(), 2, 4)["eps"] == 1e-5
    assert of_linen(OtherNorm(), 2, 4)["unread"] == ("eps",)


def test_a_module_around_an_attention_is_none():
    class Attention(nnx.Module):
        def __init__(self):
            self.num_heads, self.head_dim, self.scale = 4, 8, 0.25

    class AttentionBlock(nnx.Module):
        def __init__(self):
            self.inner = Attention()

    settings = FLAX.model_settings(AttentionBlock())
    assert (settings[()].values, settings[()].unread) == ({}, ())
    assert settings["inner",].values["heads"] == 4


def test_a_shared_variable_is_a_tie():
    class Tied(nnx.Module):
        def __init__(self):
            self.embed = nnx.Embed(4, 4, rngs=RNGS)
            self.head = nnx.Linear(4, 4, use_bias=False, rngs=RNGS)
            self.head.kernel = self.embed.embedding

    settings = FLAX.model_settings(Tied())
    assert settings["head",].values["tied_to"] == "embed.embedding"
    assert "tied_to" not in settings["embed",].values


def test_linen_modules_need_inputs():
    with refused(UsageError, "Dense", hint="--inputs"):
        FLAX.model_settings(nn.Dense(2))
    module = nn.Dense(2)
    with refused(UsageError, "Dense", hint="--inputs"):
        FLAX.model_settings(module.bind(module.init(KEY, jnp.zeros((1, 2)))))


def test_a_function_has_no_settings():
    assert FLAX.model_settings((lambda v, x: x, {"w": np.zeros(2)}), Inputs()) == {}
