"""What to do where a format needs a file or folder of this machine: the commands that copy one."""

from __future__ import annotations

import re
import shlex
import urllib.parse

from bridge_core.errors import NeedsLocalPath
from bridge_core.io import RemotePath, scheme_of

__all__ = ["download_command", "needs_local_path", "upload_command"]

_REPO_TYPES = {"datasets": "dataset", "spaces": "space"}


def needs_local_path(place: RemotePath, what: str, *, is_folder: bool = False) -> NeedsLocalPath:
    """Return the error for a file or folder at a URL that a library opens by name.

    Args:
        place: Where it is.
        what: What needs a path, in the plural: ``"files of the format hdf5"``.
        is_folder: Whether it is a folder.
    """
    command = download_command(place, is_folder=is_folder)
    local = "the folder" if is_folder else "the file"
    hint = f"Download {local} first, and give its path" + (f": {command}" if command else ".")
    if command and "?" in place.url:
        hint += " (with the rest of the URL, which is not shown)"
    return NeedsLocalPath(
        f"{what} are opened by a library that needs a path on this machine; this is a URL.",
        path=place,
        hint=hint,
    )


def download_command(place: RemotePath, *, is_folder: bool) -> str:
    """Return the command that downloads a file or folder; empty if none is known for its file system.

    A file system may have a method ``download_command(url, is_folder)`` of its own. The URL that it gets is
    without credentials.

    Args:
        place: Where it is.
        is_folder: Whether it is a folder.

    >>> from types import SimpleNamespace
    >>> download_command(RemotePath(SimpleNamespace(), "s3://models/run 1"), is_folder=True)
    "aws s3 cp --recursive 's3://models/run 1' DIR"
    >>> download_command(RemotePath(SimpleNamespace(), "hf://org/model@abc/step"), is_folder=True)
    "hf download org/model --revision abc --include 'step/**' --local-dir DIR"
    """
    url = str(place).rstrip("/")
    own = getattr(place.system, "download_command", None)
    if own is not None:
        return str(own(url, is_folder))
    scheme, quoted = scheme_of(url), shlex.quote(url)
    if scheme == "s3":
        return f"aws s3 cp {'--recursive ' * is_folder}{quoted} {'DIR' if is_folder else '.'}"
    if scheme == "gs":
        return f"gcloud storage cp {'--recursive ' * is_folder}{quoted} {'DIR' if is_folder else '.'}"
    if scheme in ("http", "https"):
        return f"curl -L -O {quoted}"
    return _from_hub(url, is_folder=is_folder) if scheme == "hf" else ""


def upload_command(place: RemotePath) -> str:
    """Return the command that uploads a local folder; empty if none is known for the file system.

    Args:
        place: Where the folder is to be.

    >>> from types import SimpleNamespace
    >>> upload_command(RemotePath(SimpleNamespace(), "s3://models/run 1/"))
    "aws s3 cp --recursive DIR 's3://models/run 1'"
    >>> upload_command(RemotePath(SimpleNamespace(), "hf://org/model@next/step"))
    'hf upload org/model DIR step --revision next'
    """
    url = str(place).rstrip("/")
    scheme, quoted = scheme_of(url), shlex.quote(url)
    if scheme == "s3":
        return f"aws s3 cp --recursive DIR {quoted}"
    if scheme == "gs":
        return f"gcloud storage cp --recursive DIR {quoted}"
    if scheme != "hf":
        return ""
    repo, path, options = _in_hub(url)
    return shlex.join(["hf", "upload", repo, "DIR", *([path] if path else []), *options])


def _from_hub(url: str, *, is_folder: bool) -> str:
    repo, path, options = _in_hub(url)
    words = ["hf", "download", repo]
    if path and not is_folder:
        words.append(path)
    words += options
    words += ["--include", f"{path}/**"] if path and is_folder else []
    return shlex.join([*words, "--local-dir", "DIR"])


def _in_hub(url: str) -> tuple[str, str, list[str]]:
    """Return the repository of a URL, the path in it, and the options of ``hf`` for its type and revision."""
    parts = urllib.parse.unquote(url.partition("://")[2]).split("/")
    repo_type = _REPO_TYPES.get(parts[0], "")
    if repo_type:
        del parts[0]
    # A revision may hold slashes, as refs/pr/1 does; a commit, which an opened source has, does not.
    repo, _, revision = "/".join(parts[:2]).partition("@")
    path = "/".join(parts[2:])
    if match := re.match(r"(pr/\d+|convert/[^/]+)(/|$)", path) if revision == "refs" else None:
        revision, path = f"refs/{match[1]}", path[match.end() :]
    options = ["--repo-type", repo_type] if repo_type else []
    options += ["--revision", revision] if revision else []
    return repo, path, options
