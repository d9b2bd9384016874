"""Loading checkpoints into modules and state dicts: every value is where it belongs, or a refusal."""

from __future__ import annotations

import copy

import pytest
import torch
from support.errors import refused
from torch import nn

import bridge_flax
import bridge_torch
from bridge_core import (
    ConversionWarning,
    MismatchError,
    SourceFile,
    UnsupportedFeature,
    UsageError,
    convert,
    open_state,
)
from bridge_core.testing.harness import MB, counted_reads, traced_memory


class Net(nn.Module):
    """A model with tied weights, a convolution, and buffers of both sorts."""

    def __init__(self, words=12, width=8):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.conv = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight


class Rotary(nn.Module):
    """A layer, and a buffer that state dicts do not hold."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("angles", torch.arange(4.0), persistent=False)


def on_meta(make):
    """Return what a function makes, without values."""
    with torch.device("meta"):
        return make()


@pytest.fixture
def source():
    """A module with values."""
    torch.manual_seed(0)
    net = Net()
    net.norm.running_mean.uniform_()
    net.norm.num_batches_tracked.fill_(7)
    return net


@pytest.fixture
def saved(source, tmp_path):
    """The module's weights in a file of Flax."""
    path = tmp_path / "flax.msgpack"
    convert(source, path, to="flax", verify=False)
    return path


def assert_equal(found, wanted):
    """Both state dicts hold the same names, and the same bits in equal dtypes."""
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name].cpu(), value), name


def test_a_module_without_values_gets_them(source, saved):
    net = on_meta(Net)
    net.fc.weight.requires_grad_(False)
    net.fc.bias.axis = 1
    assert bridge_torch.load(saved, like=net) is net
    with open_state(saved) as state:
        expected = bridge_torch.from_neutral(bridge_flax.to_neutral(state), like=source)
    assert_equal(net.state_dict(), expected)
    assert_equal(net.state_dict(), source.state_dict())
    assert net.head.weight is net.embed.weight
    assert [type(p) for p in net.parameters()] == [nn.Parameter] * len(list(source.parameters()))
    assert not net.fc.weight.requires_grad
    assert net.fc.bias.requires_grad
    assert net.fc.bias.axis == 1
    net.fc(torch.ones(2, 8)).sum().backward()
    assert net.fc.bias.grad is not None


def test_a_module_with_values_is_filled_where_they_are(source, saved):
    net = Net()
    before = {name: (value, value.data_ptr()) for name, value in net.state_dict(keep_vars=True).items()}
    versions = {name: value._version for name, (value, _) in before.items()}
    assert bridge_torch.load(saved, like=net) is net
    assert_equal(net.state_dict(), source.state_dict())
    for name, value in net.state_dict(keep_vars=True).items():
        assert value is before[name][0], name
        assert value.data_ptr() == before[name][1], name
        assert value._version > versions[name], name  # so that autograd sees the change


def test_a_tensor_that_is_not_contiguous_is_filled_too(source, saved):
    net = Net()
    net.fc.weight = nn.Parameter(torch.zeros(8, 8).t())
    net.conv.to(memory_format=torch.channels_last)
    bridge_torch.load(saved, like=net)
    assert_equal(net.state_dict(), source.state_dict())
    assert net.fc.weight.stride() == (1, 8)


def test_a_state_dict_is_a_template(source, saved):
    like = Net().state_dict()
    before = copy.deepcopy(like)
    result = bridge_torch.load(saved, like=like)
    assert_equal(like, before)
    assert_equal(result, source.state_dict())
    assert result._metadata == like._metadata
    assert result["head.weight"] is result["embed.weight"]
    assert_equal(bridge_torch.load(saved, like=on_meta(Net).state_dict()), source.state_dict())


def test_tensors_that_the_template_does_not_tie_are_separate(source, saved):
    like = {name: value.clone() for name, value in Net().state_dict().items()}
    result = bridge_torch.load(saved, like=like)
    result["head.weight"].zero_()
    assert torch.equal(result["embed.weight"], source.embed.weight)


def test_a_module_partly_without_values(source, saved):
    net = Net()
    net.conv = on_meta(lambda: nn.Conv2d(3, 8, 3))
    kept = net.fc.weight
    bridge_torch.load(saved, like=net)
    assert_equal(net.state_dict(), source.state_dict())
    assert net.fc.weight is kept


def test_hooks_of_loading_run(source, saved):
    net, calls = on_meta(Net), []
    net.register_load_state_dict_post_hook(lambda module, keys: calls.append(module.fc.weight.device.type))
    bridge_torch.load(saved, like=net)
    assert calls == ["cpu"]


def test_parameters_of_a_class_of_ones_own_stay_that(saved):
    class Marked(nn.Parameter):
        pass

    net = on_meta(Net)
    net.fc.weight = Marked(net.fc.weight.data, requires_grad=False)
    bridge_torch.load(saved, like=net)
    assert type(net.fc.weight) is Marked
    assert not net.fc.weight.requires_grad


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "float8_e4m3fn"])
def test_dtypes(tmp_path, dtype):
    source = nn.Sequential(nn.Linear(4, 3)).to(getattr(torch, dtype))
    path = tmp_path / "flax.safetensors"
    convert(source, path, to="flax", verify=False)
    made = bridge_torch.load(path, like=on_meta(lambda: nn.Sequential(nn.Linear(4, 3))))
    assert made[0].weight.dtype == getattr(torch, dtype)  # without values: as in the checkpoint
    for found, wanted in zip(made.parameters(), source.parameters(), strict=True):
        assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))
    same = nn.Sequential(nn.Linear(4, 3)).to(getattr(torch, dtype))
    bridge_torch.load(path, like=same)
    assert torch.equal(same[0].weight.view(torch.uint8), source[0].weight.view(torch.uint8))


def test_values_that_a_dtype_holds_are_cast_and_others_refused(source, saved):
    double = Net().double()
    bridge_torch.load(saved, like=double)
    assert double.fc.weight.dtype == torch.float64
    assert torch.equal(double.fc.weight, source.fc.weight.double())
    half = Net().half()
    before = copy.deepcopy(half.state_dict())
    with refused(UsageError, "float16", "float32", hint='dtype="float16"'):
        bridge_torch.load(saved, like=half)
    assert_equal(half.state_dict(), before)
    bridge_torch.load(saved, like=half, dtype="float16")
    assert torch.equal(half.fc.weight, source.fc.weight.half())
    short = Net()
    short.norm.num_batches_tracked = torch.tensor(0, dtype=torch.int32)
    with refused(UsageError, "int32", "int64", key="norm.num_batches_tracked"):
        bridge_torch.load(saved, like=short)


def test_names_that_do_not_match_are_refused_before_values_are_read(saved):
    class Larger(Net):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(8, 2)

    net = Larger()
    before = copy.deepcopy(net.state_dict())
    with refused(MismatchError, "extra"):
        bridge_torch.load(saved, like=net)
    assert_equal(net.state_dict(), before)
    bridge_torch.load(saved, like=net, allow_missing="extra.*")
    assert torch.equal(net.extra.weight, before["extra.weight"])
    assert not torch.equal(net.fc.weight, before["fc.weight"])
    empty = on_meta(Larger)
    bridge_torch.load(saved, like=empty, allow_missing="extra.*")
    assert [name for name, p in empty.named_parameters() if p.is_meta] == ["extra.weight", "extra.bias"]
    result = bridge_torch.load(saved, like=net.state_dict(), allow_missing="extra.*")
    assert torch.equal(result["extra.weight"], net.extra.weight)
    assert result["extra.weight"].data_ptr() != net.extra.weight.data_ptr()
    with refused(UsageError, "meta", key="extra.weight"):
        bridge_torch.load(saved, like=on_meta(Larger).state_dict(), allow_missing="extra.*")
    with refused(MismatchError, "conv"):
        bridge_torch.load(saved, like=nn.Sequential(nn.Linear(8, 8)))


def test_buffers_that_no_checkpoint_holds(tmp_path):
    path = tmp_path / "flax.msgpack"
    source = Rotary()
    convert(source, path, to="flax", verify=False)
    with refused(UsageError, "angles", "non-persistent", hint="allow_missing", key="angles"):
        bridge_torch.load(path, like=on_meta(Rotary))
    later = bridge_torch.load(path, like=on_meta(Rotary), allow_missing=iter(["angles"]))
    assert later.angles.is_meta
    assert torch.equal(later.fc.weight, source.fc.weight)
    before = on_meta(Rotary)
    before.angles = torch.arange(4.0)
    assert torch.equal(bridge_torch.load(path, like=before).angles, source.angles)


def test_a_failure_while_reading_leaves_a_module_without_values(source, tmp_path, monkeypatch):
    path = tmp_path / "torch.pt"
    torch.save(source.state_dict(), path)
    usual = SourceFile.read_into

    def read_into(self, offset, buffer):
        if memoryview(buffer).nbytes == source.conv.weight.nbytes:
            raise OSError(5, "Input/output error")
        usual(self, offset, buffer)

    monkeypatch.setattr(SourceFile, "read_into", read_into)
    net = on_meta(Net)
    with pytest.raises(OSError, match="Input/output"):
        bridge_torch.load(path, like=net)
    assert all(value.is_meta for value in net.state_dict().values())


def test_a_source_on_the_memory_that_is_filled():
    """One tensor of the source is filled first, and read later for another one."""
    first, second = torch.full((512, 512), 1.0), torch.full((512, 512), 2.0)
    net = nn.ModuleDict({name: nn.Linear(512, 512, bias=False) for name in ("one", "two")})
    net.one.weight = nn.Parameter(first)
    bridge_torch.load({"one.weight": second, "two.weight": first}, like=net, workers=1, max_ram="1MB")
    assert torch.equal(net.one.weight, torch.full((512, 512), 2.0))
    assert torch.equal(net.two.weight, torch.full((512, 512), 1.0))


def test_parameters_of_integers(tmp_path):
    source = nn.Module()
    source.table = nn.Parameter(torch.arange(6, dtype=torch.int8), requires_grad=False)
    torch.save(source.state_dict(), tmp_path / "torch.pt")
    net = copy.deepcopy(source).to("meta")
    assert torch.equal(bridge_torch.load(tmp_path / "torch.pt", like=net).table, source.table)
    assert isinstance(net.table, nn.Parameter)


def test_devices(source, saved):
    assert bridge_torch.load(saved, like=on_meta(Net), device="cpu").fc.weight.device.type == "cpu"
    with refused(UsageError, "meta", hint="device="):
        bridge_torch.load(saved, like=on_meta(Net), device="meta")
    with refused(UsageError, "nowhere", hint="device="):
        bridge_torch.load(saved, like=on_meta(Net), device="nowhere")
    if not torch.cuda.is_available():
        with refused(UsageError, "cuda", hint="device="):
            bridge_torch.load(saved, like=on_meta(Net), device="cuda")


def test_what_cannot_be_filled_is_refused(saved):
    for like in ({}, [1], saved, str(saved), None, nn.Linear):
        with pytest.raises((UsageError, MismatchError)):
            bridge_torch.load(saved, like=like)
    net = Net()
    net.fc.bias = nn.Parameter(torch.zeros(1).expand(8))
    with refused(UnsupportedFeature, "expanded", key="fc.bias"):
        bridge_torch.load(saved, like=net)

    class Gathered(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def state_dict(self, *args, **kwargs):
            return {name: value.clone() for name, value in self.net.state_dict(*args, **kwargs).items()}

    with refused(UnsupportedFeature, "its own parameters", hint="load_state_dict"):
        bridge_torch.load(saved, like=Gathered())
    with refused(UsageError, "workers"):
        bridge_torch.load(saved, like=on_meta(Net), workers=0)


def test_warnings_of_the_plan_and_of_casts_are_issued(tmp_path):
    source = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(source[0].weight, 1e30)
    path = tmp_path / "flax.msgpack"
    convert(source, path, to="flax", verify=False)
    with pytest.warns(ConversionWarning, match="outside the range"):
        made = bridge_torch.load(path, like=on_meta(lambda: nn.Sequential(nn.Linear(2, 2))), dtype="float16")
    assert made[0].weight.dtype == torch.float16


@pytest.mark.parametrize("start", ["meta", "cpu", "double"])
def test_the_weights_are_in_memory_once(tmp_path, start):
    """A model on the meta device takes memory once, and one with values only buffers."""

    def make():
        return nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(8)))

    source = make()
    path = tmp_path / "flax.safetensors"
    convert(source, path, to="flax", verify=False)
    net = on_meta(make) if start == "meta" else make()
    if start == "double":
        net.double()
    total = 32 * MB
    new = total if start == "meta" else 0
    bridge_torch.load(path, like=on_meta(make))  # imports and caches
    with traced_memory() as measured, counted_reads() as counted:
        bridge_torch.load(path, like=net, max_ram="8MB", workers=1)
    assert measured.nbytes < new + 12 * MB
    assert new <= measured.still < new + MB
    assert total <= counted.nbytes < total + MB
    assert torch.equal(net[7].weight, source[7].weight.to(net[7].weight.dtype))


def test_a_checkpoint_of_torch_itself_and_one_in_shards(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "torch.pt")
    convert(source, tmp_path / "shards", to="torch", max_shard_size=800, verify=False)
    for path in (tmp_path / "torch.pt", tmp_path / "shards"):
        assert_equal(bridge_torch.load(path, like=on_meta(Net)).state_dict(), source.state_dict())


def test_modules_that_hold_their_weights_in_other_ways(tmp_path):
    """A recurrent layer has a list of its weights, and a normalised one makes its weight of two."""

    def make():
        norm = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        return nn.ModuleDict({"norm": norm, "lstm": nn.LSTM(4, 3)})

    source = make()
    torch.save(source.state_dict(), tmp_path / "torch.pt")
    x = torch.ones(2, 4)
    for net in (on_meta(make), make()):
        bridge_torch.load(tmp_path / "torch.pt", like=net)
        assert_equal(net.state_dict(), source.state_dict())
        assert torch.equal(net.norm(x), source.norm(x))
        assert torch.equal(net.lstm(x)[0], source.lstm(x)[0])


def test_an_entry(source, tmp_path):
    torch.save({"ema": source.state_dict(), "epoch": 3}, tmp_path / "torch.pt")
    net = on_meta(Net)
    bridge_torch.load(tmp_path / "torch.pt", like=net, entry="ema")
    assert_equal(net.state_dict(), source.state_dict())


def test_a_module_made_in_inference_mode(source, saved):
    with torch.inference_mode():
        net = Net()
    assert bridge_torch.load(saved, like=net) is net
    assert_equal(net.state_dict(), source.state_dict())
    assert net.fc.weight.is_inference()


@pytest.mark.parametrize("view", [lambda all: all[:4], lambda all: all.T, lambda all: all.view(torch.int32)])
def test_tensors_that_share_a_part_of_their_memory_are_refused(view):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.all = nn.Parameter(torch.zeros(8, 3))
            self.part = nn.Parameter(view(self.all.detach()), requires_grad=False)

    module = Views()
    ones = {name: torch.ones_like(value) for name, value in module.state_dict().items()}
    with refused(UnsupportedFeature, "all", "part", "share some", hint="like=module.state_dict()"):
        bridge_torch.load(ones, like=module, allow_unclaimed=True)
    assert not module.all.any()
    loaded = bridge_torch.load(ones, like=module.state_dict(), allow_unclaimed=True)
    assert torch.equal(loaded["all"], ones["all"])


def test_tensors_between_each_other_in_one_memory_are_filled():
    class Columns(nn.Module):
        def __init__(self):
            super().__init__()
            both = torch.zeros(8, 6)
            self.left, self.right = nn.Parameter(both[:, :3]), nn.Parameter(both[:, 3:])

    values = {"left": torch.ones(8, 3), "right": torch.full((8, 3), 2.0)}
    assert_equal(bridge_torch.load(values, like=Columns(), allow_unclaimed=True).state_dict(), values)
