"""The pickle interpreter: what it reads, and everything that it refuses, without running anything."""

from __future__ import annotations

import argparse
import collections
import contextlib
import pickle
import pickletools
import random
import struct
from pathlib import Path

import pytest
import torch
from support.errors import refused
from support.torch_files import Storage, View, dumps

from bridge_core import (
    BridgeError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)
from bridge_torch.safe_pickle.unpickler import Limits, unpickle
from bridge_torch.safe_pickle.values import Opaque, TensorRef, UnsupportedTensor


def load(data, **limits):
    return unpickle(data, path="f.pt", limits=Limits(**limits)).value


PLAIN = [
    None,
    True,
    [1, 255, 256, 65_535, 65_536, -1, 2**31, -(2**40), 2**500, 0.5, -0.0],
    {"a": (), "b": (1,), "c": (1, 2), "d": (1, 2, 3), "e": (1, 2, 3, 4), "": "x" * 300, "ж": "\ud800"},
    {1: [[], {}], -5: "int keys", None: 0, False: 2},
    collections.OrderedDict(a=1, b=collections.Counter("aab")),
    list(range(3000)),
    {str(i): i for i in range(3000)},
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_are_what_pickle_gives(value):
    for protocol in range(6):
        assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
def test_the_memo_keeps_identity(protocol):
    shared = [1]
    first, second = load(pickle.dumps([shared, shared], protocol))
    assert first is second


def test_python_2_strings_are_text():
    assert load(b"S'a\\x62\\'c'\n.") == "ab'c"
    assert load(b'S"abc"\n.') == "abc"
    assert load(b"Va\\u0062c\n.") == "abc"
    assert isinstance(load(b"S'\\xff'\n."), Opaque)
    assert load(b"\x80\x02U\x03abc.") == "abc"
    assert isinstance(load(b"\x80\x02U\x01\xff."), Opaque)


def test_the_length_of_the_pickle_is_reported():
    data = pickle.dumps({"a": 1}, 2)
    assert unpickle(data + b"more", path="f").length == len(data)


def test_a_tensor_is_described():
    flags = {"conj": False, "neg": True}
    view = View(Storage("7", 12, torch.HalfStorage), 2, (2, 3), (3, 1), flags)
    ref = load(dumps({"w": view}))["w"]
    assert isinstance(ref, TensorRef)
    assert (ref.storage.key, ref.storage.dtype, ref.storage.numel) == ("7", "float16", 12)
    assert (ref.dtype, ref.offset, ref.shape, ref.strides) == ("float16", 2, (2, 3), (3, 1))
    assert (ref.conj, ref.neg) == (False, True)


def test_a_flag_that_is_not_known_makes_the_tensor_unreadable():
    ref = load(dumps(View(Storage("0", 4), flags={"zero": True})))
    assert isinstance(ref, UnsupportedTensor)


@pytest.mark.parametrize("protocol", range(6))
def test_harmless_objects_are_kept_without_content(protocol):
    values = [
        *(
            argparse.Namespace(a=1),
            {1, 2},
            frozenset({3}),
            slice(1, 2),
            complex(1, 2),
            b"abc",
            bytearray(b"x"),
        ),
        *(Path("/tmp"), torch.device("cuda:1"), torch.float8_e4m3fn, torch.Size([1, 2])),
    ]
    unpickled = unpickle(pickle.dumps(values, protocol), path="f.pt")
    result = unpickled.value
    assert not unpickled.foreign
    assert len(result) == len(values)
    assert result[-1] == (1, 2)
    assert not any(isinstance(value, argparse.Namespace | set | Path) for value in result)


# ---- code


class Evil:
    """Pickles to a call of a function with side effects."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def test_a_call_in_a_reduce_is_refused_and_not_executed(tmp_path):
    import os

    for protocol in range(6):
        evil = Evil(os.system, f"touch {tmp_path}/ran")
        with refused(UnsafeFile, "posix.system", hint="posix.system"):
            load(pickle.dumps(evil, protocol))
        unpickled = unpickle(pickle.dumps({"w": evil}, protocol), path="f.pt")
        assert unpickled.foreign == ("posix.system",)
        assert unpickled.value["w"].kind == "posix.system"
        assert unpickled.value["w"].is_foreign
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n.",
        b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00trueo.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85\x81.",
        b"\x80\x02N0cbuiltins\nexec\n0N.",
        b"\x80\x02c__builtin__\ngetattr\nq\x000N.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.evil\n.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x00\x85R.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02cfunctools\npartial\n.",
        b"\x80\x02ccollections\nnamedtuple\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85}\x92.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x83\x01\x00.",
    ],
    ids=repr,
)
def test_names_that_no_weights_need_are_unsafe_however_they_are_spelt(data):
    with pytest.raises(UnsafeFile):
        load(data)


def test_all_unknown_names_are_listed():
    data = (
        b"\x80\x02(cos\nsystem\nca.b\nC\ncshutil\nrmtree\ncos\nsystem\nca.b\nC\nccollections\nOrderedDict\nl"
    )
    data = data[:-1] + b"t."
    with refused(UnsafeFile, hint=("Do not load", "os.system")) as caught:
        load(data)
    message = caught.value.message
    assert all(message.count(name) == 1 for name in ("os.system", "a.b.C", "shutil.rmtree"))
    assert "OrderedDict" not in message


def test_of_many_names_those_that_run_commands_come_first():
    names = b"".join(b"cacme.%c%c\nC\n" % (97 + i, 97 + i) for i in range(20))
    with refused(UnsafeFile, "21 names", "os.system, acme.aa.C", "13 more", hint="os.system"):
        load(b"\x80\x02(" + names + b"cos\nsystem\nt.")


def test_unknown_names_win_over_damage_behind_them():
    with refused(UnsafeFile, "os.system", "value 9"):
        load(b"\x80\x02cos\nsystem\nh\x09.")


def test_a_terminal_escape_in_a_name_is_shown_escaped():
    for rest in (b".", b"N\x85R.", b"\x85Q.", b"X\x01\0\0\x000X\x01\0\0\x00cK\x01tQ."):
        with refused(UnsafeFile, "x1b") as caught:
            load(b"\x80\x02(X\x07\0\0\0storageca\nb\x1b[2J\n" + rest)
        assert "\x1b" not in str(caught.value)


def test_a_whole_module_is_refused_with_the_way_out():
    with refused(UnsafeFile, "ReLU", hint=("pickled module", "torch.save(model.state_dict(), ")):
        load(pickle.dumps(torch.nn.ReLU(), 2))


# ---- limits


def nested(opening, closing, depth):
    return b"\x80\x02" + opening * depth + closing * (depth - 1) + b"."


@pytest.mark.slow
@pytest.mark.parametrize("depth", [250, 1_000_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"]", b"a"), (b")", b"\x85")])
def test_values_nested_too_deep_are_refused(opening, closing, depth):
    data = nested(opening, closing, depth)
    if opening == b")":
        data = b"\x80\x02)" + b"\x85" * depth + b"."
    with refused(LimitExceeded, "200"):
        load(data)


def test_a_million_marks_are_refused():
    with refused(LimitExceeded, "800 marks"):
        load(b"\x80\x02" + b"(" * 1_000_000 + b".")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
        b"\x80\x02]q\x00(h\x00tq\x01a.",
        b"\x80\x02]q\x00}X\x01\x00\x00\x00ah\x00sa.",
    ],
    ids=repr,
)
def test_values_that_hold_themselves_are_refused(data):
    with refused(LimitExceeded, "itself"):
        load(data)


def test_a_value_used_many_times_is_visited_once():
    doubled = b"".join(b"q%ch%c\x86" % (i, i) for i in range(100))
    value = load(b"\x80\x02)" + doubled + b".")
    assert value[0] is value[1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cbuiltins\nbytearray\nJ\x00\x5e\xd0\x7f\x85R.",
        b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x5e\xd0\xb2\x00\x85R.",
        b"\x80\x02\x8b\x00\x01\x00\x00" + b"\x01" * 256 + b".",
        b"L" + b"1" * 5000 + b"L\n.",
        b"I" + b"1" * 5000 + b"\n.",
        b"F" + b"1" * 5000 + b"\n.",
    ],
    ids=["bytearray", "bytearray python 2", "integer", "long", "int", "float"],
)
def test_calls_for_memory_are_refused(data):
    with pytest.raises(LimitExceeded):
        load(data)


def test_lengths_are_checked_before_memory_is_taken():
    for code in (b"X", b"T", b"B"):
        with pytest.raises(TruncatedFile):
            load(b"\x80\x02" + code + b"\xff\xff\xff\xff.")
    for code in (b"\x8d", b"\x8e", b"\x96", b"\x95"):
        with pytest.raises(TruncatedFile):
            load(b"\x80\x05" + code + b"\xff" * 7 + b"\x7fN.")


def test_objects_and_length_are_bounded():
    with refused(LimitExceeded, "100 objects"):
        load(b"\x80\x02" + b"]" * 101 + b".", objects=100)
    with refused(LimitExceeded, "100 bytes"):
        load(b"\x80\x02" + b"N0" * 101 + b"N.", pickle_bytes=100)


def test_a_dict_copied_again_and_again_counts_each_time():
    big = pickle.dumps({str(i): i for i in range(1000)}, 2)[2:-1]
    copy = b"ccollections\nOrderedDict\nh\xfa\x85R0"
    data = b"\x80\x02" + big + b"q\xfa" + copy * 200 + b"."
    with pytest.raises(LimitExceeded):
        load(data, objects=100_000)


def test_integer_keys_cannot_be_made_to_collide():
    mersenne = 2**61 - 1
    data = pickle.dumps({i * mersenne: None for i in range(1, 2000)}, 2)
    assert not any(isinstance(key, int) for key in load(data))


# ---- damage


def test_an_object_made_with_named_arguments_is_not_read():
    made = load(b"\x80\x04}\x8c\x01xccollections\nOrderedDict\n)}\x8c\x01a]s\x92s.")["x"]
    assert (made.kind, made.is_foreign, made.parts) == ("collections.OrderedDict", True, [(), {"a": []}])


@pytest.mark.parametrize("code", [b"\xff", b"\x99", b"\x00"])
def test_an_opcode_of_no_protocol_is_not_supported(code):
    with refused(UnsupportedFeature, repr(code)):
        load(b"\x80\x02" + code + b".")


@pytest.mark.parametrize("code", [b"\x97", b"\x97\x98"])
def test_buffers_outside_the_pickle_are_not_supported(code):
    with refused(UnsupportedFeature, "buffer", hint="pickle_protocol"):
        load(b"\x80\x05" + code + b".")


def test_a_storage_in_the_words_of_protocol_0_is_not_supported():
    with refused(UnsupportedFeature, "protocol 0", hint="pickle_protocol"):
        load(dumps({"w": View(Storage("0", 4))}, 0))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02.",
        b"\x80\x04K\x01\x8c\x01a\x93.",
        b"\x80\x04\x8c\x01aK\x01\x93.",
        b"\x80\x04X\xd0\x07\x00\x00" + b"a" * 2000 + b"\x8c\x01a\x93.",
        b"\x80\x04}(K\x01\x90.",
        b"\x80\x04N\x94\x94h\x02.",
        b"\x80\x04ccollections\nOrderedDict\n)N\x92.",
        b"I1.5\n.",
        b"L\n.",
        b"Fx\n.",
        b"Sabc\n.",
        b"S'\\x1'\n.",
        b"S'\n.",
        b"V\\u12\n.",
        b"gx\n.",
        b"(Nd.",
        b"\x80\x09.",
        b"\x80\x02h\x05.",
        b"\x80\x02a.",
        b"\x80\x02t.",
        b"\x80\x02\x87.",
        b"\x80\x02NNs.",
        b"\x80\x02}(Nu.",
        b"\x80\x02N(Ne.",
        b"\x80\x02}]Ns.",
        b"\x80\x02NQ.",
        b"\x80\x02NNR.",
        b"\x80\x02N}b.",
        b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
        b"\x80\x02ccollections\nOrderedDict\nNR.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.",
        b"\x80\x02ctorch\nSize\nX\x01\x00\x00\x00a\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
        b"\x80\x02c" + b"a" * 2000 + b"\nb\n.",
    ],
    ids=lambda data: repr(data[2:20]),
)
def test_a_damaged_pickle_is_malformed(data):
    with refused(MalformedFile, "byte", hint="torch.save(model.state_dict(), "):
        load(data)


@pytest.mark.parametrize(
    ("data", "expected", "got"),
    [
        (b"\x80\x02(]o.", "class", "a list"),
        (b"\x80\x02(o.", "class", "nothing"),
        (b"\x80\x02]NR.", "class or function", "a list"),
        (b"\x80\x02ccollections\nOrderedDict\nNR.", "collections.OrderedDict", "None"),
        (b"\x80\x02N]a.", "list", "None"),
        (b"\x80\x02]NNs.", "dict", "a list"),
        (b"\x80\x02X\x01\0\0\0aQ.", "tuple", "a str"),
        (b"\x80\x02(X\x07\0\0\0storageNNNNtQ.", "class", "None"),
    ],
)
def test_a_damaged_pickle_names_what_was_expected_and_got(data, expected, got):
    with refused(MalformedFile, expected, got, hint="torch.save(model.state_dict(), "):
        load(data)


def storage(**changes):
    return dumps(View(Storage(**{"key": "0", "numel": 4, **changes})))


@pytest.mark.parametrize(
    "data",
    [
        storage(numel=-1),
        storage(numel="4"),
        storage(numel=2**64),
        storage(key=7),
        storage(location=3),
        storage(kind=torch.Size),
        dumps(View(Storage("0", 4), offset="0")),
        dumps(View(Storage("0", 4), shape=("4",))),
        dumps(View(Storage("0", 4), shape=None)),
        dumps(View(Storage("0", 4), shape=(1,) * 1000)),
        dumps(View(None)),
        dumps(View(Storage("0", 4), flags={"conj": 1})),
        dumps([View(Storage("0", 4)), View(Storage("0", 5))]),
        dumps([View(Storage("0", 4)), View(Storage("0", 4, torch.IntStorage))]),
    ],
)
def test_a_tensor_that_makes_no_sense_is_malformed(data):
    with pytest.raises(MalformedFile):
        load(data)


def test_every_prefix_of_a_pickle_is_truncated():
    for protocol in range(1, 6):
        data = dumps({"w": View(Storage("0", 4)), "x": [1, 2.5, 2**70, "text", {3}]}, protocol)
        for length in range(len(data)):
            with pytest.raises(TruncatedFile):
                load(data[:length])


def test_a_key_given_twice_is_a_conflict():
    with refused(KeyConflict, "'a'"):
        load(b"\x80\x02}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00aNu.")


def test_errors_name_the_file_and_the_place():
    with refused(UnsupportedFeature, "f.pt", "the pickle", "byte 3") as caught:
        load(b"\x80\x02N\xff.")
    assert caught.value.path == "f.pt"


def test_random_opcodes_give_values_or_bridge_errors():
    generator = random.Random(5)
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    values = 0
    for _ in range(4000):
        parts = [generator.choice(codes) for _ in range(generator.randrange(1, 25))]
        arguments = [struct.pack("<L", generator.randrange(4))[: generator.randrange(5)] for _ in parts]
        data = b"\x80\x02" + b"".join(p + a for p, a in zip(parts, arguments, strict=True)) + b"."
        try:
            load(data)
            values += 1
        except BridgeError:
            pass
    assert values


def test_mutations_of_a_pickle_give_values_or_bridge_errors():
    generator = random.Random(6)
    value = {"state_dict": {"w": View(Storage("0", 4)), "b": View(Storage("1", 4))}, "x": [1, 2.5, {"a": ()}]}
    data = [dumps(value, protocol) for protocol in range(1, 6)]
    for number in range(3000):
        changed = bytearray(data[number % 5])
        for _ in range(generator.randrange(1, 4)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        with contextlib.suppress(BridgeError):
            load(bytes(changed))


def _text(text):
    return b"X" + struct.pack("<L", len(text)) + text.encode()


def _pairs(*keys):
    """Return an OrderedDict that is made of pairs of some integers and 1."""
    inner = b"".join(b"(\x8a\x0c" + key.to_bytes(12, "little") + b"K\x01t" for key in keys)
    return b"\x80\x02ccollections\nOrderedDict\n(" + inner + b"l\x85R."


def test_integers_that_could_be_chosen_to_collide_are_not_keys():
    large = [(2**61 - 1) * n for n in range(1, 4)]
    for made in (load(_pairs(*large)), load(pickle.dumps(dict.fromkeys(large)))):
        assert [(type(key), key.kind) for key in made] == [(Opaque, "int")] * 3
    assert load(_pairs(3, 65_535)) == {3: 1, 65_535: 1}
    with refused(KeyConflict, "the key 3"):
        load(_pairs(3, 4, 3))


@pytest.mark.parametrize("number", [-1, 2**32, 2**61 - 1])
def test_the_memo_takes_numbers_of_32_bits(number):
    with refused(MalformedFile, number, "32 bits"):
        load(b"\x80\x02]p%d\n." % number)
    assert load(b"\x80\x02(]p4294967295\ng4294967295\nl.") == [[], []]


@pytest.mark.parametrize("call", [b"ca\nb\n", b"cbuiltins\nset\n"])
def test_arguments_that_calls_share_count_for_each_of_them(call):
    shared = b"(" + b"}" * 100 + b"tq\x01"
    calls = b"(" + (call + b"h\x01R") * 20 + b"l"
    data = b"\x80\x02}" + _text("a") + shared + b"s" + _text("b") + calls + b"s."
    assert len(load(data)["b"]) == 20
    with refused(LimitExceeded, "1000 objects"):
        load(data, objects=1000)
