"""Settings of modules, under the names that frameworks share; what cannot be read is said."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from bridge_core.plugins import SETTING_NAMES
from bridge_torch import TorchFramework

FLOAT = {"dtype": "float32"}
CONV = {"window": (3, 3), "stride": (1, 1), "dilation": (1, 1), "groups": 1, "bias": True, **FLOAT}


def settings(model):
    return TorchFramework().model_settings(model)


def values(module):
    result = settings(module)[()]
    assert result.unread == ()
    assert {*result.values} <= SETTING_NAMES
    return dict(result.values)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(2, 3), {"bias": True, **FLOAT}),
        (nn.Linear(2, 3, bias=False, dtype=torch.bfloat16), {"bias": False, "dtype": "bfloat16"}),
        (nn.Conv2d(2, 2, 3, padding=1), {**CONV, "padding": ((1, 1), (1, 1))}),
        (
            nn.Conv2d(2, 2, (3, 4), padding="same", dilation=(1, 3)),
            {**CONV, "window": (3, 4), "dilation": (1, 3), "padding": ((1, 1), (4, 5))},
        ),
        (nn.Conv2d(2, 2, 3, padding="valid", groups=2), {**CONV, "padding": ((0, 0), (0, 0)), "groups": 2}),
        (
            nn.Conv1d(2, 2, 3, 2, 1, padding_mode="circular"),
            {**CONV, "window": (3,), "stride": (2,), "dilation": (1,), "padding": ((1, 1),)}
            | {"padding_mode": "circular"},
        ),
        (
            nn.ConvTranspose2d(2, 2, 3, (2, 3), padding=(1, 2), output_padding=(0, 1)),
            {**CONV, "stride": (2, 3), "padding": ((1, 1), (2, 1))},
        ),
        (nn.LazyConv2d(2, 3), {**CONV, "padding": ((0, 0), (0, 0))}),
        (
            nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
            {
                "window": (3, 3),
                "stride": (2, 2),
                "padding": ((1, 1), (1, 1)),
                "dilation": (1, 1),
                "ceil_mode": True,
            },
        ),
        (
            nn.AvgPool1d(3, count_include_pad=False),
            {
                "window": (3,),
                "stride": (3,),
                "padding": ((0, 0),),
                "ceil_mode": False,
                "count_include_pad": False,
            },
        ),
        (nn.LPPool2d(2, (2, 3)), {"window": (2, 3), "stride": (2, 3), "ceil_mode": False}),
        (nn.AdaptiveAvgPool2d(1), {"output_size": (1, 1)}),
        (nn.AdaptiveMaxPool2d((2, None)), {"output_size": (2, None)}),
        (nn.ReflectionPad2d((1, 2, 3, 4)), {"padding": ((3, 4), (1, 2)), "padding_mode": "reflect"}),
        (nn.ZeroPad2d(1), {"padding": ((1, 1), (1, 1))}),
        (nn.LayerNorm(4, 1e-6), {"eps": 1e-6, "bias": True, **FLOAT}),
        (nn.LayerNorm(4, bias=False), {"eps": 1e-5, "bias": False, **FLOAT}),
        (nn.GroupNorm(2, 4), {"eps": 1e-5, "groups": 2, "bias": True, **FLOAT}),
        (nn.RMSNorm(4, 1e-6), {"eps": 1e-6, **FLOAT}),
        (nn.RMSNorm(4), {"eps": torch.finfo(torch.float32).eps, **FLOAT}),
        (nn.BatchNorm2d(4), {"eps": 1e-5, "momentum": 0.1, "bias": True, "training": True, **FLOAT}),
        (
            nn.BatchNorm2d(4, momentum=None).eval(),
            {"eps": 1e-5, "momentum": None, "bias": True, "training": False, **FLOAT},
        ),
        (
            nn.BatchNorm1d(4, affine=False, track_running_stats=False).eval(),
            {"eps": 1e-5, "bias": False, "training": True},
        ),
        (nn.InstanceNorm2d(4).eval(), {"eps": 1e-5, "bias": False, "training": True}),
        (nn.Dropout(0.25), {"dropout": 0.25, "training": True}),
        (nn.AlphaDropout(0.25).eval(), {"dropout": 0.25, "training": False}),
        (nn.Embedding(4, 2), FLOAT),
        (nn.Embedding(4, 2, padding_idx=-1), {"padding_idx": 3, **FLOAT}),
        (
            nn.LSTM(2, 3, 2, dropout=0.1, bidirectional=True),
            {"layers": 2, "bidirectional": True, "bias": True, "dropout": 0.1, "training": True, **FLOAT},
        ),
        (
            nn.RNN(2, 3, nonlinearity="relu", bias=False),
            {"layers": 1, "bidirectional": False, "bias": False, "activation": "relu", **FLOAT},
        ),
        (nn.RNNCell(2, 3), {"bias": True, "activation": "tanh", **FLOAT}),
        (
            nn.MultiheadAttention(8, 2, 0.1).eval(),
            {"heads": 2, "kv_heads": 2, "head_dim": 4, "scale": 0.5, "bias": True, "dropout": 0.1}
            | {"training": False, **FLOAT},
        ),
        (
            nn.TransformerEncoderLayer(8, 2, 4, activation="gelu", norm_first=True),
            {"norm_first": True, "activation": "gelu"},
        ),
        (nn.TransformerDecoderLayer(8, 2, 4), {"norm_first": False, "activation": "relu"}),
        (
            nn.Upsample((4, 5), mode="bilinear", align_corners=True),
            {"resize": "linear", "align_corners": True, "output_size": (4, 5)},
        ),
        (nn.Upsample(scale_factor=2), {"resize": "nearest"}),
        (nn.Flatten(), {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_of_torch_are_read_exactly(module, expected):
    assert values(module) == expected


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu_tanh"),
        (nn.LeakyReLU(), "leaky_relu(0.01)"),
        (nn.ELU(0.5), "elu(0.5)"),
        (nn.Softplus(), "softplus"),
        (nn.Softplus(2), "softplus(2)"),
        (nn.Hardtanh(), "hard_tanh"),
        (nn.ReLU6(), "relu6"),
        (nn.Softmax(-1), "softmax(-1)"),
        (nn.SiLU(), "silu"),
        (nn.PReLU(), "prelu"),
        (functional.relu, "relu"),
        (torch.tanh, "tanh"),
        (functional.gelu, "gelu"),
        (functools.partial(functional.gelu, approximate="tanh"), "gelu_tanh"),
        (functools.partial(functional.leaky_relu, negative_slope=0.2), "leaky_relu(0.2)"),
        (functools.partial(nn.GELU, approximate="tanh"), "gelu_tanh"),
        (nn.SiLU, "silu"),
        ("gelu_new", "gelu_tanh"),
        ("swish", "silu"),
        ("relu2", "relu_squared"),
        (lambda x: x * x, None),
        ("mystery", None),
        (nn.Linear(2, 2), None),
        (functools.partial(functional.gelu, torch.ones(2)), None),
        (torch.ones, None),
    ],
)
def test_activations_have_one_name(activation, name):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.act_fn = activation

    read = settings(Block())[()]
    assert read.values.get("activation") == name
    assert read.unread == (() if name else ("activation",))
    if isinstance(activation, nn.Module) and name:
        assert values(activation)["activation"] == name


class LeakyByAnotherName(nn.LeakyReLU):
    pass


class NotReallyRelu(nn.ReLU):
    def forward(self, x):
        return x.square()


def test_a_derived_activation_is_known_only_if_it_computes_the_same():
    assert values(LeakyByAnotherName())["activation"] == "leaky_relu(0.01)"
    assert "activation" not in settings(NotReallyRelu())[()].values


# Modules that are not torch's


class Attributes(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class MyRMSNorm(Attributes):
    def __init__(self, **attributes):
        super().__init__(**attributes)
        self.weight = nn.Parameter(torch.ones(4))


class SelfAttention(Attributes):
    @property
    def head_dim(self):
        raise AssertionError("settings run no code of the module")


class RotaryEmbedding(Attributes):
    pass


class FeedForward(Attributes):
    pass


class DropPath(Attributes):
    pass


class Config:
    num_attention_heads = 4
    num_key_value_heads = 2
    head_dim = 8
    rope_theta = 1e6
    hidden_act = "gelu_pytorch_tanh"

    @property
    def n_heads(self):
        raise RuntimeError("not a name of this config")


@pytest.mark.parametrize(
    ("module", "expected", "unread"),
    [
        (MyRMSNorm(variance_epsilon=1e-6), {"eps": 1e-6, **FLOAT}, ()),
        (MyRMSNorm(layer_norm_eps=torch.tensor(0.5)), {"eps": 0.5, **FLOAT}, ()),
        (MyRMSNorm(), FLOAT, ("eps",)),
        (
            SelfAttention(num_heads=4, scaling=0.5, is_causal=True, attention_dropout=0.1),
            {"heads": 4, "scale": 0.5, "causal": True, "dropout": 0.1, "training": True},
            ("head_dim",),
        ),
        (
            SelfAttention(config=Config(), scale=nn.Parameter(torch.tensor(2.0))),
            {"heads": 4, "kv_heads": 2, "head_dim": 8, **FLOAT},
            ("scale",),
        ),
        (SelfAttention(), {}, ("heads", "head_dim", "scale")),
        (RotaryEmbedding(config=Config()), {"rope_theta": 1e6}, ()),
        (RotaryEmbedding(base=500), {"rope_theta": 500.0}, ()),
        (RotaryEmbedding(), {}, ("rope_theta",)),
        (FeedForward(config={"hidden_act": "gelu_pytorch_tanh"}), {"activation": "gelu_tanh"}, ()),
        (FeedForward(activation=torch.sin), {}, ("activation",)),
        (FeedForward(), {}, ()),
        (DropPath(drop_prob=0.1), {"dropout": 0.1, "training": True}, ()),
        (Attributes(norm_first=True, eps=3, num_heads=2), {"norm_first": True}, ()),
    ],
)
def test_other_modules_are_read_by_usual_names(module, expected, unread):
    read = settings(module)[()]
    assert dict(read.values) == expected
    assert read.unread == unread


def test_a_module_around_an_attention_or_norm_is_not_one():
    model = nn.ModuleDict({"pre": nn.Sequential(), "layer": SelfAttention(num_heads=2, scale=1, d_head=3)})
    around = SelfAttention(num_heads=7, inner=model, norm=nn.LayerNorm(4))
    assert settings(around)[()].values == {}
    assert settings(around)["inner", "layer"].values == {"heads": 2, "head_dim": 3, "scale": 1.0}


# Models


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_weights_that_are_shared_are_named(device):
    with torch.device(device):
        model = nn.ModuleDict({"wte": nn.Embedding(5, 4), "head": nn.Linear(4, 5), "a": nn.Linear(2, 2)})
    model["head"].weight = model["wte"].weight
    model["b"] = model["a"]
    read = settings(model)
    assert read["head",].values["tied_to"] == "wte.weight"
    assert read["b",].values["tied_to"] == "a.weight"
    assert "tied_to" not in {**read["wte",].values, **read["a",].values}


def test_types_are_those_of_the_layers():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), nn.LazyLinear(3))
    read = settings(model)
    assert [*read] == [(), ("0",), ("1",)]
    assert {s.type for path, s in read.items() if path} == {"torch.nn.modules.linear.Linear"}


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_scripted_layers_are_read_as_the_layers_they_were():
    model = torch.jit.script(nn.Sequential(nn.Conv1d(2, 2, 3, padding=1), nn.LayerNorm(4), nn.Dropout(0.3)))
    read = settings(model)
    assert read["0",].values["padding"] == ((1, 1),)
    assert read["1",].values["eps"] == 1e-5
    assert read["2",].values["dropout"] == 0.3


def test_attributes_that_a_derived_layer_removed_are_unread():
    class Odd(nn.Dropout):
        pass

    layer = Odd()
    del layer.p
    assert settings(layer)[()].unread == ("dropout", "training")
