"""Split a long list into chunks that are bounded in count and size. Pure."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def bounded_chunks(
    items: Sequence[T], counts: Sequence[int], sizes: Sequence[int], *, max_count: int, max_size: int
) -> Iterator[list[T]]:
    """Yield chunks of items, in order. A chunk is within both bounds, or has one item.

    Args:
        items: what to split.
        counts: how much each item adds to the count of its chunk.
        sizes: how much each item adds to the size of its chunk.
        max_count: largest count of a chunk.
        max_size: largest size of a chunk.
    """
    if items and sum(counts) <= max_count and sum(sizes) <= max_size:  # the usual case
        yield list(items)
        return
    chunk: list[T] = []
    count_so_far = size_so_far = 0
    for item, count, size in zip(items, counts, sizes, strict=True):
        if chunk and (count_so_far + count > max_count or size_so_far + size > max_size):
            yield chunk
            chunk, count_so_far, size_so_far = [], 0, 0
        chunk.append(item)
        count_so_far += count
        size_so_far += size
    if chunk:
        yield chunk
