"""Long lists are split into chunks that are bounded in count and size."""

import pytest

from token_worker.chunks import bounded_chunks


@pytest.mark.parametrize(
    ("sizes", "chunks"),
    [
        ([], []),
        ([1, 1, 1], [[0, 1, 2]]),
        ([1, 1, 1, 1], [[0, 1, 2], [3]]),
        ([6, 4, 1], [[0, 1], [2]]),
        ([6, 5, 1], [[0], [1, 2]]),
        ([99, 1, 99], [[0], [1], [2]]),
    ],
)
def test_chunks_are_as_large_as_both_bounds_allow(sizes: list[int], chunks: list[list[int]]) -> None:
    """A chunk takes items until one more would exceed a bound; an item that exceeds a bound by itself is a chunk."""
    items = range(len(sizes))
    assert [*bounded_chunks(items, [1] * len(sizes), sizes, max_count=3, max_size=10)] == chunks


def test_items_may_count_for_several() -> None:
    """The count of a chunk is the sum of the counts of its items."""
    assert [*bounded_chunks("abc", [2, 2, 1], [0, 0, 0], max_count=3, max_size=0)] == [["a"], ["b", "c"]]
