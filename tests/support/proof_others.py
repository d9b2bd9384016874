"""Small models of many structures in torch and Flax, right unless asked to make the mistake of their own.

Each has one mistake, on the side that ``mistake`` names: ``"source"`` or ``"target"``.
"""

from typing import NamedTuple

import flax.linen as linen
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from bridge_core import Rule

__all__ = ["OTHERS", "Other", "models"]

nn = torch.nn


class Other(NamedTuple):
    """How a structure is made and reported.

    ``torch``, ``flax``: classes, called with whether to make the mistake; ``shape``: of the input, channels
    last; ``codes``: that the mistake may be reported with; ``rules``: for what the layers do not show.
    """

    torch: type
    flax: type
    shape: tuple
    codes: tuple
    rules: tuple = ()


OTHERS = {}


def other(name, shape, *codes, rules=()):
    """Register a pair of classes under a name: the decorated class has both inside."""

    def register(room):
        OTHERS[name] = Other(room.Torch, room.Flax, shape, codes, tuple(rules))
        return room

    return register


def models(name, mistake=None):
    """Return the torch model, the Flax model and the inputs of both.

    Args:
        name: A key of `OTHERS`.
        mistake: Side that makes the mistake; None for two right ones.
    """
    pair = OTHERS[name]
    torch.manual_seed(0)
    source, target = pair.torch(mistake == "source").eval(), pair.flax(wrong=mistake == "target")
    x = np.random.default_rng(7).standard_normal(pair.shape, dtype=np.float32)
    first = (
        np.ascontiguousarray(np.moveaxis(x, -1, 1))
        if getattr(pair.torch, "channels_first", x.ndim > 3)
        else x
    )
    return source, target, {"source": (first,), "target": (x,)}


class TorchModule(nn.Module):
    def __init__(self, wrong=False):
        super().__init__()
        self.wrong = wrong
        self.layers()


class FlaxModule(linen.Module):
    wrong: bool = False


def norm(**options):
    return linen.BatchNorm(use_running_average=True, epsilon=1e-5, **options)


def dense(source, target):
    """Return the rules of the weight of a linear layer, if it has other names."""
    return Rule.rearrange(f"{source}.weight", f"{target}.kernel", "o i -> i o")


SEQUENTIAL = [
    rule
    for place, n in enumerate((0, 2, 4, 6))
    for rule in (
        dense(f"net.{n}", f"Dense_{place}"),
        Rule.rearrange(f"net.{n}.bias", f"Dense_{place}.bias"),
    )
]
SEQUENTIAL += [
    Rule.rearrange(f"net.5.{one}", f"LayerNorm_0.{two}")
    for one, two in (("weight", "scale"), ("bias", "bias"))
]


@other("dense block", (2, 10, 9, 3), "concat_order")
class DenseBlock:
    """Each convolution sees all features before it."""

    class Torch(TorchModule):
        def layers(self):
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
            self.out = nn.Conv2d(12, 5, 1)

        def forward(self, x):
            x = self.stem(x)
            for layer in (self.one, self.two):
                y = layer(F.relu(x))
                x = torch.cat((y, x) if self.wrong else (x, y), 1)
            return self.out(x).mean((2, 3))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(4, (3, 3), padding=1, name="stem")(x)
            for name in ("one", "two"):
                y = linen.Conv(4, (3, 3), padding=1, name=name)(linen.relu(x))
                x = jnp.concatenate((y, x) if self.wrong else (x, y), -1)
            return linen.Conv(5, (1, 1), name="out")(x).mean((1, 2))


@other("squeeze and excite", (2, 8, 7, 3), "activation")
class Squeeze:
    """A gate for each channel, from the mean over space; the gate is a sigmoid or a hard one."""

    class Torch(TorchModule):
        def layers(self):
            self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
            self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = F.silu(self.bn(self.conv(x)))
            gate = self.up(F.silu(self.down(x.mean((2, 3), keepdim=True))))
            x = x * (F.hardsigmoid(gate) if self.wrong else torch.sigmoid(gate))
            return self.head(x.mean((2, 3)))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.silu(norm(name="bn")(linen.Conv(8, (3, 3), padding=1, use_bias=False, name="conv")(x)))
            gate = linen.Conv(4, (1, 1), name="down")(x.mean((1, 2), keepdims=True))
            gate = linen.Conv(8, (1, 1), name="up")(linen.silu(gate))
            x = x * (linen.hard_sigmoid(gate) if self.wrong else linen.sigmoid(gate))
            return linen.Dense(5, name="head")(x.mean((1, 2)))


@other("depthwise separable", (2, 10, 8, 3), "norm_groups")
class Separable:
    class Torch(TorchModule):
        def layers(self):
            self.stem = nn.Conv2d(3, 8, 3, 2, 1)
            self.depth, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 12, 1)
            self.gn, self.head = nn.GroupNorm(4 if self.wrong else 3, 12), nn.Linear(12, 5)

        def forward(self, x):
            x = self.point(self.depth(F.relu6(self.stem(x))))
            return self.head(F.relu6(self.gn(x)).mean((2, 3)))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.relu6(linen.Conv(8, (3, 3), 2, padding=1, name="stem")(x))
            x = linen.Conv(8, (3, 3), padding=1, feature_group_count=8, name="depth")(x)
            x = linen.Conv(12, (1, 1), name="point")(x)
            x = linen.GroupNorm(4 if self.wrong else 3, epsilon=1e-5, name="gn")(x)
            return linen.Dense(5, name="head")(linen.relu6(x).mean((1, 2)))


@other("u-net", (2, 8, 12, 3), "concat_order")
class UNet:
    """Down, up by repeating, and a skip."""

    class Torch(TorchModule):
        def layers(self):
            self.enter, self.down = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
            self.up = nn.Conv2d(6, 4, 3, padding=1)
            self.leave = nn.Conv2d(8, 2, 3, padding=1)

        def forward(self, x):
            skip = F.relu(self.enter(x))
            y = F.relu(self.down(skip))
            y = self.up(F.interpolate(y, scale_factor=2, mode="nearest"))
            return self.leave(torch.cat((y, skip) if self.wrong else (skip, y), 1))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            skip = linen.relu(linen.Conv(4, (3, 3), padding=1, name="enter")(x))
            y = linen.relu(linen.Conv(6, (3, 3), 2, padding=1, name="down")(skip))
            y = y.repeat(2, 1).repeat(2, 2)
            y = linen.Conv(4, (3, 3), padding=1, name="up")(y)
            return linen.Conv(2, (3, 3), padding=1, name="leave")(
                jnp.concatenate((y, skip) if self.wrong else (skip, y), -1)
            )


@other("mixer", (2, 9, 12), "missing_residual", "extra_residual")
class Mixer:
    """Layers over tokens and over features, by transposing."""

    class Torch(TorchModule):
        def layers(self):
            self.ln1, self.ln2 = nn.LayerNorm(12), nn.LayerNorm(12)
            self.tokens, self.features, self.head = nn.Linear(9, 9), nn.Linear(12, 12), nn.Linear(12, 5)

        def forward(self, x):
            y = self.tokens(self.ln1(x).transpose(1, 2))
            y = F.gelu(y).transpose(1, 2)
            x = y if self.wrong else x + y
            x = x + F.gelu(self.features(self.ln2(x)))
            return self.head(x.mean(1))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            y = linen.LayerNorm(epsilon=1e-5, name="ln1")(x).swapaxes(1, 2)
            y = linen.gelu(linen.Dense(9, name="tokens")(y), approximate=False).swapaxes(1, 2)
            x = y if self.wrong else x + y
            y = linen.Dense(12, name="features")(linen.LayerNorm(epsilon=1e-5, name="ln2")(x))
            x = x + linen.gelu(y, approximate=False)
            return linen.Dense(5, name="head")(x.mean(1))


@other("decoder of images", (3, 6), "flatten_order", "axis_order")
class ImageDecoder:
    """A vector becomes a map, which transposed convolutions enlarge."""

    class Torch(TorchModule):
        def layers(self):
            self.fc = nn.Linear(6, 4 * 3 * 2)
            self.up = nn.ConvTranspose2d(4, 3, 4, 2, 1)
            self.out = nn.Conv2d(3, 2, 3, padding=1)

        def forward(self, x):
            x = F.relu(self.fc(x))
            x = x.reshape(-1, 3, 2, 4).permute(0, 3, 1, 2) if self.wrong else x.reshape(-1, 4, 3, 2)
            return torch.tanh(self.out(F.relu(self.up(x))))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Dense(24, name="fc")(x))
            x = x.reshape(-1, 3, 2, 4) if self.wrong else x.reshape(-1, 4, 3, 2).transpose(0, 2, 3, 1)
            x = linen.ConvTranspose(
                3, (4, 4), (2, 2), padding=((2, 2), (2, 2)), transpose_kernel=True, name="up"
            )(x)
            return jnp.tanh(linen.Conv(2, (3, 3), padding=1, name="out")(linen.relu(x)))


@other("convolutions over time", (2, 15, 3), "dilation", "padding")
class Temporal:
    channels_first = True

    class Torch(TorchModule):
        channels_first = True

        def layers(self):
            self.one = nn.Conv1d(3, 6, 3, padding=2, dilation=2)
            self.two = nn.Conv1d(6, 6, 3, padding=1 if self.wrong else 2, dilation=1 if self.wrong else 2)
            self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 4)

        def forward(self, x):
            x = F.leaky_relu(self.one(x), 0.1)
            return self.head(self.norm(self.two(x)).amax(2))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(6, (3,), padding=2, kernel_dilation=2, name="one")(x)
            x = linen.leaky_relu(x, 0.1)
            step = 1 if self.wrong else 2
            x = norm(name="norm")(linen.Conv(6, (3,), padding=step, kernel_dilation=step, name="two")(x))
            return linen.Dense(4, name="head")(x.max(1))


@other(
    "learned scale",
    (3, 5, 8),
    "missing_weight",
    "extra_weight",
    "scale",
    "residual_scale",
    "other_computation",
)
class LearnedScale:
    """Branches are scaled by a learned number."""

    class Torch(TorchModule):
        def layers(self):
            self.one, self.two, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
            self.alpha = nn.Parameter(torch.ones(()))
            self.gamma = nn.Parameter(torch.ones(8))

        def forward(self, x):
            x = x + (1.0 if self.wrong else self.alpha) * torch.tanh(self.one(x))
            return self.out(x + self.gamma * self.two(x))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            alpha = self.param("alpha", linen.initializers.ones, ())
            gamma = self.param("gamma", linen.initializers.ones, (8,))
            x = x + (1.0 if self.wrong else alpha) * jnp.tanh(linen.Dense(8, name="one")(x))
            return linen.Dense(3, name="out")(x + gamma * linen.Dense(8, name="two")(x))


@other("sequential", (4, 7), "activation", rules=SEQUENTIAL)
class Sequence:
    """Layers in a row, without names."""

    class Torch(TorchModule):
        def layers(self):
            second = nn.Tanh() if self.wrong else nn.ELU()
            self.net = nn.Sequential(
                nn.Linear(7, 9),
                nn.ReLU(),
                nn.Linear(9, 8),
                second,
                nn.Linear(8, 6),
                nn.LayerNorm(6),
                nn.Linear(6, 3),
            )

        def forward(self, x):
            return self.net(x)

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            second = jnp.tanh if self.wrong else linen.elu
            norm = linen.LayerNorm(epsilon=1e-5)
            dense = [linen.Dense(n) for n in (9, 8, 6, 3)]
            return linen.Sequential(
                [dense[0], linen.relu, dense[1], second, dense[2], norm, dense[3]], name="net"
            )(x)


@other(
    "gated, without modules",
    (2, 5, 8),
    "activation",
    rules=[
        Rule.rearrange(["gate.weight", "up.weight"], "gates", "f d, f d -> 2 f d"),
        Rule.rearrange("down.weight", "linear", "d f -> f d"),
    ],
)
class Gated:
    """The target has two tensors and no layers."""

    class Torch(TorchModule):
        def layers(self):
            self.gate, self.up, self.down = (nn.Linear(*n, bias=False) for n in ((8, 12), (8, 12), (12, 8)))

        def forward(self, x):
            return self.down(F.gelu(self.gate(x), approximate="none" if self.wrong else "tanh") * self.up(x))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            gates = self.param("gates", linen.initializers.normal(), (2, 12, 8))
            gate, up = jnp.einsum("btd,sfd->sbtf", x, gates)
            y = linen.gelu(gate, approximate=not self.wrong) * up
            return y @ self.param("linear", linen.initializers.normal(), (12, 8))


class Weight(linen.Module):
    size: int

    @linen.compact
    def __call__(self):
        return self.param("weight", linen.initializers.zeros, (self.size,))


class TorchRMS(nn.Module):
    def __init__(self, size, epsilon):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.zeros(size)), epsilon

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * (1 + self.weight)


@other("norm as a function", (2, 5, 8), "epsilon")
class PlainNorm:
    """A module that only holds the scale; its parent normalises."""

    class Torch(TorchModule):
        def layers(self):
            epsilon = 1e-5 if self.wrong else 1e-6
            self.first, self.last = TorchRMS(8, epsilon), TorchRMS(8, epsilon)
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            x = x + F.silu(self.one(self.first(x)))
            return self.two(self.last(x))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            def rms(name, x):
                epsilon = 1e-5 if self.wrong else 1e-6
                scale = 1 + Weight(8, name=name)()
                return x * jnp.reciprocal(jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon)) * scale

            x = x + linen.silu(linen.Dense(8, name="one")(rms("first", x)))
            return linen.Dense(4, name="two")(rms("last", x))


@other("vae", (3, 7), "part_order", "other_input")
class VAE:
    """One layer gives the mean and the logarithm of the variance; only the mean goes on."""

    class Torch(TorchModule):
        def layers(self):
            self.enter, self.code, self.leave = nn.Linear(7, 10), nn.Linear(10, 8), nn.Linear(4, 7)

        def forward(self, x):
            mean, spread = self.code(F.softplus(self.enter(x))).chunk(2, -1)
            return torch.sigmoid(self.leave(spread if self.wrong else mean))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            code = linen.Dense(8, name="code")(linen.softplus(linen.Dense(10, name="enter")(x)))
            mean, spread = jnp.split(code, 2, -1)
            return linen.sigmoid(linen.Dense(7, name="leave")(spread if self.wrong else mean))


@other("mean of tokens", (3, 6, 5), "token_pooling")
class MeanOfTokens:
    class Torch(TorchModule):
        def layers(self):
            self.enter, self.norm, self.leave = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, x):
            x = torch.tanh(self.enter(x))
            return self.leave(self.norm(x.sum(1) if self.wrong else x.mean(1)))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = jnp.tanh(linen.Dense(8, name="enter")(x))
            x = linen.LayerNorm(epsilon=1e-5, name="norm")(x.sum(1) if self.wrong else x.mean(1))
            return linen.Dense(3, name="leave")(x)


@other("convnext", (2, 9, 8, 3), "epsilon")
class ConvNext:
    """Wide depthwise convolutions, a norm over features, a learned scale of the branch."""

    class Torch(TorchModule):
        def layers(self):
            self.stem, self.depth = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 7, padding=3, groups=8)
            self.norm = nn.LayerNorm(8, eps=1e-5 if self.wrong else 1e-6)
            self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 5)
            self.gamma = nn.Parameter(torch.ones(8))

        def forward(self, x):
            x = self.stem(x)
            y = self.norm(self.depth(x).permute(0, 2, 3, 1))
            y = self.gamma * self.down(F.gelu(self.up(y)))
            return self.head((x + y.permute(0, 3, 1, 2)).mean((2, 3)))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(8, (2, 2), 2, padding="VALID", name="stem")(x)
            y = linen.Conv(8, (7, 7), padding=3, feature_group_count=8, name="depth")(x)
            y = linen.LayerNorm(epsilon=1e-5 if self.wrong else 1e-6, name="norm")(y)
            y = linen.Dense(8, name="down")(linen.gelu(linen.Dense(16, name="up")(y), approximate=False))
            gamma = self.param("gamma", linen.initializers.ones, (8,))
            return linen.Dense(5, name="head")((x + gamma * y).mean((1, 2)))


@other("average pool", (2, 9, 8, 3), "pool_count")
class AveragePool:
    """Whether padding counts in an average."""

    class Torch(TorchModule):
        def layers(self):
            self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = F.avg_pool2d(F.relu(self.one(x)), 3, 2, 1, count_include_pad=not self.wrong)
            return self.head(F.relu(self.two(x)).mean((2, 3)))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(6, (3, 3), padding=1, name="one")(x))
            x = linen.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)), count_include_pad=not self.wrong)
            x = linen.relu(linen.Conv(4, (3, 3), padding=1, name="two")(x))
            return linen.Dense(3, name="head")(x.mean((1, 2)))


@other("highway", (4, 8), "gated_half", "other_computation", "other_input")
class Highway:
    """A gate mixes what a layer makes with what it got."""

    class Torch(TorchModule):
        def layers(self):
            self.gate, self.make, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            gate, y = torch.sigmoid(self.gate(x)), F.relu(self.make(x))
            gate = 1 - gate if self.wrong else gate
            return self.head(gate * y + (1 - gate) * x)

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            gate = linen.sigmoid(linen.Dense(8, name="gate")(x))
            y = linen.relu(linen.Dense(8, name="make")(x))
            gate = 1 - gate if self.wrong else gate
            return linen.Dense(3, name="head")(gate * y + (1 - gate) * x)


@other("two towers", (4, 10), "scale", "residual_scale", "other_computation")
class TwoTowers:
    """The features of two halves, multiplied, over a temperature."""

    class Torch(TorchModule):
        def layers(self):
            self.left, self.right, self.head = nn.Linear(5, 6), nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x):
            y = torch.tanh(self.left(x[:, :5])) * self.right(x[:, 5:])
            return self.head(y / (1.0 if self.wrong else 0.3))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            y = jnp.tanh(linen.Dense(6, name="left")(x[:, :5])) * linen.Dense(6, name="right")(x[:, 5:])
            return linen.Dense(3, name="head")(y / (1.0 if self.wrong else 0.3))


@other("instance norm", (2, 8, 7, 3), "epsilon_place")
class Instance:
    """A norm of someone's own over space, with its epsilon outside the root."""

    class Torch(TorchModule):
        def layers(self):
            self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 3)
            self.norm = OwnInstance(self.wrong)

        def forward(self, x):
            return self.head(F.relu(self.norm(self.conv(x))).amax((2, 3)))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            x = linen.Conv(6, (3, 3), padding=1, name="conv")(x)
            x = FlaxInstance(self.wrong, name="norm")(x)
            return linen.Dense(3, name="head")(linen.relu(x).max((1, 2)))


class OwnInstance(nn.Module):
    def __init__(self, wrong):
        super().__init__()
        self.scale, self.shift, self.wrong = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6)), wrong

    def forward(self, x):
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        root = torch.sqrt(variance + 1e-2) if self.wrong else variance.sqrt() + 1e-2
        return (x - mean) / root * self.scale[:, None, None] + self.shift[:, None, None]


class FlaxInstance(linen.Module):
    wrong: bool

    @linen.compact
    def __call__(self, x):
        scale, shift = (self.param(name, linen.initializers.ones, (6,)) for name in ("scale", "shift"))
        variance = x.var((1, 2), keepdims=True)
        root = jnp.sqrt(variance + 1e-2) if self.wrong else jnp.sqrt(variance) + 1e-2
        return (x - x.mean((1, 2), keepdims=True)) / root * scale + shift


@other("fourier features", (5, 3), "concat_order")
class Fourier:
    """Sines and cosines of projections; NeRF's kind."""

    class Torch(TorchModule):
        def layers(self):
            self.project, self.one, self.two = nn.Linear(3, 6), nn.Linear(12, 8), nn.Linear(8, 2)

        def forward(self, x):
            y = self.project(x)
            y = (y.cos(), y.sin()) if self.wrong else (y.sin(), y.cos())
            return self.two(F.relu(self.one(torch.cat(y, -1))))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            y = linen.Dense(6, name="project")(x)
            y = (jnp.cos(y), jnp.sin(y)) if self.wrong else (jnp.sin(y), jnp.cos(y))
            return linen.Dense(2, name="two")(linen.relu(linen.Dense(8, name="one")(jnp.concatenate(y, -1))))


@other("glu over time", (2, 12, 4), "gated_half")
class GLU:
    class Torch(TorchModule):
        channels_first = True

        def layers(self):
            self.conv, self.out = nn.Conv1d(4, 12, 5, padding=2), nn.Conv1d(6, 3, 1)

        def forward(self, x):
            a, b = self.conv(x).chunk(2, 1)
            return self.out(b * torch.sigmoid(a) if self.wrong else a * torch.sigmoid(b))

    class Flax(FlaxModule):
        @linen.compact
        def __call__(self, x):
            a, b = jnp.split(linen.Conv(12, (5,), padding=2, name="conv")(x), 2, -1)
            y = b * linen.sigmoid(a) if self.wrong else a * linen.sigmoid(b)
            return linen.Conv(3, (1,), name="out")(y)
