"""Proofs run where `.ci/proofs` has installed the packages of both sides; elsewhere none is collected."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if importlib.util.find_spec("torchvision") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    from stubs import stub_torchvision

    stub_torchvision()  # transformers imports it wherever it is installed
