"""The contract of a format whose checkpoints are folders."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_core.checkpoint import WriteOptions, write_checkpoint
from bridge_core.errors import BridgeError, UnsupportedFeature, UsageError
from bridge_core.formats import FolderContents, FolderFormat
from bridge_core.io import SourceFolder
from bridge_core.plugins import Registry, hookimpl
from bridge_core.state import DTYPES, Array, FlatState, Key, as_state, full
from bridge_core.testing.harness import builtin_formats
from bridge_core.testing.strategies import same_bits
from bridge_core.testing.values import ValuesContract
from bridge_core.transfer import Budget, FolderWriter

__all__ = ["FolderFormatContract"]


class FolderFormatContract(ValuesContract):
    """Subclass it as ``Test...`` and set ``format``.

    Attributes:
        format: The format under test.
        registry: Other formats, which must not take this one's folders for theirs; by default those of the
            core.
        has_steps: Whether checkpoints may have steps.
        has_items: Whether a step may have items.
        same_bytes: Whether equal states give equal bytes.
    """

    has_steps = True
    has_items = True
    same_bytes = True

    def write(self, state: Mapping[Key, Any], path: Path, **budget: Any) -> Path:
        """Write a state to a folder, replacing what is there."""
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            self.format.write_folder(as_state(state), FolderWriter(path, self.budget(**budget)))
        except BaseException:
            shutil.rmtree(path)
            raise
        return path

    def budget(self, workers: int | None = None, max_ram: int | None = None) -> Budget:
        """Return how many threads and how much memory a write may use."""
        return Budget(workers, max_ram)

    def read(self, path: Path) -> FlatState:
        """Open a folder."""
        opened: FlatState = self.format.open_folder(SourceFolder(path))
        return opened

    def content(self, path: Path) -> object:
        """Return all files, where equal states give equal bytes."""
        if not self.same_bytes:
            return None
        return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}

    def saved(self, path: Path, **options: Any) -> FlatState:
        """Write the sample by the bridge itself, and return it."""
        sample = self.sample()
        registry = Registry().extend(_Plugin(self.format), name="under test", distribution="under test")
        write_checkpoint(sample, path, WriteOptions(format=self.format.name, **options), registry)
        return sample

    def contents(self, path: Path, step: int | None = None) -> FolderContents:
        """Return what a folder holds."""
        contents: FolderContents = self.format.contents(SourceFolder(path), step)
        return contents

    def test_is_a_format_with_usable_declarations(self) -> None:
        """Names, extensions and dtypes are what the bridge can use."""
        assert isinstance(self.format, FolderFormat)
        assert self.format.name
        assert all(extension.startswith(".") for extension in self.format.extensions)
        assert set(self.format.capabilities.dtypes) <= set(DTYPES)

    def test_sniffing_knows_its_own_folders_and_no_others(self, tmp_path: Path, path: Path) -> None:
        """By content, whatever its name. A folder of files is not one, nor an empty one."""
        for state in (self.sample(), self.state_of({})):
            assert self.format.sniff_folder(SourceFolder(self.write(state, tmp_path / "any name")))
        other = tmp_path / "files"
        other.mkdir()
        assert not self.format.sniff_folder(SourceFolder(other))
        (other / "model.safetensors").write_bytes(b"weights")
        (other / "20").mkdir()
        (other / "20" / "config.json").write_text("{}")
        assert not self.format.sniff_folder(SourceFolder(other))
        for candidate in (self.registry or builtin_formats()).folder_formats.values():
            assert candidate.name == self.format.name or not candidate.sniff_folder(
                SourceFolder(self.write(self.sample(), path))
            )

    def test_a_folder_by_itself_is_one_item(self, path: Path) -> None:
        """It has no steps, and the item is read by default."""
        contents = self.contents(self.write(self.sample(), path))
        assert contents.steps == ()
        assert [item.name for item in contents.items] == [contents.item]
        assert contents.items[0].has_tensors

    def test_steps_are_listed_and_the_latest_is_read(self, path: Path) -> None:
        """By number: 100 is later than 20."""
        self._need(self.has_steps)
        for step in (20, 3, 100):
            sample = self.saved(path, step=step)
        contents = self.contents(path)
        assert (contents.steps, contents.step) == ((3, 20, 100), 100)
        assert self.contents(path, 20).step == 20
        with self.format.open_folder(SourceFolder(path), step=3) as opened:
            self.check_equal(opened, sample)
        with pytest.raises(UsageError):
            self.contents(path, 4)

    def test_items_are_listed_and_read_by_name(self, path: Path) -> None:
        """The item that was written is read, with its name and without."""
        self._need(self.has_items)
        sample = self.saved(path, item="params", **({"step": 7} if self.has_steps else {}))
        contents = self.contents(path)
        assert [item.name for item in contents.items if item.has_tensors] == ["params"]
        for item in (None, "params"):
            with self.format.open_folder(SourceFolder(path), item=item) as opened:
                self.check_equal(opened, sample)
        with pytest.raises(UsageError):
            self.format.open_folder(SourceFolder(path), item="absent")

    def test_a_dtype_it_lacks_is_refused_before_a_byte_is_written(self, tmp_path: Path) -> None:
        """All such tensors are refused, whatever else the state holds."""
        lacking = sorted(set(DTYPES) - set(self.format.capabilities.dtypes))
        good = np.zeros(2, DTYPES[self.some_dtype()])
        for name in lacking:
            folder = tmp_path / name
            folder.mkdir()
            tensors: dict[Key, Array] = {("a", "good"): good, ("z", "bad"): np.zeros(4, DTYPES[name])}
            with pytest.raises(UnsupportedFeature) as caught:
                self.format.write_folder(self.state_of(tensors), FolderWriter(folder, Budget(1)))
            assert not list(folder.iterdir())
            assert "bad" in str(caught.value)
            assert name in str(caught.value)

    def test_a_file_that_is_missing_or_cut_off_is_found_or_harmless(self, path: Path) -> None:
        """Nothing but a `BridgeError` is raised, and no tensor has other values."""
        sample = self.sample()
        whole = self.write(sample, path).rename(path.with_name("whole"))
        for name, size in _damages(whole):
            shutil.copytree(whole, path)
            if size is None:
                (path / name).unlink()
            else:
                os.truncate(path / name, size)
            self._check_damaged(path, sample)
            shutil.rmtree(path)

    def test_flipped_bits_raise_nothing_else(self, path: Path) -> None:
        """In each file, at several places; a format without checksums may read other values."""
        sample = self.sample()
        rng = np.random.default_rng(5)
        for name in [file.relative_to(path) for file in _files(self.write(sample, path))]:
            content = (path / name).read_bytes()
            for _ in range(10 if content else 0):
                damaged = bytearray(content)
                damaged[int(rng.integers(0, len(content)))] ^= 1 << int(rng.integers(0, 8))
                (path / name).write_bytes(damaged)
                self._check_damaged(path, None)
            (path / name).write_bytes(content)

    def test_closing_twice_is_harmless(self, path: Path) -> None:
        """Arrays that were read stay valid."""
        self.write(self.sample(), path)
        opened = self.read(path)
        values: dict[Key, Array] = dict(opened)
        opened.close()
        opened.close()
        self.check_equal(FlatState(values), self.sample())

    def _need(self, has: bool) -> None:
        if not has:
            pytest.skip(f"{self.format.name} has none")

    def _check_damaged(self, path: Path, expected: FlatState | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with self.read(path) as found:
                    arrays = {key: found.tensor(key).read(full(found.spec(key).shape)) for key in found}
            except BridgeError:
                return
        if expected is not None and arrays:
            assert all(same_bits(arrays[key], expected[key]) for key in arrays)


class _Plugin:
    """A plugin of one format."""

    def __init__(self, format: Any) -> None:
        self._format = format

    @hookimpl
    def bridge_formats(self) -> list[Any]:
        return [self._format]


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def _damages(path: Path) -> Iterator[tuple[Path, int | None]]:
    """Yield the name of a file, and the size to which it is cut off; None if it is to be missing."""
    for file in _files(path):
        name, size = file.relative_to(path), file.stat().st_size
        yield name, None
        for cut in sorted({0, 1, size // 2, size - 1} & set(range(size))):
            yield name, cut
