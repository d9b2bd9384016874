"""Writes a state as a folder checkpoint, and checks what was written before it appears."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bridge_core.checkpoint.destination_errors import shown_as
from bridge_core.checkpoint.folder_checkpoint import contents_of
from bridge_core.checkpoint.saved import Saved
from bridge_core.checkpoint.verification import check_written
from bridge_core.checkpoint.write_options import WriteOptions
from bridge_core.errors import BridgeError, DestinationExists, SystemFailure, UsageError
from bridge_core.formats import FolderFormat
from bridge_core.io import SourceFolder, is_plain_name, replacing_folder, system_failures
from bridge_core.messages import count
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key
from bridge_core.transfer import FolderWriter, Meter, ScratchPool, kernel_for, sharing_memory

__all__ = ["write_folder_checkpoint"]


def write_folder_checkpoint(
    state: FlatState, destination: Path, used: FolderFormat, options: WriteOptions, registry: Registry
) -> Saved:
    """Write a state to a folder of its own, or to a step of a checkpoint that has steps.

    Args:
        state: The state.
        destination: The folder; with a step, the folder that holds the steps.
        used: The format.
        options: The options of writing.
        registry: The plugins.

    Raises:
        DestinationExists: The folder exists and ``overwrite`` is off, or it holds more than what would be
            replaced.
        UsageError: An option does not apply to the format.
    """
    _refuse_options(used, options)
    final = destination if options.step is None else destination / str(options.step)
    if options.step is not None:
        _refuse_place_of_step(destination, options.step, used, registry)
    _refuse_more(final, used, options, registry)
    meter = Meter(state, options.progress, verify=options.verify)
    sums: dict[Key, int] = {}
    overflows: dict[Key, int] = {}
    size = 0

    def check(temporary: Path) -> None:
        nonlocal size

        def opened() -> FlatState:
            with registry.failures_of("formats", used.name, f"read {final}", damaged=str(final)):
                return used.open_folder(SourceFolder(temporary), item=options.item or None)

        with shown_as(temporary, final):
            check_written(
                temporary,
                state,
                used,
                registry=registry,
                checksums=sums if options.verify else None,
                budget=options.budget,
                report=meter.verified,
                open_written=opened,
            )
            state.check_unchanged()
            size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())

    def stays(entry: Path) -> bool:
        if options.item is None or entry.name == options.item:
            return False
        return entry.is_dir() or not os.path.lexists(temporary / entry.name)

    with (
        _root_of_steps(destination, options),
        replacing_folder(
            final,
            overwrite=options.overwrite,
            check=check,
            keep=stays,
        ) as temporary,
        shown_as(temporary, final),
        sharing_memory(map(state.tensor, state), options.budget) as budget,
    ):
        block = budget.block
        pool = ScratchPool(kernel_for(state.nbytes), 2 * block)
        writer = FolderWriter(
            temporary,
            budget,
            meter.add,
            sums=options.verify,
            pool=pool,
            replaces=SourceFolder(final) if options.item and final.is_dir() else None,
        )
        doing = f"write {final}"
        with registry.foreign_failures("formats", used.name, doing), system_failures(temporary, "writing"):
            used.write_folder(state, writer, step=options.step, item=options.item)
        sums.update(writer.checksums)
        overflows.update(writer.overflows)
        del writer, pool  # their memory is not needed while the folder is checked
        meter.finish()
    return Saved((final,), used.name, size, sums, overflows)


def _refuse_options(used: FolderFormat, options: WriteOptions) -> None:
    for value, argument in (
        (options.max_shard_size, "max_shard_size= (--max-shard-size)"),
        (options.sidecar_files, "sidecar_files="),
    ):
        if value:
            raise UsageError(
                f"{argument} does not apply to the format {used.name}, which names its files itself.",
                hint=f"Remove {argument}.",
            )
    if options.item is not None and not is_plain_name(options.item):
        raise UsageError(
            f"{options.item!r} cannot be the name of an item: expected a folder name without slashes.",
            hint='Pass a name such as to_item="params" (--to-item params).',
        )


def _holds_something(folder: Path) -> bool:
    with system_failures(folder, "writing"):
        return folder.is_dir() and any(folder.iterdir())


def _refuse_place_of_step(root: Path, step: int, used: FolderFormat, registry: Registry) -> None:
    """Refuse a step where it could not be read: in an item, or next to a folder of the same step."""
    if not _holds_something(root) or not registry.asks("formats", used, "sniff_folder", SourceFolder(root)):
        return
    try:
        contents = contents_of(root, registry, used, step=None, follow_links=False)
    except BridgeError:  # what is there cannot be read, or is not finished: a new step can
        return
    if not contents.steps:
        raise DestinationExists(
            "the destination is itself a checkpoint without steps, so no step can be added to it.",
            path=root,
            hint="Give the folder that holds the steps, or the name of a new one.",
        )
    if step in contents.steps and not (root / str(step)).exists():
        raise DestinationExists(
            f"the destination holds step {step} under another name, and two folders cannot be one step.",
            path=root,
            hint="Pass another number, to_step= (--to-step), or give the name of a new folder.",
        )


def _refuse_more(final: Path, used: FolderFormat, options: WriteOptions, registry: Registry) -> None:
    """Refuse to replace a folder that holds more than the item that is written."""
    if not _holds_something(final):
        return
    if not options.overwrite:
        if options.item is None:
            return  # the writer refuses it
        there = (final / options.item).exists()
        does, way = ("would be replaced in", "replace") if there else ("would be added to", "add")
        raise DestinationExists(
            f"the destination exists; the item {options.item!r} {does} it.",
            path=final,
            hint=f"Pass overwrite=True (--overwrite) to {way} it; the other items stay.",
        )
    if not registry.asks("formats", used, "sniff_folder", SourceFolder(final)):
        raise DestinationExists(
            f"the destination is a folder, and not a checkpoint of the format {used.name}, so it is not "
            "replaced.",
            path=final,
            hint="Give the name of a new folder.",
        )
    contents = contents_of(final, registry, used, step=None, follow_links=False)
    if contents.steps:
        raise DestinationExists(
            f"the destination holds {count(len(contents.steps), 'step')} of a training run, so it is not "
            "replaced.",
            path=final,
            hint="Pass to_step= (--to-step) to write one step of it, or give the name of a new folder.",
        )
    if options.item is not None and contents.item == "":
        raise DestinationExists(
            f"the destination is itself an item, so the item {options.item!r} cannot be added to it.",
            path=final,
            hint="Give the folder of the step, or the name of a new folder.",
        )
    if any(item.name == options.item and not item.has_tensors for item in contents.items):
        raise DestinationExists(
            f"the item {options.item!r} of the destination holds no tensors, so it is not replaced.",
            path=final,
            hint='Pass another name, such as to_item="params" (--to-item params).',
        )
    others = [item.name for item in contents.items if item.name]
    if len(others) > 1 and options.item is None:
        raise DestinationExists(
            f"the destination holds {count(len(others), 'item')}, which would be lost: {', '.join(others)}.",
            path=final,
            hint="Pass to_item= (--to-item) to replace one of them, or give the name of a new folder.",
        )


@contextlib.contextmanager
def _root_of_steps(destination: Path, options: WriteOptions) -> Iterator[None]:
    """Make the folder that holds the steps; remove it again if it is new and nothing is written to it."""
    if options.step is None or destination.exists():
        yield
        return
    with system_failures(destination, "writing"):
        try:
            destination.mkdir()
        except FileNotFoundError as err:
            raise SystemFailure.of(
                err,
                "cannot write: its folder does not exist",
                path=destination,
                hint="Create the folder first, or correct the path.",
            ) from err
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            destination.rmdir()
        raise
