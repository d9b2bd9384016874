"""The base class of formats with a header: what it derives, what it refuses, what hostile files may do."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from support.errors import refused

from bridge_core import (
    FlatState,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    PluginError,
    Registry,
    SourceFile,
    StateMetadata,
    TruncatedFile,
    UnsupportedFeature,
    as_state,
    open_state,
    save_state,
)
from bridge_core.formats import HeaderFormat, ShardNames, StoredTensor
from bridge_core.state import as_tensor
from bridge_core.testing import FormatContract, read_state, write_state
from bridge_core.transfer import Budget, FileTarget

MAGIC = b"TOYTOY1\n"
CODES = {"b1": "bool", "bf": "bfloat16", "c8": "complex64", "f4": "float32", "i8": "int64", "u1": "uint8"}
NUMBERS = {0: "float32", 7: "int8"}


class Toy(HeaderFormat):
    """The length of a JSON text, and the text: places from the beginning of the file, in decimal digits."""

    name = "toy"
    extensions = (".toy",)
    magic = MAGIC
    dtypes = CODES

    def read_header(self, header):
        document = header.json(header.integer(8))
        rows = document["tensors"].items()
        return [StoredTensor(name, *row) for name, row in rows], document["texts"]

    def make_header(self, tensors, texts):
        rows = {one.name: [one.dtype, one.shape, one.offset] for one in tensors}
        text = json.dumps({"tensors": rows, "texts": dict(texts)}).encode()
        return len(text).to_bytes(8, "little") + text


class Table(HeaderFormat):
    """A binary table without texts, with lengths, and with places from the end of the table."""

    name = "table"
    extensions = (".table",)
    magic = b"TABLE\x00\x01\x02"
    dtypes = NUMBERS
    metadata = False
    layout = "torch"
    alignment = 1

    def read_header(self, header):
        rows = []
        for _ in range(header.integer(4)):
            name = header.text(header.integer(2))
            code, rank = header.integer(1), header.integer(1)
            shape = tuple(header.integer(8) for _ in range(rank))
            rows.append((name, code, shape, header.integer(8), header.integer(8)))
        start = header.position
        return (
            StoredTensor(name, code, shape, start + at, nbytes) for name, code, shape, at, nbytes in rows
        ), {}

    def make_header(self, tensors, texts):
        assert not texts
        start = min((one.offset for one in tensors), default=0)
        table = struct.pack("<I", len(tensors))
        for one in tensors:
            name = one.name.encode()
            table += struct.pack("<H", len(name)) + name + struct.pack("<BB", one.dtype, len(one.shape))
            table += struct.pack(f"<{len(one.shape) + 2}Q", *one.shape, one.offset - start, one.nbytes)
        return table


class Sorted(Toy):
    """Stores the tensors by name."""

    name = "sorted"

    def make_header(self, tensors, texts):
        return super().make_header(sorted(tensors, key=lambda one: one.name), texts)


@pytest.mark.zoo
class TestToy(FormatContract):
    format = Toy()


@pytest.mark.zoo
class TestTable(FormatContract):
    format = Table()


@pytest.mark.zoo
class TestSorted(FormatContract):
    format = Sorted()


def stored(document, data=b"", *, length=None):
    """Return a file with a header of any content."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return MAGIC + (len(text) if length is None else length).to_bytes(8, "little") + text + data


def header(**rows):
    return {"tensors": rows, "texts": {}}


@pytest.fixture
def opened(tmp_path):
    def opened(content):
        path = tmp_path / "given.toy"
        path.write_bytes(content)
        return read_state(Toy(), path)

    return opened


def write(form, state, path):
    return write_state(form, as_state(state), path)


# What is derived


def test_ties_order_names_and_metadata_come_back(tmp_path):
    shared = as_tensor(np.arange(6, dtype="float32").reshape(2, 3))
    state = FlatState(
        {
            ("z.1", "w"): np.ones((), "bool"),
            ("head",): shared,
            ("a", "b"): np.zeros((0, 2), "int64"),
            ("emb",): shared,
        },
        layout="neutral",
        metadata=StateMetadata(ties={("head",): ("emb",)}, empty=(("none",),), extra={"note": "ü"}),
    )
    for form in (Toy(), Sorted()):
        path = write(form, state, tmp_path / f"{form.name}.toy")
        assert path.read_bytes().count(np.arange(6, dtype="float32").tobytes()) == 1
        with read_state(form, path) as again:
            assert list(again) == list(state)
            assert (again.layout, again.metadata) == (state.layout, state.metadata)
            assert again.tensor(("head",)) is again.tensor(("emb",))
            np.testing.assert_array_equal(again["head"], state["head"])
            assert again["z.1", "w"].dtype == bool


def test_files_of_other_programs_have_the_layout_of_the_class(tmp_path):
    path = tmp_path / "other.table"
    row = struct.pack("<IH3sBB", 1, 3, b"a.w", 0, 1) + struct.pack("<3Q", 2, 0, 8)
    path.write_bytes(Table.magic + row + np.ones(2, "<f4").tobytes())
    with read_state(Table(), path) as found:
        assert (found.layout, dict(found.metadata.extra)) == ("torch", {})
        assert found["a", "w"].tolist() == [1, 1]


@pytest.mark.parametrize("count", [0, 1, 9, 150])
def test_places_that_make_the_header_longer_are_found(tmp_path, count):
    state = {(f"layer {n}",): np.full(n, n, "float32") for n in range(count)}
    with read_state(Toy(), write(Toy(), state, tmp_path / "a.toy")) as found:
        assert list(found) == list(state)
        assert all(found[key].tobytes() == array.tobytes() for key, array in state.items())


def test_tensors_are_aligned(tmp_path):
    state = {(name,): np.ones(size, "uint8") for name, size in (("a", 1), ("b", 65), ("c", 0), ("d", 3))}
    with read_state(Toy(), write(Toy(), state, tmp_path / "a.toy")) as found:
        assert {tensor.offset % 64 for tensor in found.tensors().values()} == {0}
    with read_state(Table(), write(Table(), {("a",): np.ones(3, "int8")}, tmp_path / "a.table")) as found:
        assert found.tensor(("a",)).offset + 3 == (tmp_path / "a.table").stat().st_size


def test_shards_and_capabilities_follow(tmp_path):
    form = Toy()
    assert form.capabilities.dtypes == set(Toy.dtypes.values())
    assert form.capabilities.nested
    assert not Table.capabilities.nested
    registry = Registry().extend(form)
    shared = as_tensor(np.ones(300, "float32"))
    state = FlatState(
        {("a", "w"): shared, ("b", "w"): np.zeros(300, "float32"), ("c", "w"): shared},
        layout="torch",
        metadata=StateMetadata(ties={("c", "w"): ("a", "w")}),
    )
    save_state(state, tmp_path / "model", format="toy", max_shard_size=1500, registry=registry)
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["model-00001-of-00002.toy", "model-00002-of-00002.toy", "model.toy.index.json"]
    with open_state(tmp_path / "model", registry=registry) as found:
        assert {key: found[key].tobytes() for key in found} == {key: state[key].tobytes() for key in state}


def test_usual_names_are_those_of_the_class_itself():
    class Other(Toy):
        extensions = (".other",)

    class Named(Toy):
        names = ShardNames("w.toy", "w-{index}.toy", "w.json")

    class Below(Named):
        extensions = (".below",)

    assert Toy.names.single == "model.toy"
    assert Other.names.single == "model.other"
    assert Below.names is Named.names
    assert Named.names.single == "w.toy"


# What cannot be stored


def nothing_written(form, state, tmp_path):
    target = tmp_path / "target"
    target.touch()
    try:
        form.write(as_state(state), FileTarget(target, Budget(1)))
    finally:
        assert target.stat().st_size == 0


@pytest.mark.parametrize(
    ("form", "state", "kind", "named"),
    [
        (
            Toy(),
            {("a",): np.ones(1, "bool"), ("b",): np.ones(1, "int16")},
            UnsupportedFeature,
            "b (int16)",
        ),
        (Toy(), {(): np.ones(1, "float32")}, KeyConflict, "()"),
        (Toy(), {("\ud800",): np.ones(1, "float32")}, UnsupportedFeature, r"\ud800"),
        (Table(), {("a.b",): np.ones(1, "float32")}, UnsupportedFeature, "a.b"),
        (Table(), FlatState({("a",): np.ones(1, "float32")}, layout="flax"), UnsupportedFeature, "'flax'"),
        (
            Toy(),
            FlatState({}, metadata=StateMetadata(extra={"ckptbridge": "x"})),
            KeyConflict,
            "'ckptbridge'",
        ),
    ],
)
def test_what_a_file_cannot_hold_is_refused_before_it_is_written(tmp_path, form, state, kind, named):
    with refused(kind, named):
        nothing_written(form, state, tmp_path)


def test_a_header_above_the_limit_is_neither_written_nor_read(tmp_path):
    class Small(Toy):
        header_limit = 300

    state = {(f"a long name, number {n}",): np.ones(1, "float32") for n in range(20)}
    with refused(LimitExceeded, 300, hint="--max-shard-size"):
        nothing_written(Small(), state, tmp_path)
    path = write(Toy(), state, tmp_path / "a.toy")
    with refused(LimitExceeded, path, 308):
        read_state(Small(), path)


# Methods that do not fit


class LosesTexts(Toy):
    def read_header(self, header):
        return super().read_header(header)[0], {}


class LosesOne(Toy):
    def make_header(self, tensors, texts):
        return super().make_header(tensors[1:], texts)


class AddsOne(Toy):
    def read_header(self, header):
        tensors, texts = super().read_header(header)
        return [*tensors, StoredTensor("more", "f4", (0,), header.position)], texts


class SwapsAxes(Toy):
    def make_header(self, tensors, texts):
        turned = [StoredTensor(one.name, one.dtype, one.shape[::-1], one.offset) for one in tensors]
        return super().make_header(turned, texts)


class Misplaces(Toy):
    def make_header(self, tensors, texts):
        moved = [StoredTensor(one.name, one.dtype, one.shape, one.offset - 1) for one in tensors]
        return super().make_header(moved, texts)


class WritesMagicTwice(Toy):
    def make_header(self, tensors, texts):
        return self.magic + super().make_header(tensors, texts)


class ReturnsText(Toy):
    def make_header(self, tensors, texts):
        return super().make_header(tensors, texts).decode("latin1")


class Grows(Toy):
    grown = 0

    def make_header(self, tensors, texts):
        self.grown += 100
        return super().make_header(tensors, {**texts, "grown": "x" * self.grown})


class ReturnsRows(Toy):
    def read_header(self, header):
        tensors, texts = super().read_header(header)
        return [(one.name, one.dtype) for one in tensors], texts


@pytest.mark.parametrize(
    "form",
    [
        LosesTexts(),
        LosesOne(),
        AddsOne(),
        SwapsAxes(),
        Misplaces(),
        WritesMagicTwice(),
        ReturnsText(),
        Grows(),
        ReturnsRows(),
    ],
    ids=lambda form: type(form).__name__,
)
def test_methods_that_do_not_fit_write_nothing(tmp_path, form):
    with refused(PluginError, "make_header"):
        nothing_written(form, {("a",): np.ones((2, 3), "float32"), ("b",): np.ones(2, "int64")}, tmp_path)


# Declarations


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"name": ""}, "name"),
        ({"extensions": ".toy"}, "extensions"),
        ({"extensions": ("toy",)}, "extensions"),
        ({"magic": b"TOY"}, "magic"),
        ({"magic": "TOYTOY"}, "magic"),
        ({"dtypes": {}}, "dtypes"),
        ({"dtypes": "float32"}, "dtypes"),
        ({"dtypes": {"f": "float33"}}, "float33"),
        ({"dtypes": {"int4"}}, "int4"),
        ({"alignment": 0}, "alignment"),
        ({"separator": ""}, "separator"),
        ({"metadata": False}, "metadata"),
        ({"metadata": 1}, "metadata"),
        ({"capabilities": None}, "capabilities"),
        ({"header_limit": -1}, "header_limit"),
    ],
)
def test_a_wrong_declaration_is_refused_when_the_class_is_made(changes, named):
    with refused(PluginError, named, "Wrong"):
        type("Wrong", (Toy,), changes)


def test_a_missing_declaration_is_refused_when_the_class_is_made():
    with refused(PluginError, "Wrong", "extensions, dtypes"):
        type("Wrong", (HeaderFormat,), {"name": "wrong", "magic": b"WRONG"})


# Hostile files


@pytest.mark.parametrize(
    ("content", "kind", "named"),
    [
        (b"", MalformedFile, "TOYTOY1"),
        (MAGIC[:-1], MalformedFile, "TOYTOY1"),
        (MAGIC, TruncatedFile, "byte 16"),
        (stored(header(), length=1 << 60), TruncatedFile, (1 << 60) + 16),
        (stored(b"[1]"), MalformedFile, "list"),
        (stored(b'{"tensors": {"a": 1, "a": 2}}'), KeyConflict, "'a'"),
        (stored({"tensors": {}}), MalformedFile, "texts"),
        (stored({"tensors": [], "texts": {}}), MalformedFile, "AttributeError"),
        (stored(header(a=["f4", [1]]), bytes(4)), MalformedFile, "TypeError"),
        (stored({"tensors": {}, "texts": {"a": 1}}), MalformedFile, "texts"),
        (stored({"tensors": {}, "texts": {"a": "\ud800"}}), MalformedFile, "texts"),
        (stored({"tensors": {}, "texts": {"ckptbridge": "{"}}), MalformedFile, "JSON"),
        (stored(header(**{"\ud800": ["f4", [], 99]}), bytes(400)), MalformedFile, "name"),
        (stored(header(a=["f5", [1], 60]), bytes(64)), UnsupportedFeature, "f5"),
        (stored(header(a=[["f4"], [1], 60]), bytes(64)), UnsupportedFeature, "f4"),
        (stored(header(a=["f4", 1, 60]), bytes(64)), MalformedFile, "list of sizes"),
        (stored(header(a=["f4", [-1], 60]), bytes(64)), MalformedFile, "-1"),
        (stored(header(a=["f4", [True], 60]), bytes(64)), MalformedFile, "True"),
        (stored(header(a=["f4", [1.0], 60]), bytes(64)), MalformedFile, "1.0"),
        (stored(header(a=["f4", [1 << 40, 1 << 40], 60]), bytes(64)), MalformedFile, "too large"),
        (stored(header(a=["f4", [0, 1 << 62, 1 << 62], 60]), bytes(64)), MalformedFile, "too large"),
        (stored(header(a=["f4", [1 << 64], 60]), bytes(64)), MalformedFile, 1 << 64),
        (stored(header(a=["f4", [1] * 70, 60]), bytes(64)), UnsupportedFeature, "70"),
        (stored(header(a=["f4", [1], 3]), bytes(64)), MalformedFile, "byte 3"),
        (stored(header(a=["f4", [0], 3]), bytes(64)), MalformedFile, "behind the header"),
        (stored(header(a=["f4", [1], -4]), bytes(64)), MalformedFile, "-4"),
        (stored(header(a=["f4", [1], 1 << 40]), bytes(64)), TruncatedFile, (1 << 40) + 4),
        (stored(header(a=["f4", [0], 1 << 40]), bytes(64)), TruncatedFile, 1 << 40),
        (stored(header(a=["f4", [2], 90], b=["f4", [2], 94]), bytes(64)), MalformedFile, "byte 98"),
        (stored(header(a=["f4", [2], 90], b=["f4", [2], 90]), bytes(64)), MalformedFile, "byte 98"),
        (stored(header(), bytes(64)), MalformedFile, "64 bytes more"),
        (stored(b'{"tensors": ' + b"[" * 100_000), MalformedFile, "nested"),
    ],
)
def test_a_damaged_header_is_refused(opened, content, kind, named):
    with refused(kind, named, "given.toy"):
        opened(content)


def test_a_length_that_is_wrong_is_refused(tmp_path):
    path = tmp_path / "wrong.table"
    row = struct.pack("<IH1sBB", 1, 1, b"a", 0, 1) + struct.pack("<3Q", 2, 0, 4)
    path.write_bytes(Table.magic + row + bytes(8))
    with refused(MalformedFile, "8 bytes", 4, key="a"):
        read_state(Table(), path)


def test_a_name_that_is_repeated_is_refused(tmp_path):
    path = tmp_path / "twice.table"
    one = struct.pack("<H1sBB", 1, b"a", 7, 0)
    path.write_bytes(
        Table.magic
        + struct.pack("<I", 2)
        + one
        + struct.pack("<2Q", 0, 1)
        + one
        + struct.pack("<2Q", 1, 1)
        + b"12"
    )
    with refused(KeyConflict, key="a"):
        read_state(Table(), path)


def test_ties_of_a_file_lead_to_tensors_of_it(opened):
    for ties, kind in (({"a": "b"}, MalformedFile), ({"a": "b", "b": "a"}, MalformedFile)):
        texts = {"ckptbridge": json.dumps({"version": 1, "layout": "torch", "ties": ties})}
        with refused(kind, "tied"):
            opened(stored({"tensors": {}, "texts": texts}))


@pytest.mark.parametrize("order", ["0", "1 1", "0 2", "x y", "-1 0", ""])
def test_an_order_of_other_tensors_is_refused(opened, order):
    texts = {"ckptbridge": '{"version": 1}', "ckptbridge.order": order}
    document = {"tensors": {"a": ["f4", [0], 200], "b": ["f4", [0], 200]}, "texts": texts}
    with refused(MalformedFile, "order"):
        opened(stored(document, bytes(80)))


def test_bytes_that_are_no_truth_values_are_refused_when_they_are_read(opened):
    document = header(a=["b1", [2], 64])
    with (
        opened(stored(document, bytes(64 - len(stored(document))) + b"\x01\x02")) as state,
        refused(MalformedFile, 2, key="a"),
    ):
        state["a"]


def test_sniffing_reads_only_the_magic(tmp_path):
    path = tmp_path / "a"
    for content, is_toy in ((MAGIC, True), (MAGIC[:-1], False), (b"", False), (b"TOYTOY2\n..", False)):
        path.write_bytes(content)
        with SourceFile(path) as file:
            assert Toy().sniff(file) == is_toy
