import hypothesis.strategies as st
from hypothesis import given

from bridge_core.work import balanced_parts

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=40)


@given(SIZES, st.integers(1, 50))
def test_every_file_is_in_one_part_in_order_and_no_part_is_empty(sizes, parts):
    made = balanced_parts(sizes, parts)
    assert [number for part in made for number in part] == list(range(1, len(sizes) + 1))
    assert all(made)
    assert len(made) == min(parts, len(sizes))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(1, 9))
def test_no_consecutive_parts_have_a_smaller_largest_one(sizes, parts):
    parts = min(parts, len(sizes))

    def smallest(start: int, left: int) -> int:
        if left == 1:
            return sum(sizes[start:])
        return min(
            max(sum(sizes[start:end]), smallest(end, left - 1))
            for end in range(start + 1, len(sizes) - left + 2)
        )

    largest = max(sum(sizes[number - 1] for number in part) for part in balanced_parts(sizes, parts))
    assert largest == smallest(0, parts)
