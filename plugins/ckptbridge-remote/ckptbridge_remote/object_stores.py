"""Object stores, ``s3://bucket/key`` and ``gs://bucket/key``: what they have in common."""

from __future__ import annotations

import os
import re
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from bridge_core.errors import AccessDenied, RemoteFailure, SourceNotFound, UsageError
from bridge_core.io import RangeAnswer, RemoteEntry, shown_url
from ckptbridge_remote.obstore_module import MOST_STORES, load_obstore
from ckptbridge_remote.ranges import file_at, read_range, version_of
from ckptbridge_remote.remembered import Remembered
from ckptbridge_remote.store_errors import Advice, code_of, is_of_credentials, requests_to
from ckptbridge_remote.uploads import upload_file

__all__ = ["ObjectStore"]


class ObjectStore(ABC):
    """A `WritableFileSystem` over the buckets of one provider."""

    name: str
    schemes: tuple[str, ...]
    advice: ClassVar[Advice]
    variables: ClassVar[tuple[str, ...]]
    """The beginnings of the names of the variables of the environment that its stores are made from."""

    def __init__(self) -> None:
        self._stores: Remembered[Any] = Remembered(MOST_STORES)

    @abstractmethod
    def make_store(self, bucket: str, *, writing: bool) -> Any:
        """Return a store of obstore for one bucket, with the credentials of the environment.

        Args:
            bucket: The bucket.
            writing: Whether it is written to.
        """

    def pinned(self, url: str) -> str:
        """Return the URL itself: the version of a file is compared whenever it is read.

        Raises:
            UsageError: It is not a URL of an object.
        """
        _parts_of(url)
        return url

    def entry(self, url: str) -> RemoteEntry | None:
        """Return the object at a URL, or a folder where keys begin with it; None for nothing."""
        bucket, key = _parts_of(url)
        name = key.rpartition("/")[2]
        is_folder_url = url.endswith("/") or not key
        with requests_to(url, self.advice):
            store = self._store(bucket)
            try:
                if not is_folder_url:
                    return file_at(store, key, name)
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise
        try:
            with requests_to(url, self.advice):
                inside = next(iter(load_obstore().list(store, key or None, chunk_size=1)), ())
        except AccessDenied:
            if is_folder_url:
                raise
            inside = ()  # files can be read without the right to list them
        return RemoteEntry(name) if inside or not key else None

    def entries(self, url: str) -> Sequence[RemoteEntry]:
        """Return the objects and folders directly in a folder."""
        bucket, key = _parts_of(url)
        with requests_to(url, self.advice):
            listing = load_obstore().list_with_delimiter(self._store(bucket), key or None)
        files = [
            RemoteEntry(meta["path"].rpartition("/")[2], meta["size"], version_of(meta))
            for meta in listing["objects"]
            if meta["path"] != key  # an object that stands for the folder
        ]
        names = {file.name for file in files}
        folders = [prefix.rpartition("/")[2] for prefix in listing["common_prefixes"]]
        return [*(RemoteEntry(name) for name in folders if name not in names), *files]

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return one range of an object."""
        bucket, key = _parts_of(url)
        with requests_to(url, self.advice):
            return read_range(self._store(bucket), key, start, nbytes, entry.size)

    def upload(self, url: str, path: Path) -> None:
        """Upload a local file, in parts where it is large; an object at the URL is replaced at once.

        Raises:
            AccessDenied, RemoteFailure, SourceNotFound: The server does not take it.
            SystemFailure, IntegrityError: The local file cannot be read, or changed.
        """
        bucket, key = _parts_of(url)
        if not key or url.endswith("/"):
            raise UsageError("expected the URL of a file, got that of a folder.", path=shown_url(url))
        with requests_to(url, self.advice, writing=True):
            store = self._store(bucket, writing=True)
            size = upload_file(store, key, path)
            stored = load_obstore().head(store, key)["size"]
        if stored != size:
            raise RemoteFailure(
                f"{size} bytes were uploaded, and the server has {stored}.", path=shown_url(url)
            )

    def remove(self, url: str) -> None:
        """Remove an object; one that does not exist is not an error."""
        bucket, key = _parts_of(url)
        try:
            with requests_to(url, self.advice, writing=True):
                load_obstore().delete(self._store(bucket, writing=True), key)
        except SourceNotFound:
            pass

    def _store(self, bucket: str, *, writing: bool = False) -> Any:
        load_obstore()  # first, since a forked process may not wait for the lock of the stores
        # Another value of a variable makes another store.
        settings = frozenset(item for item in os.environ.items() if item[0].startswith(self.variables))
        key = (bucket, writing, settings)
        return self._stores.get(key, lambda: self._made(bucket, writing))

    def _made(self, bucket: str, writing: bool) -> Any:
        try:
            return self.make_store(bucket, writing=writing)
        except load_obstore().exceptions.BaseError as error:
            if is_of_credentials(error):
                raise
            # The text of the cause may hold the value of a variable.
            raise UsageError(
                f"a store cannot be opened with what the environment sets for {self.name}.",
                hint=f"Check the variables that begin with {self.variables[0]}.",
            ) from None


def _parts_of(url: str) -> tuple[str, str]:
    """Return the bucket and the key that a URL names.

    Escapes are decoded; what is not an escape is taken as written.
    """
    scheme, _, rest = url.partition("://")
    if "?" in rest or "#" in rest:
        raise UsageError(
            f"{scheme}:// URLs have neither a query nor a fragment.",
            path=shown_url(url),
            hint="In a key, write %3F for ? and %23 for #.",
        )
    bucket, _, path = rest.partition("/")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", bucket):
        hint = f"Write {scheme}://bucket/key; credentials are taken from the environment."
        raise UsageError(f"the URL does not name a bucket of {scheme}.", path=shown_url(url), hint=hint)
    try:
        return bucket, urllib.parse.unquote(path, errors="strict").rstrip("/")
    except UnicodeDecodeError:
        hint = "Write %25 for the character %."
        raise UsageError("an escape of the URL is not UTF-8.", path=shown_url(url), hint=hint) from None
