"""Plans a conversion in parts, and makes its work list: always the same for equal sources and options."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bridge_core.checkpoint import (
    USUAL_SHARD_SIZE,
    PlannedFiles,
    WriteOptions,
    as_destined,
    as_location,
    checked_state,
    destination_at,
    guided,
    is_weights_name,
    locate,
    location_of,
    plan_files,
)
from bridge_core.conversion.given_options import options_of_data, plugins_as_data
from bridge_core.conversion.inputs import conversion_options, opened, refuse_empty
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.source_plan import plan_source
from bridge_core.errors import UsageError
from bridge_core.formats import FolderFormat, Format
from bridge_core.io import Location, RemotePath
from bridge_core.plan import Plan
from bridge_core.plugins import Guidance, Registry
from bridge_core.state import FlatState, join_key
from bridge_core.transfer import Progress
from bridge_core.work import ListedFile, SourceIdentity, WorkFolder, WorkList, identity_of_source, json_digest

__all__ = [
    "PlannedConversion",
    "PreparedWork",
    "Running",
    "place_in",
    "prepared_work",
    "source_identity",
    "work_folder",
]


@dataclass(frozen=True)
class PlannedConversion:
    """A source and its plan, of which lists and manifests record a digest and versions.

    Args:
        source: The state of the source.
        plan: The plan.
        known: What a model library adds.
        options: The options of the conversion.
    """

    source: FlatState
    plan: Plan
    known: Guidance
    options: ConversionOptions

    def digest(self) -> str:
        """Return the SHA-256 of what the plan does: its steps and ties, without notes and warnings."""
        plan = self.plan
        steps = [
            [
                [join_key(key, escape=True) for key in step.sources],
                [join_key(key, escape=True) for key in step.targets],
                [op.to_json() for op in step.ops],
            ]
            for step in plan.steps
        ]
        ties = {join_key(a, escape=True): join_key(b, escape=True) for a, b in plan.ties.items()}
        return json_digest([plan.source_layout, plan.target_layout, steps, ties])

    def versions(self, used: Format | FolderFormat, registry: Registry) -> dict[str, str]:
        """Return the versions of ckptbridge and of the plugins that take part in the conversion.

        Args:
            used: The format of what is written.
            registry: The plugins.
        """
        from importlib import metadata

        named = {
            ("frameworks", self.plan.source_layout),
            ("frameworks", self.plan.target_layout),
            ("formats", self.source.metadata.provenance.get("format", "")),
            ("formats", used.name),
        }
        if self.known.model is not None or self.known.like is not None or self.known.sidecar_files:
            named.update(("libraries", name) for name in registry.libraries)
        recipe = self.options.recipe
        recipe = recipe[0] if isinstance(recipe, tuple) else recipe
        named.add(("recipes", recipe if isinstance(recipe, str) else ""))
        named.update(("kinds", kind) for kind in self.plan.metadata.providers)
        plugins = (registry.foreign_plugin(table, name) for table, name in sorted(named))
        versions = {plugin.distribution: plugin.version for plugin in plugins if plugin is not None}
        try:
            versions["ckptbridge"] = metadata.version("ckptbridge")
        except metadata.PackageNotFoundError:
            versions["ckptbridge"] = ""
        return versions


@dataclass(frozen=True)
class Running:
    """How this process runs a part; it changes nothing in what is written.

    Args:
        workers: Number of threads; None for the available processors, at most four.
        max_ram: Largest bytes of all buffers together, or a text such as ``"512MB"``; None for 256 MiB.
        progress: Called as bytes are written.
    """

    workers: int | None = None
    max_ram: int | str | None = None
    progress: Callable[[Progress], None] | None = None


@dataclass(frozen=True)
class PreparedWork:
    """A conversion in parts whose source is open.

    Args:
        work: The work list, with every file as a part.
        plan: The plan.
        state: The lazy result.
        format: The format of the files.
        writing: The options of writing, with the sidecar files open.
        files: The files of weights and the index.
        registry: The plugins.
    """

    work: WorkList
    plan: Plan
    state: FlatState
    format: Format
    writing: WriteOptions
    files: PlannedFiles
    registry: Registry

    @property
    def folder(self) -> WorkFolder:
        """What is complete in the destination."""
        return work_folder(self.work, self.registry)

    def place(self, name: str) -> Location:
        """Return where a file of the destination is, or will be."""
        return place_in(self.work.destination, name, self.registry)


@contextlib.contextmanager
def prepared_work(
    source: str,
    destination: str,
    data: Mapping[str, Any],
    registry: Registry,
    running: Running,
    *,
    path: str = "the work list",
) -> Iterator[PreparedWork]:
    """Plan a conversion in parts; its source is open inside the block.

    Args:
        source: Path or URL of the source.
        destination: Path or URL of the folder.
        data: The options, as `options_as_data` returns them.
        registry: The plugins.
        running: How this process runs.
        path: The list that the options are from, for errors.

    Raises:
        UsageError: The destination is one file, or the format has no folders of files.
        ConversionError: The plan cannot be run.
    """
    place = locate(source, registry)
    source = place.url if isinstance(place, RemotePath) else source
    arguments = options_of_data(data, path=path)
    options = conversion_options(arguments, registry)
    limit = arguments.get("max_shard_size")
    writing = WriteOptions(
        arguments.get("format"), limit, running.workers, running.max_ram, False, True, running.progress
    )
    _refuse_file_name(destination, registry)
    destined = as_destined(f"{destination}/", registry)
    with opened(
        place,
        registry,
        layout=options.layout,
        follow_links=options.follow_links,
        entry=arguments.get("entry"),
        step=arguments.get("step"),
        purpose=options,
    ) as state:
        refuse_empty(place, state)
        known, planned_state, plan = plan_source(place, state, options, registry)
        result = plan.apply(planned_state)
        links = options.follow_links
        with guided(
            writing, known, state, destined, registry, layout=result.layout, follow_links=links
        ) as writing:
            if writing.max_shard_size is None:
                writing = replace(writing, max_shard_size=USUAL_SHARD_SIZE)
            written, used = checked_state(result, destined, writing, registry)
            if isinstance(used, FolderFormat):
                raise UsageError(
                    f"the format {used.name} writes a checkpoint as one; it cannot be written in parts.",
                    hint='Pass format="safetensors" (--format safetensors), or convert in one part.',
                )
            files = plan_files(written, used, writing)
            planned = PlannedConversion(state, plan, known, options)
            work = WorkList(
                source,
                source_identity(state, tuple(writing.sidecar_files)),
                destination,
                data,
                planned.digest(),
                planned.versions(used, registry),
                *plugins_as_data(registry),
                used.name,
                tuple(
                    ListedFile(
                        file.name,
                        len(file.keys),
                        sum(
                            written.spec(key).nbytes for key in file.keys if key not in written.metadata.ties
                        ),
                    )
                    for file in files.files
                ),
                files.index_name,
                tuple((number,) for number in range(1, len(files.files) + 1)),
            )
            yield PreparedWork(work, plan, written, used, writing, files, registry)


def source_identity(state: FlatState, sidecar_files: tuple[str, ...] = ()) -> SourceIdentity:
    """Return which source a state is read from.

    Args:
        state: The state of a file or folder.
        sidecar_files: Names of files in its folder that are copied too.
    """
    place = location_of(state)
    assert place is not None
    return identity_of_source(place, state.specs(), sidecar_files)


def work_folder(work: WorkList, registry: Registry) -> WorkFolder:
    """Return the destination of a work list."""
    weights = is_weights_name(registry.formats.values())
    return WorkFolder(destination_at(work.destination, registry), work, weights)


def place_in(folder: str, name: str, registry: Registry) -> Location:
    """Return where a file of a folder is, or will be."""
    return as_location(as_destined(folder, registry)) / name


def _refuse_file_name(destination: str, registry: Registry) -> None:
    """Refuse a destination that is one file."""
    place = as_location(as_destined(destination, registry))
    extensions = tuple(one for each in registry.formats.values() for one in each.extensions)
    if place.is_dir() or not (place.is_file() or place.name.lower().endswith(extensions)):
        return
    raise UsageError(
        "expected a folder as the destination of a conversion in parts, got the name of one file.",
        path=str(place),
        hint="Give the name of a folder; its files get their usual names.",
    )
