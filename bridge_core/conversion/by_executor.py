"""A conversion whose parts an executor runs: in processes of this machine, or of a cluster."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.conversion.in_parts import finish_work, make_work, run_part, work_status
from bridge_core.conversion.report import Report
from bridge_core.errors import BridgeError, DestinationExists, SystemFailure, UsageError
from bridge_core.messages import count, listed, log, shown
from bridge_core.plugins import Registry
from bridge_core.transfer import Progress
from bridge_core.work import WorkList

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

__all__ = ["convert_by_executor", "run_listed_part"]

_PARTS_PER_WORKER = 4
"""So many that a slow part does not leave the other workers without work for long."""

_PARTS = 64
"""Where the executor does not show how many workers it has."""

_LONGEST = 300
"""Characters of another program's error in a message."""

_RESUME = "run the same call again with resume=True: files that are complete are not written again"


def convert_by_executor(
    src: Any,
    dst: Any,
    options: Mapping[str, Any],
    registry: Registry,
    executor: Executor,
    *,
    resume: bool,
    workers: int | None,
    max_ram: int | str | None,
    progress: Callable[[Progress], None] | None,
) -> Report:
    """Convert into a folder, with an executor that runs the parts of a work list.

    Args:
        src: The source, a path or URL.
        dst: The folder, a path or URL that all workers have.
        options: The options of `convert` that decide what is written.
        registry: The plugins, which the workers load by their names.
        executor: Anything with the ``submit`` of `concurrent.futures.Executor`.
        resume: Whether to go on with what an interrupted run of the same call left.
        workers: Threads of each part.
        max_ram: Buffers of each part.
        progress: Called in this process, when a part is complete.

    Raises:
        UsageError: It is not an executor, or an argument is a live object.
        DestinationExists: The folder holds weights or other work, or the work of this call without
            ``resume``.
        SystemFailure: A worker ended before its part was complete.
        BridgeError: A part failed; the error names it. Parts that wait are cancelled.
    """
    submit = getattr(executor, "submit", None)
    if not callable(submit):
        raise UsageError(
            f"expected executor= to be an executor with a method submit, got {shown(executor)}.",
            hint="Pass one such as concurrent.futures.ProcessPoolExecutor(4).",
        )
    work = make_work(src, dst, parts=_number_of_parts(executor), registry=registry, **options)
    status = work_status(work, registry=registry)
    if not resume and (status.finished or sum(map(len, status.missing.values())) < status.files):
        raise DestinationExists(
            f"the destination holds files of this conversion, which is "
            f"{'complete' if status.finished else 'not complete'}.",
            path=work.destination,
            hint="Pass resume=True (--resume) to go on with it, or give another folder.",
        )
    text, running = work.to_text(), json.dumps({"workers": workers, "max_ram": max_ram})
    token = secrets.token_hex(8)
    counter = _Counter(work, status.missing, progress)
    futures: dict[Future[str], int] = {}
    log("conversion", "an executor runs %d of %d parts", len(status.missing), len(work.parts))
    try:
        for part in status.missing:
            try:
                future = submit(run_listed_part, text, part, running, token)
            except Exception as err:
                raise _of_executor(err, work, part) from None
            futures[future] = part
        for future in _as_completed(futures):
            _require_success(future, futures[future], work)
            counter.add(futures[future])
    finally:
        for future in futures:
            future.cancel()
    return finish_work(work, registry=registry)


def run_listed_part(work: str, part: int, running: str, token: str) -> str:
    """Run a part in a worker; all but the number are texts, which any executor can send.

    Args:
        work: The text of the work list.
        part: The number of the part, from 1.
        running: JSON object of the arguments of `run_part` that change nothing in what is written.
        token: A text that no other conversion has: Dask does not run the same call twice.

    Returns:
        The report as JSON.
    """
    return json.dumps(run_part(work, part, **json.loads(running)).to_json())


class _Counter:
    """Reports the bytes of the parts that are complete; each byte is written and read again."""

    def __init__(
        self,
        work: WorkList,
        missing: Mapping[int, tuple[str, ...]],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        sizes = {file.name: 2 * file.nbytes for file in work.files}
        self._sizes = {part: sum(sizes[name] for name in names) for part, names in missing.items()}
        self._total, self._done, self._progress = sum(self._sizes.values()), 0, progress

    def add(self, part: int) -> None:
        self._done += self._sizes[part]
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, ()))


def _number_of_parts(executor: Executor) -> int:
    # The executors of the standard library, and those that are derived from them, have this attribute.
    workers = getattr(executor, "_max_workers", None)
    return _PARTS_PER_WORKER * workers if type(workers) is int and workers > 0 else _PARTS


def _as_completed(futures: Iterable[Future[str]]) -> Iterator[Future[str]]:
    """Return the futures as they complete; those of a kind of their own in the order of their parts."""
    from concurrent import futures as standard

    if all(isinstance(future, standard.Future) for future in futures):
        return standard.as_completed(futures)
    return iter(futures)


def _require_success(future: Future[str], part: int, work: WorkList) -> None:
    """Raise the error of a part, with its number, as one of ours."""
    from concurrent.futures import CancelledError

    try:
        future.result()
    except BridgeError as err:
        err.message = f"{_named(work, part)}: {err.message}"
        err.hint = f"{err.hint} After that, {_RESUME}." if err.hint else f"To go on, {_RESUME}."
        raise err from None  # the cause is only the text of the worker's traceback
    except (Exception, CancelledError) as err:
        raise _of_executor(err, work, part) from None


def _of_executor(error: BaseException, work: WorkList, part: int) -> BridgeError:
    """Return the error for what an executor raised by itself: a worker that is gone, or no workers at all."""
    from concurrent.futures import BrokenExecutor

    if isinstance(error, BrokenExecutor):
        problem = "a worker process ended before its part was complete, as one that was killed"
        way = "If memory ran out, use fewer workers or a smaller max_ram=. Then "
    else:
        text = " ".join(f"{type(error).__name__} {error}".split())
        problem = f"{_named(work, part)}: the executor raised {text[:_LONGEST]}"
        way = "See the logs of the executor and its workers. Then "
    return SystemFailure(f"{problem.rstrip('.')}.", path=work.destination, hint=f"{way}{_RESUME}.")


def _named(work: WorkList, part: int) -> str:
    names = [file.name for file in work.part(part)]
    return f"part {part} of {count(len(work.parts), 'part')} ({listed(names, 3)}) failed"
