"""One rule swapped on purpose, for each family: the numeric comparison must notice every one of them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from support.errors import OutputsDiffer
from support.models import (
    LinenModel,
    TorchModel,
    abstract_nnx_model,
    assert_same_output,
    from_neutral,
    input_for,
    random_tree,
    randomise,
    run_linen,
    run_nnx,
    run_torch,
    swapped,
    template_of,
    to_neutral,
)
from support.pairs import PAIRS

from bridge_core import default_registry
from bridge_flax.layers import TRANSFORMS as FLAX_TRANSFORMS
from bridge_torch.layers import TRANSFORMS as TORCH_TRANSFORMS

BY_NAME = {pair.name: pair for pair in PAIRS}

SWAPS = {
    "a square kernel not transposed": (
        "torch.linear",
        {"kernel": {"axes": "in out"}},
        ["linear-5-5", "linear-5-5-no_bias"],
    ),
    "a square table transposed": (
        "torch.embedding",
        {"embedding": {"axes": "features num"}},
        ["embedding-4-4"],
    ),
    "channels of a convolution in the wrong order": (
        "torch.conv",
        {"kernel": {"axes": "in out +k"}},
        ["conv1d-3-3-3", "conv2d-3-3-3x3", "conv3d-3-3-3x3x3", "conv2d-3-3-3x2", "conv2d-3-3-3x3-bFalse"],
    ),
    "a convolution flipped": (
        "torch.conv",
        {"kernel": {"flip": ("k",)}},
        ["conv1d-3-3-3", "conv2d-3-4-3x3", "conv3d-3-4-3x3x3", "conv2d-4-4-3x3-g4", "conv2d-2-2-2x2-d2"],
    ),
    "a Flax convolution's channels in the wrong order": (
        "flax.conv",
        {"kernel": {"axes": "+k out in"}},
        ["conv1d-3-3-3", "conv2d-3-3-3x3", "conv3d-3-3-3x3x3"],
    ),
    "a transposed convolution not flipped": (
        "torch.conv_transpose",
        {"kernel": {"flip": ()}},
        [
            f"conv_transpose{d}d-3-4-{k}{t}"
            for d, k in ((1, "3"), (2, "3x3"), (3, "3x3x3"))
            for t in ("", "-transpose_kernel")
        ],
    ),
    "channels of a transposed convolution in the wrong order": (
        "torch.conv_transpose",
        {"kernel": {"axes": "out in +k"}},
        ["conv_transpose1d-3-3-3", "conv_transpose2d-3-3-3x3", "conv_transpose2d-3-3-3x3-transpose_kernel"],
    ),
    "transpose_kernel taken for the usual layout": (
        "flax.conv_transpose_kernel",
        {"kernel": {"axes": "+k in out", "flip": ()}},
        ["conv_transpose1d-3-3-3-transpose_kernel", "conv_transpose2d-3-3-3x3-transpose_kernel"],
    ),
    "the usual layout taken for transpose_kernel": (
        "flax.conv_transpose",
        {"kernel": {"axes": "+k out in", "flip": ("k",)}},
        ["conv_transpose1d-3-3-3", "conv_transpose2d-3-3-3x3"],
    ),
    "transpose_kernel not flipped": (
        "flax.conv_transpose_kernel",
        {"kernel": {"flip": ()}},
        ["conv_transpose1d-3-4-3-transpose_kernel", "conv_transpose3d-3-4-3x3x3-transpose_kernel"],
    ),
    "scale and bias of a norm exchanged": (
        "torch.norm",
        {"scale": {"name": "bias"}, "bias": {"name": "weight"}},
        ["layer_norm", "group_norm", "instance_norm2d"],
    ),
    "features of a norm in reverse": (
        "torch.norm",
        {"scale": {"flip": ("features",)}},
        ["layer_norm-2_axes", "rms_norm", "layer_norm-no_bias"],
    ),
    "mean and variance exchanged": (
        "torch.batch_norm",
        {"mean": {"name": "running_var"}, "var": {"name": "running_mean"}},
        ["batch_norm1d", "batch_norm2d", "batch_norm3d", "batch_norm2d-no_affine"],
    ),
    "scale and bias of a batch norm exchanged": (
        "torch.batch_norm",
        {"scale": {"name": "bias"}, "bias": {"name": "weight"}},
        ["batch_norm2d"],
    ),
    "slopes of a PReLU in reverse": (
        "torch.prelu",
        {"negative_slope": {"flip": ("channels",)}},
        ["prelu-channels"],
    ),
}
CASES = [
    pytest.param(rule, changes, BY_NAME[name], id=f"{what}: {name}")
    for what, (rule, changes, names) in SWAPS.items()
    for name in names
]


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "changes", "pair"), CASES)
def test_a_swapped_rule_is_noticed(rule, changes, pair):
    wrong = swapped(default_registry(), rule, **changes)
    module = randomise(TorchModel(pair.torch()))
    x = input_for(pair)
    wanted = run_torch(pair, module, x)
    for registry, differs in ((default_registry(), False), (wrong, True)):
        neutral = to_neutral(module, "torch", registry)
        tree = from_neutral(neutral, "flax", registry, like=template_of(pair))
        found = run_linen(LinenModel(pair.linen()), tree, x)
        assert_noticed(found, wanted, differs)
        if pair.nnx is not None and pair.usual:
            made = from_neutral(neutral, "flax", registry, like=abstract_nnx_model(pair))
            assert_noticed(run_nnx(made, x), wanted, differs)


@pytest.mark.parametrize("name", ["linear-5-5", "conv2d-3-3-3x3", "conv_transpose2d-3-3-3x3", "batch_norm2d"])
def test_a_swapped_rule_is_noticed_on_the_way_to_torch(name):
    pair = BY_NAME[name]
    family = name.partition("-")[0].replace("2d", "")
    rule, changes, _ = next(
        s for s in SWAPS.values() if s[0] == f"torch.{family}" and "flip" not in str(s[1])
    )
    template = template_of(pair)
    variables = random_tree(template.tree)
    x = input_for(pair)
    wanted = run_linen(LinenModel(pair.linen()), variables, x)
    module = TorchModel(pair.torch())
    for registry, differs in (
        (default_registry(), False),
        (swapped(default_registry(), rule, **changes), True),
    ):
        neutral = to_neutral(variables, "flax", registry, module=template)
        module.load_state_dict(from_neutral(neutral, "torch", registry, like=module))
        assert_noticed(run_torch(pair, module, x), wanted, differs)


def assert_noticed(found, wanted, differs):
    if not differs:
        assert_same_output(found, wanted)
        return
    with pytest.raises(OutputsDiffer):
        assert_same_output(found, wanted)


def test_reversing_every_axis_of_a_cubic_kernel_would_be_noticed():
    """All axes reversed bring the channels to the right places, and the taps to the wrong ones."""
    pair = BY_NAME["conv3d-3-3-3x3x3"]
    module = randomise(TorchModel(pair.torch()))
    x = input_for(pair)
    weight, bias = (t.detach().numpy() for t in module.state_dict().values())
    reverse = {"params": {"inner": {"kernel": weight.T.copy(), "bias": bias.copy()}}}
    assert_noticed(run_linen(LinenModel(pair.linen()), reverse, x), run_torch(pair, module, x), differs=True)


def test_usual_initial_values_hide_a_swapped_rule():
    """Why the tests randomise: fresh norms, with unit scales and zero biases, compute the same either way."""
    pair = BY_NAME["batch_norm2d"]
    module = TorchModel(pair.torch())
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template_of(pair))
    flipped = jax.tree.map(lambda leaf: np.asarray(leaf)[::-1].copy(), tree)
    x = input_for(pair)
    assert_same_output(run_linen(LinenModel(pair.linen()), flipped, x), run_torch(pair, module.eval(), x))


def test_every_built_in_transform_has_a_swap_or_is_the_other_side_of_one():
    names = {transform.name for transform in (*TORCH_TRANSFORMS, *FLAX_TRANSFORMS)}
    tested = {rule for rule, _, _ in SWAPS.values()}
    # The files of these have swaps of their own.
    structured = ("weight_norm", "spectral_norm", "attention", "general", "lstm", "gru", "rnn", "simple")
    elsewhere = {name for name in names if any(word in name for word in structured)} | {
        *("flax.linear", "flax.embedding", "flax.norm", "flax.batch_norm"),  # the other side of a swap above
        *("flax.prelu", "flax.prelu_channels"),
        "torch.norm_gamma_beta",
    }
    assert names == tested | elsewhere
