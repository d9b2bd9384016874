"""Names of files and folders in Orbax checkpoints."""

from __future__ import annotations

__all__ = [
    "AGGREGATE",
    "ARRAY_FILES",
    "COMMITTED",
    "DEFAULT_ITEM",
    "MANIFEST",
    "PROCESS",
    "STEP",
    "STRINGS",
    "TEMPORARY",
    "TREE",
]

TREE = "_METADATA"
"""The tree of an item."""

STEP = "_CHECKPOINT_METADATA"
"""What a step holds, or an item outside of a step."""

AGGREGATE = "checkpoint"
"""The msgpack file of old versions: the tree, with values or with names of arrays."""

STRINGS = "_strings.json"
"""The leaves that are strings."""

COMMITTED = "commit_success.txt"
"""The file without which Orbax takes a folder in a bucket for one that is not complete."""

MANIFEST = "manifest.ocdbt"
"""The root of a database (OCDBT)."""

PROCESS = "ocdbt.process_"
"""What the names of the processes' databases begin with."""

ARRAY_FILES = {".zarray": "zarr", "zarr.json": "zarr3"}
"""Descriptions of arrays, and tensorstore's names of their formats."""

DEFAULT_ITEM = "default"
"""The item of a step that Orbax makes if the user names none."""

TEMPORARY = ".orbax-checkpoint-tmp"
"""What the names of folders contain whose writing did not finish."""
