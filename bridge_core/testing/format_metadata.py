"""The contract of what any format does with a state's layout and metadata."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridge_core.state import (
    AuxiliaryTensor,
    FlatState,
    Key,
    LayerInfo,
    StateMetadata,
    Ties,
    as_tensor,
)
from bridge_core.testing.comparison import difference, snapshot
from bridge_core.testing.harness import FormatHarness

__all__ = ["MetadataContract"]

_ADVICE = (
    "Store the text of dump_metadata(state.layout, state.metadata) and read it with load_metadata, or "
    "declare metadata=False."
)

_FIELDS: dict[str, Any] = {
    "layers": {
        ("layers", "0"): LayerInfo("linear", "guess", ("bias",)),
        ("emb",): LayerInfo(
            None, "", ("weight",), candidates=("torch.linear",), transforms={"flax": "dense"}
        ),
        ("a.b", "ü"): LayerInfo("linear", "guess", ("bias",)),
    },
    "collections": {("layers", "0", "bias"): "batch_stats"},
    "boxes": {("layers", "0", "bias"): "value"},
    "separators": {"flax": "/"},
    "auxiliary_tensors": {("bn", "count"): AuxiliaryTensor.of(np.array(7, np.int64))},
    "tree_form": {"flax": "variables"},
    "providers": {"bilinear": "some-distribution"},
}
_EMPTY: tuple[Key, ...] = (("nothing", "here"), ("z",), ("a.b", "ü", "c/d"))
_TIED: tuple[Key, ...] = (("emb", "weight"), ("layers", "0", "bias"))
_TOGETHER: dict[str, Any] = {**_FIELDS, "empty": _EMPTY[:2], "ties": {_TIED[1]: _TIED[0]}}
_LARGE: dict[Key, LayerInfo] = {
    ("stages", f"block_{n:05}", "attention"): LayerInfo("linear", "guess", ("bias",)) for n in range(2600)
}
"""Layers: their names have more bytes than two bytes can count."""


class MetadataContract(FormatHarness):
    """Capability ``metadata``: a file records all that a later conversion needs."""

    @pytest.mark.parametrize("field", sorted(_FIELDS))
    def test_metadata_survives(self, path: Path, field: str) -> None:
        """Layers, collections, forms and the rest, each by itself."""
        self._check_field(path, field, _FIELDS[field])

    def test_all_metadata_survives_together(self, path: Path) -> None:
        """Every field at once, in a state with tied tensors."""
        self.need("metadata")
        shared = as_tensor(self.array(4))
        state = FlatState(
            dict.fromkeys(_TIED, shared),
            layout="neutral",
            metadata=StateMetadata(**copy.deepcopy(_TOGETHER)),
        )
        with self.reopened(state, path) as opened:
            stored = opened.metadata
        for field, value in _TOGETHER.items():
            single = StateMetadata(**{field: copy.deepcopy(value)})
            given = FlatState(dict.fromkeys(_TIED, shared), layout="neutral", metadata=single)
            with self.reopened(given, path.with_name(f"{field}{path.suffix}")) as opened:
                sound = getattr(opened.metadata, field) == value  # else the matter of the other tests
            assert not sound or getattr(stored, field) == value, (
                f"With other metadata, metadata.{field} was written as {value} and read as "
                f"{getattr(stored, field)}. {_ADVICE}"
            )

    def test_large_metadata_survives(self, path: Path) -> None:
        """More than 64 kB of it."""
        self.need("metadata")
        state = FlatState(
            {("emb", "weight"): self.array(2, 3)},
            layout="neutral",
            metadata=StateMetadata(layers=dict(_LARGE)),
        )
        with self.reopened(state, path) as opened:
            found = len(opened.metadata.layers)
            same = opened.metadata.layers == _LARGE
        assert same, (
            f"Metadata of {len(_LARGE)} layers was written, and that of {found} was read. Look at limits of "
            f"attributes and headers. {_ADVICE}"
        )

    def test_empty_nodes_survive(self, path: Path) -> None:
        """Nodes of the tree without tensors, with and without tensors elsewhere."""
        self._check_field(path, "empty", _EMPTY)
        self.need("metadata")
        bare = FlatState({}, layout="neutral", metadata=StateMetadata(empty=(("nothing",),)))
        with self.reopened(bare, path.with_name(f"bare{path.suffix}")) as opened:
            found = opened.metadata.empty
        assert found == (("nothing",),), (
            f"A state with nothing but an empty node was written, and {found} was read. {_ADVICE}"
        )

    def test_ties_survive(self, path: Path) -> None:
        """Tensors under several keys: each key is read, and that they are tied is known.

        Of two groups; in the second one, the key that the others are tied to is the last.
        """
        self.need("metadata")
        shared, other = as_tensor(self.array(2, 3)), as_tensor(self.array(3, 2, seed=1))
        names: tuple[Key, ...] = (("emb", "weight"), ("head", "weight"), ("lm", "weight"))
        late: tuple[Key, ...] = (("a", "gain"), ("z", "gain"))
        ties = {names[1]: names[0], names[2]: names[0], late[0]: late[1]}
        state = FlatState(
            {**dict.fromkeys(names, shared), ("head", "bias"): self.array(4), **dict.fromkeys(late, other)},
            layout="neutral",
            metadata=StateMetadata(ties=dict(ties)),
        )
        expected = snapshot(state)
        with self.reopened(state, path) as opened:
            problem = difference(opened, expected)
            stored = Ties(opened.metadata.ties).groups()
        wanted = {frozenset((root, *tied)) for root, tied in Ties(ties).groups().items()}
        assert not problem, f"Tied tensors were written: {problem} Give every key of a tie its tensor."
        read = {frozenset((root, *tied)) for root, tied in stored.items()}
        assert read == wanted, f"The ties {ties} were written, and the groups {stored} were read. {_ADVICE}"

    def test_equal_tensors_are_not_tied(self, path: Path) -> None:
        """Equal values do not make a tie: a later training step would change both."""
        self.need("metadata")
        tensors: dict[Key, Any] = {("a", "w"): self.array(2, 3), ("b", "w"): self.array(2, 3)}
        with self.reopened(FlatState(tensors, layout="neutral"), path) as opened:
            found = dict(opened.metadata.ties)
        assert not found, f"Two tensors of equal values were read as tied: {found}. Take ties from metadata."

    @pytest.mark.parametrize("layout", ["torch", "flax", "neutral"])
    def test_every_layout_survives(self, path: Path, layout: str) -> None:
        """A file records its layout."""
        self.need("metadata")
        with self.reopened(FlatState({("a", "w"): self.array(2)}, layout=layout), path) as opened:
            found = opened.layout
        assert found == layout, (
            f"A state of the layout {layout!r} was written, and {found!r} was read. Store the layout; "
            "format.layout is only for files that do not record theirs."
        )

    def test_a_layout_that_it_does_not_record_is_refused(self, path: Path) -> None:
        """Without the capability ``metadata``: files of another layout would be read as the usual one."""
        if self.format.capabilities.metadata:
            pytest.skip(f"{self.format.name} records the layout")
        for layout in ("torch", "flax", "neutral"):
            state = FlatState({("a", "w"): self.array(2)}, layout=layout)
            if not self.refused_to_write(state, path):
                with self.read(path) as opened:
                    found = opened.layout
                assert found in (None, layout), (
                    f"A state of the layout {layout!r} was written, and is read as one of {found!r}. Raise "
                    "UnsupportedFeature in write where state.layout is another than that of the format."
                )

    def test_two_readings_share_no_metadata(self, path: Path) -> None:
        """Whoever changes one state's metadata must not change another state's."""
        self.need("metadata")
        state = FlatState(
            {("layers", "0", "bias"): self.array(4)},
            layout="neutral",
            metadata=StateMetadata(**copy.deepcopy(_FIELDS)),
        )
        self.write(state, path)
        with self.read(path) as first:
            expected = _dicts(first.metadata)
            for value in vars(first.metadata).values():
                if isinstance(value, dict):
                    value.clear()
        with self.read(path) as second:
            found = _dicts(second.metadata)
        assert found == expected, (
            "Changing the metadata of one state that was read changed what the next reading gave. Make new "
            "metadata in each open, and keep none in the format or its module."
        )

    def _check_field(self, path: Path, field: str, value: Any) -> None:
        self.need("metadata")
        state = FlatState(
            {("emb", "weight"): self.array(2, 3), ("layers", "0", "bias"): self.array(4)},
            layout="neutral",
            metadata=StateMetadata(**{field: copy.deepcopy(value)}),
        )
        with self.reopened(state, path) as opened:
            found = getattr(opened.metadata, field)
        assert found == value, f"metadata.{field} was written as {value} and read as {found}. {_ADVICE}"


def _dicts(metadata: StateMetadata) -> dict[str, dict[Any, Any]]:
    """Return copies of all mappings of some metadata."""
    return {name: dict(value) for name, value in vars(metadata).items() if isinstance(value, Mapping)}
