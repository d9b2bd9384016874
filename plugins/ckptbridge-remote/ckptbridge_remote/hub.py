"""The Hugging Face hub: ``hf://org/repo[@revision]/path``."""

from __future__ import annotations

from collections.abc import Sequence

from bridge_core.io import RangeAnswer, RemoteEntry

__all__ = ["Hub"]


class Hub:
    """The Hugging Face hub, over huggingface_hub."""

    name = "hub"
    schemes: tuple[str, ...] = ("hf",)

    def pinned(self, url: str) -> str:
        """Return the URL at the commit that its revision names now."""
        raise NotImplementedError

    def entry(self, url: str) -> RemoteEntry | None:
        """Return the file or folder at a URL; None for nothing."""
        raise NotImplementedError

    def entries(self, url: str) -> Sequence[RemoteEntry] | None:
        """Return the files and folders directly in a folder."""
        raise NotImplementedError

    def read(self, url: str, start: int, nbytes: int, entry: RemoteEntry) -> RangeAnswer:
        """Return one range of a file."""
        raise NotImplementedError
