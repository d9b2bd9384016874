"""The contract of what any format does with the keys of tensors."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, strategies as st

from bridge_core.errors import BridgeError
from bridge_core.state import Array, FlatState, Key
from bridge_core.testing.comparison import difference, snapshot
from bridge_core.testing.harness import FormatHarness
from bridge_core.testing.strategies import plain_values
from bridge_core.testing.values import EXAMPLES

__all__ = ["KeysContract"]

_ORDER = (
    ("zeta", "w"),
    ("zeta", "b"),
    ("alpha", "b"),
    ("alpha", "a"),
    ("m", "10"),
    ("m", "9"),
    ("beta", "k"),
)
_MANY = tuple(("layers", str(n * 17 % 41), "w") for n in range(41))
_ALIKE = (("a", "\N{FULLWIDTH LATIN SMALL LETTER A}"), ("fi", "\N{LATIN SMALL LIGATURE FI}"))
"""Letters that are equal in a compatible form."""
_ADVICE = (
    "Store each part of a key exactly, or refuse the key with a BridgeError before anything is written. A "
    "format that declares nested stores every key."
)


class KeysContract(FormatHarness):
    """Keys come back as they were, with their own values, or are refused."""

    many: ClassVar[int] = 1030
    """Tensors of the state that has many."""

    def test_values_stay_with_their_keys(self, path: Path, tmp_path: Path) -> None:
        """Whatever the order of the keys; all tensors have one dtype and shape, or two have."""
        for order in (_ORDER, _ORDER[::-1], sorted(_ORDER)):
            tensors: dict[Key, Array] = {key: self.array(6, seed=_ORDER.index(key)) for key in order}
            self.check_survives(
                tensors,
                _other(path),
                "Tensors of one shape got each other's values: write names and values in one order.",
            )
        pairs: dict[Key, Array] = {
            (place, name): plain_values(name, (8,), seed=seed)
            for seed, place in enumerate(("z", "a"))
            for name in self.sound_dtypes(tmp_path)
        }
        self.check_survives(
            pairs, _other(path), "Two tensors of one dtype and shape: write names and values in one order."
        )

    def test_the_order_of_keys_is_kept_or_the_formats_own(self, path: Path) -> None:
        """Never a third one: reversed, or another one in each reading; of few keys, and of many."""
        for keys in (_ORDER, _MANY):
            read = []
            for order in (keys, keys[::-1]):
                self.write(self.state_of({key: self.array(6) for key in order}), file := _other(path))
                with self.read(file) as opened, self.read(file) as again:
                    read.append(list(opened))
                    same = list(again) == read[-1]
                with self.read(file) as once_more:
                    same = same and list(once_more) == read[-1]
                assert same, "Three readings of one checkpoint gave different orders of its keys."
            kept = all(found == list(order) for found, order in zip(read, (keys, keys[::-1]), strict=True))
            assert kept or sorted(read[0]) != sorted(keys) or read[0] == read[1], (
                f"The keys were written in the order {[*map('.'.join, keys)]} and read in the order "
                f"{[*map('.'.join, read[0])]}. List them in the order of the file; a file has the order of "
                "the state, or one order of its own for the same keys."
            )

    @given(data=st.data())
    @EXAMPLES
    def test_parts_of_keys_may_hold_any_text(self, path: Path, data: st.DataObject) -> None:
        """A format stores any key exactly, or refuses it.

        A format that declares ``nested`` must store it.
        """
        drawn = data.draw(st.lists(_some_keys, min_size=1, max_size=5))
        self._check_kept_or_refused(sorted(_without_beginnings(drawn)), _other(path), may_refuse=None)

    def test_dots_in_parts_are_no_separators(self, path: Path) -> None:
        """``("a.b",)`` and ``("a", "b")`` are two keys; a format that cannot hold both refuses."""
        for names in (
            [("a", "b", "w"), ("a.b", "w")],
            [("..", "w"), ("w", "..")],
            [(".", "a."), (".a", ".")],
        ):
            self._check_kept_or_refused(names, _other(path), may_refuse=None)

    def test_slashes_in_parts_are_no_separators(self, path: Path) -> None:
        """``("a/b",)`` and ``("a", "b")`` are two keys as well."""
        self._check_kept_or_refused([("a", "b", "w"), ("a/b", "w")], path, may_refuse=None)

    def test_keys_that_look_alike_stay_apart(self, path: Path) -> None:
        """They differ in case, in the form of a letter, in its width, or in zeros before a number."""
        accented = unicodedata.normalize("NFD", "é"), unicodedata.normalize("NFC", "é")
        for pair in (("W", "w"), accented, ("01", "1"), ("Ø", "ø"), *_ALIKE):
            self._check_kept_or_refused([("a", part) for part in pair], _other(path), may_refuse=None)

    def test_a_key_may_begin_with_another(self, path: Path) -> None:
        """``("a",)`` and ``("a", "b")``: both are stored, or the format refuses."""
        self._check_kept_or_refused([("a",), ("a", "b")], path, may_refuse=True)

    def test_long_keys_survive(self, path: Path) -> None:
        """Parts of 300 letters, and 40 parts, as deep trees have them; or the format refuses."""
        long = [tuple(f"l{n}" for n in range(40)), *[("p" * 299 + last, "w") for last in "ab"]]
        self._check_kept_or_refused(long, path, may_refuse=True)

    def test_many_tensors_survive(self, path: Path) -> None:
        """More than fits into the counters and headers of small files."""
        tensors: dict[Key, Array] = {
            ("layers", f"{n:04}", "w"): self.array(2, seed=n % 50) for n in range(self.many)
        }
        self.check_survives(
            tensors,
            path,
            f"There are {self.many} tensors: look at fixed sizes of headers, counters and lists.",
        )

    def _check_kept_or_refused(self, names: Iterable[Key], path: Path, *, may_refuse: bool | None) -> None:
        """Write tensors of these keys; ``may_refuse`` of None asks the capability ``nested``."""
        tensors: dict[Key, Array] = {key: self.array(2, seed=n) for n, key in enumerate(names)}
        state, expected = FlatState(tensors, layout=self.format.layout or "neutral"), snapshot(tensors)
        try:
            self.write(state, path)
        except BridgeError as err:
            if not may_refuse and self.format.capabilities.nested:
                pytest.fail(f"The format declares nested, but refuses {list(tensors)}: {err} {_ADVICE}")
            return
        try:
            with self.read(path) as opened:
                problem = difference(opened, expected)
        except BridgeError as err:
            problem = f"The keys {list(tensors)} were written, but reading raised: {err}"
        assert not problem, f"{problem} {_ADVICE}"


_LETTERS = (
    "abz019_-~ \t\n\0\\'\"`$&%:*?<>|#@!=+,;()[]{}"
    "\x7f\x85\u2028\u202e\ufeff\ufffd\uffffßøæ中文字שא\U0001f600\U0010ffff"
)
"""Letters without another case or form, and no dots or slashes: tests of their own are for those."""
_ODD = (" ", " a", "a\n", "\0", "\\", "%2e", "__metadata__", "con", "null")
_some_keys = st.lists(
    st.text(st.sampled_from(_LETTERS), min_size=1, max_size=8) | st.sampled_from(_ODD), min_size=1, max_size=4
).map(tuple)


def _without_beginnings(drawn: list[Key]) -> list[Key]:
    """Return the keys that do not begin another one."""
    found = list(dict.fromkeys(drawn))
    return [key for key in found if not any(other != key and other[: len(key)] == key for other in found)]


def _other(path: Path) -> Path:
    """Return a name that is not used yet."""
    return path.with_name(f"{sum(1 for _ in path.parent.iterdir())}{path.suffix}")
