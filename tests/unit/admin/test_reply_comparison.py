"""Comparison of the replies to replayed requests with the first replies, without a server."""

import itertools
from typing import Any

import msgspec

from token_worker.admin.reply_comparison import ComparisonResult, ReplyComparison, ResentRequest
from token_worker.errors import ServerError
from token_worker.redis.exchange import BoundedCommand
from token_worker.streams.strays import EARLIER_MS
from token_worker.streams.stream_ids import order

OUT = "tokenize:responses"
NOW_MS = 1_785_485_730_250


class Streams:
    """Response streams in memory, which answer TIME and XRANGE.

    Attributes:
        replies: the entries of the stream.
        starts: ids at which ranges began.
    """

    def __init__(self) -> None:
        self.replies: list[tuple[bytes, list[bytes]]] = []
        self.starts: list[str] = []

    def reply(self, request_entry: str, value: str) -> None:
        message = {"id": "r", "request_entry": request_entry, "status": "ok", "value": value}
        self.replies.append((b"%d-0" % (len(self.replies) + 1), [b"payload", msgspec.json.encode(message)]))

    def read(self, comparison: ReplyComparison) -> int:
        """Let the comparison read; returns how many replies it still misses."""
        exchange = comparison.read_replies()
        answer: Any = None
        while True:
            try:
                step = exchange.send(answer)
            except StopIteration as end:
                return int(end.value)
            command = step.command if isinstance(step, BoundedCommand) else step
            if command == ("TIME",):
                answer = [b"%d" % (NOW_MS // 1000), b"%d" % (NOW_MS % 1000 * 1000)]
                continue
            assert command[0] == "XRANGE"
            if command[1] != OUT:
                try:
                    step = exchange.throw(ServerError("streams", "WRONGTYPE"))
                except StopIteration as end:
                    return int(end.value)
                raise AssertionError(step)
            self.starts.append(command[2])
            answer = [entry for entry in self.replies if order(entry[0]) >= order(command[2])][: command[-1]]


def resent(number: int, *, was_answered: bool = True, streams: tuple[str, ...] = (OUT,)) -> ResentRequest:
    return ResentRequest(f"{number}-0", f"{number}-0", f"9{number}-0", f"r{number}", streams, was_answered)


def test_replies_are_the_same_different_or_missing() -> None:
    """Each replay is counted once: same, different, without a first reply, or without a reply so far."""
    streams, comparison = Streams(), ReplyComparison([resent(1), resent(2), resent(3), resent(4)])
    for entry, value in (("1-0", "a"), ("2-0", "b"), ("4-0", "d"), ("91-0", "a"), ("92-0", "other"), ("93-0", "c")):
        streams.reply(entry, value)
    assert streams.read(comparison) == 1
    assert comparison.result() == ComparisonResult(1, [("2-0", "92-0", "r2")], 1, ["94-0"])


def test_reply_that_comes_later_is_found_by_the_next_read() -> None:
    """A read goes on where the last one ended, also in the midst of other requests' replies."""
    streams, comparison = Streams(), ReplyComparison([resent(1)])
    streams.reply("1-0", "a")
    for number in range(250):
        streams.reply(f"5-{number}", "of another request")
    assert streams.read(comparison) == 1
    streams.reply("91-0", "a")
    assert streams.read(comparison) == 0
    assert comparison.result() == ComparisonResult(same=1)


def test_replies_are_read_from_the_first_original_on() -> None:
    """Replies that are much older than the first original are not read: there can be very many."""
    streams = Streams()
    entries = [f"{NOW_MS - age_ms}-0" for age_ms in (1000, 2000)]
    sent = [ResentRequest(entry, entry, "9-0", "r", (OUT,), was_answered=True) for entry in entries]
    streams.read(ReplyComparison(sent))
    assert streams.starts == [f"{NOW_MS - 2000 - EARLIER_MS}-0"]


def test_replies_to_requests_whose_ids_are_ahead_are_found() -> None:
    """If a producer chose ids ahead of the clock, replies have smaller ids than their requests, and are compared."""
    streams, original, entry = Streams(), f"{NOW_MS + 86_400_000}-0", f"{NOW_MS + 86_400_000}-1"
    comparison = ReplyComparison([ResentRequest(original, original, entry, "r", (OUT,), was_answered=True)])
    streams.reply(original, "a")
    streams.reply(entry, "a")
    assert streams.read(comparison) == 0
    assert comparison.result() == ComparisonResult(same=1)


def test_first_reply_is_found_beside_a_stream_with_usual_ids() -> None:
    """The ids of one request stream do not tell from where on there are replies to requests of another."""
    streams, usual, ahead = Streams(), f"{NOW_MS - 1000}-0", f"{NOW_MS + 86_400_000}"
    sent = [(f"{ahead}-0", f"{ahead}-1"), (usual, f"{NOW_MS}-0")]
    for request_entry in itertools.chain(*sent):
        streams.reply(request_entry, "a")
    comparison = ReplyComparison([ResentRequest(old, old, new, "r", (OUT,), was_answered=True) for old, new in sent])
    assert streams.read(comparison) == 0
    assert comparison.result() == ComparisonResult(same=2)


def test_dead_letter_has_no_first_reply() -> None:
    """The reply that a dead letter had told an error: it is not compared."""
    streams, comparison = Streams(), ReplyComparison([resent(1, was_answered=False)])
    streams.reply("1-0", "a")
    streams.reply("91-0", "a")
    assert streams.read(comparison) == 0
    assert comparison.result() == ComparisonResult(no_original=1)


def test_reply_to_that_is_not_a_stream_holds_no_reply() -> None:
    """A key of another type in ``reply_to`` ends nothing: its reply is missing."""
    assert Streams().read(ReplyComparison([resent(1, streams=("a-string",))])) == 1
