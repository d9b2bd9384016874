"""Checkpoint folders as the library writes them, through the bridge and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from zoo.case import Case

import bridge_core
from bridge_core.cli import main
from ckptbridge_transformers.families import rules_for

__all__ = ["aliases", "api", "assert_holds", "command", "convert", "kept"]

SHARD_SIZE = "20KB"


def api(source: Path, destination: Path, to: str) -> None:
    """Convert a folder with `bridge_core.convert`; all that is not exact is what rules leave out."""
    report = bridge_core.convert(source, f"{destination}/", to=to)
    assert report.verified
    assert report.exact or any(dropped.reason.startswith("rule") for dropped in report.dropped)


def command(source: Path, destination: Path, to: str) -> None:
    """Convert a folder with the command, and no option."""
    result = CliRunner().invoke(main, ["convert", str(source), f"{destination}/", "--to", to])
    assert result.exit_code == 0, result.output


def convert(
    model: torch.nn.Module, place: Path, *, by: Callable[[Path, Path, str], None] = api
) -> tuple[Path, Path]:
    """Save a torch model in shards; return the folder of its Flax weights, and that of the way back."""
    first, there, back = (place / name for name in ("torch", "flax", "back"))
    with warnings.catch_warnings():
        # Some families' configs hold what the library would rather have in another file.
        warnings.filterwarnings("ignore", "(?s).*generation", UserWarning)
        model.save_pretrained(first, max_shard_size=SHARD_SIZE)
    by(first, there, "flax")
    by(there, back, "torch")
    return there, back


def assert_holds(folder: Path, wanted: Mapping[str, Any], *, aliases: Iterable[str] = ()) -> None:
    """Compare all that a checkpoint holds, bit for bit; what is tied to another may be absent."""
    with bridge_core.open_state(folder) as state:
        found = {".".join(_bare(key)): state[key] for key in state}
    assert set(wanted) - set(aliases) <= set(found) <= set(wanted)
    for name, array in found.items():
        value = wanted[name]
        value = np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)
        assert array.dtype == value.dtype, name
        assert array.tobytes() == value.tobytes(), name


def _bare(key: tuple[str, ...]) -> tuple[str, ...]:
    return key[1:] if key[0] in ("params", "batch_stats") else key


def kept(case: Case, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return what the way back must give: all but what the family's rules leave out."""
    rules = [rule for rule in rules_for(model.config, case.flax) if rule.action == "drop"]
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if not any(rule.source.match(tuple(name.split("."))) is not None for rule in rules)
    }


def aliases(model: torch.nn.Module) -> set[str]:
    """Return the names of tensors that have several."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict().items():
        names.setdefault(tensor.data_ptr(), []).append(name)
    return {name for several in names.values() if len(several) > 1 for name in several}
