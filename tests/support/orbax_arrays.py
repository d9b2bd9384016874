"""Orbax items whose arrays tensorstore writes, as Orbax does, and whose ``_METADATA`` is made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def leaf(value_type: str = "np.ndarray", skip: bool = False) -> dict[str, Any]:
    """Return the value metadata of a leaf."""
    return {"value_type": value_type, "skip_deserialize": skip}


def tree_text(leaves: dict[tuple[Any, ...], dict[str, Any]], **fields: Any) -> str:
    """Return the text of ``_METADATA``; integers in paths are keys of sequences."""
    entries = {
        str(key): {
            "key_metadata": [{"key": str(part), "key_type": 1 if type(part) is int else 2} for part in key],
            "value_metadata": value,
        }
        for key, value in leaves.items()
    }
    fields = {"use_zarr3": False, "store_array_data_equal_to_fill_value": True, **fields}
    return json.dumps({"tree_metadata": entries, **fields})


def write_array(
    folder: Path,
    name: str,
    values: Any,
    *,
    ocdbt: bool = True,
    driver: str = "zarr",
    chunks: tuple[int, ...] | None = None,
    stored: bool = True,
    **metadata: Any,
) -> None:
    """Write an array into the database of an item, or into a folder of its own.

    Args:
        folder: The item.
        name: Name of the array.
        values: The values.
        ocdbt: Whether it goes into the database.
        driver: ``"zarr"`` or ``"zarr3"``.
        chunks: Shape of its chunks; None for one chunk.
        stored: Whether chunks that equal the fill value are stored.
        metadata: Other fields of its description.
    """
    import tensorstore as ts

    values = np.asarray(values)
    chunk_shape = [max(1, n) for n in values.shape] if chunks is None else list(chunks)
    known: dict[str, Any] = {"shape": list(values.shape)}
    if driver == "zarr":
        named = values.dtype.isbuiltin != 1
        dtype = values.dtype.name if named else values.dtype.str
        known |= {"chunks": chunk_shape, "compressor": {"id": "zstd", "level": 1}, "dtype": dtype}
    else:
        known["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": chunk_shape}}
    base = {"driver": "file", "path": f"{folder}/"}
    place: dict[str, Any] = {"driver": "ocdbt", "base": base, "path": f"{name}/" if name else ""}
    if not ocdbt:
        place = {"driver": "file", "path": f"{folder}/{name}/"}
    spec = {
        "driver": driver,
        "kvstore": place,
        "metadata": known | metadata,
        "dtype": ts.dtype(values.dtype).name,
        "store_data_equal_to_fill_value": stored,
    }
    ts.open(spec, create=True).result().write(values).result()


def write_item(
    folder: Path,
    tree: dict[tuple[Any, ...], Any],
    *,
    others: dict[tuple[Any, ...], dict[str, Any]] | None = None,
    fields: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write a tree as an item.

    Args:
        folder: Where.
        tree: Path -> values.
        others: Path -> value metadata of leaves without an array.
        fields: Other fields of ``_METADATA``.
        options: As for `write_array`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for key, values in tree.items():
        write_array(folder, ".".join(map(str, key)), values, **options)
    leaves = {key: leaf() for key in tree} | (others or {})
    ocdbt = {"use_ocdbt": bool(tree) and options.get("ocdbt", True)}
    (folder / "_METADATA").write_text(tree_text(leaves, **(ocdbt | (fields or {}))))
    return folder
