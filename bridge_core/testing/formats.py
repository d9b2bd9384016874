"""The contract of a file format: what it declares, it must keep, for every input and every damage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge_core.errors import SystemFailure
from bridge_core.formats import Format
from bridge_core.io import SourceFile
from bridge_core.state import FlatState, Key, as_tensor
from bridge_core.testing.comparison import snapshot
from bridge_core.testing.format_damage import FileDamageContract
from bridge_core.testing.format_declarations import check_declarations
from bridge_core.testing.format_keys import KeysContract
from bridge_core.testing.format_laziness import LazinessContract
from bridge_core.testing.format_lifetime import LifetimeContract
from bridge_core.testing.format_metadata import MetadataContract
from bridge_core.testing.format_sniffing import SniffingContract
from bridge_core.testing.format_writing import WritingContract
from bridge_core.testing.harness import read_state
from bridge_core.testing.values import ValuesContract
from bridge_core.transfer import Budget, FileTarget

__all__ = ["FormatContract"]

_COUNT = 12
"""Number of shards for the comparison of names."""


class FormatContract(
    SniffingContract,
    ValuesContract,
    KeysContract,
    MetadataContract,
    LazinessContract,
    WritingContract,
    LifetimeContract,
    FileDamageContract,
):
    """Subclass it as ``Test...`` and set ``format``.

    Attributes:
        format: The format under test.
        registry: Other formats, which must not take this one's files for theirs, nor this one theirs;
            by default those of the core.
        same_bytes: Whether equal states give equal bytes.
        times_damage: How many damaged contents are tried, as a multiple of the usual number.
    """

    # Declarations

    def test_is_a_format_with_usable_declarations(self) -> None:
        """Names, extensions and dtypes are what the bridge can use."""
        missing = [
            name
            for name in ("name", "extensions", "layout", "capabilities", "names", "sniff", "open", "write")
            if not hasattr(self.format, name)
        ]
        assert not missing, f"The format has no {missing}; see bridge_core.formats.Format."
        assert isinstance(self.format, Format), "The format is not a bridge_core.formats.Format."
        check_declarations(self.format)
        assert self.format.extensions, "extensions is empty: new files need a suffix."

    def test_names_of_shards_differ(self) -> None:
        """From each other, from the single file's and the index's."""
        names = self.format.names
        if names is None:
            pytest.skip(f"{self.format.name} has no usual names")
        shards = [names.shard.format(index=index, count=_COUNT) for index in range(1, _COUNT + 1)]
        every = [*shards, names.single, names.index]
        twice = sorted({name for name in every if every.count(name) > 1})
        assert not twice, (
            f"Several files of a sharded checkpoint have the name {twice}. names.shard needs {{index:05d}}, "
            "and names.single and names.index other names."
        )
        strange = [name for name in (*shards, names.single) if not name.endswith(self.format.extensions)]
        assert not strange, (
            f"names gives {strange[0]!r}, which ends with none of the extensions {self.format.extensions}."
        )
        assert names.shard.format(index=1, count=2) != names.shard.format(index=1, count=3), (
            f"names.shard, {names.shard!r}, has no number of all shards: it needs {{count:05d}}."
        )

    def test_tied_tensors_take_the_space_that_is_declared(self, path: Path) -> None:
        """``names.ties``: copied, or stored once; the sizes of shards are computed from it."""
        names = self.format.names
        if names is None:
            pytest.skip(f"{self.format.name} has no usual names")
        known = ("copied", "shared", "dropped")
        assert names.ties in known, f"names.ties is {names.ties!r}; expected one of {known}."
        if not self.format.capabilities.metadata:
            pytest.skip(f"{self.format.name} stores no ties")
        shared = as_tensor(array := self.array(64, 1024))
        keys: list[Key] = [("a", "w"), ("b", "w")]
        metadata = FlatState({}).metadata.with_(ties={keys[1]: keys[0]})
        self.write(self.state_of(dict.fromkeys(keys, shared), metadata=metadata), path)
        copies = round(path.stat().st_size / array.nbytes)
        wanted = 2 if names.ties == "copied" else 1
        assert copies == wanted, (
            f"names.ties is {names.ties!r}, but two tied tensors took the space of {copies} rather than "
            f"{wanted}. Declare what write does: 'copied', 'shared' or 'dropped'."
        )

    # Files

    def test_opening_needs_no_path(self, path: Path) -> None:
        """Unless ``needs_path`` is declared: what is read is the open file."""
        if self.format.capabilities.needs_path or os.name == "nt":
            pytest.skip(f"{self.format.name} declares needs_path, or the system removes no open file")
        sample = snapshot(self.sample())
        self.write(self.sample(), path)
        file = SourceFile(path)
        path.unlink()
        try:
            with read_state(self.format, path, file=file) as opened:
                self.check_equal(opened, sample)
        except OSError as err:
            pytest.fail(
                f"The name of an open file was removed, and opening raised {type(err).__name__}: {err}. Read "
                "from the SourceFile that is given, not from file.path, or declare needs_path."
            )

    def test_closing_the_state_closes_the_file(self, path: Path) -> None:
        """The file that the format was given is the state's."""
        self.write(self.sample(), path)
        with SourceFile(path) as file:
            opened = self.format.open(file)
            opened.close()
            try:
                _ = file.fd
            except SystemFailure:
                return
        pytest.fail(
            "The state was closed, and its file is still open. Return FlatState(..., close=file.close)."
        )

    def read_and_close(self, path: Path) -> tuple[FlatState, Callable[[], None]]:
        """Open a checkpoint, and return what closes the file that the format was given."""
        file = SourceFile(path)
        return read_state(self.format, path, file=file), file.close

    def write_plainly(self, state: FlatState, folder: Path) -> None:
        """Write a state into an empty folder, with nothing that cleans up after a failure."""
        target = folder / "target"
        target.touch()
        self.format.write(state, FileTarget(target, Budget(1)))
