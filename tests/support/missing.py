"""Tests that import a package that is not installed are skipped, with the name of the package."""

import contextlib
import importlib.abc
import sys
import types
from pathlib import Path

import pytest

OPTIONAL = frozenset(
    (
        *("boto3", "cv2", "diffusers", "distributed", "flax", "h5py", "huggingface_hub", "jax", "jsonschema"),
        *("matplotlib", "moto", "msgpack", "obstore", "optax", "orbax"),
        *("safetensors", "sentence_transformers", "torch", "transformers"),
        *(
            "ckptbridge_hdf5",
            "ckptbridge_orbax",
            "ckptbridge_recipes",
            "ckptbridge_remote",
            "ckptbridge_transformers",
            "tensorstore",
            "fcntl",
            "resource",
            "termios",
        ),
    )
)
"""Packages and modules of some systems that the core does without."""

_OF_SOME_SYSTEMS = frozenset(("AF_UNIX", "link", "mkfifo", "mkfifoat", "symlink", "SIGKILL", "pthread_kill"))
"""Names of standard modules that tests use where the system has them."""

_TESTS = str(Path(__file__).parents[1])


class _Skips(importlib.abc.MetaPathFinder):
    """Asked last, for what no other finder has: skips what a test's own code imports."""

    def find_spec(self, name, path=None, target=None):
        if name in OPTIONAL and _is_for_a_test():
            pytest.skip(f"{name} is not installed", allow_module_level=True)


def _is_for_a_test():
    """Return whether a test imports the package, itself or by another one such as ``safetensors.torch``."""
    frame = sys._getframe(2)
    while frame:
        file = frame.f_code.co_filename
        if file.startswith(_TESTS) and file != __file__:
            return True
        if file != __file__ and "importlib" not in file and not OPTIONAL & set(Path(file).parts):
            return False
        frame = frame.f_back
    return False


def skip_what_needs_missing_packages():
    """Have such tests skipped from now on."""
    sys.meta_path.append(_Skips())


@contextlib.contextmanager
def skipped_if_missing():
    """Skip a test in which something asks for an optional package, or for a call of another system."""
    try:
        yield
    except Exception as err:
        cause = err
        while cause is not None:
            if isinstance(cause, ModuleNotFoundError) and cause.name in OPTIONAL:
                pytest.skip(f"{cause.name} is not installed")
            is_name = isinstance(cause, AttributeError) and isinstance(cause.obj, types.ModuleType)
            if is_name and cause.name in _OF_SOME_SYSTEMS:
                pytest.skip(f"this system has no {cause.obj.__name__}.{cause.name}")
            cause = cause.__cause__ or cause.__context__
        raise
