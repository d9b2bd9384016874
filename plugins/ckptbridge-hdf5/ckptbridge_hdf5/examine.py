"""The reason why an HDF5 file is refused; libhdf5 finds it in a child process, which it may crash.

Only files that are refused anyway are examined, so opening a good file costs nothing more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from bridge_core import (
    BridgeError,
    IntegrityError,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)

__all__ = ["refusal"]

_SECONDS = 60
_DANGERS: dict[str, type[BridgeError]] = {
    "holed": IntegrityError,
    "limit": LimitExceeded,
    "malformed": MalformedFile,
    "unsafe": UnsafeFile,
    "unsupported": UnsupportedFeature,
}
_DAMAGE: dict[str, type[BridgeError]] = {"truncated": TruncatedFile, "unreadable": MalformedFile}


def refusal(file: SourceFile, known: BridgeError | None) -> BridgeError:
    """Return the error with the reason why a file is not opened.

    Args:
        file: A file with an HDF5 signature.
        known: The error that is known already, if any; it is returned unless the file is dangerous too.
    """
    verdict, text = _scan(file)
    if verdict in _DANGERS:
        return _DANGERS[verdict](text, path=file.name)
    if known is not None:
        return known
    if verdict in _DAMAGE:
        return _DAMAGE[verdict](text, path=file.name)
    if verdict == "ours":
        return IntegrityError(
            "the file has data of ckptbridge, but its guard (bytes 0 to 511) is damaged or was not copied.",
            path=file.name,
            hint="Write the file again with ckptbridge; other HDF5 tools do not preserve its checksums.",
        )
    return UnsupportedFeature(
        "expected an HDF5 file that ckptbridge wrote, got one of another program; the layouts of other "
        "programs, such as Keras, are not read.",
        path=file.name,
        hint="Save the weights as safetensors in that program, and convert the new file.",
    )


def _scan(file: SourceFile) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            [sys.executable, "-P", str(Path(__file__).with_name("scan.py"))],
            stdin=file.fd,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "limit", f"libhdf5 did not finish reading the file's structure in {_SECONDS} seconds."
    except OSError as err:
        return "unreadable", f"the process that examines the file could not be started: {err}."
    try:
        verdict, text = json.loads(child.stdout)
        return str(verdict), str(text)
    except (ValueError, RecursionError):
        return "unreadable", f"the file is damaged: libhdf5 crashed on it (exit status {child.returncode})."
