"""The config of a part of a checkpoint: fewer layers, fewer experts, a smaller vocabulary.

Which entries change is not guessed by model family. An entry is a candidate if, by its name, it counts
layers, experts or rows, and its value is the number that the checkpoint had of something that the part has
fewer of. The config that is written is one whose model has exactly the names and shapes of the part.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from bridge_core import FlatState, Key, UsageError
from ckptbridge_transformers.classes import quiet

__all__ = ["config_of_part", "ids_within", "with_values"]

_LAYERS = frozenset(
    {
        "decoder_layers",
        "encoder_layers",
        "n_layer",
        "n_layers",
        "num_decoder_layers",
        "num_encoder_layers",
        "num_hidden_layers",
        "num_layers",
    }
)
_EXPERTS = frozenset({"moe_num_experts", "n_routed_experts", "num_experts", "num_local_experts"})
_CHOSEN_EXPERTS = frozenset({"moe_k", "moe_top_k", "num_experts_per_tok", "num_experts_per_token"})
_VOCABULARY = frozenset({"vocab_size"})
_ROWS = _VOCABULARY | {
    "max_position_embeddings",
    "max_source_positions",
    "max_target_positions",
    "n_positions",
    "type_vocab_size",
}
_COUNTS = _LAYERS | _EXPERTS | _ROWS

_INDEXES_OF_LAYERS = frozenset({"full_attn_idxs", "mlp_only_layers", "moe_layers", "cross_attention_layers"})
"""Lists of the numbers of some layers."""

_MOST_TRIED = 64
"""How many configs are tried; each makes a model without weights."""

Entry = tuple[tuple[str, ...], str]
"""Names of the configs inside of each other, and of an entry in the last."""


def config_of_part(
    stored: Mapping[str, Any],
    known: Mapping[str, Any],
    complete: FlatState,
    part: FlatState,
    describe: Callable[[Mapping[str, Any]], FlatState],
) -> dict[str, Any] | None:
    """Return the config whose model has the names and shapes of a part of a checkpoint; None if none has.

    Args:
        stored: The config in the checkpoint's folder.
        known: The same with the entries that the library adds where the file has none.
        complete: The checkpoint.
        part: The part of it.
        describe: Returns the names, shapes and ties of the model of a config.
    """
    sizes = _sizes(complete, part)
    candidates = [
        (entry, new)
        for entry, value in _counts(stored, known)
        for old, new in sizes
        if type(value) is int and value == old
    ]
    entries = dict.fromkeys(entry for entry, _ in candidates)
    choices = [[None, *(new for other, new in candidates if other == entry)] for entry in entries]
    assignments = itertools.islice(itertools.product(*choices), _MOST_TRIED * 16)
    by_number = sorted(assignments, key=lambda values: sum(value is not None for value in values))
    for values in by_number[1 if sizes else 0 : _MOST_TRIED]:
        changes = {entry: new for entry, new in zip(entries, values, strict=True) if new is not None}
        config = with_values(stored, known, changes)
        with quiet():
            try:
                described = describe(config)
            except UsageError:  # the class cannot be built from it
                continue
        if _fits(described, complete, part):
            return config
    return None


def _sizes(complete: FlatState, part: FlatState) -> list[tuple[int, int]]:
    """Return (number in the checkpoint, number in the part) of what the part has fewer of, each once."""
    sizes: dict[tuple[int, int], None] = {}
    of_whole, of_part = _numbers(complete), _numbers(part)
    for path, numbers in of_part.items():
        if len(numbers) < len(of_whole[path]) and numbers == set(range(len(numbers))):
            sizes[len(of_whole[path]), len(numbers)] = None
    for key, spec in part.specs().items():
        for old, new in zip(complete.spec(key).shape, spec.shape, strict=True):
            if new < old:
                sizes[old, new] = None
    return list(sizes)


def _numbers(state: Iterable[Key]) -> dict[Key, set[int]]:
    """Return the numbers of the entries of each list."""
    numbers: dict[Key, set[int]] = {}
    for key in state:
        for at, text in enumerate(key):
            if text.isascii() and text.isdecimal() and len(text) < 9:
                numbers.setdefault(key[:at], set()).add(int(text))
    return numbers


def _counts(stored: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[Entry, Any]]:
    """Yield the entries of a config, and of those inside of it, that count something."""
    for name, value in {**known, **stored}.items():
        if name in _COUNTS:
            yield ((), name), value
        elif isinstance(value, Mapping):
            inner = known.get(name)
            for (path, entry), count in _counts(value, inner if isinstance(inner, Mapping) else {}):
                yield ((name, *path), entry), count


def with_values(
    stored: Mapping[str, Any], known: Mapping[str, Any], changes: Mapping[Entry, int]
) -> dict[str, Any]:
    """Return a config with some counts changed, and with what depends on them cut to fit.

    Args:
        stored: The config.
        known: The same with the entries that the library adds.
        changes: Entry -> new value.
    """
    config = dict(stored)
    own = {name: value for (path, name), value in changes.items() if not path}
    config.update(own)
    for name, new in own.items():
        old = stored.get(name, known.get(name))
        if name in _LAYERS:
            for other, value in stored.items():
                if isinstance(value, list) and other in _INDEXES_OF_LAYERS:
                    config[other] = [n for n in value if not (isinstance(n, int) and n >= new)]
                elif isinstance(value, list) and len(value) == old and _is_by_layer(other):
                    config[other] = value[:new]
        elif name in _EXPERTS:
            for other in _CHOSEN_EXPERTS:
                value = stored.get(other, known.get(other))
                if type(value) is int and value > new:
                    config[other] = new
        elif name in _VOCABULARY:
            config.update(ids_within(config, new))
    for inside in dict.fromkeys(path[0] for path, _ in changes if path):
        inner = {(path[1:], name): new for (path, name), new in changes.items() if path[:1] == (inside,)}
        of_known = known.get(inside)
        value = stored.get(inside)
        config[inside] = with_values(
            value if isinstance(value, Mapping) else {},
            of_known if isinstance(of_known, Mapping) else {},
            inner,
        )
    return config


def _is_by_layer(name: str) -> bool:
    return "layer" in name or "block" in name


def ids_within(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the ids of special tokens that a smaller vocabulary does not have, as none."""
    return {
        name: None
        for name, value in config.items()
        if name.endswith("_token_id")
        and any(type(one) is int and one >= size for one in (value if isinstance(value, list) else [value]))
    }


def _fits(described: FlatState, complete: FlatState, part: FlatState) -> bool:
    """Return whether a part is all that a model stores, as far as the checkpoint has it.

    What the checkpoint does not store either, such as a tied tensor, the model makes itself.
    """
    ties = described.metadata.ties
    prefix = _prefix(described, complete)
    names = {prefix(key): key for key in described}
    for name, key in names.items():
        if name in part:
            if part.spec(name).shape != described.spec(key).shape:
                return False
        elif name in complete or (
            key in ties and prefix(ties[key]) in complete and prefix(ties[key]) not in part
        ):
            return False
    return all(name in names or name[-1] in _OF_OLD_RELEASES for name in part) and any(
        n in part for n in names
    )


_OF_OLD_RELEASES = frozenset({"position_ids", "inv_freq", "masked_bias"})
"""Buffers that old releases stored, and that a model makes itself."""


def _prefix(described: FlatState, complete: FlatState) -> Callable[[Key], Key]:
    """Return how names of a model become those of a checkpoint: unchanged, or with one part more or less."""
    ways: list[Callable[[Key], Key]] = [lambda key: key]
    ways += [lambda key, first=first: (first, *key) for first in dict.fromkeys(key[0] for key in complete)]  # type: ignore[misc]
    ways.append(lambda key: key[1:])
    return max(ways, key=lambda way: sum(way(key) in complete for key in described))
