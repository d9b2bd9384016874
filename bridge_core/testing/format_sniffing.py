"""The contract of `sniff`: by content, cheaply, and without a trace."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from bridge_core.errors import BridgeError
from bridge_core.io import SourceFile
from bridge_core.state import Array, FlatState, Key
from bridge_core.testing.harness import (
    FormatHarness,
    builtin_formats,
    counted_reads,
    sniffs,
    traced_memory,
    write_state,
)
from bridge_core.testing.hostile_content import FOREIGN
from bridge_core.testing.strategies import plain_values

__all__ = ["SniffingContract"]


_FOREIGN = (
    *(content for content in FOREIGN if not content.startswith(b"PK")),
    b'{"architectures": ["Model"], "hidden_size": 768}\n',
    b'["a", "b", "c"]\n',
    b"Notes on the weights, not the weights.\n" * 40,
)


class SniffingContract(FormatHarness):
    """Formats are distinguished by what is in a file."""

    def test_sniffing_knows_its_own_files_and_no_others(self, tmp_path: Path) -> None:
        """Each file has the name that its own format gives it."""
        registry = self.registry or builtin_formats()
        mine = tmp_path / f"weights{self.format.extensions[0]}"
        for state in (self.sample(), self.state_of({}), self.state_of({("big", "w"): self.big(2)})):
            self.write(state, mine)
            assert sniffs(self.format, mine), (
                f"sniff does not know a file of its own format, with {len(state)} tensors. Look for a marker "
                "that write puts into every file."
            )
            for name, other in registry.formats.items():
                if name != self.format.name:
                    assert not sniffs(other, mine), (
                        f"The format {name} takes a file of {self.format.name} for its own. Begin files with "
                        "a marker of your own."
                    )
        for name, other in registry.formats.items():
            if name != self.format.name:
                theirs = self._of(other, tmp_path / f"weights{other.extensions[0]}")
                assert not sniffs(self.format, theirs), (
                    f"sniff takes a file of the format {name} for its own. Look for a marker that only your "
                    "files have."
                )

        foreign = tmp_path / "foreign"
        for content in _FOREIGN:
            foreign.write_bytes(content)
            taken = False
            with contextlib.suppress(Exception):  # a test of its own is for what it raises
                taken = sniffs(self.format, foreign)
            assert not taken, (
                f"sniff takes a file that begins with {content[:24]!r} for its own. Look for a marker that "
                "only your files have."
            )

    def test_sniffing_ignores_the_name(self, tmp_path: Path) -> None:
        """A file is what it contains, whatever it is called."""
        registry = self.registry or builtin_formats()
        own, other = f"a{self.format.extensions[0]}", "a.unknown"
        files = [self.write(self.sample(), tmp_path / f"mine{self.format.extensions[0]}")]
        for format in registry.formats.values():
            if format.name != self.format.name:
                files.append(self._of(format, tmp_path / f"theirs{format.extensions[0]}"))
        (tmp_path / "text").write_bytes(b"Not a checkpoint of any format.\n" * 9)
        for number, file in enumerate([*files, tmp_path / "text"]):
            folder = tmp_path / str(number)
            folder.mkdir()
            answers = [sniffs(self.format, Path(shutil.copy(file, folder / name))) for name in (own, other)]
            assert answers[0] == answers[1], (
                f"sniff returned {answers[0]} for a file called {own!r} and {answers[1]} for the same "
                f"content called {other!r}. Look at the content only: files are renamed."
            )

    def test_sniffing_raises_nothing(self, path: Path) -> None:
        """Whatever the content: of no format, empty, or cut off anywhere."""
        content = self.content(self.write(self.sample(), path))[""]
        cuts = [content[:size] for size in range(min(64, len(content)))]
        for data in (*cuts, content[: len(content) // 2], *FOREIGN):
            path.write_bytes(data)
            try:
                answer = sniffs(self.format, path)
            except Exception as err:
                pytest.fail(
                    f"sniff raised {type(err).__name__} for a file of {len(data)} bytes, {data[:16]!r}: "
                    f"{err}. Return False; compare file.size before reading."
                )
            assert answer is True or answer is False, f"sniff returned {answer!r}; expected True or False."

    def test_sniffing_reads_little(self, path: Path) -> None:
        """Every format looks at every file."""
        array = self.big()
        self.write(self.state_of({("big", "w"): array}), path)
        with counted_reads() as counted, traced_memory() as memory:
            sniffs(self.format, path)
        most = max(counted.nbytes, memory.nbytes)
        assert most < array.nbytes // 10, (
            f"sniff took {most} bytes for a file of {path.stat().st_size}. Look at the first or the last few."
        )

    def test_sniffing_leaves_the_file_as_it_was(self, path: Path) -> None:
        """Open, at the same position, and unchanged."""
        content = self.content(self.write(self.sample(), path))[""]
        with SourceFile(path) as file:
            before = os.lseek(file.fd, 3, os.SEEK_SET)
            self.format.sniff(file)
            try:
                after = os.lseek(file.fd, 0, os.SEEK_CUR)
            except (BridgeError, OSError) as err:
                pytest.fail(f"sniff closed the file ({err}). It stays open; whoever opened it closes it.")
        assert before == after, (
            f"sniff moved the position of the open file from {before} to {after}. Read with file.read or "
            "file.read_into, which take a position."
        )
        assert path.read_bytes() == content, "sniff changed the file."

    def _of(self, other: object, path: Path) -> Path:
        """Write a file of another format."""
        capabilities, layout = other.capabilities, other.layout  # type: ignore[attr-defined]
        name = sorted(capabilities.dtypes)[0]
        tensors: dict[Key, Array] = {("a", "w"): plain_values(name, (4,))}
        return write_state(other, FlatState(tensors, layout=layout), path)  # type: ignore[arg-type]
