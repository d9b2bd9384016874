"""Checkpoints at URLs for ckptbridge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl
from bridge_core.public import exports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core.io import FileSystem
    from ckptbridge_remote.amazon_s3 import AmazonS3 as AmazonS3
    from ckptbridge_remote.google_storage import GoogleStorage as GoogleStorage
    from ckptbridge_remote.hub import Hub as Hub
    from ckptbridge_remote.web import Web as Web
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {"amazon_s3": "AmazonS3", "google_storage": "GoogleStorage", "hub": "Hub", "web": "Web"},
    )


@hookimpl
def bridge_filesystems() -> Iterable[FileSystem]:
    """Return the file systems."""
    from ckptbridge_remote.amazon_s3 import AmazonS3
    from ckptbridge_remote.google_storage import GoogleStorage
    from ckptbridge_remote.hub import Hub
    from ckptbridge_remote.web import Web

    return (Hub(), AmazonS3(), GoogleStorage(), Web())
