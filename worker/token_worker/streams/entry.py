"""Entries of a request stream on their way through a worker: read in a batch, answered, committed."""

from collections.abc import Mapping
from typing import Self

from msgspec import Struct

from token_worker.streams.reply_facts import NO_FACTS, ReplyFacts
from token_worker.streams.routes import Route


class Entry(Struct, frozen=True, gc=False):
    """One entry of a request stream, delivered to this worker.

    Attributes:
        payload: its field of this name; None if it has none.
        others: its other fields; None if there are none, as usual.
        deliveries: how often it was delivered, including this time. Uncounted deliveries are not included.
            The number of isolated tries is one less.
        exhausted: all its tries are used up; move it to the dead letters.
    """

    route: Route
    id: bytes
    payload: bytes | None
    others: dict[bytes, bytes] | None = None
    deliveries: int = 1
    exhausted: bool = False

    @classmethod
    def of(
        cls,
        route: Route,
        entry_id: bytes,
        fields: Mapping[bytes, bytes],
        deliveries: int = 1,
        *,
        exhausted: bool = False,
    ) -> Self:
        """Make an entry of all its fields."""
        others = {name: value for name, value in fields.items() if name != b"payload"}
        return cls(route, entry_id, fields.get(b"payload"), others or None, deliveries, exhausted)


class Batch(Struct, frozen=True, gc=False):
    """Entries to handle now.

    Attributes:
        isolated: whether this is one entry that is tried by itself, because an earlier try of it failed.
        more: whether this is a full batch, and a stream gave as many entries as were asked for. So there may be more.
    """

    entries: list[Entry]
    isolated: bool
    more: bool = False


class Answer(Struct, frozen=True, gc=False):
    """The reply to an entry.

    Attributes:
        payload: the reply.
        reply_to: stream that the request named; None for the route's own response stream.
        forbidden: reply for the route's own stream if ``reply_to`` cannot take ``payload``; empty without ``reply_to``.
        facts: facts about the reply, for telemetry.
        request_id: id that the producer gave the request.
    """

    entry: Entry
    payload: bytes
    reply_to: str | None = None
    forbidden: bytes = b""
    facts: ReplyFacts = NO_FACTS
    request_id: str = ""


class Committed(Struct):
    """Outcome of a commit.

    Attributes:
        written: number of replies written.
        suppressed: number of entries that were no longer this worker's to answer.
        forbidden: entries answered on their route's stream, because their ``reply_to`` could not take the reply.
        stuck: entries that stay pending, because a stream of their route cannot be used.
        refused: the streams that cannot be used, each with the reason: ``ids used up``, or the code of an error
            (``WRONGTYPE``, ``NOPERM``). If the stream is not known, the request stream is named.
    """

    written: int = 0
    suppressed: int = 0
    forbidden: list[Entry] = []
    stuck: list[Entry] = []
    refused: dict[str, str] = {}
