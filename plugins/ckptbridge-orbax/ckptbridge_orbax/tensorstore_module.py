"""The module tensorstore, imported when it is needed, and the system's numbers in its messages."""

from __future__ import annotations

import functools
import re
from typing import Any

from bridge_core import MissingDependency
from bridge_core.io import return_freed_memory

__all__ = ["load_tensorstore", "os_error_of"]

_NUMBER = re.compile(r"os_error_code='(\d+)'|\[OS error (\d+)")

_FREED = 4 << 20
"""Bytes from which on the memory of a decoded chunk goes back to the system when it is freed.

It holds for the process. Without it the peak is some 100 MB higher (``benchmarks/orbax_checkpoints.py``).
"""


@functools.cache
def load_tensorstore() -> Any:
    """Return the module tensorstore.

    Raises:
        MissingDependency: It cannot be imported.
    """
    try:
        import tensorstore
    except ImportError as err:
        raise MissingDependency(
            f"Orbax checkpoints need tensorstore, and importing it failed: {err}.",
            hint="Run: pip install --force-reinstall tensorstore",
        ) from err
    return_freed_memory(_FREED)
    return tensorstore


def os_error_of(message: str) -> OSError | None:
    """Return the error of the system that a message of tensorstore names; None if it names none.

    >>> os_error_of("Error writing: No space left on device [os_error_code='28']").errno
    28
    """
    import os

    match = _NUMBER.search(message)
    if match is None:
        return None
    number = int(match[1] or match[2])
    return OSError(number, os.strerror(number))
