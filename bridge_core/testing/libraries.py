"""The contract of a model library's adapter: it knows its own folders, changes nothing, and is repeatable."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import random
import shutil
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_core.checkpoint import is_weights_name, open_state, save_state
from bridge_core.conversion import Report, convert, state_of
from bridge_core.errors import BridgeError, UsageError
from bridge_core.io import is_plain_name
from bridge_core.plugins import Checkpoint, Guidance, Library, Registry, default_registry
from bridge_core.state import FlatState
from bridge_core.testing.strategies import same_bits

__all__ = ["LibraryContract"]

_NO_CLASS = "NoModelClassHasThisName"
_CODE = ("model.py", "modeling.py", "configuration.py", "conftest.py", "__init__.py")
_DAMAGE = (
    b"",
    b"\x00",
    b"\xff\xfe\xfd",
    b"null",
    b"3",
    b"[]",
    b"{}",
    b'{"a": NaN',
    b'{"": {"": []}}',
    b"[" * 100_000,
    b"<html>not found</html>",
)
"""Contents that a damaged config may have."""


class LibraryContract(ABC):
    """Subclass it as ``Test...``, set ``library`` and make folders that it knows.

    Attributes:
        library: The adapter under test.
        registry: Where it is registered, with what its models need; by default everything installed.
        read: Names of the files that the adapter reads, which are damaged one by one; by default all that it
            names as sidecar files.
    """

    library: Library
    registry: Registry | None = None
    read: tuple[str, ...] = ()

    @abstractmethod
    def folders(self, place: Path) -> Iterable[tuple[Path, str]]:
        """Make checkpoint folders below a place, each with the layout that it can be converted to.

        They hold values that differ from tensor to tensor, and go there and back without any option.
        """

    def foreign(self, place: Path) -> Iterable[Path]:
        """Make further folders below a place, which are not this library's."""
        del place
        return ()

    def _registry(self) -> Registry:
        return self.registry or default_registry()

    def _folders(self, place: Path) -> list[tuple[Path, str]]:
        place.mkdir(exist_ok=True)
        found = list(self.folders(place))
        assert found, "folders() gives nothing to test with"
        return found

    def _opened(self, folder: Path) -> FlatState:
        return open_state(folder, registry=self._registry())

    def _checkpoints(self, place: Path) -> Iterator[Checkpoint]:
        """Yield each folder with each layout that it may be wanted in."""
        for folder, to in self._folders(place):
            with self._opened(folder) as state:
                for wanted in dict.fromkeys((to, str(state.layout), "neutral")):
                    yield Checkpoint(folder, state, wanted)

    def _known(self, checkpoint: Checkpoint) -> Guidance:
        returned = self.library.guide(checkpoint)
        assert returned is not None, (
            f"the folder {checkpoint.folder.name!r} of folders() is not known where the target is "
            f"{checkpoint.to!r}: return a Guidance"
        )
        return returned

    def _unusable(self, checkpoint: Checkpoint, known: Guidance) -> str:
        """Return why what is known cannot be used; empty if it can."""
        if type(known) is not Guidance:
            return f"expected a Guidance or None, got a {type(known).__name__}"
        registry = self._registry()
        layouts = (checkpoint.state.layout, checkpoint.to)
        if known.model is not None and (layout := state_of(known.model, registry).layout) not in layouts:
            return f"the model is of {layout}, expected one of {' or '.join(map(str, layouts))}"
        if known.like is not None and checkpoint.to == "neutral":
            return "there is a template for a neutral target, which takes none: like=None"
        if known.like is not None and (layout := state_of(known.like, registry).layout) != checkpoint.to:
            return f"the template is of {layout}, and the target is {checkpoint.to}"
        if known.recipe is not None and known.recipe not in registry.recipes:
            return f"the recipe {known.recipe!r} is not installed"
        return ""

    def _misnamed(self, checkpoint: Checkpoint, known: Guidance) -> str:
        """Return which sidecar file cannot be copied; empty if all can."""
        weights = is_weights_name(self._registry().formats.values())
        names = known.sidecar_files
        for name in names:
            if names.count(name) > 1:
                return f"sidecar_files names {name!r} twice"
            if not is_plain_name(name) or not (checkpoint.folder / name).is_file():
                return f"sidecar_files names {name!r}, which is not a file of the folder"
            if weights(name):
                return (
                    f"sidecar_files names {name!r}, which is a name of weights: name what describes the model"
                )
        return ""

    def _sound(self, checkpoint: Checkpoint) -> Guidance:
        """Return what is known, if it passes the tests of what is known; else leave the word to those."""
        known = self._known(checkpoint)
        if self._unusable(checkpoint, known) or self._misnamed(checkpoint, known):
            pytest.skip("what is known of a folder cannot be used; see the tests of that")
        return known

    # Declarations

    def test_is_a_library_that_is_registered(self) -> None:
        """Under its own name."""
        assert isinstance(self.library, Library)
        assert isinstance(self.library.name, str)
        assert self.library.name
        assert self._registry().libraries.get(self.library.name) is self.library

    # Knowing

    def test_folders_of_others_are_not_known(self, tmp_path: Path) -> None:
        """Neither an empty one, nor one that only holds weights, nor one of foreign files."""
        empty, weights, files = (tmp_path / name for name in ("empty", "weights", "files"))
        empty.mkdir()
        state = FlatState({("fc", "weight"): np.ones((2, 3), np.float32)}, layout="torch")
        save_state(state, weights, max_shard_size=1 << 20, format="safetensors", registry=self._registry())
        files.mkdir()
        for name in ("notes.md", "picture.png", ".hidden"):
            (files / name).write_bytes(b"\x89 nothing of a model")
        (files / "folder").mkdir()
        for folder in (empty, weights, files, *self.foreign(tmp_path)):
            for to in ("torch", "flax", "neutral"):
                assert self.library.guide(Checkpoint(folder, state, to)) is None, f"{folder.name} is known"

    def test_what_is_known_can_be_used(self, tmp_path: Path) -> None:
        """Models and templates belong to the frameworks that they are for.

        A neutral target has no template.
        """
        for checkpoint in self._checkpoints(tmp_path):
            problem = self._unusable(checkpoint, self._known(checkpoint))
            assert not problem, f"{checkpoint.folder.name}, to {checkpoint.to}: {problem}"

    def test_files_beside_the_weights_are_there_and_no_weights(self, tmp_path: Path) -> None:
        """Each is a plain file in the folder itself, named once."""
        for checkpoint in self._checkpoints(tmp_path):
            known = self._known(checkpoint)
            problem = self._misnamed(checkpoint, known) if isinstance(known, Guidance) else ""
            assert not problem, f"{checkpoint.folder.name}: {problem}"

    def test_two_calls_agree(self, tmp_path: Path) -> None:
        """On everything, models compared by what they hold."""
        for checkpoint in self._checkpoints(tmp_path):
            first, second = (self._plain(self._sound(checkpoint)) for _ in range(2))
            assert first == second, (
                f"{checkpoint.folder.name}: two calls differ in {_differing(first, second)}: go by the files "
                "only"
            )

    def _plain(self, known: Guidance) -> dict[str, Any]:
        values = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
        for name in ("model", "like"):
            if values[name] is not None:
                state = state_of(values[name], self._registry())
                values[name] = (state.layout, state.specs(), state.metadata.ties, state.metadata.modules)
        return values

    # Refusing

    def test_an_unknown_class_is_refused(self, tmp_path: Path) -> None:
        """By an error for whoever named it."""
        for checkpoint in self._checkpoints(tmp_path):
            for name in (_NO_CLASS, "no-name", "__init__", "../x"):
                error: Exception | None = None
                try:
                    self.library.guide(dataclasses.replace(checkpoint, model=name))
                except Exception as err:
                    error = err
                assert isinstance(error, UsageError), (
                    f"model={name!r} is not a class of the library: expected UsageError, got "
                    f"{type(error).__name__ if error else 'an answer'}"
                )

    def test_damaged_files_raise_nothing_raw(self, tmp_path: Path) -> None:
        """Whatever a file that is read contains: an answer, or a `BridgeError`."""
        for checkpoint in self._checkpoints(tmp_path):
            for name in self.read or self._sound(checkpoint).sidecar_files:
                path = _local(checkpoint) / name
                content = path.read_bytes()
                for damaged in (*_DAMAGE, *_damaged(content)):
                    path.write_bytes(damaged)
                    self._asked(checkpoint)
                path.unlink()
                self._asked(checkpoint)
                path.mkdir()
                self._asked(checkpoint)
                path.rmdir()
                path.write_bytes(content)

    def _asked(self, checkpoint: Checkpoint) -> None:
        try:
            returned = self.library.guide(checkpoint)
        except BridgeError:
            return
        except Exception as err:
            pytest.fail(
                f"a damaged file of {checkpoint.folder.name} raised {type(err).__name__}: {err}. Raise "
                "MalformedFile, or return None"
            )
        assert returned is None or isinstance(returned, Guidance), (
            f"expected a Guidance or None, got {returned!r}"
        )

    # Keeping out

    def test_asking_changes_nothing_in_the_folder(self, tmp_path: Path) -> None:
        """No file comes, goes, or is written to."""
        for checkpoint in self._checkpoints(tmp_path):
            before = _snapshot(_local(checkpoint))
            self._known(checkpoint)
            after = _snapshot(_local(checkpoint))
            changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
            assert not changed, f"asking changed {', '.join(changed)} in the folder: write nothing there"

    def test_asking_leaves_the_process_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The working folder, the paths of imports, and the state that is asked about."""
        (working := tmp_path / "working").mkdir()
        monkeypatch.chdir(working)
        monkeypatch.setattr(sys, "path", list(sys.path))
        for checkpoint in self._checkpoints(tmp_path / "made"):
            state = checkpoint.state
            before = (sys.path.copy(), list(state), state.layout, copy.deepcopy(state.metadata))
            self._known(checkpoint)
            folder = Path.cwd()
            os.chdir(working)
            assert folder == working, f"asking changed the working folder to {folder}: leave it"
            assert not list(working.iterdir()), "asking wrote into the working folder: write nothing"
            after = (sys.path, list(state), state.layout, state.metadata)
            assert after == before, (
                "asking changed sys.path, or the keys, the layout or the metadata of the state: change copies"
            )
            try:
                state.read(next(iter(state)))
            except BridgeError as err:
                pytest.fail(f"asking closed the state ({err}): whoever opened it closes it")

    def test_no_code_of_the_folder_is_run(self, tmp_path: Path) -> None:
        """Checkpoints come from anywhere: a Python file in the folder is never imported."""
        for number, checkpoint in enumerate(self._checkpoints(tmp_path)):
            mark = tmp_path / f"ran-{number}"
            for name in _CODE:
                (_local(checkpoint) / name).write_text(
                    f"import pathlib\npathlib.Path({str(mark)!r}).write_text(__file__)\n"
                )
            with contextlib.suppress(BridgeError):
                self.library.guide(checkpoint)
            for name in _CODE:
                (_local(checkpoint) / name).unlink()
            assert not mark.exists(), (
                f"{mark.read_text()} was run, a file of the checkpoint: never import or execute such files"
            )

    def test_no_network_is_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only files of the folder are read."""
        called: list[object] = []

        def refuse(_: object, address: object) -> None:
            called.append(address)
            raise OSError("no network in this test")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: refuse(None, host))
        for checkpoint in self._checkpoints(tmp_path):
            self._known(checkpoint)
        assert not called, f"a connection to {called[0]} was asked for: read the files of the folder only"

    # Converting

    def test_folders_are_converted_and_come_back_bit_for_bit(self, tmp_path: Path) -> None:
        """With no option but the target, and with the sidecar files."""
        for number, (folder, to) in enumerate(self._folders(tmp_path / "made")):
            with self._opened(folder) as source:
                self._sound(Checkpoint(folder, source, to))
            before = _snapshot(folder)
            there, back = tmp_path / f"there-{number}", tmp_path / f"back-{number}"
            with self._opened(folder) as source:
                layout = str(source.layout)
                first = self._converted(folder, there, source, to)
                with self._opened(there) as made:
                    second = self._converted(there, back, made, layout)
                with self._opened(back) as found:
                    assert found.layout == layout
                    _check_same(source, found, first, second)
            after = {name: content for name, (_, content) in _snapshot(folder).items() if name in before}
            assert after == {name: content for name, (_, content) in before.items()}, "the source was changed"

    def _converted(self, folder: Path, target: Path, state: FlatState, to: str) -> Report:
        known = self._known(Checkpoint(folder, state, to))
        report = convert(folder, f"{target}/", to=to, registry=self._registry())
        assert report.verified
        assert [path.name for path in report.sidecar_files] == list(known.sidecar_files)
        for name in known.sidecar_files:
            wanted = known.sidecar_contents.get(name, (folder / name).read_bytes())
            assert (target / name).read_bytes() == wanted
        return report

    def test_a_copy_of_a_folder_elsewhere_is_known_as_well(self, tmp_path: Path) -> None:
        """Neither its place nor its name has an effect."""
        for number, (folder, to) in enumerate(self._folders(tmp_path / "made")):
            moved = tmp_path / f"a b.{number}"
            shutil.copytree(folder, moved)
            with self._opened(folder) as state, self._opened(moved) as other:
                first, again = (self._plain(self._sound(Checkpoint(folder, state, to))) for _ in range(2))
                if first != again:
                    pytest.skip("two calls differ; see that test")
                known = self.library.guide(Checkpoint(moved, other, to))
                assert known is not None, f"a copy of {folder.name} at another place is not known"
                second = self._plain(known)
                assert first == second, (
                    f"a copy of {folder.name} differs in {_differing(first, second)}: go by the files only"
                )


def _differing(first: dict[str, Any], second: dict[str, Any]) -> str:
    return ", ".join(name for name in first if first[name] != second[name])


def _check_same(source: FlatState, found: FlatState, first: Report, second: Report) -> None:
    """Check that a state came back: nothing is lost but what was dropped, nothing made but from it."""
    gone = {dropped.key for dropped in first.dropped}
    for key in source:
        if key in found or key not in gone:
            assert key in found, f"{'.'.join(key)} did not come back"
            assert same_bits(found[key], source[key]), f"{'.'.join(key)} came back changed"
    for key in set(found) - set(source) - set(second.filled):
        spec = found.spec(key)
        alike = (source[other] for other in source if source.spec(other) == spec)
        assert any(same_bits(found[key], value) for value in alike), f"{'.'.join(key)} came from nowhere"


def _local(checkpoint: Checkpoint) -> Path:
    """Return the folder, which the test made on this machine."""
    assert isinstance(checkpoint.folder, Path)
    return checkpoint.folder


def _snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return each entry's time of change and content."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted((folder, *folder.rglob("*")))
    }


def _damaged(content: bytes) -> Iterator[bytes]:
    """Yield a file's content cut off, and with flipped bits."""
    chance = random.Random(5)
    for part in (0.1, 0.5, 0.9):
        yield content[: int(len(content) * part)]
    for _ in range(10 if content else 0):
        changed = bytearray(content)
        changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        yield bytes(changed)
