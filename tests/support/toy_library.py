"""A small model library of the tests' own: folders whose ``zoo.json`` names a class of two frameworks."""

import json
from types import SimpleNamespace

import flax.linen as linen
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

import bridge_flax
from bridge_core import Guidance, MalformedFile, UsageError, default_registry, hookimpl, save_state

CONFIG = "zoo.json"


class Net(nn.Module):
    """Two layers that names and shapes alone cannot tell apart, and a head."""

    def __init__(self, tied=False):
        super().__init__()
        self.wte = nn.Embedding(6, 4)
        self.proj = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 6, bias=False)
        if tied:
            self.head.weight = self.wte.weight


class Tied(Net):
    """The head is the embedding."""

    def __init__(self):
        super().__init__(tied=True)


class FlaxNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Embed(6, 4, name="wte")(x)
        x = linen.Dense(4, use_bias=False, name="proj")(x)
        return linen.Dense(6, use_bias=False, name="head")(x)


class FlaxTied(linen.Module):
    @linen.compact
    def __call__(self, x):
        wte = linen.Embed(6, 4, name="wte")
        return wte.attend(linen.Dense(4, use_bias=False, name="proj")(wte(x)))


CLASSES = {"Net": (Net, FlaxNet), "Tied": (Tied, FlaxTied)}


def models(name):
    """Return both abstract models of a class, by framework."""
    of_torch, of_flax = CLASSES[name]
    with torch.device("meta"):
        return {
            "torch": of_torch(),
            "flax": bridge_flax.template(of_flax(), jnp.zeros((1, 2), jnp.int32)),
        }


class Zoo:
    """Knows folders with a ``zoo.json``; what it returns beside the models is set by the test."""

    name = "zoo"

    def __init__(self, **further):
        self.further = {"sidecar_files": (CONFIG,), **further}
        self.asked = []

    def guide(self, checkpoint):
        self.asked.append(checkpoint)
        path = checkpoint.folder / CONFIG
        if not path.is_file():
            return None
        try:
            config = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as err:
            raise MalformedFile(f"is no JSON: {err}.", path=path) from None
        name = checkpoint.model or (config.get("class") if isinstance(config, dict) else None)
        if not isinstance(name, str) or name not in CLASSES:
            if checkpoint.model is None:
                return None
            raise UsageError(f"the zoo has no class {name!r}.", hint=f"It has {', '.join(CLASSES)}.")
        made = models(name)
        given = {"model": made.get(checkpoint.state.layout), "like": made.get(checkpoint.to)}
        return Guidance(**{**given, **self.further})


class Raises(Zoo):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def guide(self, checkpoint):
        raise self.error


def plugin(*libraries):
    """Return a plugin that provides these."""
    return SimpleNamespace(bridge_libraries=hookimpl(lambda: libraries))


def zoo_registry(*libraries):
    """Return the registry of everything built in, with these libraries and no others."""
    return (
        default_registry()
        .with_tables(libraries={})
        .extend(plugin(*libraries), name="zoo", distribution="tests")
    )


def weights(name="Net", seed=0):
    """Return a class's state dict as arrays, each name once."""
    made = CLASSES[name][0]()
    values = np.random.default_rng(seed)
    tied = {"head.weight"} if name == "Tied" else set()
    return {
        key: values.normal(size=tuple(tensor.shape)).astype("f4")
        for key, tensor in made.state_dict().items()
        if key not in tied
    }


def make_folder(folder, name="Net", *, config=True, seed=0, **options):
    """Write a checkpoint folder of a class."""
    folder.mkdir()
    options.setdefault("max_shard_size", 1 << 20)
    save_state(weights(name, seed), folder, format="safetensors", **options)
    if config:
        (folder / CONFIG).write_text(json.dumps({"class": name}))
    return folder
