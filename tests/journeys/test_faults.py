"""What a write leaves behind when the machine, the user or another process gets in its way.

Faults are injected for real: system calls fail under strace, limits are set on a process of its own,
processes are killed. Every test proves that its fault happened, by the error or by strace's own log.
"""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from support import absent_syscalls
from support.bare_process import HEARS_CTRL_C
from support.errors import refused
from support.toy_format import assert_same, descriptors, registry

from bridge_core import (
    DestinationExists,
    IntegrityError,
    PermissionDenied,
    SourceFile,
    SystemFailure,
    Tensor,
    TruncatedFile,
    VerificationError,
    as_state,
)
from bridge_core.checkpoint import file_writing as writing_module
from bridge_core.checkpoint.open_save import open_state, save_state
from bridge_core.io import atomic_write as output_module, syscalls, temporaries as temporaries_module
from bridge_core.io.atomic_write import write_all
from bridge_core.io.temporaries import TEMP_MARK

if os.name == "nt":
    pytest.skip("the faults are injected by means of POSIX", allow_module_level=True)

REGISTRY = registry()
HERE = Path(__file__).parents[1]

PRELUDE = f"""
{HEARS_CTRL_C}
import os, resource, signal, sys, time
sys.path.insert(0, {str(HERE)!r})
from support import absent_syscalls
if {absent_syscalls.removed()}:
    absent_syscalls.remove(*absent_syscalls.GROUPS)
import numpy as np
from bridge_core import BridgeError, TensorSpec
from bridge_core import open_state, save_state
from support.toy_format import registry

def state(value, count=4, size=50_000):
    return {{f"w{{i}}": np.full(size, value, "f4") for i in range(count)}}

def save(state, path, **options):
    options.setdefault("workers", 1)
    return save_state(state, path, registry=registry(), **options)

def headroom(nbytes):
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + nbytes, used + nbytes))

def main():
    {{body}}

try:
    main()
except BridgeError as err:
    print(type(err).__name__, err)
    sys.exit(err.exit_code)
"""


def script(body):
    return [
        sys.executable,
        "-c",
        PRELUDE.replace("{body}", textwrap.indent(textwrap.dedent(body), "    ").strip()),
    ]


def run(body, *prefix, rc=0, says="", **options):
    """Run a body in a process of its own."""
    result = subprocess.run(
        [*prefix, *script(body)], capture_output=True, text=True, timeout=60, check=False, **options
    )
    shown = result.stdout + result.stderr
    assert result.returncode == rc, shown
    assert re.search(says, result.stdout), shown
    return result.stdout


def needs(tool, *probe):
    path = shutil.which(tool)
    if path is None:
        pytest.skip(f"{tool} is not installed")
    if probe and subprocess.run([path, *probe], capture_output=True, check=False).returncode:
        pytest.skip(f"{tool} is forbidden here")
    return path


@pytest.fixture
def inject(tmp_path_factory):
    """Run a body while system calls fail, and prove from strace's log that they did."""
    if absent_syscalls.removed():
        pytest.skip("other calls are made where these are missing")
    strace = needs("strace", "-qq", "-e", "trace=none", "true")
    log = tmp_path_factory.mktemp("strace") / "log"

    def injected(body, *faults, **options):
        calls = ",".join(fault.split(":")[0] for fault in faults)
        options_of = [part for fault in faults for part in ("-e", f"inject={fault}")]
        out = run(body, strace, "-f", "-qq", "-o", str(log), "-e", f"trace={calls}", *options_of, **options)
        text = log.read_text()
        assert "INJECTED" in text or "SIGKILL" in text, text
        return out

    return injected


def state(value, count=4, size=50_000):
    return {f"w{i}": np.full(size, value, "f4") for i in range(count)}


def save(tensors, path, **options):
    return save_state(tensors, path, registry=REGISTRY, **options)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def temporaries(folder):
    return [name for name in names(folder) if TEMP_MARK in name]


def values(path):
    """The one value that all tensors hold; two of them would mean a mixture."""
    with open_state(path, registry=REGISTRY) as opened:
        (value,) = {float(x) for key in opened for x in np.unique(opened[key])}
        assert len(opened) == 4
    return value


FOLDER = {"max_shard_size": 400_000}
BOTH = pytest.mark.parametrize("options", [{}, FOLDER], ids=["file", "folder"])
LIMITED_MEMORY = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the system limits no address space"
)
HARD_LINKS = pytest.mark.skipif(not hasattr(os, "link"), reason="there are no hard links")
OVER_OR_NEW = pytest.mark.parametrize(
    "exists", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["over the old", "new"]
)


@pytest.fixture
def place(tmp_path):
    """A folder for one destination, which is to hold nothing else when all is over."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def target(place, options):
    return place / ("set" if options else "a.safetensors")


RENAMES = "rename,renameat,renameat2,link,linkat"
READS = "preadv,preadv2"


def syncs(options):
    """How often a write calls fsync: for each file, a folder of its own, and the parent folder."""
    return 3 + 1 + 1 if options else 2


def call(value, path, options, more=""):
    return f"save(state({value}), {str(path)!r}, **{options!r}{more})"


# --- killed


@BOTH
def test_killed_while_writing_the_old_one_stands_and_the_next_run_cleans_up(place, options):
    path = target(place, options)
    save(state(1), path, **options)
    body = f"""
    def die(progress):
        if progress.done >= 500_000:
            os.kill(os.getpid(), signal.SIGKILL)
    {call(2, path, options, ", overwrite=True, progress=die")}
    """
    run(body, rc=-signal.SIGKILL)
    (left,) = temporaries(place)
    assert values(path) == 1
    if absent_syscalls.removed():  # without locks, only its age shows that its writer is dead
        for file in (*(place / left).glob("*"), place / left):
            os.utime(file, (0, 0))
    save(state(3), path, overwrite=True, **options)
    assert names(place) == [path.name]
    assert values(path) == 3


@BOTH
@OVER_OR_NEW
@pytest.mark.parametrize("moment", ["at", "after"])
def test_killed_at_the_rename_the_destination_is_old_or_new(place, inject, options, exists, moment):
    path = target(place, options)
    if exists:
        save(state(1), path, **options)
    # The last fsync, that of the parent folder, comes after the rename.
    fault = f"{RENAMES}:signal=KILL" if moment == "at" else f"fsync:signal=KILL:when={syncs(options)}"
    inject(call(2, path, options, f", overwrite={exists}"), fault, rc=-signal.SIGKILL)
    found = values(path) if path.exists() else None
    assert found in (({1, 2} if exists else {None, 2}) if moment == "at" else {2})
    save(state(3), path, overwrite=True, **options)
    assert names(place) == [path.name]
    assert values(path) == 3


def test_killed_between_two_renames_the_old_folder_comes_back(place, inject):
    """Where folders cannot be exchanged, there is a moment without any."""
    path = place / "set"
    save(state(1), path, **FOLDER)
    faults = ("renameat2:error=ENOSYS", "rename:signal=KILL:when=2")
    inject(call(2, path, FOLDER, ", overwrite=True"), *faults, rc=-signal.SIGKILL)
    assert not path.exists()
    with pytest.raises(DestinationExists):
        save(state(3), path, **FOLDER)
    assert values(path) == 1
    assert names(place) == ["set"]


# --- system calls that fail


@pytest.mark.parametrize(
    ("options", "exists", "faults"),
    [
        (FOLDER, True, ["renameat2:error=ENOSYS"]),
        ({}, False, ["renameat2:error=EINVAL"]),
        ({}, False, ["renameat2:error=ENOSYS", "link,linkat:error=EPERM"]),
    ],
    ids=["folders cannot be exchanged", "by a hard link", "by a plain rename"],
)
def test_without_the_best_rename_there_is_another_way(place, inject, options, exists, faults):
    path = target(place, options)
    if exists:
        save(state(1), path, **options)
    inject(call(2, path, options, f", overwrite={exists}"), *faults)
    assert values(path) == 2
    assert names(place) == [path.name]


FAILING = [
    (f"{RENAMES}:error=EIO", "file and folder"),
    ("pwrite64:error=ENOSPC:when=1", "file"),
    ("pwrite64:error=EDQUOT:when=2", "folder"),
    ("fallocate:error=ENOSPC", "folder"),
    ("fallocate:error=EFBIG", "file"),
    (f"{READS}:error=EIO", "file"),
    (f"{READS}:error=EIO:when=3", "folder"),
]
"""Each call that fails, and where it does in the default tests; in the other place it is slow."""


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        pytest.param(options, fault, id=f"{fault}-{name}", marks=() if name in where else pytest.mark.slow)
        for fault, where in FAILING
        for name, options in {"file": {}, "folder": FOLDER}.items()
    ],
)
@OVER_OR_NEW
def test_a_failing_call_is_reported_and_changes_nothing(place, inject, options, exists, fault):
    path = target(place, options)
    if exists:
        save(state(1), path, **options)
    out = inject(call(2, path, options, f", overwrite={exists}"), fault, rc=4, says="SystemFailure")
    assert str(path) in out
    assert TEMP_MARK not in out
    assert names(place) == ([path.name] if exists else [])
    if exists:
        assert values(path) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "nth"), [({}, 1), ({}, 2), (FOLDER, 1), (FOLDER, 3), (FOLDER, 4), (FOLDER, 5)]
)
def test_a_failing_fsync_is_never_called_success(place, inject, options, nth):
    path = target(place, options)
    save(state(1), path, **options)
    fault = f"fsync:error=EIO:when={nth}"
    inject(call(2, path, options, ", overwrite=True"), fault, rc=4, says="SystemFailure.*Input/output error")
    assert names(place) == [path.name]
    last = nth == syncs(options)  # the parent folder's: the new one stands, but may not last
    assert values(path) == (2 if last else 1)


@BOTH
@pytest.mark.parametrize("when", ["1", "2"])
def test_a_read_error_of_the_source_is_reported_and_changes_nothing(place, tmp_path, inject, options, when):
    source, path = target(tmp_path, options), target(place, options)
    save(state(1), path, **options)
    save(state(2), source, **options)
    body = f"""
    with open_state({str(source)!r}, registry=registry()) as source:
        save(source, {str(path)!r}, overwrite=True, **{options!r})
    """
    out = inject(body, f"{READS}:error=EIO:when={when}", rc=4, says="SystemFailure.*Input/output error")
    assert str(source) in out
    assert names(place) == [path.name]
    assert values(path) == 1


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("fault", ["pwrite64:error=EINTR:when=1..3", f"{READS}:error=EINTR:when=1..3"])
def test_interrupted_calls_are_made_again(place, inject, options, fault):
    path = target(place, options)
    inject(call(2, path, options, ", verify=True"), fault)
    assert values(path) == 2


@BOTH
def test_short_writes_and_reads_are_carried_on(place, monkeypatch, options):
    pwrite, preadv, counts = syscalls.pwrite, syscalls.preadv, {"w": 0, "r": 0}

    def short_write(fd, data, offset):
        counts["w"] += 1
        return pwrite(fd, memoryview(data)[:777], offset)

    def short_read(fd, buffers, offset):
        counts["r"] += 1
        return preadv(fd, [buffers[0][:777]], offset)

    monkeypatch.setattr(syscalls, "pwrite", short_write)
    monkeypatch.setattr(syscalls, "preadv", short_read)
    path = target(place, options)
    save(state(2), path, verify=True, **options)
    assert values(path) == 2
    assert min(counts.values()) > 800_000 // 777


def test_a_write_without_progress_is_no_endless_loop(tmp_path, monkeypatch):
    monkeypatch.setattr(syscalls, "pwrite", lambda *_: 0)
    with (tmp_path / "x").open("wb") as file, pytest.raises(OSError) as caught:  # noqa: PT011
        write_all(file.fileno(), b"abc", 0)
    assert caught.value.errno == errno.EIO


# --- limits of the machine


@BOTH
def test_a_full_disk_is_reported_and_left_clean(place, options):
    unshare = needs("unshare", "-m", "true")
    path = target(place, options)
    body = f"""
    {call(1, path, {}, "")[:-1].replace("state(1)", "state(1, size=1000)")})
    before = sorted(os.listdir({str(place)!r}))
    try:
        save(state(2, size=200_000), {str(path)!r}, overwrite=True, **{options!r})
    finally:
        print(sorted(os.listdir({str(place)!r})) == before, before)
    """
    if options:
        body = body.replace(f"{str(path)!r}, **{{}}", f"{str(path) + '/'!r}")
    mount = f'mount -t tmpfs -o size=1m none {place} || exit 77; exec "$@"'
    probe = subprocess.run([unshare, "-m", "sh", "-c", mount, "sh", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("mounting a tmpfs is forbidden here")
    out = run(
        body, unshare, "-m", "sh", "-c", mount, "sh", rc=4, says="SystemFailure.*No space left on device"
    )
    assert out.startswith("True")


@BOTH
def test_a_limit_on_file_sizes_is_reported_and_left_clean(place, options):
    path = target(place, options)
    save(state(1), path, **options)
    body = f"""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    {call(2, path, options, ", overwrite=True")}
    """
    run(body, rc=4, says="SystemFailure.*File too large")
    assert names(place) == [path.name]
    assert values(path) == 1


@LIMITED_MEMORY
@pytest.mark.parametrize(
    ("options", "rc", "says"),
    [
        ("workers=1", 3, r"OutOfMemory.*'w'.*--max-ram"),
        ("workers=1, max_ram='6MB', verify=True", 0, ""),
    ],
    ids=["default", "smaller buffers"],
)
def test_too_little_memory_is_a_limit_and_smaller_buffers_help(place, options, rc, says):
    path = place / "a.safetensors"
    body = f"""
    class Computed:
        spec = TensorSpec((4096, 4096), np.dtype("f4"))
        def read(self, region):
            return np.full([s.stop - s.start for s in region], 7, "f4")
    headroom(30 << 20)
    save({{"w": Computed()}}, {str(path)!r}, {options})
    """
    run(body, rc=rc, says=says)
    assert names(place) == ([] if rc else ["a.safetensors"])
    if not rc:
        with open_state(path, registry=REGISTRY) as back:
            assert_same(back, {("w",): np.full((4096, 4096), 7, "f4")})


@LIMITED_MEMORY
def test_too_little_memory_for_threads_is_a_limit(place):
    path = place / "a.safetensors"
    body = f"""
    headroom(3 << 20)
    save(state(1, count=30, size=10), {str(path)!r}, workers=8)
    """
    run(body, rc=3, says="LimitExceeded.*--workers")
    assert names(place) == []


def test_too_many_shards_for_the_process_say_what_to_do(place):
    path = place / "set"
    save({f"w{i}": np.ones(2, "f4") for i in range(80)}, path, max_shard_size=8)
    body = f"""
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
    open_state({str(path)!r}, registry=registry())
    """
    run(body, rc=4, says="SystemFailure.*Too many open files.*ulimit")


@BOTH
@pytest.mark.parametrize("how", ["mode", "mount"])
def test_a_read_only_folder_is_reported_and_stays_as_it_is(options, how):
    # The tests' usual folders are their owner's alone.
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_to_read_only(place, options, how)


def write_to_read_only(place, options, how):
    path = target(place, options)
    save(state(1), path, **options)
    if how == "mode":
        # Root may write anywhere, so the writer must be somebody else.
        setpriv = needs("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "true")
        place.chmod(0o555)
        prefix = (setpriv, "--reuid=65534", "--regid=65534", "--clear-groups")
        for probe in (("ls", place), (sys.executable, "-c", "import numpy")):
            if subprocess.run([*prefix, *probe], capture_output=True, check=False).returncode:
                pytest.skip("another user cannot reach temporary folders, or this Python")
        says = "PermissionDenied.*Permission denied"
    else:
        unshare = needs("unshare", "-m", "true")
        mount = f'mount --bind {place} {place} && mount -o remount,bind,ro {place} || exit 77; exec "$@"'
        prefix = (unshare, "-m", "sh", "-c", mount, "sh")
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            pytest.skip("mounting is forbidden here")
        says = "SystemFailure.*Read-only file system"
    run(call(2, path, options, ", overwrite=True"), *prefix, rc=4, says=says)
    place.chmod(0o755)
    assert names(place) == [path.name]
    assert values(path) == 1


# --- sources that change


def disturb(path, how):
    if how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "rewritten":
        content = path.read_bytes()
        path.write_bytes(content)
        os.utime(path, ns=(1, 1))
    elif how == "removed":
        path.unlink()
    else:
        other = path.with_name("other")
        shutil.copy(path, other)
        other.replace(path)


@BOTH
@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("truncated", (TruncatedFile, IntegrityError)),
        ("rewritten", IntegrityError),
        ("replaced", IntegrityError),
        ("removed", IntegrityError),
    ],
)
def test_a_source_that_changes_while_it_is_read_is_noticed(place, tmp_path, options, how, error):
    source, path = target(tmp_path, options), target(place, options)
    save(state(1), path, **options)
    save(state(2), source, **options)
    victim = sorted(source.glob("*.safetensors"))[-1] if options else source
    done = []

    def meddle(progress):
        if not done:
            done.append(disturb(victim, how))

    with open_state(source, registry=REGISTRY) as opened, pytest.raises(error) as caught:
        save(opened, path, overwrite=True, progress=meddle, workers=1, max_ram=1 << 20, **options)
    assert done
    assert caught.value.path == str(victim)
    assert names(place) == [path.name]
    assert values(path) == 1


def test_a_source_truncated_under_a_reader_is_an_error_and_no_signal(tmp_path):
    path = tmp_path / "a.safetensors"
    save(state(1), path)
    with open_state(path, registry=REGISTRY) as opened:
        os.truncate(path, 1000)
        with refused(TruncatedFile, path):
            opened[("w3",)]


@pytest.mark.parametrize(
    ("options", "via"),
    [
        ({}, "itself"),
        ({}, "a symbolic link"),
        pytest.param({}, "a hard link", marks=HARD_LINKS),
        (FOLDER, "itself"),
        (FOLDER, "a symbolic link"),
    ],
)
def test_the_source_as_destination_is_refused_or_replaced_whole(place, options, via):
    source = path = target(place, options)
    save(state(1), source, **options)
    if via != "itself":
        path = place / "alias"
        if via == "a hard link":
            os.link(source, path)
        else:
            path.symlink_to(source.name)
    with open_state(source, registry=REGISTRY) as opened:
        with pytest.raises(DestinationExists):
            save(opened, path, **options)
        doubled = {key: opened[key] * 2 for key in opened}
        save(opened, path, overwrite=True, verify=True, format="safetensors", **options)
        save(doubled, path, overwrite=True, format="safetensors", **options)
        assert {float(x) for key in opened for x in opened[key]} == {1.0}
    assert values(path) == 2
    assert values(source) == (1 if via == "a hard link" else 2)
    assert not temporaries(place)


# --- links as destination


def test_a_symbolic_link_stays_and_its_target_is_replaced(place):
    (place / "sub").mkdir()
    save(state(1), place / "sub" / "real.safetensors")
    (place / "link").symlink_to("sub/real.safetensors")
    save(state(2), place / "link", overwrite=True, format="safetensors")
    assert (place / "link").is_symlink()
    assert values(place / "sub" / "real.safetensors") == 2
    (place / "dangling").symlink_to("sub/new")
    save(state(3), place / "dangling", format="safetensors")
    assert values(place / "sub" / "new") == 3
    assert names(place / "sub") == ["new", "real.safetensors"]


@HARD_LINKS
def test_another_hard_link_keeps_the_old_content(place):
    save(state(1), place / "a.safetensors")
    os.link(place / "a.safetensors", place / "b.safetensors")
    save(state(2), place / "a.safetensors", overwrite=True)
    assert values(place / "a.safetensors") == 2
    assert values(place / "b.safetensors") == 1


def test_a_linked_folder_stays_a_link(place):
    save(state(1), place / "real", **FOLDER)
    (place / "link").symlink_to("real")
    save(state(2), place / "link", overwrite=True, **FOLDER)
    assert (place / "link").is_symlink()
    assert values(place / "real") == 2


# --- interrupted


class Interrupting:
    """A tensor that is interrupted while it is read."""

    spec = as_state({"w": np.zeros(4, "f4")}).spec(("w",))

    def read(self, region):
        raise KeyboardInterrupt


def interrupt(*_args, **_options):
    raise KeyboardInterrupt


PHASES = {
    "create": lambda patch: patch.setattr(temporaries_module, "_lock", interrupt),
    "read": None,
    "write": lambda patch: patch.setattr(syscalls, "pwrite", interrupt),
    "sync": lambda patch: patch.setattr(os, "fsync", interrupt),
    "check": lambda patch: patch.setattr(writing_module, "check_written", interrupt),
    "rename": lambda patch: (
        patch.setattr(os, "replace", interrupt),
        patch.setattr(os, "rename", interrupt),
        patch.setattr(syscalls, "_rename_with", interrupt),
    ),
    "progress": None,
}


@BOTH
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("workers", [1, 3])
def test_ctrl_c_in_any_phase_leaves_nothing(place, monkeypatch, options, phase, workers):
    path = target(place, options)
    save(state(1), path, **options)
    tensors = state(2)
    more = {}
    if phase == "read":
        assert isinstance(Interrupting(), Tensor)
        tensors["w1"] = Interrupting()
    elif phase == "progress":
        more["progress"] = interrupt
    before = descriptors()
    with monkeypatch.context() as patch:
        if PHASES[phase]:
            PHASES[phase](patch)
        with pytest.raises(KeyboardInterrupt):
            save(tensors, path, overwrite=True, workers=workers, **options, **more)
    assert names(place) == [path.name]
    assert values(path) == 1
    assert descriptors() == before


@BOTH
def test_ctrl_c_while_cleaning_up_leaves_nothing(place, monkeypatch, options):
    path = target(place, options)
    save(state(1), path, **options)
    once = [KeyboardInterrupt]
    remove = Path.unlink

    def interrupted_once(self, *args, **more):
        if once:
            raise once.pop()
        remove(self, *args, **more)

    def fail(progress):
        raise OSError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted_once)
        with pytest.raises(KeyboardInterrupt):
            save(state(2), path, overwrite=True, progress=fail, **options)
    assert not once
    assert names(place) == [path.name]
    assert values(path) == 1


@BOTH
def test_a_folder_that_cannot_be_synced_is_reported_and_the_new_content_is_named(place, monkeypatch, options):
    path = target(place, options)

    def fail(folder):
        if folder == place:
            raise OSError(errno.EIO, "broken")
        return sync(folder)

    sync = output_module.sync_folder
    monkeypatch.setattr(output_module, "sync_folder", fail)
    with refused(SystemFailure, path, "broken"):
        save(state(2), path, **options)
    assert names(place) == [path.name]
    assert values(path) == 2


@pytest.mark.skipif(not SourceFile.can_copy, reason="the system cannot copy between files")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_destination_that_is_full_in_a_copy_by_the_kernel_is_named(place, monkeypatch, code):
    save(state(1), place / "a.safetensors")

    def full(*_args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(syscalls, "copy_range", full)
    with (
        open_state(place / "a.safetensors", registry=REGISTRY) as source,
        refused(SystemFailure, os.strerror(code)) as caught,
    ):
        save(source, place / "b.safetensors")
    assert (caught.value.path, caught.value.errno) == (place / "b.safetensors", code)
    assert names(place) == ["a.safetensors"]


@BOTH
def test_a_real_sigint_stops_soon_and_leaves_nothing(place, options):
    path = target(place, options)
    save(state(1), path, **options)
    body = f"""
    def slow(progress):
        print("going", flush=True)
        time.sleep(0.05)
    save(state(2, count=400), {str(path)!r}, overwrite=True, progress=slow, **{options!r})
    """
    with subprocess.Popen(
        script(body), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout.readline() == "going\n"
        assert len(temporaries(place)) == 1
        child.send_signal(signal.SIGINT)
        assert child.stdout.read().count("going") < 200
        assert child.wait() == -signal.SIGINT
    assert names(place) == [path.name]
    assert values(path) == 1


# --- two writers


def race(place, options, *, overwrite):
    """Two writers, each of which is in the middle of its work when the other is."""
    path = target(place, options)
    meeting = threading.Barrier(2, timeout=30)
    outcomes = {}

    def write(value):
        met = []

        def meet(progress):
            if not met:
                met.append(meeting.wait())

        try:
            save(state(value), path, overwrite=overwrite, progress=meet, workers=1, **options)
            outcomes[value] = None
        except Exception as err:
            outcomes[value] = err

    threads = [threading.Thread(target=write, args=(value,)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(place) == [path.name]
    return outcomes, values(path)


@BOTH
@pytest.mark.parametrize("attempt", range(3))
def test_of_two_writers_that_may_overwrite_one_result_stands_whole(place, options, attempt):
    outcomes, found = race(place, options, overwrite=True)
    assert outcomes == {1: None, 2: None}
    assert found in (1, 2)


@BOTH
@pytest.mark.parametrize("attempt", range(3))
def test_of_two_writers_that_may_not_overwrite_one_is_told(place, options, attempt):
    outcomes, found = race(place, options, overwrite=False)
    assert outcomes.pop(int(found)) is None
    (error,) = outcomes.values()
    assert type(error) is DestinationExists


@pytest.mark.slow
@BOTH
def test_many_processes_may_write_to_one_place(place, options):
    path = target(place, options)
    body = f"""
    for value in range(1, 15):
        save(state(value, size=200), {str(path)!r}, overwrite=True, **{options!r})
    """
    children = [subprocess.Popen(script(body), stdout=subprocess.PIPE, text=True) for _ in range(4)]
    shown = [(child.communicate(timeout=60)[0], child.returncode) for child in children]
    assert shown == [("", 0)] * 4
    assert names(place) == [path.name]
    assert values(path) in range(1, 15)


def test_a_living_writers_temporary_is_not_swept(place):
    path = place / "a.safetensors"
    inner = []

    def write_another(progress):
        if not inner:
            inner.append(temporaries(place))
            save(state(1), path, overwrite=True)
            inner.append(temporaries(place))

    save(state(2), path, overwrite=True, progress=write_another)
    assert len(inner[0]) == 1
    assert inner[0] == inner[1]
    assert values(path) == 2
    assert names(place) == [path.name]


@BOTH
def test_a_destination_that_appears_meanwhile_is_not_replaced_unasked(place, options):
    path = target(place, options)
    done = []

    def appear(progress):
        if not done:
            done.append(save(state(1), path, **options))

    with pytest.raises(DestinationExists):
        save(state(2), path, progress=appear, **options)
    assert values(path) == 1
    assert names(place) == [path.name]


@pytest.mark.parametrize("fault", ["truncated", "emptied"])
def test_a_write_that_the_disk_lost_is_found_before_the_rename(place, monkeypatch, fault):
    path = place / "a.safetensors"
    save(state(1), path)

    def losing(file):
        if file.name.startswith("."):
            os.truncate(file, 0 if fault == "emptied" else file.stat().st_size - 1)

    monkeypatch.setattr(output_module, "sync_file", losing)
    with refused(VerificationError, path):
        save(state(2), path, overwrite=True)
    assert values(path) == 1
    assert names(place) == [path.name]


def test_zeros_in_place_of_lost_pages_are_found_by_verify(place, monkeypatch):
    path = place / "a.safetensors"

    def losing(file):
        with file.open("r+b") as handle:
            handle.seek(-4096, os.SEEK_END)
            handle.write(bytes(4096))

    monkeypatch.setattr(output_module, "sync_file", losing)
    with refused(VerificationError, path, "w3"):
        save(state(2), path, verify=True)
    assert names(place) == []


def test_an_index_never_names_shards_that_are_not_there(place, inject):
    """The folder appears at once, so a reader sees all of it or nothing."""
    path = place / "set"
    inject(call(2, path, FOLDER), "pwrite64:error=ENOSPC:when=3", rc=4, says="SystemFailure")
    assert names(place) == []
    save(state(2), path, **FOLDER)
    document = json.loads((path / "model.safetensors.index.json").read_text())
    assert {*document["weight_map"].values(), "model.safetensors.index.json"} == set(names(path))


def test_a_failing_system_is_a_system_failure_wherever_it_fails(place, monkeypatch):
    def denied(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "exists", "is_dir"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, denied)
            with refused(PermissionDenied, place / "set") as caught:
                save(state(1), place / "set", **FOLDER)
            assert caught.value.errno == errno.EACCES
    assert names(place) == []
