"""Sums in another order: the same mathematics, so nothing but rounding changes, and rounding does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from bridge_torch.torch_objects.reordered import in_another_order


def flags_or_bias(mask, like):
    return mask if mask is None or mask.dtype == torch.bool else mask.to(like.dtype)


def attention(mask=None, causal=False):
    def compute(x):
        q = x[:, :3]
        return functional.scaled_dot_product_attention(
            q, q + 1, q - 1, attn_mask=flags_or_bias(mask, q), is_causal=causal
        )

    return compute


FLAGS = (torch.arange(16) < 11)[None]
OPERATIONS = {
    "linear": nn.Linear(20, 7),
    "bilinear": lambda x: functional.bilinear(x, x + 1, torch.ones(3, 20, 20).to(x) / 7),
    "einsum": lambda x: torch.einsum("abcd,abed->abce", x, x + 1),
    "matrix and vector": lambda x: x[0, 0] @ x[0, 0, 0],
    "two vectors": lambda x: x.flatten() @ x.flatten().sin(),
    "batch of products": lambda x: torch.baddbmm(x[0, :, :, :16], x[0], x[1].transpose(1, 2)),
    "convolution": nn.Conv2d(6, 4, 3, padding=1, stride=2),
    "convolution in groups": nn.Conv2d(6, 4, (3, 2), groups=2, dilation=2),
    "convolution of each channel": nn.Conv2d(
        6, 12, (3, 2), groups=6, padding=(2, 1), stride=(2, 3), dilation=(1, 2)
    ),
    "convolution without a batch": lambda x: functional.conv1d(x[0, :, 0], torch.ones(4, 6, 3).to(x) / 7),
    "convolution of words": lambda x: functional.conv1d(x[0, 0], torch.ones(16, 1, 3).to(x) / 7, groups=16),
    "transposed convolution": nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
    "attention": attention(),
    "attention with flags": attention(FLAGS),
    "attention with a bias": attention(torch.linspace(-2, 1, 256).reshape(16, 16)),
    "causal attention": attention(causal=True),
    "layer norm": nn.LayerNorm([16, 20]),
    "RMS norm": nn.RMSNorm(20),
    "group norm": nn.GroupNorm(2, 6),
    "instance norm": nn.InstanceNorm2d(6),
    "batch norm": nn.BatchNorm2d(6),
    "softmax": lambda x: torch.softmax(x, 1),
    "log softmax": lambda x: torch.log_softmax(x, -1),
    "sum": lambda x: x.sum(),
    "sums": lambda x: x.sum((0, -1), keepdim=True),
    "mean": lambda x: x.mean(),
    "pooled": lambda x: functional.adaptive_avg_pool2d(x, 1),
    "variance": lambda x: torch.var_mean(x, -1),
    "deviation": lambda x: x.std(),
    "norm": lambda x: functional.normalize(x, dim=-1),
    "logsumexp": lambda x: x.logsumexp((1, 2)),
    "LSTM": lambda x: LSTM.to(x.dtype)(x[0])[0],
    "GRU": lambda x: GRU.to(x.dtype)(x[0])[0],
    "MHA": lambda x: MHA.to(x.dtype)(x[0], x[0], x[0])[0],
}
IN_DOUBLE = ("instance norm", "batch norm", "deviation")
"""Their sums of float32 are sums of float64 in torch, so that a float32 is rounded as before."""

LSTM, GRU, MHA = nn.LSTM(20, 5), nn.GRU(20, 5), nn.MultiheadAttention(20, 4)


def computed(operation, x, *, reordered):
    if isinstance(operation, nn.Module):
        operation = operation.to(x.dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        if not reordered:
            return operation(x)
        with in_another_order():
            return operation(x)


def flat(value):
    return value if isinstance(value, torch.Tensor) else torch.cat([part.flatten() for part in value])


@pytest.fixture(autouse=True)
def _random():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_changes_by_rounding_only(name):
    x = torch.randn(2, 6, 16, 20, dtype=torch.float64)
    plain, other = (flat(computed(OPERATIONS[name], x, reordered=flag)) for flag in (False, True))
    assert plain.shape == other.shape
    assert (plain - other).abs().max() <= 1e-12 * plain.abs().max()
    differing = 0
    for seed in range(8):  # a few numbers may be rounded alike
        x = torch.randn(2, 6, 16, 20, generator=torch.Generator().manual_seed(seed))
        plain, other = (flat(computed(OPERATIONS[name], x, reordered=flag)) for flag in (False, True))
        assert (plain - other).abs().max() <= 2e-5 * plain.abs().max()
        differing += int((plain != other).sum())
    assert differing or name in IN_DOUBLE


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize(
    "operation",
    [
        torch.sin,
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        lambda x: x.amax(-1),
        lambda x: x.cumsum(-1),
        lambda x: x.sort(-1).values,
        nn.BatchNorm2d(6).eval(),
    ],
)
def test_an_operation_without_sums_is_not_changed(operation):
    x = torch.randn(2, 6, 16, 20)
    assert torch.equal(computed(operation, x, reordered=False), computed(operation, x, reordered=True))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
def test_undivided_operations_of_inference_mode_are_reordered_too():
    layer, x = nn.Linear(20, 7), torch.randn(2, 6, 16, 20)
    with torch.inference_mode():
        assert not torch.equal(computed(layer, x, reordered=False), computed(layer, x, reordered=True))
