"""Live objects of torch: read bit for bit and untouched, built again in memory of their own."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from support.errors import refused
from torch import nn

from bridge_core import (
    ArrayTensor,
    FlatState,
    KeyConflict,
    MissingDependency,
    StateMetadata,
    TensorSpec,
    UnsupportedFeature,
    UsageError,
)
from bridge_core.state.dtypes import dtype_named
from bridge_core.state.metadata import ModuleInfo
from bridge_core.state.tensors import LazyTensor, as_tensor
from bridge_core.transfer import load_values
from bridge_torch.framework import TorchFramework

FRAMEWORK = TorchFramework()
state_of = FRAMEWORK.state
build = FRAMEWORK.build

PLAIN = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
NARROW = [
    *("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
DTYPES = [name for name in (*PLAIN, *NARROW) if hasattr(torch, name)]


def patterns(name: str, shape: tuple[int, ...] = (16, 32)) -> np.ndarray:
    """Return every bit pattern (or random ones of wide dtypes), NaN payloads included."""
    dtype = dtype_named(name)
    count = int(np.prod(shape))
    if name == "bool":
        return (np.arange(count) % 3 == 0).reshape(shape)
    data = np.random.default_rng(7).integers(0, 256, count * dtype.itemsize, np.uint8)
    return data.view(dtype).reshape(shape)


def to_torch(array: np.ndarray) -> torch.Tensor:
    """Make a tensor without the bridge."""
    if array.dtype.name in PLAIN:
        return torch.from_numpy(array.copy())
    words = {1: np.uint8, 2: np.int16}[array.dtype.itemsize]
    return torch.from_numpy(array.view(words).copy()).view(getattr(torch, array.dtype.name))


def raw(value: torch.Tensor | np.ndarray) -> bytes:
    """Return the row-major bytes of a tensor or an array."""
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg().contiguous()
        if not value.numel():
            return b""
        return value.reshape(-1).view(torch.uint8).numpy().tobytes()
    return value.tobytes()


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and raw(a) == raw(b)


@pytest.fixture
def net() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(()))
            self.embed = nn.Embedding(5, 4)
            self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
            self.head = nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("table", torch.arange(3))
            self.register_buffer("hidden", torch.zeros(2), persistent=False)

    return Net()


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_read_and_built_bit_for_bit(name):
    array = patterns(name)
    tensors = {
        "whole": to_torch(array),
        "turned": to_torch(array).t(),
        "strided": to_torch(array)[1::3, ::2],
        "spread": to_torch(array)[0, :1].expand(3, 4, 1),
        "empty": to_torch(array)[:0],
        "one": to_torch(array)[3, 5],
    }
    state = state_of(tensors)
    assert state.layout == "torch"
    for key, tensor in tensors.items():
        assert state.spec((key,)) == TensorSpec(tuple(tensor.shape), dtype_named(name))
        assert raw(np.asarray(state[(key,)])) == raw(tensor)
    built = build(state, None)
    assert list(built) == list(tensors)
    for key, tensor in tensors.items():
        assert same(built[key], tensor), key
        assert built[key].is_contiguous()


def test_all_bfloat16_patterns_survive_transposed():
    words = np.arange(1 << 16, dtype=np.uint16).view(np.int16).reshape(256, 256)
    tensor = torch.from_numpy(words.copy()).view(torch.bfloat16).t()
    state = state_of({"w": tensor})
    assert np.array_equal(state[("w",)].view(np.int16), words.T)
    assert np.array_equal(build(state, None)["w"].view(torch.int16).numpy(), words.T)


def test_wide_numbers_stay_exact():
    floats = torch.tensor([1e300, 5e-324], dtype=torch.float64)
    state = state_of({"i": torch.tensor([2**40 + 1, -(2**62)]), "f": floats})
    assert state[("i",)].tolist() == [2**40 + 1, -(2**62)]
    assert state[("f",)].tolist() == [1e300, 5e-324]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float8_e4m3fn"])
def test_reading_copies_nothing_and_cannot_write(name):
    tensor = to_torch(patterns(name))
    view = state_of({"w": tensor.t()})[("w",)]
    assert view.ctypes.data == tensor.data_ptr()
    assert view.strides == (tensor.element_size(), 32 * tensor.element_size())
    with pytest.raises(ValueError, match="read-only"):
        view[...] = 0


def test_conjugated_and_negated_views_are_resolved_region_by_region():
    tensor = torch.randn(4, 6, dtype=torch.complex64)
    state = state_of({"c": tensor.conj().t(), "n": tensor.conj().imag})
    assert np.array_equal(state[("c",)], tensor.numpy().conj().T)
    assert np.array_equal(state.read(("c",), np.s_[1:5:2, -1]), tensor.numpy().conj().T[1:5:2, -1])
    assert np.array_equal(state[("n",)], -tensor.numpy().imag)
    built = build(state, None)
    assert isinstance(state.tensor(("c",)), LazyTensor)  # nothing is resolved before it is read
    assert isinstance(state.tensor(("n",)), LazyTensor)
    assert not built["c"].is_conj()
    assert torch.equal(built["c"], tensor.conj().t())


def test_reading_and_building_leave_the_module_as_it_was(net):
    net.layers[0].weight.grad = torch.ones(4, 4)
    net.head.requires_grad_(False)
    calls = []
    net.register_state_dict_post_hook(lambda *_: calls.append("hook"))
    copied = copy.deepcopy(net.state_dict())
    before = {
        name: (id(p), p.data_ptr(), p._version, p.requires_grad, p.grad) for name, p in net.named_parameters()
    }
    mode = net.training
    state = state_of(net)
    built = build(state, net)
    for tensor in built.values():
        tensor.zero_()
    after = {
        name: (id(p), p.data_ptr(), p._version, p.requires_grad, p.grad) for name, p in net.named_parameters()
    }
    assert before == after
    assert net.training is mode
    assert list(net.state_dict()) == list(copied)
    assert all(same(a, b) for a, b in zip(net.state_dict().values(), copied.values(), strict=True))


def test_a_state_dict_is_not_changed_by_reading_or_building(net):
    mapping = net.state_dict()
    mapping["x._extra_state"] = {"not": "a tensor"}
    before = {name: id(value) for name, value in mapping.items()}
    state = state_of(mapping)
    build(state, mapping)
    assert {name: id(value) for name, value in mapping.items()} == before
    assert ("x", "_extra_state") not in state
    assert state.metadata.provenance["ignored"] == "x._extra_state"
    assert state.metadata.modules == {}


def test_extra_state_is_kept_only_where_it_is_a_tensor():
    class Extra(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def get_extra_state(self):
            return self.value

        def set_extra_state(self, value):
            self.value = value

    assert list(state_of(Extra(torch.ones(2)))) == [("_extra_state",)]
    state = state_of(Extra({"a": 1}))
    assert list(state) == []
    assert state.metadata.provenance["ignored"] == "_extra_state"


def test_ties_of_a_module_share_one_tensor_and_are_built_as_one(net):
    state = state_of(net)
    assert state.metadata.ties == {("head", "weight"): ("embed", "weight")}
    assert state.tensor(("head", "weight")) is state.tensor(("embed", "weight"))
    built = build(state, None)
    assert built["head.weight"] is built["embed.weight"]
    assert len({id(t) for t in built.values()}) == len(built) - 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("as_dict", [False, True])
def test_ties_are_found_live_and_on_meta_and_in_a_state_dict(net, device, as_dict):
    with torch.device(device):
        moved = type(net)()
    value = moved.state_dict() if as_dict else moved
    assert state_of(value).metadata.ties == {("head", "weight"): ("embed", "weight")}


def test_ties_need_the_same_elements_in_the_same_order():
    base = torch.randn(4, 4)
    ties = state_of(
        {
            "a": base,
            "turned": base.t(),
            "part": base[1:],
            "flat": base.view(16),
            "words": base.view(torch.int32),
            "again": base.detach(),
            "shared": torch.from_numpy(base.numpy()),
            "copy": base.clone(),
            "none": torch.empty(0),
            "none_too": torch.empty(0),
            "conj": torch.zeros(2, dtype=torch.complex64),
        }
    ).metadata.ties
    assert ties == {("again",): ("a",), ("shared",): ("a",)}


def test_a_conjugated_view_is_not_tied_to_its_base():
    base = torch.randn(3, dtype=torch.complex64)
    assert state_of({"a": base, "b": base.conj()}).metadata.ties == {}


def test_a_module_used_twice_is_known_at_both_paths():
    linear = nn.Linear(2, 2)
    state = state_of(nn.ModuleDict({"a": linear, "b": linear}))
    assert state.metadata.modules[("a",)] == state.metadata.modules[("b",)]
    assert state.metadata.ties == {("b", "weight"): ("a", "weight"), ("b", "bias"): ("a", "bias")}


def test_keys_that_share_a_tensor_are_built_as_one_and_a_mere_claim_is_not():
    shared, own = as_tensor(np.ones(3, np.float32)), np.zeros(3, np.float32)
    ties = {("b",): ("a",), ("c",): ("a",), ("d",): ("gone",)}
    state = FlatState(
        {("a",): shared, ("b",): shared, ("c",): own, ("d",): own.copy()},
        metadata=StateMetadata(ties=ties),
    )
    built = build(state, None)
    assert built["a"] is built["b"]
    assert built["c"] is not built["a"]
    assert built["c"].tolist() == [0, 0, 0]


def test_ties_in_a_circle_are_followed_once():
    ties = {("a",): ("b",), ("b",): ("a",)}
    state = FlatState({("a",): np.ones(2), ("b",): np.ones(2)}, metadata=StateMetadata(ties=ties))
    assert [tensor.tolist() for tensor in build(state, None).values()] == [[1, 1], [1, 1]]


def test_meta_tensors_have_specs_and_no_values(net):
    with torch.device("meta"):
        abstract = type(net)()
    state = state_of(abstract)
    assert state.specs() == state_of(net).specs()
    with refused(UsageError, "meta", hint=("like=", "--like"), key=("layers", "0", "weight")):
        state[("layers", "0", "weight")]
    with refused(UsageError, "'scale'", "meta"):
        build(state, None)


def test_a_template_on_meta_gives_order_and_cpu_tensors(net):
    with torch.device("meta"):
        abstract = type(net)()
    state = state_of(net)
    shuffled = state.replace(tensors=dict(reversed(state.tensors().items())))
    for like in (abstract, abstract.state_dict()):
        built = build(shuffled, like)
        assert list(built) == list(net.state_dict())
        assert all(tensor.device.type == "cpu" for tensor in built.values())
    assert all(p.device.type == "meta" for p in abstract.parameters())
    loaded = abstract.load_state_dict(build(shuffled, abstract), strict=True, assign=True)
    assert not loaded.missing_keys
    assert abstract.head.weight is abstract.embed.weight or same(abstract.head.weight, abstract.embed.weight)
    assert all(same(a, b) for a, b in zip(abstract.parameters(), net.parameters(), strict=False))


def test_keys_that_the_template_lacks_come_last_and_missing_ones_are_left_out():
    state = FlatState({("extra",): np.zeros(1), ("b",): np.zeros(2), ("a",): np.zeros(3)})
    like = {"a": torch.empty(3, device="meta"), "gone": torch.empty(1), "b": torch.empty(2)}
    assert list(build(state, like)) == ["a", "b", "extra"]


def test_the_versions_of_a_module_template_stand_in_the_result(net):
    built = build(state_of(net), net)
    assert isinstance(built, OrderedDict)
    assert built._metadata == net.state_dict()._metadata
    template = net.state_dict()
    build(state_of(net), template)._metadata.clear()
    assert template._metadata == built._metadata


def test_built_tensors_are_independent_of_the_source_and_writable():
    array = np.arange(6, dtype=np.float32)
    lazy = np.arange(4, dtype=np.float32)
    tensors = {
        ("view",): array.reshape(2, 3),
        ("lazy",): LazyTensor(TensorSpec((4,), lazy.dtype), lambda region: lazy),
        ("big",): array.astype(">f4"),
        ("back",): array[::-1],
    }
    built = build(FlatState(tensors), None)
    assert built["big"].tolist() == array.tolist()
    assert built["back"].tolist() == array.tolist()[::-1]
    for tensor in built.values():
        tensor.add_(1)
    assert array.tolist() == [0, 1, 2, 3, 4, 5]
    assert lazy.tolist() == [0, 1, 2, 3]


def test_values_of_a_loaded_state_become_tensors_without_a_copy():
    loaded = load_values(FlatState({("w",): np.ones((3, 2), np.float32)}))
    address = loaded[("w",)].ctypes.data
    assert address % 64 == 0
    built = build(FlatState({("w",): np.ones((3, 2), np.float32)}), None)
    assert built["w"].data_ptr() % 64 == 0


def test_dtypes_that_torch_lacks_are_refused_all_at_once():
    state = FlatState(
        {(name,): np.zeros(2, dtype_named(name)) for name in ("int4", "float6_e2m3fn", "float32")}
    )
    with refused(UnsupportedFeature, "2 tensors", "int4 (int4)", "float6_e2m3fn (float6_e2m3fn)"):
        build(state, None)


def test_keys_that_join_to_one_name_are_refused():
    state = FlatState({("a", "b"): np.zeros(1), ("a.b",): np.zeros(1)})
    with refused(KeyConflict, "a.b"):
        build(state, None)


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


class Wrapped(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError("nothing is computed with it")


def wrapped() -> torch.Tensor:
    return torch.Tensor._make_wrapper_subclass(Wrapped, (3,))


@pytest.mark.parametrize(
    ("make", "got", "hint"),
    [
        (lambda: torch.eye(3).to_sparse(), "torch.sparse_coo", "to_dense()"),
        (quantised, "quantised", "dequantize()"),
        (lambda: torch.zeros(2, dtype=torch.complex32), "torch.complex32", "torch.complex64"),
        (
            lambda: torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
            "torch.float4_e2m1fn_x2",
            "torch.float32",
        ),
        (wrapped, "Wrapped", "plain tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_cannot_be_carried_are_refused_by_name(make, got, hint):
    with refused(UnsupportedFeature, got, hint=hint, key=("a", "w")):
        state_of({"a.w": make(), "ok": torch.zeros(1)})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_tensors_that_cannot_be_carried_are_counted_folded_and_grouped():
    values = {f"layers.{i}.weight": torch.eye(3).to_sparse() for i in range(12)}
    listed = (
        "13 tensors",
        "torch.sparse_coo (layers.{0..11}.weight (x12))",
        "quantised tensor (head.weight)",
    )
    with refused(UnsupportedFeature, *listed, hint=("to_dense()", "dequantize()")):
        state_of({**values, "head.weight": quantised()})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_uninitialised_module_is_refused():
    with refused(UnsupportedFeature, "2 tensors", "(weight, bias)", hint="Run the module once"):
        state_of(nn.LazyLinear(3))


@pytest.mark.parametrize(
    ("value", "got", "hint"),
    [
        (3, "int", "model.state_dict()"),
        ([torch.zeros(1)], "list", "model.state_dict()"),
        ({1: torch.zeros(1)}, "1 (int)", "model.state_dict()"),
        ({"net": {"w": torch.zeros(1)}}, "'net': expected a torch.Tensor", "checkpoint['net']"),
        ({"w": None}, "NoneType", "checkpoint['state_dict']"),
    ],
)
def test_what_is_no_module_and_no_state_dict_is_refused(value, got, hint):
    assert not FRAMEWORK.accepts(value)
    with refused(UsageError, got, hint=hint):
        state_of(value)
    with refused(UsageError, got, hint=hint):
        build(FlatState({}), value)


def test_accepts_modules_and_state_dicts(net):
    assert FRAMEWORK.accepts(net)
    assert FRAMEWORK.accepts(net.state_dict())
    assert FRAMEWORK.accepts({"w": torch.zeros(1), "_extra_state": 3})
    assert not FRAMEWORK.accepts({"w": np.zeros(1)})
    assert not FRAMEWORK.accepts({"w": torch.zeros(1), "epoch": 3})
    assert not FRAMEWORK.accepts({})
    assert not FRAMEWORK.accepts(state_of(net))


def test_without_torch_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bridge_torch.torch_objects", None)
    monkeypatch.delattr("bridge_torch.torch_objects", raising=False)
    with refused(MissingDependency, "torch", hint='pip install "ckptbridge[torch]"'):
        state_of({"w": torch.zeros(1)})


@pytest.mark.parametrize(
    ("names", "torch_like"),
    [
        (["a.weight", "a.bias"], True),
        (["bn.running_mean", "bn.num_batches_tracked"], True),
        (["attn.in_proj_weight"], True),
        (["conv.weight_g", "conv.weight_v"], True),
        (["a.parametrizations.weight.original0"], True),
        (["rnn.weight_ih_l0"], True),
        (["a.weight", "norm.scale"], True),
        (["a.bias"], False),
        (["gamma"], False),
        (["a.kernel", "a.bias"], False),
        (["a.kernel", "norm.weight"], False),
        (["e.embedding", "norm.weight"], False),
        (["params.norm.weight"], False),
        (["batch_stats.bn.mean", "bn.weight"], False),
        ([], False),
    ],
)
def test_owns_needs_a_leaf_of_torch_and_none_of_flax(names, torch_like):
    spec = TensorSpec((2,), np.dtype("float32"))
    assert FRAMEWORK.owns({tuple(name.split(".")): spec for name in names}) is torch_like


def test_modules_are_described_by_type_options_and_leaves(net):
    modules = state_of(net).metadata.modules
    assert list(modules) == [(), ("embed",), ("layers",), ("layers", "0"), ("layers", "1"), ("head",)]
    assert modules[()].parameters == ("scale", "table")
    assert modules[("layers",)] == ModuleInfo(("torch.nn.modules.container.Sequential",))
    assert modules[("layers", "0")] == ModuleInfo(
        types=("torch.nn.modules.linear.Linear",),
        settings={"in_features": 4, "out_features": 4, "bias": True},
        parameters=("weight", "bias"),
    )
    norm = modules[("layers", "1")]
    assert norm.types[0] == "torch.nn.modules.batchnorm.BatchNorm1d"
    assert norm.types[-1] == "torch.nn.modules.batchnorm._NormBase"
    assert norm.parameters == ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert modules[("head",)].settings["bias"] is False


def test_subclasses_carry_the_types_they_derive_from():
    class Mine(nn.Conv2d):
        pass

    info = state_of(Mine(2, 4, (3, 5), groups=2, stride=2)).metadata.modules[()]
    assert info.types[0] == f"{__name__}.{Mine.__qualname__}"
    assert "torch.nn.modules.conv.Conv2d" in info.types
    assert info.settings["groups"] == 2
    assert info.settings["kernel_size"] == (3, 5)
    assert info.settings["transposed"] is False
    assert "training" not in info.settings


def old_norm(module: nn.Module, **options) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(module, **options)


new_norm = nn.utils.parametrizations.weight_norm


@pytest.mark.parametrize(("given", "told"), [(0, 0), (1, 1), (2, 2), (None, None), (-2, 1)])
@pytest.mark.parametrize(
    ("norm", "leaves"),
    [
        (old_norm, ("bias", "weight_g", "weight_v")),
        (new_norm, ("bias", "parametrizations.weight.original0", "parametrizations.weight.original1")),
    ],
)
def test_weight_norm_is_told_on_the_layer_with_its_axis(norm, leaves, given, told):
    module = nn.ModuleDict({"a": norm(nn.Conv1d(3, 4, 5), dim=given), "b": nn.Conv1d(3, 4, 5)})
    state = state_of(module)
    assert list(state.metadata.modules) == [(), ("a",), ("b",)]
    info = state.metadata.modules[("a",)]
    assert info.settings["weight_norm"] == told
    assert info.parameters == leaves
    assert "torch.nn.modules.conv.Conv1d" in info.types
    assert "weight_norm" not in state.metadata.modules[("b",)].settings


def test_other_parametrizations_are_no_weight_norm_and_belong_to_their_layer():
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    info = state_of(nn.Sequential(module)).metadata.modules[("0",)]
    assert info.settings["weight_norm"] is None
    assert info.settings["spectral_norm"] == 0
    assert info.parameters == (
        "bias",
        "parametrizations.weight.original",
        "parametrizations.weight.0._u",
        "parametrizations.weight.0._v",
    )
    twice = nn.utils.parametrizations.spectral_norm(new_norm(nn.Linear(3, 4)))
    settings = state_of(twice).metadata.modules[()].settings
    assert (settings["weight_norm"], settings["spectral_norm"]) == (None, None)


def test_an_option_of_that_name_is_not_taken_for_a_weight_norm():
    module = nn.Linear(2, 2)
    module.weight_norm = True
    assert "weight_norm" not in state_of(module).metadata.modules[()].settings


def test_a_module_of_the_users_own_called_parametrizations_is_an_ordinary_one():
    module = nn.ModuleDict({"parametrizations": nn.Linear(2, 2)})
    assert state_of(module).metadata.modules[("parametrizations",)].parameters == ("weight", "bias")


def test_array_tensors_stand_behind_plain_cpu_tensors(net):
    assert all(isinstance(tensor, ArrayTensor) for tensor in state_of(net).tensors().values())
