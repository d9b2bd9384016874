"""A checkpoint straight into sharded arrays, and a tree of arrays into a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bridge_core import Registry, save_state
from bridge_core.checkpoint import Saved, WriteOptions
from bridge_core.conversion import target_state
from bridge_core.plugins import given_registry
from bridge_core.rules import Pattern, Rules
from bridge_core.transfer import Progress, parse_size
from bridge_flax.framework import FlaxFramework, load_trees

if TYPE_CHECKING:
    from bridge_core.conversion import GivenRecipe
else:
    GivenRecipe = Any

__all__ = ["load", "save"]

_DEFAULT_MAX_RAM = 256 << 20


def load(
    source: str | os.PathLike[str] | Mapping[Any, Any],
    *,
    like: Any,
    model: Any = None,
    rules: Rules = (),
    recipe: GivenRecipe = None,
    only: str | Iterable[str] = (),
    accept_guesses: bool = False,
    allow_missing: bool | Iterable[str | Pattern] = False,
    allow_unexpected: bool | Iterable[str | Pattern] = False,
    allow_mismatched: bool | Iterable[str | Pattern] = False,
    allow_unclaimed: bool | Iterable[str | Pattern] = False,
    allow_inexact: bool = False,
    dtype: str | Mapping[str, str] | None = None,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    workers: int | None = None,
    max_ram: int | str | None = None,
    registry: Registry | None = None,
) -> Any:
    """Load a checkpoint of any layout into a tree of JAX arrays, each process only its shards.

    Where the leaves of ``like`` have shardings, so do the arrays. Every process reads the bytes that its
    devices hold, each of them once, however many of its devices hold it. A shard that would be many short
    runs of a file is read in another shape, and exchanged by the devices. If the shardings include devices of
    several processes, each of these processes has to call the function with equal arguments, as any
    computation on such arrays; if one of them fails while it plans or reads, all raise an error.

    Args:
        source: A path or URL, as for `bridge_core.open_state`, or a state. All processes need to see the same
            files; each reads their headers.
        like: A Linen tree, an NNX module or state, a train state, or a template; the result is of the same
            kind and structure. Leaves may be `jax.ShapeDtypeStruct`, with ``sharding`` or without, or arrays,
            which give their own sharding. A leaf without a sharding gets the default device. The dtype of the
            result is that of the source, or ``dtype``. Of a train state only the weights are filled; other
            leaves stay unchanged, also abstract ones.
        model: As for `bridge_core.plan_conversion`.
        rules: As for `bridge_core.plan_conversion`.
        recipe: As for `bridge_core.plan_conversion`.
        only: As for `bridge_core.plan_conversion`.
        accept_guesses: As for `bridge_core.plan_conversion`.
        allow_missing: As for `from_neutral`.
        allow_unexpected: As for `bridge_core.plan_conversion`.
        allow_mismatched: As for `from_neutral`.
        allow_unclaimed: As for `bridge_core.plan_conversion`.
        allow_inexact: As for `bridge_core.plan_conversion`.
        dtype: As for `bridge_core.convert`.
        layout: As for `bridge_core.plan_conversion`.
        follow_links: As for `bridge_core.plan_conversion`.
        entry: As for `bridge_core.plan_conversion`.
        step: As for `bridge_core.plan_conversion`.
        workers: Number of threads; None for the available processors, at most four.
        max_ram: Largest bytes of values that wait in host memory for their devices, or a text such as
            ``"512MB"``; None for 256 MiB. What one process needs of a single tensor may be more.
        registry: The plugins; None for all that are installed.

    Raises:
        ConversionError: The source does not match ``like``, or another process failed.
        BadInputError: The source is damaged or unsafe, or only a part of a model.
        SystemFailure: The system failed: disk, permission or memory.
        UnsupportedFeature: JAX cannot hold the dtype of a tensor that is to be sharded.
        UsageError: ``source`` or ``like`` is not what was expected, or a shape does not have the sharding.
    """
    max_bytes = _DEFAULT_MAX_RAM if max_ram is None else parse_size(max_ram)
    reader = load_trees().LeafReader(like, workers, max_bytes)
    with (
        reader.failing_together(),
        target_state(
            source,
            framework="flax",
            like=like,
            model=model,
            rules=rules,
            recipe=recipe,
            only=only,
            accept_guesses=accept_guesses,
            allow_missing=allow_missing,
            allow_unexpected=allow_unexpected,
            allow_mismatched=allow_mismatched,
            allow_unclaimed=allow_unclaimed,
            allow_inexact=allow_inexact,
            dtype=dtype,
            layout=layout,
            follow_links=follow_links,
            entry=entry,
            step=step,
            registry=registry,
        ) as target,
    ):
        return FlaxFramework().filled(target.state, like, read=reader.read)


def save(
    tree: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    verify: bool = False,
    workers: int | None = None,
    max_ram: int | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    registry: Registry | None = None,
) -> Saved:
    """Write a tree of JAX arrays under its own names and in its own layout.

    A tree that this process has completely is written as by `bridge_core.save_state`, by the process that
    calls. If parts of it are on devices of other hosts, each process that holds some has to call the function
    with equal arguments. ``path`` is then a folder, on a file system that all of them see or at a URL. Each
    process gathers the tensors of one file at a time and writes it, and the index comes last: until then the
    folder is not a checkpoint. If one of the processes fails to write, all raise an error, and the files are
    removed.

    Args:
        tree: A Linen tree, an NNX module or state, or a train state, all of which is written.
        path: A file, or a folder for sharded sets; or the URL of one.
        format: Name of the format; None for that of the suffix, or else ``"safetensors"``.
        max_shard_size: Largest bytes of tensors in a shard, or a text such as ``"5GB"``; of a tree on several
            hosts, each process has as much in host memory. None for one file, or on several hosts for as many
            shards as processes, or more where these would be larger than 5 GB.
        overwrite: Whether to replace an existing destination; not with a tree on several hosts.
        verify: Whether to read every file back and compare it before it appears.
        workers: Number of threads; None for the available processors, at most four.
        max_ram: Largest bytes of all buffers together, or a text such as ``"512MB"``; None for 256 MiB.
        progress: Called with `bridge_core.Progress` as bytes are written.
        registry: The plugins; None for all that are installed.

    Returns:
        What was written, by all processes together.

    Raises:
        ConversionError: Another process failed, or the arguments differ.
        BadInputError: The format cannot hold a tensor or a name.
        DestinationExists: The destination exists and ``overwrite`` is off, or holds weights.
        SystemFailure: The system failed: disk, permission or memory.
        UsageError: The object is not Flax's, or an option is not valid.
    """
    trees = load_trees()
    registry = given_registry(registry)
    state = FlaxFramework().state(tree)
    options = WriteOptions(
        _format_for(path, format, registry),
        max_shard_size,
        workers,
        max_ram,
        overwrite,
        verify,
        progress,
    )
    if trees.is_on_other_hosts(state):
        saved: Saved = trees.save_together(state, path, options, registry)
        return saved
    return save_state(
        state,
        path,
        format=options.format,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        verify=verify,
        workers=workers,
        max_ram=max_ram,
        progress=progress,
        registry=registry,
    )


def _format_for(path: str | os.PathLike[str], format: str | None, registry: Registry) -> str | None:
    """Return the format that the caller names; safetensors where the name of the destination has none."""
    if format is not None:
        return format
    name = str(path).lower()
    suffixes = [each.extensions for each in registry.formats.values()]
    suffixes += [each.extensions for each in registry.folder_formats.values()]
    return None if any(map(name.endswith, suffixes)) else "safetensors"
