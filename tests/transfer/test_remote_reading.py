"""Tensors at servers are read by few requests, each byte once, and within the memory of the run."""

import itertools
import threading
import tracemalloc

import numpy as np
import pytest
from support.memory_filesystem import MemoryFileSystem, assert_nothing_held

from bridge_core import FlatState, open_state, save_state
from bridge_core.checkpoint.detect_format import identify
from bridge_core.io.fetching import shared_fetcher
from bridge_core.ops import Concat, OpTensor, Permute, Split, Stack
from bridge_core.plugins import given_registry
from bridge_core.transfer import compare_states, load_values
from bridge_core.transfer.budget import Budget

LAYOUTS = {"safetensors": "neutral", "npz": "neutral", "pt": "torch", "msgpack": "flax"}
SIDE = 400
LAYERS = 6
KINDS = ("a", "b", "c")


def values():
    """The tensors of a small model: layers with matrices and a bias, and one large matrix."""
    random = np.random.default_rng(0)
    tensors = {("qkv",): random.standard_normal((SIDE, 3 * SIDE), np.float32)}
    for layer in map(str, range(LAYERS)):
        tensors |= {
            ("layers", layer, kind): random.standard_normal((SIDE, SIDE), np.float32) for kind in KINDS
        }
        tensors["layers", layer, "bias"] = random.standard_normal((SIDE,), np.float32)
    tensors["large",] = random.standard_normal((5 * SIDE, 4 * SIDE), np.float32)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    for suffix, layout in LAYOUTS.items():
        save_state(FlatState(values(), layout=layout), folder / f"model.{suffix}")
    return folder


@pytest.fixture
def system(folder):
    yield MemoryFileSystem(folder=folder)
    assert_nothing_held()


def opened(system, name="model.safetensors"):
    """Open a checkpoint as a path is opened: every format looks at it, and one reads it."""
    file = system.path(name).open_source()
    return identify(file, given_registry(None)).open(file)


def made_by(op, *tensors, output=0):
    return OpTensor(op, tensors, output, op.spec(tuple(tensor.spec for tensor in tensors))[output])


def plain(state):
    return {key: state.tensor(key) for key in state}


def transposed(state):
    return {
        key: made_by(Permute((1, 0)), tensor) if len(tensor.spec.shape) == 2 else tensor
        for key, tensor in plain(state).items()
    }


def stacked(state):
    return {
        (kind,): made_by(
            Stack(0, LAYERS),
            *(made_by(Permute((1, 0)), state.tensor(("layers", str(i), kind))) for i in range(LAYERS)),
        )
        for kind in KINDS
    }


def stacked_inside(state):
    return {
        (kind,): made_by(Stack(1, LAYERS), *(state.tensor(("layers", str(i), kind)) for i in range(LAYERS)))
        for kind in KINDS
    }


def split(state):
    return {
        ("split", str(number)): made_by(Split(1, (SIDE,) * 3), state.tensor(("qkv",)), output=number)
        for number in range(3)
    }


def joined(state):
    sizes = (SIDE,) * LAYERS
    return {
        (kind,): made_by(Concat(1, sizes), *(state.tensor(("layers", str(i), kind)) for i in range(LAYERS)))
        for kind in KINDS
    }


@pytest.mark.parametrize(
    ("suffix", "to_sniff", "to_open"),
    [
        ("safetensors", 1, 1),
        ("pt", 1, 3 + LAYERS * len(KINDS)),  # the head of each record of more than 16 KiB
        ("npz", 2, 4 + LAYERS * len(KINDS)),
        ("msgpack", 1, 3 + LAYERS * len(KINDS)),
    ],
)
def test_opening_takes_few_requests_and_bytes(suffix, to_sniff, to_open, system):
    file = system.path(f"model.{suffix}").open_source()
    used = identify(file, given_registry(None))
    assert used.name == {"pt": "torch"}.get(suffix, suffix)
    assert system.reads == to_sniff
    with used.open(file) as state:
        assert len(state) == len(values())
    assert system.reads <= to_open
    assert len(system.made("entry")) == 1
    assert system.bytes_read < 0.01 * file.size + 8192 * system.reads


def test_sniffing_does_not_read_the_end(system):
    file = system.path("model.safetensors").open_source()
    identify(file, given_registry(None))
    assert max(one.start + one.nbytes for one in system.made("read")) < file.size // 100
    file.close()


@pytest.mark.parametrize("suffix", LAYOUTS)
def test_a_copy_reads_each_byte_once(suffix, system, tmp_path):
    with opened(system, f"model.{suffix}") as state:
        nbytes = state.nbytes
        system.forget_requests()
        save_state(state, tmp_path / "copy.safetensors", verify=True)
    assert 0.98 * nbytes < system.bytes_read < 1.01 * nbytes
    assert system.reads <= 8
    with open_state(tmp_path / "copy.safetensors") as copy:
        assert all(np.array_equal(copy[key], array) for key, array in values().items())


@pytest.mark.parametrize("max_ram", ["8MB", "256MB"])
@pytest.mark.parametrize("change", [transposed, stacked, stacked_inside, split, joined])
def test_a_conversion_reads_each_byte_once(change, max_ram, folder, system, tmp_path):
    with open_state(folder / "model.safetensors") as local:
        expected = {key: tensor.read(tuple(slice(0, n, 1) for n in tensor.spec.shape)) for key, tensor in
                    change(local).items()}  # fmt: skip
    with opened(system) as state:
        system.forget_requests()
        result = FlatState(change(state), layout="neutral")
        save_state(result, tmp_path / "out.safetensors", max_ram=max_ram)
        nbytes = result.nbytes
    assert system.bytes_read <= 1.05 * nbytes
    with open_state(tmp_path / "out.safetensors") as written:
        assert all(np.array_equal(written[key], array) for key, array in expected.items())


@pytest.mark.parametrize("suffix", LAYOUTS)
def test_one_layer_reads_its_bytes_and_few_more(suffix, system, tmp_path):
    with opened(system, f"model.{suffix}") as state:
        layer = {key: state.tensor(key) for key in state if key[:2] == ("layers", "3")}
        system.forget_requests()
        save_state(FlatState(layer, layout="neutral"), tmp_path / "layer.safetensors")
        nbytes = sum(tensor.spec.nbytes for tensor in layer.values())
    assert system.bytes_read <= 1.05 * nbytes
    assert system.reads <= 4


@pytest.mark.parametrize("suffix", LAYOUTS)
def test_loading_and_comparing_read_each_byte_once(suffix, folder, system):
    with opened(system, f"model.{suffix}") as state:
        system.forget_requests()
        loaded = load_values(state)
        assert all(np.array_equal(loaded[key], array) for key, array in values().items())
        assert system.bytes_read < 1.01 * state.nbytes
        assert system.reads <= 12
    system.forget_requests()
    with opened(system, f"model.{suffix}") as state, open_state(folder / "model.safetensors") as local:
        system.forget_requests()
        result = compare_states(FlatState(transposed(state)), FlatState(transposed(local)))
        assert result.equal
        assert system.bytes_read < 1.01 * state.nbytes
        assert system.reads <= 12


@pytest.mark.parametrize("suffix", LAYOUTS)
def test_a_tensor_that_was_not_announced_takes_few_requests(suffix, system):
    with opened(system, f"model.{suffix}") as state:
        system.forget_requests()
        assert np.array_equal(state["large",], values()["large",])
        assert system.reads <= 3
        assert system.bytes_read < 1.01 * state.spec(("large",)).nbytes


def test_columns_of_rows_that_are_far_from_each_other_are_announced_by_themselves(tmp_path):
    rows = np.arange(4 * 200_000, dtype=np.int32).reshape(4, 200_000)
    save_state({"rows": rows}, tmp_path / "model.safetensors")
    system = MemoryFileSystem(folder=tmp_path)
    with opened(system) as state:
        system.forget_requests()
        save_state(
            {"part": made_by(Split(1, (1000, 199_000)), state.tensor(("rows",)))}, tmp_path / "out.npz"
        )
    assert system.bytes_read == 3 * 4 * 1000  # of four rows, one was read with the header
    with open_state(tmp_path / "out.npz") as part:
        assert np.array_equal(part["part",], rows[:, :1000])


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_headers_of_members_are_fetched_at_the_same_time(suffix, system):
    numbers, together = itertools.count(), threading.Barrier(3, timeout=30)

    def wait(request):
        if 100_000 < request.start < 20_000_000 and next(numbers) < 3:
            together.wait()

    system.on_read = wait
    with opened(system, f"model.{suffix}"):
        assert system.most_at_once >= 3


@pytest.mark.parametrize("suffix", ["npz", "pt"])
def test_of_a_small_archive_little_is_read(suffix, tmp_path):
    array = np.zeros((500, 500), np.float32)
    save_state(FlatState({("a",): array, ("b",): array}, layout="torch"), tmp_path / f"model.{suffix}")
    system = MemoryFileSystem(folder=tmp_path)
    with opened(system, f"model.{suffix}"):
        assert system.bytes_read < 20_000


def test_several_requests_are_in_flight(system, tmp_path):
    with opened(system) as state:
        system.forget_requests()
        together, numbers = threading.Barrier(3, timeout=30), itertools.count()
        system.on_read = lambda _request: next(numbers) < 3 and together.wait()
        first = {key: tensor for key, tensor in plain(state).items() if key == ("large",)}
        tensor = first["large",]
        assert tensor.spec.nbytes > 8 << 20
        save_state(FlatState(first, layout="neutral"), tmp_path / "out.safetensors", max_ram="64MB")
    assert system.most_at_once >= 3


@pytest.mark.slow
@pytest.mark.parametrize("change", [plain, transposed, split])
def test_a_run_uses_no_more_memory_than_it_may(change, tmp_path):
    """Of 200 MB with 16 MB, what is in flight, fetched and in blocks."""
    local = tmp_path / "at_server"
    local.mkdir()
    zeros = np.zeros((1000, 1500), np.float32)
    tensors = {("layers", str(number)): zeros for number in range(30)}
    tensors["qkv",] = np.zeros((SIDE, 3 * SIDE), np.float32)
    tensors["large",] = np.zeros((3000, 1500), np.float32)
    save_state(FlatState(tensors, layout="neutral"), local / "model.safetensors")
    system = MemoryFileSystem(folder=local)
    with opened(system) as state:
        result = FlatState(change(state), layout="neutral")
        save_state(result, tmp_path / "first.safetensors", max_ram="16MB")  # what is imported does not count
        shared_fetcher.most_held = 0
        tracemalloc.start()
        save_state(result, tmp_path / "out.safetensors", max_ram="16MB", workers=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert shared_fetcher.most_held <= Budget(max_ram=16_000_000).fetch_nbytes
    assert peak <= 16_000_000


def test_a_run_that_is_interrupted_ends_while_the_server_does_not_answer(system, tmp_path):
    waiting = threading.Event()

    def interrupt(_progress):
        waiting.wait(30)
        raise KeyboardInterrupt

    with opened(system) as state, system.hold() as released:
        _, second = sorted(plain(state).values(), key=lambda tensor: tensor.offset)[:2]

        def answer_the_first(request):
            if request.start >= second.offset:
                waiting.set()
                released.wait()

        system.on_read = answer_the_first
        with pytest.raises(KeyboardInterrupt):
            save_state(state, tmp_path / "out.safetensors", progress=interrupt, workers=2, max_ram="4MB")
    assert waiting.is_set()
    assert not (tmp_path / "out.safetensors").exists()


def test_local_files_are_read_as_before(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_fetcher, "announce", None)
    monkeypatch.setattr(shared_fetcher, "memory", None)
    with open_state(folder / "model.safetensors") as state:
        save_state(FlatState(transposed(state), layout="neutral"), tmp_path / "out.safetensors")
        load_values(state)
