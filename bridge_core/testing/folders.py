"""The contract of a format whose checkpoints are folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bridge_core.checkpoint import WriteOptions, write_checkpoint
from bridge_core.errors import UsageError
from bridge_core.formats import FolderContents, FolderFormat
from bridge_core.io import SourceFolder
from bridge_core.plugins import Registry, hookimpl
from bridge_core.state import FlatState, Key, StateMetadata, as_state
from bridge_core.testing.comparison import difference, snapshot
from bridge_core.testing.format_damage import DamageContract
from bridge_core.testing.format_declarations import check_declarations
from bridge_core.testing.format_keys import KeysContract
from bridge_core.testing.format_laziness import LazinessContract
from bridge_core.testing.format_lifetime import LifetimeContract
from bridge_core.testing.format_metadata import MetadataContract
from bridge_core.testing.format_writing import WritingContract
from bridge_core.testing.harness import builtin_formats, counted_reads, left_open, open_files
from bridge_core.testing.strategies import same_bits
from bridge_core.testing.values import ValuesContract
from bridge_core.transfer import Budget, FolderWriter

__all__ = ["FolderFormatContract"]


class FolderFormatContract(
    ValuesContract,
    KeysContract,
    MetadataContract,
    LazinessContract,
    WritingContract,
    LifetimeContract,
    DamageContract,
):
    """Subclass it as ``Test...`` and set ``format``.

    Attributes:
        format: The format under test.
        registry: Other formats, which must not take this one's folders for theirs; by default those of the
            core.
        has_steps: Whether checkpoints may have steps.
        has_items: Whether a step may have items.
        may_lack: Names of files that folders of other programs do not have, so that a missing one cannot be
            noticed; what they store besides tensors is then lost.
        same_bytes: Whether equal states give equal bytes.
        times_damage: How many damaged contents are tried, as a multiple of the usual number.
    """

    has_steps: ClassVar[bool] = True
    has_items: ClassVar[bool] = True
    may_lack: ClassVar[tuple[str, ...]] = ()
    many = 270  # each may be a file, or a folder of files

    def write(self, state: Mapping[Key, Any], path: Path, **budget: Any) -> Path:
        """Write a state to a folder, replacing what is there."""
        self._put = None, {}
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

    def write_plainly(self, state: FlatState, folder: Path) -> None:
        """Write a state into an empty folder, with nothing that cleans up after a failure."""
        self.format.write_folder(state, FolderWriter(folder, Budget(1)))

    def read(self, path: Path) -> FlatState:
        """Open a folder."""
        opened: FlatState = self.format.open_folder(SourceFolder(path))
        return opened

    def content(self, path: Path) -> dict[str, bytes]:
        """Return all files."""
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}

    def put(self, path: Path, content: Mapping[str, bytes]) -> None:
        """Write all files, and remove others; what the last call wrote to the same place is left."""
        there = self._put[1] if self._put[0] == path else {}
        if not there:
            shutil.rmtree(path, ignore_errors=True)
        for name in there.keys() - content.keys():
            (path / name).unlink()
        for name, data in content.items():
            if there.get(name) != data:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data)
        self._put = path, dict(content)

    _put: tuple[Path | None, dict[str, bytes]] = (None, {})

    def saved(self, path: Path, seed: int = 0, **options: Any) -> FlatState:
        """Write a state by the bridge itself, and return it."""
        tensors: dict[Key, Any] = {**self.sample(), ("m", "seeded"): self.array(9, seed=seed)}
        state, expected = self.state_of(tensors), self.state_of(snapshot(tensors))
        registry = Registry().extend(_Plugin(self.format), name="under test", distribution="under test")
        write_checkpoint(state, path, WriteOptions(format=self.format.name, **options), registry)
        return expected

    def contents(self, path: Path, step: int | None = None) -> FolderContents:
        """Return what a folder holds."""
        contents: FolderContents = self.format.contents(SourceFolder(path), step)
        return contents

    # Declarations

    def test_is_a_format_with_usable_declarations(self) -> None:
        """Names, extensions and dtypes are what the bridge can use."""
        names = ("name", "extensions", "layout", "capabilities")
        methods = ("sniff_folder", "contents", "open_folder", "write_folder")
        missing = [name for name in (*names, *methods) if not hasattr(self.format, name)]
        assert not missing, f"The format has no {missing}; see bridge_core.formats.FolderFormat."
        assert isinstance(self.format, FolderFormat), "The format is not a bridge_core.formats.FolderFormat."
        check_declarations(self.format)

    # Sniffing

    def test_sniffing_knows_its_own_folders_and_no_others(self, tmp_path: Path) -> None:
        """A folder of files is not one, nor an empty one."""
        extension = self.format.extensions[0]
        for state in (self.sample(), self.state_of({})):
            folder = self.write(state, tmp_path / f"weights{extension}")
            assert self.format.sniff_folder(SourceFolder(folder)), (
                f"sniff_folder does not know a folder of its own format, with {len(state)} tensors. Look "
                "for a marker that write_folder puts into every folder."
            )
        other = tmp_path / "files"
        other.mkdir()
        self._check_foreign(other, "an empty folder")
        (other / "model.safetensors").write_bytes(b"weights")
        (other / "20").mkdir()
        (other / "20" / "config.json").write_text("{}")
        self._check_foreign(other, "a folder with model.safetensors and 20/config.json")
        for candidate in (self.registry or builtin_formats()).folder_formats.values():
            assert candidate.name == self.format.name or not candidate.sniff_folder(SourceFolder(folder)), (
                f"The format {candidate.name} takes a folder of {self.format.name} for its own. Write a "
                "marker of your own."
            )

    def test_sniffing_ignores_the_name(self, tmp_path: Path) -> None:
        """A folder is what it contains, whatever it is called."""
        extension = self.format.extensions[0] if self.format.extensions else ".unknown"
        for content in ("own", "foreign"):
            answers = []
            for name in (f"{content}{extension}", f"{content}.renamed"):
                folder = tmp_path / name
                if content == "own":
                    self.write(self.sample(), folder)
                else:
                    folder.mkdir()
                    (folder / "notes.txt").write_text("Not a checkpoint.")
                answers.append(self.format.sniff_folder(SourceFolder(folder)))
            assert answers[0] == answers[1], (
                f"sniff_folder gives {answers} for one content under two names. Look at the content only."
            )

    def test_sniffing_changes_nothing(self, path: Path) -> None:
        """No file is written, no value is read, and none stays open."""
        self.write(self.state_of({("big", "w"): self.big()}), path)
        before, files = self.content(path), open_files()
        with counted_reads() as counted:
            self.format.sniff_folder(SourceFolder(path))
        assert counted.nbytes < len(self.big().tobytes()) // 10, (
            f"sniff_folder read {counted.nbytes} bytes. Look at names, and at small files."
        )
        assert self.content(path) == before, "sniff_folder changed the folder."
        left = left_open(files)
        assert not left, f"sniff_folder left {sorted(left)} open."

    def test_sniffing_raises_nothing(self, path: Path) -> None:
        """Whatever is damaged or missing."""
        content = self.content(self.write(self.sample(), path))
        for name, data in content.items():
            others = {other: its for other, its in content.items() if other != name}
            for what, changed in (
                ("missing", others),
                ("empty", {**others, name: b""}),
                ("cut off", {**others, name: data[: len(data) // 2]}),
                ("of other content", {**others, name: b"\xff<html>"}),
            ):
                self.put(path, changed)
                try:
                    answer = self.format.sniff_folder(SourceFolder(path))
                except Exception as err:
                    pytest.fail(
                        f"{name} was {what}, and sniff_folder raised {type(err).__name__}: {err}. Return "
                        "False, or True where it is a damaged folder of this format."
                    )
                assert answer is True or answer is False, f"sniff_folder returned {answer!r}."

    # Steps and items

    def test_a_folder_by_itself_is_one_item(self, path: Path) -> None:
        """It has no steps, and the item is read by default."""
        contents = self.contents(self.write(self.sample(), path))
        assert contents.steps == (), f"a folder by itself has no steps; contents gives {contents.steps}"
        names = [item.name for item in contents.items]
        assert names == [contents.item], (
            f"A folder by itself is one item, which is read by default; contents gives the items {names}, "
            f"and {contents.item!r} as the default."
        )
        assert contents.items[0].has_tensors, "the only item of a folder has to have has_tensors=True"

    def test_steps_are_listed_and_the_latest_is_read(self, path: Path) -> None:
        """By number: 100 is later than 20; and 0 is a step."""
        self._need(self.has_steps)
        saved = {step: self.saved(path, seed=step, step=step) for step in (20, 3, 100, 0)}
        contents = self.contents(path)
        found = (contents.steps, contents.step)
        assert found == ((0, 3, 20, 100), 100), (
            f"The steps 0, 3, 20 and 100 were written; contents gives {found[0]} with {found[1]} as the "
            "latest. Compare steps as numbers: as text, 20 comes after 100."
        )
        chosen = self.contents(path, 20).step
        assert chosen == 20, f"contents was asked for step 20, and gives {chosen}"
        for step in (3, 0, None):
            with self.format.open_folder(SourceFolder(path), step=step) as opened:
                problem = difference(opened, snapshot(saved[100 if step is None else step]))
            assert not problem, f"open_folder with step={step} does not read that step: {problem}"
        try:
            self.contents(path, 4)
        except UsageError:
            return
        pytest.fail("contents was asked for step 4, which does not exist. Raise UsageError.")

    def test_items_are_listed_and_read_by_name(self, path: Path) -> None:
        """The item that was written is read, with its name and without."""
        self._need(self.has_items)
        saved = self.saved(path, item="params", **({"step": 7} if self.has_steps else {}))
        contents = self.contents(path)
        names = [item.name for item in contents.items if item.has_tensors]
        assert names == ["params"], f"the item 'params' was written; contents lists {names}"
        for item in (None, "params"):
            with self.format.open_folder(SourceFolder(path), item=item) as opened:
                problem = difference(opened, snapshot(saved))
            assert not problem, f"open_folder with item={item!r} does not read the item: {problem}"
        try:
            self.format.open_folder(SourceFolder(path), item="absent")
        except UsageError:
            return
        pytest.fail("open_folder was asked for the item 'absent', which does not exist. Raise UsageError.")

    # Damage

    def test_a_file_that_is_missing_or_cut_off_is_found_or_harmless(self, path: Path) -> None:
        """No tensor is lost, none has other values, and no metadata is lost."""
        state = self.varied_sample()
        if self.format.capabilities.metadata:
            state = state.replace(metadata=StateMetadata(tree_form={"flax": "variables"}))
        sample = snapshot(state)
        content = self.content(self.write(state, path))
        with self.read(path) as opened:
            known = _described(opened)
        for damage, changed in _cuts(content):
            one = self.outcome(path, changed, damage)
            if one.values is None:
                continue
            with self.read(path) as opened:
                described = _described(opened)
            assert described == known or damage in [f"{name} is missing" for name in self.may_lack], (
                f"{damage}, and the folder was read with the layout and metadata {described}, not {known}. "
                "Note in one file which others there are; raise MalformedFile where one is missing."
            )
            lost = sorted(set(sample) - set(one.values))
            assert not lost, (
                f"{damage}, and the folder was read without {lost}. Note in one file what the others have to "
                "hold, and compare; raise MalformedFile."
            )
            wrong = [key for key in sample if not same_bits(one.values[key], sample[key])]
            assert not wrong, (
                f"{damage}, and {wrong} were read with other values. Compare the size of each file with what "
                "is expected; raise MalformedFile or TruncatedFile."
            )

    def test_other_files_in_the_folder_are_harmless_or_refused(self, path: Path) -> None:
        """Such as a README, a file of the desktop, or a folder that was made by hand."""
        sample = snapshot(self.varied_sample())
        content = self.content(self.write(self.varied_sample(), path))
        for name in ("README.md", ".DS_Store", "notes/README.md", "lost+found/x", "-1/x", "1.5/x"):
            one = self.outcome(path, {**content, name: b"Notes on the weights.\n"}, name)
            assert one.error is None or one.refused, (
                f"The folder has a file {name} as well, and reading it raised "
                f"{type(one.error).__name__}: {one.error}. Look only for the names that write_folder gives."
            )
            same = one.values is None or (
                set(one.values) == set(sample) and all(same_bits(one.values[k], sample[k]) for k in sample)
            )
            assert same, f"The folder has a file {name} as well, and other tensors were read. Do not read it."

    def _need(self, has: bool) -> None:
        if not has:
            pytest.skip(f"{self.format.name} has none")

    def _check_foreign(self, folder: Path, what: str) -> None:
        assert not self.format.sniff_folder(SourceFolder(folder)), (
            f"sniff_folder takes {what} for its own. Look for a marker that only your folders have."
        )


class _Plugin:
    """A plugin of one format."""

    def __init__(self, format: Any) -> None:
        self._format = format

    @hookimpl
    def bridge_formats(self) -> list[Any]:
        return [self._format]


def _described(state: FlatState) -> tuple[str | None, StateMetadata]:
    return state.layout, state.metadata.with_(notes=(), provenance={})


def _cuts(content: dict[str, bytes]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield content without a file, or with one that is cut off."""
    for name, data in content.items():
        others = {other: its for other, its in content.items() if other != name}
        yield f"{name} is missing", others
        for cut in sorted({0, 1, len(data) // 2, len(data) - 1} & set(range(len(data)))):
            yield f"{name} is cut off at byte {cut}", {**others, name: data[:cut]}
