"""Systems without the calls of Linux: everything works without them, and three modules know of them."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import absent_syscalls
from support.absent_syscalls import GROUPS, OF_OS

from bridge_core.io import is_plain_name, machine, syscalls, temporaries

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)])}
NEEDS_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes away what Linux has")


def run(*words, **options):
    return subprocess.run(
        [sys.executable, *words], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, **options
    )


@NEEDS_LINUX
@pytest.mark.parametrize("which", ["usual", pytest.param("single", marks=pytest.mark.slow)])
def test_the_journeys_work_without_what_other_systems_do_not_have(which):
    done = run("-m", "support.small_journeys", which, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == (4 if which == "usual" else len(GROUPS))


@NEEDS_LINUX
@pytest.mark.slow
def test_a_good_part_of_the_tests_passes_without_all_of_it():
    if absent_syscalls.removed():
        pytest.skip("nothing is left to remove")
    folders = ("tests/io", "tests/checkpoint", "tests/transfer", "tests/journeys/test_faults.py")
    options = ("-q", "-p", "support.absent_syscalls", "-p", "no:cacheprovider", "-n", "0")
    done = run("-m", "pytest", *options, *folders, timeout=600)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


# --- three modules


OF_THE_SYSTEM = {"bridge_core/io/syscalls.py", "bridge_core/io/page_cache.py", "bridge_core/io/machine.py"}
SHIPPED = sorted(
    path
    for folder in ("bridge_core", "bridge_torch", "bridge_flax", *ROOT.glob("plugins/*/ckptbridge_*"))
    for path in (ROOT / folder).rglob("*.py")
    if str(path.relative_to(ROOT).as_posix()) not in OF_THE_SYSTEM
)
ELSEWHERE_MISSING = {f"os.{name}" for names in OF_OS.values() for name in names} | {
    *(
        "os.fsync",
        "os.fdatasync",
        "os.fchmod",
        "os.fchown",
        "os.mkfifo",
        "os.fork",
        "os.geteuid",
        "os.getuid",
    ),
    *("os.sysconf", "os.getloadavg", "os.sendfile", "os.uname", "os.O_BINARY", "os.sync", "os.O_DIRECT"),
    *(
        "signal.SIGHUP",
        "signal.SIGKILL",
        "signal.SIGPIPE",
        "signal.SIGALRM",
        "signal.SIGUSR1",
        "signal.SIGBREAK",
    ),
    *("signal.alarm", "signal.setitimer", "signal.pthread_sigmask"),
    *("ctypes.CDLL", "ctypes.cdll", "ctypes.WinDLL", "ctypes.windll"),
}
MODULES = {"fcntl", "resource", "msvcrt", "pwd", "grp", "termios", "pty", "tty", "posix", "nt", "winreg"}


def test_no_other_module_uses_what_some_system_does_not_have():
    assert len(SHIPPED) > 200
    users = {
        str(path.relative_to(ROOT)): sorted(uses(ast.parse(path.read_text("utf-8")))) for path in SHIPPED
    }
    assert not {path: names for path, names in users.items() if names}


def uses(tree):
    """Yield each use of a name or module that some system does not have."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ELSEWHERE_MISSING:
            yield ast.unparse(node)
        elif isinstance(node, ast.Import):
            yield from MODULES & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from MODULES & {node.module.partition(".")[0]}
            yield from ELSEWHERE_MISSING & {f"{node.module}.{alias.name}" for alias in node.names}


@pytest.mark.parametrize(
    "line",
    ["import fcntl", "from os import pread", "import os; os.pread(1, 2, 3)", "from fcntl import flock"],
)
def test_a_use_is_found(line):
    assert list(uses(ast.parse(line)))


def test_every_use_of_the_three_modules_has_another_way():
    trees = [ast.parse((ROOT / path).read_text("utf-8")) for path in OF_THE_SYSTEM]
    assert {use for tree in trees for use in uses(tree)} == {
        "fcntl",
        "resource",
        "ctypes.CDLL",
        "os.O_DIRECTORY",
        "os.sched_getaffinity",
        "os.sysconf",
        "os.fsync",
        "os.preadv",
        "os.pwrite",
        "os.copy_file_range",
    }


# --- names


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/x", "a/b", "../x", "\\x", "a\\b", "..\\x", "\\\\server\\share\\x"),
        *("C:", "C:x", "C:\\x", "c:/x", "x:stream", "x::$DATA", "x.", "x ", "x. ", "...", "a\0b"),
        *(
            "CON",
            "con",
            "NUL",
            "nul.safetensors",
            "Aux.tar.gz",
            "PRN ",
            "com1",
            "LPT9.x",
            "COM\u00b9",
            "NUL .x",
        ),
        *("CONIN$", "conout$.x", "NUL.\n"),
    ],
)
def test_a_name_that_means_more_on_any_system_is_not_plain(name):
    assert not is_plain_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        ".hidden",
        "a b",
        "a..b",
        "console",
        "com",
        "com10",
        "lpt",
        "null",
        "x-CON",
        "\u00e9",
        "~",
    ],
)
def test_other_names_are_plain(name):
    assert is_plain_name(name)


# --- the ways round


def test_processors_are_counted_where_a_process_cannot_be_bound_to_some(monkeypatch):
    with absent_syscalls.remove("affinity"):
        monkeypatch.setattr(os, "process_cpu_count", lambda: 3, raising=False)
        assert machine.processors() == 3
        monkeypatch.delattr(os, "process_cpu_count")
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert machine.processors() == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_without_hard_links_a_new_name_is_looked_at_first(tmp_path, monkeypatch, code):
    def refuse(*_args, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(syscalls, "_rename_with", lambda *_args: False)
    monkeypatch.setattr(os, "link", refuse, raising=False)
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    with pytest.raises(FileExistsError):
        syscalls.rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "old"
    syscalls.rename_new(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "new"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("works", [True, False])
def test_a_sync_goes_through_the_disks_cache_where_there_is_a_way(tmp_path, monkeypatch, works):
    calls = []

    class Fcntl:
        @staticmethod
        def fcntl(_fd, number):
            calls.append(number)
            if not works:
                raise OSError(errno.ENOTSUP, "the call is not supported")

    monkeypatch.setattr(syscalls, "fcntl", Fcntl)
    monkeypatch.setattr(syscalls, "_FULL_SYNC", 51)
    monkeypatch.setattr(os, "fsync", lambda _fd: calls.append("fsync"))
    (tmp_path / "a").write_text("x")
    syscalls.sync_file(tmp_path / "a")
    assert calls == ([51] if works else [51, "fsync"])


def test_a_file_that_is_replaced_while_it_is_opened_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("x")
    (tmp_path / "b").write_text("y")
    monkeypatch.setattr(syscalls, "_REFUSES_LINKS", False)
    opening = os.open

    def replacing(file, *args):
        (tmp_path / "b").replace(path)
        return opening(file, *args)

    monkeypatch.setattr(os, "open", replacing)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        syscalls.open_source(path)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.skipif(absent_syscalls.removed(), reason="there are no locks at all")
def test_a_file_system_without_locks_goes_by_age(tmp_path, monkeypatch):
    class Fcntl:
        LOCK_EX, LOCK_SH, LOCK_NB = 2, 1, 4

        @staticmethod
        def flock(_fd, _how):
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(syscalls, "fcntl", Fcntl)
    final = tmp_path / "a"
    with temporaries.temporary(final, Path.mkdir) as path:
        temporaries.sweep(final)
        assert path.is_dir()
        os.utime(path, (0, 0))
        temporaries.sweep(final)
        assert not path.exists()


def test_a_limit_that_the_system_refuses_is_left_out():
    code = """
import resource
from bridge_core.io import limit_process
before = resource.getrlimit(resource.RLIMIT_CPU)
def refuse(what, limits, setting=resource.setrlimit):
    if what == resource.RLIMIT_AS:
        raise ValueError("current limit exceeds maximum limit")
    setting(what, limits)
resource.setrlimit = refuse
limit_process(1 << 40, 77)
assert resource.getrlimit(resource.RLIMIT_CPU)[0] == 77
assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
"""
    pytest.importorskip("resource")
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
