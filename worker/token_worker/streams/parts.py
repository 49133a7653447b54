"""A long list in parts, each bounded in count and size."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def split(
    items: Sequence[T], counts: Sequence[int], sizes: Sequence[int], most_count: int, most_size: int
) -> Iterator[list[T]]:
    """Parts in order: as many items as stay within both bounds, or one. ``counts`` and ``sizes`` are theirs."""
    if items and sum(counts) <= most_count and sum(sizes) <= most_size:  # as a rule
        yield list(items)
        return
    part: list[T] = []
    count_so_far = size_so_far = 0
    for item, count, size in zip(items, counts, sizes, strict=True):
        if part and (count_so_far + count > most_count or size_so_far + size > most_size):
            yield part
            part, count_so_far, size_so_far = [], 0, 0
        part.append(item)
        count_so_far += count
        size_so_far += size
    if part:
        yield part
