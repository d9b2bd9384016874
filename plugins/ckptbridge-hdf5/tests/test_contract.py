from __future__ import annotations

import pytest

from bridge_core.testing import FormatContract
from ckptbridge_hdf5 import Hdf5Format


class TestHdf5(FormatContract):
    format = Hdf5Format()

    @pytest.fixture(autouse=True)
    def _quick(self, request, monkeypatch):
        """Hundreds of damaged files would start hundreds of processes; test_damage.py starts some."""
        if "damage" in request.node.name or "claimed" in request.node.name:
            monkeypatch.setattr("ckptbridge_hdf5.examine._scan", lambda file: ("foreign", ""))
