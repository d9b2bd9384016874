"""Text in pages: whatever a name is, it can be encoded, looks like what it is, and is no markup."""

import json

import pytest
from support.pages import HOSTILE

from bridge_core.html import as_script, escape, plain_text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_in_elements_attributes_and_scripts(name):
    escaped = escape(name)
    assert not set("<>\"'") & set(escaped)
    assert escaped.isprintable()
    escaped.encode()
    script = as_script({name: [name]})
    assert not set("<>&") & set(script)
    assert script.isascii()
    assert json.loads(script) == {name: [name]}


def test_long_names_keep_both_ends():
    text = plain_text("a" * 500 + "b" * 500, 20)
    assert text == "a" * 10 + "... (1000 characters) ..." + "b" * 10


def test_letters_of_every_script_stay():
    assert plain_text("ü שלום 层 🙂") == "ü שלום 层 🙂"


def test_data_that_json_cannot_say_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        as_script([float("nan")])
