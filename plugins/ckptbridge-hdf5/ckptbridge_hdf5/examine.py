"""Why an HDF5 file is refused: looked up by libhdf5 in a child process, because libhdf5 may not survive it.

Only files that are refused anyway come here, so opening a good file pays nothing for it.
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
    """Return the error that says why a file is not opened.

    Args:
        file: A file with an HDF5 signature.
        known: What is wrong already; it stands unless the file is dangerous as well.
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
            "holds ckptbridge data, but its guard (bytes 0 to 511) is damaged or was not copied.",
            path=file.name,
            hint="Write it again with ckptbridge; other HDF5 tools do not keep its checksums.",
        )
    return UnsupportedFeature(
        "is an HDF5 file that ckptbridge did not write; layouts of other programs, such as Keras, "
        "are not read.",
        path=file.name,
        hint="Save the weights as safetensors there, and convert that file.",
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
        return "limit", f"kept libhdf5 busy for more than {_SECONDS} seconds."
    except OSError as err:
        return "unreadable", f"could not be examined: {err}."
    try:
        verdict, text = json.loads(child.stdout)
        return str(verdict), str(text)
    except (ValueError, RecursionError):
        return "unreadable", f"makes libhdf5 fail (exit status {child.returncode})."
