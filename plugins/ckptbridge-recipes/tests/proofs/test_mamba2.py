"""Mamba2 of transformers and mamba2-jax's model give the same outputs."""

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from stubs import imported, stub_torchvision
from support.rule_proofs import RECIPES, assert_same_outputs, changed, torch_file

from bridge_core import convert, open_state
from bridge_core.plugins import load_recipe

stub_torchvision()  # transformers' Mamba2 imports it where it is installed

from support.mamba2_names import SIZES, model  # noqa: E402 - as above

pytestmark = pytest.mark.proof

FILE = RECIPES / "mamba2-jax.toml"
TOKENS = np.random.default_rng(0).integers(1, SIZES["vocab_size"], (2, 11))


def outputs_of_jax(torch_model, recipe, folder):
    """Convert the weights, put them into mamba2-jax's model, and run it."""
    modeling = imported("mamba2_jax.modeling")
    config = {**torch_model.config.to_diff_dict(), "n_groups": 1}
    source = torch_file(torch_model, folder / "torch" / "model.safetensors", config)
    convert(source, folder / "flax.npz", to="flax", recipe=recipe)
    own = {name: value for name, value in SIZES.items() if name not in ("num_heads", "n_groups")}
    settings = modeling.Mamba2Config(
        **own, tie_word_embeddings=False, layer_norm_epsilon=torch_model.config.layer_norm_epsilon
    )
    graph, state = nnx.split(modeling.Mamba2ForCausalLM(settings, rngs=nnx.Rngs(0)))
    with open_state(folder / "flax.npz") as found:
        values = {tuple(map(str, key)): np.asarray(found[key]) for key in found}
    leaves = dict(nnx.to_flat_state(state))
    assert {tuple(map(str, path)) for path in leaves} == values.keys()
    for path, leaf in leaves.items():
        value = values[tuple(map(str, path))]
        assert leaf[...].shape == value.shape
        leaf[...] = jax.numpy.asarray(value)
    with jax.default_matmul_precision("highest"):
        made = nnx.merge(graph, state)(jax.numpy.asarray(TOKENS))
    return np.asarray(made["logits"] if isinstance(made, dict) else getattr(made, "logits", made))


def test_the_outputs_are_those_of_torch(tmp_path):
    torch_model = model()
    with torch.no_grad():
        logits = torch_model(torch.from_numpy(TOKENS)).logits
    assert_same_outputs(outputs_of_jax(torch_model, load_recipe(FILE), tmp_path), logits)


def test_a_wrong_rule_gives_other_outputs(tmp_path):
    torch_model = model()
    with torch.no_grad():
        logits = torch_model(torch.from_numpy(TOKENS)).logits
    right = '"mixer.D", "mixer.dt_bias"]\n'
    wrong = changed(
        FILE, right, ']\ntwo = { "mixer.D" = "mixer.dt_bias", "mixer.dt_bias" = "mixer.D" }\n', tmp_path
    )
    wrong.write_text(
        wrong.read_text()
        + '\n[[rule]]\nsource = "backbone.layers.{i:int}.{two}"\ntarget = "backbone.layers.{i:int}.{two}"\n'
    )
    found = outputs_of_jax(torch_model, load_recipe(wrong), tmp_path)
    with pytest.raises(AssertionError):
        assert_same_outputs(found, logits)
