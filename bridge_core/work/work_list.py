"""The work list: a conversion as a document, with the files to write and the parts that they are in."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.errors import ConversionError, IntegrityError, MalformedFile, UsageError
from bridge_core.io import is_plain_name
from bridge_core.messages import count, listed
from bridge_core.work.digests import json_digest
from bridge_core.work.json_fields import Fields
from bridge_core.work.source_identity import SourceIdentity

__all__ = ["ListedFile", "WorkList", "read_work_list"]

_KIND = "ckptbridge work list"
_VERSION = 1
_AGAIN = "Make the list again: ckptbridge work make SRC DST --to ... -o FILE."


@dataclass(frozen=True)
class ListedFile:
    """A file to write.

    Args:
        name: Its name in the destination.
        tensors: How many tensors it has.
        nbytes: Bytes of these tensors.
    """

    name: str
    tensors: int
    nbytes: int


@dataclass(frozen=True)
class WorkList:
    """A conversion whose files may be written by several processes, one part each.

    Lists of the same conversion are equal, wherever and whenever they were made; only their parts may differ.

    Args:
        source: Path or URL of the source.
        identity: What the source was when the list was made.
        destination: Path or URL of the folder to write.
        options: The options of the conversion that were given, by the names of `convert`'s arguments.
        plan: SHA-256 of the steps of the plan.
        versions: Distribution -> version, of ckptbridge and the plugins that take part.
        added_plugins: Modules that are imported as plugins.
        disabled_plugins: Plugins that are left out.
        format: Name of the format of the files.
        files: The files of weights, in their order.
        index: Name of the index, which is written last; None for one file.
        parts: The numbers of the files of each part, from 1.
    """

    source: str
    identity: SourceIdentity
    destination: str
    options: Mapping[str, Any]
    plan: str
    versions: Mapping[str, str]
    added_plugins: tuple[str, ...]
    disabled_plugins: tuple[str, ...]
    format: str
    files: tuple[ListedFile, ...]
    index: str | None
    parts: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def id(self) -> str:
        """SHA-256 of all but the parts: the same for two lists of one conversion."""
        return json_digest(self._conversion())

    def part(self, number: int) -> tuple[ListedFile, ...]:
        """Return the files of a part.

        Args:
            number: Which part, from 1.

        Raises:
            UsageError: The list has no such part.
        """
        if type(number) is not int or not 1 <= number <= len(self.parts):
            raise UsageError(
                f"the work list has {count(len(self.parts), 'part')}, numbered from 1; got {number!r}.",
                hint="Pass part=1 (--part 1)"
                + (f" to part={last} (--part {last})." if (last := len(self.parts)) > 1 else "."),
            )
        return tuple(self.files[one - 1] for one in self.parts[number - 1])

    def with_parts(self, parts: tuple[tuple[int, ...], ...]) -> WorkList:
        """Return the list with its files divided in another way."""
        return replace(self, parts=parts)

    def require_same(self, now: WorkList) -> None:
        """Compare with the list that the same options give now.

        Args:
            now: That list.

        Raises:
            IntegrityError: The source has changed.
            UsageError: Another version of ckptbridge or of a plugin is used.
            ConversionError: The plan or the division into files is another one.
        """
        if self.identity != now.identity:
            changes = self.identity.changes(now.identity)
            raise IntegrityError(
                f"the source has changed since the work was begun: {listed(changes)}.",
                path=self.source,
                hint="Restore the source, or make a new work list and write to another folder.",
            )
        if self.versions != now.versions:
            names = sorted(self.versions.keys() | now.versions.keys())
            differing = [
                f"{name} {now.versions.get(name, 'is missing')} instead of {self.versions.get(name, 'none')}"
                for name in names
                if self.versions.get(name) != now.versions.get(name)
            ]
            raise UsageError(
                f"the work was begun with other versions: {listed(differing)}.",
                hint="Install the versions of the list, so that all parts are written alike.",
            )
        if self.plan != now.plan:
            raise ConversionError(
                "the plan is another one than when the work was begun, although source and versions are the "
                "same.",
                path=self.source,
                hint="If the template or the model's code changed, restore it, or make a new work list.",
            )
        if (self.files, self.index, self.format) != (now.files, now.index, now.format):
            raise ConversionError(
                "the tensors are divided into other files than when the work was begun.",
                path=self.source,
                hint="Make a new work list and write to another folder.",
            )

    def _conversion(self) -> dict[str, Any]:
        return {
            "kind": _KIND,
            "version": _VERSION,
            "source": {"path": self.source, **self.identity.to_json()},
            "destination": self.destination,
            "options": dict(self.options),
            "plan": self.plan,
            "versions": dict(self.versions),
            "plugins": {"added": list(self.added_plugins), "disabled": list(self.disabled_plugins)},
            "format": self.format,
            "files": [{"name": f.name, "tensors": f.tensors, "bytes": f.nbytes} for f in self.files],
            "index": self.index,
        }

    def to_json(self) -> dict[str, Any]:
        """Return the list as plain data; ``docs/schemas/work-list.json`` describes it."""
        return {**self._conversion(), "id": self.id, "parts": [list(part) for part in self.parts]}

    def to_text(self) -> str:
        """Return the list as the text of a file."""
        return json.dumps(self.to_json(), indent=1) + "\n"


def read_work_list(text: str | bytes, *, path: str = "the work list") -> WorkList:
    """Return the list that a text holds.

    Args:
        text: The text of a file that `WorkList.to_text` gave.
        path: The file, for errors.

    Raises:
        MalformedFile: It is not a work list, or was edited.
    """
    fields = Fields.of_text(text, path=path, what="the work list", kind=_KIND, version=_VERSION, hint=_AGAIN)
    source, plugins = fields.object("source"), fields.object("plugins")
    files = tuple(
        ListedFile(file.text("name"), file.number("tensors"), file.number("bytes"))
        for file in fields.objects("files")
    )
    if not files or not all(is_plain_name(file.name) for file in files):
        raise fields.error("its files do not have plain names")
    parts = fields.number_lists("parts")
    work = WorkList(
        source.text("path"),
        SourceIdentity.of_json(source),
        fields.text("destination"),
        fields.mapping("options"),
        fields.digest("plan"),
        fields.texts_by_name("versions"),
        plugins.texts("added"),
        plugins.texts("disabled"),
        fields.text("format"),
        files,
        fields.optional_text("index"),
        parts,
    )
    if fields.digest("id") != work.id:
        raise MalformedFile(
            "the work list was edited after it was made: its content does not have the id that it states.",
            path=path,
            hint=_AGAIN,
        )
    numbers = sorted(number for part in parts for number in part)
    if numbers != list(range(1, len(files) + 1)) or not all(parts):
        raise fields.error("its parts do not have every file once")
    return work
