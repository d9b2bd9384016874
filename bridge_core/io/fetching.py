"""Fetching parts of files at URLs: several requests at a time, ahead of the reads, within a memory limit.

One `Fetcher` serves the process. Callers announce the ranges that they will read, in the order of reading;
each range is cut into parts of one request. A read waits for its part, and starts the requests of the parts
that were announced after it. A part is fetched once as long as the memory suffices: of what is in memory,
the parts go first that were read as often as they were announced.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any, Protocol

from bridge_core.errors import BridgeError, SystemFailure
from bridge_core.io.range_parts import Part, Parts, PartState, small_window
from bridge_core.io.request_threads import RequestThreads

__all__ = ["Fetched", "Fetcher", "fetch_memory", "shared_fetcher", "stopped_by"]

_LARGEST_PART = 8 << 20
"""Bytes of one request: at 1 Gbit/s it takes 70 ms, about as long as its way there and back."""
_SMALLEST_PART = 64 << 10
_DEFAULT_MEMORY = 64 << 20
_AT_ONCE = 16
"""Requests that are in flight."""
_GAP_SHARE = 32
"""Gaps between tensors are fetched too while they are less than this part of the bytes that are needed."""
_MOST_GAP = 1 << 20
_SMALL = 32 << 10
"""Bytes of the largest part that is fetched again if this makes one request of two."""
_LOOKED_AT = 64
"""Parts that are looked at to find those to fetch ahead."""
_POLL = 0.1
"""Seconds between two looks at whether a read should end."""

_reading = threading.local()


class Fetched(Protocol):
    """A file whose parts are fetched."""

    size: int
    parts: Parts
    needed: int
    """Bytes that were announced."""
    gaps: int
    """Bytes between them that are fetched too."""

    def fetch(self, start: int, nbytes: int) -> memoryview:
        """Return a range, by one request that may be repeated."""
        ...


class Fetcher:
    """Fetches parts of files within a memory limit.

    Attributes:
        held: Bytes of the parts that are in memory or in flight.
        most_held: The most bytes that were.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._threads = RequestThreads(_AT_ONCE)
        self._ready: OrderedDict[Part, None] = OrderedDict()
        self._shares: list[tuple[int, int]] = []
        self._last: Part | None = None
        self._files: weakref.WeakSet[Any] = weakref.WeakSet()
        self._forgotten: deque[Fetched] = deque()
        self.held = self.most_held = 0

    @property
    def limit(self) -> int:
        """Bytes that may be held."""
        return sum(nbytes for nbytes, _ in self._shares) or _DEFAULT_MEMORY

    @property
    def part_nbytes(self) -> int:
        """Bytes of the largest part."""
        fits = min((nbytes // (4 * readers) for nbytes, readers in self._shares), default=_LARGEST_PART)
        return max(_SMALLEST_PART, min(_LARGEST_PART, fits))

    @property
    def _reserve(self) -> int:
        """Bytes that reads may need in addition to what is fetched ahead of them."""
        return self.part_nbytes * max(1, sum(readers for _, readers in self._shares))

    @contextlib.contextmanager
    def memory(self, nbytes: int, readers: int) -> Iterator[None]:
        """Let a number of threads use some memory within the ``with`` block."""
        share = (nbytes, readers)
        with self._changed:
            if not self._shares:
                for part in self._ready:
                    part.promised = 0  # what was announced for an earlier run, and was not read
            self._shares.append(share)
            self._make_room(0, self.limit, only_read=False)
        try:
            yield
        finally:
            with self._changed:
                self._shares.remove(share)
                self._make_room(0, self.limit, only_read=False)

    def announce(self, file: Fetched, start: int, nbytes: int, *, only_new: bool = False) -> None:
        """Note that a range will be read after those that were announced before.

        Args:
            file: The file.
            start: First byte.
            nbytes: Bytes of the range.
            only_new: Whether parts that are known already are not announced once more.
        """
        stop = start + nbytes
        with self._changed:
            self._forget_waiting()
            self._files.add(file)
            new = file.parts.uncovered(start, stop)
            if not only_new:
                for part in file.parts.overlapping(start, stop):
                    part.promised += min(stop, part.stop) - max(start, part.start)
            for begin, end in new:
                file.needed += end - begin
                self._cut(file, begin, end)

    def _cut(self, file: Fetched, begin: int, end: int) -> None:
        """Make parts of a range that no part covers; the part that was announced last takes what fits."""
        size, last = self.part_nbytes, self._last
        if last is not None and self._joins(last, file, begin):
            file.gaps += begin - last.stop
            last.stop = min(end, last.start + size)
            last.promised += last.stop - begin
            begin = last.stop
        while begin < end:
            part = Part(file, begin, min(begin + size, end), min(size, end - begin))
            file.parts.add(part)
            if self._last is not None:
                self._last.next = part
            self._last = part
            begin = part.stop

    def _joins(self, last: Part, file: Fetched, begin: int) -> bool:
        """Return whether a part may go on from a byte; small parts before it, of headers, are freed then."""
        gap = begin - last.stop
        if last.owner is not file or last.state is not PartState.WAITING:
            return False
        if not 0 <= gap <= _MOST_GAP or begin >= last.start + self.part_nbytes:
            return False
        between = list(file.parts.overlapping(last.stop, begin))
        if gap and (file.gaps + gap) * _GAP_SHARE > file.needed:
            return False
        if any(part.state is not PartState.READY or part.pins or part.nbytes > _SMALL for part in between):
            return False
        for part in between:
            last.promised += max(0, part.promised)
            part.promised = 0
            self._free(part)
        return True

    def read(self, file: Fetched, offset: int, view: memoryview, *, counts: bool = True) -> None:
        """Fill a buffer.

        Args:
            file: The file.
            offset: First byte; the range is in the file.
            view: The buffer, of bytes.
            counts: Whether the bytes count as read.

        Raises:
            KeyboardInterrupt: The event of `stopped_by` was set.
            BridgeError: As `Fetched.fetch`.
        """
        stop = offset + len(view)
        at = offset
        while at < stop:
            with self._changed:
                self._forget_waiting()
                part = file.parts.at(at) or self._unannounced(file, at, stop - at)
                if part is None:
                    continue
                part.pins += 1
            try:
                data = self._wait_for(part)
                end = min(stop, part.stop)
                view[at - offset : end - offset] = data[at - part.start : end - part.start]
                del data
            finally:
                with self._changed:
                    part.pins -= 1
                    part.touched = True
                    if not part.pins:
                        part.error = None  # every read that waited has raised it; the next one tries again
                    self._changed.notify_all()
            if counts:
                self.note_read(file, at, end)
            at = end

    def note_read(self, file: Fetched, start: int, stop: int) -> None:
        """Count a range as read once."""
        with self._changed:
            for part in file.parts.overlapping(start, stop):
                part.promised -= min(stop, part.stop) - max(start, part.start)

    def _unannounced(self, file: Fetched, offset: int, nbytes: int) -> Part | None:
        """Return a new part for a read that was not announced; None if it is cut into several."""
        begin, end = file.parts.around(offset, file.size)
        window = small_window(offset, nbytes, file.size)
        self._files.add(file)
        if window is None:
            for start, stop in file.parts.uncovered(offset, offset + nbytes):
                self._cut(file, start, stop)
            return None
        part = Part(file, max(begin, window[0]), min(end, window[1]))
        file.parts.add(part)
        return part

    def _wait_for(self, part: Part) -> memoryview:
        """Return the bytes of a part, once they are there."""
        stop: threading.Event | None = getattr(_reading, "stop", None)
        with self._changed:
            while part.data is None:
                if part.error is not None:
                    raise (
                        copy.copy(part.error) if isinstance(part.error, BridgeError) else part.error
                    ) from None
                if part.state is PartState.GONE:
                    raise SystemFailure("the file was closed while it was read.")
                if part.state is PartState.WAITING and self._make_room(part.nbytes, self.limit):
                    self._start(part, first=True)
                self._fetch_ahead(part)
                if stop is not None and stop.is_set():
                    raise KeyboardInterrupt
                self._changed.wait(_POLL)
            self._ready.move_to_end(part)
            self._fetch_ahead(part)
            return part.data

    def _fetch_ahead(self, part: Part) -> None:
        following = part.next
        for _ in range(_LOOKED_AT):
            if following is None:
                return
            if following.state is PartState.WAITING and following.promised > 0 and following.error is None:
                limit = self.limit - self._reserve
                if not self._make_room(following.nbytes, limit, only_read=True, is_ahead=True):
                    return
                self._start(following, first=False)
            following = following.next

    def _start(self, part: Part, *, first: bool) -> None:
        part.state = PartState.STARTED
        self.held += part.nbytes
        self.most_held = max(self.most_held, self.held)
        self._threads.submit(functools.partial(self._fetch, part), first=first)

    def _fetch(self, part: Part) -> None:
        data, error = None, None
        try:
            data = part.owner.fetch(part.start, part.nbytes)
        except BaseException as err:
            error = err.with_traceback(None)
        with self._changed:
            if part.state is PartState.GONE or error is not None:
                self.held -= part.nbytes
            if part.state is not PartState.GONE:
                part.data, part.error = data, error
                part.state = PartState.READY if error is None else PartState.WAITING
                if error is None:
                    self._ready[part] = None
            self._changed.notify_all()

    def _make_room(self, nbytes: int, limit: int, *, only_read: bool = False, is_ahead: bool = False) -> bool:
        """Free parts until some bytes fit into a limit; return whether they do."""
        if self.held + nbytes <= limit:
            return True
        ways = (lambda part: part.promised <= 0, lambda part: part.touched, lambda part: True)
        for may_go in ways[:1] if only_read else ways:
            for part in [part for part in self._ready if part.pins == 0 and may_go(part)]:
                self._free(part)
                if self.held + nbytes <= limit:
                    return True
        return self.held == 0 and not is_ahead

    def _free(self, part: Part) -> None:
        del self._ready[part]
        self.held -= part.nbytes
        part.data = None
        part.touched = False
        if part.promised > 0:
            part.state = PartState.WAITING
        else:
            part.state = PartState.GONE
            part.owner.parts.remove(part)

    def forget_later(self, file: Fetched) -> None:
        """Do as `forget` at the next call; safe where the caller may interrupt any other code."""
        self._forgotten.append(file)

    def _forget_waiting(self) -> None:
        while self._forgotten:
            self._forget(self._forgotten.popleft())

    def forget(self, file: Fetched) -> None:
        """Free what is held of a file, and fetch no more of it."""
        with self._changed:
            self._forget(file)

    def _forget(self, file: Fetched) -> None:
        for part in file.parts:
            if part.state is PartState.READY:
                self.held -= part.nbytes
                del self._ready[part]
            part.state, part.data = PartState.GONE, None
        file.parts.clear()
        if self._last is not None and self._last.owner is file:
            self._last = None
        self._changed.notify_all()

    def renew_after_fork(self) -> None:
        """Begin anew in a child process, in which no thread of the parent runs."""
        files = list(self._files)
        for file in files:
            file.parts = Parts()
        Fetcher.__init__(self)


@contextlib.contextmanager
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """Let reads of this thread raise `KeyboardInterrupt` once an event is set."""
    before = getattr(_reading, "stop", None)
    _reading.stop = stop
    try:
        yield
    finally:
        _reading.stop = before


@contextlib.contextmanager
def fetch_memory(nbytes: int, readers: int) -> Iterator[None]:
    """Let what is fetched from servers take some memory within the ``with`` block.

    Args:
        nbytes: Bytes of all that is held or in flight.
        readers: Threads that read.
    """
    with shared_fetcher.memory(nbytes, readers):
        yield


shared_fetcher = Fetcher()
"""The fetcher of the process, so that all files share its memory."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=shared_fetcher.renew_after_fork)
