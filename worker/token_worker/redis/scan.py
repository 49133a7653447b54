"""Every key of a pattern, by SCAN, from one connection; never KEYS, which would stop the server."""

from collections.abc import Iterator

from token_worker.errors import Unavailable
from token_worker.redis.link import RedisLink

SCAN_COUNT = 1000
"""Keys a SCAN looks at in one step: about a millisecond of the server."""


def scan(link: RedisLink, pattern: str, count: int = SCAN_COUNT) -> Iterator[list[bytes]]:
    """Pages of keys; one that is there from begin to end comes at least once.

    Raises:
        Unavailable: the server is away; or the connection was made anew, also while the last page was worked on. Who
            answers then may be another server, to which the cursor means nothing, and which has lost writes.
    """
    connection = link.connect()
    cursor = b"0"
    while True:
        cursor, keys = link.call("SCAN", cursor, "MATCH", pattern, "COUNT", count)
        _check(link, connection)
        yield keys
        if cursor == b"0":
            _check(link, connection)
            return


def _check(link: RedisLink, connection: int) -> None:
    if link.connections != connection:
        raise Unavailable(link.name, "connection was made anew during a scan")


def escape_pattern(text: str) -> str:
    """A text that a glob of Redis takes literally."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in text)
