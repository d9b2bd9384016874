"""Loading into distributed tensors: every process reads its share, and holds the values of its region."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from support.errors import refused
from support.torch_ranks import Model

import bridge_torch
from bridge_core import UnsupportedFeature, UsageError, convert

tensor = pytest.importorskip("torch.distributed.tensor")
Partial, Replicate, Shard = tensor.Partial, tensor.Replicate, tensor.Shard


@pytest.fixture
def as_rank():
    """Returns a function that makes this process one of several, which exchange nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def become(rank, processes):
        if dist.is_initialized():
            dist.destroy_process_group()
        dist.init_process_group("fake", rank=rank, world_size=processes, store=FakeStore())

    yield become
    if dist.is_initialized():
        dist.destroy_process_group()


MESHES = [
    ((4,), (Shard(0),)),
    ((4,), (Shard(1),)),
    ((4,), (Replicate(),)),
    ((2, 2), (Shard(0), Shard(1))),
    ((2, 2), (Shard(1), Shard(1))),
    ((2, 2), (Shard(0), Shard(0))),
    ((2, 2), (Replicate(), Shard(1))),
    ((2, 2), (Shard(0), Replicate())),
    ((4, 1), (Shard(0), Shard(1))),
]


@pytest.mark.parametrize(("mesh", "placements"), MESHES, ids=str)
def test_every_process_holds_the_values_of_its_region(as_rank, mesh, placements):
    weight = torch.arange(70.0).reshape(10, 7)
    flax = {"fc.kernel": weight.t().contiguous().numpy()}
    for rank in range(4):
        as_rank(rank, 4)
        places = tensor.init_device_mesh("cpu", mesh)
        wanted = tensor.distribute_tensor(weight, places, placements, src_data_rank=None)
        meta = torch.empty(10, 7, device="meta")
        like = {"fc.weight": tensor.distribute_tensor(meta, places, placements, src_data_rank=None)}
        found = bridge_torch.load(flax, like=like, layout="neutral", accept_guesses=True)["fc.weight"]
        assert torch.equal(found.to_local(), wanted.to_local()), rank
        assert (found.shape, found.stride()) == ((10, 7), (7, 1))
        assert found.placements == wanted.placements


def test_what_tensor_parallelism_and_fully_shard_cut_together(as_rank):
    """Of 8 rows on a mesh of 2 times 2, the first process of the second row has those from the third on."""
    from torch.distributed.tensor.placement_types import _StridedShard

    weight = torch.arange(16.0).reshape(8, 2)
    flax = {"fc.kernel": weight.t().contiguous().numpy()}
    for rank, start in enumerate((0, 4, 2, 6)):
        as_rank(rank, 4)
        mesh = tensor.init_device_mesh("cpu", (2, 2))
        both = (_StridedShard(0, split_factor=2), Shard(0))
        local = torch.empty(2, 2, device="meta")
        like = tensor.DTensor.from_local(local, mesh, both, run_check=False, shape=(8, 2), stride=(2, 1))
        found = bridge_torch.load(flax, like={"fc.weight": like}, layout="neutral")["fc.weight"]
        assert torch.equal(found.to_local(), weight[start : start + 2]), rank
        uneven = tensor.DTensor.from_local(local, mesh, both, run_check=False, shape=(7, 2), stride=(2, 1))
        seven = {"fc.kernel": weight[:7].t().contiguous().numpy()}
        with refused(UnsupportedFeature, "not one region", key=("fc", "weight")):
            bridge_torch.load(seven, like={"fc.weight": uneven}, layout="neutral")


def test_what_distributed_tensors_cannot_hold_is_refused(as_rank):
    as_rank(0, 2)
    mesh = tensor.init_device_mesh("cpu", (2,))
    flax = {"fc.kernel": torch.zeros(3, 4).numpy()}
    local = torch.empty(4, 3, device="meta")
    summed = tensor.DTensor.from_local(local, mesh, (Partial(),), run_check=False)
    with refused(UnsupportedFeature, "summands", hint="Shard"):
        bridge_torch.load(flax, like={"fc.weight": summed}, layout="neutral")
    if torch.backends.mps.is_available() or torch.cuda.is_available():
        other = "cuda" if torch.cuda.is_available() else "mps"
        half = tensor.distribute_tensor(local, mesh, (Shard(0),), src_data_rank=None)
        with refused(UsageError, "cpu", other):
            bridge_torch.load(flax, like={"fc.weight": half}, layout="neutral", device=other)


PROCESSES = 2


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What two processes saw that loaded the same checkpoint."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.manual_seed(0)
    model = Model()
    torch.save(model.state_dict(), folder / "wanted.pt")
    convert(model, folder / "flax.safetensors", to="flax", verify=False)
    commands = [
        [sys.executable, "-m", "support.torch_ranks", str(rank), str(PROCESSES), str(folder)]
        for rank in range(PROCESSES)
    ]
    running = [
        subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="tests")
        for each in commands
    ]
    outputs = [process.communicate(timeout=240) for process in running]
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output) for output, _ in outputs]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["meta", "cpu"])
def test_a_process_reads_what_it_holds_of_a_module_that_is_cut(facts, start):
    for seen in facts:
        case = seen[start]
        assert all(case["equal"].values()), case["equal"]
        assert case["tied"]
        assert case["grads"]
        print(f"read {case['read']}, own {case['own']}: {case['read'] / case['own']:.3f}")
        assert case["own"] <= case["read"] + 8 <= 1.1 * case["own"]


@pytest.mark.slow
def test_placements_of_several_sorts(facts):
    for seen in facts:
        assert all(seen["placed"]["same"].values()), seen["placed"]
        assert all(seen["placed"]["equal"].values()), seen["placed"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["unplanned", "unread", "unexchanged"])
def test_no_process_waits_for_one_that_failed(facts, case):
    first, second = (seen[case] for seen in facts)
    assert first["error"].startswith("ConversionError: another process of the mesh")
    assert second["error"].startswith("SourceNotFound" if case == "unplanned" else "OSError")
    assert first["meta"]
    assert second["meta"]
