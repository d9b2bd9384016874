"""Metadata survives a file as text, and text that is not ours is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, strategies as st
from support.arrays import assert_same_bits, random_array
from support.errors import refused

from bridge_core import BadInputError, BridgeError, KeyConflict, MalformedFile, StateMetadata
from bridge_core.io.strict_json import parse_json
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.metadata import AuxiliaryTensor, LayerInfo, ModuleInfo, dump_metadata, load_metadata

texts = st.text(st.sampled_from('ab.\\"/*_01é\n'), max_size=4)
keys = st.lists(st.text(st.sampled_from('ab.\\"/_01é'), min_size=1, max_size=4), min_size=1, max_size=3).map(
    tuple
)
names = st.lists(texts, max_size=3).map(tuple)
infos = st.builds(
    LayerInfo, st.none() | texts, texts, names, names, st.dictionaries(texts, texts, max_size=2)
)
auxiliary_tensors = st.builds(
    lambda name, shape, seed: AuxiliaryTensor.of(random_array(tuple(shape), name, seed)),
    st.sampled_from(list(DTYPES)),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 99),
)
metadata = st.builds(
    StateMetadata,
    layers=st.dictionaries(keys | st.just(()), infos, max_size=4),
    ties=st.dictionaries(keys, keys, max_size=3),
    collections=st.dictionaries(keys, texts, max_size=3),
    boxes=st.dictionaries(keys, st.sampled_from(["value", "raw_value", "é.x"]), max_size=3),
    separators=st.dictionaries(texts, st.sampled_from([".", "/"]), max_size=2),
    auxiliary_tensors=st.dictionaries(keys, auxiliary_tensors, max_size=3),
    empty=st.lists(keys, max_size=3, unique=True).map(tuple),
    tree_form=st.dictionaries(texts, texts, max_size=2),
)


@given(st.none() | st.sampled_from(["torch", "é"]), metadata, st.booleans())
def test_loading_undoes_dumping(layout, known, escaped):
    found = load_metadata(dump_metadata(layout, known, escaped_names=escaped))
    assert found == (layout, known, escaped)


@given(metadata)
def test_equal_metadata_gives_equal_ascii_text(known):
    text = dump_metadata("x", known)
    assert text.isascii()
    assert text == dump_metadata("x", load_metadata(text)[1])


def test_the_text_of_many_like_layers_is_short():
    info = LayerInfo("linear", "structure", ("kernel", "bias"))
    layers = {("layers", str(i)): info for i in range(1000)}
    assert len(dump_metadata("neutral", StateMetadata(layers=layers))) < 20 * 1000


def test_what_lives_in_memory_alone_is_left_out():
    known = StateMetadata(
        modules={("a",): ModuleInfo(("x.Y",))}, provenance={"source": "/home/me"}, extra={"k": "v"}
    )
    text = dump_metadata("torch", known)
    assert load_metadata(text)[1] == StateMetadata()
    assert "home" not in text


@pytest.mark.parametrize("name", DTYPES)
def test_a_residual_keeps_every_bit(name):
    array = random_array((2, 3), name)
    assert_same_bits(AuxiliaryTensor.of(array).array(), array)
    if array.dtype.isbuiltin == 1 and array.dtype.itemsize > 1:
        swapped = array.astype(array.dtype.newbyteorder(">"))
        assert AuxiliaryTensor.of(swapped) == AuxiliaryTensor.of(array)


def valid():
    info = LayerInfo("linear", "module", ("kernel",), transforms={"torch": "torch.linear"})
    known = StateMetadata(
        layers={("a",): info},
        ties={("b",): ("c",)},
        auxiliary_tensors={("n",): AuxiliaryTensor.of(np.int64(3).reshape(()))},
        tree_form={"flax": "params"},
    )
    return json.loads(dump_metadata("torch", known))


def changed(**fields):
    return json.dumps({**valid(), **fields})


DAMAGE = {
    "no object": "[]",
    "no JSON": "{",
    "not UTF-8": b"\xff\xfe",
    "nothing": "",
    "NaN": '{"version": NaN}',
    "no version": "{}",
    "a later version": changed(version=2),
    "another version type": changed(version="1"),
    "layers of numbers": changed(layers=[1]),
    "layers as text": changed(layers="abc"),
    "a layer without paths": changed(layers=[{"kind": "linear"}]),
    "a kind that is a number": changed(layers=[{"kind": 3, "paths": ["a"]}]),
    "leaves of numbers": changed(layers=[{"kind": "x", "leaves": [1], "paths": ["a"]}]),
    "leaves that are null": changed(layers=[{"kind": "x", "leaves": None, "paths": ["a"]}]),
    "paths that are a number": changed(layers=[{"kind": "x", "paths": 3}]),
    "a path that is a number": changed(layers=[{"kind": "x", "paths": [3]}]),
    "forms as a list": changed(forms=["a"]),
    "a form that is a number": changed(forms={"a": 1}),
    "ties as a list": changed(ties=["a"]),
    "a tie to a number": changed(ties={"a": 1}),
    "a residual of too many fields": changed(residuals={"a": ["int64", [], "00", 1]}),
    "a residual of an unknown dtype": changed(residuals={"a": ["complex7", [], "00"]}),
    "a residual that is too short": changed(residuals={"a": ["int64", [2], "0000000000000000"]}),
    "a residual that is no hex": changed(residuals={"a": ["int64", [], "zz"]}),
    "a residual of a negative size": changed(residuals={"a": ["int64", [-1], "0000000000000000"]}),
    "a residual of a huge size": changed(residuals={"a": ["int64", [1 << 70], "0000000000000000"]}),
    "a residual of a size that is text": changed(residuals={"a": ["int64", ["x"], "0000000000000000"]}),
    "a residual of half a size": changed(residuals={"a": ["int64", [1.0], "0000000000000000"]}),
    "a residual with infinite size": '{"version": 1, "residuals": {"a": ["int64", [1e999], "00"]}}',
    "empty as a number": changed(empty=3),
    "a layout that is a number": changed(layout=3),
    "deep nesting": '{"version": 1, "layers": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "an endless number": '{"version": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE)
def test_damaged_text_is_refused_by_name_of_the_file(text):
    with pytest.raises(BridgeError) as caught:
        load_metadata(text, path="some.file")
    assert caught.value.exit_code == 3
    assert caught.value.path == "some.file" or "dtype" in str(caught.value)


def test_the_valid_text_is_valid():
    assert load_metadata(json.dumps(valid()))[0] == "torch"
    assert load_metadata(json.dumps(valid()).encode())[0] == "torch"


@given(st.data())
def test_no_mutation_of_the_text_raises_anything_else(data):
    text = json.dumps(valid())
    at = data.draw(st.integers(0, len(text) - 1))
    mutated = (
        text[:at]
        + data.draw(st.sampled_from(['"', "0", "[", "]", "{", "}", ",", "null", "", "\\", "-1"]))
        + text[at + 1 :]
    )
    with contextlib.suppress(BadInputError):
        load_metadata(mutated, path="some.file")


def test_a_name_twice_is_refused():
    with refused(KeyConflict, "'a'"):
        parse_json('{"a": 1, "a": 2}', path="p", what="this")
    with pytest.raises(KeyConflict):
        parse_json('{"x": {"a": 1, "a": 2}}', path="p", what="this")


def test_errors_say_what_the_text_was():
    with refused(MalformedFile, "some.file", "the index", "list", "object"):
        parse_json("[]", path="some.file", what="the index")


def test_renaming_reaches_every_field():
    known = StateMetadata(
        layers={("a",): LayerInfo(None, "undecided", ())},
        modules={("a",): ModuleInfo(("x.Y",))},
        ties={("a", "b"): ("a", "c")},
        collections={("a", "b"): "x"},
        auxiliary_tensors={("a", "n"): AuxiliaryTensor.of(np.zeros(1))},
        empty=(("a", "e"),),
    )
    renamed = known.map_keys(lambda key: ("p", *key))
    for field in dataclasses.fields(StateMetadata):
        value = getattr(renamed, field.name)
        if field.name not in ("tree_form", "extra", "provenance"):
            assert all(key[0] == "p" for key in value), field.name
    assert renamed.ties == {("p", "a", "b"): ("p", "a", "c")}


def test_providers_are_stored_and_joined() -> None:
    one = StateMetadata(providers={"acme": "acme-layers"}, notes=("read so",))
    text = dump_metadata("neutral", one)
    assert load_metadata(text)[1].providers == {"acme": "acme-layers"}
    assert "read so" not in text


def test_plain_metadata_names_no_providers() -> None:
    assert "providers" not in dump_metadata("neutral", StateMetadata())
