"""What transformers' own conversion could not do, one test for each.

Every test shows the original's limit first, so that it would notice if it did not come to it.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from support.converting import assert_from_torch_and_back, run, spec
from support.errors import refused
from support.loading import assert_same_tensors
from support.measured import IGNORED, bert
from support.models import assert_same_output, from_neutral, random_tree, randomise, to_neutral
from support.recurrent_models import CELLS, LinenNet as LinenRecurrent, Stack, TorchNet as TorchRecurrent
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import bridge_flax
from bridge_core import UnsupportedLayerError
from ckptbridge_transformers import flax_template, flax_weights, torch_weights

transformers = pytest.importorskip("transformers", "4.57", reason="the original is in transformers 4 alone")
original = pytest.importorskip("transformers.modeling_flax_pytorch_utils")

pytestmark = IGNORED


def by_the_original(state_dict, random, prefix="model"):
    model = SimpleNamespace(base_model_prefix=prefix, params=random)
    return flatten_dict(original.convert_pytorch_state_dict_to_flax(state_dict, model))


def assert_good_load(source, model, module):
    """Everything arrives, nothing is left over, and it all comes back; returns the Flax tree."""
    loaded = flax_weights(source, model)
    assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ((), (), ())
    back = torch_weights(loaded.weights, module)
    assert (back.missing, back.unexpected, back.mismatched) == ((), (), ())
    assert_same_tensors(back.weights, module.state_dict())
    return loaded.weights


# -- files and dtypes -------------------------------------------------------------------------------


def test_shards_of_safetensors(tmp_path):
    module, model = bert()
    module.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    with pytest.raises(NotImplementedError, match="safetensors"):
        transformers.FlaxBertModel.from_pretrained(tmp_path, from_pt=True)
    assert_good_load(tmp_path, model, module)


def test_fp8(tmp_path):
    module, model = bert()
    module.to(torch.float8_e4m3fn)
    with pytest.raises(TypeError, match="Float8"):
        by_the_original(module.state_dict(), random_tree(flax_template(model).tree), "bert")
    module.save_pretrained(tmp_path)
    tree = assert_good_load(tmp_path, model, module)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.float8_e4m3fn)}


def test_bf16_stays_bf16():
    module, model = bert()
    module.to(torch.bfloat16)
    tree = flax_weights(module, model).weights
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.bfloat16)}

    class Keeper(nn.Module):
        """Notes what the original would load."""

        base_model_prefix = "bert"

        def state_dict(self):
            return module.state_dict()

        def load_state_dict(self, given):
            self.dtypes = {tensor.dtype for tensor in given.values()}

    keeper = Keeper()
    original.load_flax_weights_in_pytorch_model(keeper, tree)
    assert keeper.dtypes == {torch.float32}
    assert_same_tensors(torch_weights(tree, module).weights, module.state_dict())


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_weights_inside_of_a_training_checkpoint(wrapper, tmp_path):
    module, model = bert()
    file = tmp_path / "pytorch_model.bin"
    weights = {wrapper + name: tensor for name, tensor in module.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": weights, "optimizer": {"state": {}, "param_groups": []}}, file)
    holder = SimpleNamespace(base_model_prefix="bert", params=random_tree(flax_template(model).tree))
    with pytest.raises(AttributeError):
        original.load_pytorch_checkpoint_in_flax_state_dict(holder, str(file), is_sharded=False)
    assert_good_load(file, model, module)


def test_a_model_without_weights(tmp_path):
    module, model = bert()
    module.save_pretrained(tmp_path)
    file = str(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="_do_init=False"):
        original.load_pytorch_checkpoint_in_flax_state_dict(model, file, is_sharded=False)
    assert_good_load(tmp_path, model, module)


def test_the_callers_weights_are_not_changed():
    module, model = bert()
    given = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    before = {name: (id(tensor), tensor.clone()) for name, tensor in given.items()}
    tree = flax_weights(given, model).weights
    assert {name: id(tensor) for name, tensor in given.items()} == {n: i for n, (i, _) in before.items()}
    assert_same_tensors(given, {name: tensor for name, (_, tensor) in before.items()})
    arrays = jax.tree.leaves_with_path(tree)
    torch_weights(tree, module)
    assert all(a is b for (_, a), (_, b) in zip(arrays, jax.tree.leaves_with_path(tree), strict=True))
    by_the_original(given, random_tree(flax_template(model).tree), "bert")
    assert not any(isinstance(value, torch.Tensor) for value in given.values())


# -- layers -----------------------------------------------------------------------------------------


class TorchAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


class Projections(nn.Module):
    """Attention of four linear layers, as transformers' torch models have it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("query", "key", "value", "out")})

    def forward(self, x):
        q, k, v = (
            self.inner[name](x).unflatten(-1, (2, 4)).transpose(1, 2) for name in ("query", "key", "value")
        )
        made = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.inner["out"](made.transpose(1, 2).flatten(-2))


class LinenAttention(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.MultiHeadDotProductAttention(2, name="inner")(x, x, x)


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.inner = layer

    def forward(self, x):
        return self.inner(x)


class LinenWrapped(linen.Module):
    layer: type[linen.Module] | partial
    wrapper: type[linen.Module] | None = None
    options: tuple = ()

    @linen.compact
    def __call__(self, x):
        layer = self.layer(name="inner")
        return self.wrapper(layer)(x, **dict(self.options)) if self.wrapper else layer(x)


LSTM = next(cell for cell in CELLS if cell.name == "linen-optimized_lstm")
SHAPE = (2, 5, 8)
LAYERS = {
    "PReLU": (lambda: Wrapped(nn.PReLU()), LinenWrapped(linen.PReLU), SHAPE),
    "LSTM": (lambda: TorchRecurrent(LSTM, Stack()), LinenRecurrent(LSTM.linen, Stack()), (3, 7, 5)),
    "torch's attention": (TorchAttention, LinenAttention(), SHAPE),
    "Linen's attention": (Projections, LinenAttention(), SHAPE),
    "Linen's weight norm": (
        lambda: Wrapped(weight_norm(nn.Linear(8, 6))),
        LinenWrapped(partial(linen.Dense, 6), linen.WeightNorm),
        SHAPE,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_several_tensors_or_other_names(name):
    make, model, shape = LAYERS[name]
    module, template = randomise(make()), bridge_flax.template(model, spec(*shape))
    with torch.no_grad():
        for key, tensor in module.named_parameters():
            if "bias_ih" in key:
                tensor.fill_(-0.0)  # Flax has one bias; so the sum has the bits of the other

    random = random_tree(template.tree["params"])
    fails = "expected to be of shape"
    if name == "Linen's attention":
        with pytest.raises(ValueError, match=fails):
            by_the_original(module.state_dict(), random)
    else:
        assert flatten_dict(random).keys() - by_the_original(module.state_dict(), random).keys()

    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    tree = assert_from_torch_and_back(module, template, model, x)

    module.base_model_prefix = "model"
    if name == "Linen's attention":
        with pytest.raises(ValueError, match=fails):
            original.load_flax_weights_in_pytorch_model(module, tree["params"])
        return
    for tensor in module.state_dict().values():
        tensor.fill_(torch.nan)
    original.load_flax_weights_in_pytorch_model(module, tree["params"])
    assert any(bool(tensor.isnan().any()) for tensor in module.state_dict().values())


def test_spectral_norm():
    """Each side keeps something that the other works out: it is named, and left out when that is allowed."""
    module = randomise(Wrapped(spectral_norm(nn.Linear(8, 6)))).train()
    model = LinenWrapped(partial(linen.Dense, 6), linen.SpectralNorm, (("update_stats", False),))
    template = bridge_flax.template(model, spec(2, 8))
    x = np.random.default_rng(1).standard_normal((2, 8)).astype(np.float32)
    with torch.no_grad():
        for _ in range(300):
            module(torch.from_numpy(x))  # until both sides' iterations have nothing to change

    random = random_tree(template.tree)
    lost = flatten_dict(random).keys() - by_the_original(module.state_dict(), random).keys()
    assert ("params", "inner", "kernel") in lost

    neutral = to_neutral(module, "torch")
    with refused(UnsupportedLayerError, "sigma", "inner.v"):
        from_neutral(neutral, "flax", like=template)
    allowed = {"allow_missing": ["**.inner/kernel/sigma"], "allow_unexpected": ["**.v"]}
    made = from_neutral(neutral, "flax", like=random, **allowed)
    assert_same_output(run(model, made, x), run(module, None, x))
