"""The monitor reads reasons of dead letters without payloads, and figures beside what is broken."""

import signal
from typing import Any

import pytest

from harness.servers import Valkey
from harness.stack import GROUP, Stack, wait_until
from token_worker.contract.messages import Op
from token_worker.monitor import reasons
from token_worker.monitor.collector import Collector
from token_worker.monitor.reasons import NO_REASON, OTHER_REASONS, Reasons, read_reasons
from token_worker.monitor.streams import StreamFacts, read_streams, until_first_outage
from token_worker.redis.address import RedisSettings
from token_worker.redis.exchange import Exchange, T, drive
from token_worker.redis.link import RedisLink
from token_worker.settings import load
from token_worker.streams.routes import Route

ROUTES = tuple(Route(name, f"{name}:out", frozenset({Op.TOKENIZE})) for name in ("good", "bad", "other"))


class Recorded(RedisLink):
    """A link that keeps what the server answers."""

    replies: list[Any]

    def call(self, *command: Any) -> Any:
        reply = super().call(*command)
        self.replies.append(reply)
        return reply


class Read:
    """A server, and what is read of it."""

    def __init__(self, server: Valkey) -> None:
        self.client: Any = server.client()
        self.link = Recorded("streams", RedisSettings(url=server.url), raise_server_errors=True)
        self.link.replies = []

    def drive(self, exchange: Exchange[T]) -> T:
        self.link.replies.clear()
        return drive(exchange, self.link)

    def dead(self, known: Reasons | None = None) -> Reasons | None:
        length = self.client.xlen("dead")
        return self.drive(read_reasons("dead", length, 2 * 10**12, known))

    def streams(self) -> StreamFacts:
        return self.drive(until_first_outage(read_streams(ROUTES, GROUP, {})))


@pytest.fixture(params=["streams_server", "redis82_server"])
def read(request: pytest.FixtureRequest) -> Read:
    """Valkey, then Redis."""
    return Read(request.getfixturevalue(request.param))


def test_reasons_are_counted_without_their_payloads(read: Read) -> None:
    """Each reason has its number and the time of its newest letter. No payload leaves the server."""
    for number in range(700):
        reason = "deliveries_exhausted" if number % 7 == 0 else "not_json_or_msgpack"
        read.client.xadd("dead", {"dead_reason": reason, "payload": "4242424242424242"}, id=f"{10**12 + number}-0")
    read.client.xadd("dead", {"payload": "4242424242424242", "dead_reason": "of its producer"}, id="1900000000000-0")
    found = read.dead()
    assert found is not None
    assert {reason: (it.count, it.newest_ms) for reason, it in found.by_reason.items()} == {
        "not_json_or_msgpack": (600, 10**12 + 699),
        "deliveries_exhausted": (100, 10**12 + 693),
        NO_REASON: (1, 1_900_000_000_000),
    }
    assert "4242" not in str(read.link.replies)
    assert read.dead(found) is found
    assert len(read.link.replies) == 1  # nothing has changed: nothing else is asked
    read.client.xdel("dead", "1900000000000-0")
    after = read.dead(found)
    assert after is not None
    assert NO_REASON not in after.by_reason


def test_many_and_large_dead_letters_are_read_in_bounds(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the newest are looked at, in small scripts; reasons nobody knows are counted together."""
    monkeypatch.setattr(reasons, "ENTRIES_MAX", 120)
    for number in range(200):
        read.client.xadd("dead", {"dead_reason": f"reason {number}", "payload": "x"})
    found = read.dead()
    assert found is not None
    assert (found.looked_at, found.length) == (120, 200)
    assert found.by_reason[OTHER_REASONS].count == 120 - reasons.REASONS_MAX
    assert [*found.by_reason][-1] == OTHER_REASONS
    read.client.delete("dead")
    for _ in range(20):
        read.client.xadd("dead", {"dead_reason": "large", "payload": "x" * 1_000_000})
    found = read.dead()
    assert found is not None
    assert 8 <= found.looked_at <= 10
    assert max(len(reply) for reply in read.link.replies if isinstance(reply, list)) == 3  # one entry a script


def test_broken_stream_hides_no_other(read: Read) -> None:
    """A key of another type in place of one stream is told by its name, and the figures of the others are there."""
    for name in ("good", "other"):
        read.client.xgroup_create(name, GROUP, id="0", mkstream=True)
        read.client.xadd(name, {"payload": "x"})
    read.client.set("bad", "x")
    found = read.streams()
    assert found.measured.unknown == {"bad": "WRONGTYPE"}
    assert {row.stream: row.undelivered for row in found.measured.rows} == {"good": 1, "other": 1}
    assert found.workers.keys() == {"good", "other"}


def test_server_that_hangs_holds_up_no_other() -> None:
    """Streams that hang cost one time-out, however many routes there are; the storage is read meanwhile."""
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        collector = Collector(load(stack.environment()))
        for source in collector.sources:
            source.look()
        streams.signal(signal.SIGSTOP)
        try:
            collector.start()
            wait_until(lambda: collector.streams.seen.trouble is not None, "the streams to be away")
            look = collector.look()
            assert look.streams.value is not None
            storage_seen = look.servers["keys, tokens"]
            assert storage_seen.trouble is None
            assert look.keys is not None
            assert look.keys.trouble is None
        finally:
            streams.signal(signal.SIGCONT)
            collector.stop()
