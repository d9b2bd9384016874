"""Whatever the code of a file system's plugin does, the error names the plugin, and holds no credentials."""

from __future__ import annotations

import dataclasses
import traceback
from types import SimpleNamespace

import pytest
from support.errors import refused
from support.memory_filesystem import MemoryFileSystem

from bridge_core import PluginError, default_registry
from bridge_core.checkpoint.locations import locate
from bridge_core.errors import AccessDenied, RemoteFailure, SourceNotFound
from bridge_core.io import RangeAnswer, RemoteEntry, RemotePath, WritableFileSystem
from bridge_core.plugins import guarded_system

URL = "mem://me:hunter2@host/w.npz?X-Signature=abc123"
SECRETS = ("hunter2", "abc123")


class ChangedSystem(MemoryFileSystem):
    """A file system in memory, one of whose methods is replaced."""

    def __init__(self, **methods):
        super().__init__({"me:hunter2@host/w.npz": b"content", "host/w.npz": b"content"})
        vars(self).update(methods)


def guarded(**methods):
    system = ChangedSystem(**methods)
    return guarded_system(system, default_registry().extend(system, distribution="acme-store", version="3.1"))


def raises(error):
    def method(*_):
        raise error

    return method


def returns(value):
    return lambda *_: value


CALLS = {
    "pinned": lambda system: system.pinned(URL),
    "entry": lambda system: system.entry(URL),
    "entries": lambda system: system.entries(URL),
    "read": lambda system: system.read(URL, 0, 1, RemoteEntry("w.npz", 7)),
    "upload": lambda system: system.upload(URL, None),
    "remove": lambda system: system.remove(URL),
    "upload_folder": lambda system: system.upload_folder(URL, None, ["w.npz"]),
    "download_command": lambda system: system.download_command(URL, False),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize(
    "error",
    [
        KeyError("w.npz"),
        ValueError(f"no answer from {URL}"),
        OSError(5, "broken", URL),
        SystemExit(f"hunter2 and {URL}"),
        RuntimeError("wrong password hunter2, or signature abc123"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_method_raises_names_the_plugin_and_shows_no_secret(method, error):
    with pytest.raises(PluginError) as raised:
        CALLS[method](guarded(**{method: raises(error)}))
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value) + str(vars(raised.value))
    for secret in SECRETS:
        assert secret not in shown
    assert raised.value.path == "mem://host/w.npz"
    assert raised.value.plugin == "memory"
    assert raised.value.__context__ is raised.value.__cause__ is None
    assert type(error).__name__ in raised.value.message
    assert "acme-store 3.1" in raised.value.message
    assert "test_guarded_file_system.py, line" in raised.value.message


@pytest.mark.parametrize("error", [SourceNotFound("none."), RemoteFailure("busy.", is_temporary=True)])
def test_errors_on_purpose_and_interruptions_pass(error):
    for given in (error, KeyboardInterrupt()):
        with pytest.raises(type(given)) as raised:
            guarded(read=raises(given)).read(URL, 0, 1, RemoteEntry("w.npz", 7))
        assert raised.value is given
    own = PluginError("no room.")
    with pytest.raises(PluginError) as raised:
        guarded(entry=raises(own)).entry(URL)
    assert raised.value is own


@pytest.mark.parametrize("method", CALLS)
def test_errors_on_purpose_lose_the_secrets_of_the_url(method):
    def fail(*_):
        hint = "Try again with hunter2."
        raise AccessDenied(f"not permitted: {URL}", path=URL, hint=hint) from KeyError(URL)

    with pytest.raises(AccessDenied) as raised:
        CALLS[method](guarded(**{method: fail}))
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value) + str(vars(raised.value))
    for secret in SECRETS:
        assert secret not in shown + str(raised.value.filename)
    assert raised.value.path == raised.value.filename == "mem://host/w.npz"
    assert "not permitted: mem://" in raised.value.message


WRONG = {
    "pinned: other scheme": ("pinned", returns("ftp://a"), "from `pinned`, got ftp://a"),
    "pinned: none": ("pinned", returns(None), "NoneType"),
    "entry: size": ("entry", returns(7), "from `entry`, got int"),
    "entry: text as size": ("entry", returns(RemoteEntry("w.npz", "7")), "'7'"),
    "entry: size below zero": ("entry", returns(RemoteEntry("w.npz", -1)), "-1"),
    "entry: no name": ("entry", returns(RemoteEntry(None, 1)), "None"),
    "entry: number as version": ("entry", returns(RemoteEntry("w.npz", 1, 5)), "version"),
    "entries: names": ("entries", returns(["w.npz"]), "from `entries`, got str"),
    "entries: number": ("entries", returns(3), "not iterable"),
    "entries: path": ("entries", returns([RemoteEntry("a/w.npz", 1)]), "'a/w.npz'"),
    "entries: parent": ("entries", returns([RemoteEntry("..")]), "'..'"),
    "read: bytes": ("read", returns(b"c"), "RangeAnswer from `read`, got bytes"),
    "read: text": ("read", returns(RangeAnswer("c")), "bytes-like"),
    "read: number as version": ("read", returns(RangeAnswer(b"c", 5)), "version from `read`, got int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_method_returns_is_checked(case):
    method, wrong, named = WRONG[case]
    with refused(PluginError, named, hint="To do without this plugin"):
        CALLS[method](guarded(**{method: wrong}))


def test_what_is_right_passes_unchanged(tmp_path):
    system = guarded(download_command=returns("fetch it"))
    assert isinstance(system, WritableFileSystem)
    assert system.pinned(URL) == URL
    assert [entry.name for entry in system.entries("mem://host")] == ["w.npz"]
    entry = system.entry("mem://host/w.npz")
    assert bytes(system.read("mem://host/w.npz", 1, 3, entry).data) == b"ont"
    (tmp_path / "new").write_bytes(b"new")
    system.upload("mem://host/new", tmp_path / "new")
    assert system.entry("mem://host/new").size == 3
    system.remove("mem://host/new")
    assert system.entry("mem://host/new") is None
    assert system.download_command(URL) == "fetch it"
    with pytest.raises(AttributeError):
        system.rename  # noqa: B018 - what the system does not have, the guarded one does not have either


def test_a_system_that_only_reads_is_not_writable():
    methods = {name: getattr(MemoryFileSystem(), name) for name in ("pinned", "entry", "entries", "read")}
    system = SimpleNamespace(name="ours", schemes=("ours",), **methods)
    assert not isinstance(guarded_system(system, default_registry().extend(system)), WritableFileSystem)


def test_a_location_is_guarded():
    system = ChangedSystem(entry=raises(KeyError("w")))
    place = locate("mem://host/w.npz", default_registry().extend(system))
    with refused(PluginError, "KeyError", "memory"):
        place.exists()
    with refused(PluginError, "KeyError", "memory"):
        locate("mem://host", default_registry().extend(ChangedSystem(pinned=raises(KeyError("w")))))


def test_a_system_of_no_plugin_is_not_guarded():
    system = MemoryFileSystem()
    assert guarded_system(system, default_registry()) is system


def test_a_guarded_path_reads_a_file():
    place = locate("mem://host/w.npz", default_registry().extend(ChangedSystem()))
    assert isinstance(place, RemotePath)
    assert place.read_bytes() == b"content"
    assert dataclasses.is_dataclass(place.entry())
