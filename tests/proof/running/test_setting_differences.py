"""Settings are compared by what they compute."""

import pytest

from bridge_core.plugins import ModuleSettings
from bridge_core.proof.running.alignment import LinkedPaths
from bridge_core.proof.running.setting_differences import compared_settings, same_padding


def window(padding, size=(3, 3), stride=(1, 1), dilation=(1, 1)):
    return {"padding": padding, "window": size, "stride": stride, "dilation": dilation}


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (window(((1, 1), (1, 1))), window("SAME"), True),
        (window(1), window("SAME"), True),
        (window("VALID"), window(0), True),
        (window(((2, 2), (2, 2)), dilation=(2, 2)), window("SAME", dilation=(2, 2)), True),
        (window(((1, 1), (1, 1)), stride=(2, 2)), window("SAME", stride=(2, 2)), False),
        (window(1, size=(4, 4)), window("SAME", size=(4, 4)), False),
        (window(((1, 2), (1, 2)), size=(4, 4)), window("SAME", size=(4, 4)), True),
        (window(0), window("SAME"), False),
        (window("SAME", size=(1, 1), stride=(2, 2)), window(0, size=(1, 1), stride=(2, 2)), True),
    ],
)
def test_padding(one, other, equal):
    assert same_padding(one, other)[0] == equal
    assert same_padding(other, one)[0] == equal


def settings(**values):
    return ModuleSettings("m", values)


LINKED = LinkedPaths(
    {("a", "w"): frozenset({0}), ("b", "w"): frozenset({1})},
    {("x", "w"): frozenset({0}), ("y", "w"): frozenset({1})},
)


def differences(source, target):
    found = compared_settings(source, target, LINKED)
    return [(one.source, one.target, one.name) for one in found.differences], found.unread


def test_pairs_follow_the_plan():
    source = {("a",): settings(eps=1e-5, stride=(2, 2)), ("b",): settings(bias=True)}
    target = {("y",): settings(bias=False), ("x",): settings(eps=1e-6, stride=2)}
    assert differences(source, target)[0] == [("a", "x", "eps"), ("b", "y", "bias")]


def test_what_is_absent_on_one_side():
    """A name that one side does not have concerns it not; a padding mode does."""
    source = {("a",): settings(window=(3,), padding=((1, 1),), padding_mode="circular", eps=1.0)}
    target = {("x",): settings(window=(3,), padding=((1, 1),))}
    assert differences(source, target)[0] == [("a", "x", "padding_mode")]


def test_modules_without_weights_are_paired_in_order():
    source = {
        ("a",): settings(),
        ("act1",): settings(activation="relu"),
        ("act2",): settings(activation="gelu"),
    }
    target = {
        ("x",): settings(),
        ("f",): settings(activation="relu"),
        ("g",): settings(activation="gelu_tanh"),
    }
    assert differences(source, target)[0] == [("act2", "g", "activation")]
    del target["g",]
    named, unread = differences(source, target)
    assert not named
    assert any("act1" in text and "1 more" in text for text in unread)


def test_what_cannot_be_read_is_listed():
    source = {("a",): ModuleSettings("m", {}, ("heads", "scale"))}
    assert any("heads, scale of a" in text for text in differences(source, {("x",): settings()})[1])


def test_one_module_for_several():
    linked = LinkedPaths(
        {("a", "0", "w"): frozenset({0}), ("a", "1", "w"): frozenset({0})}, {("x", "w"): frozenset({0})}
    )
    source = {("a", "0"): settings(eps=1e-5), ("a", "1"): settings(eps=1e-3)}
    found = compared_settings(source, {("x",): settings(eps=1e-5)}, linked)
    assert [one.source for one in found.differences] == ["a.1"]
