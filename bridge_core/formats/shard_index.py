"""The index of a sharded set, read and checked before any shard is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bridge_core.errors import LimitExceeded, MalformedFile
from bridge_core.formats.index_values import check_shard_name, check_tensor_name, total_size
from bridge_core.io import SourceFile, parse_json
from bridge_core.messages import shown
from bridge_core.state import MARKER, StateMetadata, load_metadata

__all__ = ["ShardIndex", "read_shard_index"]

_LARGEST_INDEX = 100 << 20
"""Bytes."""


@dataclass(frozen=True)
class ShardIndex:
    """What an index contains.

    Args:
        weight_map: Name of a tensor -> name of the shard that holds it.
        total_size: Bytes of all tensors; None if the index does not state them.
        marker: What ckptbridge recorded, as `load_metadata` returns it; None in an index of another tool.
    """

    weight_map: Mapping[str, str]
    total_size: int | None
    marker: tuple[str | None, StateMetadata, bool] | None


def read_shard_index(file: SourceFile) -> ShardIndex:
    """Return the content of an index.

    Raises:
        LimitExceeded: It is larger than 100 MiB.
        MalformedFile: It is not an index.
        ShardError: It lists itself as a shard.
        UnsafeFile: It names something other than a plain file in its folder.
    """
    if file.size > _LARGEST_INDEX:
        raise LimitExceeded(
            f"expected an index of at most {_LARGEST_INDEX} bytes, got {file.size}.", path=file.name
        )
    document = parse_json(file.read(0, file.size), path=file.name, what="the index")
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        problem = (
            "'weight_map' is missing"
            if weight_map is None
            else f"expected an object from tensors to shards as 'weight_map', got {shown(weight_map)}"
        )
        raise MalformedFile(
            f"this JSON is not the index of a sharded set: {problem}.",
            path=file.name,
            hint="Give the file of weights, or the index of a sharded set.",
        )
    for key, shard in weight_map.items():
        check_tensor_name(key, file.name)
        if not isinstance(shard, str):
            raise MalformedFile(
                f"expected a file name in 'weight_map', got {shown(shard)}.", path=file.name, key=key
            )
    for shard in dict.fromkeys(weight_map.values()):
        check_shard_name(shard, file)
    described = document.get("metadata")
    if described is not None and not isinstance(described, dict):
        raise MalformedFile(
            f"expected an object as 'metadata' in the index, got {shown(described)}.", path=file.name
        )
    marker = (described or {}).get(MARKER)
    if marker is not None and not isinstance(marker, str):
        raise MalformedFile(
            f"expected a text as 'metadata.{MARKER}' in the index, got {shown(marker)}.", path=file.name
        )
    return ShardIndex(
        weight_map,
        total_size((described or {}).get("total_size"), file.name),
        None if marker is None else load_metadata(marker, path=file.name),
    )
