"""Loads a checkpoint of any framework and format into a module or a state dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bridge_core import MissingDependency, Registry, UsageError
from bridge_core.conversion import target_state
from bridge_core.io import is_location, shown_path
from bridge_core.rules import Pattern, Permissions, Rules

if TYPE_CHECKING:
    from bridge_core.conversion import GivenRecipe
else:
    GivenRecipe = Any

__all__ = ["load"]


def load(
    source: Any,
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
    device: Any = None,
    workers: int | None = None,
    max_ram: int | str | None = None,
    layout: str | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
    registry: Registry | None = None,
) -> Any:
    """Load a checkpoint into a module, which is returned, or into a new state dict.

    The checkpoint may be of any framework and format. Each value is read once, to where it stays: a module on
    the meta device needs memory for its weights once.

    - **A module** gets the values. Tensors on the meta device are made on ``device``: parameters stay
      parameters, with their ``requires_grad`` and attributes, and have the dtype of the checkpoint, as with
      ``load_state_dict(assign=True)``. Tensors that have memory are filled where they are, and preserve their
      device and dtype. Tied tensors stay tied.
    - **A state dict** is not changed. Its names, shapes and devices are those of the result.
    - **Distributed tensors** (`torch.distributed.tensor.DTensor`, as `fully_shard` makes them) get only the
      part that this process holds. Every process of the mesh calls this function and reads a share of the
      file; where shares are many short runs of it, the processes exchange values. If one of them fails, all
      raise an error.

    Names, shapes, dtypes and devices are checked before the first value is read. If reading fails after that,
    what was on the meta device is still there, and tensors that have memory may hold old or new values.

    Args:
        source: A path or URL, as for `open_state`; or another source that `convert` takes. All processes of a
            mesh need to see the same files.
        like: An `nn.Module`, or a state dict.
        model: Evidence for what the source's layers are, as for `convert`.
        rules: Rules, or the path of a rule file.
        recipe: As for `convert`.
        only: As for `convert`.
        accept_guesses: Whether names may decide a layer that no evidence decides.
        allow_missing: Names of ``like`` that may stay unchanged if the checkpoint has no values: True for
            all, or patterns. In a module, tensors on the meta device stay there; so do buffers that are not
            in its state dict, which are refused otherwise.
        allow_unexpected: Names in the checkpoint that may be left out: True for all, or patterns.
        allow_mismatched: Names of ``like`` that may stay unchanged if the shapes differ: True for all, or
            patterns.
        allow_unclaimed: Names of tensors that belong to no layer and are to be copied unchanged: True for
            all, or patterns.
        allow_inexact: Whether rules may round, and discard what is not a constant, where they do not say so.
        dtype: Name of a dtype to cast floating-point tensors to, or pattern of names -> name, as for
            `convert`. Without it only a module's tensors that have memory cast values, and only to a dtype
            that holds them exactly.
        device: Where tensors on the meta device are made; for a state dict, where all are. None for the CPU,
            or the device of ``like``.
        workers: Threads; None for one per available processor, at most four.
        max_ram: Most bytes of buffers in addition to the weights, or a text such as ``"512MB"``; None for
            256 MiB. A tensor for another device may exceed it.
        layout: The source's layout; None for the one that it records or that its keys match.
        follow_links: Whether shards of the source may be symbolic links that lead out of their folder.
        entry: The entry of the source to read, as for `open_state`.
        step: The step of a checkpoint that has steps; None for the latest one that is complete.
        registry: Plugins; None for all that are installed.

    Raises:
        ConversionError: Names or shapes do not match, or the source holds no tensor.
        BadInputError: The source is damaged or unsafe, or of a kind that cannot be loaded.
        SystemFailure: The system or the server failed.
        UsageError: ``like`` is not torch's, or cannot be filled.
        RuleError: A rule does not match the tensors.

    Warns:
        ConversionWarning: What a report of `convert` would warn of.
    """
    if is_location(like):
        raise UsageError(
            f"expected a torch.nn.Module or a state dict as like=, got the path {shown_path(like)!r}.",
            hint="Pass the model, which may be on the meta device.",
        )
    try:
        from bridge_torch import torch_objects
    except ImportError as err:
        raise MissingDependency(
            f"loading into modules and state dicts needs torch, which cannot be imported: {err}.",
            hint='Install it: pip install "ckptbridge[torch]".',
        ) from err
    permissions = Permissions.of(accept_guesses, allow_missing)
    template = torch_objects.read_template(like)
    together = torch_objects.loading_together(like)
    with (
        together.planning(),
        target_state(
            source,
            framework="torch",
            like=template,
            model=model,
            rules=rules,
            recipe=recipe,
            only=only,
            accept_guesses=accept_guesses,
            allow_missing=permissions.allow_missing,
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
        return torch_objects.fill(
            target.state,
            like,
            template,
            together,
            unfilled=target.unfilled,
            permissions=permissions,
            device=device,
            workers=workers,
            max_ram=max_ram,
            may_share=not is_location(source),
        )
