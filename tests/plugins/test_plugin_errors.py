"""Errors of plugin code: they name the plugin, or the file that it could not read."""

import pytest
from support.errors import refused

from bridge_core import MalformedFile, PluginError, SystemFailure
from bridge_core.plugins import cause_of, plugin_failures

HINT = "Do without."
EXIT = "SystemExit: 0 (it would have ended the program)"


@pytest.mark.parametrize(
    ("raised", "damaged", "kind", "named", "hint"),
    [
        (ValueError("oh"), None, PluginError, ("plugin zoo:", "look", "ValueError: oh."), HINT),
        (ValueError("oh"), "a.bin", MalformedFile, ("a.bin:", "zoo", "ValueError: oh."), None),
        (PluginError("broken."), None, PluginError, ("plugin zoo: broken.",), None),
        (PluginError("broken.", plugin="own"), "a.bin", PluginError, ("plugin own: broken.",), None),
        (SystemFailure("failed."), None, SystemFailure, ("failed.",), None),
        (SystemExit(0), None, PluginError, ("plugin zoo:", "look", EXIT), HINT),
        (SystemExit("bye"), "a.bin", MalformedFile, ("a.bin:", "zoo", EXIT.replace("0", "bye")), None),
        (GeneratorExit(), None, PluginError, ("plugin zoo:", "look", "GeneratorExit."), HINT),
    ],
)
def test_an_error_of_plugin_code_names_its_cause(raised, damaged, kind, named, hint):
    with refused(kind, *named) as caught, plugin_failures("zoo", "look", damaged=damaged, hint=HINT):
        raise raised
    assert caught.value.hint == hint


def test_ctrl_c_passes():
    with pytest.raises(KeyboardInterrupt), plugin_failures("zoo", "look", damaged="a.bin", hint=HINT):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damaged", "kind", "named"),
    [(None, PluginError, ("plugin zoo:", "look")), ("a.bin", MalformedFile, ("a.bin:", "zoo by"))],
)
def test_an_origin_is_named_with_the_way_on(damaged, kind, named):
    with (
        refused(kind, *named, "zoo-dist 1.2", "ValueError: oh.", hint=HINT),
        plugin_failures("zoo", "look", damaged=damaged, origin="zoo-dist 1.2", hint=HINT),
    ):
        raise ValueError("oh")


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
