"""Reasons of dead letters: each reason, how often, and when last. Sans-IO, and read-only.

No payload leaves the server. Only the newest dead letters are looked at, and only if the stream has changed.
"""

from typing import NamedTuple

import msgspec

from token_worker.admin.stream_ends import is_time
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.redis.script import Script
from token_worker.streams.stream_ids import order

_REASONS = Script(__package__, "reasons.lua", is_read_only=True)

ENTRIES_MAX = 5_000
BYTES_MAX = 8 << 20
"""Most dead letters of a stream that are looked at, and most bytes of them that the server reads for it."""

PAGE_ENTRIES = 500
PAGE_BYTES = 256 << 10
"""Entries and bytes that one script looks at, about. Other clients of the server wait for so long."""

REASON_BYTES_MAX = 100
"""Reasons are short. One that is longer was not written by a worker."""

REASONS_MAX = 20
"""Most reasons of a stream. Others are counted together."""

NO_REASON = "(no reason)"
OTHER_REASONS = "(other reasons)"


class Reason(msgspec.Struct):
    """One reason: how many dead letters have it, and when the newest came, in Unix milliseconds, if known."""

    count: int
    newest_ms: int | None


class Reasons(NamedTuple):
    """The reasons of one stream.

    Attributes:
        newest: id of the newest dead letter.
        length: number of dead letters.
        looked_at: how many of them were looked at, newest first.
        by_reason: the reasons, most frequent first.
    """

    newest: bytes
    length: int
    looked_at: int
    by_reason: dict[str, Reason]


def read_reasons(stream: str, length: int, now_ms: int, known: Reasons | None) -> Exchange[Reasons | None]:
    """Read the reasons of a stream with this length. Returns ``known`` if nothing has changed, None if it is empty."""
    if not length:
        return None
    page = yield RunScript(_REASONS, (stream,), ("+", 1, REASON_BYTES_MAX))
    if len(page) < 3:
        return None
    newest = page[1]
    if known is not None and (known.newest, known.length) == (newest, length):
        return known
    found: dict[str, Reason] = {}
    looked_at = size = 0
    while True:
        size += page[0]
        for entry_id, reason in zip(page[1::2], page[2::2], strict=True):
            _count(found, reason.decode(errors="replace") or NO_REASON, entry_id, now_ms)
            looked_at += 1
        if looked_at >= ENTRIES_MAX or size >= BYTES_MAX:
            break
        count = min(PAGE_ENTRIES, ENTRIES_MAX - looked_at, max(1, PAGE_BYTES * looked_at // max(size, 1)))
        page = yield RunScript(_REASONS, (stream,), (f"({page[-2].decode()}", count, REASON_BYTES_MAX))
        if len(page) < 3:
            break
    by_count = dict(sorted(found.items(), key=lambda item: (item[0] == OTHER_REASONS, -item[1].count)))
    return Reasons(newest, length, looked_at, by_count)


def _count(found: dict[str, Reason], reason: str, entry_id: bytes, now_ms: int) -> None:
    if reason not in found and len(found) >= REASONS_MAX:
        reason = OTHER_REASONS
    seen = found.get(reason)
    if seen is None:  # entries come newest first
        found[reason] = Reason(1, order(entry_id)[0] if is_time(entry_id, now_ms) else None)
    else:
        seen.count += 1
