"""Laying out a file of a header and tensors, and reading the new header before a byte of it is written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from bridge_core.errors import LimitExceeded, PluginError, TruncatedFile
from bridge_core.formats.file_layout import Extent, FileImage
from bridge_core.formats.header_reader import HeaderSource, StoredTensor
from bridge_core.formats.header_tensors import Placed
from bridge_core.messages import shown
from bridge_core.state import Key, TensorSpec

__all__ = ["Draft", "Layout", "check_read_back", "place_tensors"]

_MOST_ROUNDS = 100
"""Headers that are made until one fits before its tensors; offsets in decimal digits need two or three."""

_Make = Callable[[tuple[StoredTensor, ...]], bytes]


class Draft:
    """A file whose header is known and whose tensors are not written yet.

    Args:
        name: What errors call it.
        head: The magic and the header.
        size: Bytes of the complete file.
    """

    def __init__(self, name: str, head: bytes, size: int) -> None:
        self.name = name
        self.head = head
        self.size = size

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return bytes of the header.

        Raises:
            TruncatedFile: They are not in the header.
        """
        if offset + nbytes > len(self.head):
            raise TruncatedFile(
                f"reading the header ends at byte {offset + nbytes}; make_header ends it at byte "
                f"{len(self.head)}.",
                path=self.name,
            )
        return self.head[offset : offset + nbytes]


@dataclass(frozen=True)
class Layout:
    """A draft, and where the tensors go.

    Args:
        draft: The header.
        offsets: Name -> first byte.
    """

    draft: Draft
    offsets: Mapping[str, int]

    def image(self, specs: Mapping[str, TensorSpec], keys: Mapping[str, Key]) -> FileImage:
        """Return the file for `WriteTarget.fill`."""
        return FileImage(
            size=self.draft.size,
            segments=((0, self.draft.head),),
            slots={keys[name]: (Extent(0, specs[name].nbytes, at),) for name, at in self.offsets.items()},
        )


def place_tensors(
    specs: Mapping[str, tuple[TensorSpec, Hashable]],
    make: _Make,
    *,
    name: str,
    magic: bytes,
    alignment: int,
    limit: int,
) -> Layout:
    """Return the layout of a file: magic, header, and the tensors in their order.

    The header holds the places of the tensors, which begin behind it: it is made again until both agree.

    Args:
        specs: Name -> spec, and the dtype as the file spells it.
        make: Returns the header for tensors with their places.
        name: The format, for errors.
        magic: The first bytes of the file.
        alignment: Bytes of which each tensor's place is a multiple.
        limit: The most bytes that the header may have.

    Raises:
        PluginError: ``make`` does not return bytes, or its headers grow without end.
        LimitExceeded: The header is too large.
    """
    places, length = [], 0
    for spec, _ in specs.values():
        length += -length % alignment
        places.append(length)
        length += spec.nbytes
    start = 0
    for _ in range(_MOST_ROUNDS):
        offsets = {one: start + place for one, place in zip(specs, places, strict=True)}
        header = make(
            tuple(
                StoredTensor(one, code, spec.shape, offsets[one], spec.nbytes)
                for one, (spec, code) in specs.items()
            )
        )
        if not isinstance(header, bytes | bytearray):
            raise PluginError(f"{name}.make_header returned {shown(header)}; expected bytes.")
        if len(header) > limit:
            raise LimitExceeded(
                f"expected a header of at most {limit} bytes, as the format's readers accept, got "
                f"{len(header)}.",
                hint='Write shards with max_shard_size="5GB" (--max-shard-size).',
            )
        head = magic + header
        needed = len(head) + -len(head) % alignment
        if needed <= start:
            size = start + length if specs else len(head)
            return Layout(Draft(f"new {name} file", head, size), offsets)
        start = needed
    raise PluginError(
        f"{name}.make_header returned a longer header each time, {_MOST_ROUNDS} times.",
        hint="Let it return the same number of bytes for offsets of equally many digits.",
    )


def check_read_back(
    read: Callable[[HeaderSource], tuple[Mapping[str, Placed], Mapping[str, str]]],
    layout: Layout,
    specs: Mapping[str, TensorSpec],
    texts: Mapping[str, str],
    *,
    name: str,
) -> list[str]:
    """Check that a new header is read as it was meant, before anything is written.

    Returns:
        The names of the tensors in the order in which they were read.

    Raises:
        PluginError: It is not; ``read_header`` and ``make_header`` of the format do not fit.
    """
    try:
        placed, got_texts = read(layout.draft)
    except MemoryError:
        raise
    except Exception as err:
        raise _misfit(name, f"it is refused: {err}") from err
    for one, spec in specs.items():
        expected = (spec, layout.offsets[one])
        if one not in placed:
            raise _misfit(name, f"the tensor {one!r} is missing")
        if placed[one] != expected:
            got, at = placed[one]
            raise _misfit(
                name, f"the tensor {one!r} is {got} at byte {at}; expected {spec} at byte {expected[1]}"
            )
    for more in (one for one in placed if one not in specs):
        raise _misfit(name, f"the tensor {more!r} is one more than was to be written")
    for one in {**texts, **got_texts}:
        if texts.get(one) != got_texts.get(one):
            raise _misfit(
                name, f"the text {one!r} is {shown(got_texts.get(one))}; expected {shown(texts.get(one))}"
            )
    return list(placed)


def _misfit(name: str, what: str) -> PluginError:
    return PluginError(
        f"{name}.read_header does not read what {name}.make_header returns: {what}.",
        hint="Correct one of the two methods; nothing was written.",
    )
