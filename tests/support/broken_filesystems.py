"""File systems that break one promise each, and the healthy one that they are made from."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import re
import threading
from urllib.parse import quote, unquote, unquote_plus

from bridge_core.errors import AccessDenied, DestinationExists, RemoteFailure, SourceNotFound
from bridge_core.io import RangeAnswer, RemoteEntry, parent_url, shown_url
from bridge_core.testing import FileSystemContract

__all__ = ["BROKEN", "BROKEN_COMMITS", "COMMIT", "Bare", "CommitsContract", "Store", "StoreContract"]


class Bare:
    """Files in memory at ``store://`` URLs, which are read only.

    Attributes:
        files: Path -> content.
        fault: How the server fails now; empty if it does not.
    """

    name = "store"
    schemes = ("store",)

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.fault = ""

    def pinned(self, url):
        return url

    def entry(self, url):
        self.check(url)
        key = self.key(url)
        if key in self.files:
            return self.described(key)
        return self.folder(key) if any(name.startswith(f"{key}/") for name in self.files) else None

    def entries(self, url):
        self.check(url)
        inside = self.inside(self.key(url))
        folders = sorted({path.partition("/")[0] for path in inside if "/" in path})
        files = [self.described(key) for path, key in inside.items() if "/" not in path]
        return [*files, *map(RemoteEntry, folders)]

    def read(self, url, start, nbytes, entry):
        self.check(url)
        if self.fault == "no ranges":
            raise RemoteFailure("the server sent the complete file.", path=shown_url(url))
        key = self.key(url)
        if key not in self.files:
            raise SourceNotFound("the file does not exist.", path=shown_url(url))
        data = self.part(self.files[key], start, nbytes)
        return RangeAnswer(data[:-1] if self.fault == "cut" else data, self.described(key).version)

    # What the broken ones replace.

    def check(self, url):
        if self.fault == "denied":
            raise AccessDenied("the server permits nothing.", path=shown_url(url))
        if self.fault == "unavailable":
            raise RemoteFailure("status 503.", path=shown_url(url), is_temporary=True)

    def key(self, url):
        return unquote(re.split("[?#]", url.partition("://")[2])[0]).rstrip("/")

    def inside(self, key):
        return {name[len(key) + 1 :]: name for name in self.files if name.startswith(f"{key}/")}

    def described(self, key):
        return RemoteEntry(key.rpartition("/")[2], len(self.files[key]), self.version(self.files[key]))

    def version(self, content):
        return hashlib.sha256(content).hexdigest()[:16]

    def folder(self, key):
        return RemoteEntry(key.rpartition("/")[2])

    def part(self, content, start, nbytes):
        return content[start : start + nbytes]


class Store(Bare):
    """The same, and its files can be written."""

    def upload(self, url, path):
        self.check(url)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise SourceNotFound("the local file does not exist.", path=path) from None
        self.files[self.key(url)] = content

    def remove(self, url):
        self.check(url)
        self.files.pop(self.key(url), None)


class StoreContract(FileSystemContract):
    """The contract of a `Store`."""

    system = Store()

    def put(self, place, files):
        folder = place.as_posix().strip("/")
        self.system.files.update({f"{folder}/{name}": content for name, content in files.items()})
        return f"store://{quote(folder)}"

    @contextlib.contextmanager
    def failing(self, fault):
        self.system.fault = fault
        try:
            yield
        finally:
            self.system.fault = ""


# -- entries ----------------------------------------------------------------------------------------


class NamesAreEtags(Store):
    def entry(self, url):
        entry = super().entry(url)
        return entry and RemoteEntry(
            f'"{entry.name}"' if entry.size else entry.name, entry.size, entry.version
        )


class SizesAreFloats(Store):
    def described(self, key):
        entry = super().described(key)
        return RemoteEntry(entry.name, float(entry.size), entry.version)


class EmptyFilesAreFolders(Store):
    def described(self, key):
        entry = super().described(key)
        return RemoteEntry(entry.name, entry.size or None, entry.version)


class KnowsNoFolders(Store):
    def folder(self, key):
        return None


class FoldersHaveASize(Store):
    def folder(self, key):
        return RemoteEntry(key.rpartition("/")[2], 0)


class TripsOverSlashes(Store):
    def entry(self, url):
        return None if url.endswith("/") else super().entry(url)


class TakesPrefixesForFolders(Store):
    def entry(self, url):
        key = self.key(url)
        begins = any(name.startswith(key) for name in self.files)
        return super().entry(url) or (self.folder(key) if begins else None)


class RaisesForNothing(Store):
    def entry(self, url):
        entry = super().entry(url)
        if entry is None:
            raise SourceNotFound("there is nothing.", path=shown_url(url))
        return entry


class ListsTwice(Store):
    def entries(self, url):
        return [*super().entries(url)] * 2


class ListsFoldersAsFiles(Store):
    def entries(self, url):
        return [RemoteEntry(one.name, one.size or 0, one.version) for one in super().entries(url)]


class ListsWithoutVersions(Store):
    def entries(self, url):
        return [RemoteEntry(one.name, one.size) for one in super().entries(url)]


class ListsNothingAfterSlashes(Store):
    def entries(self, url):
        return [] if url.endswith("/") else super().entries(url)


class ListsNoFolder(Store):
    def entries(self, url):
        self.check(url)


class ListsSiblings(Store):
    def inside(self, key):
        return {name[len(key) :].lstrip("/"): name for name in self.files if name.startswith(key)}


class ListsOnePage(Store):
    def entries(self, url):
        return super().entries(url)[:1000]


class DeniesMissingFolders(Store):
    def entries(self, url):
        listing = super().entries(url)
        if not listing:
            raise AccessDenied("there is no such folder.", path=shown_url(url))
        return listing


class DecodesNothing(Store):
    def key(self, url):
        return url.partition("://")[2].rstrip("/")


class DecodesTwice(Store):
    def key(self, url):
        return unquote(super().key(url))


class TakesPlusForSpace(Store):
    def key(self, url):
        return unquote_plus(re.split("[?#]", url.partition("://")[2])[0]).rstrip("/")


class ListsEncodedNames(Store):
    def entries(self, url):
        return [RemoteEntry(quote(one.name), one.size, one.version) for one in super().entries(url)]


# -- reading ----------------------------------------------------------------------------------------


class LastByteIsMissing(Store):
    def part(self, content, start, nbytes):
        return content[start : start + nbytes - 1]


class SendsTheCompleteFile(Store):
    def part(self, content, start, nbytes):
        return content


class CountsFromTheEnd(Store):
    def part(self, content, start, nbytes):
        return (
            content[-nbytes:] if start + nbytes == len(content) - 1 else super().part(content, start, nbytes)
        )


class SkipsAByteOfLongRanges(Store):
    def part(self, content, start, nbytes):
        start += start > 0 and nbytes == 65_538
        return content[start : start + nbytes]


class ReturnsPlainBytes(Store):
    def read(self, url, start, nbytes, entry):
        return super().read(url, start, nbytes, entry).data


class ReusesItsBuffer(Store):
    def __init__(self):
        super().__init__()
        self.own = threading.local()

    def part(self, content, start, nbytes):
        if not hasattr(self.own, "buffer"):
            self.own.buffer = bytearray(4_000_000)
        self.own.buffer[:nbytes] = content[start : start + nbytes]
        return memoryview(self.own.buffer)[:nbytes]


class HasOnePosition(Store):
    def part(self, content, start, nbytes):
        self.position = start
        threading.Event().wait(0.001)  # another thread seeks
        return content[self.position : self.position + nbytes]


class ReadsOneAtATime(Store):
    busy = threading.Lock()

    def part(self, content, start, nbytes):
        if not self.busy.acquire(blocking=False):
            raise RemoteFailure("the connection is in use.")
        try:
            threading.Event().wait(0.001)
            return super().part(content, start, nbytes)
        finally:
            self.busy.release()


class AnswersWithoutVersions(Store):
    def read(self, url, start, nbytes, entry):
        return RangeAnswer(super().read(url, start, nbytes, entry).data)


class VersionsAreSizes(Store):
    def version(self, content):
        return str(len(content))


class HasNoVersions(Store):
    def version(self, content):
        return ""


class RemembersEntries(Store):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def entry(self, url):
        entry = super().entry(url)
        return self.seen.setdefault(url, entry) if url.endswith("/plain.bin") and entry else entry


class AnswersWithTheOldVersion(Store):
    def read(self, url, start, nbytes, entry):
        return RangeAnswer(super().read(url, start, nbytes, entry).data, entry.version)


class PinsAgain(Store):
    def __init__(self):
        super().__init__()
        self.count = itertools.count()

    def pinned(self, url):
        return f"{url.partition('?')[0]}?at={next(self.count)}"


class PinsToOtherSchemes(Store):
    def pinned(self, url):
        return url.replace("store://", "shop://")


class PinsAnOtherFile(Store):
    def pinned(self, url):
        return f"store://{self.key(url).partition('/')[0]}"


# -- errors -----------------------------------------------------------------------------------------


class MissingIsAFailure(Store):
    def read(self, url, start, nbytes, entry):
        try:
            return super().read(url, start, nbytes, entry)
        except SourceNotFound:
            raise RemoteFailure("status 404.", path=shown_url(url)) from None


class TripsOverNul(Store):
    def key(self, url):
        if "\0" in url:
            raise ValueError("embedded null byte")
        return super().key(url)


class DeniedIsAFailure(Store):
    def check(self, url):
        if self.fault == "denied":
            raise RemoteFailure("status 403.", path=shown_url(url))
        super().check(url)


class UnavailableIsForEver(Store):
    def check(self, url):
        if self.fault == "unavailable":
            raise RemoteFailure("status 503.", path=shown_url(url))
        super().check(url)


class NamesNoPlace(Store):
    def check(self, url):
        if self.fault == "unavailable":
            raise RemoteFailure("status 503.", is_temporary=True)
        super().check(url)


class TakesACompleteFileForARange(Store):
    def read(self, url, start, nbytes, entry):
        if self.fault == "no ranges":
            return RangeAnswer(self.files.get(self.key(url), b"")[:nbytes], entry.version)
        return super().read(url, start, nbytes, entry)


class FillsUp(Store):
    def read(self, url, start, nbytes, entry):
        answer = super().read(url, start, nbytes, entry)
        return RangeAnswer(answer.data.ljust(nbytes, b"\0"), answer.version)


class CutForEver(Store):
    def read(self, url, start, nbytes, entry):
        if self.fault == "cut":
            raise RemoteFailure("the answer ended.", path=shown_url(url))
        return super().read(url, start, nbytes, entry)


class ShowsUrls(Store):
    def read(self, url, start, nbytes, entry):
        if self.key(url) not in self.files:
            raise SourceNotFound("the file does not exist.", path=url)
        return super().read(url, start, nbytes, entry)


class ShowsCauses(Store):
    def read(self, url, start, nbytes, entry):
        try:
            return super().read(url, start, nbytes, entry)
        except SourceNotFound as err:
            raise SourceNotFound(err.message, path=err.path) from KeyError(url)


class LogsUrls(Store):
    def read(self, url, start, nbytes, entry):
        logging.getLogger("store").debug("GET %s", url)
        return super().read(url, start, nbytes, entry)


class ShowsUrlsWhenDenied(Store):
    def check(self, url):
        if self.fault == "denied":
            raise AccessDenied(f"not permitted: {url}", path=shown_url(url))
        super().check(url)


# -- writing ----------------------------------------------------------------------------------------


class UploadsOnePart(Store):
    def upload(self, url, path):
        super().upload(url, path)
        self.files[self.key(url)] = self.files[self.key(url)][: 1 << 20]


class MovesLocalFiles(Store):
    def upload(self, url, path):
        super().upload(url, path)
        path.unlink()


class NeedsFolders(Store):
    def upload(self, url, path):
        if super().entry(parent_url(url)) is None:
            return
        super().upload(url, path)


class ReplacesNothing(Store):
    def upload(self, url, path):
        if path.exists() and self.key(url) in self.files and not self.fault:
            raise DestinationExists("there is a file.", path=shown_url(url))
        super().upload(url, path)


class WritesOver(Store):
    def upload(self, url, path):
        old = self.files.get(self.key(url), b"")
        super().upload(url, path)
        self.files[self.key(url)] += old[len(self.files[self.key(url)]) :]


class EmptiesFirst(Store):
    def upload(self, url, path):
        self.files[self.key(url)] = b""
        super().upload(url, path)


class LeavesParts(Store):
    def upload(self, url, path):
        if self.fault and self.key(url) not in self.files:
            self.files[self.key(url)] = b"the first part"
        super().upload(url, path)


class ShowsErrorsOfTheSystem(Store):
    def upload(self, url, path):
        self.check(url)
        self.files[self.key(url)] = path.read_bytes()


class RemovesOnce(Store):
    def remove(self, url):
        if self.key(url) not in self.files:
            raise SourceNotFound("there is no file.", path=shown_url(url))
        super().remove(url)


class RemovesPrefixes(Store):
    def remove(self, url):
        for name in [name for name in self.files if name.startswith(self.key(url))]:
            del self.files[name]


class RemovesNothing(Store):
    def remove(self, url):
        self.check(url)


class Commits(Bare):
    """A file system that is written to by folders."""

    def upload_folder(self, url, folder, names, removed=()):
        self.check(url)
        self.files |= {f"{self.key(url)}/{name}": (folder / name).read_bytes() for name in names}
        for name in removed:
            self.files.pop(f"{self.key(url)}/{name}", None)
        return url


class CommitsContract(StoreContract):
    system = Commits()


class CommitsOneByOne(Commits):
    def upload_folder(self, url, folder, names, removed=()):
        for name in names:
            self.files[f"{self.key(url)}/{name}"] = (folder / name).read_bytes()
        return super().upload_folder(url, folder, names, removed)


class RemovesBeforeTheCommit(Commits):
    def upload_folder(self, url, folder, names, removed=()):
        for name in removed:
            self.files.pop(f"{self.key(url)}/{name}", None)
        return super().upload_folder(url, folder, names, removed)


class RemovesNothingWithACommit(Commits):
    def upload_folder(self, url, folder, names, removed=()):
        return super().upload_folder(url, folder, names)


class CommitsEverything(Commits):
    def upload_folder(self, url, folder, names, removed=()):
        everything = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        return super().upload_folder(url, folder, everything, removed)


class CommitsFlat(Commits):
    def upload_folder(self, url, folder, names, removed=()):
        super().upload_folder(url, folder, names, removed)
        for name in names:
            self.files[f"{self.key(url)}/{name.rpartition('/')[2]}"] = self.files.pop(
                f"{self.key(url)}/{name}"
            )
        return url


class CommitsInPlaceOfAll(Commits):
    def upload_folder(self, url, folder, names, removed=()):
        self.check(url)
        for key in [key for key in self.files if key.startswith(f"{self.key(url)}/")]:
            del self.files[key]
        return super().upload_folder(url, folder, names, removed)


class CommitsSilently(Commits):
    def upload_folder(self, url, folder, names, removed=()):
        super().upload_folder(url, folder, names, removed)


NAMED, EMPTY = "test_a_file_has_its_name_and_size", "test_an_empty_file_is_a_file"
FOLDER, NOTHING = "test_a_folder_is_a_folder", "test_nothing_is_none"
LISTED = "test_a_folder_lists_what_is_directly_in_it"
ODD = "test_names_of_every_kind_are_read"
RANGE, THREADS = "test_a_range_is_exactly_its_bytes", "test_files_are_read_by_many_threads_at_once"
ANSWERED = "test_an_answer_has_the_version_of_its_entry"
CHANGES, PINNED = "test_a_version_changes_with_the_content", "test_what_is_pinned_stays_the_same"
FAILING, SECRETS = "test_a_failing_server_is_an_error_of_its_class", "test_messages_hold_no_secrets"
CUT = "test_a_cut_answer_is_not_filled_up"
UPLOAD, REPLACED = "test_an_upload_is_read_back", "test_an_upload_replaces_a_file"
FAILED, REMOVED = "test_a_failed_upload_leaves_the_old_file", "test_removing_a_file_twice_is_no_error"

BROKEN = [
    (NamesAreEtags, NAMED, "plain.bin", "last part of the path"),
    (SizesAreFloats, NAMED, "expected an int"),
    (EmptyFilesAreFolders, EMPTY, "expected 0"),
    (KnowsNoFolders, FOLDER, "without a slash", "return RemoteEntry"),
    (FoldersHaveASize, FOLDER, "has the size 0"),
    (TripsOverSlashes, FOLDER, "with a slash at the end"),
    (TakesPrefixesForFolders, NOTHING, "'model'", "only begins like"),
    (RaisesForNothing, NOTHING, "raised SourceNotFound: return None"),
    (ListsTwice, LISTED, "each name once"),
    (ListsFoldersAsFiles, LISTED, "'inner'", "size None"),
    (ListsWithoutVersions, LISTED, "the version ''"),
    (ListsNothingAfterSlashes, LISTED, "slash at the end"),
    (ListsNoFolder, LISTED, "lists_folders = False"),
    (ListsSiblings, "test_a_nested_folder_lists_its_own", "-more"),
    (ListsOnePage, "test_a_long_listing_is_complete", "lists 1000", "all pages"),
    (DeniesMissingFolders, "test_a_folder_that_is_not_there_has_no_entries", "AccessDenied", "return ()"),
    (DecodesNothing, ODD, "decode the path"),
    (DecodesTwice, ODD, "a%20b.bin", "once"),
    (TakesPlusForSpace, ODD, "'a+b.bin'", "plus sign"),
    (ListsEncodedNames, ODD, "does not list", "decode names"),
    (LastByteIsMissing, RANGE, "expected 8 bytes, got 7"),
    (SendsTheCompleteFile, RANGE, "expected 8 bytes, got 1500007"),
    (SkipsAByteOfLongRanges, RANGE, "not the one after it"),
    (ReturnsPlainBytes, RANGE, "return RangeAnswer"),
    (ReusesItsBuffer, "test_an_answer_stays_as_it_was", "its own buffer"),
    (HasOnePosition, THREADS, "another range or file"),
    (ReadsOneAtATime, THREADS, "RemoteFailure", "connection without a lock"),
    (AnswersWithoutVersions, ANSWERED, "`read` gave the version ''"),
    (VersionsAreSizes, CHANGES, "another version for each content"),
    (HasNoVersions, CHANGES, "has_versions = False"),
    (RemembersEntries, CHANGES, "ask the server each time"),
    (AnswersWithTheOldVersion, "test_new_bytes_never_have_an_old_version", "not that of `entry`"),
    (PinsAgain, PINNED, "return it unchanged"),
    (PinsAnOtherFile, "test_what_is_pinned_is_the_same_content", "has other content"),
    (MissingIsAFailure, "test_reading_what_is_not_there_is_an_error_of_its_own", "raise SourceNotFound"),
    (TripsOverNul, "test_odd_urls_are_answered_or_refused", "ValueError", "UsageError"),
    (DeniedIsAFailure, FAILING, "'denied'", "raise AccessDenied"),
    (UnavailableIsForEver, FAILING, "is_temporary=True"),
    (NamesNoPlace, FAILING, "path=shown_url(url)"),
    (TakesACompleteFileForARange, FAILING, "'no ranges'", "raise RemoteFailure"),
    (FillsUp, CUT, "filled up"),
    (CutForEver, CUT, "is_temporary=True"),
    (ShowsUrls, SECRETS, "use shown_url(url)"),
    (ShowsCauses, SECRETS, "from None"),
    (LogsUrls, SECRETS, "the log shows"),
    (ShowsUrlsWhenDenied, SECRETS, "(denied)"),
    (UploadsOnePart, UPLOAD, "3000000 bytes"),
    (MovesLocalFiles, UPLOAD, "removed the local file"),
    (NeedsFolders, UPLOAD, "an uploaded file does not exist"),
    (ReplacesNothing, REPLACED, "replace the file"),
    (WritesOver, REPLACED, "not read back"),
    (EmptiesFirst, FAILED, "changed the file that was there"),
    (LeavesParts, FAILED, "remove what was sent"),
    (ShowsErrorsOfTheSystem, FAILED, "FileNotFoundError", "raise SourceNotFound"),
    (RemovesOnce, REMOVED, "second time", "accept one"),
    (RemovesPrefixes, REMOVED, "removed another file"),
    (RemovesNothing, REMOVED, "still there"),
]
"""Class, the only test that it fails, and words of that test's message."""

COMMIT = "test_a_folder_is_uploaded_in_one_step"
BROKEN_COMMITS = [
    (CommitsOneByOne, COMMIT, "all files in one step"),
    (RemovesBeforeTheCommit, COMMIT, "removed a file: write all files in one step"),
    (RemovesNothingWithACommit, COMMIT, "'old.bin' is still there"),
    (CommitsEverything, COMMIT, "'notes.txt'", "not among the names"),
    (CommitsFlat, COMMIT, "'inner/config.json' is missing"),
    (CommitsInPlaceOfAll, COMMIT, "'other.bin' is missing"),
    (CommitsSilently, COMMIT, "return the URL"),
]
"""The same of file systems that are written to by folders."""
