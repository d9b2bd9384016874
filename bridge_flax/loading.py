"""A checkpoint straight into sharded arrays, and a tree of arrays into a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bridge_core import Registry
from bridge_core.conversion import target_state
from bridge_core.rules import Pattern, Rules
from bridge_core.transfer import parse_size
from bridge_flax.framework import FlaxFramework, load_trees

if TYPE_CHECKING:
    from bridge_core.conversion import GivenRecipe
else:
    GivenRecipe = Any

__all__ = ["load"]

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
            result is that of the source, or ``dtype``.
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
