"""What the machine gives this process: processors and memory, and limits to them."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge_core.io.syscalls import library_function

__all__ = ["limit_process", "machine_memory", "memory_limit", "processors", "return_freed_memory"]

_MMAP_THRESHOLD = -3
"""The number of this parameter of glibc's ``mallopt``."""

_CGROUPS = Path("/proc/self/cgroup")
_CGROUP_FILES = {
    "": ("/sys/fs/cgroup", "memory.max"),
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}
"""Controllers of a line of that file -> where the groups are, and the name of the limit; "" is version 2."""


def processors() -> int:
    """Return how many processors this process may use.

    If the system has no such limit to ask for, it is the number of the machine's processors.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return count() or 1


def limit_process(memory: int, seconds: int) -> None:
    """Limit this process's address space, its processor time and, to nothing, its core dumps.

    Nothing is limited where the system has no such limits (Windows), and a limit that the system refuses
    (macOS: of the address space) is left out.

    Args:
        memory: Bytes.
        seconds: Seconds of processor time.
    """
    try:
        import resource
    except ImportError:
        return
    limits = ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0))
    for what, most in limits:
        hard = resource.getrlimit(what)[1]
        if hard == resource.RLIM_INFINITY or hard > most:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(what, (most, hard))


def machine_memory() -> int:
    """Return the bytes of the machine's memory; 2^50 where the system cannot be asked."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 50


def memory_limit() -> int:
    """Return the bytes of memory that this process and the page cache of its files may take.

    It is the least of the machine's memory and the limits of its control groups, such as a container's; where
    none exist (macOS, Windows), the machine's memory.
    """
    limits = [machine_memory()]
    with contextlib.suppress(OSError, ValueError):
        for line in _CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            base, name = _CGROUP_FILES.get(
                "memory" if "memory" in controllers.split(",") else controllers, ("", "")
            )
            folder = Path(base, path.lstrip("/"))
            for group in (folder, *folder.parents) if name else ():
                with contextlib.suppress(
                    OSError, ValueError
                ):  # the group is not shown here, or the limit is "max"
                    limits.append(int((group / name).read_text()))
                if group == Path(base):
                    break
    return min(limits)


def _group_limits(base: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits of a group and of those around it; a container may not show its own path."""
    group = base / path.lstrip("/")
    while True:
        with contextlib.suppress(OSError, ValueError):  # there is no such group here, or its limit is "max"
            yield int((group / name).read_text())
        if group == base or group == group.parent:
            return
        group = group.parent


def return_freed_memory(nbytes: int) -> None:
    """Let glibc give freed memory of at least so many bytes back to the system at once.

    By itself glibc holds freed memory of up to 32 MiB. Nothing changes where the C library is another one.
    """
    call = library_function("mallopt")
    if call is not None and library_function("gnu_get_libc_version") is not None:
        call(_MMAP_THRESHOLD, ctypes.c_int(nbytes))
