"""URLs of files: their parts, and how messages show them."""

from __future__ import annotations

import re
import urllib.parse

__all__ = ["child_url", "parent_url", "scheme_of", "shown_url", "url_name"]

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.ASCII | re.IGNORECASE)
_ADDRESS = re.compile(r"(\[[^\[\]]*\]|[^:]*)(:[0-9]*)?")
"""A host and a port; what has a colon and is neither begins with a user's name and a part of a password."""


def scheme_of(text: str) -> str | None:
    """Return the scheme of a URL in lower case; None for a path.

    >>> scheme_of("hf://org/model"), scheme_of("C:/model"), scheme_of("model.safetensors")
    ('hf', None, None)
    """
    match = _URL.match(text)
    return match[1].lower() if match else None


def shown_url(url: str) -> str:
    """Return the form of a URL to show: without user name, password, signature, fragment.

    >>> shown_url("https://user:secret@host/w.npz?X-Amz-Signature=abc")
    'https://host/w.npz'
    >>> shown_url("http://token@localhost/w.npz"), shown_url("hf://model@main/w.npz")
    ('http://localhost/w.npz', 'hf://model@main/w.npz')
    >>> shown_url("s3://key:sec/ret@bucket/w.npz")  # of a password, these signs should be encoded
    's3://bucket/w.npz'
    """
    head, _, rest = url.partition("://")
    if "@" in rest and not _ADDRESS.fullmatch(re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]):
        rest = rest.rpartition("@")[2]
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2] if _has_user(head.lower(), authority) else authority
    return f"{head}://{host}{slash}{path}"


def _has_user(scheme: str, authority: str) -> bool:
    """Return whether a user's name or a token comes before a host, and not a revision after a model."""
    user, at, _ = authority.rpartition("@")
    return bool(at) and (scheme != "hf" or ":" in user)


def url_name(url: str) -> str:
    """Return the last part of a URL's path, decoded; empty at its root.

    >>> url_name("https://host/a/my%20model.npz?x=1")
    'my model.npz'
    """
    return urllib.parse.unquote(_path_of(url).rstrip("/").rpartition("/")[2])


def parent_url(url: str) -> str:
    """Return the URL of the folder that a file or folder is in; at the root the URL itself.

    >>> parent_url("s3://bucket/a/w.npz"), parent_url("s3://bucket")
    ('s3://bucket/a', 's3://bucket')
    """
    head, path = _root_of(url), _path_of(url).rstrip("/")
    return head + path.rpartition("/")[0]


def child_url(url: str, name: str) -> str:
    """Return the URL of an entry of a folder, whose name is not encoded.

    >>> child_url("https://host/a/", "my model.npz")
    'https://host/a/my%20model.npz'
    """
    base = re.split(r"[?#]", url, maxsplit=1)[0].rstrip("/")
    return f"{base}/{urllib.parse.quote(name)}"


def _root_of(url: str) -> str:
    """Return scheme and authority."""
    head, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    return f"{head}://{rest.partition('/')[0]}"


def _path_of(url: str) -> str:
    """Return the path, with its first slash."""
    return re.split(r"[?#]", url, maxsplit=1)[0][len(_root_of(url)) :]
