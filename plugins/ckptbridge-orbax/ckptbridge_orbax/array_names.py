"""Names of arrays: what Orbax makes of a path, and which of them a folder can have."""

from __future__ import annotations

from bridge_core import Key, LimitExceeded, UnsafeFile

__all__ = ["array_name", "check_name"]

_LONGEST = 1 << 16


def array_name(key: Key) -> str:
    """Return the name of a tensor's array; Orbax does not escape dots in the parts.

    >>> array_name(("transformer/layer_0/attn", "w"))
    'transformer/layer_0/attn.w'
    """
    return ".".join(key)


def check_name(name: str, key: Key, path: str) -> str:
    """Return the name of an array, if it is that of a folder in the item.

    Args:
        name: The name; slashes in it separate folders.
        key: The tensor, for errors.
        path: The file that names it, for errors.

    Raises:
        UnsafeFile: It leads to another place.
        LimitExceeded: It is very long.
    """
    if len(name) > _LONGEST:
        raise LimitExceeded(
            f"the name of an array is {len(name)} letters; at most {_LONGEST} are supported.",
            path=path,
            key=(*(part[:40] for part in key[:8]), "..."),
        )
    if key and not all(part and part not in (".", "..") and "\0" not in part for part in name.split("/")):
        raise UnsafeFile(
            f"the name {name[:200]!r} leads out of the checkpoint, or is not a valid name of a folder.",
            path=path,
            key=key,
        )
    return name
