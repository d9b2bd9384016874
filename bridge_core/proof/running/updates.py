"""Compares the statistics that both models changed while they ran in training mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bridge_core.messages import listed
from bridge_core.plugins import ModelRun, ModuleSettings
from bridge_core.proof.causes import Cause
from bridge_core.proof.running.common_axes import relative_error
from bridge_core.proof.running.models import Side, module_path
from bridge_core.proof.running.weights import Converted
from bridge_core.state import Array, ArrayTensor, Key, is_floating, join_key

__all__ = ["Updates", "compared_updates"]


@dataclass(frozen=True)
class Updates:
    """The statistics after a run, compared.

    Args:
        problems: What differs, a sentence each.
        causes: What explains it.
        notes: What differs by convention of the frameworks, a sentence each.
    """

    problems: tuple[str, ...] = ()
    causes: tuple[Cause, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Statistic:
    """One statistic of the target: before the run, as the source's run makes it, and as its own does."""

    key: Key
    path: Key
    old: Array
    source: Array
    target: Array

    @property
    def error(self) -> float:
        return relative_error(self.source, self.target)


def compared_updates(
    made: Converted,
    source: ModelRun,
    target: ModelRun,
    side: Side,
    settings: Mapping[Key, ModuleSettings],
    limit: float,
) -> Updates:
    """Return how the statistics of both runs differ; nothing if one of them ran in evaluation mode.

    Args:
        made: The weights of both before the run.
        source: The source's run.
        target: The target's.
        side: The target's side.
        settings: The target's settings by path; empty if unknown.
        limit: The error up to which they are equal.
    """
    if not source.updates or not target.updates:
        return Updates()
    wrong = [one for one in _statistics(made, source, target, side) if one.error > limit]
    if not wrong:
        return Updates()
    means = [one for one in wrong if one.key[-1].endswith("mean")]
    ratio = _common_ratio(means, limit) if means else None
    names = listed(join_key(one.key) for one in wrong)
    if ratio is not None:
        momentum = settings[means[0].path].values.get("momentum") if means[0].path in settings else None
        own = f"{momentum:g}" if momentum is not None else "unknown"
        right = (
            f"{momentum / ratio:.3g}" if momentum is not None else f"{1 / ratio:g} times that of the target"
        )
        cause = Cause(
            "momentum",
            f"The share of the new statistic differs: {right} in the source, {own} in the target.",
            right,
            own,
            max(one.error for one in means),
            max(relative_error(one.source - one.old, (one.target - one.old) / ratio) for one in means),
            f"In the target, at {join_key(means[0].path)}: let the new statistic count {right} (torch: "
            f"momentum={right}; Flax: momentum=1 - {right}).",
        )
        return Updates((f"The statistics after the run differ: {names}.",), (cause,))
    if not means and all(_is_unbiased(one, settings, limit) for one in wrong):
        text = (
            f"{names} after the run: one model stores the unbiased variance of the batch (PyTorch), the "
            "other the biased one (Flax)."
        )
        return Updates(notes=(text,))
    return Updates((f"The statistics after the run differ: {names}.",))


def _statistics(made: Converted, source: ModelRun, target: ModelRun, side: Side) -> Iterator[_Statistic]:
    changed = {key: ArrayTensor(value) for key, value in source.updates.items()}
    after = made.plan.apply(made.source.replace(tensors={**made.source.tensors(), **changed}))
    for key, value in target.updates.items():
        if key in after and is_floating(value.dtype):
            path = module_path(key, made.target, side.framework)[:-1]
            arrays = (np.asarray(a, np.float64) for a in (made.target.read(key), after.read(key), value))
            yield _Statistic(key, path, *arrays)


def _common_ratio(statistics: list[_Statistic], limit: float) -> float | None:
    """Return by how much more the target's statistics changed, if that is one number for all."""
    source = np.concatenate([(one.source - one.old).ravel() for one in statistics])
    target = np.concatenate([(one.target - one.old).ravel() for one in statistics])
    size = float(source @ source)
    if not size:
        return None
    ratio = float(source @ target) / size
    return ratio if ratio and relative_error(target, ratio * source) <= 100 * limit else None


def _is_unbiased(one: _Statistic, settings: Mapping[Key, ModuleSettings], limit: float) -> bool:
    """Return whether two variances differ by one factor n / (n - 1) for a whole number n."""
    momentum = settings[one.path].values.get("momentum") if one.path in settings else None
    if not momentum:
        return False
    source, target = ((new - (1 - momentum) * one.old) / momentum for new in (one.source, one.target))
    if not float(target @ target):
        return False
    ratio = float(source @ target) / float(target @ target)
    n = 1 / (1 - 1 / ratio) if ratio not in (0.0, 1.0) else 0.0
    n = n if n > 0 else 1 - n
    fits = relative_error(source, ratio * target) <= 100 * limit / momentum
    return bool(fits and abs(n - round(n)) < 1e-2 * n)
