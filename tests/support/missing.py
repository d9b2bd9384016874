"""Tests that import a package that is not installed are skipped, each module or test with the package's name."""

import importlib.abc
import sys
from pathlib import Path

import pytest

OPTIONAL = frozenset(
    "cv2 diffusers flax h5py jax jsonschema matplotlib msgpack optax orbax safetensors sentence_transformers "
    "torch transformers".split()
)
"""Packages that the core does without."""

_TESTS = str(Path(__file__).parents[1])


class _Skips(importlib.abc.MetaPathFinder):
    """Asked last, for what no other finder has: skips what a test's own code imports."""

    def find_spec(self, name, path=None, target=None):
        if name in OPTIONAL and _importer().startswith(_TESTS):
            pytest.skip(f"{name} is not installed", allow_module_level=True)


def _importer():
    """Return the file of the code that runs the import."""
    frame = sys._getframe(2)
    while frame and ("importlib" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return frame.f_code.co_filename if frame else ""


def skip_what_needs_missing_packages():
    """Have such tests skipped from now on."""
    sys.meta_path.append(_Skips())
