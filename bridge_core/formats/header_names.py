"""Keys and metadata of a state as flat names and texts, and back, for headers that hold no more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bridge_core.errors import KeyConflict, MalformedFile, UnsupportedFeature
from bridge_core.messages import listed
from bridge_core.state import (
    MARKER,
    FlatState,
    Key,
    StateMetadata,
    Tensor,
    Ties,
    dump_metadata,
    is_unicode,
    join_key,
    load_metadata,
    split_names,
)

__all__ = ["ORDER", "Names", "named_state", "names_of", "order_text", "texts_of"]

ORDER = f"{MARKER}.order"
"""The text with a state's order of keys, as numbers into the sorted keys."""

_Named = tuple[str | None, StateMetadata, dict[Key, Tensor]]


class Names:
    """The names under which a file stores the tensors of a state.

    Args:
        of_key: Key -> name, ties that are one tensor left out.
        tied: Key that is not stored -> key that has its tensor.
        escaped: Whether separators within a part of a key have a backslash in front.
    """

    def __init__(self, of_key: Mapping[Key, str], tied: Mapping[Key, Key], *, escaped: bool) -> None:
        self.of_key = of_key
        self.tied = tied
        self.escaped = escaped


def names_of(state: FlatState, separator: str, *, recorded: bool) -> Names:
    """Return the names of a state's tensors.

    Args:
        state: The state.
        separator: What joins the parts of keys.
        recorded: Whether the file records more than names and tensors: ties, and that names are escaped.

    Raises:
        KeyConflict: A tensor has the empty key.
        UnsupportedFeature: A name is not valid Unicode, or a part of a key holds the separator and the file
            cannot record that.
    """
    inside = [key for key in state if any(separator in part for part in key)]
    if inside and not recorded:
        raise UnsupportedFeature(
            f"this format joins the parts of keys with {separator!r}, and the part of a key holds it: "
            f"{listed(repr(key) for key in inside)}.",
            hint="Rename the tensors, or write another format.",
        )
    tied = dict(Ties.aliases(state)) if recorded else {}
    names = {}
    for key in state:
        if not key:
            raise KeyConflict("a tensor has the empty key (); a file needs a name.", hint="Rename it.")
        name = join_key(key, separator, escape=bool(inside))
        if not is_unicode(name):
            raise UnsupportedFeature(
                f"the name {name!r} holds a lone surrogate, which cannot be stored as UTF-8.",
                hint="Rename the tensor.",
            )
        if key not in tied:
            names[key] = name
    return Names(names, tied, escaped=bool(inside))


def texts_of(state: FlatState, *, escaped: bool) -> dict[str, str]:
    """Return the texts that record layout, metadata and ties, and those of the metadata's ``extra``.

    Raises:
        KeyConflict: ``extra`` has a name that is reserved.
        UnsupportedFeature: ``extra`` holds what is not valid Unicode.
    """
    metadata = state.metadata
    for name, text in metadata.extra.items():
        if name in (MARKER, ORDER):
            raise KeyConflict(
                f"the name {name!r} in metadata.extra is reserved for the bridge's metadata.",
                hint="Rename or remove it.",
            )
        if not (is_unicode(name) and is_unicode(text)):
            raise UnsupportedFeature(
                f"metadata.extra[{name!r}] holds a lone surrogate, which cannot be stored as UTF-8.",
                hint="Change the text.",
            )
    ties = {key: other for key, other in metadata.ties.items() if key in state and other in state}
    text = dump_metadata(state.layout, metadata.with_(ties=ties), escaped_names=escaped)
    return {MARKER: text, **metadata.extra}


def order_text(state: Iterable[Key]) -> str:
    """Return the text that records the order of keys."""
    keys = list(state)
    numbers = {key: number for number, key in enumerate(sorted(keys))}
    return " ".join(str(numbers[key]) for key in keys)


def named_state(
    tensors: Mapping[str, Tensor], texts: Mapping[str, str], *, layout: str | None, separator: str, path: str
) -> _Named:
    """Return layout, metadata and key -> tensor of a file.

    Args:
        tensors: Name -> tensor.
        texts: The texts in the file.
        layout: The layout where the texts do not record one.
        separator: What joins the parts of keys.
        path: The file, for errors.

    Raises:
        MalformedFile: The texts do not fit the tensors.
        KeyConflict: Two names give one key.
    """
    extra = dict(texts)
    marker = extra.pop(MARKER, None)
    order = extra.pop(ORDER, None) if marker is not None else None
    metadata, escaped = StateMetadata(), False
    if marker is not None:
        layout, metadata, escaped = load_metadata(marker, path=path)
    keyed = dict(zip(split_names(tensors, separator, escaped=escaped), tensors.values(), strict=True))
    if len(keyed) != len(tensors):
        raise KeyConflict("two names in the header give one key.", path=path)
    missing = {key: other for key, other in metadata.ties.items() if key not in keyed}
    ends = Ties(missing)
    for key in missing:
        end = ends.root(key)
        if end not in keyed:
            raise MalformedFile(
                f"the tensor is tied to {join_key(end)!r}, which is not in the file.", path=path, key=key
            )
        keyed[key] = keyed[end]
    if order is not None:
        keyed = {key: keyed[key] for key in _in_order(order, keyed, path)}
    return layout, metadata.with_(extra=extra), keyed


def _in_order(order: str, keyed: Iterable[Key], path: str) -> list[Key]:
    keys = sorted(keyed)
    try:
        numbers = list(map(int, order.split(" ") if order else ()))
    except ValueError:
        numbers = []
    if sorted(numbers) != list(range(len(keys))):
        raise MalformedFile(
            f"expected each number from 0 to {len(keys) - 1} once in {ORDER!r}, the order of the tensors.",
            path=path,
            hint="Another program may have edited the file: write it again without its metadata.",
        )
    return [keys[number] for number in numbers]
