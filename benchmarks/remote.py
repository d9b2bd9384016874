"""Reading and converting a checkpoint at a URL, against the client library reading the same bytes.

    python benchmarks/remote.py --sizes 1GB --delays 0 50

A server of this machine answers ranges of a safetensors file, each request after a delay in milliseconds. All
contestants read by obstore, and without it by Python's own client. The baseline hands all ranges of tensors
to obstore at once, which joins those near each other and has several requests in flight (with Python's
client, one after the other). What ckptbridge reads and converts is compared with the source, bit for bit,
before the runs. Each run is a process of its own, and the operating system tells its peak.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import measure
import remote_server

from bridge_core import compare_states, convert, load_values, open_state
from bridge_core.checkpoint.detect_format import identify
from bridge_core.io import RangeAnswer, RemoteEntry, RemotePath
from bridge_core.plugins import given_registry

BASELINE = "all ranges at once"
_BATCH = 256 << 20
"""Bytes that the client library is asked for at once: more would only be held in memory."""


def client(url: str):
    """Return a function that reads ranges of a file: their starts and ends to their bytes."""
    base, _, name = url.rpartition("/")
    try:
        import obstore
        from obstore.store import HTTPStore
    except ImportError:
        connection = http.client.HTTPConnection(base.removeprefix("http://"))

        def one(start, end):
            connection.request("GET", f"/{name}", headers={"Range": f"bytes={start}-{end - 1}"})
            return connection.getresponse().read()

        return lambda starts, ends: list(map(one, starts, ends))
    store = HTTPStore.from_url(base, client_options={"allow_http": True})
    return lambda starts, ends: obstore.get_ranges(store, name, starts=starts, ends=ends)


class ServedFiles:
    """The file system of the contestants: one client for each thread where it cannot be shared."""

    name, schemes = "served", ("http",)

    def __init__(self, url: str, size: int) -> None:
        self._size = size
        self._read = client(url)

    def pinned(self, url: str) -> str:
        return url

    def entry(self, url: str) -> RemoteEntry:
        return RemoteEntry("model.safetensors", self._size, "1")

    def entries(self, url: str) -> None:
        return None

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        return RangeAnswer(self._read([start], [start + nbytes])[0], "1")


def opened(url: str, size: int):
    file = RemotePath(ServedFiles(url, size), url).open_source()
    return identify(file, given_registry(None)).open(file)


def tensor_ranges(read) -> list[tuple[int, int]]:
    """Return the ranges of the tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", bytes(read([0], [8])[0]))
    header = json.loads(bytes(read([8], [8 + length])[0]))
    places = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return sorted((8 + length + start, 8 + length + stop) for start, stop in places)


def batches(ranges):
    """Yield runs of ranges of about `_BATCH` bytes."""
    batch, nbytes = [], 0
    for start, stop in ranges:
        batch.append((start, stop))
        nbytes += stop - start
        if nbytes >= _BATCH:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def at_once(url: str, size: int, out: Path) -> None:
    read = client(url)
    for batch in batches(tensor_ranges(read)):
        read(*map(list, zip(*batch, strict=True)))


def one_by_one(url: str, size: int, out: Path) -> None:
    read = client(url)
    for start, stop in tensor_ranges(read):
        read([start], [stop])


def load(url: str, size: int, out: Path) -> None:
    with opened(url, size) as state:
        for batch in batches_of_keys(state):
            load_values(state, batch)


def batches_of_keys(state):
    """Yield keys of about `_BATCH` bytes."""
    batch, nbytes = [], 0
    for key, spec in state.specs().items():
        batch.append(key)
        nbytes += spec.nbytes
        if nbytes >= _BATCH:
            yield batch
            batch, nbytes = [], 0
    yield batch


def convert_it(url: str, size: int, out: Path) -> None:
    with opened(url, size) as state:
        convert(state, out, to="flax", verify=False, accept_guesses=True)


def download_and_convert(url: str, size: int, out: Path) -> None:
    read = client(url)
    copy = out.with_name("download.safetensors")
    with copy.open("wb") as file:
        for start in range(0, size, _BATCH):
            parts = range(start, min(start + _BATCH, size), 8 << 20)
            file.writelines(read(list(parts), [min(at + (8 << 20), size) for at in parts]))
        file.flush()
        os.fsync(file.fileno())
    convert(copy, out, to="flax", verify=False, accept_guesses=True)


CONTESTANTS = {
    BASELINE: at_once,
    "one range after the other": one_by_one,
    "load": load,
    "convert to Flax": convert_it,
    "download, convert to Flax": download_and_convert,
}


@contextlib.contextmanager
def serving(folder: Path, delay: float):
    """Run the server in a process of its own; give its URL."""
    command = [measure.PYTHON, remote_server.__file__, str(folder), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def check(url: str, source: Path, out: Path) -> None:
    """Compare what is read from the server, and converted from there, with the source."""
    size = source.stat().st_size
    convert_it(url, size, out)
    again = out.with_name("local.safetensors")
    with opened(url, size) as remote, open_state(source) as local:
        if not compare_states(load_values(remote), local).equal:
            raise RuntimeError("what was read from the server is not the source")
    convert(source, again, to="flax", verify=False, accept_guesses=True)
    with open_state(out) as one, open_state(again) as other:
        if not compare_states(one, other).equal:
            raise RuntimeError("what was converted from the server is not what is converted from the file")
    measure.remove(out)
    measure.remove(again)


def main() -> None:
    parser = measure.parser(__doc__, repeats=3, sizes=("1GB",))
    parser.add_argument(
        "--delays", type=float, nargs="+", default=[0, 50], help="milliseconds before an answer"
    )
    arguments = parser.parse_args()
    import checkpoints  # the contestants do without

    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(work)
    idle = measure.idle_peak()
    contests = []
    for size in arguments.sizes:
        source = checkpoints.single(work, size) / "model.safetensors"
        nbytes, out = source.stat().st_size, work / "remote-out.safetensors"
        for number, delay in enumerate(arguments.delays):
            with serving(source.parent, delay / 1000) as base:
                url = f"{base}/{source.name}"
                if number == 0:
                    check(url, source, out)

                def runner(name, url=url, nbytes=nbytes, out=out):
                    command = [measure.PYTHON, __file__, "run", name, url, str(nbytes), str(out)]
                    return lambda: measure.run(command)

                def clear(out=out):
                    for name in (out.name, "download.safetensors"):
                        measure.remove(out.with_name(name))

                results = measure.interleaved(
                    {name: runner(name) for name in CONTESTANTS}, arguments.repeats, clear
                )
            print(f"\n{size}: {nbytes / 1e6:.0f} MB, {delay:.0f} ms before each answer")
            print(measure.run_table(results, BASELINE, nbytes, idle))
            contests.append(
                {"size": size, "bytes": nbytes, "delay_ms": delay, "runs": measure.as_json(results)}
            )
    measure.finish(arguments, facts, {"baseline": BASELINE, "idle_peak_bytes": idle, "contests": contests})


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        CONTESTANTS[sys.argv[2]](sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
