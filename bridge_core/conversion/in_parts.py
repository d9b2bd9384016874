"""Conversions in parts: a work list is made, its parts are run by any processes, and the work is finished.

Every process plans by itself, which reads headers only, and compares its plan with the list: no plan, and no
code, is read from a document.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from bridge_core.checkpoint import locate
from bridge_core.conversion.given_options import (
    GivenOptions,
    options_as_data,
    path_as_data,
    plugins_as_data,
    registry_of_data,
)
from bridge_core.conversion.part_reports import PartReport, WorkStatus
from bridge_core.conversion.part_writing import finish_files, write_files
from bridge_core.conversion.prepared_work import Running, prepared_work, work_folder
from bridge_core.conversion.report import Report
from bridge_core.errors import UsageError
from bridge_core.io import open_location
from bridge_core.plugins import Registry, given_registry
from bridge_core.transfer import Progress
from bridge_core.work import WorkList, balanced_parts, read_work_list

__all__ = ["GivenWork", "convert_resumably", "finish_work", "make_work", "run_part", "work_status"]

GivenWork = WorkList | str | os.PathLike[str]
"""A work list, its text, or the path or URL of its file."""


def make_work(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    to: str,
    parts: int,
    registry: Registry | None = None,
    **options: Unpack[GivenOptions],
) -> WorkList:
    """Plan a conversion, and divide the files that it writes into parts.

    Only headers of the source are read, and nothing is written: keep the list with
    ``Path("work.json").write_text(work.to_text())``. Then `run_part` writes the files of one part, in any
    process that has the source, the destination and the same versions, and `finish_work` completes the
    destination. Paths are stored as absolute ones.

    Args:
        src: A path or a URL without credentials; an object in memory cannot be divided.
        dst: A path or URL of a folder, which holds no weights.
        to: As in `convert`.
        parts: How many parts; a part has at least one file, so there may be fewer.
        registry: As in `convert`; plugins that only this process has are refused.
        **options: Options of `convert` that decide what is written: ``format``, ``like``, ``model``,
            ``rules``, ``recipe``, ``only``, ``accept_guesses``, ``allow_missing``, ``allow_unexpected``,
            ``allow_mismatched``, ``allow_unclaimed``, ``allow_inexact``, ``dtype``, ``max_shard_size`` (by
            default that of the model library, or 5 GB), ``layout``, ``follow_links``, ``entry``, ``step``.

    Raises:
        UsageError: A value cannot be written to a document, the destination is one file, or ``parts`` is
            less than 1.
        DestinationExists: The destination holds weights, or the work of another conversion.
        ConversionError, BadInputError: As `convert`.
    """
    if type(parts) is not int or parts < 1:
        raise UsageError(
            f"expected parts= (--parts) to be a number of at least 1, got {parts!r}.",
            hint="Pass how many processes there will be.",
        )
    registry = given_registry(registry)
    plugins_as_data(registry)
    with prepared_work(
        path_as_data(src, "src"),
        _folder_as_data(dst),
        options_as_data({"to": to, **options}, registry),
        registry,
        Running(),
    ) as prepared:
        prepared.folder.refuse_others()
        work = prepared.work
    return work.with_parts(balanced_parts([max(file.nbytes, 1) for file in work.files], parts))


def run_part(
    work: GivenWork,
    part: int,
    *,
    workers: int | None = None,
    max_ram: int | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    registry: Registry | None = None,
) -> PartReport:
    """Write the files of one part of a work list.

    Each is written to a temporary file, read back and compared, and then appears at once, followed by its
    receipt. Files that are complete are not written again, so a part that was interrupted can be run again,
    by two processes at a time as well. The model and the plugins that a list names run their code, as they
    do in `convert`: run only lists that you trust.

    Args:
        work: The list, its text, or the path or URL of its file.
        part: The number of the part, from 1.
        workers: As in `convert`.
        max_ram: As in `convert`.
        progress: As in `convert`.
        registry: The plugins; None for those of the list.

    Raises:
        IntegrityError: The source has changed since the list was made.
        UsageError: The list has no such part, or was made by another version.
        ConversionError: The plan is another one than that of the list, or verification failed.
        DestinationExists: The destination holds weights, or the work of another conversion.
        BadInputError: The list was edited, or a source is damaged.
        SystemFailure: The system failed: disk, permission or memory.
    """
    work, registry, path = _opened_work(work, registry)
    files = work.part(part)
    running = Running(workers, max_ram, progress)
    with prepared_work(work.source, work.destination, work.options, registry, running, path=path) as prepared:
        work.require_same(prepared.work)
        folder = prepared.folder
        manifest = folder.begin()
        if manifest is not None:
            sizes = {file.name: file.size for file in manifest.files}
            names = tuple(file.name for file in files)
            return PartReport(part, len(work.parts), (), names, sum(sizes.get(name, 0) for name in names))
        before, written = write_files(prepared, folder, files)
    total = sum(receipt.file.size for receipt in (*before.values(), *written.values()))
    return PartReport(part, len(work.parts), tuple(written), tuple(before), total)


def finish_work(work: GivenWork, *, registry: Registry | None = None) -> Report:
    """Complete the destination of a work list whose parts have all been run.

    The files are compared with their receipts by size. Then come the sidecar files, the index and the
    manifest, and the receipts are removed. Finishing again changes nothing.

    Args:
        work: The list, its text, or the path or URL of its file.
        registry: The plugins; None for those of the list.

    Returns:
        The report, as `convert` returns it.

    Raises:
        ConversionError: A file is missing or has another size than its receipt, or the plan is another one.
        IntegrityError: The source has changed since the list was made.
        DestinationExists: The destination holds the work of another conversion.
        UsageError: The list was made by another version.
        BadInputError: The list was edited.
        SystemFailure: The system failed: disk, permission or memory.
    """
    work, registry, path = _opened_work(work, registry)
    with prepared_work(
        work.source, work.destination, work.options, registry, Running(), path=path
    ) as prepared:
        work.require_same(prepared.work)
        return finish_files(prepared, work)


def work_status(work: GivenWork, *, registry: Registry | None = None) -> WorkStatus:
    """Return which files of a work list are complete; the source is not opened.

    Args:
        work: The list, its text, or the path or URL of its file.
        registry: The plugins; None for those of the list.

    Raises:
        BadInputError: The list was edited.
    """
    work, registry, _ = _opened_work(work, registry)
    folder = work_folder(work, registry)
    finished = folder.finished() is not None
    complete = {file.name for file in work.files} if finished else folder.receipts().keys()
    missing = {
        number: tuple(file.name for file in work.part(number) if file.name not in complete)
        for number in range(1, len(work.parts) + 1)
    }
    missing = {number: names for number, names in missing.items() if names}
    return WorkStatus(missing, len(work.files), len(work.parts), finished)


def convert_resumably(
    src: Any,
    dst: Any,
    options: Mapping[str, Any],
    registry: Registry,
    *,
    workers: int | None,
    max_ram: int | str | None,
    progress: Callable[[Progress], None] | None,
) -> Report:
    """Convert into a folder, and go on with what an interrupted run of the same call left there.

    Args:
        src: The source, a path or URL.
        dst: The folder, a path or URL.
        options: The options of `convert` that decide what is written.
        registry: The plugins.
        workers: As in `convert`.
        max_ram: As in `convert`.
        progress: As in `convert`.

    Raises:
        UsageError, ConversionError, BadInputError, SystemFailure: As `convert`.
        DestinationExists: The destination holds weights, or the work of another conversion.
    """
    with prepared_work(
        path_as_data(src, "src"),
        _folder_as_data(dst),
        options_as_data(options, registry),
        registry,
        Running(workers, max_ram, progress),
    ) as prepared:
        if prepared.folder.begin() is None:
            write_files(prepared, prepared.folder, prepared.work.files)
        return finish_files(prepared, prepared.work)


def _folder_as_data(dst: Any) -> str:
    text = path_as_data(dst, "dst")
    return text.rstrip("/" + os.sep) or text


def _opened_work(work: GivenWork, registry: Registry | None) -> tuple[WorkList, Registry, str]:
    """Return a list, its plugins, and what errors call it."""
    path = "the work list"
    if not isinstance(work, WorkList):
        if isinstance(work, str) and work.lstrip().startswith("{"):
            work = read_work_list(work)
        else:
            place = locate(work, given_registry(registry))
            path = str(place)
            with open_location(place) as file:
                work = read_work_list(file.read(0, file.size), path=path)
    if registry is None:
        registry = registry_of_data(work.added_plugins, work.disabled_plugins)
    return work, given_registry(registry), path
