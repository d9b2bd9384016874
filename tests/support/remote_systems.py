"""File systems that tests serve a local folder by, each under one interface."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bridge_core import Registry, convert, default_registry, save_state
from bridge_core.cli.app import main
from support.memory_filesystem import MemoryFileSystem

__all__ = ["SYSTEMS", "WEIGHTS", "Ran", "Served", "write_sources"]


@dataclasses.dataclass(frozen=True)
class Served:
    """A folder that is served at a URL.

    Args:
        base: The URL of the folder.
        registry: A registry with its file system.
        lists: Whether the server lists folders.
        system: The file system, where requests can be counted.
    """

    base: str
    registry: Registry
    lists: bool = True
    system: MemoryFileSystem | None = None

    def url(self, name: str = "") -> str:
        """Return the URL of a file or folder in the folder."""
        return f"{self.base}/{name}" if name else self.base


@contextlib.contextmanager
def by_file_url(folder: Path) -> Iterator[Served]:
    """Serve a folder by ``file://``, as a local path."""
    yield Served(folder.as_uri(), default_registry())


@contextlib.contextmanager
def in_memory(folder: Path) -> Iterator[Served]:
    """Serve a folder by the file system in memory."""
    system = MemoryFileSystem(folder=folder)
    yield Served("mem://host", default_registry().extend(system), system=system)


@contextlib.contextmanager
def without_lists(folder: Path) -> Iterator[Served]:
    """Serve a folder as plain web servers do, which list nothing."""
    system = MemoryFileSystem(folder=folder, lists=False)
    yield Served("mem://host", default_registry().extend(system), lists=False, system=system)


WEIGHTS = {
    f"layers.{number}.fc.{leaf}": np.random.default_rng(number).normal(size=shape).astype("f4")
    for number in range(4)
    for leaf, shape in (("weight", (8, 6)), ("bias", (8,)))
}


def write_sources(folder: Path) -> Path:
    """Write one model in every form into a folder; return it."""
    for name in ("a.safetensors", "a.pt", "a.npz"):
        save_state(WEIGHTS, folder / name, layout="torch")
    convert(folder / "a.safetensors", folder / "a.msgpack", to="flax")
    save_state({"fc.weight": np.ones((3, 2), "f4")}, folder / "unclear.pt", layout="torch")
    for name, form, size in (
        ("sharded", "safetensors", 250),
        ("torch-shards", "torch", 250),
        ("folder", "safetensors", "1GB"),
    ):
        save_state(WEIGHTS, folder / name, layout="torch", format=form, max_shard_size=size)
    (folder / "folder/config.json").write_text('{"vocab": 1}')
    return folder


class Ran:
    """How a command ended that ran with the plugins of a registry.

    Attributes:
        code: The exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr.
    """

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
        for module in ("bridge_core.plugins", "bridge_core.plugins.registry"):
            monkeypatch.setattr(f"{module}.default_registry", lambda: registry)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.code = main(list(map(str, words)), standalone_mode=False)
        self.out, self.err = out.getvalue(), err.getvalue()


def _contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _with_stores() -> Registry:
    """Return a registry with the file systems of ckptbridge-remote, whether or not it is installed."""
    remote = pytest.importorskip("ckptbridge_remote")
    registry = default_registry()
    return registry if registry.filesystem_of("hf") is not None else registry.extend(remote)


@contextlib.contextmanager
def by_hub(folder: Path) -> Iterator[Served]:
    """Serve a folder by a stand-in for the Hugging Face hub."""
    pytest.importorskip("huggingface_hub")
    from support.hub_server import HubServer

    with pytest.MonkeyPatch.context() as patch, HubServer() as server:
        server.used_by(patch)
        server.add("org/model", _contents(folder))
        yield Served("hf://org/model", _with_stores())


@contextlib.contextmanager
def by_web_server(folder: Path) -> Iterator[Served]:
    """Serve a folder by a web server."""
    pytest.importorskip("obstore")
    from support.http_server import HttpServer

    with HttpServer({f"m/{name}": content for name, content in _contents(folder).items()}) as server:
        yield Served(f"{server.url}/m", _with_stores(), lists=False)


@contextlib.contextmanager
def by_object_store(folder: Path) -> Iterator[Served]:
    """Serve a folder by a store that speaks the protocol of S3."""
    from support.s3_server import BUCKET, emptied

    with pytest.MonkeyPatch.context() as patch:
        server = emptied(patch)
        for name, content in _contents(folder).items():
            server.client.put_object(Bucket=BUCKET, Key=f"run 1/{name}", Body=content)
        yield Served(f"s3://{BUCKET}/run 1", _with_stores())


SYSTEMS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Served]]] = {
    "file": by_file_url,
    "memory": in_memory,
    "unlisted": without_lists,
    "hub": by_hub,
    "web": by_web_server,
    "s3": by_object_store,
}
"""Name of a system -> serves a folder by it."""
