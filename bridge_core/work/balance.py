"""Divides the files of a conversion into parts of about equal bytes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["balanced_parts"]


def balanced_parts(sizes: Sequence[int], parts: int) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of the files of each part, from 1, in the order of the files.

    The largest part is as small as consecutive files allow. There are as many parts as asked for, or one for
    each file if there are fewer files.

    Args:
        sizes: Bytes of each file, at least one.
        parts: How many parts, at least one.

    >>> balanced_parts([5, 5, 5, 1], 2)
    ((1, 2), (3, 4))
    """
    parts = min(parts, len(sizes))
    low, high = max(sizes), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(sizes, middle)) <= parts:
            high = middle
        else:
            low = middle + 1
    groups = _filled(sizes, low)
    while len(groups) < parts:  # none may be empty: the largest that can be cut is cut
        largest = max(
            (group for group in groups if len(group) > 1), key=lambda group: sum(sizes[n - 1] for n in group)
        )
        at = groups.index(largest)
        middle = len(largest) // 2
        groups[at : at + 1] = [largest[:middle], largest[middle:]]
    return tuple(map(tuple, groups))


def _filled(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Return consecutive groups of at most ``limit`` bytes, each as full as it can be."""
    groups: list[list[int]] = [[]]
    used = 0
    for number, size in enumerate(sizes, 1):
        if groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(number)
        used += size
    return groups
