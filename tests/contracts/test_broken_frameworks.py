"""The contract of frameworks catches adapters that are broken in one way, each in the test meant for it."""

from __future__ import annotations

import pytest
from support.broken_plugins import check_fault, check_healthy, fault, parameters
from support.toy_framework import Shape, Toy, plain_sample, registry_of, sample

from bridge_core.testing import FrameworkContract


class ToyContract(FrameworkContract):
    framework = Toy()
    registry = registry_of(framework)

    def samples(self):
        return sample(), plain_sample()

    def abstract(self):
        return (sample(Shape),)


def test_the_toy_framework_is_healthy(tmp_path):
    check_healthy(ToyContract, tmp_path, [])
