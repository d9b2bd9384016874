"""Helps to prove a rule file: random weights, files of both sides, and comparison with a mapping by hand."""

from __future__ import annotations

import json
from pathlib import Path

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file
from safetensors.torch import save_file

import bridge_core
import ckptbridge_recipes
from support.arrays import assert_same_bits

__all__ = [
    "RECIPES",
    "RULES",
    "arrays",
    "assert_same_outputs",
    "assert_same_tree",
    "changed",
    "randomised",
    "run_linen",
    "saved_tree",
    "stored",
    "stored_tree",
    "torch_file",
]

RULES = Path(__file__).parents[1] / "data" / "rules"
RECIPES = Path(ckptbridge_recipes.__file__).parent / "recipes"


def randomised(module, seed=0):
    """Return the module, all its parameters and statistics random."""
    generator = torch.Generator().manual_seed(seed)

    def normal(like, scale):
        return torch.randn(like.shape, generator=generator) * scale

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(normal(parameter, 0.1))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(normal(buffer, 0.1))
            elif name.endswith("running_var"):
                buffer.copy_(normal(buffer, 1.0).abs() + 0.5)
            elif name.endswith("num_batches_tracked"):
                buffer.fill_(7)
    return module.eval()


def arrays(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def torch_file(weights, path, config=None):
    """Write arrays, or a module's state, in a folder of their own with the config next to them."""
    weights = arrays(weights) if isinstance(weights, torch.nn.Module) else weights
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.from_numpy(np.array(value)) for name, value in weights.items()}, path)
    if config is not None:
        (path.parent / "config.json").write_text(json.dumps(config))
    return path


def stored_tree(path):
    """Return a Flax file's variables, flat: ``params/Dense_0/kernel`` -> array."""
    with bridge_core.open_state(path) as state:
        found = {"/".join(key): np.asarray(state[key]) for key in state}
    return found if any(name.startswith("params/") for name in found) else with_params(found)


def with_params(tree):
    return {f"params/{name}": value for name, value in tree.items()}


def saved_tree(tree, path):
    """Write variables as ``flax.serialization`` does."""
    path.write_bytes(flax.serialization.msgpack_serialize(unflatten_dict(tree, sep="/")))
    return path


def assert_same_tree(found, wanted):
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        assert_same_bits(found[name], value, name)


def run_linen(model, tree, *inputs):
    """Return the outputs of a model that has these variables and no others."""
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs))
    shapes = {name: leaf.shape for name, leaf in flatten_dict(abstract, sep="/").items()}
    assert shapes == {name: value.shape for name, value in tree.items()}
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(model.apply)(unflatten_dict(tree, sep="/"), *map(jnp.asarray, inputs)))


def assert_same_outputs(found, wanted):
    """The largest difference is at most 1e-4 of the largest value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted.detach(), np.float64)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def stored(path):
    """Return the tensors of a safetensors file, read by its own library."""
    return load_file(path)


def changed(rules, old, new, folder):
    """Return a copy of a rule file in which one text is another: a control, or a variant."""
    text = rules.read_text()
    assert text.count(old) == 1
    (folder / "changed.toml").write_text(text.replace(old, new))
    return folder / "changed.toml"
