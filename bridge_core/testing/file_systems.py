"""The contract of a file system: exact ranges, honest versions, errors on purpose, complete files."""

from __future__ import annotations

from pathlib import Path

from bridge_core.io import FileSystem, scheme_of
from bridge_core.testing.file_system_entries import FileSystemEntries
from bridge_core.testing.file_system_errors import FileSystemErrors
from bridge_core.testing.file_system_reading import FileSystemReading
from bridge_core.testing.file_system_writing import FileSystemWriting

__all__ = ["FileSystemContract"]


class FileSystemContract(FileSystemEntries, FileSystemReading, FileSystemErrors, FileSystemWriting):
    """Subclass it as ``Test...``, set ``system``, and let `put` store files where it reads.

    Tests of writing are skipped where `upload` and `remove` are missing, and tests of a server that fails
    where `failing` returns None.

    Attributes:
        system: The file system under test.
        registry: Where it is registered; by default everything installed, and the file system.
        lists_folders: Whether its server lists folders; if not, `entries` returns None.
        has_versions: Whether its server gives a version, such as an ETag.
        odd_names: Names of files that the server can have.
        long_listing: How many files are put into one folder: more than the server lists on one page.
    """

    # Declarations

    def test_is_a_file_system_that_is_registered(self) -> None:
        """Under its own name, and found by each of its schemes."""
        system, registry = self.system, self._registry()
        assert isinstance(system, FileSystem), f"{type(system).__name__} does not have all of FileSystem"
        assert registry.filesystems.get(system.name) is system, (
            f"{system.name!r} is not registered: return it from bridge_filesystems, or set registry="
        )
        for scheme in system.schemes:
            assert registry.filesystem_of(scheme) is system, f"{scheme}:// URLs are not read by it"

    def test_its_urls_have_its_schemes(self, tmp_path: Path) -> None:
        """What `put` returns is a URL that a user would write."""
        url = self.put(tmp_path, {"plain.bin": b"content"})
        assert scheme_of(url) in self.system.schemes, (
            f"put() gave a URL that does not begin with {' or '.join(f'{s}://' for s in self.system.schemes)}"
        )
