"""A base class for formats of one kind: a magic, a header, and the bytes of the tensors.

Its author writes how a header is read and how it is made. What a header holds is untrusted, and what a format
declares is easily wrong; so checks, capabilities, streaming, names, ties and metadata are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from bridge_core.errors import BridgeError, MalformedFile, PluginError, UnsupportedFeature
from bridge_core.formats.base import Capabilities, ShardNames, WriteTarget
from bridge_core.formats.header_layout import Layout, check_read_back, place_tensors
from bridge_core.formats.header_names import ORDER, named_state, names_of, order_text, texts_of
from bridge_core.formats.header_reader import HeaderReader, HeaderSource, StoredTensor
from bridge_core.formats.header_tensors import Placed, checked_texts, placed_tensors
from bridge_core.io import SourceFile
from bridge_core.messages import count, listed, nearest, shown
from bridge_core.state import (
    DTYPES,
    PACKED,
    FileTensor,
    FlatState,
    Tensor,
    TensorSpec,
    checked_bools,
    join_key,
)

__all__ = ["HeaderFormat"]

_BOOL = DTYPES["bool"]
_NARROW = {*PACKED, "float6_e2m3fn", "float6_e3m2fn"}
"""Dtypes of less than a byte, of which files hold several elements in a byte."""
_DECLARED = ("name", "extensions", "magic", "dtypes")


class HeaderFormat(ABC):
    """A format whose files begin with a magic and a header; a base class of plugins.

    A subclass declares ``name``, ``extensions``, ``magic`` and ``dtypes``, and has two methods, `read_header`
    and `make_header`. The rest follows: the file is recognised by its magic, opened without reading values,
    written by several threads in bounded memory. Every place in a header is checked against the file before
    it is used, and every new header is read back before a byte is written, so that a format whose two
    methods do not fit refuses to write.

    Attributes:
        name: Short name, e.g. ``"toy"``.
        extensions: Suffixes of files, the usual one first.
        magic: The bytes that every file begins with, at least four.
        dtypes: Dtype as the file spells it -> name of the dtype in numpy or ml_dtypes; or only the names,
            if the file spells them so. Values are stored in little-endian order.
        metadata: Whether the header has a place for texts, which keep layout, ties and other metadata.
        layout: The layout of files that do not record theirs; needed if ``metadata`` is False.
        separator: What joins the parts of keys in names.
        alignment: Bytes of which the place of each tensor in a new file is a multiple.
        header_limit: The most bytes of a header; parsed, it may take many times as much memory.
        names: Usual names in a folder; None for ``model`` with the first of ``extensions``.
        capabilities: Follows from the declarations.
    """

    name: str
    extensions: tuple[str, ...]
    magic: ClassVar[bytes]
    dtypes: ClassVar[Mapping[Any, str] | Collection[str]]
    metadata: ClassVar[bool] = True
    layout: str | None = None
    separator: ClassVar[str] = "."
    alignment: ClassVar[int] = 64
    header_limit: ClassVar[int] = 32_000_000
    names: ShardNames | None = None
    capabilities: Capabilities

    _codes: ClassVar[Mapping[Hashable, np.dtype[Any]]]
    _usual_names: ClassVar[ShardNames | None] = None

    def __init_subclass__(cls) -> None:
        """Check what a subclass declares, and derive the rest.

        Raises:
            PluginError: A declaration is missing or wrong.
        """
        super().__init_subclass__()
        if not any(hasattr(cls, name) for name in _DECLARED):
            return  # a base class of several formats
        _check_declarations(cls)
        dtypes = cls.dtypes
        pairs = dtypes.items() if isinstance(dtypes, Mapping) else ((name, name) for name in sorted(dtypes))
        cls._codes = {code: DTYPES[dtype] for code, dtype in pairs}
        cls.capabilities = Capabilities(
            lazy=True,
            sliceable=True,
            streaming_write=True,
            dtypes=frozenset(dtype.name for dtype in cls._codes.values()),
            metadata=cls.metadata,
            nested=cls.metadata,
        )
        if cls.names is cls._usual_names:  # and not those that the author declared
            suffix = cls.extensions[0]
            cls.names = cls._usual_names = ShardNames(
                f"model{suffix}",
                f"model-{{index:05d}}-of-{{count:05d}}{suffix}",
                f"model{suffix}.index.json",
                separator=cls.separator,
                ties="dropped" if cls.metadata else "copied",
            )

    @abstractmethod
    def read_header(self, header: HeaderReader) -> tuple[Iterable[StoredTensor], Mapping[str, str]]:
        """Return what the header holds: the tensors in their order, and the texts.

        The header is untrusted. Its values may be returned unchecked: types, sizes and places are checked
        afterwards, and a `KeyError`, `TypeError` or the like becomes a `MalformedFile`.

        Args:
            header: Reads from the first byte behind the magic on.
        """

    @abstractmethod
    def make_header(self, tensors: tuple[StoredTensor, ...], texts: Mapping[str, str]) -> bytes:
        """Return the header, without the magic, that `read_header` reads.

        It may be called several times, since a longer header moves the tensors behind it.

        Args:
            tensors: Names, dtypes as the file spells them, shapes and places.
            texts: What else to store, name -> text; empty if ``metadata`` is False.
        """

    def sniff(self, file: SourceFile) -> bool:
        """Return whether the file begins with the magic."""
        return file.size >= len(self.magic) and file.read(0, len(self.magic)) == self.magic

    def open(self, file: SourceFile) -> FlatState:
        """Open lazily.

        Raises:
            BadInputError: The file is damaged, or holds what is not supported.
        """
        placed, texts = self._read(file)
        tensors = {name: _tensor(file, spec, offset, name) for name, (spec, offset) in placed.items()}
        layout, metadata, keyed = named_state(
            tensors, texts, layout=self.layout, separator=self.separator, path=file.name
        )
        return FlatState(keyed, layout=layout, metadata=metadata, close=file.close)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write the header, then the tensors.

        Raises:
            UnsupportedFeature: A dtype, a name or the layout cannot be stored.
            KeyConflict: A tensor has the empty key, or a name is reserved.
            LimitExceeded: The header would be larger than ``header_limit``.
            PluginError: `read_header` does not read what `make_header` returns.
        """
        code_of: dict[np.dtype[Any], Hashable] = {}
        for code, dtype in self._codes.items():
            code_of.setdefault(dtype, code)
        self._check_storable(state)
        names = names_of(state, self.separator, recorded=self.metadata)
        texts = texts_of(state, escaped=names.escaped) if self.metadata else {}
        specs = {name: state.spec(key) for key, name in names.of_key.items()}
        keys = {name: key for key, name in names.of_key.items()}
        coded = {name: (spec, code_of[spec.dtype]) for name, spec in specs.items()}
        layout, order = self._lay_out(coded, texts)
        if self.metadata and [*map(keys.__getitem__, order), *names.tied] != list(state):
            layout, _ = self._lay_out(coded, {**texts, ORDER: order_text(state)})
        target.fill(state, layout.image(specs, keys))

    def _lay_out(
        self, coded: Mapping[str, tuple[TensorSpec, Hashable]], texts: Mapping[str, str]
    ) -> tuple[Layout, list[str]]:
        """Return the layout of a new file, and the order in which its header gives the tensors."""
        layout = place_tensors(
            coded,
            lambda tensors: self.make_header(tensors, dict(texts)),
            name=self.name,
            magic=self.magic,
            alignment=self.alignment,
            limit=self.header_limit,
        )
        specs = {name: spec for name, (spec, _) in coded.items()}
        return layout, check_read_back(self._read, layout, specs, texts, name=self.name)

    def _read(self, file: HeaderSource) -> tuple[dict[str, Placed], dict[str, str]]:
        """Return the checked tensors and texts of a header."""
        size = len(self.magic)
        if file.size < size or file.read(0, size) != self.magic:
            raise MalformedFile(f"expected a file that begins with {self.magic!r}.", path=file.name)
        header = HeaderReader(file, size, self.header_limit)
        try:
            stored, texts = self.read_header(header)
            stored = tuple(stored)
        except (BridgeError, MemoryError):
            raise
        except Exception as err:
            raise MalformedFile(
                f"the header is damaged: reading it failed with {type(err).__name__}: {shown(str(err))}.",
                path=file.name,
                hint="Fetch the file again, or check read_header of the format.",
            ) from err
        placed = placed_tensors(
            stored,
            self._codes,
            path=file.name,
            start=header.position,
            size=file.size,
            alignment=self.alignment,
        )
        return placed, checked_texts(texts, file.name)

    def _check_storable(self, state: FlatState) -> None:
        storable = self.capabilities.dtypes
        wrong = [
            f"{join_key(key)} ({spec.dtype.name})"
            for key, spec in state.specs().items()
            if spec.dtype.name not in storable
        ]
        if wrong:
            raise UnsupportedFeature(
                f"{self.name} cannot store {count(len(wrong), 'tensor')}: {listed(wrong)}.",
                hint='Cast them, or write another format, such as format="npz" (--format).',
            )
        if not self.metadata and state.layout not in (None, self.layout):
            raise UnsupportedFeature(
                f"{self.name} does not record the layout: its files hold the layout {self.layout!r}, got a "
                f"state in the layout {state.layout!r}.",
                hint=f'Convert with to="{self.layout}" (--to), or write another format.',
            )


def _tensor(file: SourceFile, spec: TensorSpec, offset: int, name: str) -> Tensor:
    if spec.dtype == _BOOL:
        raw = FileTensor(file, offset, TensorSpec(spec.shape, DTYPES["uint8"]))
        return checked_bools(raw, path=file.name, key=name)
    return FileTensor(file, offset, spec)


def _check_declarations(cls: type[HeaderFormat]) -> None:
    missing = [name for name in _DECLARED if not hasattr(cls, name)]
    if missing:
        raise PluginError(f"the format {cls.__name__} does not declare {', '.join(missing)}.")
    if "capabilities" in vars(cls):
        raise PluginError(
            f"the format {cls.__name__} declares capabilities, which follow from dtypes and metadata.",
            hint="Remove the attribute.",
        )
    extensions, dtypes = cls.extensions, cls.dtypes
    _need(cls, "name", isinstance(cls.name, str) and bool(cls.name), "a text")
    good = isinstance(extensions, tuple) and all(
        isinstance(one, str) and len(one) > 1 and one[0] == "." for one in extensions
    )
    _need(cls, "extensions", good and bool(extensions), 'a tuple of suffixes such as (".acme",)')
    good = isinstance(cls.magic, bytes) and len(cls.magic) >= 4
    _need(cls, "magic", good, "at least four bytes, which no other format begins with")
    good = isinstance(cls.alignment, int) and cls.alignment > 0
    _need(cls, "alignment", good, "a number of bytes from 1")
    good = isinstance(cls.header_limit, int) and cls.header_limit > 0
    _need(cls, "header_limit", good, "a number of bytes from 1")
    good = isinstance(cls.separator, str) and len(cls.separator) == 1 and cls.separator != "\\"
    _need(cls, "separator", good, "one character, and not a backslash")
    good = cls.layout is None or bool(cls.layout)
    _need(cls, "layout", good, "a name such as 'torch', or None")
    good = cls.metadata is True or (cls.metadata is False and cls.layout is not None)
    _need(cls, "metadata", good, "True, or False together with the layout of all files")
    good = not isinstance(dtypes, str) and isinstance(dtypes, Collection) and bool(dtypes)
    _need(cls, "dtypes", good, "a mapping such as {'f4': 'float32'}, or a set of names")
    for dtype in dtypes.values() if isinstance(dtypes, Mapping) else dtypes:
        if dtype not in DTYPES:
            raise PluginError(
                f"dtypes of the format {cls.__name__} has the unknown dtype {shown(dtype)}.",
                hint=nearest(str(dtype), DTYPES),
            )
        if dtype in _NARROW:
            raise PluginError(
                f"dtypes of the format {cls.__name__} has {dtype}, of which several elements share a byte.",
                hint="Leave it out, or write the methods of bridge_core.Format yourself.",
            )


def _need(cls: type[HeaderFormat], name: str, good: bool, expected: str) -> None:
    if not good:
        raise PluginError(
            f"expected {expected} as {name} of the format {cls.__name__}, got {shown(getattr(cls, name))}."
        )
