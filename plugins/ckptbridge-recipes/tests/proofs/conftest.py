from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stubs import stub_torchvision  # noqa: E402

stub_torchvision()  # transformers imports it wherever it is installed
