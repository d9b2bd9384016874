"""Pages that commands write: checked before the work begins, complete or not written."""

from __future__ import annotations

from pathlib import Path

from bridge_core.errors import DestinationExists, UsageError

__all__ = ["check_page", "page_title", "require_local", "write_page"]


def require_local(name: str, option: str) -> None:
    """Refuse a URL for a file that a command writes in addition to weights.

    Raises:
        UsageError: The name is a URL.
    """
    from bridge_core.io import scheme_of, shown_url

    if scheme_of(name) and not Path(name).exists():
        raise UsageError(
            f"expected a path on this machine as {option}, got a URL.",
            path=shown_url(name),
            hint="Write to a local path, and upload the file.",
        )


def check_page(name: str, example: str, *, overwrite: bool) -> None:
    """Refuse a page that cannot be written, before anything else is done.

    Args:
        name: The file.
        example: A file name for the hint.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: The name is that of a folder, or its folder does not exist.
        DestinationExists: The file exists, and may not be replaced; a file that is not a page never is.
    """
    require_local(name, "--html")
    path = Path(name)
    if path.is_dir():
        raise UsageError(
            "--html names a folder.", path=name, hint=f"Give a file name, e.g. --html {example}."
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(
            "the folder of the page (--html) does not exist.", path=name, hint="Create the folder first."
        )
    if path.exists() and not overwrite:
        raise DestinationExists(
            "the page (--html) exists already.",
            path=name,
            hint="Pass overwrite=True (--overwrite) to replace it.",
        )
    if path.is_file() and not _is_page(path):  # such as the checkpoint, where the options were mixed up
        raise DestinationExists(
            "the file (--html) exists, and is not a page of HTML; only a page is replaced.",
            path=name,
            hint=f"Give another file name, e.g. --html {example}.",
        )


def _is_page(path: Path) -> bool:
    """Return whether a file is one of HTML, or empty."""
    with path.open("rb") as file:
        start = file.read(64)
    return not start or start.lower().startswith(b"<!doctype html")


def page_title(path: str) -> str:
    """Return the name that a page has for a source: its last folder and its name.

    >>> page_title("/home/me/models/bert/model.safetensors")
    'bert/model.safetensors'
    >>> page_title("https://user:secret@host/bert/model.safetensors?signature=secret")
    'bert/model.safetensors'
    """
    from bridge_core.io import scheme_of, shown_url

    path = shown_url(path).partition("://")[2] if scheme_of(path) else path
    return "/".join(part for part in Path(path).parts[-2:] if part not in ("/", "\\"))


def write_page(name: str, text: str, *, overwrite: bool) -> None:
    """Write a page that appears when it is complete, or not at all.

    Args:
        name: The file.
        text: The page.
        overwrite: Whether an existing file may be replaced.
    """
    from bridge_core.io import replacing_file

    with replacing_file(Path(name), overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
