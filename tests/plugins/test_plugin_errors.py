"""Errors of plugin code: they name the plugin, or the file that it could not read."""

import pytest

from bridge_core import MalformedFile, PluginError, SystemFailure
from bridge_core.plugins import cause_of, plugin_failures

EXIT = "SystemExit: 0 (it would have ended the program)"


@pytest.mark.parametrize(
    ("raised", "damaged", "wanted", "text"),
    [
        (ValueError("oh"), None, PluginError, "plugin zoo: could not look: ValueError: oh. Do without."),
        (ValueError("oh"), "a.bin", MalformedFile, "a.bin: cannot be read as zoo: ValueError: oh."),
        (PluginError("is broken."), None, PluginError, "plugin zoo: is broken."),
        (PluginError("is broken.", plugin="own"), "a.bin", PluginError, "plugin own: is broken."),
        (SystemFailure("failed."), None, SystemFailure, "failed."),
        (SystemExit(0), None, PluginError, f"plugin zoo: could not look: {EXIT}. Do without."),
        (
            SystemExit("bye"),
            "a.bin",
            MalformedFile,
            f"a.bin: cannot be read as zoo: {EXIT}.".replace("0", "bye"),
        ),
        (GeneratorExit(), None, PluginError, "plugin zoo: could not look: GeneratorExit. Do without."),
        (KeyboardInterrupt(), "a.bin", KeyboardInterrupt, ""),
    ],
)
def test_an_error_of_plugin_code_names_its_cause(raised, damaged, wanted, text):
    with (
        pytest.raises(wanted) as caught,
        plugin_failures("zoo", "look", damaged=damaged, hint="Do without."),
    ):
        raise raised
    assert type(caught.value) is wanted
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("damaged", "text"),
    [
        (None, "plugin zoo: zoo-dist 1.2 could not look: ValueError: oh. Do without."),
        ("a.bin", "a.bin: cannot be read as zoo by zoo-dist 1.2: ValueError: oh. Do without."),
    ],
)
def test_an_origin_is_named_with_the_way_on(damaged, text):
    with (
        pytest.raises((PluginError, MalformedFile)) as caught,
        plugin_failures("zoo", "look", damaged=damaged, origin="zoo-dist 1.2", hint="Do without."),
    ):
        raise ValueError("oh")
    assert str(caught.value) == text


class _NoText(Exception):
    def __str__(self):
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (_NoText(), "_NoText: (its text cannot be made)"),
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 900), f"ValueError: {'x' * 300}..."),
    ],
)
def test_a_cause_is_one_short_line(error, text):
    assert cause_of(error) == text
