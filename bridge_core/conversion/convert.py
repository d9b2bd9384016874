"""Plans and runs conversions, from any source to any destination."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.checkpoint import WriteOptions, as_destined, as_location, guided
from bridge_core.conversion.inputs import conversion_options, located, opened, refuse_empty
from bridge_core.conversion.report import Report
from bridge_core.conversion.rule_errors import naming_rule
from bridge_core.conversion.source_plan import plan_source
from bridge_core.errors import UsageError
from bridge_core.plan import Plan
from bridge_core.plugins import Registry, given_registry
from bridge_core.public import require_bool
from bridge_core.rules import Allowed, Rules
from bridge_core.transfer import Progress

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from bridge_core.conversion.recipes import GivenRecipe
else:
    Executor = GivenRecipe = Any  # most conversions have neither, and need not import their modules

__all__ = ["convert", "plan_conversion"]


def plan_conversion(
    source: Any,
    *,
    to: str,
    like: Any = None,
    model: Any = None,
    rules: Rules = (),
    recipe: GivenRecipe = None,
    only: str | Iterable[str] = (),
    accept_guesses: bool = False,
    allow_missing: Allowed = (),
    allow_unexpected: Allowed = (),
    allow_mismatched: Allowed = (),
    allow_unclaimed: Allowed = (),
    allow_inexact: bool = False,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    registry: Registry | None = None,
    check: bool = True,
) -> Plan:
    """Return the plan of a conversion, which can be printed, checked and applied.

    Only headers are read, and the values of tied tensors that are stored twice.

    Args:
        source: A path or URL (see `open_state`), a state, a mapping from keys to arrays, or a live object; it
            is not changed.
        to: The target's layout: ``"neutral"`` or the name of a framework.
        like: The target's template: a path or URL, a state or a live object, of which only keys, shapes and
            dtypes are used. None for no template.
        model: A live model, or ``"PKG.MOD:FACTORY"``, of the source's framework (its module types are
            evidence) or of the target's (it is the template). For a checkpoint of a model library with an
            installed adapter: the name of the model class, ``"auto"`` for the class that the folder names,
            or ``"none"`` not to ask the library. None means ``"auto"`` for a folder, and for a file of it
            that is not clear by itself.
        rules: Rules, or the path of a rule file; they go before all other evidence.
        recipe: The name of an installed recipe, or a `Recipe`: the rules for a family of models, which must
            take every tensor. With values for its sizes: a pair such as ``("pi0-openpi", {"heads": 8})``.
            ``"none"`` converts by names and shapes where a recipe is needed. None for no recipe; the plan
            then names those that the source fits.
        only: Patterns of the source tensors to convert; the others are neither read nor missing in the
            target. ``"model.layers.0"`` is all below that path. ``"model.layers=2"`` takes the first two
            entries of a list, and ``"model.embed.weight=100"`` the first 100 rows of a tensor
            (``"layers.**[1]=2"``: along axis 1), and both leave all else unchanged.
        accept_guesses: Whether names may decide what a layer is, where no evidence does.
        allow_missing: Target keys that may stay unfilled: True, or patterns.
        allow_unexpected: Source keys that may be left out: True, or patterns.
        allow_mismatched: Target keys that may stay unfilled, and their sources left out, where the shapes
            differ: True, or patterns.
        allow_unclaimed: Source keys with a layer's name that no evidence explains, to be copied unchanged to
            another framework: True, or patterns. Keys with other names are copied in any case.
        allow_inexact: Whether rules may round, and discard what is not a constant, where they do not say so:
            their ``scale``, ``offset`` and ``unpad``. The plan's notes name what is lost.
        layout: The source's layout; None for the one that it records or that its keys match.
        follow_links: Whether shards of the source may be symbolic links that lead out of their folder.
        entry: The entry of the source to read, as ``"model_ema"`` or ``"ckpt.model_ema"``: a dict in a torch
            file, a collection of a Flax tree, an item of an Orbax checkpoint, or a prefix of keys. None takes
            the usual one, and the plan's notes name the others.
        step: The step of a checkpoint that has steps; None for the latest one that is complete.
        registry: The plugins; None for all that are installed.
        check: Whether to raise an error for problems; otherwise the plan contains them.

    Raises:
        MismatchError: Keys are missing or unexpected, or shapes differ.
        AmbiguousLayerError: No evidence decides what some layers are.
        UnclaimedTensorError: Tensors with a layer's name belong to no layer that is known.
        UnsupportedLayerError: The target has no place for some layers.
        RuleError: A rule is wrong, or matches no key; or the recipe does not fit.
        RecipeRequired: The names are those of a model that only a recipe converts.
        ConversionError: The source is a file that holds no tensor.
        BadInputError: A file is damaged or unsafe, or the source is only a part of a model.
        SourceNotFound: The source, ``like`` or the rule file does not exist.
        UsageError: The source, ``to`` or ``like`` cannot be converted, a layout cannot be determined, or
            the source has no such entry.
    """
    registry = given_registry(registry)
    given = {
        "to": to,
        "like": like,
        "model": model,
        "rules": rules,
        "recipe": recipe,
        "only": only,
        "accept_guesses": accept_guesses,
        "allow_missing": allow_missing,
        "allow_unexpected": allow_unexpected,
        "allow_mismatched": allow_mismatched,
        "allow_unclaimed": allow_unclaimed,
        "allow_inexact": allow_inexact,
        "layout": layout,
        "follow_links": follow_links,
    }
    options = conversion_options(given, registry)
    source = located(source, registry)
    with opened(
        source, registry, layout=layout, follow_links=follow_links, entry=entry, step=step, purpose=options
    ) as state:
        refuse_empty(source, state)
        _, _, plan = plan_source(source, state, options, registry)
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
    recipe: GivenRecipe = None,
    only: str | Iterable[str] = (),
    accept_guesses: bool = False,
    allow_missing: Allowed = (),
    allow_unexpected: Allowed = (),
    allow_mismatched: Allowed = (),
    allow_unclaimed: Allowed = (),
    allow_inexact: bool = False,
    dtype: str | Mapping[str, str] | None = None,
    max_shard_size: int | str | None = None,
    workers: int | None = None,
    max_ram: int | str | None = None,
    overwrite: bool = False,
    verify: bool = True,
    progress: Callable[[Progress], None] | None = None,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    to_step: int | None = None,
    to_item: str | None = None,
    resume: bool = False,
    manifest: bool = False,
    executor: Executor | None = None,
    registry: Registry | None = None,
) -> Report:
    """Convert weights into a file or a folder, in bounded memory.

    The destination appears when it is complete, or not at all. At a URL each file is written to a local
    temporary file, read back and compared there, and then uploaded, the index last; so the local disk needs
    room for one file, in the folder that ``TMPDIR`` names. The server compares what it stores with what was
    sent, where it can. If the conversion fails or is interrupted, what was uploaded is removed. On the hub
    all files are one commit, for which the local disk needs room for all of them.

    An object store replaces one file in one step, and never several. With ``overwrite`` the new shards
    therefore get names that are not in use, and until the index is replaced a reader sees the old checkpoint;
    files such as ``config.json`` that have other content than before are replaced right before the index.

    Args:
        src: As ``source`` of `plan_conversion`.
        dst: A file, or a folder for sharded sets; or the URL of one at a store, such as
            ``s3://bucket/model/``, where a folder ends with a slash unless it exists.
        to: The target's layout: ``"neutral"`` or the name of a framework.
        format: Name of the destination's format; None for that of its suffix, or else of the target.
        like: As in `plan_conversion`.
        model: As in `plan_conversion`.
        rules: As in `plan_conversion`.
        recipe: As in `plan_conversion`.
        only: As in `plan_conversion`.
        accept_guesses: As in `plan_conversion`.
        allow_missing: As in `plan_conversion`.
        allow_unexpected: As in `plan_conversion`.
        allow_mismatched: As in `plan_conversion`.
        allow_unclaimed: As in `plan_conversion`.
        allow_inexact: As in `plan_conversion`.
        dtype: Name of a dtype to cast floating-point tensors to; the cast may lose precision. Or pattern of
            target names -> name of a dtype, as ``{"img.**": "float32", "**": "bfloat16"}``: the last pattern
            that matches decides, and ``"**"`` is for the rest. None for no cast.
        max_shard_size: Largest bytes of tensors in a shard, or a text such as ``"5GB"`` (10^9) or ``"5GiB"``
            (2^30); None for one file, and for 5GB in a folder at a URL.
        workers: Number of threads; None for the available processors, at most four.
        max_ram: Largest bytes of all buffers together, or a text such as ``"512MB"``; None for 256 MiB.
        overwrite: Whether an existing destination may be replaced.
        verify: Whether to read everything back and compare it before the destination appears.
        progress: Called as bytes are written.
        layout: As in `plan_conversion`.
        follow_links: As in `plan_conversion`.
        entry: As in `plan_conversion`.
        step: As in `plan_conversion`.
        to_step: Number of the step to write, in a format whose checkpoints have steps; ``dst`` is then the
            folder that holds the steps. None to write ``dst`` itself.
        to_item: Name of the item to write, in a format whose checkpoints have items, as ``"params"``.
        resume: Whether to write each file of a folder by itself, so that the same call goes on where an
            interrupted one ended. The index comes last: until then the folder is not a checkpoint. Shards are
            of 5 GB without ``max_shard_size``, and a manifest is always written. The source, the template and
            the model must be paths or texts, and nothing is overwritten.
        manifest: Whether to write a manifest next to the files, ``ckptbridge-manifest.json`` in a folder or
            ``<file>.manifest.json``: the sizes and digests of the files, and a checksum of each tensor. See
            `bridge_core.verify_manifest`.
        executor: An executor as those of `concurrent.futures`, whose workers write the files of the folder,
            several at a time, as with ``resume``; None to write them here. The workers need the source, the
            destination and the plugins under the same names. ``workers`` and ``max_ram`` are those of each
            part, of which four are made for a worker, and ``progress`` is called when one is complete.
        registry: As in `plan_conversion`.

    Returns:
        What was written, and what the plan did.

    Raises:
        ConversionError: The source is a file that holds no tensor, the plan cannot be run, the destination
            exists, or verification failed.
        BadInputError: The source is damaged or unsafe, or only a part of a model.
        SystemFailure: The system failed: disk, permission or memory.
        UsageError: As in `plan_conversion`.
    """
    registry = given_registry(registry)
    require_bool("resume", resume)
    require_bool("manifest", manifest)
    given = {
        "to": to,
        "format": format,
        "like": like,
        "model": model,
        "rules": rules,
        "recipe": recipe,
        "only": only,
        "accept_guesses": accept_guesses,
        "allow_missing": allow_missing,
        "allow_unexpected": allow_unexpected,
        "allow_mismatched": allow_mismatched,
        "allow_unclaimed": allow_unclaimed,
        "allow_inexact": allow_inexact,
        "dtype": dtype,
        "max_shard_size": max_shard_size,
        "layout": layout,
        "follow_links": follow_links,
        "entry": entry,
        "step": step,
    }
    if resume or executor is not None:
        by = "executor=" if executor is not None else "resume=True (--resume)"
        _refuse_in_parts(by, overwrite=overwrite, verify=not verify, to_step=to_step, to_item=to_item)
        running: dict[str, Any] = {"workers": workers, "max_ram": max_ram, "progress": progress}
        if executor is not None:
            from bridge_core.conversion.by_executor import convert_by_executor

            return convert_by_executor(src, dst, given, registry, executor, resume=resume, **running)
        from bridge_core.conversion.in_parts import convert_resumably

        return convert_resumably(src, dst, given, registry, **running)
    from bridge_core.checkpoint import write_checkpoint  # commands that only read import this module too

    destined = as_destined(dst, registry)
    options = conversion_options(given, registry)
    writing = WriteOptions(
        format, max_shard_size, workers, max_ram, overwrite, verify, progress, step=to_step, item=to_item
    )
    src = located(src, registry)
    with opened(
        src, registry, layout=layout, follow_links=follow_links, entry=entry, step=step, purpose=options
    ) as source:
        refuse_empty(src, source)
        known, state, plan = plan_source(src, source, options, registry)
        result = plan.apply(state)
        with (
            guided(
                writing, known, source, destined, registry, layout=result.layout, follow_links=follow_links
            ) as writing,
            naming_rule(plan),
        ):
            if manifest:
                from bridge_core.conversion.manifests import refuse_without_files, write_manifest
                from bridge_core.conversion.prepared_work import PlannedConversion

                refuse_without_files(destined, writing, registry, layout=result.layout)
            saved = write_checkpoint(result, destined, writing, registry)
            folder = as_location(destined)
            sidecar_files = tuple(folder / name for name in writing.sidecar_files)
            if manifest:
                write_manifest(
                    PlannedConversion(source, plan, known, options),
                    saved,
                    sidecar_files,
                    registry,
                    is_folder=writing.fills_folder(destined),
                    budget=writing.budget,
                )
    return Report.of(plan, saved, sidecar_files, verified=verify)


def _refuse_in_parts(by: str, **given: Any) -> None:
    """Refuse arguments that a conversion in parts does not have."""
    reasons = {
        "overwrite": "nothing is replaced; give a new folder",
        "verify": "every file is verified before it appears",
        "to_step": "only folders of files are written",
        "to_item": "only folders of files are written",
    }
    written = {"overwrite": "overwrite=True (--overwrite)", "verify": "verify=False (--no-verify)"}
    for name, reason in reasons.items():
        if given[name] not in (None, False):
            argument = written.get(name, f"{name}= (--{name.replace('_', '-')})")
            raise UsageError(
                f"{argument} cannot be combined with {by}: {reason}.",
                hint=f"Remove {argument}.",
            )
