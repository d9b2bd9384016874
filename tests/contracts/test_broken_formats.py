import pytest
from support.broken_plugins import check_fault, check_healthy, fault, parameters
from support.plain_formats import PlainFormat, PlainFolders
from bridge_core.testing import FormatContract, FolderFormatContract

class Healthy(FormatContract):
    format = PlainFormat()
class HealthyFolders(FolderFormatContract):
    format = PlainFolders()
@pytest.mark.parametrize("c", [Healthy, HealthyFolders])
def test_healthy(c, tmp_path):
    check_healthy(c, tmp_path, [])
