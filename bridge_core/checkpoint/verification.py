"""Reading a written checkpoint back, and comparing it with what was to be written."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from bridge_core.checkpoint.detect_format import open_file
from bridge_core.errors import BridgeError, ConversionError, LimitExceeded, SystemFailure, VerificationError
from bridge_core.formats import Format
from bridge_core.messages import listed
from bridge_core.plugins import Registry, default_registry
from bridge_core.state import FlatState, Key, Tensor, Ties, join_key
from bridge_core.transfer import Budget, Scratch, little_endian_bytes, plan_blocks, read_blocks, run_jobs

__all__ = ["check_written", "checksum"]


def checksum(tensor: Tensor, budget: Budget, stop: threading.Event | None = None) -> int:
    """Return the CRC-32 of a tensor's little-endian row-major bytes, read block by block.

    Args:
        tensor: What to read.
        budget: How large a block may be.
        stop: Once it is set, the work ends with `KeyboardInterrupt`.
    """
    crc = 0
    plan = plan_blocks((), tensor, budget.block, in_order=True)
    for _, block in read_blocks(plan, Scratch(plan.scratch_nbytes), stop=stop):
        crc = zlib.crc32(little_endian_bytes(block), crc)
    return crc


def check_written(
    path: Path,
    state: FlatState,
    used: Format,
    *,
    registry: Registry | None = None,
    checksums: Mapping[Key, int] | None = None,
    budget: Budget | None = None,
    report: Callable[[int, Key], None] | None = None,
) -> None:
    """Open what was written, and prove that it holds the state.

    Args:
        path: The file or index.
        state: What was to be written.
        used: Its format.
        registry: The plugins; None for all that are installed.
        checksums: CRC-32 of tensors as they were written; None compares names, shapes, dtypes and ties
            alone. Tensors that have none here are read from the state again.
        budget: Threads and memory.
        report: Called with (bytes, key) from any worker as values are compared.

    Raises:
        VerificationError: It cannot be opened again, or holds something else.
        SystemFailure: The system failed to read.
    """
    registry = default_registry() if registry is None else registry
    budget = budget or Budget()
    try:
        with open_file(path, registry, used)[1] as written:
            _compare_specs(written, state, path)
            if used.capabilities.metadata:
                _compare_ties(written, state, path)
            if checksums is not None:
                _compare_values(written, state, checksums, budget, path, report)
    except (ConversionError, SystemFailure, LimitExceeded):
        raise
    except BridgeError as err:
        raise VerificationError(f"what was written cannot be read again: {err.message}", path=path) from err


def _compare_specs(written: FlatState, state: FlatState, path: Path) -> None:
    wanted, found = state.specs(), written.specs()
    problems = []
    for what, keys in (
        ("lacks", wanted.keys() - found.keys()),
        ("has unasked", found.keys() - wanted.keys()),
        (
            "has with another shape or dtype",
            {k for k in wanted.keys() & found.keys() if wanted[k] != found[k]},
        ),
    ):
        if keys:
            problems.append(f"{what} {listed(map(join_key, sorted(keys)))}")
    if problems:
        raise VerificationError(f"the file as written {'; '.join(problems)}.", path=path)


def _compare_ties(written: FlatState, state: FlatState, path: Path) -> None:
    ties = Ties(written.metadata.ties)
    lost = [
        key
        for key, other in state.metadata.ties.items()
        if key in state and other in state and ties.root(key) != ties.root(other)
    ]
    if lost:
        raise VerificationError(f"the file as written does not tie {listed(map(join_key, lost))}.", path=path)


def _compare_values(
    written: FlatState,
    state: FlatState,
    checksums: Mapping[Key, int],
    budget: Budget,
    path: Path,
    report: Callable[[int, Key], None] | None,
) -> None:
    stop = threading.Event()
    ties = Ties.aliases(state)

    def differs(key: Key) -> bool:
        wanted = checksums.get(key)
        if wanted is None:
            wanted = checksums.get(ties.root(key))
        if wanted is None:
            wanted = checksum(state.tensor(key), budget, stop)
        found = checksum(written.tensor(key), budget, stop)
        if report is not None:
            report(state.spec(key).nbytes, key)
        return found != wanted

    found = run_jobs(differs, state, budget.threads, stop=stop)
    wrong = [key for key, bad in zip(state, found, strict=True) if bad]
    if wrong:
        raise VerificationError(f"the values read again differ in {listed(map(join_key, wrong))}.", path=path)
