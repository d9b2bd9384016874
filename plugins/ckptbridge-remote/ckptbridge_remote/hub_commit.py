"""Writing to the hub: the files of a folder as one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bridge_core.errors import BridgeError, RemoteFailure, UsageError
from ckptbridge_remote.hub_client import Answer, HubClient, of_network
from ckptbridge_remote.hub_place import HubPlace
from ckptbridge_remote.hub_refusals import failed_transfer, refusal

__all__ = ["commit_folder"]

_MESSAGE = "Add weights converted by ckptbridge"


def commit_folder(
    client: HubClient, place: HubPlace, folder: Path, names: Sequence[str], removed: Sequence[str] = ()
) -> str:
    """Upload files of a local folder as one commit, and return the URL of the folder at that commit.

    huggingface_hub sends the large files first; only the last request, the commit, changes the repository.

    Args:
        client: The hub, and the token.
        place: The folder in the repository; its revision is a branch.
        folder: The local folder.
        names: Paths of the files below it.
        removed: Names of files in the repository's folder that the commit removes.

    Raises:
        UsageError: The revision is a commit.
        SourceNotFound: The repository or the branch does not exist.
        AccessDenied: The token does not permit writing.
        RemoteFailure: The upload failed; nothing was committed.
    """
    if place.is_pinned:
        raise UsageError(
            f"cannot write to the commit {place.revision}: a commit does not change.",
            path=place.url,
            hint="Give a branch, such as hf://org/model@main, or no revision.",
        )
    client.online(place.url)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    prefix = f"{place.path}/" if place.path else ""
    try:
        commit = HfApi(endpoint=client.endpoint, token=client.token, library_name="ckptbridge").create_commit(
            place.repo,
            [
                *(CommitOperationAdd(prefix + name, str(folder / name)) for name in names),
                *(CommitOperationDelete(prefix + name) for name in removed),
            ],
            commit_message=_MESSAGE,
            repo_type=place.kind,
            revision=place.revision,
        )
    except Exception as error:
        failure = _failure(error, client, place)
        if failure is None:
            raise
        raise failure from None
    return replace(place, revision=commit.oid).url


def _failure(error: BaseException, client: HubClient, place: HubPlace) -> BridgeError | None:
    """Return the error that an exception of huggingface_hub is; None if it is not about the upload.

    It hides the cause of a failed large file behind a RuntimeError, whose text has the signed address.
    """
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if response is not None:
            answer = Answer(response.status_code, response.headers, str(response.url), response)
            if client.is_hub(answer.url):
                return refusal(place, answer, client, writing=True)
            return failed_transfer(answer, place.url)
        if type(cause).__module__ != "builtins" or isinstance(cause, ConnectionError | TimeoutError):
            failure = of_network(cause, "the hub", place.url)
            if failure is not None:
                return failure
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, ValueError | RuntimeError):
        return RemoteFailure(
            f"the hub refused the upload ({type(error).__name__}); nothing was committed.", path=place.url
        )
    return None
