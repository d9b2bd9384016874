from __future__ import annotations

import pytest

from bridge_core.testing import FolderFormatContract
from ckptbridge_orbax import OrbaxFormat

pytest.importorskip("tensorstore")


class TestOrbax(FolderFormatContract):
    format = OrbaxFormat()
    same_bytes = False  # files of the database have random names
    may_lack = ("_METADATA",)  # of old checkpoints
