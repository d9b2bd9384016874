"""Objects of unknown classes in torch files: left out next to the weights, refused among them."""

from __future__ import annotations

import argparse
import collections
import contextlib
import enum
import functools
import io
import os
import random
import sys
import types

import numpy as np
import pytest
import torch
from support.errors import refused
from support.torch_files import Storage, View, assert_same, dumps, make_zip, open_torch

from bridge_core import BridgeError, LimitExceeded, MalformedFile, UnsafeFile, UnsupportedFeature
from bridge_torch.file_format.state_dict_entry import find_weights
from bridge_torch.file_format.tensor_holders import TensorCounts
from bridge_torch.safe_pickle.unpickler import Limits, unpickle
from bridge_torch.safe_pickle.values import UnsupportedTensor

W = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"params": [0]}]}
W_VIEW = View(Storage("0", 4))
FOUR = np.arange(4, dtype="f4").tobytes()


class Plain:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("content",)


class Given:
    """Takes what it holds as arguments of ``__new__``."""

    def __new__(cls, *content, **named):
        return super().__new__(cls)

    def __getnewargs__(self):
        return (torch.ones(1),)


class GivenByName(Given):
    def __getnewargs_ex__(self):
        return (), {"content": [torch.ones(1)]}


class OfDict(dict):
    pass


class OfList(list):
    pass


class OfSet(set):
    pass


class Mode(enum.Enum):
    TRAIN = "train"


class Subclass(torch.Tensor):
    pass


class Calls:
    """Pickles to a call."""

    def __init__(self, function, *args, state=None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


def unpack(*args):
    return args[0] if args and isinstance(args[0], torch.Tensor) else Plain()


CLASSES = (Plain, Slotted, Given, GivenByName, OfDict, OfList, OfSet, Mode, Subclass, unpack)


@pytest.fixture(autouse=True)
def acme(monkeypatch):
    """Let the classes be those of a library that is not there when the file is read."""
    module = types.ModuleType("acme.parts")
    for value in CLASSES:
        monkeypatch.setattr(value, "__module__", "acme.parts")
        setattr(module, value.__name__, value)
    monkeypatch.setitem(sys.modules, "acme", types.ModuleType("acme"))
    monkeypatch.setitem(sys.modules, "acme.parts", module)
    return module


def holding(tensor):
    """Objects that hold a tensor, in each way that a pickle has."""
    slotted = Slotted()
    slotted.content = [tensor]
    of_list, of_dict = OfList([{"x": tensor}]), OfDict(x=tensor)
    of_dict_attributes = OfDict()
    of_dict_attributes.cache = (tensor,)
    cyclic = Plain(content=[tensor])
    cyclic.itself = [cyclic]
    return {
        "attribute": (Plain(data=tensor), "acme.parts.Plain"),
        "slot": (slotted, "acme.parts.Slotted"),
        "new": (Given(), "acme.parts.Given"),
        "new by name": (GivenByName(), "acme.parts.GivenByName"),
        "dict": (of_dict, "acme.parts.OfDict"),
        "attribute of a dict": (of_dict_attributes, "acme.parts.OfDict"),
        "list": (of_list, "acme.parts.OfList"),
        "call": (Calls(unpack, tensor, 4), "acme.parts.unpack"),
        "state": (Calls(unpack, state={"x": tensor}), "acme.parts.unpack"),
        "partial": (functools.partial(unpack, tensor), "functools.partial"),
        "object in an object": (Plain(inner=Plain(data=tensor)), "acme.parts.Plain"),
        "cycle": (cyclic, "acme.parts.Plain"),
        "subclass of a tensor": (tensor.as_subclass(Subclass), "acme.parts.Subclass"),
        "parameter": (
            Calls(torch._utils._rebuild_parameter, Calls(unpack, tensor), False, {}),
            "acme.parts.unpack",
        ),
    }


def harmless():
    """Objects without tensors, of unknown classes, and other values that are in training checkpoints."""
    parent = Plain()
    parent.child = Plain(parent=parent, siblings=[parent])
    return {
        "plain": Plain(lr=1e-3, names={"a", "b"}),
        "dict": OfDict(lr=1e-3),
        "list": OfList([1]),
        "set": OfSet({1}),
        "member": Mode.TRAIN,
        "class": Plain,
        "function": unpack,
        "optimizer": torch.optim.AdamW,
        "partial": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
        "user dict": collections.UserDict(a=1),
        "key": {Plain(): 1, (1, 2): 2, Mode.TRAIN: 3},
        "buffer": io.BytesIO(b"abc"),
        "numpy": {"array": np.arange(3.0), "scalar": np.float32(1), "generator": np.random.default_rng(0)},
        "sets": [{1, 2}, frozenset({"a"}), bytearray(b"abc"), b"abc", slice(1), complex(1, 2)],
        "cycle": parent,
    }


def save(root, path, protocol=2, *, zipped=True):
    torch.save(root, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


def without_library(monkeypatch):
    for name in ("acme", "acme.parts"):
        monkeypatch.delitem(sys.modules, name)


# ---- next to the weights


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", range(1, 6))
def test_everything_beside_the_weights_is_left_out_and_named(tmp_path, monkeypatch, protocol, zipped):
    tensor_holders = {name: value for name, (value, _) in holding(torch.zeros(3)).items()}
    if protocol < 2:
        for name in ("slot", "new", "new by name"):  # protocols that cannot pickle them
            del tensor_holders[name]
    odd = {**harmless(), **{f"holding: {name}": value for name, value in tensor_holders.items()}}
    if protocol < 2:
        del odd["buffer"]
    path = save({"state_dict": W, "epoch": 3, **odd}, tmp_path / "a.pt", protocol, zipped=zipped)
    expected = torch.load(path, weights_only=False)["state_dict"]
    without_library(monkeypatch)
    with open_torch(path) as state:
        assert_same(state, expected)
        first, second = state.metadata.notes
    assert "'state_dict'" in first
    assert "acme.parts." in first
    assert "none of it was run" in second
    assert "acme" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", range(1, 6))
def test_weights_of_every_protocol_are_those_that_torch_loads(tmp_path, protocol, zipped):
    base = torch.arange(60.0)
    tensors = {
        "whole": base,
        "turned": base.reshape(6, 10).t(),
        "slice": base[7:9],
        "again": base,
        "half": torch.randn(3, 4).bfloat16(),
        "scalar": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "complex": torch.complex(torch.randn(3), torch.randn(3)).conj(),
    }
    path = save(tensors, tmp_path / "a.pt", protocol, zipped=zipped)
    loaded = torch.load(path, weights_only=False)
    with open_torch(path) as state:
        assert_same(state, {name: tensor.detach() for name, tensor in loaded.items()})
        assert state.metadata.ties == {("again",): ("whole",)}
        assert state.metadata.notes == ()


def test_a_note_names_each_class_and_says_how_to_choose_other_weights(tmp_path):
    root = {
        "model": W,
        "epoch": 1,
        "cfg": Plain(),
        "model_ema": W,
        "mean": torch.ones(1),
        "history": [torch.ones(1)],
    }
    with open_torch(save(root, tmp_path / "a.pt")) as state:
        assert state.metadata.notes == (
            "the weights were read from the entry 'model'; not read: "
            'model_ema (2 tensors; entry="model_ema", --entry model_ema), mean (a tensor), '
            "history (tensors in a list), cfg (acme.parts.Plain), epoch",
            "the file names code that weights do not need, and none of it was run: acme.parts.Plain",
        )


def test_every_name_of_code_in_a_file_is_told(tmp_path):
    odd = b"".join(b"X\x02\x00\x00\x00%c%cc%c.lib\nrun\n)R" % (97 + i, 97, 97 + i) for i in range(20))
    weight = dumps({"state_dict": {"w": View(Storage("0", 4))}})[:-1]
    make_zip(tmp_path / "a.pt", weight + b"(" + odd + b"u.", {"0": FOUR})
    with open_torch(tmp_path / "a.pt") as state:
        assert all(f"{chr(97 + i)}.lib.run" in state.metadata.notes[1] for i in range(20))


def test_no_note_where_the_file_holds_the_weights_alone(tmp_path):
    for root in (W, {"state_dict": W}):
        with open_torch(save(root, tmp_path / "a.pt")) as state:
            assert state.metadata.notes == ()


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize(
    ("function", "args"),
    [(os.mkdir, ("{}/ran",)), (eval, ("open('{}/ran', 'w')",)), (getattr, (os, "system")), (exec, ("1/0",))],
    ids=["mkdir", "eval", "getattr", "exec"],
)
def test_code_beside_the_weights_does_not_run_and_is_named(tmp_path, function, args, protocol):
    args = tuple(arg.format(tmp_path) if isinstance(arg, str) else Calls(unpack) for arg in args)
    path = save({"state_dict": W, "odd": Calls(function, *args)}, tmp_path / "a.pt", protocol)
    with open_torch(path) as state:
        assert_same(state, W)
        assert f"odd ({'posix' if function is os.mkdir else ''}" in state.metadata.notes[0]
        assert f".{function.__name__}" in state.metadata.notes[1]
    assert not (tmp_path / "ran").exists()


def test_a_terminal_escape_in_a_class_name_is_shown_escaped(tmp_path):
    root = (
        b"\x80\x02}(X\x01\x00\x00\x00mca\nb\x1b[2J\n)\x81X\x01\x00\x00\x00w"
        + dumps(View(Storage("0", 4)))[2:-1]
        + b"u."
    )
    make_zip(
        tmp_path / "a.pt",
        b"\x80\x02}X\x0a\x00\x00\x00state_dict"
        + dumps({"w": View(Storage("0", 4))})[2:-1]
        + b"sX\x01\x00\x00\x00mca\nb\x1b[2J\n)\x81s.",
        {"0": FOUR},
    )
    with open_torch(tmp_path / "a.pt") as state:
        assert "\x1b" not in "".join(state.metadata.notes)
        assert "x1b" in state.metadata.notes[1]
    make_zip(tmp_path / "b.pt", root, {"0": FOUR})
    with refused(UnsafeFile, "x1b") as caught:
        open_torch(tmp_path / "b.pt")
    assert "\x1b" not in str(caught.value)


def test_an_argument_that_is_not_read_does_not_make_the_file_malformed(tmp_path):
    odd = {
        "size": Calls(torch.Size, Calls(unpack)),
        "dict": Calls(collections.OrderedDict, Calls(unpack)),
        "tensor": Calls(torch._utils._rebuild_tensor_v2, Calls(unpack), 0, (1,), (1,), False, {}),
    }
    with open_torch(save({"state_dict": W, **odd}, tmp_path / "a.pt")) as state:
        assert_same(state, W)
    for name, value in odd.items():
        path = save({"state_dict": {**W, "odd": value}}, tmp_path / f"{name}.pt")
        with refused(UnsafeFile, "acme.parts.unpack (in state_dict.odd)"):
            open_torch(path)


def test_objects_beside_several_state_dicts_are_beside_the_weights(tmp_path):
    root = {"g": W, "d": W, "args": Plain(), "g_optim": OPTIMIZER}
    with open_torch(save(root, tmp_path / "a.pt")) as state:
        assert_same(state, {f"{part}.{name}": tensor for part in "gd" for name, tensor in W.items()})
        assert "args (acme.parts.Plain), g_optim" in state.metadata.notes[0]


def test_extra_state_of_any_class_is_left_out(tmp_path):
    root = {**W, "a._extra_state": io.BytesIO(b"scales"), "b._extra_state": Plain(amax=torch.ones(1))}
    with open_torch(save(root, tmp_path / "a.pt")) as state:
        assert_same(state, W)
        assert "b._extra_state" in state.metadata.notes[0]
        assert "_io.BytesIO" in state.metadata.notes[1]


# ---- among the weights


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("way", list(holding(torch.ones(1))))
def test_an_object_that_holds_a_tensor_is_refused_by_name_and_class(tmp_path, way, protocol):
    value, name = holding(torch.ones(3))[way]
    roots = {
        "entry": ({"state_dict": {**W, "q.weight": value}}, "state_dict.q.weight"),
        "nested": ({"enc": {**W, "q": value}}, "enc.q"),
        "alone": ({"enc": value, "dec": W}, "enc"),
        "wrapper": ({"model": value, "dec": W}, "model"),
    }
    if (way, protocol) == ("new by name", 2):
        name = "functools.partial"  # how protocols without an opcode for it spell this
    for root, place in roots.values():
        with refused(UnsafeFile, f"{name} (in {place})", hint="torch.save(model.state_dict(), ") as caught:
            open_torch(save(root, tmp_path / "a.pt", protocol))
        assert caught.value.path == str(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "name", sorted({"plain", "dict", "member", "class", "function", "partial", "user dict"})
)
def test_an_object_of_an_unknown_class_among_tensors_is_refused(tmp_path, name):
    with refused(UnsafeFile, "(in state_dict.odd)"):
        open_torch(save({"state_dict": {**W, "odd": harmless()[name]}}, tmp_path / "a.pt"))
    with refused(UnsafeFile, "(in odd)"):
        open_torch(save({**W, "odd": harmless()[name]}, tmp_path / "a.pt"))


def test_every_object_among_the_weights_is_listed(tmp_path):
    root = {
        **W,
        **{f"layers.{i}.q": Plain(data=W["a.bias"]) for i in range(30)},
        "z": Calls(os.system, "true"),
    }
    listed = "posix.system (in z), acme.parts.Plain (in layers.{0..29}.q (x30))"
    with refused(UnsafeFile, listed, hint=("Do not load", "posix.system")):
        open_torch(save(root, tmp_path / "a.pt"))


@pytest.mark.parametrize(
    "value",
    [argparse.Namespace(x=torch.ones(1)), {torch.ones(1)}, [torch.ones(1)]],
    ids=["namespace", "set", "list"],
)
def test_a_known_object_that_holds_a_tensor_is_not_left_out(tmp_path, value):
    with refused(UnsupportedFeature, "odd"):
        open_torch(save({**W, "odd": value}, tmp_path / "a.pt"))


def test_known_objects_without_tensors_are_left_out_as_ever(tmp_path):
    root = {**W, "n": None, "i": 3, "s": "x", "args": argparse.Namespace(x=[1]), "set": {1}, "ar": np.ones(2)}
    with open_torch(save(root, tmp_path / "a.pt")) as state:
        assert_same(state, W)
        assert state.metadata.notes == ("of the file's entries these were not read: n, i, s, args, set, ar",)


def test_an_object_in_place_of_the_file_is_refused(tmp_path):
    for value in (OfDict(W), Plain(**{"w": W}), Calls(unpack, W), [Plain(), W]):
        with refused(UnsafeFile, "acme.parts."):
            open_torch(save(value, tmp_path / "a.pt"))
    with refused(UnsafeFile, "acme.parts.Plain"):
        open_torch(save({"w": Plain(), "v": 3}, tmp_path / "a.pt"))


def test_a_module_under_a_usual_name_is_refused_and_other_entries_are_offered(tmp_path):
    hint = ("pickled module", 'entry="ema" (--entry ema)')
    with refused(UnsafeFile, "torch.nn.modules.linear.Linear (in model)", hint=hint):
        open_torch(save({"model": torch.nn.Linear(2, 2), "ema": W}, tmp_path / "a.pt"))
    with open_torch(save({"state_dict": W, "model": torch.nn.Linear(2, 2)}, tmp_path / "a.pt")) as state:
        assert_same(state, W)


def test_the_hint_speaks_of_a_module_only_where_one_is_in_the_way(tmp_path):
    root = {"state_dict": {**W, "q": Plain(data=W["a.bias"])}, "activation": torch.nn.ReLU}
    with pytest.raises(UnsafeFile) as caught:
        open_torch(save(root, tmp_path / "a.pt"))
    assert "pickled module" not in caught.value.hint
    with refused(UnsafeFile, hint="pickled module"):
        open_torch(save({**W, "net": Plain(inner=torch.nn.Linear(2, 2))}, tmp_path / "a.pt"))


def test_a_class_that_old_torch_wrote_with_its_source_is_one_of_the_others(tmp_path):
    source = b"(X\x06\x00\x00\x00modulecacme.parts\nNet\nX\x06\x00\x00\x00net.pyX\x01\x00\x00\x00xtQ)\x81"
    weight = dumps({"state_dict": {"w": View(Storage("0", 4))}})[:-1]
    make_zip(tmp_path / "a.pt", weight + b"X\x03\x00\x00\x00net" + source + b"s.", {"0": FOUR})
    with open_torch(tmp_path / "a.pt") as state:
        assert list(state) == [("w",)]
        assert "net (acme.parts.Net)" in state.metadata.notes[0]
    make_zip(tmp_path / "b.pt", b"\x80\x02" + source + b".", {"0": FOUR})
    with refused(UnsafeFile, "acme.parts.Net", hint="pickled module"):
        open_torch(tmp_path / "b.pt")


def test_known_dicts_as_state_dicts_are_read(tmp_path):
    for kind in (dict, collections.OrderedDict, lambda d: collections.defaultdict(int, d)):
        for protocol in range(1, 6):
            with open_torch(save({"state_dict": kind(W)}, tmp_path / "a.pt", protocol)) as state:
                assert_same(state, W)


def test_a_tensor_with_metadata_that_is_not_read_is_refused(tmp_path):
    view = View(Storage("0", 4), flags=None)
    flagged = Calls(torch._utils._rebuild_tensor_v2, *view.__reduce__()[1], Calls(unpack))
    make_zip(tmp_path / "a.pt", {"w": flagged, "v": view}, {"0": FOUR})
    with refused(UnsafeFile, "acme.parts.unpack (in w)"):
        open_torch(tmp_path / "a.pt")


def test_a_tensor_that_is_changed_after_it_was_made_is_not_read_where_it_stands_again(tmp_path):
    class Changed:
        def __reduce__(self):
            return *View(Storage("0", 4)).__reduce__(), {"scale": 2}

    tensor = Changed()
    make_zip(tmp_path / "a.pt", {"first": [tensor], "state_dict": {"w": tensor, "v": W_VIEW}}, {"0": FOUR})
    with refused(UnsupportedFeature, "state_dict.w (rebuilt in place)"):
        open_torch(tmp_path / "a.pt")


def test_a_tensor_that_an_object_shares_with_the_state_dict_is_read(tmp_path):
    shared = torch.arange(5.0)
    root = {"state_dict": {"w": shared}, "trainer": Plain(best=shared, weights={"w": shared})}
    for zipped in (True, False):
        with open_torch(save(root, tmp_path / "a.pt", zipped=zipped)) as state:
            assert_same(state, {"w": shared})


# ---- bounds


def a_chain(length, link):
    """A pickle of objects in objects, each made of the one before, and a weight."""
    weight = dumps({"w": View(Storage("0", 4))})[2:-1]
    return (
        b"\x80\x02ca\nB\nr\xe8\x03\x00\x000Nr\xe9\x03\x00\x000"
        + link * length
        + (weight + b"X\x01\x00\x00\x00x}X\x01\x00\x00\x00yj\xe9\x03\x00\x00ss.")
    )


LINKS = {
    "call": b"j\xe8\x03\x00\x00j\xe9\x03\x00\x00\x85Rr\xe9\x03\x00\x000",
    "state": b"j\xe8\x03\x00\x00)\x81j\xe9\x03\x00\x00br\xe9\x03\x00\x000",
    "set": b"\x8f(j\xe9\x03\x00\x00\x90r\xe9\x03\x00\x000",
}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("length", [5_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_long_chain_of_objects_is_walked_without_recursion(tmp_path, link, length):
    make_zip(tmp_path / "a.pt", a_chain(length, LINKS[link]), {"0": FOUR})
    with open_torch(tmp_path / "a.pt") as state:
        assert list(state) == [("w",)]


def test_containers_within_objects_are_bounded_as_others_are():
    nest = b"]" * 201 + b"a" * 200
    for data in (b"ca\nB\n" + nest + b"\x85R", b"ca\nB\n)\x81" + nest + b"b", b"\x8f(" + nest + b"\x90"):
        with refused(LimitExceeded, "200"):
            unpickle(b"\x80\x04}X\x01\x00\x00\x00x" + data + b"s.", path="f")
    itself = b"ca\nB\n]q\x01h\x01a\x85R"
    with refused(LimitExceeded, "itself"):
        unpickle(b"\x80\x04}X\x01\x00\x00\x00x" + itself + b"s.", path="f")


def test_what_objects_hold_counts():
    filled = b"ca\nB\n)\x81" + b"(" + b"N" * 300 + b"e"
    for data in (filled, filled[:-1] + b"u", b"\x8f(" + b"N" * 300 + b"\x90", b"(" + b"N" * 300 + b"\x91"):
        with refused(LimitExceeded, "200 objects"):
            unpickle(b"\x80\x04" + data + b".", path="f", limits=Limits(objects=200))
    with refused(LimitExceeded, "200 objects"):
        unpickle(b"\x80\x04N" + b"\x94" * 300 + b".", path="f", limits=Limits(objects=200))


def test_a_dict_whose_keys_are_objects_is_searched(tmp_path):
    for value, name in (({Plain(data=torch.ones(1)): 1}, "acme.parts.Plain"), ({torch.ones(1): 2}, "tensor")):
        with refused(MalformedFile, f"odd.({name})"):
            open_torch(save({**W, "odd": value}, tmp_path / "a.pt"))
    value = {Plain(data=torch.ones(1)): 1}
    with open_torch(save({"state_dict": W, "odd": value}, tmp_path / "a.pt")) as state:
        assert "odd (acme.parts.Plain)" in state.metadata.notes[0]


def test_mutated_pickles_with_foreign_objects_are_read_or_refused():
    odd = {
        name: value for name, value in harmless().items() if name not in ("buffer", "optimizer", "partial")
    }
    root = {"state_dict": {"w": View(Storage("0", 4))}, **odd, "x": View(Storage("1", 4))}
    generator = random.Random(7)
    data = [dumps(root, protocol) for protocol in range(1, 6)]
    for number in range(600):
        changed = bytearray(data[number % 5])
        for _ in range(generator.randrange(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        with contextlib.suppress(BridgeError):
            find_weights(unpickle(bytes(changed), path="f"), path="f")


@pytest.mark.parametrize("inner", [False, True], ids=["flat", "below an entry"])
def test_weights_that_are_numpy_arrays_are_refused_by_their_names(tmp_path, inner):
    arrays = {name: value.numpy() for name, value in W.items()}
    torch.save({"model": arrays, "epoch": 1} if inner else arrays, tmp_path / "a.pt")
    prefix = "model." if inner else ""
    with refused(UnsupportedFeature, f"{prefix}a.weight, {prefix}a.bias", hint="numpy.savez"):
        open_torch(tmp_path / "a.pt")


def test_a_numpy_array_among_weights_is_not_left_out_where_it_is_named_like_one(tmp_path):
    torch.save({**W, "b.weight": np.ones(3)}, tmp_path / "a.pt")
    with refused(UnsupportedFeature, "b.weight (a numpy array)"):
        open_torch(tmp_path / "a.pt")
    torch.save({**W, "classes": np.ones(3)}, tmp_path / "b.pt")
    assert_same(open_torch(tmp_path / "b.pt"), W)


def test_values_that_many_entries_share_are_searched_up_to_a_bound(tmp_path, monkeypatch):
    shared = [Plain() for _ in range(30)]
    torch.save({"state_dict": W, **{f"e{n}": [shared] for n in range(40)}}, tmp_path / "a.pt")
    assert "e{0..39} (" in open_torch(tmp_path / "a.pt").metadata.notes[0]
    monkeypatch.setattr("bridge_torch.file_format.tensor_holders._MAX_SEARCHED", 100)
    note, code = open_torch(tmp_path / "a.pt").metadata.notes
    assert "e{0..3} (" in note
    assert "e{4..39} (x36)" in note
    assert Plain.__name__ in code


def test_a_dict_of_tensors_is_counted_once():
    counts = TensorCounts()
    tensor = UnsupportedTensor("sparse")
    shared = {"a": tensor}
    entries = [{"x": shared, "y": shared, "z": [tensor]}, {"x": shared}]
    assert counts.of(entries[0]) == 2
    shared["b"] = tensor
    assert counts.of(entries[1]) == 1


def test_a_long_name_is_cut(tmp_path):
    torch.save({"state_dict": W, "k" * 100_000: 1}, tmp_path / "a.pt")
    assert len(open_torch(tmp_path / "a.pt").metadata.notes[0]) < 1000
