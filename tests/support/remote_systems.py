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


SYSTEMS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Served]]] = {
    "file": by_file_url,
    "memory": in_memory,
    "unlisted": without_lists,
}
"""Name of a system -> serves a folder by it."""
