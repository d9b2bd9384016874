"""Files that hold only a part of a model, recognised by their names and by the files next to them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bridge_core.checkpoint.own_files import way_to_finish
from bridge_core.formats import shard_name
from bridge_core.io import Location, names_beside

__all__ = ["Part", "part_of"]


@dataclass(frozen=True)
class Part:
    """Why a file holds only a part of a model, and what to do.

    Args:
        what: What the file is, as the rest of a sentence about it.
        way_on: What to do, as sentences.
        tensors: The part of the model's tensors that it holds: ``"some"``, each complete; ``"slices"`` of
            tensors, so that no tensor is right by itself; or ``"changes"`` to the weights of a base model.
    """

    what: str
    way_on: str
    tensors: Literal["some", "slices", "changes"] = "slices"


_MERGE = "Merge the parts with the tool that wrote them first, and convert the result."


def part_of(path: Location) -> Part | None:
    """Return which part of a model a file is, or None if names show no part.

    A name shows it by itself (``model-00001-of-00003.safetensors``), or together with the names next to it:
    a ``consolidated.00.pth`` is complete unless there is a ``consolidated.01.pth``.
    """
    return _shard(path) or _adapter(path) or _one_rank(path) or _numbered(path) or _ranked_folder(path)


def _shard(path: Location) -> Part | None:
    shard = shard_name(path.name)
    if shard is None or shard.total < 2:
        return None
    names = names_beside(path)
    indexes = [name for name in names if name.startswith(shard.head.rstrip("-_.")) and "index" in name]
    index = next((name for name in indexes if name.endswith(".json")), None)
    if index:
        way_on = f"Give the index, {path.with_name(index)}, or the folder."
    elif finish := way_to_finish(names):
        way_on = f"The conversion that writes its folder is not finished. {finish}"
    else:
        way_on = "Download the other shards and the index (*.index.json), and give the index or the folder."
    what = f"is shard {shard.number} of {shard.total}, which holds only some of the model's tensors"
    return Part(what, way_on, "some")


_ADAPTERS = ("adapter_model", "adapters", "pytorch_lora_weights")
"""File names, without the suffix, that PEFT, MLX and diffusers give adapters."""


def _adapter(path: Location) -> Part | None:
    if path.stem not in _ADAPTERS or path.suffix == ".json":
        return None
    return Part(
        "is an adapter, which holds changes to the weights of a base model",
        "Merge it into its base model first (PEFT's merge_and_unload, or diffusers' fuse_lora), save the "
        "merged model, and convert that.",
        "changes",
    )


@dataclass(frozen=True)
class _Numbered:
    """Names with a number that are those of parts if a name next to them has another number.

    Args:
        pattern: The name; its group ``n`` is the number.
        what: What each part holds.
        way_on: What to do.
        counted: Whether a number above zero shows by itself that there are more parts.
        from_zero: Whether the parts count only if there is a part 0: a number may mean something else.
    """

    pattern: str
    what: str
    way_on: str
    counted: bool = False
    from_zero: bool = False


_SETS = (
    _Numbered(
        r"consolidated[._-](?P<n>\d+)\.(pth|pt|bin|safetensors)",
        "a slice of every tensor",
        "Merge the parts with the model family's own tool first, as transformers' "
        "convert_llama_weights_to_hf.py does for Llama, and convert the folder that it writes.",
        counted=True,
    ),
    _Numbered(
        r"mp_rank_(?P<n>\d+(_\d+)?)_(?P<t>(model|optim)_states\.pth?)",
        "a slice of the tensors, for one device",
        "Merge the ranks with the tools of Megatron or DeepSpeed first, and convert the result.",
        counted=True,
    ),
    _Numbered(
        r"layer_(?P<n>\d+-model_\d+)-model_states\.pth?",
        "the tensors of one layer",
        "Merge the layers with the tools of Megatron or DeepSpeed first, and convert the result.",
        counted=True,
    ),
    _Numbered(
        r"(?P<h>|.*[._-])(part|shard|slice|chunk|piece)[._-]?(?P<n>\d+)(?P<t>|\D.*)",
        "only a part of the tensors",
        f"{_MERGE} If each file is a complete model, move the one to convert to a folder of its own.",
    ),
    _Numbered(
        r"(?P<h>|.*[._-])(rank|[tp]p)[._-]?(?P<n>\d+)(?P<t>|\D.*)",
        "what one rank holds of the tensors",
        f"{_MERGE} If each file is a complete model, move the one to convert to a folder of its own.",
        from_zero=True,
    ),
)


def _numbered(path: Location) -> Part | None:
    for kind in _SETS:
        match = _match(kind.pattern, path.name)
        if match is None:
            continue
        others = _other_numbers(kind.pattern, match, names_beside(path))
        starts = {_first(other) for other in (match["n"], *others)}
        if (kind.from_zero and 0 not in starts) or not (others or (kind.counted and starts != {0})):
            return None
        other = f"; {min(others.values())} is next to it" if others else ""
        return Part(f"is one part of several, and holds {kind.what}{other}", kind.way_on)
    return None


def _other_numbers(pattern: str, one: re.Match[str], names: Iterable[str]) -> dict[str, str]:
    """Return number -> file name, of the names that differ from one only in the number."""

    def rest(match: re.Match[str]) -> list[str]:
        return [text for group, text in match.groupdict().items() if group != "n"]

    matches = (match for name in names if (match := _match(pattern, name)) is not None)
    return {
        match["n"]: match.string for match in matches if match["n"] != one["n"] and rest(match) == rest(one)
    }


def _match(pattern: str, name: str) -> re.Match[str] | None:
    """Match a complete name; for a name without digits, as most are, no pattern is compiled."""
    return re.fullmatch(pattern, name, re.IGNORECASE) if any(map(str.isdigit, name)) else None


def _first(numbers: str) -> int:
    return int(re.split(r"\D", numbers, maxsplit=1)[0])


_RANKS: tuple[tuple[str, str, str], ...] = (
    (
        r".*model\d+-mp([2-9]|\d{2,})\.safetensors",
        "a slice of the tensors, for one device",
        "Convert the checkpoint that the parts were made from.",
    ),
    (
        r"(bf16_|fp16_)?zero_pp_rank_\d+_.*",
        "what one rank of DeepSpeed's ZeRO holds",
        "Merge the ranks with zero_to_fp32.py, which DeepSpeed puts next to the checkpoint, and convert the "
        "result.",
    ),
    (
        r"__\d+_\d+\.distcp",
        "what one rank of a distributed torch checkpoint (DCP) holds",
        "Turn the folder into one file with torch.distributed.checkpoint.format_utils.dcp_to_torch_save.",
    ),
)
"""Names that show by themselves that there are more parts, what each file holds, and what to do."""


def _one_rank(path: Location) -> Part | None:
    for pattern, what, way_on in _RANKS:
        if _match(pattern, path.name):
            return Part(f"is one part of several, and holds {what}", way_on)
    return None


_RANK_FOLDER = r"(mp|tp)_rank_\d+(_(pp_rank_)?\d+)*"


def _ranked_folder(path: Location) -> Part | None:
    """Return the part for a file in one of Megatron's folders: one for each rank, with equal file names."""
    folder = path.absolute().parent
    if not _match(_RANK_FOLDER, folder.name):
        return None
    others = [name for name in names_beside(folder) if _match(_RANK_FOLDER, name) and name != folder.name]
    if not others:
        return None
    return Part(
        f"is one part of several, and holds a slice of the tensors, for one device; {min(others)} is next to "
        "its folder",
        "Merge the ranks with the tools of Megatron first, and convert the result.",
    )
