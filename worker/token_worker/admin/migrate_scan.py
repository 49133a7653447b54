"""Walks through the names of a layout by SCAN, at a given rate, from any place on.

A place is a cursor of SCAN. A server that was restarted has another order of names: names may be missed after an old
cursor then. That is no harm to a copy, because the second scan at the end begins at the begin.

Touches ``token-worker:migration`` in the token storage: the place up to which a copy came. It is there from before the
first copied token until the new layout is recorded. So it also tells that the entries of the new layout are copies.
"""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from token_worker.admin.migrate_sides import Side
from token_worker.errors import Unavailable
from token_worker.keys.layout_record import MOVE_PLACE, LayoutName
from token_worker.redis.link import RedisLink
from token_worker.redis.scan import SCAN_KEYS

SAVE_SECONDS = 2.0
"""Shortest time between two writes of the place."""

PAGE_NAMES = 500
"""Most names in a page."""

_CURSOR_BITS = 64


class Page(NamedTuple):
    """A page of names, each of an entry.

    Attributes:
        tokens: names of token entries.
        values: names of value entries.
    """

    tokens: list[bytes]
    values: list[bytes]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The place up to which a copy came.

    Attributes:
        to: the new layout.
        cursor: of SCAN.
    """

    to: LayoutName
    cursor: str


class Walk:
    """Walks through the names.

    Args:
        link: the token storage.
        rate: most tokens in a second.
        progress: is called with the part of the walk that is done, from 0 to 1.
    """

    def __init__(self, link: RedisLink, rate: float, progress: Callable[[float], object] = lambda _: None) -> None:
        self._link = link
        self._rate = rate
        self._progress = progress
        self._saved_at = time.monotonic()

    def pages(self, side: Side, *, start: str = "0", to: LayoutName | None = None) -> Iterator[Page]:
        """Yield the names of a layout. An entry that exists during the whole walk is in at least one page.

        Args:
            side: the layout.
            start: the place to begin at.
            to: save the place, as one of a copy into this layout.

        Raises:
            Unavailable: the server is unavailable, or the connection was replaced.
        """
        link = self._link
        connection = link.connect()
        cursor, due = start, time.monotonic()
        while True:
            done = part_done(int(cursor))
            answer, names = link.call("SCAN", cursor, "MATCH", side.pattern, "COUNT", SCAN_KEYS, "TYPE", "string")
            cursor = answer.decode()
            for begin in range(0, len(names), PAGE_NAMES):
                page = Page([], [])
                for name in names[begin : begin + PAGE_NAMES]:
                    half = side.half(name)
                    if half is not None:
                        (page.tokens if half == "token" else page.values).append(name)
                time.sleep(max(0.0, due - time.monotonic()))
                due = time.monotonic() + len(page.tokens) / self._rate
                yield page
                self._progress(done)
            if link.connections != connection:
                raise Unavailable(link.name, "connection was replaced during a scan", link.address)
            if cursor == "0":
                return
            if to is not None and time.monotonic() - self._saved_at > SAVE_SECONDS:
                save_place(link, Place(to=to, cursor=cursor))
                self._saved_at = time.monotonic()


def save_place(link: RedisLink, place: Place | None) -> None:
    """Save the place; None if there are no copies any more, because the new layout is in use."""
    link.call("SET", MOVE_PLACE, b"" if place is None else msgspec.json.encode(place))


def read_place(link: RedisLink, to: LayoutName) -> str | None:
    """Return the cursor at which a copy into this layout can go on. None if there was no copy into it."""
    text = link.call("GET", MOVE_PLACE)
    try:
        place = msgspec.json.decode(text or b"", type=Place)
    except msgspec.DecodeError:
        return None
    return place.cursor if place.to == to and place.cursor.isdecimal() else None


def part_done(cursor: int) -> float:
    """Return the part of a scan that is done. SCAN counts up its cursor from the highest bit on."""
    return int(f"{cursor:0{_CURSOR_BITS}b}"[::-1], 2) / 2.0**_CURSOR_BITS
