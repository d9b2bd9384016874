"""Flax's msgpack format keeps the contract of formats."""

from __future__ import annotations

import pytest

from bridge_core.testing import FormatContract
from bridge_flax.msgpack.format import MsgpackFormat


@pytest.mark.slow
class TestContract(FormatContract):
    format = MsgpackFormat()
