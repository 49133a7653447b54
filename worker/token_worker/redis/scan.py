"""Finds every key of a pattern by SCAN, over one connection. KEYS is never used: it would stop the server."""

from collections.abc import Iterator

from token_worker.errors import Unavailable
from token_worker.redis.link import RedisLink

SCAN_KEYS = 1000
"""Keys that one SCAN command looks at: about a millisecond of the server."""


def scan(link: RedisLink, pattern: str | bytes, count: int = SCAN_KEYS, *, kind: str = "") -> Iterator[list[bytes]]:
    """Yield pages of keys. A key that exists during the whole scan is in at least one page.

    Args:
        link: the server.
        pattern: glob pattern of the keys.
        count: keys that one command looks at.
        kind: type of the keys, such as ``string``; of any type if left out.

    Raises:
        Unavailable: the server is unavailable; or the connection was replaced, even while the last page was in use.
            Another server may answer then, which does not know the cursor, and which may have lost writes.
    """
    connection = link.connect()
    only = ("TYPE", kind) if kind else ()
    cursor = b"0"
    while True:
        cursor, keys = link.call("SCAN", cursor, "MATCH", pattern, "COUNT", count, *only)
        _check(link, connection)
        yield keys
        if cursor == b"0":
            _check(link, connection)
            return


def _check(link: RedisLink, connection: int) -> None:
    if link.connections != connection:
        raise Unavailable(link.name, "connection was replaced during a scan", link.address)


def escape_pattern(text: str) -> str:
    """Escape a text, so that a glob pattern of Redis matches it literally."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in text)


def escape_bytes(data: bytes) -> bytes:
    """Escape bytes, so that a glob pattern of Redis matches them literally."""
    return b"".join(b"\\%c" % byte if byte in b"*?[]\\" else b"%c" % byte for byte in data)
