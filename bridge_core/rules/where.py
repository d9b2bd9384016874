"""What a rule states about the numbers in names: which of them others give, and what must hold for them."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from bridge_core.axes import (
    Comparison,
    IndexCount,
    IndexEquation,
    MixedRadix,
    Pairs,
    Ranks,
    SizeLookup,
    Value,
    bounded_pairs,
    parse_index,
)
from bridge_core.errors import RuleError
from bridge_core.messages import shown
from bridge_core.rules.segments import COUNT

__all__ = ["Where"]

_PIECES = re.compile(r"(?:'[^']*'|[^;'])+")
"""Texts that are joined by semicolons."""


@dataclass(frozen=True)
class Where:
    """Indexes and comparisons; false if there are none.

    Args:
        texts: Their texts.
        indexes: Equations and counts.
        comparisons: Comparisons.
        sizes: The names in them that are sizes.
        stacked: The numbers that are axes, along which tensors with the parts in their names are stacked.
        lookup: Gives sizes and entries of the config; None until the rule is read.
        pairs: Text of a count -> the parts that exist, where names show them.

    >>> where = Where.parse("i = block*6 + j; i < 24")
    >>> where.split({"i": "20"}), where.split({"i": "24"})
    ({'block': '3', 'j': '2'}, None)
    """

    texts: tuple[str, ...] = ()
    indexes: tuple[IndexEquation | IndexCount, ...] = field(default=(), compare=False, repr=False)
    comparisons: tuple[Comparison, ...] = field(default=(), compare=False, repr=False)
    sizes: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    stacked: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    lookup: SizeLookup | None = field(default=None, compare=False, repr=False)
    pairs: Mapping[str, Pairs] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def parse(
        cls, texts: str | Iterable[str], sizes: Collection[str] = (), axes: Collection[str] = ()
    ) -> Where:
        """Read a text, or several.

        Args:
            texts: Indexes and comparisons; one text may hold several, with semicolons between them.
            sizes: The names in them that are sizes; others in indexes are captures or axes.
            axes: The names that are axes, and captures of no pattern.

        Raises:
            RuleError: One is neither an index nor a comparison.
        """
        given = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Iterable) else [None]
        if not all(isinstance(text, str) for text in given):
            raise RuleError(
                f"where: expected a text such as 'i = block*6 + j', or a list of them, got {shown(texts)}."
            )
        indexes, comparisons, read = [], [], []
        for text in (piece.strip() for one in given for piece in _PIECES.findall(str(one))):
            try:
                index = parse_index(text, sizes)
                if index is not None:
                    indexes.append(index)
                else:
                    comparisons.append(Comparison.parse(text))
                read.append(index.text if index is not None else str(comparisons[-1]))
            except RuleError as err:
                raise RuleError(f"where = {text!r}: {err.message}", hint=err.hint) from err
        stacked = frozenset(axes).intersection(index.result for index in indexes)
        return cls(tuple(read), tuple(indexes), tuple(comparisons), frozenset(sizes), stacked)

    def __bool__(self) -> bool:
        """Return whether there is any index or comparison."""
        return bool(self.texts)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return "; ".join(self.texts)

    @functools.cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The name of each number that others give -> their names, the outermost first."""
        return {index.result: index.names for index in self.indexes}

    @functools.cached_property
    def numbers(self) -> frozenset[str]:
        """The names in indexes."""
        return frozenset(name for index in self.indexes for name in (index.result, *index.names))

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """All names, those of sizes and of the config included."""
        return self.numbers.union(
            *(index.size_names for index in self.indexes), *(c.names for c in self.comparisons)
        )

    @property
    def counts(self) -> tuple[IndexCount, ...]:
        """The counts."""
        return tuple(index for index in self.indexes if isinstance(index, IndexCount))

    def at(self, lookup: SizeLookup, pairs: Mapping[str, Pairs] = MappingProxyType({})) -> Where:
        """Return the same with sizes, the config, and the parts that exist for counts."""
        own = {count.text: pairs[count.text] for count in self.counts if count.text in pairs}
        return replace(self, lookup=lookup, pairs=own)

    @functools.cached_property
    def bounded(self) -> frozenset[str]:
        """The parts whose sizes equations state."""
        return frozenset(name for index in self.indexes for name in index.bounded)

    def sums(self) -> Iterator[tuple[str, MixedRadix]]:
        """Yield the name and the numbers of each equation."""
        for index in self.indexes:
            numbers = self._numbers(index)
            if isinstance(numbers, MixedRadix):
                yield index.result, numbers

    @property
    def stacked_sizes(self) -> dict[str, int]:
        """How many tensors are stacked along each axis that a count numbers.

        Raises:
            RuleError: The parts that exist are not known.
        """
        ranks = {c.result: self._numbers(c) for c in self.counts if c.result in self.stacked}
        return {name: len(known.pairs) for name, known in ranks.items() if isinstance(known, Ranks)}

    def allowed(self, count: IndexCount) -> Pairs:
        """Return the parts of a count that the comparisons allow.

        Raises:
            RuleError: They do not bound each part, or allow too many.
        """
        return bounded_pairs(count, self.comparisons, self.lookup or SizeLookup({}), self._is_size)

    def _numbers(self, index: IndexEquation | IndexCount) -> MixedRadix | Ranks:
        known = self._known.get(index.text)
        if known is None:
            lookup = self.lookup or SizeLookup({})
            try:
                if isinstance(index, IndexCount):
                    pairs = self.pairs.get(index.text)
                    if pairs is None:
                        pairs = self.allowed(index)
                    known = Ranks(index.names, pairs)
                else:
                    known = index.numbers(lookup)
            except RuleError as err:
                hint = err.hint
                if isinstance(index, IndexCount) and hint and "--like" not in hint:
                    hint = f"Pass like=... (--like), or state the sizes: {hint}"
                raise RuleError(f"where = '{index.text}': {err.message}", hint=hint) from err
            self._known[index.text] = known
        return known

    @functools.cached_property
    def _known(self) -> dict[str, MixedRadix | Ranks]:
        return {}

    def split(self, captures: Mapping[str, str], numbers: Collection[str] = ()) -> dict[str, str] | None:
        """Return captures with the parts of each number in its place.

        None if there are no such parts, or a comparison does not hold.

        Args:
            captures: Name -> captured text.
            numbers: The captures that are numbers, besides those in indexes.

        Raises:
            RuleError: A number has leading zeros, or a size has no value.
        """
        values = dict(captures)
        for index in self.indexes:
            if index.result in captures:
                number = _number(index.result, captures[index.result], index)
                parts = self._numbers(index).split(number)
                if parts is None:
                    return None
                if any(values.setdefault(name, str(part)) != str(part) for name, part in parts.items()):
                    return None
        if self.comparisons and self._failing(self._completed(values), numbers) is not None:
            return None
        left = {name: text for name, text in values.items() if name not in self.parts}
        for index in self.indexes if self.stacked else ():
            if index.result in self.stacked and all(name in left for name in index.names):
                place = self._joined(index, {name: left.pop(name) for name in index.names})
                left[index.result] = str(place)
        return left

    def join(
        self, captures: Mapping[str, str], wanted: Collection[str], numbers: Collection[str] = ()
    ) -> dict[str, str]:
        """Return captures with the numbers that they give; the inverse of `split`.

        Args:
            captures: Name -> text.
            wanted: The names of the numbers that are to be computed, among others.
            numbers: The captures that are numbers, besides those in indexes.

        Raises:
            RuleError: A part is missing, has leading zeros, or contradicts an index or a comparison.
        """
        values = dict(captures)
        for index in self.indexes:
            if index.result in wanted:
                values[index.result] = str(self._joined(index, captures))
            elif index.result in captures:
                number = _number(index.result, captures[index.result], index)
                found = self._numbers(index).split(number)
                if found is None:
                    raise RuleError(f"where = '{index.text}': nothing gives {index.result} = {number}.")
                values.update((name, str(part)) for name, part in found.items())
        failing = self._failing(values, numbers) if self.comparisons else None
        if failing is not None:
            known = ", ".join(f"{name} = {values[name]}" for name in sorted(failing.names & values.keys()))
            raise RuleError(f"where = '{failing}' does not hold for {known}.")
        return values

    def _joined(self, index: IndexEquation | IndexCount, captures: Mapping[str, str]) -> int:
        parts = {name: _number(name, captures.get(name), index) for name in index.names}
        numbers = self._numbers(index)
        try:
            return numbers.join(parts)
        except RuleError as err:
            raise RuleError(f"where = '{index.text}': {err.message}", hint=err.hint) from err

    def admits(self, captures: Mapping[str, str], numbers: Collection[str] = ()) -> bool:
        """Return whether the comparisons hold that name only these captures and sizes."""
        return self._failing(captures, numbers) is None

    def _completed(self, values: dict[str, str]) -> dict[str, str]:
        """Return values with the numbers that all of their parts give."""
        completed = dict(values)
        for index in self.indexes:
            if index.result not in completed and all(name in completed for name in index.names):
                try:
                    completed[index.result] = str(self._joined(index, completed))
                except RuleError:  # reported where the number is needed
                    continue
        return completed

    def _is_known(self, name: str) -> bool:
        """Return whether a name is that of a size or of the config, and the size is not left open."""
        return self._is_size(name) and self.lookup is not None and self.lookup.states(name)

    def _is_size(self, name: str) -> bool:
        return name in self.sizes or name.startswith("config.")

    def _failing(self, values: Mapping[str, str], numbers: Collection[str]) -> Comparison | None:
        """Return the first comparison that does not hold, of those with names that have values."""
        lookup = self.lookup or SizeLookup({})
        is_known = self._is_known

        def value(name: str) -> Value:
            if name not in values:
                return lookup(name)
            is_number = name in numbers or name in self.numbers
            return _number(name, values[name].lstrip("0") or "0") if is_number else values[name]

        for comparison in self.comparisons:
            if all(name in values or is_known(name) for name in comparison.names):
                try:
                    if not comparison.holds(value):
                        return comparison
                except RuleError as err:
                    raise RuleError(f"where = '{comparison}': {err.message}", hint=err.hint) from err
        return None


def _number(name: str, text: str | None, index: IndexEquation | IndexCount | None = None) -> int:
    start = f"where = '{index.text}': " if index is not None else ""
    if text is None:
        whole = index.result if index is not None else ""
        raise RuleError(
            f"{start}{name} has no value, so that {whole} cannot be computed.",
            hint=f"Write {{{name}:int}} in the patterns of the side without {whole}.",
        )
    if not COUNT.fullmatch(text):
        raise RuleError(f"{start}expected a number without leading zeros for {name}, got {text!r}.")
    return int(text)
