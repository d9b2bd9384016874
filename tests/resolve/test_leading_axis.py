"""An axis in front of all leaves, as stacked layers and replicated trees have it."""

from __future__ import annotations

import numpy as np
import pytest

from bridge_core import TensorSpec
from bridge_core.resolve.leading_axis import leading_axis


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(3, 4, 4), (3, 4)], 3),
        ([(8, 3, 3, 4, 6), (8, 6), (8, 5)], 8),
        ([(4, 4), (4,)], None),
        ([(4, 4), (4, 4)], None),
        ([(3, 3, 4, 6)], None),
        ([(3, 4, 4), (2, 4)], None),
        ([(1, 4, 4), (1, 4)], None),
        ([(3, 4, 4), (3, 4), ()], None),
        ([], None),
    ],
)
def test_an_axis_counts_if_no_leaf_is_without_it(shapes, size):
    assert leading_axis(TensorSpec(shape, np.dtype("float32")) for shape in shapes) == size
