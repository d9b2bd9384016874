"""Spectral norms in both of torch's spellings, Linen's wrapper and NNX's.

The kernel, the bias and the vector u are the same on both sides. torch keeps a second vector, Flax the
singular value: neither has a place for the other's, and the caller says that it may be left out.
"""

from __future__ import annotations

import warnings
from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import assert_same_bits
from support.converting import abstract, respelt, run, spec
from support.errors import OutputsDiffer, refused
from support.loading import assert_same_tensors
from support.models import (
    Pair,
    assert_same_output,
    assert_same_state_dict,
    from_neutral,
    input_for,
    leaves_of,
    randomise,
    run_torch,
    to_neutral,
)
from torch import nn

import bridge_flax
from bridge_core import BridgeError, UnsupportedLayerError, default_registry


def old(module, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch calls its old function deprecated
        return nn.utils.spectral_norm(module, **options)


NEW = torch.nn.utils.parametrizations.spectral_norm
SPELLINGS = {"old": old, "parametrized": NEW}
V = ["**.v", "**.weight_v", "**.0._v"]
SIGMA = ["**.sigma", "**.kernel/sigma", "**.fc/kernel/sigma"]
"""Neutral names and native ones."""


def conv_pair(dim, cin, cout, transposed=False):
    name = "ConvTranspose" if transposed else "Conv"
    taps = (3,) * dim
    return Pair(
        f"{name}{dim}d-{cin}-{cout}",
        partial(getattr(nn, f"{name}{dim}d"), cin, cout, 3),
        partial(getattr(linen, name), cout, taps, padding="VALID"),
        lambda rngs: getattr(nnx, name)(cin, cout, taps, padding="VALID", rngs=rngs),
        (2, *(7, 6, 5)[:dim], cin),
        channels_first=True,
    )


PAIRS = [
    *(
        Pair(
            f"linear-{i}-{o}{'' if bias else '-no_bias'}",
            partial(nn.Linear, i, o, bias=bias),
            partial(linen.Dense, o, use_bias=bias),
            lambda rngs, i=i, o=o, bias=bias: nnx.Linear(i, o, use_bias=bias, rngs=rngs),
            (2, i),
        )
        for i, o, bias in ((5, 5, True), (4, 6, True), (4, 6, False))
    ),
    conv_pair(1, 3, 4),
    conv_pair(2, 3, 3),
    conv_pair(1, 3, 4, transposed=True),
    conv_pair(2, 3, 3, transposed=True),
]
spelt = pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
USUAL = ("linear-4-6", "Conv1d-3-4", "ConvTranspose2d-3-3")
SLOW = ("linear-5-5", "Conv2d-3-3")
"""Equal widths, and two dimensions; the others run at night."""


def marks_of(pair):
    return () if pair.name in USUAL else pytest.mark.slow if pair.name in SLOW else pytest.mark.zoo


paired = pytest.mark.parametrize("pair", [pytest.param(p, id=str(p), marks=marks_of(p)) for p in PAIRS])


class TorchNet(nn.Module):
    """A normalised layer below the root, its two vectors where the power iteration ends."""

    def __init__(self, pair, spell):
        super().__init__()
        self.block = nn.Module()
        self.block.fc = spell(pair.torch())
        self.out = nn.Identity()

    def forward(self, x):
        return self.out(self.block.fc(x))


def converged(pair, spell, seed=0):
    """Both sides iterate another number of times when they run: where u has come to rest they agree."""
    module = randomise(TorchNet(pair, spell), seed).train()
    x = torch.from_numpy(
        np.moveaxis(input_for(pair), -1, 1).copy() if pair.channels_first else input_for(pair)
    )
    with torch.no_grad():
        for _ in range(300):
            module(x)
    return module.eval()


class LinenBlock(linen.Module):
    layer: object

    @linen.compact
    def __call__(self, x):
        return linen.SpectralNorm(self.layer(name="fc"))(x, update_stats=False)


class LinenNet(linen.Module):
    layer: object

    def setup(self):
        self.block = LinenBlock(self.layer)

    def __call__(self, x):
        return self.block(x)


class NnxNet(nnx.Module):
    def __init__(self, pair, rngs):
        self.block = nnx.Dict(fc=nnx.SpectralNorm(pair.nnx(rngs), rngs=rngs))

    def __call__(self, x):
        return self.block.fc(x, update_stats=False)


def sides(pair):
    """For Linen and for NNX: what to fill, and the model that runs Linen's variables.

    What may stay as it is must have values: sigma is one.
    """
    model = LinenNet(pair.linen)
    variables = model.init(jax.random.key(0), jnp.zeros(pair.shape))
    return ((variables, model), (NnxNet(pair, nnx.Rngs(0)), None))


def known_as(like, model, pair):
    """What tells the types of Linen's variables."""
    return {} if model is None else {"module": bridge_flax.template(model, spec(*pair.shape))}


@pytest.mark.slow
@spelt
@paired
def test_torch_to_flax_and_back(pair, spell):
    module = converged(pair, spell)
    wanted = run_torch(pair, module, input_for(pair))
    for like, model in sides(pair):
        neutral = to_neutral(module, "torch")
        made = from_neutral(neutral, "flax", like=like, allow_missing=SIGMA, allow_unexpected=V)
        assert_same_bits(kept(made, "u"), u_of(module).reshape(1, -1))
        assert kept(made, "sigma") == 1  # as it was
        back = from_neutral(
            to_neutral(made, "flax", **known_as(like, model, pair)),
            "torch",
            like=module,
            allow_missing=V,
            allow_unexpected=SIGMA,
        )
        assert_same_state_dict(back, module.state_dict())
        # NNX normalises in place when it is called: only now may it run.
        given = (made, None) if model is None else (model, made)
        assert_same_output(run(*given, input_for(pair)), wanted)


def kept(weights, what):
    """What a wrapper keeps of the kernel; NNX names it by a tuple."""
    ends = (f"kernel/{what}']", f"('kernel', '{what}')")
    (found,) = (value for name, value in leaves_of(weights).items() if name.endswith(ends))
    return found


def u_of(module):
    state = module.state_dict()
    return next(tensor.numpy() for name, tensor in state.items() if name.endswith(("weight_u", "._u")))


@spelt
@paired
def test_nothing_is_left_out_unasked(pair, spell):
    """And the message says why, and what to do."""
    neutral = to_neutral(converged(pair, spell), "torch")
    for like, _ in sides(pair):
        for allowed, named in (
            ({}, ("fc.v): ", "kernel/sigma: ")),
            ({"allow_missing": SIGMA}, ("fc.v): ", "as unexpected")),
            ({"allow_unexpected": V}, ("kernel/sigma: ", "as missing")),
        ):
            with refused(UnsupportedLayerError, *named):
                from_neutral(neutral, "flax", like=like, **allowed)


@spelt
@paired
def test_without_a_template_flax_is_refused(pair, spell):
    module = converged(pair, spell)
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(to_neutral(module, "torch"), "flax")


@spelt
@paired
def test_torch_to_torch_is_exact(pair, spell):
    module = converged(pair, spell)
    neutral = to_neutral(module, "torch")
    kind = neutral.metadata.layers["block", "fc"].kind
    assert kind == ("spectral_norm_transpose" if "Transpose" in pair.name else "spectral_norm")
    assert_same_state_dict(from_neutral(neutral, "torch", like=module), module.state_dict())
    other = TorchNet(pair, NEW if spell is old else old)
    other.load_state_dict(from_neutral(neutral, "torch", like=other))
    x = input_for(pair)
    assert_same_output(run_torch(pair, other, x), run_torch(pair, module, x))
    assert_same_tensors(from_neutral(neutral, "torch"), dict(module.state_dict()))


@spelt
def test_another_axis_is_no_spectral_norm_of_flax(spell):
    """Flax always counts the outputs; along another axis u would mean something else."""
    module = nn.ModuleDict({"fc": spell(nn.Linear(5, 5), dim=1)})
    neutral = to_neutral(module, "torch")
    assert neutral.metadata.layers["fc",].kind != "spectral_norm"
    assert_same_state_dict(from_neutral(neutral, "torch", like=module), module.state_dict())
    pair = PAIRS[0]
    like = nnx.Dict(fc=nnx.SpectralNorm(pair.nnx(nnx.Rngs(0)), rngs=nnx.Rngs(0)))
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(neutral, "flax", like=like, allow_missing=SIGMA, allow_unexpected=V)


def test_a_transposed_convolution_is_not_taken_for_a_convolution():
    """Its taps run the other way: with equal channels only the types tell."""
    module = converged(conv_pair(2, 3, 3, transposed=True), NEW)
    like, _ = sides(conv_pair(2, 3, 3))[1]
    with pytest.raises(BridgeError, match="fc"):
        from_neutral(to_neutral(module, "torch"), "flax", like=like, allow_missing=SIGMA, allow_unexpected=V)


def test_what_nnx_wraps_decides_how_it_is_read():
    def layer_of(rngs, **options):
        return nnx.SpectralNorm(nnx.ConvTranspose(3, 3, (2,), **options, rngs=rngs), rngs=rngs)

    kinds = {}
    for name, make in {
        "plain": layer_of,
        "torch's layout": partial(layer_of, transpose_kernel=True),
        "conv": lambda rngs: nnx.SpectralNorm(nnx.Conv(3, 3, (2,), rngs=rngs), rngs=rngs),
        "general": lambda rngs: nnx.SpectralNorm(
            nnx.LinearGeneral(3, (2, 3), use_bias=False, rngs=rngs), rngs=rngs
        ),
    }.items():
        neutral = to_neutral(nnx.Dict(fc=make(nnx.Rngs(0))), "flax")
        kinds[name] = neutral.metadata.layers["fc",].kind
    assert kinds["plain"] == "spectral_norm_transpose"
    assert kinds["conv"] == "spectral_norm"
    assert kinds["torch's layout"] not in ("spectral_norm", "spectral_norm_transpose")
    assert kinds["general"] not in ("spectral_norm", "spectral_norm_transpose")


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("torch.spectral_norm_parametrized", {"parametrizations__weight__original": {"axes": "in out *k"}}),
        ("torch.spectral_norm_parametrized", {"bias": {"flip": ("out",)}}),
        ("flax.spectral_norm", {"layer_instance__kernel": {"axes": "*k out in"}}),
    ],
)
def test_a_swapped_rule_is_noticed(rule, changes):
    pair = PAIRS[0]
    module = converged(pair, NEW)
    x = input_for(pair)
    wanted = run_torch(pair, module, x)
    right = default_registry()
    for registry, differs in ((right, False), (respelt(right, rule, **changes), True)):
        made = from_neutral(
            to_neutral(module, "torch", registry),
            "flax",
            registry,
            like=NnxNet(pair, nnx.Rngs(0)),
            allow_missing=SIGMA,
            allow_unexpected=V,
        )
        found = run(made, None, x)
        if not differs:
            assert_same_output(found, wanted)
            continue
        with pytest.raises(OutputsDiffer):
            assert_same_output(found, wanted)


def test_abstract_models_have_no_sigma_to_leave():
    """What may stay as it is must be there."""
    pair = PAIRS[1]
    module = converged(pair, NEW)
    with pytest.raises(BridgeError):
        from_neutral(
            to_neutral(module, "torch"),
            "flax",
            like=abstract(partial(NnxNet, pair)),
            allow_missing=SIGMA,
            allow_unexpected=V,
        )
