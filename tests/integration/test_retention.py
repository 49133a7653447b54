"""Retention on real servers removes expired entries and consumers, and keeps all that a group still needs."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from harness.servers import Valkey, oldest_binary, redis_binary, valkey_binary
from harness.stack import GROUP, Stack, wait_until
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings
from token_worker.redis.exchange import drive
from token_worker.redis.link import RedisLink
from token_worker.streams import retention
from token_worker.streams.delivery import GROUP as MAKE_GROUP
from token_worker.streams.retention import HOLD_SECONDS, Retention, Trimmed
from token_worker.streams.routes import Route

HOUR_MS = 3_600_000
LONG = bool(os.environ.get("LONG_TESTS"))


def tend(retention: Retention, link: RedisLink) -> Trimmed:
    """All that is to be done now, round by round; what the rounds did together."""
    assert retention.is_due(0.0)
    done = drive(retention.tend(), link)
    while retention.is_due(-1.0):
        again = drive(retention.tend(), link)
        done.deleted += again.deleted
        done.consumers += again.consumers
        done.given_up += again.given_up
        done.refused += again.refused
        done.ahead_ms |= again.ahead_ms
    return done


class AgedStreams:
    """One route's streams, with entries of chosen ages."""

    def __init__(self, server: Valkey, **members: Any) -> None:
        self.route = Route("in", "out", frozenset({Op.TOKENIZE}), **members)
        self.link = RedisLink("streams", RedisSettings(url=server.url), raise_server_errors=True)
        self.client: Any = server.client()
        self.retention = Retention([self.route], GROUP, "me")
        seconds, micros = self.client.time()
        self.now_ms = seconds * 1000 + micros // 1000
        self.client.xgroup_create("in", GROUP, id="0", mkstream=True)

    def add(self, ages_ms: list[int], stream: str = "in", size: int = 1) -> list[bytes]:
        """Entries of these ages, oldest first."""
        return [self.client.xadd(stream, {"payload": b"x" * size}, id=f"{self.now_ms - age}-*") for age in ages_ms]

    def read(self, count: int, group: str = GROUP, stream: str = "in", consumer: str = "me") -> list[bytes]:
        """Deliver some entries."""
        found = self.client.xreadgroup(group, consumer, {stream: ">"}, count=count)
        return [entry_id for _, entries in found for entry_id, _ in entries]

    def tend(self) -> Trimmed:
        """Trim now, whoever did it a moment ago."""
        self.client.delete("in:trimmed")
        return tend(Retention([self.route], GROUP, "me"), self.link)

    def ids(self, stream: str = "in") -> list[bytes]:
        return [entry_id for entry_id, _ in self.client.xrange(stream)]


@pytest.fixture(params=["valkey", "redis82"])
def server(request: pytest.FixtureRequest, streams_server: Valkey, redis82_server: Valkey) -> Valkey:
    """Valkey and Redis 8.2."""
    return streams_server if request.param == "valkey" else redis82_server


def test_acknowledged_requests_past_their_time_go(server: Valkey) -> None:
    """Exactly what is older than the retention is deleted, if it is acknowledged."""
    aged = AgedStreams(server, request_retention_seconds=3600)
    ids = aged.add([2 * HOUR_MS, HOUR_MS + 5000, HOUR_MS - 60_000, 0])
    aged.client.xack("in", GROUP, *aged.read(10))
    assert aged.tend().deleted == 2
    assert aged.ids() == ids[2:]


@pytest.mark.parametrize("state", ["undelivered", "pending"])
def test_nothing_that_is_needed_is_trimmed(server: Valkey, state: str) -> None:
    """An entry that is undelivered or pending stays, and all after it, however old."""
    aged = AgedStreams(server, request_retention_seconds=3600)
    ids = aged.add([9 * HOUR_MS, 8 * HOUR_MS, 7 * HOUR_MS, 6 * HOUR_MS])
    if state == "pending":
        aged.client.xack("in", GROUP, *[entry for entry in aged.read(4) if entry != ids[2]])
    else:
        aged.client.xack("in", GROUP, *aged.read(2))
    assert aged.tend().deleted == 2
    assert aged.ids() == ids[2:]


def test_a_second_group_that_is_behind_is_waited_for(server: Valkey) -> None:
    """Of two groups the one that is behind decides."""
    aged = AgedStreams(server, request_retention_seconds=3600)
    aged.client.xgroup_create("in", "auditors", id="0")
    ids = aged.add([9 * HOUR_MS, 8 * HOUR_MS, 7 * HOUR_MS])
    aged.client.xack("in", GROUP, *aged.read(3))
    aged.client.xack("in", "auditors", *aged.read(1, "auditors"))
    assert aged.tend().deleted == 1
    assert aged.ids() == ids[1:]


@pytest.mark.parametrize("seconds", [0, 3600])
def test_nothing_is_trimmed_while_the_group_is_gone(server: Valkey, seconds: int) -> None:
    """Requests that a lost group had not acknowledged stay until it is made again, and answers them."""
    aged = AgedStreams(server, request_retention_seconds=seconds)
    ids = aged.add([9 * HOUR_MS, 8 * HOUR_MS, 7 * HOUR_MS])
    aged.client.xack("in", GROUP, aged.read(2)[0])
    aged.client.xgroup_destroy("in", GROUP)
    drive(aged.retention.clear(), aged.link)
    assert aged.tend().deleted == 0
    assert aged.ids() == ids


def test_zero_deletes_at_once_after_the_acknowledgement(server: Valkey) -> None:
    """A retention of 0 keeps nothing that is acknowledged, and all that is not."""
    aged = AgedStreams(server, request_retention_seconds=0)
    ids = aged.add([2000, 1000, 0, 0])
    aged.client.xack("in", GROUP, *aged.read(2))
    drive(aged.retention.clear(), aged.link)
    assert aged.ids() == ids[2:]


def test_bytes_are_bounded_as_well(server: Valkey) -> None:
    """With a bound in bytes the oldest acknowledged entries go until the stream fits; unread ones stay."""
    aged = AgedStreams(server, retention_bytes=300_000)
    aged.add(list(range(2_000_000, 0, -1000)), size=1000)
    aged.client.xack("in", GROUP, *aged.read(1500))
    for _ in range(10):
        aged.tend()
    assert 500 <= aged.client.xlen("in") <= 520  # 500 are undelivered
    aged.client.xack("in", GROUP, *aged.read(1500))
    for _ in range(10):
        aged.tend()
    assert 0 < aged.client.memory_usage("in", samples=0) <= 300_000


def test_responses_wait_for_readers_that_read(server: Valkey) -> None:
    """Replies past their time stay for a group that reads, and go where there is none."""
    aged = AgedStreams(server, response_retention_seconds=60)
    ids = aged.add([3 * HOUR_MS, 2 * HOUR_MS, 1000], "out")
    aged.client.xgroup_create("out", "readers", id="0")
    aged.read(1, "readers", "out", "reader")
    assert aged.tend().deleted == 0
    aged.client.xack("out", "readers", ids[0])
    assert aged.tend().deleted == 1
    aged.client.xgroup_destroy("out", "readers")
    assert aged.tend().deleted == 1
    assert aged.ids("out") == ids[2:]


def test_readers_that_have_gone_are_not_waited_for_ever(server: Valkey) -> None:
    """A group of readers without live consumers holds replies for a limited time, and that is told."""
    aged = AgedStreams(server, response_retention_seconds=60)
    ids = aged.add([(HOLD_SECONDS + 3600) * 1000, 2 * HOUR_MS, 0], "out")
    aged.client.xgroup_create("out", "gone", id="0")
    done = aged.tend()
    assert (done.deleted, done.given_up) == (1, 1)
    assert aged.ids("out") == ids[1:]


def test_dead_letters_have_a_time_of_their_own(server: Valkey) -> None:
    """Dead letters are kept for their own retention."""
    aged = AgedStreams(server, dead_letter_retention_seconds=3600)
    ids = aged.add([2 * HOUR_MS, HOUR_MS // 2], "in:dead")
    assert aged.tend().deleted == 1
    assert aged.ids("in:dead") == ids[1:]


def test_low_water_mark_is_what_is_acknowledged(server: Valkey) -> None:
    """The mark is before the oldest pending entry, else at the last delivered: nothing unanswered lies below it."""
    aged = AgedStreams(server)
    ids = aged.add([5000, 4000, 3000])
    aged.client.xack("in", GROUP, *[entry for entry in aged.read(3) if entry != ids[1]])
    aged.tend()
    mark = aged.client.get("in:low-water").decode()
    assert [entry for entry, _ in aged.client.xrange("in", min=f"({mark}")] == ids[1:]
    aged.client.xack("in", GROUP, ids[1])
    aged.tend()
    assert aged.client.get("in:low-water") == ids[2]


def test_one_worker_at_a_time_trims(server: Valkey) -> None:
    """Within an interval a route is tended once, whoever asks."""
    aged = AgedStreams(server, request_retention_seconds=1)
    aged.client.xack("in", GROUP, *[*aged.add([HOUR_MS])][:0] or [b"0-1"])
    aged.tend()
    aged.client.xack("in", GROUP, *(aged.read(5) or [b"0-1"]))
    assert tend(Retention([aged.route], GROUP, "another"), aged.link) == Trimmed()
    assert aged.tend().deleted == 1


def test_random_streams_lose_nothing_that_is_needed(server: Valkey) -> None:
    """Entries that one of two groups still needs stay, and all others are trimmed, whatever both have read."""
    rng = random.Random(5)
    for _ in range(30):
        server.client().flushall()
        aged = AgedStreams(server, request_retention_seconds=3600)
        aged.client.xgroup_create("in", "others", id="0")
        ids = aged.add(sorted((rng.randrange(3 * HOUR_MS) for _ in range(rng.randrange(1, 400))), reverse=True))
        needed = set()
        for group in (GROUP, "others"):
            got = aged.read(rng.randrange(1, len(ids) + 50), group)
            acked = [entry for entry in got if rng.random() < 0.97]
            if acked:
                aged.client.xack("in", group, *acked)
            needed |= set(ids) - set(acked)
        aged.tend()
        left = set(aged.ids())
        old = {entry for entry in ids if int(entry.split(b"-")[0]) < aged.now_ms - HOUR_MS}
        assert needed <= left
        first = min((ids.index(entry) for entry in needed), default=len(ids))
        a_moment_ago = aged.now_ms - HOUR_MS - 5000  # the server's clock has gone on since
        assert not [entry for entry in old & left & set(ids[:first]) if int(entry.split(b"-")[0]) < a_moment_ago]


def test_idle_consumers_go_if_they_hold_nothing(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent consumer is removed; one that holds an entry stays, since removing it would drop that."""
    aged = AgedStreams(server)
    aged.add([1000])
    aged.client.xgroup_createconsumer("in", GROUP, "empty")
    aged.read(1, consumer="holding")
    monkeypatch.setattr(retention, "CONSUMER_IDLE_SECONDS", 0)
    assert aged.tend().consumers == 1
    assert [consumer["name"] for consumer in aged.client.xinfo_consumers("in", GROUP)] == [b"holding"]
    assert aged.client.xpending("in", GROUP)["pending"] == 1


# Ids that lie ahead of the clock


@pytest.mark.parametrize(
    ("stream", "seconds", "ahead_ms"),
    [("in", "request", 86_400_000), ("out", "response", 8 * 10**12), ("in:dead", "dead_letter", 86_400_000)],
)
def test_ids_ahead_of_the_clock_do_not_keep_entries(
    server: Valkey, monkeypatch: pytest.MonkeyPatch, stream: str, seconds: str, ahead_ms: int
) -> None:
    """After an id ahead of the clock entries go by when they arrived: not before their time, and soon after."""
    monkeypatch.setattr(retention, "INTERVAL_SECONDS", 1)
    aged = AgedStreams(server, **{f"{seconds}_retention_seconds": 1})
    aged.client.xadd(stream, {"payload": "x"}, id=f"{aged.now_ms + ahead_ms}-7")
    aged.client.xadd(stream, {"payload": "x"})
    if stream == "in":
        aged.client.xack("in", GROUP, *aged.read(5))
    done = aged.tend()
    assert (done.deleted, aged.client.xlen(stream)) == (0, 2)
    assert ahead_ms - 60_000 < done.ahead_ms[stream] <= ahead_ms
    assert [ms for other, ms in done.ahead_ms.items() if other != stream] in ([0], [0, 0], [])
    wait_until(lambda: aged.tend().deleted == 2, "their time to be over")


def test_ids_ahead_hold_replies_no_longer_for_readers_that_have_gone(server: Valkey) -> None:
    """A group that nobody reads for is waited for by the time that entries arrived, too."""
    aged = AgedStreams(server, response_retention_seconds=60)
    old_ms = aged.now_ms - (HOLD_SECONDS + 3600) * 1000
    first, second, third = (aged.client.xadd("out", {"payload": "x"}, id=f"{9 * 10**12}-{n}") for n in (1, 2, 3))
    aged.client.xgroup_create("out", "gone", id="0")
    notes = f"{old_ms} {first.decode()} {aged.now_ms - 120_000} {second.decode()}"
    aged.client.set("in:arrivals:responses", notes)
    done = aged.tend()
    assert (done.deleted, done.given_up) == (1, 1)
    aged.client.xgroup_destroy("out", "gone")
    assert aged.tend().deleted == 1
    assert aged.ids("out") == [third]


def test_arrivals_of_another_stream_or_of_the_future_are_forgotten(server: Valkey) -> None:
    """A note beyond the stream's last id is of one that was deleted; one of the future is of a clock set back."""
    aged = AgedStreams(server, response_retention_seconds=60)
    entry = aged.client.xadd("out", {"payload": "x"}, id=f"{9 * 10**12}-1")
    aged.client.set("in:arrivals:responses", f"5 {9 * 10**12 + 1}-0 {aged.now_ms + HOUR_MS} {entry.decode()}")
    assert aged.tend().deleted == 0
    [at_ms, noted] = aged.client.get("in:arrivals:responses").split()
    assert (noted, aged.now_ms <= int(at_ms) < aged.now_ms + HOUR_MS) == (entry, True)


def test_group_that_is_made_again_forgets_arrivals(server: Valkey) -> None:
    """A stream whose group is gone may be another one: what was noted of its entries says nothing any more."""
    aged = AgedStreams(server)
    entry = aged.client.xadd("in", {"payload": "x"}, id=f"{9 * 10**12}-1")
    aged.client.set("in:arrivals", f"5 {entry.decode()}")
    aged.client.xgroup_destroy("in", GROUP)
    assert aged.link.run(MAKE_GROUP, ["in", "in:low-water", "in:arrivals"], [GROUP]) == 1
    assert aged.client.get("in:arrivals") == b""


def test_arrivals_take_little_room(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes are thinned out as they grow old: of a week there are some hundred, each near enough to the next."""
    aged = AgedStreams(server, response_retention_seconds=7 * 86_400)
    times = range(aged.now_ms - 8 * 86_400_000, aged.now_ms - 10_000, 60_000)
    notes = " ".join(f"{at_ms} {9 * 10**12}-{number}" for number, at_ms in enumerate(times, start=1))
    aged.client.set("in:arrivals:responses", notes)
    aged.client.xadd("out", {"payload": "x"}, id=f"{9 * 10**12}-{len(times) + 1}")
    monkeypatch.setattr(retention, "HOLD_SECONDS", 0)
    aged.tend()
    kept = [int(word) for word in aged.client.get("in:arrivals:responses").split()[::2]]
    assert len(kept) < 300
    assert kept[0] <= aged.now_ms - 7 * 86_400_000
    for before, after in pairwise(kept):
        assert after - before <= max(120_000, (kept[-1] - after) / 8)


def test_ids_that_are_used_up_stop_no_trim(server: Valkey) -> None:
    """An entry with the very last id does not stop what came before from going; nor does it go before its time."""
    aged = AgedStreams(server, request_retention_seconds=3600)
    aged.add([2 * HOUR_MS, HOUR_MS + 5000])
    aged.client.xadd("in", {"payload": "x"}, id=f"{2**64 - 1}-{2**64 - 1}")
    aged.client.xack("in", GROUP, *aged.read(10))
    assert aged.tend().deleted == 2
    assert aged.client.xlen("in") == 1


def test_bytes_are_bounded_where_ids_are_ahead(server: Valkey) -> None:
    """Of entries whose ids all lie in one millisecond no more go than have to, for the bound in bytes."""
    aged = AgedStreams(server, retention_bytes=300_000)
    for number in range(1, 501):
        aged.client.xadd("in", {"payload": b"x" * 1000}, id=f"{9 * 10**12}-{number}")
    aged.client.xack("in", GROUP, *aged.read(500))
    aged.tend()
    assert 250_000 < aged.client.memory_usage("in", samples=0) <= 300_000


def test_worker_says_that_ids_are_ahead_and_when_that_is_over(stack: Stack, tmp_path: Path) -> None:
    """The log names the stream, and how far its ids are ahead, once; and when they are no longer."""
    log = tmp_path / "log"
    seconds, _ = stack.streams.time()
    stack.streams.xadd("detokenize:responses", {"payload": "x"}, id=f"{(seconds + 86_400) * 1000}-0")
    stack.start_worker(log=log)
    wait_until(lambda: "stream ids are ahead" in log.read_text(), "the warning")
    stack.streams.delete("detokenize:responses")
    stack.streams.xadd("detokenize:responses", {"payload": "x"})
    wait_until(lambda: "stream ids are no longer ahead" in log.read_text(), "the end of it")
    [warning] = [line for line in map(msgspec.json.decode, log.read_text().splitlines()) if "ahead_seconds" in line]
    assert (warning["stream"], warning["level"]) == ("detokenize:responses", "warning")
    assert 86_000 < warning["ahead_seconds"] <= 86_400


# How long others wait


@pytest.mark.parametrize(
    ("entries_a_node", "bytes_a_node", "size"),
    [(100, 4096, 400), (100, 4096, 40), (10_000, 0, 40), (100, 4096, 8000), (100, 4096, 500_000)],
)
@pytest.mark.parametrize("binary", [valkey_binary, redis_binary, oldest_binary])
def test_no_trim_keeps_the_server_for_long(
    binary: Callable[[], str], entries_a_node: int, bytes_a_node: int, size: int, say: Callable[[str], None]
) -> None:
    """A script trims for 10 ms at most, for any number and order of expired entries; in the end all are trimmed.

    By CPU time of the server, since others use this machine, too. ``LONG_TESTS=1`` has a million entries.
    """
    count = min(1_000_000 if LONG else 100_000, 100_000_000 // size)
    with Valkey(binary=binary()) as server:
        aged = AgedStreams(server, request_retention_seconds=3600)
        aged.client.config_set("stream-node-max-entries", entries_a_node)
        aged.client.config_set("stream-node-max-bytes", bytes_a_node)
        for start in range(0, count, 5000):
            aged.client.eval(FILL, 1, "in", start + 1, min(start + 5000, count), size)
        aged.client.xgroup_setid("in", GROUP, "$")
        clocked = Clocked(aged.client, aged.link)
        assert tend(aged.retention, cast(RedisLink, clocked)).deleted == count
        say(f"{count:,} entries of {size:,} bytes: {len(clocked.ms)} scripts, {max(clocked.ms):.1f} ms at most")
        assert max(clocked.ms) < 10


FILL = "for n = ARGV[1], ARGV[2] do redis.call('XADD', KEYS[1], n .. '-0', 'payload', string.rep('x', ARGV[3])) end"


class Clocked:
    """A link that clocks scripts by the CPU time that the server has taken for them."""

    def __init__(self, client: Any, link: RedisLink) -> None:
        self._client = client
        self._link = link
        self.ms: list[float] = []

    def run(self, *script: Any) -> Any:
        before = self._cpu_ms()
        reply = self._link.run(*script)
        self.ms.append(self._cpu_ms() - before)
        return reply

    def _cpu_ms(self) -> float:
        found = self._client.info("cpu")
        return float(found["used_cpu_sys"] + found["used_cpu_user"]) * 1000


def test_trim_goes_on_between_batches(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished trim is due again at once, unless its route has to pause; then other work has its turn."""
    monkeypatch.setattr(retention, "SCRIPT_MS", 0)  # each script deletes as little as it can
    aged = AgedStreams(server, request_retention_seconds=3600)
    aged.client.xack("in", GROUP, *(aged.add([2 * HOUR_MS] * 1000, size=400) and aged.read(1000)))
    subject = Retention([aged.route], GROUP, "me")
    assert subject.is_due(0.0)
    drive(subject.tend(), aged.link)
    assert 0 < aged.client.xlen("in") < 1000
    assert subject.is_due(0.1)
    subject.rest(5.0)
    assert not subject.is_due(4.9)
    while subject.is_due(5.0):
        assert aged.client.get("in:trimmed") == b"me"
        drive(subject.tend(), aged.link)
    assert aged.client.xlen("in") == 0
    assert not subject.is_due(9.9)


def test_missing_rights_on_one_route_do_not_stop_the_others(server: Valkey) -> None:
    """A route whose streams cannot be trimmed is told, and the others are trimmed."""
    aged = AgedStreams(server, request_retention_seconds=1)
    aged.add([HOUR_MS])
    aged.client.xack("in", GROUP, *aged.read(1))
    aged.client.set("bad:trimmed:not", "x")
    aged.client.execute_command("ACL", "SETUSER", "half", "on", "nopass", "~in*", "~out*", "+@all")
    link = RedisLink("streams", RedisSettings(url=server.url.replace("//", "//half:x@")), raise_server_errors=True)
    bad = Route("bad", "out", frozenset({Op.TOKENIZE}))
    done = tend(Retention([bad, aged.route], GROUP, "me"), link)
    aged.client.execute_command("ACL", "DELUSER", "half")
    assert done.deleted == 1
    assert done.refused == [("bad", "NOPERM")]


def test_restarts_leave_no_consumers_behind(stack: Stack) -> None:
    """Workers that drain while requests come take their consumers along, and nothing is lost.

    ``RESTARTS=1000`` (with ``--timeout=1500``) makes it the long form.
    """
    restarts, at_once, sent = int(os.environ.get("RESTARTS", "8")), 4, 0
    for _ in range(restarts // at_once):
        workers = [stack.start_worker() for _ in range(at_once)]
        wait_until(lambda: len(_consumers(stack)) == at_once, "as many consumers as workers")
        requests = [
            {"id": str(number), "op": "tokenize", "client_id": "shop-frontend", "type": "int32", "value": number}
            for number in range(sent, sent + 50)
        ]
        stack.send(requests)
        sent += len(requests)
        for worker in workers:
            worker.signal(signal.SIGTERM)
        assert [worker.wait() for worker in workers] == [0] * at_once
        stack.workers.clear()
        assert _consumers(stack) == []
    stack.start_worker()
    replies = stack.wait_for_replies(sent)
    assert sorted(int(reply["id"]) for reply in replies) == list(range(sent))
    assert {reply["status"] for reply in replies} == {"ok"}
    wait_until(lambda: len(_consumers(stack)) == 1, "the consumer of the one worker")


def _consumers(stack: Stack) -> list[Any]:
    exists = stack.streams.exists("tokenize:requests") and stack.streams.xinfo_groups("tokenize:requests")
    return list(stack.streams.xinfo_consumers("tokenize:requests", GROUP)) if exists else []


@pytest.fixture(params=[valkey_binary, redis_binary])
def soaked(request: pytest.FixtureRequest, storage_server: Valkey) -> Iterator[Stack]:
    """Two workers that keep no acknowledged requests and little else."""
    route = {
        "requests": "tokenize:requests",
        "responses": "tokenize:responses",
        "ops": ["tokenize"],
        "request_retention_seconds": 0,
        "response_retention_seconds": 1,
    }
    settings = {"TOKEN_WORKER_ROUTES": msgspec.json.encode([route]).decode()}
    with Valkey(binary=request.param()) as streams, Stack(streams, storage_server, settings=settings) as stack:
        stack.generate_key("shop-frontend")
        stack.start_worker()
        stack.start_worker()
        yield stack


def test_soak_leaves_bounded_memory_and_no_old_values(soaked: Stack) -> None:
    """After many requests the streams are empty again: every one was answered, no value outlives its retention."""
    total = int(os.environ.get("SOAK_REQUESTS", "10000"))
    request = {"op": "tokenize", "client_id": "shop-frontend", "type": "str"}
    for start in range(0, total, 2000):
        soaked.send({**request, "id": str(n), "value": f"value {n % 5000}"} for n in range(start, start + 2000))
        wait_until(lambda end=start + 2000: _replies_ever(soaked) >= end, "the replies")  # type: ignore[misc]  # a default binds
    wait_until(lambda: soaked.streams.xlen("tokenize:requests") == 0, "the requests to go")
    wait_until(lambda: soaked.streams.xlen("tokenize:responses") == 0, "the replies to go")
    assert _replies_ever(soaked) == total


def _replies_ever(stack: Stack) -> int:
    """Replies that were written so far, with those that are gone: they stay too short for a slow reader."""
    exists = stack.streams.exists("tokenize:responses")
    return int(stack.streams.xinfo_stream("tokenize:responses")["entries-added"]) if exists else 0
