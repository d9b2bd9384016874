"""The parts of an ``hf://`` URL, and the addresses of the hub that belong to them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from bridge_core import UsageError
from bridge_core.io import shown_url

__all__ = ["HubPlace"]

_KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
_NOT_READ = ("buckets", "kernels")
_SEGMENT = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
_SPECIAL_REVISION = re.compile(r"refs/(?:convert/\w+|pr/\d+)(?=/|$)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
_EXPECTED = "Write hf://org/model/path or hf://org/model@revision/path; hf://datasets/org/name of a data set."


@dataclass(frozen=True)
class HubPlace:
    """A file or folder in a repository of the hub.

    Args:
        kind: ``"model"``, ``"dataset"`` or ``"space"``.
        repo: ``org/name``; ``name`` for the oldest models and data sets.
        revision: A branch, a tag or a commit; None for the default branch.
        path: The path in the repository, decoded; empty for its root.
    """

    kind: str
    repo: str
    revision: str | None
    path: str

    @classmethod
    def parse(cls, url: str) -> HubPlace:
        """Return the parts of a URL, read as huggingface_hub's own file system reads it.

        Without a revision the repository is ``org/name``; `without_organization` is the other reading.

        Raises:
            UsageError: It is not the URL of a repository, or of a place in one.
        """

        def refusal(problem: str) -> UsageError:
            return UsageError(problem, path=shown_url(url), hint=_EXPECTED)

        text = url.partition("://")[2]
        if "?" in text or "#" in text:
            raise refusal("an hf:// URL has neither a query nor a fragment; write ? as %3F, and # as %23.")
        first, _, rest = text.partition("/")
        if first in _NOT_READ:
            raise refusal(f"expected a model, a data set or a space, got one of the hub's {first}.")
        kind = "model"
        if first in _KINDS:
            kind, text = _KINDS[first], rest
        before, at, after = text.partition("@")
        if at and before.startswith("hf_"):
            problem = "a token does not belong into a URL. Set HF_TOKEN, or run: hf auth login."
            raise UsageError(problem, path="hf://", hint=_EXPECTED)
        revision: str | None = None
        if at and before.count("/") <= 1:
            repo = before
            special = _SPECIAL_REVISION.match(after)
            name = special[0] if special else after.partition("/")[0]
            revision, path = unquote(name), after[len(name) :]
            if not revision:
                raise refusal("the revision after @ is empty.")
        else:  # any @ belongs to the name of a file
            segments = text.split("/", 2)
            repo, path = "/".join(segments[:2]).rstrip("/"), "/".join(segments[2:])
        names = [unquote(name) for name in path.strip("/").split("/")] if path.strip("/") else []
        if not all(map(_SEGMENT.fullmatch, repo.split("/"))):
            raise refusal("the URL does not name a repository of the hub.")
        if any(name in ("", ".", "..") or "/" in name for name in names):
            raise refusal("the path in the repository is not valid: a part of it is empty, '.' or '..'.")
        return cls(kind, repo, revision, "/".join(names))

    @property
    def without_organization(self) -> HubPlace | None:
        """The other reading of a URL without a revision: the repository is its first part only."""
        first, slash, second = self.repo.partition("/")
        if not slash or self.revision is not None or self.kind == "space":
            return None
        return HubPlace(self.kind, first, None, "/".join(filter(None, (second, self.path))))

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a commit."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def at(self, commit: str) -> HubPlace:
        """Return the same place at a commit."""
        return replace(self, revision=commit)

    @property
    def url(self) -> str:
        """The URL of it."""
        revision = "" if self.revision is None else "@" + quote(self.revision, safe="")
        path = "/" + quote(self.path) if self.path else ""
        return f"hf://{self._prefix}{self.repo}{revision}{path}"

    @property
    def name(self) -> str:
        """What messages call the repository."""
        return f"the {'data set' if self.kind == 'dataset' else self.kind} {self.repo}"

    @property
    def page(self) -> str:
        """The page of the repository, below the hub's address."""
        return f"/{self._prefix}{self.repo}"

    def api(self, call: str, *, path: str = "") -> str:
        """Return the address of a call about the revision, below the hub's address.

        Args:
            call: ``"revision"``, ``"tree"`` or ``"paths-info"``.
            path: A path in the repository.
        """
        return f"{self.api_root}/{call}/{self._revision}" + ("/" + quote(path) if path else "")

    @property
    def api_root(self) -> str:
        """The address of calls about the repository, below the hub's address."""
        return f"/api/{self.kind}s/{self.repo}"

    @property
    def content(self) -> str:
        """The address of the file's content, below the hub's address."""
        return f"{self.page}/resolve/{self._revision}/{quote(self.path)}"

    @property
    def _prefix(self) -> str:
        return "" if self.kind == "model" else f"{self.kind}s/"

    @property
    def _revision(self) -> str:
        return quote(self.revision or "main", safe="")
