"""Loading a Flax model of transformers from torch's weights, as transformers does it and with ckptbridge.

    python benchmarks/from_pretrained.py --sizes 2GB

Each contestant is a fresh process that calls ``FlaxLlamaForCausalLM.from_pretrained(folder, from_pt=True)``.
The clock runs inside it, after the imports, and stops when one byte of every page of every array was seen.
Needs transformers 4.57 and ckptbridge-transformers. The page cache is warm, and so is the memory: before each
run a process touches as much of it as the largest contestant needs, since the host of a virtual machine may
have taken free pages back, and gives them slowly.
"""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import checkpoints
import measure
import numpy as np

_RUN = "import sys; sys.path.insert(0, {here!r}); import from_pretrained as me; me.timed({name!r}, {path!r})"
_PAGE = 4096
_TOUCHED = 5
"""Times the checkpoint's size."""
_IDLE = "imports alone"
_THEIRS = "transformers, from_pt=True"
_OURS = "the same after compat.install()"
_ABSTRACT = "and with _do_init=False"
_WEIGHTS = "flax_weights(folder, model)"


def load(name: str, folder: str) -> Any:
    """Return the parameters, as one contestant loads them."""
    import jax.numpy as jnp
    from transformers import AutoConfig, FlaxLlamaForCausalLM, LlamaForCausalLM  # noqa: F401 - so is the import

    import ckptbridge_transformers.compat

    started = time.perf_counter()
    params: Any = {}
    if name == _WEIGHTS:
        model = FlaxLlamaForCausalLM(AutoConfig.from_pretrained(folder), _do_init=False)
        params = ckptbridge_transformers.flax_weights(folder, model).weights
    elif name != _IDLE:
        if name != _THEIRS:
            ckptbridge_transformers.compat.install()
        options = {"_do_init": False} if name == _ABSTRACT else {}
        loaded = FlaxLlamaForCausalLM.from_pretrained(folder, from_pt=True, dtype=jnp.bfloat16, **options)
        params = loaded[1] if name == _ABSTRACT else loaded.params
    return params, started


def timed(name: str, folder: str) -> None:
    """Run one contestant in this process, and print what it took."""
    import jax

    params, started = load(name, folder)
    arrays = [np.asarray(leaf) for leaf in jax.block_until_ready(jax.tree.leaves(params))]
    seen = sum(int(a.reshape(-1).view(np.uint8)[::_PAGE].max()) for a in arrays)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "seen": seen, "bytes": sum(a.nbytes for a in arrays)}))


def main() -> None:
    parser = measure.parser(__doc__, repeats=3, sizes=["2GB"])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(arguments.work)
    sizes = {}
    for size in arguments.sizes:
        folder = checkpoints.single(arguments.work, size)
        contestants = {}
        for name in (_THEIRS, _OURS, _ABSTRACT, _WEIGHTS, _IDLE):
            code = _RUN.format(here=str(measure.HERE), name=name, path=str(folder))
            contestants[name] = functools.partial(measure.run, measure.python(code))
        touched = _TOUCHED * checkpoints.bytes_in(folder)
        results = measure.interleaved(
            contestants,
            arguments.repeats,
            lambda touched=touched: measure.touch_memory(touched),
            warm_up=False,
        )
        sizes[size] = _report(results)
    measure.finish(arguments, facts, {"baseline": _THEIRS, "sizes": sizes})


def _report(results: dict[str, list[measure.Run]]) -> dict[str, Any]:
    idle = measure.median(r.peak_bytes for r in results.pop(_IDLE))
    said = {name: [json.loads(r.output) for r in runs] for name, runs in results.items()}
    totals = {facts["bytes"] for found in said.values() for facts in found}
    if len(totals) != 1:
        raise RuntimeError(f"the contestants loaded different amounts: {sorted(totals)} bytes")
    (total,) = totals
    base = measure.median(facts["seconds"] for facts in said[_THEIRS])
    rows, runs = [], {}
    for name, found in said.items():
        seconds = [facts["seconds"] for facts in found]
        peaks = [r.peak_bytes - idle for r in results[name]]
        middle, peak = measure.median(seconds), measure.median(peaks)
        rows.append(
            (
                name,
                f"{middle:.2f}",
                f"{min(seconds):.2f}",
                f"{max(seconds):.2f}",
                str(len(seconds)),
                f"{base / middle:.1f}",
                f"{peak / 1e6:.0f}",
                f"{peak / total:.2f}",
            )
        )
        runs[name] = {"seconds": seconds, "peak_bytes": peaks}
    print(f"\n{total / 1e9:.2f} GB of bfloat16, page cache warm; memory above imports of {idle / 1e6:.0f} MB")
    head = ("", "median s", "min", "max", "runs", "times faster", "peak MB", "x parameters")
    print(measure.text_table(head, rows))
    return {"bytes": total, "idle_peak_bytes": idle, "contestants": runs}


if __name__ == "__main__":
    main()
