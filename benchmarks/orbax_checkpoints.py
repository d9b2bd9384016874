"""Orbax checkpoints: to safetensors and back, and the bytes that a slice costs.

    python benchmarks/orbax_checkpoints.py --size 2GB --repeats 3 --json out.json

The source is saved by Orbax on four CPU devices, every tensor in four shards along its first axis, in one
OCDBT database. Each run is a fresh process, all in turn, and every one syncs what it wrote to the disk.

- ``read, cp``: tensorstore reads each array at once and drops it; ``cp`` copies what a conversion writes.
- ``write``: tensorstore writes the arrays of a safetensors file as Orbax does: zarr, zstd, one OCDBT
  database.
- ``script``: `orbax_script.py`.

Slices are an eighth of an array, along the first axis and the second: of arrays that ckptbridge writes, and
of arrays that Orbax saved in eight shards. Bytes are what the process asked the system to read.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import measure

from bridge_core import FlatState, convert, save_state
from bridge_core.transfer import parse_size

_TO_TORCH, _TO_FLAX = {"to": "torch"}, {"to": "flax"}
_CONVERT = "from bridge_core import convert; convert({src!r}, {dst!r}, accept_guesses=True, **{options!r})"
_OVER_FIRST_AXIS = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count={devices}"
import jax, numpy as np, orbax.checkpoint as ocp
from bridge_core import open_state
P, mesh = jax.sharding.PartitionSpec, jax.sharding.Mesh(np.array(jax.devices()), ("x",))
with open_state({src!r}) as state:
    arrays = {{}}
    for key in state:
        parts = [None] * len(state.spec(key).shape)
        parts[{axis} if len(parts) > {axis} else 0] = "x"
        node = arrays
        for part in key[:-1]:
            node = node.setdefault(part, {{}})
        node[key[-1]] = jax.device_put(state[key], jax.sharding.NamedSharding(mesh, P(*parts)))
with ocp.PyTreeCheckpointer() as saver:
    saver.save({dst!r}, {{"params": arrays}})
"""
_READ = """
import tensorstore as ts
folder = {{"driver": "file", "path": {src!r} + "/"}}
base = {{"driver": "ocdbt", "base": folder}}
for key in ts.KvStore.open(base).result().list().result():
    name, slash, last = key.decode().rpartition("/")
    if last == ".zarray":
        spec = {{"driver": "zarr", "kvstore": {{**base, "path": name + "/"}}}}
        ts.open(spec, read=True).result().read().result()
"""
_WRITE = """
import json, ml_dtypes, numpy as np, tensorstore as ts
data = np.memmap({src!r}, "u1", "r")
size = int(data[:8].view("u8")[0])
context = ts.Context({{"cache_pool#ocdbt": {{"total_bytes_limit": 10**8}}}})
folder = {{"driver": "file", "path": {dst!r} + "/"}}
base = {{"driver": "ocdbt", "base": folder, "cache_pool": "cache_pool#ocdbt"}}
base["config"] = {{"max_inline_value_bytes": 1024, "max_decoded_node_bytes": 100000000}}
for name, entry in json.loads(bytes(data[8 : 8 + size])).items():
    if name != "__metadata__":
        start, end = entry["data_offsets"]
        array = data[8 + size + start : 8 + size + end].view(ml_dtypes.bfloat16).reshape(entry["shape"])
        spec = {{"driver": "zarr", "kvstore": {{**base, "path": name + "/"}}}}
        spec["metadata"] = {{"shape": array.shape, "chunks": array.shape}}
        spec["metadata"] |= {{"dtype": "bfloat16", "compressor": {{"id": "zstd", "level": 1}}}}
        spec["store_data_equal_to_fill_value"] = True
        ts.open(spec, create=True, context=context).result().write(array).result()
"""
_SLICE = """
import re
from bridge_core import open_state
def read():
    with open("/proc/self/io") as file:
        return int(re.search("rchar: ([0-9]+)", file.read())[1])
with open_state({src!r}) as state:
    for key in state:
        shape = state.spec(key).shape
        region = [slice(None)] * len(shape)
        region[{axis}] = slice(3 * shape[{axis}] // 8, 4 * shape[{axis}] // 8)
        before = read()
        taken = state.read(key, tuple(region))
        print(read() - before, taken.nbytes)
"""
_SYNC = 'find "$0" -type f -exec sync {} +'


class Contest:
    """The contestants at one size; makes their files.

    Args:
        work: The folder for the files.
        size: Of the checkpoint.
        max_ram: Budget of the conversions.
    """

    def __init__(self, work: Path, size: str, max_ram: str) -> None:
        self._work, self._max_ram = work, max_ram
        self._out = work / "orbax-out"
        self._torch = work / f"orbax-torch-{size}.safetensors"
        self._flax = work / f"orbax-flax-{size}.safetensors"
        self._orbax = work / f"orbax-{size}"
        if not self._torch.exists():
            save_state(checkpoints.Llama.of(parse_size(size)).state(), self._torch)
        if not self._flax.exists():
            convert(self._torch, self._flax, to="flax", accept_guesses=True)
        if not self._orbax.exists():
            save_with_orbax(self._flax, self._orbax, devices=4)
        self.nbytes = checkpoints.bytes_in(self._torch)
        """Bytes of the tensors."""

    def contestants(self) -> dict[str, Callable[[], measure.Run]]:
        """Return all, both baselines first."""
        runners: dict[str, Callable[[], measure.Run]] = {"read, cp": self._read, "write": self._write}
        for name, source, options in (
            ("Orbax to torch", self._orbax, _TO_TORCH),
            ("Orbax to Flax", self._orbax, _TO_FLAX),
            ("torch to Orbax", self._torch, {**_TO_FLAX, "format": "orbax"}),
            ("Flax to Orbax", self._flax, {**_TO_FLAX, "format": "orbax"}),
        ):
            for verify in (False, True):
                runners[name + ", verified" * verify] = self._converting(
                    source, {**options, "verify": verify}
                )
        runners["script"] = self._script
        return runners

    def clear(self) -> None:
        """Make every run start from the same state."""
        measure.remove(self._out)

    def _read(self) -> measure.Run:
        command = '"$0" -c "$1" && cp "$2" "$3" && sync "$3"'
        code = _READ.format(src=str(self._orbax))
        return measure.run(["/bin/sh", "-c", command, measure.PYTHON, code, str(self._torch), str(self._out)])

    def _write(self) -> measure.Run:
        self._out.mkdir()
        code = _WRITE.format(src=str(self._flax), dst=str(self._out))
        command = f'"$1" -c "$2" && {_SYNC}'
        return measure.run(["/bin/sh", "-c", command, str(self._out), measure.PYTHON, code])

    def _script(self) -> measure.Run:
        script = str(measure.HERE / "orbax_script.py")
        return measure.run([measure.PYTHON, script, str(self._orbax), str(self._out)])

    def _converting(self, source: Path, options: Mapping[str, object]) -> Callable[[], measure.Run]:
        whole = {"format": "safetensors", "max_ram": self._max_ram, **options}
        code = _CONVERT.format(src=str(source), dst=str(self._out), options=whole)
        return lambda: measure.run(measure.python(code))


def save_with_orbax(source: Path, destination: Path, *, devices: int, axis: int = 0) -> None:
    """Save the tensors of a file with Orbax, each in as many shards as there are devices."""
    code = _OVER_FIRST_AXIS.format(src=str(source), dst=str(destination), devices=devices, axis=axis)
    measure.run(measure.python(code))


def slices(work: Path, size: str) -> list[dict[str, Any]]:
    """Return how many bytes are read for an eighth of an array, by who wrote it and the axis."""
    side = 1 << max(8, (parse_size(size) // 16).bit_length() // 2)  # an eighth of the size, two bytes each
    state = FlatState({"w": checkpoints.noise((side, side))}, layout="flax")
    source = work / "orbax-slice.safetensors"
    measure.remove(source)
    save_state(state, source)
    costs = []
    for name, axis in (("ckptbridge", 0), ("ckptbridge", 1), ("Orbax", 0), ("Orbax", 1)):
        folder = work / "orbax-slice"
        measure.remove(folder)
        if name == "Orbax":
            save_with_orbax(source, folder, devices=8, axis=axis)
        else:
            save_state(state, folder, format="orbax")
        output = measure.run(measure.python(_SLICE.format(src=str(folder), axis=axis))).output
        read, nbytes = map(int, output.split())
        costs.append({"writer": name, "axis": axis, "read": read, "bytes": nbytes, "ratio": read / nbytes})
        measure.remove(folder)
    measure.remove(source)
    return costs


def criteria(results: Mapping[str, Sequence[measure.Run]], max_ram: int) -> list[dict[str, Any]]:
    """Return what the figures should be at most, and what they are."""
    seconds = {name: measure.median(r.seconds for r in runs) for name, runs in results.items()}
    peaks = {name: measure.median(r.peak_bytes for r in runs) for name, runs in results.items()}
    figures = []
    for name in seconds:
        if name in ("read, cp", "write", "script"):
            continue
        baseline = "write" if "to Orbax" in name else "read, cp"
        figures.append((f"{name}: time / {baseline}", seconds[name] / seconds[baseline], 1.3))
        figures.append((f"{name}: peak MB", peaks[name] / 1e6, (max_ram + 150e6) / 1e6))
        if name.startswith("Orbax to torch"):
            figures.append((f"{name}: time / script", seconds[name] / seconds["script"], 1 / 3))
            figures.append((f"{name}: peak / script", peaks[name] / peaks["script"], 1 / 4))
    return [{"what": what, "value": value, "at_most": limit} for what, value, limit in figures]


def main() -> None:
    parser = measure.parser(__doc__, repeats=3, sizes=["2GB"])
    parser.add_argument("--max-ram", default="256MB", help="budget of the conversions (default: 256MB)")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(work)
    idle = measure.idle_peak()
    sizes = {}
    for size in arguments.sizes:
        if shutil.disk_usage(work).free < 6 * parse_size(size):
            measure.say(f"{size}: left out, since the disk is too full")
            continue
        contest = Contest(work, size, arguments.max_ram)
        results = measure.interleaved(
            contest.contestants(), arguments.repeats, contest.clear, once=("script",)
        )
        print(f"\n{size}: {contest.nbytes / 1e6:.0f} MB of bfloat16, page cache warm")
        print(f"memory is above an interpreter with numpy ({idle / 1e6:.0f} MB)")
        print(measure.run_table(results, "read, cp", contest.nbytes, idle))
        figures = [*criteria(results, parse_size(arguments.max_ram))]
        parts = slices(work, size)
        figures += [
            {
                "what": f"slice of axis {part['axis']}, written by {part['writer']}: read / its bytes",
                "value": part["ratio"],
                "at_most": 1.2,
            }
            for part in parts
        ]
        rows = [
            (
                c["what"],
                f"{c['value']:.2f}",
                f"{c['at_most']:.2f}",
                "" if c["value"] <= c["at_most"] else "over",
            )
            for c in figures
        ]
        print(measure.text_table(("", "measured", "at most", ""), rows))
        sizes[size] = {
            "bytes": contest.nbytes,
            "runs": measure.as_json(results),
            "slices": parts,
            "criteria": figures,
        }
    measure.finish(
        arguments, facts, {"baseline": "read, cp", "cold": False, "idle_peak_bytes": idle, "sizes": sizes}
    )


if __name__ == "__main__":
    main()
