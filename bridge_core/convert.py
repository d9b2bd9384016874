"""The conversions that users call: plan, convert and verify, from any source to any destination."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bridge_core.budget import Progress
from bridge_core.compare import Comparison, compare_states
from bridge_core.dtypes import dtype_named
from bridge_core.errors import UsageError
from bridge_core.files import SourceFile, open_listed
from bridge_core.guiding import guidance
from bridge_core.keys import Key, join_key
from bridge_core.libraries import Guidance
from bridge_core.plan import Dropped, Plan
from bridge_core.plugins import Registry, default_registry
from bridge_core.preparing import Asked, Patterns, prepare
from bridge_core.rulefile import Rules
from bridge_core.sources import opened
from bridge_core.state import FlatState
from bridge_core.storage import names_folder, save_state

__all__ = ["Report", "convert", "plan_conversion", "verify"]


@dataclass(frozen=True)
class Report:
    """What a conversion did.

    Args:
        files: Where the weights were written.
        beside: Files that a model library keeps beside its weights, and that were copied.
        format: In which format.
        source_layout: From which layout.
        target_layout: To which.
        tensors: How many tensors were written.
        total_bytes: How many bytes these tensors are; tied ones count once.
        evidence: Rung of evidence -> how many layers' leaves it decided.
        guessed: Target tensors whose kind was guessed.
        filled: Target tensors made from constants, because the source has none.
        dropped: Source tensors left out.
        notes: What else a reader should know.
        exact: Whether the source can be restored bit for bit.
        verified: Whether everything was read back and compared.
    """

    files: tuple[Path, ...]
    beside: tuple[Path, ...]
    format: str
    source_layout: str
    target_layout: str
    tensors: int
    total_bytes: int
    evidence: Mapping[str, int]
    guessed: tuple[Key, ...]
    filled: tuple[Key, ...]
    dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    exact: bool
    verified: bool

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "files": [str(path) for path in self.files],
            "beside": [str(path) for path in self.beside],
            "format": self.format,
            "source_layout": self.source_layout,
            "target_layout": self.target_layout,
            "tensors": self.tensors,
            "total_bytes": self.total_bytes,
            "evidence": dict(self.evidence),
            "guessed": [join_key(key) for key in self.guessed],
            "filled": [join_key(key) for key in self.filled],
            "dropped": [{"key": join_key(d.key), "reason": d.reason} for d in self.dropped],
            "notes": list(self.notes),
            "exact": self.exact,
            "verified": self.verified,
        }


def plan_conversion(
    source: Any,
    *,
    to: str,
    like: Any = None,
    model: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    allow_missing: Patterns = (),
    allow_unexpected: Patterns = (),
    allow_mismatched: Patterns = (),
    layout: str | None = None,
    follow_links: bool = False,
    registry: Registry | None = None,
    check: bool = True,
) -> Plan:
    """Return the plan of a conversion; reads headers, and values that a model ties where they stand twice.

    Args:
        source: A path, a state, a mapping from keys to arrays, or a live object.
        to: ``"neutral"`` or the name of a framework.
        like: The target's template: a path, a state or a live object (abstract is enough).
        model: A live model, or ``"PKG.MOD:FACTORY"``, of the source's framework (its module types are
            evidence) or of the target's (it is the template). For a checkpoint of a model library whose
            adapter is installed: the name of the model class, ``"auto"`` for the one that the folder names
            (which a source that is a folder need not say), or ``"none"`` to do without.
        rules: What the caller knows better: rules, or the path of a rule file.
        accept_guesses: Whether names may settle what no evidence does.
        allow_missing: Target keys that may stay unfilled: True, or patterns.
        allow_unexpected: Source keys that may be left out: True, or patterns.
        allow_mismatched: Target keys that may stay unfilled, and their sources left out, where the shapes
            differ: True, or patterns.
        layout: The source's layout, where it does not tell.
        follow_links: Whether shards of the source may be symbolic links that lead out of their folder.
        registry: Plugins; by default everything installed.
        check: Whether to raise for problems; otherwise they stand in the plan.

    Raises:
        MismatchError: Keys are missing or unexpected, or shapes differ.
        AmbiguousLayerError: No evidence settles what some layers are.
        BadInputError: A file is damaged or unsafe.
        UsageError: The source, ``to`` or ``like`` is nothing that can be converted.
    """
    registry = registry or default_registry()
    with opened(source, registry, layout=layout, follow_links=follow_links) as state:
        asked = Asked(
            to, like, model, rules, accept_guesses, allow_missing, allow_unexpected, allow_mismatched
        )
        _, plan, _ = _prepared(source, state, asked, registry)
    return plan.check() if check else plan


def convert(
    src: Any,
    dst: str | os.PathLike[str],
    *,
    to: str,
    format: str | None = None,
    like: Any = None,
    model: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    allow_missing: Patterns = (),
    allow_unexpected: Patterns = (),
    allow_mismatched: Patterns = (),
    dtype: str | None = None,
    max_shard_size: int | str | None = None,
    workers: int | None = None,
    max_ram: int | str | None = None,
    overwrite: bool = False,
    verify: bool = True,
    progress: Callable[[Progress], None] | None = None,
    layout: str | None = None,
    follow_links: bool = False,
    registry: Registry | None = None,
) -> Report:
    """Convert weights into a file or a folder, in bounded memory.

    Args:
        src: A path, a state, a mapping from keys to arrays, or a live object.
        dst: A file, or a folder for sharded sets.
        to: ``"neutral"`` or the name of a framework.
        format: Name of the format; by default what the destination's suffix or the target says.
        like: As in `plan_conversion`.
        model: As in `plan_conversion`.
        rules: As in `plan_conversion`.
        accept_guesses: As in `plan_conversion`.
        allow_missing: As in `plan_conversion`.
        allow_unexpected: As in `plan_conversion`.
        allow_mismatched: As in `plan_conversion`.
        dtype: Name of a dtype to cast floating-point tensors to; the cast may lose precision.
        max_shard_size: Bytes, or a text such as ``"5GB"``, above which a set is sharded.
        workers: Threads.
        max_ram: Bytes of buffers in all, or a text such as ``"512MB"``.
        overwrite: Whether an existing destination may be replaced.
        verify: Whether to read everything back and compare it before the destination appears.
        progress: Called as bytes are written.
        layout: As in `plan_conversion`.
        follow_links: As in `plan_conversion`.
        registry: As in `plan_conversion`.

    Raises:
        ConversionError: The plan cannot be run, the destination exists, or verification failed.
        BadInputError: The source is damaged or unsafe.
        SystemFailure: Disk, permission or memory.
    """
    registry = registry or default_registry()
    with (
        contextlib.ExitStack() as files,
        opened(src, registry, layout=layout, follow_links=follow_links) as source,
    ):
        asked = Asked(
            to, like, model, rules, accept_guesses, allow_missing, allow_unexpected, allow_mismatched
        )
        state, plan, known = _prepared(src, source, asked, registry, dtype)
        plan.check()
        if dtype is not None:
            plan = plan.cast(dtype_named(dtype))
        beside: dict[str, SourceFile | bytes] = {}
        if max_shard_size is not None or names_folder(dst):
            for name in known.beside:
                file = open_listed(_folder_of(source) / name, follow_links=follow_links)
                beside[name] = known.changed.get(name, files.enter_context(file))
            max_shard_size = known.max_shard_size if max_shard_size is None else max_shard_size
        made = plan.apply(state)
        if known.untied:
            made = made.replace(metadata=made.metadata.with_(ties={}))
        saved = save_state(
            made,
            dst,
            format=format,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
            registry=registry,
            workers=workers,
            max_ram=max_ram,
            progress=progress,
            verify=verify,
            beside=beside,
            stem=known.stem,
        )
    return Report(
        files=saved.files,
        beside=tuple(Path(dst) / name for name in beside),
        format=saved.format,
        source_layout=plan.source_layout,
        target_layout=plan.target_layout,
        tensors=sum(len(step.targets) for step in plan.steps) + len(plan.ties),
        total_bytes=_tensor_bytes(plan),
        evidence=dict(Counter(step.evidence for step in plan.steps for _ in step.targets)),
        guessed=tuple(key for step in plan.steps if step.evidence == "guess" for key in step.targets),
        filled=tuple(key for step in plan.steps if not step.sources for key in step.targets),
        dropped=plan.dropped,
        notes=plan.notes,
        exact=plan.exact,
        verified=verify,
    )


def verify(
    src: Any,
    dst: Any,
    *,
    model: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    allow_missing: Patterns = (),
    allow_unexpected: Patterns = (),
    allow_mismatched: Patterns = (),
    dtype: str | None = None,
    layout: str | None = None,
    follow_links: bool = False,
    registry: Registry | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Comparison:
    """Compare a destination bit for bit with what the plan makes of the source.

    Args:
        src: The source, as in `convert`.
        dst: What was written; it is also the template.
        model: As in `plan_conversion`.
        rules: As in `plan_conversion`.
        accept_guesses: As in `plan_conversion`.
        allow_missing: As in `plan_conversion`.
        allow_unexpected: As in `plan_conversion`.
        allow_mismatched: As in `plan_conversion`.
        dtype: The cast that was asked for, if any.
        layout: As in `plan_conversion`.
        follow_links: As in `plan_conversion`.
        registry: As in `plan_conversion`.
        progress: Called as bytes are compared.

    Returns:
        The differences; none means that the destination holds the source's weights.

    Raises:
        ConversionError: The two do not fit, so that there is nothing to compare.
        BadInputError: A file is damaged or unsafe.
    """
    registry = registry or default_registry()
    with (
        opened(src, registry, layout=layout, follow_links=follow_links) as source,
        opened(dst, registry, follow_links=follow_links, what="result") as made,
    ):
        if made.layout is None:
            raise UsageError("nothing tells whose names the result has.")
        like = made if made.layout != "neutral" else None
        asked = Asked(
            *(made.layout, like, model, rules, accept_guesses),
            *(allow_missing, allow_unexpected, allow_mismatched),
        )
        known = guidance(src, source, asked.to, asked.model, registry)
        if known is not None and known.untied and known.like is not None:
            # The result holds tied tensors apart; that they are tied, only the library's template tells.
            asked = replace(asked, like=known.like)
        state, plan = prepare(source, asked if known is None else asked.guided(known), registry)
        plan.check()
        if dtype is not None:
            plan = plan.cast(dtype_named(dtype))
        return compare_states(plan.apply(state), made, progress=progress)


def _prepared(
    source: Any, state: FlatState, asked: Asked, registry: Registry, dtype: str | None = None
) -> tuple[FlatState, Plan, Guidance]:
    """Return the source with all its evidence, the plan, and what a model library knows."""
    known = guidance(source, state, asked.to, asked.model, registry, dtype=dtype)
    if known is None:
        return *prepare(state, asked, registry), Guidance()
    state, plan = prepare(state, asked.guided(known), registry)
    return state, replace(plan, notes=(*plan.notes, *known.notes)), known


def _folder_of(state: FlatState) -> Path:
    return Path(state.metadata.provenance["path"]).parent


def _tensor_bytes(plan: Plan) -> int:
    specs = plan.target_specs()
    return sum(spec.nbytes for key, spec in specs.items() if key not in plan.metadata.ties)
