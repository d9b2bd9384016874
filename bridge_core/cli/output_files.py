"""Files that commands write in addition to weights: checked before the work, complete or not written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bridge_core.errors import BridgeError, DestinationExists, UsageError

__all__ = ["OutputKind", "PAGE", "RULES", "WORK_LIST", "check_output", "page_title", "write_output"]


class OutputKind(NamedTuple):
    """A kind of file that commands write.

    Args:
        what: What it is called.
        option: The option that names it.
        is_one: Returns whether a file that is not empty is of this kind.
    """

    what: str
    option: str
    is_one: Callable[[Path], bool]


def check_output(name: str, kind: OutputKind, example: str, *, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before anything else is done.

    Args:
        name: The file.
        kind: What is to be written.
        example: A file name for the hint.
        overwrite: Whether an existing file may be replaced.

    Raises:
        UsageError: The name is a URL or that of a folder, or its folder does not exist.
        DestinationExists: The file exists, and may not be replaced; a file of another kind never is.
    """
    what, option, is_one = kind
    _require_local(name, option)
    path = Path(name)
    if path.is_dir():
        raise UsageError(
            f"{option} names a folder.", path=name, hint=f"Give a file name, e.g. {option} {example}."
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"the folder of the {what} ({option}) does not exist.", path=name, hint="Create the folder first."
        )
    if path.exists() and not overwrite:
        raise DestinationExists(
            f"the {what} ({option}) exists already.",
            path=name,
            hint="Pass overwrite=True (--overwrite) to replace it.",
        )
    # Another file, such as the checkpoint, is named where the options were mixed up.
    if path.is_file() and path.stat().st_size and not is_one(path):
        raise DestinationExists(
            f"the file ({option}) exists, and is not a {what}; only a {what} is replaced.",
            path=name,
            hint=f"Give another file name, e.g. {option} {example}.",
        )


def write_output(name: str, text: str, *, overwrite: bool) -> None:
    """Write a file that appears when it is complete, or not at all.

    Args:
        name: The file.
        text: Its text.
        overwrite: Whether an existing file may be replaced.
    """
    from bridge_core.io import replacing_file

    with replacing_file(Path(name), overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


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


def _require_local(name: str, option: str) -> None:
    from bridge_core.io import scheme_of, shown_url

    if scheme_of(name) and not Path(name).exists():
        raise UsageError(
            f"expected a path on this machine as {option}, got a URL.",
            path=shown_url(name),
            hint="Write to a local path, and upload the file.",
        )


def _is_page(path: Path) -> bool:
    return _start(path).lower().startswith(b"<!doctype html")


def _is_work_list(path: Path) -> bool:
    return b'"ckptbridge work list"' in _start(path)


def _is_rules(path: Path) -> bool:
    from bridge_core.io import read_toml
    from bridge_core.rules import HEAD_KEYS

    try:
        return read_toml(str(path)).document.keys() <= set(HEAD_KEYS)
    except BridgeError:  # not a TOML file
        return False


def _start(path: Path) -> bytes:
    from bridge_core.io import system_failures

    with system_failures(path, "reading"), path.open("rb") as file:
        return file.read(64)


PAGE = OutputKind("page of HTML", "--html", _is_page)
RULES = OutputKind("rule file", "-o", _is_rules)
WORK_LIST = OutputKind("work list", "-o", _is_work_list)
