"""Conversions whose parts are run by executors: pools of processes and threads, and what they do wrong."""

import multiprocessing
import os
import threading
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from support.dying_workers import Deadly
from support.errors import refused

from bridge_core import (
    DestinationExists,
    IntegrityError,
    LayerKind,
    Rule,
    SystemFailure,
    UsageError,
    convert,
    default_registry,
    save_state,
)
from bridge_core.conversion import by_executor
from bridge_core.plugins import loaded_registry

OPTIONS = {"to": "flax", "format": "safetensors", "accept_guesses": True, "max_shard_size": 4000}
MANIFEST = "ckptbridge-manifest.json"
PLUGIN = """
import os
from bridge_core import hookimpl

with open({path!r}, "a") as file:
    print(os.getpid(), file=file)

@hookimpl
def bridge_layer_kinds():
    return []
"""


@pytest.fixture
def source(tmp_path):
    """Nine shards of linear layers."""
    random = np.random.default_rng(5)
    layers = {f"layers.{i}.fc.weight": random.random((20, 30)).astype("f4") for i in range(9)}
    path = tmp_path / "source"
    save_state(layers, path, layout="torch", format="safetensors", max_shard_size=2400)
    return path


def content(folder):
    """Return the files of a folder, which must not have folders."""
    assert not [entry.name for entry in folder.iterdir() if entry.is_dir()]
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Here:
    """An executor that is none of the standard library: it runs everything at once, in this thread."""

    def __init__(self, *, fail_at=None, error=None):
        self.parts, self.cancelled = [], []
        self.fail_at, self.error = fail_at, error

    def submit(self, function, work, part, *others):
        if self.fail_at == "submit":
            raise self.error
        self.parts.append(part)
        return Answer(self, part, lambda: function(work, part, *others))


class Answer:
    def __init__(self, executor, part, run):
        self.executor, self.part, self.run = executor, part, run

    def result(self):
        if self.executor.fail_at == self.part:
            raise self.executor.error
        return self.run()

    def cancel(self):
        self.executor.cancelled.append(self.part)


def test_processes_write_what_one_process_writes_with_its_rules_and_plugins(source, tmp_path, monkeypatch):
    (tmp_path / "plugin_of_workers.py").write_text(PLUGIN.format(path=str(tmp_path / "loaded")))
    monkeypatch.syspath_prepend(tmp_path)
    registry = loaded_registry(added=["plugin_of_workers"], disabled=["transformers"])
    options = {**OPTIONS, "rules": [Rule.rename("layers.**", "blocks.**")], "registry": registry}
    alone, together = tmp_path / "alone", tmp_path / "together"
    convert(source, alone, **options, manifest=True)
    counts = []
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        report = convert(source, together, **options, executor=pool, workers=1, progress=counts.append)
    written, expected = content(together), content(alone)
    assert MANIFEST in written
    assert {**written, MANIFEST: b""} == {**expected, MANIFEST: b""}
    assert len(written) == 11
    assert sorted(path.name for path in report.files) == sorted({*written} - {MANIFEST})
    done = [count.done for count in counts]
    assert done == sorted(done)
    assert counts[-1].done == counts[-1].total == 2 * 9 * 2400
    assert len(done) == 8, "four parts for each of two workers"
    assert {*(tmp_path / "loaded").read_text().split()} > {str(os.getpid())}


def test_threads_and_executors_of_another_kind_do_as_well(source, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        convert(source, tmp_path / "threads", **OPTIONS, executor=pool)
    here = Here()
    convert(source, tmp_path / "here", **OPTIONS, executor=here)
    convert(source, tmp_path / "alone", **OPTIONS, resume=True)
    assert content(tmp_path / "threads").keys() == content(tmp_path / "alone").keys()
    for other in ("threads", "here"):
        for name, data in content(tmp_path / "alone").items():
            if name != MANIFEST:
                assert content(tmp_path / other)[name] == data
    assert here.parts == list(range(1, 10)), "an executor of unknown size gets a part for each file"


def test_a_failed_part_is_named_and_the_others_are_there_for_the_next_run(source, tmp_path):
    error = IntegrityError("the bytes are not those of the checksum.", path="a.safetensors", hint="Fetch it.")
    here = Here(fail_at=3, error=error)
    with refused(
        IntegrityError, "part 3 of 9 parts", "model-00003-of-00009.safetensors", hint="resume=True"
    ) as caught:
        convert(source, tmp_path / "out", **OPTIONS, executor=here)
    assert caught.value.hint.startswith("Fetch it. ")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert here.cancelled == list(range(1, 10))
    first = tmp_path / "out" / "model-00001-of-00009.safetensors"
    before = first.stat().st_mtime_ns, first.stat().st_ino
    with refused(DestinationExists, "not complete", hint="resume=True"):
        convert(source, tmp_path / "out", **OPTIONS, executor=Here())
    again = Here()
    convert(source, tmp_path / "out", **OPTIONS, executor=again, resume=True)
    assert again.parts == list(range(3, 10))
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == before
    with refused(DestinationExists, "complete", hint="resume=True"):
        convert(source, tmp_path / "out", **OPTIONS, executor=Here())
    nothing = Here()
    convert(source, tmp_path / "out", **OPTIONS, executor=nothing, resume=True)
    assert nothing.parts == []


def test_the_errors_of_executors_are_ours(source, tmp_path):
    for number, fail_at in enumerate(("submit", 2)):
        here = Here(fail_at=fail_at, error=RuntimeError("cannot schedule\nnew futures"))
        named = "RuntimeError cannot schedule new futures"
        with refused(SystemFailure, f"part {number + 1} of 9", named, hint="resume=True") as caught:
            convert(source, tmp_path / f"out{number}", **OPTIONS, executor=here)
        assert caught.value.__suppress_context__


def test_threads_that_wait_are_cancelled(source, tmp_path, monkeypatch):
    run = by_executor.run_listed_part
    begun = []

    def fail_in_the_first(work, part, *others):
        begun.append(part)
        if part == 1:
            raise MemoryError
        return run(work, part, *others)

    monkeypatch.setattr(by_executor, "run_listed_part", fail_in_the_first)
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait)
        threading.Timer(0, gate.set).start()
        with refused(SystemFailure, "part 1 of 4", "MemoryError"):
            convert(source, tmp_path / "out", **OPTIONS, executor=pool)
    assert len(begun) < 4


@pytest.mark.slow
def test_a_killed_worker_is_a_clear_error_and_the_same_call_goes_on(source, tmp_path):
    out, marker = tmp_path / "out", tmp_path / "killed"
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        refused(SystemFailure, "a worker process ended", hint="resume=True"),
    ):
        convert(source, out, **OPTIONS, executor=Deadly(pool, workers=1, part=2, marker=marker))
    assert marker.exists()
    complete = sorted(path.name for path in out.glob("*.safetensors"))
    assert 0 < len(complete) < 9
    convert(source, out, **OPTIONS, executor=Here(), resume=True)
    convert(source, tmp_path / "alone", **OPTIONS, manifest=True)
    assert {**content(out), MANIFEST: b""} == {**content(tmp_path / "alone"), MANIFEST: b""}


@pytest.mark.slow
def test_the_error_of_a_process_arrives_with_all_that_it_names(tmp_path):
    random = np.random.default_rng(5)
    layers = {f"layers.{i}.fc.weight": random.random((20, 30)).astype("f4") for i in range(4)}
    source = tmp_path / "source.npz"
    save_state(layers, source, layout="torch")
    damaged = bytearray(source.read_bytes())
    damaged[damaged.find(layers["layers.3.fc.weight"].tobytes()) + 100] ^= 1
    source.write_bytes(damaged)
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        refused(IntegrityError, source, "part 4 of 4 parts", "CRC-32", hint="resume=True") as caught,
    ):
        convert(source, tmp_path / "out", **OPTIONS, executor=pool)
    assert "layers.3.fc.weight" in str(caught.value)
    assert "_RemoteTraceback" not in "".join(traceback.format_exception(caught.value))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # dask and tornado warn of their own
def test_dask_runs_the_part_of_a_killed_worker_again(source, tmp_path):
    distributed = pytest.importorskip("distributed")
    out, marker = tmp_path / "out", tmp_path / "killed"
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        before = set(client.run(os.getpid).values())
        deadly = Deadly(client.get_executor(), workers=2, part=3, marker=marker)
        report = convert(source, out, **OPTIONS, executor=deadly)
        assert marker.exists()
        client.wait_for_workers(2)
        assert len(before - set(client.run(os.getpid).values())) == 1
        assert len(report.files) == 10
        convert(source, tmp_path / "again", **OPTIONS, executor=client.get_executor())
    convert(source, tmp_path / "alone", **OPTIONS, manifest=True)
    expected = {**content(tmp_path / "alone"), MANIFEST: b""}
    for folder in (out, tmp_path / "again"):
        assert {**content(folder), MANIFEST: b""} == expected


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"executor": 3}, "submit"),
        ({"overwrite": True}, "overwrite=True"),
        ({"verify": False}, "verify=False"),
        ({"to_step": 3}, "to_step="),
        ({"to_item": "params"}, "to_item="),
        ({"like": {"a": np.zeros(3)}}, "like="),
        ({"model": object()}, "model="),
    ],
)
def test_what_workers_cannot_do_is_refused(source, tmp_path, options, named):
    with refused(UsageError, named, hint=""):
        convert(source, tmp_path / "out", **{"executor": Here(), **OPTIONS, **options})
    assert not (tmp_path / "out").exists()


def test_objects_of_this_process_are_refused_as_sources_and_plugins(source, tmp_path):
    with refused(UsageError, "src", "other processes", hint="save_state"):
        convert({"a": np.zeros((2, 3))}, tmp_path / "out", **OPTIONS, executor=Here())
    registry = default_registry().extend(LayerKind("own", leaves={"a": "x"}))
    with refused(UsageError, "only in this process", hint="--plugin"):
        convert(source, tmp_path / "out", **OPTIONS, executor=Here(), registry=registry)


def test_two_calls_are_never_the_same_to_an_executor(source, tmp_path):
    """Dask returns what an equal call returned before, without running it."""
    calls = []

    class Remembering(Here):
        def submit(self, function, *arguments):
            calls.append(arguments)
            return super().submit(function, *arguments)

    for _ in range(2):
        convert(source, tmp_path / "out", **{**OPTIONS, "max_shard_size": 12_000}, executor=Remembering())
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        (tmp_path / "out").rmdir()
    assert len(calls) == len(set(calls)) == 4
