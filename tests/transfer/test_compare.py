"""Two states compared bit for bit: what differs, and by how much, where values are NaN too."""

import numpy as np
import pytest

from bridge_core import FlatState, compare_states
from bridge_core.cli.difference_lines import comparison_lines

QUIET = np.array(0x7FC00000, np.uint32).view(np.float32)
OTHER = np.array(0x7FC00001, np.uint32).view(np.float32)
NEGATIVE = np.array(0xFFC00000, np.uint32).view(np.float32)


def values(*given):
    return np.array(given, np.float32)


@pytest.mark.parametrize(
    ("left", "right", "elements", "largest", "other_nans"),
    [
        (values(1, QUIET), values(1, OTHER), 1, None, 1),
        (values(QUIET, QUIET), values(OTHER, NEGATIVE), 2, None, 2),
        (values(1, QUIET), values(3, OTHER), 2, 2.0, 1),
        (values(1, QUIET), values(3, 1), 2, np.inf, 0),
        (values(1, np.inf), values(1, -np.inf), 1, np.inf, 0),
        (values(0.0, 1), values(-0.0, 1), 1, 0.0, 0),
    ],
)
def test_the_largest_difference_and_nans(left, right, elements, largest, other_nans):
    (difference,) = compare_states(FlatState({"w": left}), FlatState({"w": right})).differing
    assert (difference.elements, difference.largest, difference.other_nans) == (elements, largest, other_nans)
    assert difference.to_json().get("other_nans", 0) == other_nans


def test_nans_of_several_blocks_are_counted():
    left = np.full(1 << 21, QUIET)
    right = left.copy()
    right[[0, -1]] = OTHER
    (difference,) = compare_states(FlatState({"w": left}), FlatState({"w": right})).differing
    assert (difference.elements, difference.largest, difference.other_nans) == (2, None, 2)


def lines(left, right):
    return comparison_lines(compare_states(FlatState(left), FlatState(right)), "a", "b")


def test_nans_with_other_bits_are_told_as_such():
    (line, _) = lines({"w": values(1, QUIET)}, {"w": values(1, OTHER)})
    assert "inf" not in line
    assert "all NaN in both, with other bits" in line
    (line, _) = lines({"w": values(1, QUIET)}, {"w": values(3, OTHER)})
    assert "by at most 2, 1 of them NaN in both" in line
    (line, _) = lines({"w": values(1, QUIET)}, {"w": values(1, 2)})
    assert "by at most inf" in line
