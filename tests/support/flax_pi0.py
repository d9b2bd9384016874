"""openpi's pi0, pi0.5 and pi0-FAST in Linen: the tree of variables and the mathematics of its JAX code."""

from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["FAST", "PI0", "PI05", "LinenPi0", "LinenPi0Fast", "Pi0Sizes", "may_see"]


@dataclass(frozen=True)
class Pi0Sizes:
    """Sizes of a model.

    Args:
        widths: Of PaliGemma's Gemma, and of the action expert; pi0-FAST has the first only.
        hidden: Likewise, of their MLPs.
        adaptive: Whether the action expert's norms depend on the time, as in pi0.5.
    """

    vocabulary: int = 50
    widths: tuple[int, ...] = (24, 20)
    hidden: tuple[int, ...] = (40, 28)
    layers: int = 3
    heads: int = 4
    head_dim: int = 6
    image: int = 6
    patch: int = 2
    image_width: int = 10
    image_hidden: int = 14
    image_layers: int = 2
    image_heads: int = 2
    actions: int = 7
    horizon: int = 5
    adaptive: bool = False


PI0 = Pi0Sizes()
PI05 = replace(PI0, adaptive=True)
FAST = replace(PI0, widths=(24,), hidden=(40,))


def leaf(module, name, shape):
    return module.param(name, nn.initializers.normal(), shape)


class Weight(nn.Module):
    """One parameter, below the module's name."""

    shape: tuple
    leaf: str = "w"

    @nn.compact
    def __call__(self):
        return leaf(self, self.leaf, self.shape)


class Norm(nn.Module):
    """Divides by the root of the mean square. Returns also what an adaptive one gates the next layer by."""

    @nn.compact
    def __call__(self, x, condition):
        y = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        if condition is None:
            return y * (1 + leaf(self, "scale", x.shape[-1:])), 1
        scale, shift, gate = jnp.split(nn.Dense(3 * x.shape[-1])(condition)[:, None], 3, -1)
        return y * (1 + scale) + shift, gate


def rotated(x, places):
    """Rotate the halves of ``(batch, place, heads, size)`` by angles that grow with the place."""
    half = x.shape[-1] // 2
    angles = places[:, :, None, None] / 1e4 ** (np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    sine, cosine = jnp.sin(angles), jnp.cos(angles)
    return jnp.concatenate((first * cosine - second * sine, second * cosine + first * sine), -1)


def numbered(name, expert):
    return f"{name}_{expert}" if expert else name


class Attention(nn.Module):
    """All experts' tokens see each other; each expert has weights of its own."""

    sizes: Pi0Sizes

    @nn.compact
    def __call__(self, xs, places, seen):
        s, qs, kvs = self.sizes, [], []
        for n, x in enumerate(xs):
            width = x.shape[-1]
            q = Weight((s.heads, width, s.head_dim), name=numbered("q_einsum", n))()
            kv = Weight((2, 1, width, s.head_dim), name=numbered("kv_einsum", n))()
            qs.append(jnp.einsum("btd,ndh->btnh", x, q))
            kvs.append(jnp.einsum("btd,skdh->sbtkh", x, kv))
        q, (k, v) = jnp.concatenate(qs, 1), jnp.concatenate(kvs, 2)
        q, k = rotated(q, places), rotated(k, places)
        scores = jnp.einsum("btnh,bskh->bnts", q * s.head_dim**-0.5, k)
        mixed = nn.softmax(jnp.where(seen[:, None], scores, -1e30))
        mixed = jnp.einsum("bnts,bskh->btnh", mixed, v)
        outs, start = [], 0
        for n, x in enumerate(xs):
            out = Weight((s.heads, s.head_dim, x.shape[-1]), name=numbered("attn_vec_einsum", n))()
            outs.append(jnp.einsum("btnh,nhd->btd", mixed[:, start : start + x.shape[1]], out))
            start += x.shape[1]
        return outs


class FeedForward(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        gate, up = jnp.einsum("btd,sdf->sbtf", x, leaf(self, "gating_einsum", (2, x.shape[-1], self.hidden)))
        return (nn.gelu(gate) * up) @ leaf(self, "linear", (self.hidden, x.shape[-1]))


class Block(nn.Module):
    sizes: Pi0Sizes

    @nn.compact
    def __call__(self, xs, places, seen, conditions):
        def normed(xs, name):
            named = (Norm(name=numbered(name, n)) for n in range(len(xs)))
            return zip(*(norm(x, c) for norm, x, c in zip(named, xs, conditions, strict=True)), strict=True)

        ys, gates = normed(xs, "pre_attention_norm")
        ys = Attention(self.sizes, name="attn")(ys, places, seen)
        xs = [x + y * gate for x, y, gate in zip(xs, ys, gates, strict=True)]
        ys, gates = normed(xs, "pre_ffw_norm")
        ys = [FeedForward(self.sizes.hidden[n], name=numbered("mlp", n))(y) for n, y in enumerate(ys)]
        return [x + y * gate for x, y, gate in zip(xs, ys, gates, strict=True)], None


class Gemmas(nn.Module):
    sizes: Pi0Sizes

    def setup(self):
        s = self.sizes
        self.embedder = Weight((s.vocabulary, s.widths[0]), "input_embedding")
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=s.layers,
        )
        self.layers = layers(s)
        self.norms = [Norm(name=numbered("final_norm", n)) for n in range(len(s.widths))]

    def embedded(self, tokens):
        return self.embedder()[tokens] * self.sizes.widths[0] ** 0.5

    def logits(self, x):
        return x @ self.embedder().T

    def __call__(self, xs, places, seen, conditions):
        xs, _ = self.layers(xs, places, seen, conditions)
        return [norm(x, c)[0] for norm, x, c in zip(self.norms, xs, conditions, strict=True)]


class EncoderBlock(nn.Module):
    sizes: Pi0Sizes

    @nn.compact
    def __call__(self, x, _):
        s = self.sizes
        y = nn.LayerNorm(name="LayerNorm_0")(x)
        x += nn.MultiHeadDotProductAttention(s.image_heads, name="MultiHeadDotProductAttention_0")(y, y)
        y = nn.LayerNorm(name="LayerNorm_1")(x)
        return x + MlpBlock(s.image_hidden, name="MlpBlock_0")(y), None


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(y)


class Encoder(nn.Module):
    sizes: Pi0Sizes

    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            EncoderBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.sizes.image_layers,
        )
        x, _ = layers(self.sizes, name="encoderblock")(x, None)
        return nn.LayerNorm(name="encoder_norm")(x)


class SigLip(nn.Module):
    """Takes images ``(batch, height, width, 3)``; returns a token for each patch."""

    sizes: Pi0Sizes

    @nn.compact
    def __call__(self, image):
        s = self.sizes
        patch = (s.patch, s.patch)
        x = nn.Conv(s.image_width, patch, patch, padding="VALID", name="embedding")(image)
        x = x.reshape(x.shape[0], -1, s.image_width)
        x = Encoder(s, name="Transformer")(x + leaf(self, "pos_embedding", (1, *x.shape[1:])))
        return nn.Dense(s.widths[0], name="head")(x)


class PaliGemma(nn.Module):
    sizes: Pi0Sizes

    def setup(self):
        self.llm, self.img = Gemmas(self.sizes), SigLip(self.sizes)

    def seen(self, images, tokens):
        """Return the tokens of images and text."""
        return jnp.concatenate([*map(self.img, images), self.llm.embedded(tokens)], 1)

    def __call__(self, xs, places, seen, conditions):
        return self.llm(xs, places, seen, conditions)

    def logits(self, x):
        return self.llm.logits(x)


def may_see(valid, starts):
    """Return which tokens see which: those of their own block, and of blocks before it.

    Args:
        valid: ``(batch, place)``, false for padding.
        starts: ``(place,)``, true where a block begins.
    """
    block = np.cumsum(starts)
    return valid[:, None] & valid[:, :, None] & (block[None, :] <= block[:, None])


def time_embedding(time, width):
    period = 4e-3 * 1e3 ** np.linspace(0, 1, width // 2)
    angles = time[:, None] / period * 2 * np.pi
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)


class LinenPi0(nn.Module):
    """Takes images, tokens, which tokens are valid, state, noisy actions and time; returns the velocity."""

    sizes: Pi0Sizes

    @nn.compact
    def __call__(self, images, tokens, valid, state, actions, time):
        s, width = self.sizes, self.sizes.widths[1]
        paligemma = PaliGemma(s, name="PaliGemma")
        before = paligemma.seen(images, tokens)
        y, clock = nn.Dense(width, name="action_in_proj")(actions), time_embedding(time, width)
        if s.adaptive:
            condition = nn.swish(nn.Dense(width, name="time_mlp_in")(clock))
            condition = nn.swish(nn.Dense(width, name="time_mlp_out")(condition))
            starts = [True]
        else:
            condition = None
            clock = jnp.broadcast_to(clock[:, None], y.shape)
            y = nn.swish(nn.Dense(width, name="action_time_mlp_in")(jnp.concatenate([y, clock], -1)))
            y = nn.Dense(width, name="action_time_mlp_out")(y)
            y = jnp.concatenate([nn.Dense(width, name="state_proj")(state)[:, None], y], 1)
            starts = [True, True]
        batch, count = y.shape[:2]
        images_seen = np.ones((batch, before.shape[1] - tokens.shape[1]), bool)
        valid = jnp.concatenate([images_seen, valid, np.ones((batch, count), bool)], 1)
        starts = np.array([False] * before.shape[1] + starts + [False] * (s.horizon - 1))
        places = jnp.cumsum(valid, 1) - 1
        _, y = paligemma([before, y], places, may_see(valid, starts), [None, condition])
        return nn.Dense(s.actions, name="action_out_proj")(y[:, -s.horizon :])


class LinenPi0Fast(nn.Module):
    """Takes images and tokens, of which those from ``prefix`` on see only what is before; returns logits."""

    sizes: Pi0Sizes
    prefix: int

    @nn.compact
    def __call__(self, images, tokens):
        paligemma = PaliGemma(self.sizes, name="PaliGemma")
        x = paligemma.seen(images, tokens)
        batch, count = x.shape[:2]
        starts = np.arange(count) >= count - tokens.shape[1] + self.prefix
        places = jnp.broadcast_to(jnp.arange(count), (batch, count))
        (x,) = paligemma([x], places, may_see(np.ones((batch, count), bool), starts), [None])
        return paligemma.logits(x[:, -tokens.shape[1] :])
