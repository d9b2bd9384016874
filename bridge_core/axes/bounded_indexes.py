"""The numbers that a count counts, where comparisons bound them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bridge_core.axes.expressions import Comparison, Expression, Lookup, whole_number
from bridge_core.axes.indexes import IndexCount, Pairs
from bridge_core.errors import RuleError

__all__ = ["bounded_pairs"]

_MOST_PAIRS = 10_000

_BOUNDS = (
    'Pass like=... (--like), or bound the names, as where = ["n counts i", "i < config.num_hidden_layers"] '
    'or ["n counts s, b", "1 <= s <= 4", "b < depths[s - 1]"]; a size with "?" needs a value (--set).'
)


def bounded_pairs(
    count: IndexCount, comparisons: Sequence[Comparison], lookup: Lookup, is_size: Callable[[str], bool]
) -> Pairs:
    """Return the parts that comparisons allow.

    Args:
        count: The count.
        comparisons: Comparisons, which bound each part by the parts before it.
        lookup: Gives the values of sizes.
        is_size: Whether a name is that of a size.

    Raises:
        RuleError: They bound a part not at all, or allow more than 10,000.
    """
    pairs: list[tuple[int, ...]] = []
    tried = 0

    def usable(names: Iterable[str], values: Mapping[str, int]) -> bool:
        return all(name in values or is_size(name) for name in names)

    def fill(values: dict[str, int]) -> None:
        nonlocal tried
        if len(values) == len(count.names):
            pairs.append(tuple(values.values()))
            return
        name = count.names[len(values)]
        known: Callable[[str], Any] = lambda n: values[n] if n in values else lookup(n)  # noqa: E731
        bounds = [
            whole_number(limit.value(known), limit, signed=True) + more
            for comparison in comparisons
            for limit, more in _limits(name, comparison)
            if usable(limit.names, values)
        ]
        if not bounds:
            raise RuleError(
                f"the values of {', '.join(count.names)} are not known: {name} has no upper bound.",
                hint=_BOUNDS,
            )
        tried += max(min(bounds), 0)
        if tried > _MOST_PAIRS:
            raise RuleError(f"expected at most {_MOST_PAIRS} numbers to count, got more.", hint=_BOUNDS)
        for number in range(min(bounds)):
            values[name] = number
            if all(c.holds(known) for c in comparisons if name in c.names and usable(c.names, values)):
                fill(values)
            del values[name]

    fill({})
    return tuple(pairs)


def _limits(name: str, comparison: Comparison) -> Iterator[tuple[Expression, int]]:
    """Yield the expressions that a name is below, and what is added to them."""
    for first, sign, second in zip(
        comparison.operands, comparison.signs, comparison.operands[1:], strict=False
    ):
        for operand, limit, below, most in ((first, second, "<", "<="), (second, first, ">", ">=")):
            if operand.node.sign == "name" and str(operand) == name and sign in (below, most, "=="):
                yield limit, 0 if sign == below else 1
