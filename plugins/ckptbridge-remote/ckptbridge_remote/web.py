"""Files of web servers: ``https://host/path`` and ``http://host/path``."""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bridge_core.errors import SourceNotFound, UsageError
from bridge_core.io import RangeAnswer, RemoteEntry, shown_url
from ckptbridge_remote.addresses import is_address
from ckptbridge_remote.obstore_module import MOST_STORES, for_reading, load_obstore
from ckptbridge_remote.ranges import file_at, read_range
from ckptbridge_remote.redirects import final_url
from ckptbridge_remote.remembered import Remembered
from ckptbridge_remote.store_errors import Advice, requests_to, status_of

__all__ = ["Web"]

_PLAIN_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9_~.-]+)+")
"""Paths that are the same after they are decoded and encoded; files of one host then share connections."""
_HUB_PAGE = re.compile(
    r"https://(?:www\.)?(?:huggingface\.co|hf\.co)/([^?#]+?)/(?:blob|tree)/([^/?#]+)(/[^?#]*)?"
)
_MOST_PLACES = 1024
"""URLs with a query of which it is remembered where they lead."""
_EXPIRED = frozenset({401, 403, 410})
"""Statuses of a signed URL after its time."""
_Answer = TypeVar("_Answer")
_ADVICE = Advice("Give a URL that may be read, such as a signed one or https://user:password@host/path.")


class Web:
    """Files of web servers that answer requests for ranges."""

    name = "web"
    schemes: tuple[str, ...] = ("https", "http")

    def __init__(self) -> None:
        self._stores: Remembered[Any] = Remembered(MOST_STORES)
        self._places: Remembered[str] = Remembered(_MOST_PLACES)

    def pinned(self, url: str) -> str:
        """Return the URL itself.

        Raises:
            UsageError: It is not valid, or is that of a page of the Hugging Face hub.
        """
        if match := _HUB_PAGE.match(url):
            repo, revision, path = match[1], match[2], match[3] or ""
            hint = f"Write hf://{repo}@{revision}{path}"
            raise UsageError("the URL is that of a page, not of a file.", path=shown_url(url), hint=hint)
        _check(url)
        return url

    def entry(self, url: str) -> RemoteEntry | None:
        """Return the file at a URL, or None; a URL that ends with a slash is a folder's."""
        _check(url)
        path = re.split(r"[?#]", url.partition("://")[2], maxsplit=1)[0].partition("/")[2]
        name = urllib.parse.unquote(path.rpartition("/")[2])
        if not name:
            return RemoteEntry("")
        try:
            return self._answer(url, lambda store, path: file_at(store, path, name))
        except SourceNotFound:
            return None

    def entries(self, url: str) -> Sequence[RemoteEntry] | None:
        """Return None: web servers list no folders."""
        return None

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return one range of a file."""
        return self._answer(url, lambda store, path: read_range(store, path, start, nbytes, entry.size))

    def _answer(self, url: str, ask: Callable[[Any, str], _Answer]) -> _Answer:
        with requests_to(url, _ADVICE):
            place = self._place(url)
            try:
                return ask(*self._store(place))
            except Exception as error:
                if place == url or status_of(error) not in _EXPIRED:
                    raise
            self._places.forget(url)  # what a server redirects to is often signed for some minutes only
            return ask(*self._store(self._place(url)))

    def _place(self, url: str) -> str:
        """Return where a URL with a query leads; other URLs hold nothing that a server may not see."""
        return self._places.get(url, lambda: _place_of(url)) if "?" in url else url

    def _store(self, url: str) -> tuple[Any, str]:
        """Return a store, and the path in it."""
        load_obstore()
        scheme, _, rest = url.partition("#")[0].partition("://")
        authority = _authority(url)
        user, _, host = authority.rpartition("@")
        root = f"{scheme.lower()}://{host}"
        after = rest[len(authority) :]
        shares = _PLAIN_PATH.fullmatch(after) is not None
        base = root if shares else root + after
        return self._stores.get((base, user), lambda: _store_at(base, user)), after if shares else ""


def _place_of(url: str) -> str:
    user, _, host = _authority(url).rpartition("@")
    plain = url.replace(f"{user}@{host}", host, 1) if user else url
    place = final_url(plain, _headers(user))
    return url if place == plain else place


def _store_at(base: str, user: str) -> Any:
    options = for_reading(plain=base.startswith("http://"), headers=_headers(user))
    return load_obstore().store.HTTPStore(base, **options)


def _headers(user: str) -> dict[str, str]:
    """Return what is sent for a user, which obstore does not do; other hosts do not get it by redirects."""
    if not user:
        return {}
    name, _, password = map(urllib.parse.unquote, user.partition(":"))
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


def _check(url: str) -> None:
    if not is_address(url):
        hint = "Write https://host/path, or https://host:port/path."
        raise UsageError(
            "the URL has no host, or a host or port that cannot exist.", path=shown_url(url), hint=hint
        )


def _authority(url: str) -> str:
    return re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
