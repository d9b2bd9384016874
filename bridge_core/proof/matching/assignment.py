"""Which pairs of a bipartite graph are in one of its perfect matchings."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["components", "possible_pairs"]


def possible_pairs(allowed: Sequence[Sequence[bool]]) -> list[list[bool]] | None:
    """Return which allowed pairs are in a perfect matching; None if there is none.

    Args:
        allowed: For each item of one side, whether each of the other may be its partner; square.
    """
    size = len(allowed)
    partner = [-1] * size  # of each column
    for row in range(size):
        if not _augmented(row, allowed, partner, set()):
            return None
    # A pair is possible if it is in this matching, or on a cycle that alternates with it.
    row_of = partner
    after = [[row_of[c] for c in range(size) if allowed[r][c] and row_of[c] != r] for r in range(size)]
    group = _strong_groups(after)
    return [[allowed[r][c] and group[r] == group[row_of[c]] for c in range(size)] for r in range(size)]


def components(pairs: Sequence[Sequence[bool]]) -> list[tuple[list[int], list[int]]]:
    """Return the rows and columns of each connected part of a graph."""
    size = len(pairs)
    seen: set[int] = set()
    parts = []
    for start in range(size):
        if start in seen:
            continue
        rows, columns, queue = {start}, set(), [start]
        while queue:
            row = queue.pop()
            for column in range(len(pairs[row])):
                if pairs[row][column] and column not in columns:
                    columns.add(column)
                    new = [r for r in range(size) if pairs[r][column] and r not in rows]
                    rows.update(new)
                    queue.extend(new)
        seen |= rows
        parts.append((sorted(rows), sorted(columns)))
    return parts


def _augmented(row: int, allowed: Sequence[Sequence[bool]], partner: list[int], seen: set[int]) -> bool:
    for column, fits in enumerate(allowed[row]):
        if fits and column not in seen:
            seen.add(column)
            if partner[column] < 0 or _augmented(partner[column], allowed, partner, seen):
                partner[column] = row
                return True
    return False


def _strong_groups(after: Sequence[Sequence[int]]) -> list[int]:
    """Return the number of each node's strongly connected component."""
    size = len(after)
    reach = [_reached(start, after) for start in range(size)]
    group = [-1] * size
    for node in range(size):
        if group[node] < 0:
            for other in reach[node]:
                if node in reach[other]:
                    group[other] = node
    return group


def _reached(start: int, after: Sequence[Sequence[int]]) -> set[int]:
    seen, queue = {start}, [start]
    while queue:
        for other in after[queue.pop()]:
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return seen
