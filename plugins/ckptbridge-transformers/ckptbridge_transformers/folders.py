"""The sidecar files of a checkpoint folder: what belongs to the model in addition to its weights."""

from __future__ import annotations

from pathlib import PurePath

from bridge_core.errors import AccessDenied, NeedsLocalPath
from bridge_core.io import Location, exists_beside, names_in

__all__ = ["files_beside"]

_SUFFIXES = frozenset({".bpe", ".codes", ".jinja", ".json", ".model", ".spm", ".tiktoken", ".txt", ".vocab"})
_NAMES = frozenset({"LICENSE", "LICENSE.md", "NOTICE", "README.md"})
_OF_TRAINING = frozenset(
    {"all_results.json", "eval_results.json", "train_results.json", "trainer_state.json"}
)


def files_beside(folder: Location) -> tuple[str, ...]:
    """Return the names of a folder's config, tokenizer, processor, licence and model card, sorted.

    Code, weights, their indexes and the files of a training run are excluded. Of a folder at a URL that its
    server does not list, it is the config only.
    """
    try:
        names = names_in(folder)
    except (AccessDenied, NeedsLocalPath):
        return ("config.json",) if exists_beside(folder / "config.json") else ()
    return tuple(name for name in names if _belongs(name) and (folder / name).is_file())


def _belongs(name: str) -> bool:
    if name.startswith(".") or name in _OF_TRAINING or name.endswith(".index.json"):
        return False
    if ".safetensors.index" in name or ".bin.index" in name or ".msgpack.index" in name:
        return False
    return name in _NAMES or PurePath(name).suffix in _SUFFIXES
