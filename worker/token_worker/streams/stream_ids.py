"""Ids of stream entries: two numbers of 64 bits each, milliseconds and a count, written ``ms-count``."""

from typing import Final

MOST: Final = 2**64 - 1
"""The largest value of either number."""

FIRST_ID: Final = "0-0"
"""Smaller than every id of an entry."""

LAST_ID: Final = f"{MOST}-{MOST}"
"""The largest id. A stream that has given it to an entry takes no more entries."""


def order(entry_id: str | bytes) -> tuple[int, int]:
    """Both numbers of an id. They sort as the ids do."""
    ms, _, count = (entry_id.decode() if isinstance(entry_id, bytes) else entry_id).partition("-")
    return int(ms), int(count)


def after(entry_id: str | bytes) -> str | None:
    """The smallest id that is larger, None after the last one.

    A range that begins there needs no ``(`` before its start. Servers refuse ``(`` before the last id.
    """
    ms, count = order(entry_id)
    if count < MOST:
        return f"{ms}-{count + 1}"
    return f"{ms + 1}-0" if ms < MOST else None


def before(entry_id: str) -> str:
    """The largest id that is smaller; the first id comes before itself."""
    ms, count = order(entry_id)
    if count:
        return f"{ms}-{count - 1}"
    return f"{ms - 1}-{MOST}" if ms else FIRST_ID


def check_id(text: str) -> str:
    """A stream id in full; ``ms`` alone stands for its first entry.

    Raises:
        ValueError: no stream id.
    """
    ms, _, count = text.partition("-")
    count = count or "0"
    if not (ms.isascii() and ms.isdigit() and count.isascii() and count.isdigit() and max(int(ms), int(count)) <= MOST):
        raise ValueError("no stream id")
    return f"{int(ms)}-{int(count)}"


def is_id(text: str) -> bool:
    """Return True if a text is a complete stream id."""
    try:
        return check_id(text) == text
    except ValueError:
        return False
