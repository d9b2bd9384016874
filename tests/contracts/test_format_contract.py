"""Every built-in format of the core keeps the contract; broken ones are in test_broken_formats.py."""

from __future__ import annotations

from bridge_core.formats import NpzFormat, SafetensorsFormat
from bridge_core.testing import FormatContract


class TestSafetensors(FormatContract):
    format = SafetensorsFormat()


class TestNpz(FormatContract):
    format = NpzFormat()
