"""Retention of streams and consumers on real servers: what is past its time goes, what anybody needs stays."""

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from servers import Valkey, redis_binary, valkey_binary
from stack import Stack, wait_until

from token_worker.contract.messages import Op
from token_worker.redis_link import RedisLink
from token_worker.redis_settings import RedisSettings
from token_worker.service.loop import perform
from token_worker.streams import retention
from token_worker.streams.retention import HOLD_SECONDS, Retention, Trimmed
from token_worker.streams.routes import Route

GROUP = "token-workers"
HOUR_MS = 3_600_000


def tend(retention: Retention, link: RedisLink) -> Trimmed:
    """All that is to be done now, round by round; what the rounds did together."""
    done = Trimmed()
    while retention.is_due(0.0):
        again = perform(retention.tend(), link)
        done.deleted += again.deleted
        done.consumers += again.consumers
        done.given_up += again.given_up
        done.refused += again.refused
        done.ahead_ms |= again.ahead_ms
    return done


class Desk:
    """One route's streams, with entries of chosen ages."""

    def __init__(self, server: Valkey, **members: Any) -> None:
        self.route = Route("in", "out", frozenset({Op.TOKENIZE}), **members)
        self.link = RedisLink("streams", RedisSettings(url=server.url), refusals=True)
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
    desk = Desk(server, request_retention_seconds=3600)
    ids = desk.add([2 * HOUR_MS, HOUR_MS + 5000, HOUR_MS - 60_000, 0])
    desk.client.xack("in", GROUP, *desk.read(10))
    assert desk.tend().deleted == 2
    assert desk.ids() == ids[2:]


@pytest.mark.parametrize("state", ["undelivered", "pending"])
def test_nothing_that_is_needed_is_trimmed(server: Valkey, state: str) -> None:
    """An entry that is undelivered or pending stays, and all after it, however old."""
    desk = Desk(server, request_retention_seconds=3600)
    ids = desk.add([9 * HOUR_MS, 8 * HOUR_MS, 7 * HOUR_MS, 6 * HOUR_MS])
    if state == "pending":
        desk.client.xack("in", GROUP, *[entry for entry in desk.read(4) if entry != ids[2]])
    else:
        desk.client.xack("in", GROUP, *desk.read(2))
    assert desk.tend().deleted == 2
    assert desk.ids() == ids[2:]


def test_a_second_group_that_is_behind_is_waited_for(server: Valkey) -> None:
    """Of two groups the one that is behind decides."""
    desk = Desk(server, request_retention_seconds=3600)
    desk.client.xgroup_create("in", "auditors", id="0")
    ids = desk.add([9 * HOUR_MS, 8 * HOUR_MS, 7 * HOUR_MS])
    desk.client.xack("in", GROUP, *desk.read(3))
    desk.client.xack("in", "auditors", *desk.read(1, "auditors"))
    assert desk.tend().deleted == 1
    assert desk.ids() == ids[1:]


@pytest.mark.parametrize("seconds", [0, 3600])
def test_nothing_is_trimmed_while_the_group_is_gone(server: Valkey, seconds: int) -> None:
    """Requests that a lost group had not acknowledged stay until it is made again, and answers them."""
    desk = Desk(server, request_retention_seconds=seconds)
    ids = desk.add([9 * HOUR_MS, 8 * HOUR_MS, 7 * HOUR_MS])
    desk.client.xack("in", GROUP, desk.read(2)[0])
    desk.client.xgroup_destroy("in", GROUP)
    perform(desk.retention.clear(), desk.link)
    assert desk.tend().deleted == 0
    assert desk.ids() == ids


def test_zero_deletes_at_once_after_the_acknowledgement(server: Valkey) -> None:
    """A retention of 0 keeps nothing that is acknowledged, and all that is not."""
    desk = Desk(server, request_retention_seconds=0)
    ids = desk.add([2000, 1000, 0, 0])
    desk.client.xack("in", GROUP, *desk.read(2))
    perform(desk.retention.clear(), desk.link)
    assert desk.ids() == ids[2:]


def test_bytes_are_bounded_as_well(server: Valkey) -> None:
    """With a bound in bytes the oldest acknowledged entries go until the stream fits; unread ones stay."""
    desk = Desk(server, retention_bytes=300_000)
    desk.add(list(range(2_000_000, 0, -1000)), size=1000)
    desk.client.xack("in", GROUP, *desk.read(1500))
    for _ in range(10):
        desk.tend()
    assert 500 <= desk.client.xlen("in") <= 520  # 500 are undelivered
    desk.client.xack("in", GROUP, *desk.read(1500))
    for _ in range(10):
        desk.tend()
    assert 0 < desk.client.memory_usage("in", samples=0) <= 300_000


def test_responses_wait_for_readers_that_read(server: Valkey) -> None:
    """Replies past their time stay for a group that reads, and go where there is none."""
    desk = Desk(server, response_retention_seconds=60)
    ids = desk.add([3 * HOUR_MS, 2 * HOUR_MS, 1000], "out")
    desk.client.xgroup_create("out", "readers", id="0")
    desk.read(1, "readers", "out", "reader")
    assert desk.tend().deleted == 0
    desk.client.xack("out", "readers", ids[0])
    assert desk.tend().deleted == 1
    desk.client.xgroup_destroy("out", "readers")
    assert desk.tend().deleted == 1
    assert desk.ids("out") == ids[2:]


def test_readers_that_have_gone_are_not_waited_for_ever(server: Valkey) -> None:
    """A group of readers without live consumers holds replies for a limited time, and that is told."""
    desk = Desk(server, response_retention_seconds=60)
    ids = desk.add([(HOLD_SECONDS + 3600) * 1000, 2 * HOUR_MS, 0], "out")
    desk.client.xgroup_create("out", "gone", id="0")
    done = desk.tend()
    assert (done.deleted, done.given_up) == (1, 1)
    assert desk.ids("out") == ids[1:]


def test_dead_letters_have_a_time_of_their_own(server: Valkey) -> None:
    """Dead letters are kept for their own retention."""
    desk = Desk(server, dead_letter_retention_seconds=3600)
    ids = desk.add([2 * HOUR_MS, HOUR_MS // 2], "in:dead")
    assert desk.tend().deleted == 1
    assert desk.ids("in:dead") == ids[1:]


def test_low_water_mark_is_what_is_acknowledged(server: Valkey) -> None:
    """The mark is before the oldest pending entry, else at the last delivered: nothing unanswered lies below it."""
    desk = Desk(server)
    ids = desk.add([5000, 4000, 3000])
    desk.client.xack("in", GROUP, *[entry for entry in desk.read(3) if entry != ids[1]])
    desk.tend()
    mark = desk.client.get("in:low-water").decode()
    assert [entry for entry, _ in desk.client.xrange("in", min=f"({mark}")] == ids[1:]
    desk.client.xack("in", GROUP, ids[1])
    desk.tend()
    assert desk.client.get("in:low-water") == ids[2]


def test_one_worker_at_a_time_trims(server: Valkey) -> None:
    """Within an interval a route is tended once, whoever asks."""
    desk = Desk(server, request_retention_seconds=1)
    desk.client.xack("in", GROUP, *[*desk.add([HOUR_MS])][:0] or [b"0-1"])
    desk.tend()
    desk.client.xack("in", GROUP, *(desk.read(5) or [b"0-1"]))
    assert tend(Retention([desk.route], GROUP, "another"), desk.link) == Trimmed()
    assert desk.tend().deleted == 1


def test_random_streams_lose_nothing_that_is_needed(server: Valkey) -> None:
    """Whatever two groups have read and acknowledged, what either needs is still there, and the rest is gone."""
    rng = random.Random(5)
    for _ in range(30):
        server.client().flushall()
        desk = Desk(server, request_retention_seconds=3600)
        desk.client.xgroup_create("in", "others", id="0")
        ids = desk.add(sorted((rng.randrange(3 * HOUR_MS) for _ in range(rng.randrange(1, 400))), reverse=True))
        needed = set()
        for group in (GROUP, "others"):
            got = desk.read(rng.randrange(1, len(ids) + 50), group)
            acked = [entry for entry in got if rng.random() < 0.97]
            if acked:
                desk.client.xack("in", group, *acked)
            needed |= set(ids) - set(acked)
        desk.tend()
        left = set(desk.ids())
        old = {entry for entry in ids if int(entry.split(b"-")[0]) < desk.now_ms - HOUR_MS}
        assert needed <= left
        first = min((ids.index(entry) for entry in needed), default=len(ids))
        a_moment_ago = desk.now_ms - HOUR_MS - 5000  # the server's clock has gone on since
        assert not [entry for entry in old & left & set(ids[:first]) if int(entry.split(b"-")[0]) < a_moment_ago]


def test_idle_consumers_go_if_they_hold_nothing(server: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent consumer is removed; one that holds an entry stays, since removing it would drop that."""
    desk = Desk(server)
    desk.add([1000])
    desk.client.xgroup_createconsumer("in", GROUP, "empty")
    desk.read(1, consumer="holding")
    monkeypatch.setattr(retention, "CONSUMER_IDLE_SECONDS", 0)
    assert desk.tend().consumers == 1
    assert [consumer["name"] for consumer in desk.client.xinfo_consumers("in", GROUP)] == [b"holding"]
    assert desk.client.xpending("in", GROUP)["pending"] == 1


def test_missing_rights_on_one_route_do_not_stop_the_others(server: Valkey) -> None:
    """A route whose streams cannot be trimmed is told, and the others are trimmed."""
    desk = Desk(server, request_retention_seconds=1)
    desk.add([HOUR_MS])
    desk.client.xack("in", GROUP, *desk.read(1))
    desk.client.set("bad:trimmed:not", "x")
    desk.client.execute_command("ACL", "SETUSER", "half", "on", "nopass", "~in*", "~out*", "+@all")
    link = RedisLink("streams", RedisSettings(url=server.url.replace("//", "//half:x@")), refusals=True)
    bad = Route("bad", "out", frozenset({Op.TOKENIZE}))
    done = tend(Retention([bad, desk.route], GROUP, "me"), link)
    desk.client.execute_command("ACL", "DELUSER", "half")
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
