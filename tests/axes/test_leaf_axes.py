"""The axes of leaves: what is not in the notation is refused."""

from __future__ import annotations

import pytest
from support.errors import refused

from bridge_core import PluginError
from bridge_core.axes import bind_axes, parse_axes

WRONG = (
    "(q k v in",
    "(q k) v)",
    ")q k(",
    "((q k) v)",
    "()",
    "(q)",
    "in in",
    "*k +j",
    "in/1",
    "*k/2",
    "2 in",
    "-> in",
)


@pytest.mark.parametrize("text", WRONG)
def test_what_is_not_in_the_notation_is_refused(text):
    with refused(PluginError, text):
        parse_axes(text)


def test_a_group_that_repeats_a_name_has_equal_parts():
    assert bind_axes("(hidden hidden) in", (12, 4)) == {"hidden": (6,), "in": (4,)}
    assert bind_axes("(hidden hidden) in", (13, 4)) is None


@pytest.mark.parametrize(
    ("text", "hint"), [("(h (q k v)) in", "rule"), ("2 in k", "'kv/3'"), ("3 kv in", "Name the axis")]
)
def test_what_equations_have_is_told(text, hint):
    """Groups in groups, and numbers, are in the equations of rules."""
    with refused(PluginError, text, hint=hint):
        parse_axes(text)
