"""The manifest: what a conversion wrote, so that it can be compared with what is there later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core.work.json_fields import Fields
from bridge_core.work.source_identity import SourceIdentity
from bridge_core.work.work_list import WorkList
from bridge_core.work.written_file import WrittenFile

__all__ = ["Manifest", "read_manifest"]

_KIND = "ckptbridge manifest"
_VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """What a conversion wrote.

    Args:
        source: Path or URL of the source.
        identity: What the source was.
        plan: SHA-256 of the steps of the plan.
        versions: Distribution -> version of what wrote it.
        format: Name of the format of the files of weights.
        files: All files, those of weights first.
        list_id: The work list; None for a conversion in one part.
    """

    source: str
    identity: SourceIdentity
    plan: str
    versions: Mapping[str, str]
    format: str
    files: tuple[WrittenFile, ...]
    list_id: str | None = None

    @classmethod
    def of_list(cls, work: WorkList, files: tuple[WrittenFile, ...]) -> Manifest:
        """Return the manifest of a work list that is finished."""
        return cls(work.source, work.identity, work.plan, work.versions, work.format, files, work.id)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain data; ``docs/schemas/manifest.json`` describes it."""
        return {
            "kind": _KIND,
            "version": _VERSION,
            **({"list": self.list_id} if self.list_id is not None else {}),
            "source": {"path": self.source, **self.identity.to_json()},
            "plan": self.plan,
            "versions": dict(self.versions),
            "format": self.format,
            "files": [file.to_json() for file in self.files],
        }

    def to_text(self) -> str:
        """Return the manifest as the text of a file."""
        return json.dumps(self.to_json(), indent=1) + "\n"


def read_manifest(text: str | bytes, *, path: str) -> Manifest:
    """Return the manifest that a text holds.

    Args:
        text: The text.
        path: The file, for errors.

    Raises:
        MalformedFile: It is not a manifest.
    """
    fields = Fields.of_text(
        text,
        path=path,
        what="the manifest",
        kind=_KIND,
        version=_VERSION,
        hint="Compare with the source instead: ckptbridge verify SRC DST.",
    )
    source = fields.object("source")
    return Manifest(
        source.text("path"),
        SourceIdentity.of_json(source),
        fields.digest("plan"),
        fields.texts_by_name("versions"),
        fields.text("format"),
        tuple(map(WrittenFile.of_json, fields.objects("files"))),
        fields.digest("list") if fields.has("list") else None,
    )
