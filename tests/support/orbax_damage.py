"""Small Orbax items made by hand, so that each part of them can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from bridge_core import BadInputError, open_state
from bridge_core.cli import main

GOOD = np.arange(12, dtype="<f4").reshape(3, 4)
"""The array `w` of an item made by hand, and its neighbour `v`."""

ZARRAY = {
    "chunks": [3, 4],
    "compressor": None,
    "dimension_separator": ".",
    "dtype": "<f4",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": [3, 4],
    "zarr_format": 2,
}


def tree(*paths: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Return `_METADATA` of arrays in nested dicts."""
    leaves = {
        str(path): {
            "key_metadata": [{"key": part, "key_type": 2} for part in path],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
        for path in paths
    }
    return {"tree_metadata": leaves, "use_ocdbt": False, "use_zarr3": False, **options}


def make_item(
    folder: Path,
    metadata: dict[str, Any] | bytes | None = None,
    zarray: dict[str, Any] | bytes | None = None,
    chunks: dict[str, bytes] | None = None,
    name: str = "w",
) -> Path:
    """Make an item with the arrays `v` and `w`, a folder each.

    Args:
        folder: Where.
        metadata: Its `_METADATA`, as JSON or bytes.
        zarray: Fields of the `.zarray` of `w` that differ, or its bytes.
        chunks: Files of `w`.
        name: Name of the folder of `w`.
    """
    folder.mkdir()
    metadata = tree(("v",), ("w",)) if metadata is None else metadata
    content = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    (folder / "_METADATA").write_bytes(content)
    for array, fields, files in (("v", {}, None), (name, zarray or {}, chunks)):
        place = folder / array
        place.mkdir(parents=True)
        text = fields if isinstance(fields, bytes) else json.dumps({**ZARRAY, **fields}).encode()
        (place / ".zarray").write_bytes(text)
        for file, data in ({"0.0": GOOD.tobytes()} if files is None else files).items():
            (place / file).write_bytes(data)
    return folder


def copy(source: Path, target: Path) -> Path:
    """Copy a checkpoint."""
    shutil.copytree(source, target, symlinks=True)
    return target


def read_all(path: Path, **options: Any) -> dict[tuple[str, ...], np.ndarray]:
    """Return every value of a checkpoint."""
    with open_state(path, **options) as state:
        return {key: np.array(state[key]) for key in state}


def outcome(path: Path, **options: Any) -> dict[tuple[str, ...], bytes] | BadInputError:
    """Return the bytes of every value, or the error, of a class of ours, which names the checkpoint."""
    error = None
    try:
        return {key: array.tobytes() for key, array in read_all(path, **options).items()}
    except BadInputError as err:
        error = err
    assert str(path) in str(error), str(error)
    # These are the core's words for any other exception of a plugin.
    assert "the file cannot be read as" not in str(error), str(error)
    return error


def refusal(path: Path, **options: Any) -> BadInputError:
    """Return the error of reading a checkpoint that must be refused."""
    found = outcome(path, **options)
    assert isinstance(found, BadInputError), f"it was read: {sorted(found)}"
    return found


def command_refuses(path: Path, capsys: Any, *options: str) -> str:
    """Convert by the command; check its exit code and that nothing is left behind. Return stderr."""
    before = sorted(path.parent.iterdir())
    target = str(path.parent / "converted.safetensors")
    status = 0
    try:
        main(["convert", str(path), target, "--to", "flax", "--quiet", "--model", "none", *options])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 3, (status, error)
    assert "Traceback" not in error
    assert sorted(path.parent.iterdir()) == before
    return error
