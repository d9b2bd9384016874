"""Loading into live arrays: JAX from torch's file, and a torch module from Flax's.

Both against safetensors' own loading of a file that is in the wanted layout already.

    python benchmarks/load.py --sizes 2GB --repeats 5

Each contestant is a fresh process. The clock runs inside it, after it loaded a tiny file in the same way,
which settles imports and first uses. It stops when one byte of every page of every array was looked at, since
a mapped file is not read before that. The page cache is warm.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import checkpoints
import measure
import numpy as np

from bridge_core import FlatState, convert, open_state, save_state
from bridge_core.state import unflatten_tree

Arrays = list[np.ndarray]
Loader = Callable[[], Arrays]

_RUN = "import sys; sys.path.insert(0, {here!r}); import load; load.timed({name!r}, {tiny!r}, {files!r})"
_PAGE = 4096
_TINY = {"embed_tokens.weight": (16, 8), "layers.0.up_proj.weight": (16, 8), "layers.0.norm.weight": (8,)}


def jax_from_torch(files: Mapping[str, str]) -> Loader:
    """Build JAX arrays in Flax's layout from a torch checkpoint."""
    import jax

    import bridge_flax
    import bridge_torch

    with open_state(files["flax"]) as state:
        specs = {key: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for key, spec in state.specs().items()}
    like = unflatten_tree(specs)

    def load() -> Arrays:
        with open_state(files["torch"]) as state:
            tree = bridge_flax.from_neutral(bridge_torch.to_neutral(state), like=like)
        return [np.asarray(leaf) for leaf in jax.block_until_ready(jax.tree.leaves(tree))]

    return load


def jax_own(files: Mapping[str, str]) -> Loader:
    """Load a file in Flax's layout with safetensors."""
    import jax
    from safetensors.flax import load_file

    def load() -> Arrays:
        return [np.asarray(leaf) for leaf in jax.block_until_ready(list(load_file(files["flax"]).values()))]

    return load


def torch_from_flax(files: Mapping[str, str]) -> Loader:
    """Fill a torch module from a Flax checkpoint."""
    import bridge_flax
    import bridge_torch

    module = _module(files["torch"])

    def load() -> Arrays:
        with open_state(files["flax"]) as state:
            weights = bridge_torch.from_neutral(bridge_flax.to_neutral(state), like=module)
        return _assigned(module, weights)

    return load


def torch_load(files: Mapping[str, str]) -> Loader:
    """Fill a torch module without values from a Flax checkpoint, in one call."""
    import torch

    import bridge_torch

    def load() -> Arrays:
        module = bridge_torch.load(files["flax"], like=_module(files["torch"]))
        return [parameter.detach().view(torch.int16).numpy() for parameter in module.parameters()]

    return load


def torch_load_own(files: Mapping[str, str]) -> Loader:
    """Fill a torch module without values from a file in torch's layout, in one call."""
    return torch_load({**files, "flax": files["torch"]})


def torch_own(files: Mapping[str, str], **options: Any) -> Loader:
    """Fill a torch module from a file in torch's layout with safetensors."""
    from safetensors.torch import load_file

    module = _module(files["torch"])
    return lambda: _assigned(module, load_file(files["torch"], **options))


def idle(make: Callable[[Mapping[str, str]], Loader], files: Mapping[str, str]) -> Loader:
    """Import what a contestant imports, and load nothing."""
    make(files)
    return list


def _module(path: str) -> Any:
    """Return a module on the meta device with the layers that a torch checkpoint of a Llama has."""
    import torch

    with open_state(path) as state:
        specs = state.specs()
    root = torch.nn.Module()
    for key, spec in specs.items():
        parent = root
        for part in key[:-2]:
            if part not in parent._modules:
                parent.add_module(part, torch.nn.Module())
            parent = parent.get_submodule(part)
        options = {"device": "meta", "dtype": torch.bfloat16}
        if len(spec.shape) == 1:
            layer: Any = torch.nn.RMSNorm(spec.shape, **options)
        elif key[-2] == "embed_tokens":
            layer = torch.nn.Embedding(*spec.shape, **options)
        else:
            layer = torch.nn.Linear(*reversed(spec.shape), bias=False, **options)
        parent.add_module(key[-2], layer)
    return root


def _assigned(module: Any, weights: Mapping[str, Any]) -> Arrays:
    import torch

    module.load_state_dict(weights, assign=True)
    return [parameter.detach().view(torch.int16).numpy() for parameter in module.parameters()]


_MAPPED, _READ = "safetensors.torch.load_file, mapped", "safetensors.torch.load_file, read"
_CONTESTANTS: Mapping[str, Callable[[Mapping[str, str]], Loader]] = {
    "safetensors.flax.load_file": jax_own,
    "torch file to JAX": jax_from_torch,
    "imports for JAX": functools.partial(idle, jax_from_torch),
    _READ: functools.partial(torch_own, backend="pread"),
    _MAPPED: torch_own,
    "Flax file to torch module": torch_from_flax,
    "bridge_torch.load of a Flax file": torch_load,
    "bridge_torch.load of a torch file": torch_load_own,
    "imports for torch": functools.partial(idle, torch_from_flax),
}
_GROUPS = {
    "into JAX arrays": (("safetensors.flax.load_file", "torch file to JAX"), "imports for JAX"),
    "into a torch module": (
        (
            _READ,
            _MAPPED,
            "Flax file to torch module",
            "bridge_torch.load of a Flax file",
            "bridge_torch.load of a torch file",
        ),
        "imports for torch",
    ),
}


def timed(name: str, tiny: Mapping[str, str], files: Mapping[str, str]) -> None:
    """Run one contestant in this process, and print what it took."""
    make = _CONTESTANTS[name]
    make(tiny)()
    load = make(files)
    started = time.perf_counter()
    arrays = load()
    loaded = time.perf_counter()
    seen = sum(int(a.reshape(-1).view(np.uint8)[::_PAGE].max()) for a in arrays)
    facts = {"load": loaded - started, "touched": time.perf_counter() - started, "seen": seen}
    print(json.dumps({**facts, "bytes": sum(a.nbytes for a in arrays)}))


def main() -> None:
    arguments = measure.parser(__doc__, repeats=5, sizes=["2GB"]).parse_args()
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(work)
    tiny = {name: str(work / f"tiny-{name}.safetensors") for name in ("torch", "flax")}
    state = FlatState({name: checkpoints.noise(shape) for name, shape in _TINY.items()}, layout="torch")
    save_state(state, tiny["torch"], overwrite=True)
    convert(tiny["torch"], tiny["flax"], to="flax", accept_guesses=True, overwrite=True)
    sizes = {}
    for size in arguments.sizes:
        files = {
            "torch": str(checkpoints.single(work, size) / "model.safetensors"),
            "flax": str(work / f"flax-{size}.safetensors"),
        }
        convert(files["torch"], files["flax"], to="flax", accept_guesses=True, verify=False, overwrite=True)
        contestants = {}
        for name in _CONTESTANTS:
            code = _RUN.format(here=str(measure.HERE), name=name, tiny=tiny, files=files)
            contestants[name] = functools.partial(measure.run, measure.python(code))
        with open_state(files["torch"]) as state:
            total = state.nbytes
        touch = functools.partial(measure.touch_memory, 2 * total + (1 << 30))
        once = [imports for _, imports in _GROUPS.values()]
        results = measure.interleaved(contestants, arguments.repeats, touch, once=once)
        print(f"\n{total / 1e9:.2f} GB of bfloat16, page cache warm; memory is above the imports")
        sizes[size] = {"bytes": total, "groups": {g: _group(g, results, total) for g in _GROUPS}}
    measure.finish(arguments, facts, {"sizes": sizes})


def _group(group: str, results: Mapping[str, list[measure.Run]], total: int) -> dict[str, Any]:
    names, imports = _GROUPS[group]
    idle_peak = measure.median(r.peak_bytes for r in results[imports])
    base = 0.0
    rows, made = [], {}
    for name in names:
        said = [json.loads(r.output) for r in results[name]]
        if any(facts["bytes"] != total for facts in said):
            raise RuntimeError(f"{name} loaded {said[0]['bytes']} bytes of {total}")
        touched, loaded = [f["touched"] for f in said], [f["load"] for f in said]
        middle = measure.median(touched)
        base = base or middle
        peak = measure.median(r.peak_bytes for r in results[name]) - idle_peak
        rows.append(
            (
                name,
                f"{middle:.2f}",
                f"{min(touched):.2f}",
                f"{max(touched):.2f}",
                f"{middle / base:.2f}",
                f"{measure.median(loaded):.2f}",
                f"{measure.median(r.seconds for r in results[name]):.2f}",
                f"{peak / 1e6:.0f}",
            )
        )
        runs = measure.as_json({name: results[name]})[name]
        made[name] = {"touched": touched, "load": loaded, "runs": runs}
    head = (group, "median s", "min", "max", "ratio", "untouched s", "process s", "peak MB")
    print(measure.text_table(head, rows))
    return {"baseline": names[0], "idle_peak_bytes": idle_peak, "contestants": made}


if __name__ == "__main__":
    main()
