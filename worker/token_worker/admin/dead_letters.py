"""Dead letters: entries that could not be answered, as an operator sees them. Sans-IO like ``delivery``.

Written by ``bury.lua``: the fields ``dead_reason``, ``dead_stream``, ``dead_entry`` and ``dead_deliveries``, then those
of the entry. ``replay`` sends them again.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from token_worker.admin.payloads import read_message
from token_worker.admin.replay import PAGE_ENTRIES
from token_worker.redis.exchange import Exchange
from token_worker.streams.routes import Route


class DeadLetter(msgspec.Struct, kw_only=True):
    """A dead letter; members are those of ``dead-letters list --json``. Holds no value.

    Attributes:
        dead_stream, id: where it is.
        stream, entry: the request stream and the id it had there.
        reason: why it could not be answered.
        deliveries: how often it was delivered.
        age_seconds: since it became a dead letter, by the server's clock.
        request_id, op, client_id: as far as the payload can be read.
        payload_bytes: length of the payload.
    """

    dead_stream: str
    id: str
    stream: str
    entry: str
    reason: str
    deliveries: int
    age_seconds: float
    request_id: str | None
    op: str | None
    client_id: str | None
    payload_bytes: int


def read_page(route: Route, start: str, now_ms: int) -> Exchange[list[tuple[DeadLetter, bytes]]]:
    """The next dead letters and their payloads, from the id ``start`` on; of shared streams those of all routes."""
    page = yield "XRANGE", route.dead_letters, start, "+", "COUNT", PAGE_ENTRIES
    return [_describe(route, entry_id.decode(), raw, now_ms) for entry_id, raw in page]


def find(routes: Sequence[Route], letter: str, now_ms: int) -> Exchange[list[tuple[DeadLetter, bytes]]]:
    """The dead letters with this id: one, but for a chance in several streams."""
    found = []
    for route in {route.dead_letters: route for route in routes}.values():
        for entry_id, raw in (yield "XRANGE", route.dead_letters, letter, letter):
            found.append(_describe(route, entry_id.decode(), raw, now_ms))
    return found


def drop(dead_stream: str, letters: Sequence[str]) -> Exchange[int]:
    """Delete dead letters for good; how many there were."""
    return int((yield "XDEL", dead_stream, *letters))


def server_ms() -> Exchange[int]:
    """The server's clock, Unix milliseconds."""
    seconds, micros = yield ("TIME",)
    return int(seconds) * 1000 + int(micros) // 1000


def _describe(route: Route, entry_id: str, raw: Sequence[bytes], now_ms: int) -> tuple[DeadLetter, bytes]:
    fields = dict(zip(raw[::2], raw[1::2], strict=True))
    payload = fields.get(b"payload", b"")
    message: dict[str, Any] = read_message(payload) or {}

    def text(name: bytes) -> str:
        return fields.get(name, b"").decode(errors="replace")

    def member(name: str) -> str | None:
        found = message.get(name)
        return found if isinstance(found, str) and len(found) <= 256 else None

    letter = DeadLetter(
        dead_stream=route.dead_letters,
        id=entry_id,
        stream=text(b"dead_stream"),
        entry=text(b"dead_entry"),
        reason=text(b"dead_reason"),
        deliveries=int(text(b"dead_deliveries") or 0) if text(b"dead_deliveries").isdecimal() else 0,
        age_seconds=max(0, now_ms - int(entry_id.partition("-")[0])) / 1000,
        request_id=member("id"),
        op=member("op"),
        client_id=member("client_id"),
        payload_bytes=len(payload),
    )
    return letter, payload
