"""JSON that Python's parser reads, or fails on in its own way, is refused in plain words."""

from __future__ import annotations

import pytest

from bridge_core import MalformedFile
from bridge_core.io import parse_json

REFUSED = {
    '{"a": ' + "9" * 5000 + "}": "a number has more than 4300 digits",
    '{"a": -' + "9" * 4301 + "}": "a number has more than 4300 digits",
    '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}": "nested too deeply",
    '{"a": ' * 100_000: "nested too deeply",
    '{"a": NaN}': "NaN is not a JSON number",
    '{"a": -Infinity}': "-Infinity is not a JSON number",
    '{"a": 01}': "Expecting ',' delimiter: line 1 column 8",
    "": "Expecting value: line 1 column 1",
    b"\xff": "invalid start byte",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:20]))
def test_it_is_refused_in_plain_words(text):
    with pytest.raises(MalformedFile) as refused:
        parse_json(text, path="some.file", what="the index")
    message = str(refused.value)
    assert message.startswith("some.file: the index is not valid JSON: ")
    assert REFUSED[text] in message
    assert "set_int_max_str_digits" not in message
    assert len(message) < 300


def test_a_long_number_below_the_limit_is_read():
    assert parse_json('{"a": ' + "9" * 4300 + "}", path="p", what="x")["a"] == 10**4300 - 1
