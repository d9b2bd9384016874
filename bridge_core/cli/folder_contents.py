"""The steps and items of a folder checkpoint, as ``ckptbridge inspect`` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bridge_core.messages import listed

if TYPE_CHECKING:
    from bridge_core.formats import FolderContents

__all__ = ["contents_json", "contents_lines"]


def contents_json(contents: FolderContents | None) -> dict[str, Any]:
    """Return the keys of the JSON document about steps and items; none for a source of files."""
    if contents is None:
        return {}
    return {
        "steps": list(contents.steps),
        "step": contents.step,
        "items": [
            {"name": item.name, "what": item.what, "has_tensors": item.has_tensors} for item in contents.items
        ],
        "unfinished": list(contents.unfinished),
    }


def contents_lines(contents: FolderContents | None) -> list[str]:
    """Return lines about steps and items; none for a source of files, or where there is only one item."""
    if contents is None:
        return []
    lines = []
    if contents.steps:
        lines += ["", f"steps: {', '.join(map(str, contents.steps))} (--step; shown is {contents.step})"]
    if any(item.name for item in contents.items):
        lines += ["", "items (--entry):", *(f"  {item.name}: {item.what}" for item in contents.items)]
    if contents.unfinished:
        lines += ["", f"not finished, and not read: {listed(contents.unfinished)}"]
    return lines
