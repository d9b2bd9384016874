from __future__ import annotations
import pytest
from support.broken_plugins import *
from bridge_core.formats.safetensors import SafetensorsFormat
from bridge_core.testing import FormatContract
from support.toy_format import ToyFormat

class Healthy(FormatContract):
    format = SafetensorsFormat()

class KnowsNone(SafetensorsFormat):
    def sniff(self, file):
        return False

TABLE = [fault(Healthy, "test_sniffing_knows_its_own_files_and_no_others", "own", format=KnowsNone())]

@pytest.mark.parametrize("one", parameters(TABLE, ["KnowsNone"]))
def test_fault(one, tmp_path):
    check_fault(one, tmp_path)

def test_healthy(tmp_path):
    check_healthy(Healthy, tmp_path, TABLE)
