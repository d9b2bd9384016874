"""Weights that transformers' own conversion got wrong without an error, one test for each.

Every test runs the original as well, and shows that it is wrong there: else a right result would say nothing.
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
from flax.traverse_util import flatten_dict, unflatten_dict
from support.converting import assert_from_torch_and_back, spec
from support.errors import refused
from support.loading import assert_same_tensors, largest_difference, load_flax
from support.measured import IGNORED, TEXT, bert
from support.models import (
    LinenModel,
    Pair,
    TorchModel,
    assert_same_output,
    assert_same_state_dict,
    from_neutral,
    input_for,
    random_tree,
    randomise,
    run_linen,
    run_torch,
    template_of,
    to_neutral,
)
from torch import nn

import bridge_core
import bridge_flax
from bridge_core import MismatchError
from ckptbridge_transformers import flax_template, flax_weights, torch_weights

transformers = pytest.importorskip("transformers", "4.57", reason="the original is in transformers 4 alone")
original = pytest.importorskip("transformers.modeling_flax_pytorch_utils")

pytestmark = IGNORED

CLEARLY_WRONG = 0.1


# -- the original -----------------------------------------------------------------------------------


def by_the_original(state_dict, random, prefix="model"):
    """Convert as `from_pretrained` does: what is missing stays random, what is unexpected is left out.

    Returns:
        The tree, and the keys that stayed random.
    """
    model = SimpleNamespace(base_model_prefix=prefix, params=random)
    made = flatten_dict(original.convert_pytorch_state_dict_to_flax(dict(state_dict), model))
    return _filled(random, made)


def _filled(random, made):
    wanted = flatten_dict(random)
    tree = unflatten_dict({key: made.get(key, value) for key, value in wanted.items()})
    return tree, {".".join(key) for key in wanted.keys() - made.keys()}


def left_by_the_original(module, tree):
    """Load a Flax tree into a torch module as the original does; return the names that it leaves alone."""
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
    original.load_flax_weights_in_pytorch_model(module, tree)
    return {name for name, value in module.state_dict().items() if bool(value.isnan().any())}


def uncounted(module):
    """Random weights; batches stay uncounted, for a Flax tree has no place for their number."""
    for name, tensor in randomise(module).state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.zero_()
    return module


# -- layers -----------------------------------------------------------------------------------------

LAYERS = [
    Pair(
        "a convolution in space with a cubic kernel",
        partial(nn.Conv3d, 3, 3, 3, padding=1),
        partial(linen.Conv, 3, (3, 3, 3)),
        None,
        (2, 4, 4, 4, 3),
        channels_first=True,
    ),
    *(
        Pair(
            f"a transposed convolution in {dim}d with as many inputs as outputs",
            partial(getattr(nn, f"ConvTranspose{dim}d"), 3, 3, 3),
            partial(linen.ConvTranspose, 3, (3,) * dim, padding="VALID"),
            None,
            (2, *(5, 4)[:dim], 3),
            channels_first=True,
        )
        for dim in (1, 2)
    ),
]


@pytest.mark.parametrize("pair", LAYERS, ids=str)
def test_layers_whose_shapes_fit_the_wrong_way_round(pair):
    module, model, x = randomise(TorchModel(pair.torch())), LinenModel(pair.linen()), input_for(pair)
    template, wanted = template_of(pair), run_torch(pair, module, x)

    wrong, random = by_the_original(module.state_dict(), random_tree(template.tree["params"]))
    assert not random
    assert largest_difference(run_linen(model, {"params": wrong}, x), wanted) > CLEARLY_WRONG

    made = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    assert_same_output(run_linen(model, made, x), wanted)
    back = from_neutral(to_neutral(made, "flax", module=template), "torch", like=module)
    assert_same_state_dict(back, module.state_dict())

    module.base_model_prefix = "model"
    assert not left_by_the_original(module, made["params"])
    assert largest_difference(run_torch(pair, module, x), wanted) > CLEARLY_WRONG


# -- models -----------------------------------------------------------------------------------------


def test_basic_blocks_of_resnet():
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[2], layer_type="basic", num_labels=3
    )
    module = uncounted(transformers.ResNetForImageClassification(config))
    model = transformers.FlaxResNetForImageClassification(config, input_shape=(1, 16, 16, 3), _do_init=False)
    pixels = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(pixels)).logits.numpy()
    run = jax.jit(lambda params: model(jnp.asarray(pixels), params=params).logits)

    wrong, random = by_the_original(module.state_dict(), random_tree(flax_template(model).tree), "resnet")
    assert sum(".layer_" in name for name in random) == len(random) > 10
    assert largest_difference(run(wrong), wanted) > CLEARLY_WRONG

    loaded = flax_weights(module.state_dict(), model)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert_same_output(np.asarray(run(loaded.weights)), wanted)
    back = torch_weights(loaded.weights, module)
    assert (back.missing, back.unexpected) == ((), ())
    assert_same_tensors(back.weights, module.state_dict())


def test_a_tied_llama_from_safetensors(tmp_path):
    """The file holds the one tensor once; Flax has a head of its own."""
    config = transformers.LlamaConfig(**TEXT, num_key_value_heads=1, tie_word_embeddings=True)
    module = randomise(transformers.LlamaForCausalLM(config))
    module.save_pretrained(tmp_path)
    model = transformers.FlaxLlamaForCausalLM(config, _do_init=False)
    ids = np.random.default_rng(0).integers(1, 40, (1, 7))
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids)).logits.numpy()
    run = jax.jit(lambda params: model(jnp.asarray(ids, jnp.int32), params=params).logits)

    random = random_tree(flax_template(model).tree)
    holder = SimpleNamespace(base_model_prefix="model", params=random)
    file = tmp_path / "model.safetensors"
    made = original.load_pytorch_checkpoint_in_flax_state_dict(holder, str(file), is_sharded=False)
    wrong, left = _filled(random, flatten_dict(made))
    assert left == {"lm_head.kernel"}
    assert largest_difference(run(wrong), wanted) > CLEARLY_WRONG

    loaded = flax_weights(tmp_path, model)
    assert (loaded.missing, loaded.unexpected) == ((), ())
    assert_same_output(np.asarray(run(loaded.weights)), wanted)
    back = torch_weights(loaded.weights, module)
    assert (back.missing, back.unexpected) == ((), ())
    assert_same_tensors(back.weights, module.state_dict())


@pytest.mark.parametrize("head", ["BertForSequenceClassification", "BertForMaskedLM"])
def test_a_flax_base_model_into_a_torch_model_with_a_head(head):
    options = {"add_pooling_layer": False} if head == "BertForMaskedLM" else {}
    config = transformers.BertConfig(**TEXT)
    base = randomise(transformers.BertModel(config, **options))
    headed = getattr(transformers, head)(config)
    tree = flax_weights(base, transformers.FlaxBertModel(config, _do_init=False, **options)).weights
    kept = {f"bert.{name}": tensor for name, tensor in base.state_dict().items()}

    loaded = torch_weights(tree, headed, allow_missing=True)
    of_the_head = {".".join(key) for key in loaded.missing}
    assert of_the_head
    assert all(name.startswith(("classifier.", "cls.")) for name in of_the_head)
    assert not loaded.unexpected
    assert_same_tensors({name: loaded.weights[name] for name in kept}, kept)

    lost = left_by_the_original(headed, tree) & kept.keys()
    assert len(lost) > len(kept) / 2


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.module."])
def test_a_wrappers_prefix(prefix, tmp_path):
    module, model = bert()
    wrapped = {prefix + name: tensor for name, tensor in module.state_dict().items()}

    random = random_tree(flax_template(model).tree)
    _, left = by_the_original(wrapped, random, "bert")
    assert len(left) == len(flatten_dict(random))

    torch.save(wrapped, tmp_path / "pytorch_model.bin")
    for source in (wrapped, tmp_path / "pytorch_model.bin"):
        loaded = flax_weights(source, model)
        assert (loaded.missing, loaded.unexpected) == ((), ())
        assert_same_tensors(torch_weights(loaded.weights, module).weights, module.state_dict())
        assert_same_tensors(torch_weights(source, module).weights, module.state_dict())


# -- names that mean something else -----------------------------------------------------------------


class OwnTorch(nn.Module):
    """A layer, a batch norm, and parameters of its own under names that layers have too."""

    base_model_prefix = "model"

    def __init__(self, names):
        super().__init__()
        self.fc, self.bn, self.names = nn.Linear(4, 5), nn.BatchNorm1d(5), names
        for name in names:
            setattr(self, name, nn.Parameter(torch.empty(5)))

    def forward(self, x):
        x = self.bn(self.fc(x))
        for name in self.names:
            x = x * getattr(self, name) + 1
        return x


class OwnLinen(linen.Module):
    names: tuple[str, ...]

    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=True, name="bn")(linen.Dense(5, name="fc")(x))
        for name in self.names:
            x = x * self.param(name, linen.initializers.ones, (5,)) + 1
        return x


@pytest.mark.parametrize(
    ("names", "lost_there", "lost_back"),
    [
        (("gamma",), {"params.gamma"}, set()),
        (("beta",), {"params.beta"}, set()),
        (("scale",), set(), {"scale"}),
        (("token_mean",), {"params.token_mean"}, {"token_mean"}),
        (("variation",), {"params.variation"}, {"variation"}),
        (("mean", "var"), {"params.mean", "params.var"}, {"mean", "var"}),
        (("weight", "gamma"), {"params.gamma"}, set()),
        (("gamma", "weight"), {"params.gamma"}, set()),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_parameters_that_are_called_like_those_of_layers(names, lost_there, lost_back):
    module, model = uncounted(OwnTorch(names)), OwnLinen(names)
    template, x = bridge_flax.template(model, spec(2, 4)), np.ones((2, 4), np.float32)

    _, left = by_the_original(module.state_dict(), random_tree(template.tree))
    assert left == lost_there
    tree = assert_from_torch_and_back(module, template, model, x)
    for name in names:
        assert largest_difference(tree["params"][name], getattr(module, name).detach()) == 0
    assert left_by_the_original(module, tree) == lost_back
    assert lost_there or lost_back


@pytest.mark.parametrize("order", [("weight", "gamma"), ("gamma", "weight")], ids="+".join)
def test_a_norm_with_both_weight_and_gamma_is_refused(order):
    """One of them belongs to something else; which one, nobody can tell."""
    state_dict = {f"norm.{name}": torch.full((4,), float(value)) for value, name in enumerate(order)}
    state_dict["norm.bias"] = torch.zeros(4)
    like = {"norm": {"scale": jnp.zeros(4), "bias": jnp.zeros(4)}}

    last_wins, left = by_the_original(state_dict, like)
    assert not left
    assert last_wins["norm"]["scale"].tolist() == [1.0] * 4

    with refused(MismatchError, "norm.gamma"):
        from_neutral(to_neutral(state_dict, "torch"), "flax", like=like)


# -- numbers ----------------------------------------------------------------------------------------


def test_numbers_that_jax_has_no_room_for(tmp_path):
    """JAX's usual arrays have 32 bits: what needs more stays numpy's, in memory and in files."""
    wide = {
        "ids": torch.tensor([2**40, 1]),
        "big": torch.tensor([1e300, 1.0], dtype=torch.float64),
    }
    with np.errstate(over="ignore"):
        narrow, left = by_the_original(wide, {"ids": jnp.zeros(2, int), "big": jnp.zeros(2)})
    assert not left
    assert narrow["ids"].tolist() == [0, 1]
    assert np.isinf(narrow["big"][0])

    made = from_neutral(to_neutral(wide, "torch"), "flax")
    assert made["ids"].tolist() == [2**40, 1]
    assert made["big"].tolist() == [1e300, 1.0]
    assert_same_tensors(from_neutral(to_neutral(made, "flax"), "torch"), wide)

    torch.save(wide, tmp_path / "pytorch_model.bin")
    bridge_core.convert(tmp_path / "pytorch_model.bin", tmp_path / "flax_model.msgpack", to="flax")
    tree = load_flax(tmp_path / "flax_model.msgpack")
    assert tree["ids"].tolist() == [2**40, 1]
    assert tree["big"].tolist() == [1e300, 1.0]
