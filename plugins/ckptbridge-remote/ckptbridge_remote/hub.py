"""The Hugging Face hub as a file system: ``hf://org/repo[@revision]/path``."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from bridge_core.errors import BridgeError, RemoteFailure, SourceNotFound
from bridge_core.io import RangeAnswer, RemoteEntry
from bridge_core.messages import nearest
from ckptbridge_remote.hub_client import Answer, HubClient
from ckptbridge_remote.hub_place import HubPlace
from ckptbridge_remote.hub_refusals import failed_transfer, is_missing_repo, refusal
from ckptbridge_remote.remembered import Remembered

__all__ = ["Hub"]

_REMEMBERED = 4096
"""Files of which the storage address is remembered."""
_MARGIN = 10.0
"""Seconds before its end at which a signed address is not used any more."""
_PAGES = 1000
"""Pages of a listing that are read; each has up to 1000 entries."""


class Hub:
    """The Hugging Face hub: ranges of files at one commit, and commits of folders.

    A request for content goes to the hub, which answers it by itself or names a signed address on another
    host. That address is remembered until it expires, so that later ranges of the file need one request. The
    token is sent to the hub only.

    Args:
        endpoint: The address of the hub; by default that of huggingface_hub, which ``HF_ENDPOINT`` sets.
        token: The token; by default that of ``hf auth login`` or ``HF_TOKEN``.
    """

    name = "hub"
    schemes: tuple[str, ...] = ("hf",)

    def __init__(self, *, endpoint: str | None = None, token: str | None = None) -> None:
        self._client = HubClient(endpoint, token)
        self._routes: Remembered[_Route] = Remembered(_REMEMBERED)

    def pinned(self, url: str) -> str:
        """Return the URL at the commit that its revision names now.

        Raises:
            UsageError: The URL does not name a repository.
            SourceNotFound: The repository or the revision does not exist, or is private.
            AccessDenied: The hub does not permit reading it.
            RemoteFailure: The hub cannot be reached, or failed.
        """
        place = HubPlace.parse(url)
        error: BridgeError | None = None
        for reading in filter(None, (place, place.without_organization)):
            query = "?expand=sha"  # without it the answer lists every file
            with self._client.answer("GET", reading.api("revision") + query, path=place.url) as answer:
                if answer.status == 200:
                    return reading.at(_commit_of(answer, place.url)).url
                error = error or self._refusal(place, answer)
                if not is_missing_repo(answer):
                    break
        assert error is not None
        raise error

    def entry(self, url: str) -> RemoteEntry | None:
        """Return the file or folder at a URL; None if the repository does not have it.

        Raises:
            SourceNotFound: The repository or the revision does not exist, or is private.
            AccessDenied, RemoteFailure: As for `pinned`.
        """
        place = HubPlace.parse(url)
        if not place.path:
            is_above = place.revision is None and "/" not in place.repo
            return None if is_above else RemoteEntry(place.repo.rpartition("/")[2])
        asked = {"paths": [place.path], "expand": False}
        with self._client.answer("POST", place.api("paths-info"), path=place.url, body=asked) as answer:
            if answer.headers.get("X-Error-Code") == "EntryNotFound":
                return None
            if answer.status != 200:
                raise self._refusal(place, answer)
            for record in _records(answer, place.url):
                if record["path"] == place.path:
                    return _entry(record, place.url)
        return None

    def entries(self, url: str) -> Sequence[RemoteEntry]:
        """Return the files and folders directly in a folder.

        Raises:
            SourceNotFound: The repository, the revision or the folder does not exist.
            AccessDenied, RemoteFailure: As for `pinned`.
        """
        place = HubPlace.parse(url)
        below = f"{place.path}/" if place.path else ""
        return [
            _entry(record, place.url)
            for record in self._tree(place)
            if record["path"].startswith(below) and "/" not in record["path"][len(below) :]
        ]

    def _tree(self, place: HubPlace) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = []
        target = place.api("tree", path=place.path)
        for _ in range(_PAGES):
            with self._client.answer("GET", target, path=place.url) as answer:
                if answer.status != 200:
                    raise self._refusal(place, answer)
                records += _records(answer, place.url)
                following = re.search(r'<([^<>]+)>\s*;\s*rel="?next"?', answer.headers.get("Link", ""))
                target = urljoin(answer.url, following[1]) if following else ""
            if not target:
                return records
            if not self._client.is_hub(target):
                raise RemoteFailure("the next page of the listing is on another host.", path=place.url)
        raise RemoteFailure(f"the listing has more than {_PAGES} pages.", path=place.url)

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return one range of a file.

        Raises:
            SourceNotFound: There is no such file.
            AccessDenied: The repository is gated or private.
            RemoteFailure: The server failed, or sent another range or the complete file.
        """
        place, route = HubPlace.parse(url), self._routes.get(url, _Route)
        headers = {"Range": f"bytes={start}-{start + nbytes - 1}"}
        for is_last in (False, True):
            # The first request for a file shows the way for all others.
            with nullcontext() if route.is_known else route.lock:
                target = route.target()
                if target is None:
                    with self._client.answer("GET", place.content, path=place.url, headers=headers) as answer:
                        target = answer.location
                        if target is None:
                            data = self._range_of_hub(place, answer, start, nbytes, entry)
                            route.is_direct = True
                            return RangeAnswer(data, _version(answer) or entry.version)
                        if (version := _version(answer, is_redirect=True)) not in ("", entry.version):
                            return RangeAnswer(b"", version)
                        self._check_target(target, place.url)
                        answer.body(1 << 16)  # so that the connection can be used again
                    route.set(target)
            try:
                with self._client.answer("GET", target, path=place.url, headers=headers) as answer:
                    if answer.status in (400, 401, 403) and not is_last:
                        route.forget(target)  # it expired, or was withdrawn
                        continue
                    data = _range_of(answer, start, nbytes, entry, place.url)
                    is_same = route.has_same(target, _etag(answer))
                    return RangeAnswer(data, entry.version if is_same else _etag(answer))
            except RemoteFailure:
                route.forget(target)  # the hub may name another host when the request is repeated
                raise
        raise AssertionError("the second attempt returns or raises")

    def upload_folder(self, url: str, folder: Path, names: Sequence[str], removed: Sequence[str] = ()) -> str:
        """Upload files of a local folder as one commit, and return the URL of the folder at that commit.

        Raises:
            UsageError: The URL is that of a commit, or does not name a repository.
            SourceNotFound: The repository or the branch does not exist.
            AccessDenied: The token does not permit writing.
            RemoteFailure: The upload failed; nothing was committed.
        """
        from ckptbridge_remote.hub_commit import commit_folder

        return commit_folder(self._client, HubPlace.parse(url), folder, names, removed)

    def _check_target(self, target: str, path: str) -> None:
        """Refuse an address that is not encrypted where the hub is, or is not one of HTTP."""
        if urlsplit(target).scheme not in ("https", urlsplit(self._client.endpoint).scheme):
            raise RemoteFailure("the hub redirects to an address that is not encrypted.", path=path)

    def _range_of_hub(
        self, place: HubPlace, answer: Answer, start: int, nbytes: int, entry: RemoteEntry
    ) -> bytearray:
        if answer.status in (200, 206):
            return _range_of(answer, start, nbytes, entry, place.url)
        raise self._refusal(place, answer)

    def _refusal(self, place: HubPlace, answer: Answer) -> BridgeError:
        """Return the error of an answer, with the nearest name where a name is wrong."""
        error = refusal(place, answer, self._client)
        code = answer.headers.get("X-Error-Code")
        if isinstance(error, SourceNotFound) and code in ("RevisionNotFound", "EntryNotFound"):
            with suppress(BridgeError, KeyError, TypeError):  # of a hint, nobody wants an error
                error.hint = self._nearest(place, answer)
        return error

    def _nearest(self, place: HubPlace, answer: Answer) -> str | None:
        """Return a hint with the revision or the file that has the most similar name."""
        if answer.headers.get("X-Error-Code") == "RevisionNotFound":
            with self._client.answer("GET", f"{place.api_root}/refs", path=place.url) as listing:
                known = listing.parsed(place.url) if listing.status == 200 else {}
            names = [one["name"] for sort in ("branches", "tags") for one in known.get(sort, ())]
            return nearest(place.revision or "main", names) if names else None
        folder, _, name = place.path.rpartition("/")
        listed = self.entries(HubPlace(place.kind, place.repo, place.revision, folder).url)
        return nearest(name, [one.name for one in listed]) if listed and name else None


@dataclass
class _Route:
    """How the content of a file is reached: from the hub itself, or for some time at a signed address."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    is_direct: bool = False
    _target: str | None = None
    _until: float = 0.0
    _etag: str = ""

    @property
    def is_known(self) -> bool:
        return self.is_direct or self.target() is not None

    def target(self) -> str | None:
        return self._target if time.time() < self._until else None

    def set(self, target: str) -> None:
        self._etag, self._until, self._target = "", _end_of(target), target

    def forget(self, target: str) -> None:
        if self._target == target:  # another thread may have asked for a new one
            self._target = None

    def has_same(self, target: str, etag: str) -> bool:
        """Return whether an ETag is that of the first answer of an address."""
        with self.lock:
            if self._target != target or not etag:
                return True
            self._etag = self._etag or etag
            return self._etag == etag


def _end_of(url: str) -> float:
    """Return until when a signed address is used, in seconds of `time.time`."""
    query = {name.lower(): values[-1] for name, values in parse_qs(urlsplit(url).query).items()}
    try:
        if "expires" in query:
            return float(query["expires"]) - _MARGIN
        for sort in ("x-amz", "x-goog"):
            if f"{sort}-expires" in query:
                return time.time() + float(query[f"{sort}-expires"]) - _MARGIN
    except ValueError:
        pass
    return float("inf")  # used until the server refuses it


def _range_of(answer: Answer, start: int, nbytes: int, entry: RemoteEntry, path: str) -> bytearray:
    """Return the body of an answer that must be exactly the range that was asked for."""
    if answer.status not in (200, 206) and answer.location is None:
        raise failed_transfer(answer, path)
    expected = f"bytes {start}-{start + nbytes - 1}/{entry.size}"
    given = answer.headers.get("Content-Range", "")
    if answer.status != 206 or given.strip().lower() != expected:
        raise RemoteFailure(
            f"expected status 206 with the range {expected!r}, got status {answer.status} with "
            f"{given[:80]!r} from {answer.host}.",
            path=path,
            hint="A proxy or a cache that ignores ranges may be between this machine and the server.",
        )
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise RemoteFailure(f"{answer.host} sent a compressed range.", path=path)
    data = answer.body(nbytes)
    if len(data) != nbytes:
        sent = "more" if len(data) > nbytes else f"{len(data)}"
        raise RemoteFailure(
            f"expected {nbytes} bytes, got {sent} from {answer.host}.", path=path, is_temporary=True
        )
    return data


def _etag(answer: Answer) -> str:
    return answer.headers.get("ETag", "").removeprefix("W/").strip('"')


def _version(answer: Answer, *, is_redirect: bool = False) -> str:
    """Return the version that the hub declares; the ETag of a redirect may be that of the redirect itself."""
    linked = answer.headers.get("X-Linked-ETag", "").removeprefix("W/").strip('"')
    return linked or ("" if is_redirect else _etag(answer))


def _commit_of(answer: Answer, path: str) -> str:
    record = answer.parsed(path)
    commit = record.get("sha") if isinstance(record, dict) else None
    if not isinstance(commit, str) or not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise RemoteFailure(f"the answer of {answer.host} does not name a commit.", path=path)
    return commit


def _records(answer: Answer, path: str) -> list[dict[str, Any]]:
    """Return the files and folders that an answer lists."""
    records = answer.parsed(path)
    if isinstance(records, list) and all(
        isinstance(one, dict) and isinstance(one.get("path"), str) for one in records
    ):
        return records
    raise RemoteFailure(f"the answer of {answer.host} is not a list of files.", path=path)


def _entry(record: dict[str, Any], path: str) -> RemoteEntry:
    name = record["path"].rpartition("/")[2]
    size, version = record.get("size"), record.get("oid")
    if isinstance(stored := record.get("lfs"), dict):
        size, version = stored.get("size"), stored.get("oid")
    if name not in ("", ".", "..") and "\0" not in name:
        if record.get("type") == "directory":
            return RemoteEntry(name)
        if record.get("type") == "file" and type(size) is int and size >= 0 and isinstance(version, str):
            return RemoteEntry(name, size, version)
    raise RemoteFailure("the hub lists something that is neither a file nor a folder.", path=path)
