"""Reads a written checkpoint back, and compares it with the state that was written."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from bridge_core.checkpoint.detect_format import open_file
from bridge_core.errors import BridgeError, ConversionError, LimitExceeded, SystemFailure, VerificationError
from bridge_core.formats import FolderFormat, Format
from bridge_core.messages import count, listed
from bridge_core.plugins import Registry, given_registry
from bridge_core.state import FlatState, Key, Tensor, Ties, join_key
from bridge_core.transfer import (
    Budget,
    Scratch,
    announce_plans,
    little_endian_bytes,
    plan_blocks,
    read_blocks,
    run_jobs,
)

__all__ = ["check_written", "checksum"]

_AGAIN = "Convert again; if it happens again, check the disk and the memory."


def checksum(tensor: Tensor, budget: Budget, stop: threading.Event | None = None) -> int:
    """Return the CRC-32 of a tensor's little-endian row-major bytes, read block by block.

    Args:
        tensor: The tensor.
        budget: The limit of a block's size.
        stop: Event that ends the work with `KeyboardInterrupt`; None for none.
    """
    crc = 0
    plan = plan_blocks((), tensor, budget.block, in_order=True)
    announce_plans([plan])
    for _, block in read_blocks(plan, Scratch(plan.scratch_nbytes), stop=stop):
        crc = zlib.crc32(little_endian_bytes(block), crc)
    return crc


def check_written(
    path: Path,
    state: FlatState,
    used: Format | FolderFormat,
    *,
    registry: Registry | None = None,
    checksums: Mapping[Key, int] | None = None,
    budget: Budget | None = None,
    report: Callable[[int, Key], None] | None = None,
    open_written: Callable[[], FlatState] | None = None,
    read_back: Callable[[Tensor], int | None] | None = None,
) -> Mapping[Key, int]:
    """Open what was written, and check that it holds the state.

    Args:
        path: The file or index.
        state: The state that was written.
        used: Its format.
        registry: The plugins; None for all that are installed.
        checksums: Key -> CRC-32 of the tensor as it was written; a tensor without one is read from the state
            again. None compares only keys, shapes, dtypes and ties.
        budget: Threads and memory; None for the defaults.
        report: Called with (bytes, key) from any thread as values are compared.
        open_written: Opens what was written; None to open it as a file.
        read_back: Returns the CRC-32 of a tensor's bytes if they were read back and reported before, and else
            None; None if nothing was read back.

    Returns:
        Key -> CRC-32 of each tensor as it was read back; nothing if no values were compared.

    Raises:
        VerificationError: The file cannot be opened again, or differs from the state.
        SystemFailure: The system failed to read.
    """
    registry = given_registry(registry)
    budget = budget or Budget()
    try:
        with _opened(path, used, registry, open_written) as written:
            _compare_specs(written, state, path)
            if used.capabilities.metadata:
                _compare_ties(written, state, path)
            if checksums is None:
                return {}
            return _compare_values(written, state, checksums, budget, path, report, read_back)
    except (ConversionError, SystemFailure, LimitExceeded):
        raise
    except BridgeError as err:
        text = f"the written file cannot be read back: {err.message}"
        raise VerificationError(text, path=path, hint=_AGAIN) from err


def _opened(
    path: Path,
    used: Format | FolderFormat,
    registry: Registry,
    open_written: Callable[[], FlatState] | None,
) -> FlatState:
    if open_written is not None:
        return open_written()
    return open_file(path, registry, registry.format(used.name))[1]


def _compare_specs(written: FlatState, state: FlatState, path: Path) -> None:
    expected, actual = state.specs(), written.specs()
    both = expected.keys() & actual.keys()
    problems = [
        f"{count(len(keys), 'tensor')} {what}: {listed(map(join_key, sorted(keys)))}"
        for keys, what in (
            (expected.keys() - actual.keys(), "missing"),
            (actual.keys() - expected.keys(), "not in the state"),
            ({key for key in both if expected[key] != actual[key]}, "of another shape or dtype"),
        )
        if keys
    ]
    if problems:
        text = f"the written file differs from the state: {'; '.join(problems)}."
        raise VerificationError(text, path=path, hint=_AGAIN)


def _compare_ties(written: FlatState, state: FlatState, path: Path) -> None:
    ties = Ties(written.metadata.ties)
    lost = [
        key
        for key, other in state.metadata.ties.items()
        if key in state and other in state and ties.root(key) != ties.root(other)
    ]
    if lost:
        names = listed(map(join_key, lost))
        text = f"the written file does not record {count(len(lost), 'tied key')}: {names}."
        raise VerificationError(text, path=path, hint=_AGAIN)


def _compare_values(
    written: FlatState,
    state: FlatState,
    checksums: Mapping[Key, int],
    budget: Budget,
    path: Path,
    report: Callable[[int, Key], None] | None,
    read_back: Callable[[Tensor], int | None] | None,
) -> Mapping[Key, int]:
    stop = threading.Event()
    ties = Ties.aliases(state)

    def differs(key: Key) -> tuple[bool, int]:
        expected = checksums.get(key)
        if expected is None:
            expected = checksums.get(ties.root(key))
        if expected is None:
            expected = checksum(state.tensor(key), budget, stop)
        before = None if read_back is None else read_back(written.tensor(key))
        actual = checksum(written.tensor(key), budget, stop) if before is None else before
        if report is not None and (before is None or ties.root(key) != key):
            report(state.spec(key).nbytes, key)
        return actual != expected, actual

    answers = list(run_jobs(differs, state, budget.threads, stop=stop))
    wrong = [key for key, (is_wrong, _) in zip(state, answers, strict=True) if is_wrong]
    if wrong:
        names = listed(map(join_key, wrong))
        text = f"the values read back differ in {count(len(wrong), 'tensor')}: {names}."
        raise VerificationError(text, path=path, hint=_AGAIN)
    return {key: actual for key, (_, actual) in zip(state, answers, strict=True)}
