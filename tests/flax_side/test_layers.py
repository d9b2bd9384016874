"""What Flax's transforms say about names and axes, against real Flax and real torch layers.

The torch side is written down directly; the Flax side follows the transforms' own data, so a wrong
axis or a missing flip in them gives wrong numbers here.
"""

from __future__ import annotations

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from bridge_core.layers.kinds import KINDS
from bridge_flax import FlaxFramework, template
from bridge_flax.layers import TRANSFORMS

FLAX = FlaxFramework()
BY_NAME = {transform.name: transform for transform in TRANSFORMS}
KIND = {kind.name: kind for kind in KINDS}
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers():
    """A test's numbers do not depend on the tests before it."""
    RNG.bit_generator.state = START


def to_native(transform, neutral):
    """Spell neutral leaves the way a transform's data says."""
    kind = KIND[transform.kind]
    native = {}
    for leaf in transform.leaves:
        if leaf.role not in neutral:
            assert leaf.optional
            continue
        array = neutral[leaf.role]
        old = expand(kind.leaves[leaf.role], array.ndim)
        new = expand(leaf.axes, array.ndim)
        if not new:
            array = array.reshape(())
        else:
            array = np.transpose(array, [old.index(axis) for axis in new])
            flipped = [i for i, axis in enumerate(new) if axis[0] in leaf.flip]
            array = np.flip(array, flipped)
        native[leaf.parts] = np.array(array, order="C")
    return native


def expand(axes, ndim):
    """Axis names, one an axis: ``+k in out`` of four axes is k0 k1 in out."""
    names = axes.split()
    result = []
    for name in names:
        if name[0] in "*+":
            result += [f"{name[1:]}{i}" for i in range(ndim - len(names) + 1)]
        else:
            result.append(name)
    return result


def linen_call(module, leaves, *args):
    """Run a Linen layer on native leaves; statistics go to their collection."""
    variables = {}
    for (name,), array in leaves.items():
        head = "batch_stats" if name in ("mean", "var") else "params"
        variables.setdefault(head, {})[name] = array
    expected = FLAX.state(template(module, *map(jnp.asarray, args)))
    assert {k: s.shape for k, s in expected.specs().items()} == {
        k: s.shape for k, s in FLAX.state(variables).specs().items()
    }
    return np.asarray(module.apply(variables, *args))


def nnx_call(module, leaves, *args):
    """Run an NNX layer on native leaves."""
    state = FLAX.state(module)
    return np.asarray(FLAX.build(state.replace(tensors=leaves), module)(*args))


def randomise(module):
    """Fill every parameter and buffer; default values hide errors."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(RNG.uniform(0.5, 1.5, tensor.shape)))
    return module.eval()


def channels_last(module, x):
    """Run a torch layer on an array whose channels stand last."""
    result = module(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).detach().numpy()
    return np.moveaxis(result, 1, -1)


def numpy_of(module):
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def kernel_last(weight):
    """``a b *k`` to ``*k a b``."""
    return np.moveaxis(weight, (0, 1), (-2, -1))


def assert_same(result, expected):
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
def test_named_modules_and_roles_exist(transform):
    for name in transform.modules:
        module, _, cls = name.rpartition(".")
        found = getattr(importlib.import_module(module), cls)
        assert f"{found.__module__}.{found.__qualname__}" == name
    assert {role for leaf in transform.leaves for role in leaf.roles} <= set(KIND[transform.kind].leaves)


def test_every_module_type_of_flax_is_claimed_once_per_setting_and_set_of_names():
    seen = [(m, repr(t.settings), frozenset(t.by_name())) for t in TRANSFORMS for m in t.modules]
    assert len(seen) == len(set(seen))


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    theirs = randomise(torch.nn.Linear(4, 4, bias=bias))
    weights, x = numpy_of(theirs), random(2, 4)
    neutral = {"kernel": weights["weight"].T} | ({"bias": weights["bias"]} if bias else {})
    leaves = to_native(BY_NAME["flax.linear"], neutral)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    assert_same(linen_call(nn.Dense(4, use_bias=bias), leaves, x), expected)
    assert_same(nnx_call(nnx.Linear(4, 4, use_bias=bias, rngs=nnx.Rngs(0)), leaves, x), expected)


def test_embedding():
    theirs, x = randomise(torch.nn.Embedding(4, 4)), np.array([[3, 0], [1, 1]])
    leaves = to_native(BY_NAME["flax.embedding"], {"embedding": theirs.weight.detach().numpy()})
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    assert_same(linen_call(nn.Embed(4, 4), leaves, x), expected)
    assert_same(nnx_call(nnx.Embed(4, 4, rngs=nnx.Rngs(0)), leaves, x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(3,), (2, 3), (3, 3, 3)])
def test_conv(kernel, groups):
    theirs = randomise(getattr(torch.nn, f"Conv{len(kernel)}d")(4, 4, kernel, groups=groups))
    weights, x = numpy_of(theirs), random(2, *(5,) * len(kernel), 4)
    neutral = {"kernel": np.moveaxis(weights["weight"], (1, 0), (-2, -1)), "bias": weights["bias"]}
    leaves = to_native(BY_NAME["flax.conv"], neutral)
    expected = channels_last(theirs, x)
    options = {"padding": "VALID", "feature_group_count": groups}
    assert_same(linen_call(nn.Conv(4, kernel, **options), leaves, x), expected)
    assert_same(nnx_call(nnx.Conv(4, 4, kernel, **options, rngs=nnx.Rngs(0)), leaves, x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((3, 5), 2)])
@pytest.mark.parametrize("kernel", [(3,), (3, 3), (2, 3, 3)])
def test_conv_transpose(kernel, channels, stride, transposed):
    theirs = randomise(getattr(torch.nn, f"ConvTranspose{len(kernel)}d")(*channels, kernel, stride=stride))
    weights, x = numpy_of(theirs), random(2, *(4,) * len(kernel), channels[0])
    flipped = np.flip(kernel_last(weights["weight"]), range(len(kernel)))
    name = "flax.conv_transpose_kernel" if transposed else "flax.conv_transpose"
    assert BY_NAME[name].settings == {"transpose_kernel": transposed}
    leaves = to_native(BY_NAME[name], {"kernel": flipped, "bias": weights["bias"]})
    expected = channels_last(theirs, x)
    options = {"padding": "VALID", "strides": (stride,) * len(kernel), "transpose_kernel": transposed}
    assert_same(linen_call(nn.ConvTranspose(channels[1], kernel, **options), leaves, x), expected)
    ours = nnx.ConvTranspose(*channels, kernel, **options, rngs=nnx.Rngs(0))
    assert_same(nnx_call(ours, leaves, x), expected)


@pytest.mark.parametrize(
    ("theirs", "linen", "make_nnx"),
    [
        (torch.nn.LayerNorm(6), nn.LayerNorm(epsilon=1e-5), lambda r: nnx.LayerNorm(6, epsilon=1e-5, rngs=r)),
        (
            torch.nn.RMSNorm(6, eps=1e-5),
            nn.RMSNorm(epsilon=1e-5),
            lambda r: nnx.RMSNorm(6, epsilon=1e-5, rngs=r),
        ),
        (
            torch.nn.GroupNorm(3, 6),
            nn.GroupNorm(3, epsilon=1e-5),
            lambda r: nnx.GroupNorm(6, 3, epsilon=1e-5, rngs=r),
        ),
        (
            torch.nn.InstanceNorm1d(6, affine=True),
            nn.InstanceNorm(epsilon=1e-5),
            lambda r: nnx.InstanceNorm(6, epsilon=1e-5, rngs=r),
        ),
    ],
    ids=["layer", "rms", "group", "instance"],
)
def test_norm(theirs, linen, make_nnx):
    weights, x = numpy_of(randomise(theirs)), random(2, 5, 6)
    neutral = {"scale": weights["weight"]} | ({"bias": weights["bias"]} if "bias" in weights else {})
    leaves = to_native(BY_NAME["flax.norm"], neutral)
    if isinstance(theirs, torch.nn.LayerNorm | torch.nn.RMSNorm):
        expected = theirs(torch.from_numpy(x)).detach().numpy()
    else:
        expected = channels_last(theirs, x)
    assert_same(linen_call(linen, leaves, x), expected)
    assert_same(nnx_call(make_nnx(nnx.Rngs(0)), leaves, x), expected)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(affine):
    theirs = randomise(torch.nn.BatchNorm1d(6, affine=affine))
    weights, x = numpy_of(theirs), random(8, 6)
    neutral = {"mean": weights["running_mean"], "var": weights["running_var"]}
    if affine:
        neutral |= {"scale": weights["weight"], "bias": weights["bias"]}
    leaves = to_native(BY_NAME["flax.batch_norm"], neutral)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    options = {"use_running_average": True, "epsilon": 1e-5, "use_scale": affine, "use_bias": affine}
    assert_same(linen_call(nn.BatchNorm(**options), leaves, x), expected)
    assert_same(nnx_call(nnx.BatchNorm(6, **options, rngs=nnx.Rngs(0)), leaves, x), expected)


def test_prelu():
    theirs, x = randomise(torch.nn.PReLU()), random(2, 4)
    leaves = to_native(BY_NAME["flax.prelu"], {"negative_slope": theirs.weight.detach().numpy()})
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    assert_same(linen_call(nn.PReLU(), leaves, x), expected)
    assert_same(nnx_call(nnx.PReLU(), leaves, x), expected)


@pytest.mark.parametrize(
    ("inner", "wrapped", "shape"),
    [
        (lambda: torch.nn.Linear(4, 4), lambda r: nnx.Linear(4, 4, rngs=r), (2, 4)),
        (
            lambda: torch.nn.Conv2d(3, 4, 3),
            lambda r: nnx.Conv(3, 4, (3, 3), padding="VALID", rngs=r),
            (2, 5, 5, 3),
        ),
    ],
    ids=["linear", "conv"],
)
def test_weight_norm(inner, wrapped, shape):
    theirs = randomise(torch.nn.utils.parametrizations.weight_norm(inner()))
    weights, x = numpy_of(theirs), random(*shape)
    v = weights["parametrizations.weight.original1"]
    neutral = {
        "g": weights["parametrizations.weight.original0"].reshape(-1),
        "v": np.moveaxis(v, (1, 0), (-2, -1)),
        "bias": weights["bias"],
    }
    leaves = to_native(BY_NAME["flax.weight_norm"], neutral)
    ours = nnx.WeightNorm(wrapped(nnx.Rngs(0)), rngs=nnx.Rngs(0))
    assert_same(nnx_call(ours, leaves, x), channels_last(theirs, x))


@pytest.mark.parametrize("transposed", [False, True])
def test_weight_norm_is_only_claimed_where_its_axes_hold(transposed):
    inner = nnx.ConvTranspose(3, 4, (2,), transpose_kernel=transposed, rngs=nnx.Rngs(0))
    info = FLAX.state(nnx.WeightNorm(inner, rngs=nnx.Rngs(0))).metadata.modules[()]
    wanted = BY_NAME["flax.weight_norm_transpose"].settings
    assert (wanted.items() <= info.settings.items()) is not transposed


@pytest.mark.parametrize(
    ("module", "args", "name"),
    [
        (nn.Dense(3), (2, 4), "flax.linear"),
        (nn.Conv(3, (2,)), (1, 5, 2), "flax.conv"),
        (nn.ConvTranspose(3, (2,)), (1, 5, 2), "flax.conv_transpose"),
        (nn.ConvTranspose(3, (2,), transpose_kernel=True), (1, 5, 2), "flax.conv_transpose_kernel"),
        (nn.LayerNorm(), (2, 4), "flax.norm"),
        (nn.RMSNorm(), (2, 4), "flax.norm"),
        (nn.BatchNorm(use_running_average=True), (2, 4), "flax.batch_norm"),
        (nn.PReLU(), (2, 4), "flax.prelu"),
        (nn.Einsum((4, 3), "ab,bc->ac"), (2, 4), "flax.linear_general"),
        (nn.Einsum((3, 4), "ab,cb->ac"), (2, 4), None),
        (nn.ConvLocal(3, (2,)), (1, 5, 2), None),
        (nn.DenseGeneral(3), (2, 4), "flax.linear_general"),
        (nn.DenseGeneral(3, batch_dims=(0,)), (2, 4), None),
    ],
)
def test_templates_and_transforms_meet(module, args, name):
    info = template(module, jax.ShapeDtypeStruct(args, jnp.float32)).state.metadata.modules[()]
    found = [
        transform.name
        for transform in TRANSFORMS
        if set(transform.modules) & set(info.types) and transform.settings.items() <= info.settings.items()
        if not transform.needs_template  # Linen's weight norm shares the types of what it wraps
    ]
    assert found == ([name] if name else [])
