"""Errors of plugin code: they name the plugin, or the file that it could not read."""

import pytest

from bridge_core import MalformedFile, PluginError, SystemFailure
from bridge_core.plugins import plugin_failures


@pytest.mark.parametrize(
    ("raised", "damaged", "wanted", "text"),
    [
        (ValueError("oh"), None, PluginError, "plugin zoo: could not look: ValueError: oh. Do without."),
        (ValueError("oh"), "a.bin", MalformedFile, "a.bin: cannot be read as zoo: ValueError: oh."),
        (PluginError("is broken."), None, PluginError, "plugin zoo: is broken."),
        (PluginError("is broken.", plugin="own"), "a.bin", PluginError, "plugin own: is broken."),
        (SystemFailure("failed."), None, SystemFailure, "failed."),
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
