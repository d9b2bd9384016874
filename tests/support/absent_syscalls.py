"""Takes system calls away from this process, as if its system did not have them.

Import it, and call `remove`, before anything of the bridge is imported. As a plugin of pytest it removes
everything, in each of the processes that run tests::

    pytest -p support.absent_syscalls tests/io
"""

import asyncio  # noqa: F401 - it and what it loads import names that are removed below
import contextlib
import ctypes
import errno
import os
import pathlib
import shutil
import signal
import sys
from pathlib import Path

OF_OS = {
    "positions": ("pread", "preadv", "pwrite", "pwritev", "readv", "writev"),
    "copies": ("copy_file_range",),
    "advice": ("posix_fadvise", "posix_fallocate"),
    "affinity": ("sched_getaffinity",),
    "links": ("O_NOFOLLOW",),
    "flags": ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_PATH", "O_TMPFILE"),
    "folders": ("O_DIRECTORY",),
    "hard links": ("link",),
}
"""Names of ``os`` that some system does not have."""

GROUPS = (*OF_OS, "locks", "limits", "signals", "C library")
"""Every group of names that can be removed."""

MACOS = ("copies", "advice", "affinity", "C library")
"""What macOS does not have. Windows has nothing of all."""


class NoLibraryOfThisProcess(ctypes.CDLL):
    """As on Windows, where a library needs a name."""

    def __init__(self, name, *args, **options):
        if name is None:
            raise TypeError("expected a name, got None")
        super().__init__(name, *args, **options)


def remove(*groups):
    """Remove groups of names; return a stack whose ``close`` gives them back."""
    back = contextlib.ExitStack()
    for group in groups:
        for name in OF_OS.get(group, ()):
            _without(back, os, name)
        if group == "hard links" and hasattr(pathlib, "UnsupportedOperation"):
            _replaced(back, Path, "hardlink_to", _no_link)  # decided when pathlib was imported
        if group == "folders":
            _replaced(back, shutil, "_use_fd_functions", False)
        elif group == "affinity" and hasattr(os, "process_cpu_count"):
            _replaced(back, os, "process_cpu_count", os.cpu_count)  # which asks for the affinity
        elif group == "locks":
            _hidden(back, "fcntl")
            _replaced(back, shutil, "_use_fd_functions", False)
            if "folders" in groups:
                _replaced(back, os, "open", _open_no_folder)  # no system has locks and cannot open folders
        elif group == "limits":
            _hidden(back, "resource")
        elif group == "signals":
            _without(back, signal, "SIGHUP")
        elif group == "C library":
            _replaced(back, ctypes, "CDLL", NoLibraryOfThisProcess)
    return back


def like_windows():
    """Let renaming replace nothing, and open files stay where they are; return a stack to undo it."""
    back = contextlib.ExitStack()
    rename, replace, unlink = os.rename, os.replace, os.unlink

    def rename_new(old, new, **options):
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, "File exists", str(old), None, str(new))
        _refuse_open(old)
        rename(old, new, **options)

    def replace_closed(old, new, **options):
        _refuse_open(old)
        _refuse_open(new)
        if Path(new).is_dir():
            raise PermissionError(errno.EACCES, "Access is denied", str(new))
        replace(old, new, **options)

    def unlink_closed(path, **options):
        if options.get("dir_fd") is None:
            _refuse_open(path)
        unlink(path, **options)

    _replaced(back, os, "rename", rename_new)
    _replaced(back, os, "replace", replace_closed)
    _replaced(back, os, "unlink", unlink_closed)
    _replaced(back, os, "remove", unlink_closed)
    return back


def removed():
    """Return whether this process was started without any of the names."""
    return sys.modules.get("fcntl", ...) is None


def _no_link(_self, _target):
    raise pathlib.UnsupportedOperation("os.link() is unsupported on this system")


_open = os.open


def _open_no_folder(path, *args, **options):
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return _open(path, *args, **options)


def _refuse_open(path):
    """Refuse what this process has open, at the path or below."""
    inside = os.path.realpath(path)
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            opened = str(descriptor.readlink())
            if opened == inside or opened.startswith(inside + os.sep):
                raise PermissionError(errno.EACCES, "The file is used by another process", str(path))


def _replaced(back, owner, name, value):
    back.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _without(back, owner, name):
    if hasattr(owner, name):
        back.callback(setattr, owner, name, getattr(owner, name))
        delattr(owner, name)


def _hidden(back, module):
    __import__(module)
    back.callback(sys.modules.__setitem__, module, sys.modules[module])
    sys.modules[module] = None


def pytest_configure():
    """Remove everything, before the first test is collected."""
    assert "bridge_core.io.syscalls" not in sys.modules
    remove(*GROUPS)
