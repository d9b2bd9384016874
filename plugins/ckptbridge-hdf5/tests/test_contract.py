from __future__ import annotations

from ckptbridge_hdf5 import Hdf5Format

from bridge_core.testing import FormatContract


class TestHdf5(FormatContract):
    format = Hdf5Format()
