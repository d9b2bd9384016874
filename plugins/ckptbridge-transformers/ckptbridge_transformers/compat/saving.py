"""``FlaxPreTrainedModel.save_pretrained``: one file or shards, in either format, and no stale files."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from bridge_core import BridgeError, UsageError, default_registry, open_state, save_state
from bridge_core.io import files_in, names_in
from ckptbridge_transformers.compat.errors import as_before
from ckptbridge_transformers.compat.pretrained import resolved_token

__all__ = ["save_pretrained"]

_FAMILIES = {
    "msgpack": re.compile(r"flax_model(-\d+-of-\d+)?\.msgpack(\.index\.json)?"),
    "safetensors": re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
}


def save_pretrained(
    self: Any,
    save_directory: str | os.PathLike[str],
    params: Any = None,
    push_to_hub: bool = False,
    max_shard_size: int | str = "10GB",
    token: str | bool | None = None,
    safe_serialization: bool = False,
    **kwargs: Any,
) -> None:
    """Save a Flax model with its config, so that `from_pretrained` finds it.

    All weights of Flax in the folder are replaced, in either format; those of PyTorch stay, unless they have
    the names that are written.

    Args:
        self: The model.
        save_directory: The folder; it is created if it does not exist.
        params: The weights; None for the model's own.
        push_to_hub: Whether to upload the folder, with ``kwargs`` for `PushToHubMixin.push_to_hub`.
        max_shard_size: Bytes, or a text such as ``"5GB"``, above which the weights are sharded.
        token: For uploading.
        safe_serialization: Whether to write safetensors; else msgpack.
        **kwargs: ``repo_id``, ``commit_message`` and others for uploading.

    Raises:
        UsageError: There is a file at the path of the folder.
        UnreadableWeights: The system failed to write; the old weights are unchanged.
    """
    token = resolved_token(token, kwargs)
    kwargs |= {} if token is None else {"token": token}
    folder = Path(save_directory).absolute()
    if folder.is_file():
        raise UsageError(
            "expected a folder to save the model in, got a file.", path=folder, hint="Pass another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if push_to_hub:
        message = kwargs.pop("commit_message", None)
        repository = self._create_repo(kwargs.pop("repo_id", folder.name), **kwargs)
        before = self._get_files_timestamps(str(folder))
    _save_configs(self, folder)
    with as_before():
        _save_weights(
            self.params if params is None else params,
            folder,
            "safetensors" if safe_serialization else "msgpack",
            max_shard_size,
        )
    if push_to_hub:
        self._upload_modified_files(str(folder), repository, before, commit_message=message, token=token)


def _save_configs(model: Any, folder: Path) -> None:
    model.config.architectures = [type(model).__name__.removeprefix("Flax")]
    if model._auto_class is not None:
        from transformers.dynamic_module_utils import custom_object_save

        custom_object_save(model, str(folder), config=model.config)
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def _save_weights(params: Any, folder: Path, format: str, limit: int | str) -> None:
    """Write all files to a temporary folder first, and then move them into place.

    The old index is removed first and the new one is moved last, so that there is never an index with shards
    of another save.
    """
    state = default_registry().framework("flax").state(params)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as name:
        scratch = Path(name)
        save_state(state, scratch, format=format, max_shard_size=limit, overwrite=True)
        written = sorted(names_in(scratch), key=lambda name: name.endswith(".json"))
        stale = [file for file in _flax_files(folder, format) if file not in written]
        for old in folder.iterdir():
            if old.name.endswith(".index.json") and _FAMILIES[format].fullmatch(old.name):
                old.unlink()
        for new in written:
            (scratch / new).replace(folder / new)
        for gone in stale:
            (folder / gone).unlink(missing_ok=True)


def _flax_files(folder: Path, format: str) -> list[str]:
    """Return the files of weights that a save in this format supersedes."""
    names = files_in(folder)
    msgpack = [name for name in names if _FAMILIES["msgpack"].fullmatch(name)]
    safe = [name for name in names if _FAMILIES["safetensors"].fullmatch(name)]
    if format == "safetensors":
        return msgpack + safe
    heads = [name for name in safe if name in ("model.safetensors", "model.safetensors.index.json")]
    is_flax = bool(heads) and all(_is_flax(folder / name) for name in heads)
    return msgpack + safe if is_flax else msgpack


def _is_flax(path: Path) -> bool:
    try:
        with open_state(path) as state:
            return state.layout == "flax"
    except BridgeError:  # a file that cannot be read may be anything, and is not removed
        return False
