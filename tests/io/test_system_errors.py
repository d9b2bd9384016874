"""Errors of the system: they name the file, and what was being done."""

import errno

import pytest

from bridge_core import SystemFailure, UsageError
from bridge_core.errors import OutOfMemory
from bridge_core.io import system_failures

FULL = OSError(errno.ENOSPC, "No space left on device", "/elsewhere")


@pytest.mark.parametrize(
    ("raised", "foreign", "wanted", "text"),
    [
        (FULL, False, SystemFailure, "a.bin: writing failed: No space left on device."),
        (FULL, True, SystemFailure, "/elsewhere: writing failed: No space left on device."),
        (
            OSError(errno.EIO, "Input/output error"),
            True,
            SystemFailure,
            "a.bin: writing failed: Input/output",
        ),
        (OSError("odd"), False, SystemFailure, "a.bin: writing failed: odd."),
        (OSError("odd"), True, OSError, "odd"),
        (MemoryError(), False, OutOfMemory, "a.bin: writing needs more memory than there is."),
        (UsageError("no."), False, UsageError, "no."),
        (KeyError("k"), True, KeyError, "'k'"),
        (KeyboardInterrupt(), False, KeyboardInterrupt, ""),
    ],
)
def test_an_error_of_the_system_names_the_file(raised, foreign, wanted, text):
    with pytest.raises(wanted) as caught, system_failures("a.bin", "writing", foreign=foreign):
        raise raised
    assert type(caught.value) is wanted
    assert str(caught.value).startswith(text)
    assert caught.value is raised or caught.value.__cause__ is raised
