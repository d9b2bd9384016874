#!/usr/bin/env python3
"""Tries the installed distributions as a user would; `.ci/release` runs it for each part that it installs.

    python -I .ci/release_try.py core|plugins|frameworks

Nothing of the source tree is on the path: ``-I`` leaves the script's folder and PYTHONPATH out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PREFIX = Path(sys.prefix)
COMMAND = Path(sys.executable).parent / "ckptbridge"
OURS = ("bridge_core", "bridge_torch", "bridge_flax")
PLUGINS = ("ckptbridge_hdf5", "ckptbridge_orbax", "ckptbridge_recipes", "ckptbridge_remote")
NOT_NEEDED = (
    "torch",
    "jax",
    "flax",
    "transformers",
    "safetensors",
    "msgpack",
    "h5py",
    "tensorstore",
    "huggingface_hub",
    "obstore",
    "pytest",
)


def ckptbridge(*words: str, code: int = 0, **more: str) -> str:
    """Run the command, and return what it printed; its exit code must be ``code``."""
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, env={**os.environ, **more})
    if done.returncode != code:
        sys.exit(f"ckptbridge {' '.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check(holds: bool, what: str) -> None:
    """End with ``what``, if it does not hold."""
    if not holds:
        sys.exit(f"not so: {what}")


def check_installed(*packages: str) -> None:
    """Check that packages come from this environment, and that the plugins load."""
    for package in packages:
        spec = importlib.util.find_spec(package)
        check(spec is not None and PREFIX in Path(str(spec.origin)).parents, f"{package} is installed here")
    listed = json.loads(ckptbridge("plugins", "--json"))
    check(not (listed["failures"] or listed["conflicts"]), f"all plugins load: {listed}")


def there_and_back(folder: Path, *steps: tuple[str, ...]) -> None:
    """Convert a checkpoint through files, each with its options; in the end every byte must be the same."""
    import numpy as np

    import bridge_core

    weights = {
        "encoder.dense.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "encoder.dense.bias": np.zeros(3, np.float32),
        "norm.weight": np.ones(3, np.float32),
        "norm.bias": np.full(3, -0.0, np.float32),
    }
    names = [str(folder / name) for name in ("model.safetensors", *(name for name, *_ in steps))]
    bridge_core.save_state(bridge_core.FlatState(weights, layout="torch"), names[0])
    for source, target, (_, *options) in zip(names, names[1:], steps, strict=False):
        report = json.loads(ckptbridge("convert", source, target, "--json", *options))
        check(report["exact"] and report["verified"], f"{target} is exact and verified")
    ckptbridge("verify", *names[:2])
    ckptbridge("diff", names[0], names[-1])


def names_extra(url: str, extra: str) -> None:
    """Check that a URL is refused with the extra that reads it."""
    refused = json.loads(ckptbridge("inspect", url, "--json", code=2))
    check(f"ckptbridge[{extra}]" in json.dumps(refused), f"{url} is refused with the extra {extra}")


def core(folder: Path) -> None:
    """The distribution ckptbridge, with nothing that it does not need."""
    check(not any(map(importlib.util.find_spec, NOT_NEEDED)), f"none of {', '.join(NOT_NEEDED)} is installed")
    check_installed(*OURS)
    import bridge_core
    import bridge_flax
    import bridge_torch

    for package in (bridge_core, bridge_flax, bridge_torch):
        check(
            all(hasattr(package, name) for name in package.__all__),
            f"{package.__name__} has its public names",
        )
    version = importlib.metadata.version("ckptbridge")
    check(ckptbridge("--version").split() == ["ckptbridge", version], f"--version prints {version}")
    for shell in ("bash", "zsh", "fish"):
        source = ckptbridge(_CKPTBRIDGE_COMPLETE=f"{shell}_source")
        check("ckptbridge" in source, f"the completion of {shell} is printed")
    there_and_back(
        folder,
        ("flax.msgpack", "--to", "flax"),
        ("torch.pt", "--to", "torch"),
        ("neutral.npz", "--to", "neutral"),
        ("again.safetensors", "--to", "torch"),
    )
    ckptbridge("convert", "absent.pt", "x.msgpack", "--to", "flax", code=2)
    names_extra("hf://org/model", "hf")
    for kind in ("layer", "format", "framework", "library", "recipe", "filesystem"):
        ckptbridge("plugins", "new", kind, f"tried-{kind}", "--into", str(folder))
        check((folder / f"ckptbridge-tried-{kind}/pyproject.toml").exists(), f"a new {kind} is written")


def plugins(folder: Path) -> None:
    """The plugins that need no framework."""
    check_installed(*OURS, *PLUGINS)
    from bridge_core import default_registry

    recipes = default_registry().recipes
    check(len(recipes) > 60 and all(recipe.rules() for recipe in recipes.values()), "every recipe has rules")
    check(len(ckptbridge("recipes").splitlines()) == len(recipes), "the recipes are listed")
    names_extra("hf://org/model", "hf")  # the plugin without huggingface_hub
    there_and_back(
        folder,
        ("flax.h5", "--to", "flax"),
        ("orbax", "--to", "flax", "--format", "orbax"),
        ("torch.pt", "--to", "torch"),
    )


def frameworks(folder: Path) -> None:
    """Everything, with torch, JAX, Flax and transformers."""
    check_installed(*OURS, *PLUGINS, "ckptbridge_transformers")
    import flax.linen
    import numpy as np
    import torch
    import transformers

    import bridge_flax
    import bridge_torch

    source, target = torch.nn.Linear(4, 3), flax.linen.Dense(3)
    inputs = np.ones((2, 4), np.float32)
    state = bridge_torch.to_neutral(source)
    variables = bridge_flax.from_neutral(state, like=bridge_flax.template(target, inputs))
    expected = source(torch.from_numpy(inputs)).detach().numpy()
    check(
        np.allclose(target.apply(variables, inputs), expected, atol=1e-6), "torch and Flax compute the same"
    )

    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertModel(config)
    model.save_pretrained(folder / "bert")
    ckptbridge("convert", str(folder / "bert"), f"{folder}/flax/", "--to", "flax")
    ckptbridge("convert", f"{folder}/flax", f"{folder}/back/", "--to", "torch")
    again = transformers.BertModel.from_pretrained(folder / "back").state_dict()
    check(
        all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items()),
        "BERT comes back",
    )


def main() -> None:
    """Run the part that is asked for."""
    part = {"core": core, "plugins": plugins, "frameworks": frameworks}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        part(Path(folder))
    print(f"the installed wheels work: {sys.argv[1]}")


if __name__ == "__main__":
    main()
