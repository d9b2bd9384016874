"""Which size every axis name has: from shapes, from what a rule gives, and from what a target wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bridge_core.axes.structure import Axes, Factors, Parts
from bridge_core.errors import RuleError

__all__ = ["Axis", "Solver", "text_of"]


@dataclass(frozen=True)
class Axis:
    """One axis of a known size.

    Args:
        factors: What it is made of.
        size: Its size.
        where: The tensor, for messages.
        wanted: Whether a target wants the size; then it only settles what nothing else does.
    """

    factors: Factors
    size: int
    where: str
    wanted: bool = False


class Solver:
    """Sizes of axis names, as far as they are known.

    Args:
        given: Sizes that are known from the start.
    """

    def __init__(self, given: Mapping[str, int]) -> None:
        self.sizes = dict(given)
        self._origin = dict.fromkeys(given, "the sizes that are given")
        self._axes: list[Axis] = []

    def size(self, factors: Factors) -> int | None:
        """Return the size of an axis, or None if it is not settled."""
        total = 1
        for factor in factors:
            n = self._factor(factor)
            if n is None:
                return None
            total *= n
        return total

    def shape(self, axes: Axes) -> tuple[int, ...]:
        """Return the shape of a tensor whose axes are settled."""
        return tuple(self.size(factors) or 0 for factors in axes)

    def learn(self, axes: Iterable[Axis]) -> None:
        """Settle what axes tell, together with those learnt before.

        Raises:
            RuleError: Sizes contradict each other, or do not divide or add up.
        """
        self._axes.extend(axes)
        while any([self._settle(axis.factors, axis.size, axis) for axis in self._axes]):
            pass

    def finish(self, names: Iterable[str]) -> None:
        """Settle every name; equal parts are assumed only where nothing is known of any part.

        Raises:
            RuleError: As `learn`; or a size is not settled.
        """
        while unknown := [name for name in names if name not in self.sizes]:
            if not any(self._settle(axis.factors, axis.size, axis, equal=True) for axis in self._axes):
                raise RuleError(
                    f"the size of axis {unknown[0]!r} is not settled by the shapes.",
                    hint=f"Give it, e.g. `sizes = {{ {unknown[0]} = 12 }}`.",
                )
            self.learn(())

    def _factor(self, factor: str | Parts) -> int | None:
        if isinstance(factor, str):
            return self.sizes.get(factor)
        members = [self.size(member) for member in factor.members]
        return None if None in members else sum(n for n in members if n is not None)

    def _settle(self, factors: Factors, total: int, axis: Axis, *, equal: bool = False) -> bool:
        """Settle what the size of a product tells about its factors; return whether that was anything."""
        known = [n for n in map(self._factor, factors) if n is not None]
        product = 1
        for n in known:
            product *= n
        if len(known) == len(factors):
            if product != total and not axis.wanted:
                self._refuse(factors, product, total, axis)
            return False
        if len(known) < len(factors) - 1:
            return False
        if product == 0 or total % product:
            if product == 0 == total:
                return False
            raise RuleError(
                f"'{text_of(factors)}' of {axis.where} has size {total}, which {self._texts(factors)} "
                f"{'do' if len(known) > 1 else 'does'} not divide."
            )
        factor = next(f for f in factors if self._factor(f) is None)
        if isinstance(factor, Parts):
            return self._settle_parts(factor, total // product, axis, equal=equal)
        self.sizes[factor] = total // product
        self._origin[factor] = axis.where
        return True

    def _settle_parts(self, parts: Parts, total: int, axis: Axis, *, equal: bool) -> bool:
        known = [n for n in map(self.size, parts.members) if n is not None]
        unknown = [member for member in parts.members if self.size(member) is None]
        if len(unknown) == 1:
            if sum(known) > total:
                raise RuleError(
                    f"'{text_of((parts,))}' of {axis.where} has size {total}; "
                    f"{self._texts(parts.members)} alone add up to {sum(known)}."
                )
            return self._settle(unknown[0], total - sum(known), axis, equal=equal)
        shared = self._shared(unknown)
        if shared is not None:
            return self._settle_shared(*shared, parts, total, sum(known), axis)
        if known or not equal:
            return False
        if total % len(unknown):
            raise RuleError(
                f"'{text_of((parts,))}' of {axis.where} has size {total}: not {len(unknown)} equal parts.",
                hint=f"Give the sizes, e.g. `sizes = {{ {text_of(unknown[0])} = 12 }}`.",
            )
        return any([self._settle(member, total // len(unknown), axis, equal=True) for member in unknown])

    def _shared(self, members: Iterable[Factors]) -> tuple[str, int] | None:
        """Return the name that alone is not known of any member, and how often it goes into their sum."""
        names, count = set(), 0
        for member in members:
            unknown = [factor for factor in member if self._factor(factor) is None]
            if len(unknown) != 1 or not isinstance(unknown[0], str):
                return None
            names.add(unknown[0])
            count += self.size(tuple(f for f in member if f != unknown[0])) or 0
        return (names.pop(), count) if len(names) == 1 else None

    def _settle_shared(self, name: str, count: int, parts: Parts, total: int, known: int, axis: Axis) -> bool:
        if count == 0 and known == total:
            return False
        if count == 0 or known > total or (total - known) % count:
            rest = f" + {known}" if known else ""
            raise RuleError(
                f"'{text_of((parts,))}' of {axis.where} has size {total}; its parts add up to "
                f"{count} * {name}{rest}."
            )
        self.sizes[name] = (total - known) // count
        self._origin[name] = axis.where
        return True

    def _refuse(self, factors: Factors, found: int, expected: int, axis: Axis) -> None:
        if len(factors) == 1 and isinstance(factors[0], str):
            name = factors[0]
            raise RuleError(
                f"the axis {name!r} is {found} in {self._origin[name]} and {expected} in {axis.where}."
            )
        whole = f"'{text_of(factors)}' of {axis.where} has size {expected}"
        if len(factors) == 1 and isinstance(factors[0], Parts):
            raise RuleError(f"{whole}, but {self._texts(factors[0].members)} add up to {found}.")
        raise RuleError(f"{whole}, but {self._texts(factors) or 'it'} makes {found}.")

    def _texts(self, members: tuple[str | Parts, ...] | tuple[Factors, ...]) -> str:
        """Return the members whose sizes are known, with these sizes."""
        texts = []
        for member in members:
            factors = member if isinstance(member, tuple) else (member,)
            n = self.size(factors)
            if n is not None:
                texts.append(f"{text_of(factors)} = {n}")
        return ", ".join(texts)


def text_of(factors: Factors) -> str:
    """Return an axis in the notation."""
    texts = [
        factor if isinstance(factor, str) else f"({' '.join(map(text_of, factor.members))})"
        for factor in factors
    ]
    if len(texts) == 1:
        return texts[0]
    return f"({' '.join(texts)})" if texts else "1"
