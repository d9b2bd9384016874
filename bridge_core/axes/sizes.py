"""The size of every axis name, from the shapes, a rule's own sizes, and the target's shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from bridge_core.axes.structure import Axes, Factors, Parts
from bridge_core.errors import RuleError

__all__ = ["Axis", "Solver", "text_of"]


@dataclass(frozen=True)
class Axis:
    """One axis of a known size.

    Args:
        factors: The names and concatenations whose product it is.
        size: Its size.
        where: The tensor, for messages.
        wanted: Whether the size is that of a target; then only sizes that are not known otherwise follow
            from it.
    """

    factors: Factors
    size: int
    where: str
    wanted: bool = False


class Solver:
    """Finds the sizes of axis names.

    Args:
        given: Sizes that the rule states, by axis name; a whole number is the name of an axis of its size.
        hidden: Names whose sizes no shape shows; parts of such names are not taken as equal.
    """

    def __init__(self, given: Mapping[str, int], hidden: Collection[str] = ()) -> None:
        self.sizes = dict(given)
        self._hidden = hidden
        self._origin = dict.fromkeys(given, "sizes")
        self._axes: list[Axis] = []

    def size(self, factors: Factors) -> int | None:
        """Return the size of an axis, or None if it is not known."""
        total = 1
        for factor in factors:
            n = self._factor(factor)
            if n is None:
                return None
            total *= n
        return total

    def shape(self, axes: Axes) -> tuple[int, ...]:
        """Return the shape of a tensor, all of whose sizes are known."""
        return tuple(self.size(factors) or 0 for factors in axes)

    def learn(self, axes: Iterable[Axis]) -> None:
        """Determine the sizes that follow from axes, together with those learnt before.

        Raises:
            RuleError: Sizes contradict each other, or do not divide or add up.
        """
        self._axes.extend(axes)
        while any([self._solve(axis.factors, axis.size, axis) for axis in self._axes]):
            pass

    def finish(self, names: Iterable[str]) -> None:
        """Determine the size of every name; parts are taken as equal only if no part's size is known.

        Raises:
            RuleError: As `learn`; or a size does not follow from what is known.
        """
        while unknown := [name for name in names if name not in self.sizes]:
            if not any(self._solve(axis.factors, axis.size, axis, equal=True) for axis in self._axes):
                hint = f"Add it to the rule, such as sizes = {{ {unknown[0]} = 12 }}"
                raise RuleError(
                    f"the size of axis {unknown[0]!r} cannot be determined from the shapes.",
                    hint=f"{hint}."
                    if unknown[0] in self._hidden
                    else f'{hint}, or pass like="target.safetensors" (--like).',
                )
            self.learn(())

    def _factor(self, factor: str | Parts) -> int | None:
        if isinstance(factor, str):
            return self.sizes.get(factor)
        members = [self.size(member) for member in factor.members]
        return None if None in members else sum(n for n in members if n is not None)

    def _solve(self, factors: Factors, total: int, axis: Axis, *, equal: bool = False) -> bool:
        """Determine a factor's size from the size of the product; return whether one was determined."""
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
            raise self._error(factors, axis, f"a multiple of size {product} ({self._texts(factors)})", total)
        factor = next(f for f in factors if self._factor(f) is None)
        if isinstance(factor, Parts):
            return self._solve_parts(factor, total // product, axis, equal=equal)
        self.sizes[factor] = total // product
        self._origin[factor] = axis.where
        return True

    def _solve_parts(self, parts: Parts, total: int, axis: Axis, *, equal: bool) -> bool:
        known = [n for n in map(self.size, parts.members) if n is not None]
        unknown = [member for member in parts.members if self.size(member) is None]
        if len(unknown) == 1:
            if sum(known) > total:
                known_parts = self._texts(parts.members)
                raise self._error((parts,), axis, f"size {sum(known)} or more (with {known_parts})", total)
            return self._solve(unknown[0], total - sum(known), axis, equal=equal)
        shared = self._shared(unknown)
        if shared is not None:
            return self._solve_shared(*shared, parts, total, sum(known), axis)
        if known or not equal or self._are_hidden(unknown):
            return False
        if total % len(unknown):
            expected = f"a multiple of {len(unknown)}, for {len(unknown)} equal parts"
            error = self._error((parts,), axis, expected, total)
            names = [member[0] for member in unknown if len(member) == 1 and isinstance(member[0], str)]
            if names:
                error.hint = f"Add the parts' sizes to the rule, such as sizes = {{ {names[0]} = 12 }}."
            raise error
        return any([self._solve(member, total // len(unknown), axis, equal=True) for member in unknown])

    def _are_hidden(self, members: Iterable[Factors]) -> bool:
        names = (f for member in members for f in member if isinstance(f, str) and f not in self.sizes)
        return all(name in self._hidden for name in names)

    def _shared(self, members: Iterable[Factors]) -> tuple[str, int] | None:
        """Return the one name whose size is not known in any member, and its factor in the members' sum.

        None if there is no such name, or more than one.
        """
        names, count = set(), 0
        for member in members:
            unknown = [factor for factor in member if self._factor(factor) is None]
            if len(unknown) != 1 or not isinstance(unknown[0], str):
                return None
            names.add(unknown[0])
            count += self.size(tuple(f for f in member if f != unknown[0])) or 0
        return (names.pop(), count) if len(names) == 1 else None

    def _solve_shared(self, name: str, count: int, parts: Parts, total: int, known: int, axis: Axis) -> bool:
        if count == 0 and known == total:
            return False
        if count == 0 or known > total or (total - known) % count:
            rest = f" + {known}" if known else ""
            raise self._error((parts,), axis, f"size {count} * {name}{rest}, the sum of its parts", total)
        self.sizes[name] = (total - known) // count
        self._origin[name] = axis.where
        return True

    def _refuse(self, factors: Factors, computed: int, size: int, axis: Axis) -> None:
        if len(factors) == 1 and isinstance(factors[0], str):
            name = factors[0]
            if name.isdigit():
                raise RuleError(f"{name} in {axis.where}: expected an axis of size {name}, got {size}.")
            raise RuleError(
                f"the axis {name!r} has two sizes: {computed} in {self._origin[name]}, and {size} in "
                f"{axis.where}."
            )
        if len(factors) == 1 and isinstance(factors[0], Parts):
            sum_of = f"the sum of {self._texts(factors[0].members)}"
            raise self._error(factors, axis, f"size {computed}, {sum_of}", size)
        product = f", the product of {self._texts(factors)}" if factors else ""
        raise self._error(factors, axis, f"size {computed}{product}", size)

    def _error(self, factors: Factors, axis: Axis, expected: str, size: int) -> RuleError:
        return RuleError(f"'{text_of(factors)}' in {axis.where}: expected {expected}, got {size}.")

    def _texts(self, members: tuple[str | Parts, ...] | tuple[Factors, ...]) -> str:
        """Return the members whose sizes are known, with these sizes."""
        texts = []
        for member in members:
            factors = member if isinstance(member, tuple) else (member,)
            n = self.size(factors)
            text = text_of(factors)
            if n is not None:
                texts.append(text if text == str(n) else f"{text} = {n}")
        return ", ".join(texts)


def text_of(factors: Factors) -> str:
    """Return an axis in the notation."""
    texts = [factor if isinstance(factor, str) else _parts_text(factor) for factor in factors]
    if len(texts) == 1:
        return texts[0]
    return f"({' '.join(texts)})" if texts else "1"


def _parts_text(parts: Parts) -> str:
    if not parts.marked:
        return f"({' '.join(map(text_of, parts.members))})"
    texts = (text_of(part)[1:-1] if len(part) > 1 else text_of(part) for part in parts.members)
    return f"({' + '.join(texts)})"
