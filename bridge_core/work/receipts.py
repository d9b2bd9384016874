"""Receipts: what a process that wrote a file of a work list leaves for the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core.errors import BadInputError
from bridge_core.messages import log
from bridge_core.work.json_fields import Fields
from bridge_core.work.work_list import WorkList
from bridge_core.work.written_file import WrittenFile

__all__ = ["Receipt", "read_receipt", "receipt_name"]

_KIND = "ckptbridge receipt"
_VERSION = 1


@dataclass(frozen=True)
class Receipt:
    """A file of a work list that is complete.

    Args:
        list_id: The list.
        plan: SHA-256 of the steps of the plan.
        source: SHA-256 of what the source was.
        versions: Distribution -> version of what wrote it.
        file: The file.
        overflows: Name of a tensor -> number of values outside the range of the dtype they were cast to.
    """

    list_id: str
    plan: str
    source: str
    versions: Mapping[str, str]
    file: WrittenFile
    overflows: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, work: WorkList, file: WrittenFile, overflows: Mapping[str, int]) -> Receipt:
        """Return the receipt of a file of a work list."""
        return cls(work.id, work.plan, work.identity.digest, work.versions, file, overflows)

    def fits(self, work: WorkList, size: int | None) -> bool:
        """Return whether it is of a work list, and its file still has its size.

        Args:
            work: The work list.
            size: Bytes of the file in the destination; None if there is none.
        """
        return self.list_id == work.id and self.file.size == size

    def to_text(self) -> str:
        """Return the receipt as the text of a file."""
        document: dict[str, Any] = {
            "kind": _KIND,
            "version": _VERSION,
            "list": self.list_id,
            "plan": self.plan,
            "source": self.source,
            "versions": dict(self.versions),
            "file": self.file.to_json(),
            **({"overflows": dict(self.overflows)} if self.overflows else {}),
        }
        return json.dumps(document, indent=1) + "\n"


def receipt_name(file: str) -> str:
    """Return the name of the receipt of a file."""
    return f"{file}.receipt.json"


def read_receipt(text: str | bytes, *, path: str) -> Receipt | None:
    """Return the receipt that a text holds; None if it is damaged, and its file is written again.

    Args:
        text: The text.
        path: Where it is from, for the log.
    """
    hint = "Run the part again; it writes the file and its receipt once more."
    try:
        fields = Fields.of_text(text, path=path, what="the receipt", kind=_KIND, version=_VERSION, hint=hint)
        overflows = fields.mapping("overflows") if fields.has("overflows") else {}
        return Receipt(
            fields.digest("list"),
            fields.digest("plan"),
            fields.digest("source"),
            fields.texts_by_name("versions"),
            WrittenFile.of_json(fields.object("file")),
            {name: number for name, number in overflows.items() if type(number) is int},
        )
    except BadInputError as err:
        log("work", "a receipt is not used: %s", err)
        return None
