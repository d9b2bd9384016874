"""Permissions: what a caller's keywords allow."""

import pytest

from bridge_core import RuleError
from bridge_core.rules import Pattern, Permissions

HEAD, BODY = ("params", "head", "kernel"), ("params", "body", "kernel")


def test_nothing_is_allowed_by_default():
    permissions = Permissions()
    assert not permissions.accept_guesses
    for answer in (permissions.may_miss, permissions.may_leave_out, permissions.may_differ):
        assert not answer(HEAD)


@pytest.mark.parametrize(
    "allowed", [True, "**.head.*", ["**.head.*"], (Pattern.parse("params.head.*"),), iter(["x", "**.head.*"])]
)
def test_one_keyword_allows_one_thing(allowed):
    permissions = Permissions.of(False, (), allowed, False)
    assert permissions.may_leave_out(HEAD)
    assert permissions.may_leave_out(BODY) is (allowed is True)
    assert not permissions.may_miss(HEAD)
    assert not permissions.may_differ(HEAD)


def test_any_of_several_names_is_enough():
    permissions = Permissions.of(True, "head.*", (), "body.*")
    assert permissions.accept_guesses
    assert not permissions.may_miss(HEAD)
    assert permissions.may_miss(HEAD, HEAD[1:])
    assert permissions.may_differ(BODY, BODY[1:])


def test_a_pattern_is_read_when_the_permissions_are_made():
    with pytest.raises(RuleError):
        Permissions.of(False, "a.{b", (), ())
