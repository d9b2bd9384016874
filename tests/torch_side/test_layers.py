"""The layer transforms of torch: which shapes each matches, and what only a module can decide."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import bridge_torch
from bridge_core import LayerKind, Registry
from bridge_core.axes.leaf_axes import bind_axes
from bridge_core.layers.kinds import KINDS as CORE_KINDS
from bridge_torch.framework import TorchFramework
from bridge_torch.layers import KINDS, TRANSFORMS

BY_NAME = {transform.name: transform for transform in TRANSFORMS}
ALL_KINDS: dict[str, LayerKind] = {kind.name: kind for kind in (*CORE_KINDS, *KINDS)}


def by_role(name):
    """Return the leaves of a transform by the role that they have in their kind."""
    return {role: leaf for leaf in BY_NAME[name].leaves for role in leaf.roles}


ORIGINALS = ("parametrizations.weight.original0", "parametrizations.weight.original1")


def reading(shapes: dict[str, tuple[int, ...]]) -> set[str]:
    """Return the transforms that take exactly these leaves."""
    return {t.name for t in TRANSFORMS if shapes.keys() <= t.by_name().keys() and t.fits(shapes)}


def certain(shapes: dict[str, tuple[int, ...]]) -> set[str]:
    """Return those of them that names and shapes prove."""
    return {
        name
        for name in reading(shapes)
        if BY_NAME[name].identifying_leaves is not None
        and set(BY_NAME[name].identifying_leaves) <= shapes.keys()
    }


def from_module(module: nn.Module) -> list[str]:
    """Return the transforms that match a live module's type, options and leaves.

    A type matches every native layout of its kinds, as a norm's matches the old names gamma and beta.
    """
    state = TorchFramework().state(module)
    info = state.metadata.modules[()]
    shapes = {".".join(key): spec.shape for key, spec in state.specs().items()}
    kinds = {t.kind for t in TRANSFORMS if set(t.modules) & set(info.types)}
    fitting = [
        t
        for t in TRANSFORMS
        if t.kind in kinds
        and all(info.settings.get(name) == value for name, value in t.settings.items())
        and shapes.keys() <= t.by_name().keys()
        and t.fits(shapes)
    ]
    return [t.name for t in fitting]


def old_weight_norm(module: nn.Module, dim: int | None = 0) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module, dim=dim)


def new_weight_norm(module: nn.Module, dim: int | None = 0) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(module, dim=dim)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
def test_every_transform_spells_leaves_of_its_kind_with_the_axes_of_the_kind(transform):
    kind = ALL_KINDS[transform.kind]
    assert transform.framework == "torch"
    for leaf in transform.leaves:
        for part, role in enumerate(leaf.roles):
            native = {a.lstrip("*+") for a in leaf.axes_of(part).split()} - {"1"}
            assert native == {a.lstrip("*+") for a in kind.leaves[role].split()}
            assert set(leaf.flip) <= native
    assert set(transform.identifying_leaves or ()) <= transform.by_name().keys()


def test_every_module_type_named_exists_in_torch():
    for transform in TRANSFORMS:
        for name in transform.modules:
            path, _, cls = name.rpartition(".")
            __import__(path)
            assert issubclass(getattr(sys.modules[path], cls), nn.Module), name


@pytest.mark.parametrize(
    ("shapes", "fits", "proven"),
    [
        ({"weight": (4, 3), "bias": (4,)}, {"torch.linear"}, {"torch.linear"}),
        ({"weight": (4, 4), "bias": (4,)}, {"torch.linear"}, {"torch.linear"}),
        ({"weight": (4, 3), "bias": (3,)}, set(), set()),
        ({"weight": (4, 3)}, {"torch.linear", "torch.embedding", "torch.norm"}, set()),
        ({"weight": (4, 3), "bias": (4, 3)}, {"torch.norm"}, {"torch.norm"}),
        ({"weight": (4,), "bias": (4,)}, {"torch.norm"}, {"torch.norm"}),
        ({"weight": (4,), "bias": (5,)}, set(), set()),
        ({"weight": (4,)}, {"torch.norm", "torch.prelu"}, set()),
        ({"weight": ()}, set(), set()),
        ({"weight": (), "bias": ()}, set(), set()),
        ({"weight": (8, 4, 3), "bias": (8,)}, {"torch.conv"}, {"torch.conv"}),
        ({"weight": (8, 1, 3, 3), "bias": (8,)}, {"torch.conv"}, {"torch.conv"}),
        ({"weight": (8, 4, 3, 3, 3), "bias": (8,)}, {"torch.conv"}, {"torch.conv"}),
        ({"weight": (8, 4, 3), "bias": (4,)}, {"torch.conv_transpose"}, {"torch.conv_transpose"}),
        (
            {"weight": (4, 4, 3), "bias": (4,)},
            {"torch.conv", "torch.conv_transpose"},
            {"torch.conv", "torch.conv_transpose"},
        ),
        ({"weight": (8, 4, 3, 3)}, {"torch.conv", "torch.conv_transpose", "torch.norm"}, set()),
        ({"gamma": (4,), "beta": (4,)}, {"torch.norm_gamma_beta"}, set()),
        ({"gamma": (4,)}, set(), set()),
        ({"running_mean": (4,), "running_var": (4,)}, {"torch.batch_norm"}, {"torch.batch_norm"}),
        (
            {
                "weight": (4,),
                "bias": (4,),
                "running_mean": (4,),
                "running_var": (4,),
                "num_batches_tracked": (),
            },
            {"torch.batch_norm"},
            {"torch.batch_norm"},
        ),
        ({"weight": (4,), "running_mean": (4,), "running_var": (5,)}, set(), set()),
    ],
)
def test_fits_and_certainty(shapes, fits, proven):
    assert reading(shapes) == fits
    assert certain(shapes) == proven


@pytest.mark.parametrize(("suffix", "g", "v"), [("", "weight_g", "weight_v"), ("_parametrized", *ORIGINALS)])
@pytest.mark.parametrize(
    ("g_shape", "v_shape", "bias", "proven"),
    [
        ((4, 1), (4, 3), 4, {"weight_norm"}),
        ((4, 1), (4, 4), 4, {"weight_norm"}),
        ((4, 1), (4, 3), None, set()),  # an embedding has these shapes too
        ((8, 1, 1), (8, 4, 3), 8, {"weight_norm"}),
        ((8, 1, 1), (8, 4, 3), 4, {"weight_norm_conv_transpose"}),
        ((8, 1, 1), (8, 8, 3), 8, {"weight_norm", "weight_norm_conv_transpose"}),
        ((8, 1, 1), (8, 4, 3), None, set()),
        ((1, 4, 1), (8, 4, 3), 4, set()),  # or a convolution, normalised along its input
        ((1, 1, 3), (8, 4, 3), 8, set()),
        ((), (8, 4, 3), 8, set()),
    ],
)
def test_weight_norm_is_certain_only_where_a_bias_leaves_one_reading(
    suffix, g, v, g_shape, v_shape, bias, proven
):
    shapes = {g: g_shape, v: v_shape} | ({"bias": (bias,)} if bias else {})
    assert certain(shapes) == {f"torch.{name}{suffix}" for name in proven}


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Linear(3, 4), ["torch.linear"]),
        (nn.Linear(3, 4, bias=False), ["torch.linear"]),
        (nn.modules.linear.NonDynamicallyQuantizableLinear(3, 4), ["torch.linear"]),
        (nn.Embedding(3, 4), ["torch.embedding"]),
        (nn.EmbeddingBag(3, 4), ["torch.embedding"]),
        *(
            (getattr(nn, f"Conv{n}d")(4, 4, 3, groups=g), ["torch.conv"])
            for n in (1, 2, 3)
            for g in (1, 2, 4)
        ),
        *((getattr(nn, f"ConvTranspose{n}d")(4, 4, 3), ["torch.conv_transpose"]) for n in (1, 2, 3)),
        (nn.ConvTranspose2d(4, 4, 3, groups=2), []),
        (nn.ConvTranspose2d(4, 4, 3, groups=2, bias=False), []),
        (nn.LayerNorm(4), ["torch.norm"]),
        (nn.LayerNorm((4, 3), bias=False), ["torch.norm"]),
        (nn.GroupNorm(2, 4), ["torch.norm"]),
        (nn.RMSNorm(4), ["torch.norm"]),
        (nn.InstanceNorm2d(4, affine=True), ["torch.norm"]),
        (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), ["torch.batch_norm"]),
        (nn.InstanceNorm2d(4, track_running_stats=True), ["torch.batch_norm"]),
        (nn.BatchNorm1d(4), ["torch.batch_norm"]),
        (nn.BatchNorm2d(4, affine=False), ["torch.batch_norm"]),
        (nn.BatchNorm3d(4, track_running_stats=False), ["torch.norm"]),
        (nn.SyncBatchNorm(4), ["torch.batch_norm"]),
        (nn.PReLU(), ["torch.prelu"]),
        (nn.PReLU(4), ["torch.prelu"]),
        (nn.Bilinear(3, 4, 5), []),
    ],
    ids=lambda value: None if isinstance(value, list) else repr(value),
)
def test_a_live_module_has_the_one_reading_that_is_right(module, expected):
    assert from_module(module) == expected


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_transposed_convolution_is_a_convolution_with_its_neutral_kernel(n):
    module = getattr(nn, f"ConvTranspose{n}d")(4, 6, 3).double()
    leaf = by_role("torch.conv_transpose")["kernel"]
    assert (leaf.axes, ALL_KINDS["conv_transpose"].leaves["kernel"]) == ("in out +k", "+k in out")
    taps = range(2, 2 + n)
    kernel = module.weight.detach().permute(*taps, 0, 1)
    if "k" in leaf.flip:
        kernel = kernel.flip(tuple(range(n)))
    x = torch.randn(2, 4, *(5,) * n, dtype=torch.float64)
    convolve = getattr(nn.functional, f"conv{n}d")
    y = convolve(x, kernel.permute(n + 1, n, *range(n)), module.bias.detach(), padding=2)
    torch.testing.assert_close(y, module(x).detach())


@pytest.mark.parametrize(("norm", "suffix"), [(old_weight_norm, ""), (new_weight_norm, "_parametrized")])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("make", "dim", "expected"),
    [
        (lambda b: nn.Linear(4, 4, bias=b), 0, "weight_norm"),
        (lambda b: nn.Linear(4, 4, bias=b), 1, None),
        (lambda b: nn.Linear(4, 4, bias=b), None, None),
        (lambda b: nn.Conv1d(4, 4, 3, bias=b), 0, "weight_norm"),
        (lambda b: nn.Conv2d(4, 4, 3, groups=2, bias=b), 0, "weight_norm"),
        (lambda b: nn.Conv2d(4, 4, 3, bias=b), 1, None),
        (lambda b: nn.Conv1d(4, 4, 3, bias=b), 2, None),
        (lambda b: nn.ConvTranspose1d(4, 4, 3, bias=b), 0, "weight_norm_conv_transpose"),
        (lambda b: nn.ConvTranspose2d(4, 6, 3, bias=b), 0, "weight_norm_conv_transpose"),
        (lambda b: nn.ConvTranspose2d(4, 4, 3, bias=b), 1, "weight_norm_conv_transpose_out"),
        (lambda b: nn.ConvTranspose1d(4, 4, 3, bias=b), 2, None),
    ],
)
def test_a_weight_normed_module_is_never_misread(norm, suffix, bias, make, dim, expected):
    found = from_module(norm(make(bias), dim=dim))
    assert found == ([] if expected is None else [f"torch.{expected}{suffix}"])


@pytest.mark.parametrize("bias", [True, False])
def test_a_grouped_weight_normed_transposed_convolution_is_left_alone(bias):
    assert from_module(old_weight_norm(nn.ConvTranspose1d(4, 4, 3, groups=2, bias=bias))) == []


@pytest.mark.parametrize(
    ("module", "dim"),
    [
        (nn.Linear(3, 4), 0),
        (nn.Conv2d(3, 4, 3), 0),
        (nn.ConvTranspose1d(3, 4, 5), 0),
        (nn.ConvTranspose1d(3, 4, 5), 1),
    ],
)
def test_weight_norm_transforms_name_the_axes_that_torch_normalises(module, dim):
    plain = {nn.Linear: "torch.linear", nn.Conv2d: "torch.conv"}.get(type(module), "torch.conv_transpose")
    kernel = BY_NAME[plain].by_name()["weight"]
    normed = new_weight_norm(module, dim=dim)
    (name,) = from_module(normed)
    leaves = by_role(name)
    with torch.no_grad():
        normed.parametrizations.weight.original0.mul_(2.5)
    v = normed.parametrizations.weight.original1.detach()
    g = normed.parametrizations.weight.original0.detach()
    v_axes = [a.lstrip("*+") for a in leaves["v"].axes.split()][: v.ndim]
    g_axes = set(bind_axes(leaves["g"].axes, tuple(g.shape)))
    over = [i for i in range(v.ndim) if v_axes[min(i, len(v_axes) - 1)] not in g_axes]
    weight = g * v / torch.linalg.vector_norm(v, dim=over, keepdim=True)
    assert v_axes == [a.lstrip("*+") for a in kernel.axes.split()]
    assert leaves["v"].flip == kernel.flip
    torch.testing.assert_close(weight, normed.weight.detach())


def test_the_transform_written_without_a_template_is_the_plain_one():
    first = {}
    for transform in TRANSFORMS:
        first.setdefault(transform.kind, transform.name)
    assert first == {
        "linear": "torch.linear",
        "embedding": "torch.embedding",
        "conv": "torch.conv",
        "conv_transpose": "torch.conv_transpose",
        "norm": "torch.norm",
        "batch_norm": "torch.batch_norm",
        "weight_norm": "torch.weight_norm",
        "weight_norm_transpose_in": "torch.weight_norm_conv_transpose",
        "weight_norm_transpose": "torch.weight_norm_conv_transpose_out",
        "spectral_norm": "torch.spectral_norm",
        "spectral_norm_transpose": "torch.spectral_norm_transpose",
        "attention": "torch.multihead_attention",
        "attention_bias_kv": "torch.attention_bias_kv",
        "lstm": "torch.lstm",
        "gru": "torch.gru",
        "rnn": "torch.rnn",
        "lstm_projection": "torch.lstm_projection",
        "prelu": "torch.prelu",
    }


def test_the_plugin_registers_its_framework_kinds_and_transforms():
    class WithoutFiles:
        bridge_frameworks = staticmethod(bridge_torch.bridge_frameworks)
        bridge_layer_kinds = staticmethod(bridge_torch.bridge_layer_kinds)
        bridge_layer_transforms = staticmethod(bridge_torch.bridge_layer_transforms)

    registry = Registry().extend(WithoutFiles())
    assert list(registry.frameworks) == ["torch"]
    assert registry.transforms_of["torch"] == TRANSFORMS
    assert list(registry.kinds) == [kind.name for kind in KINDS]


def test_importing_the_plugin_and_asking_it_imports_no_torch():
    code = (
        "import sys, bridge_torch, numpy\n"
        "from bridge_core import TensorSpec\n"
        "f = bridge_torch.TorchFramework()\n"
        "assert not f.accepts({'weight': numpy.zeros(2)}) and not f.accepts(3)\n"
        "assert f.owns({('weight',): TensorSpec((2,), numpy.dtype('float32'))})\n"
        "assert bridge_torch.bridge_layer_transforms()\n"
        "assert 'torch' not in sys.modules and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("shapes", "usual"),
    [
        ({"weight": (4, 3)}, "torch.linear"),
        ({"weight": (4,)}, "torch.norm"),
        ({"weight": (4, 4, 3)}, "torch.conv"),
        ({"weight_g": (4, 1, 1), "weight_v": (4, 4, 3)}, "torch.weight_norm"),
    ],
)
def test_the_usual_reading_is_the_first_that_carries_no_hints(shapes, usual):
    plain = [t.name for t in TRANSFORMS if t.name in reading(shapes) and not t.hints]
    assert plain[0] == usual
