"""What a checkpoint holds besides the weights that are read from it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bridge_core.messages import count, size_text

__all__ = ["LeftOut", "left_out_note"]

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A branch of a checkpoint that is not read, or a single tensor.

    Args:
        name: The path, its parts joined by dots, as ``entry=`` takes it.
        reason: What it is: ``"optimizer state"``, ``"counter"``.
        nbytes: Bytes of its tensors.
        tensors: Their number.
        is_choice: Whether it holds other weights of the same model, to be read with ``entry=``.
    """

    name: str
    reason: str
    nbytes: int = 0
    tensors: int = 0
    is_choice: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return name, reason and bytes as plain data."""
        return {"name": self.name, "reason": self.reason, "bytes": self.nbytes}


def left_out_note(left_out: Iterable[LeftOut]) -> str:
    """Return one line that names what is left out, with its size and how to read it.

    >>> left_out_note([LeftOut("opt_state", "optimizer state", 1200, 4), LeftOut("step", "counter", 4, 1)])
    'left out: opt_state (optimizer state, 4 tensors, 1.2 kB), step (counter, 4 bytes)'
    """
    ordered = sorted(left_out, key=lambda left: (not left.is_choice, -left.nbytes))
    texts = [_text(left) for left in ordered[:_SHOWN]]
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return f"left out: {', '.join(texts)}{more}"


def _text(left: LeftOut) -> str:
    sizes = [count(left.tensors, "tensor")] if left.tensors != 1 else []
    sizes += [size_text(left.nbytes)] if left.tensors else []
    entry = json.dumps(left.name, ensure_ascii=False)
    way = f"; entry={entry} (--entry {shlex.quote(left.name)}) reads it" if left.is_choice else ""
    return f"{left.name} ({', '.join([left.reason, *sizes])}{way})"
