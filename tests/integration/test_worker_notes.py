"""Notes of workers about themselves are true, bounded and harmless, on real servers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.servers import Valkey, free_port, redis_binary, valkey_binary
from harness.stack import GROUP, Stack, has_logged, wait_until
from token_worker import __version__
from token_worker.admin.workers import RouteWorkers, read_workers
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings
from token_worker.redis.exchange import Exchange, drive
from token_worker.redis.link import RedisLink
from token_worker.streams.routes import DEFAULT_ROUTES, Route
from token_worker.streams.worker_notes import NOTE_SECONDS, STARTING_SECONDS, WorkerNote, WorkerNotes

ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}))
NOTES = ROUTE.own_keys.workers
EVENT = "notes of this worker could not be written"


@pytest.fixture(scope="module", params=[valkey_binary, redis_binary], ids=["valkey", "redis82"])
def process(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    """Servers of this module's own, whose memory limit it may change."""
    with Valkey(binary=request.param()) as server:
        yield server


class NotedServer:
    """A server with a group of one consumer, ``reads``, and the notes of workers."""

    def __init__(self, server: Valkey) -> None:
        self.client: Any = server.client()
        self.client.flushall()
        self.client.xgroup_create("in", GROUP, id="0", mkstream=True)
        self.client.xgroup_createconsumer("in", GROUP, "reads")
        self.link = RedisLink("streams", RedisSettings(url=server.url), raise_server_errors=True)
        self.now = int(self.client.time()[0])

    def drive(self, exchange: Exchange[Any]) -> Any:
        return drive(exchange, self.link)

    def note(self, consumer: str, seconds_ago: int = 0) -> None:
        """Write a note as this consumer."""
        note = WorkerNote("1.0", "host-1", self.now - 100, ready=False, at=self.now - seconds_ago, why="vault: away")
        assert self.drive(WorkerNotes([ROUTE], GROUP, consumer).write(note)) == []

    def seen(self) -> RouteWorkers:
        [route] = self.drive(read_workers([ROUTE], GROUP))
        assert isinstance(route, RouteWorkers)
        return route


@pytest.fixture
def noted(process: Valkey) -> Iterator[NotedServer]:
    """A server without any note."""
    noted = NotedServer(process)
    yield noted
    noted.client.config_set("maxmemory", "0")


def test_workers_are_seen_by_name(noted: NotedServer) -> None:
    """Each worker of a route is listed with idle time, pending entries, version and readiness, by its name."""
    noted.client.xadd("in", {"payload": "x"})
    noted.client.xreadgroup(GROUP, "silent", {"in": ">"})
    noted.note("reads")
    noted.note("starts")
    silent, reads, starts = sorted(
        noted.seen().workers, key=lambda worker: ["silent", "reads", "starts"].index(worker.consumer)
    )
    assert (reads.version, reads.host, reads.ready, reads.why) == ("1.0", "host-1", False, "vault: away")
    assert (reads.pending, reads.started, reads.is_alive) == (0, noted.now - 100, True)
    assert (silent.pending, silent.version, silent.ready) == (1, None, None)
    assert silent.idle_seconds is not None
    assert (starts.idle_seconds, starts.pending, starts.is_alive) == (None, 0, True)


def test_worker_that_was_killed_is_not_ready_after_two_missed_notes(noted: NotedServer) -> None:
    """After two notes that did not come, a worker is not what its last note says, and it is silent unless it reads."""
    noted.note("reads", seconds_ago=round(2 * NOTE_SECONDS) + 6)
    noted.note("was killed", seconds_ago=round(2 * NOTE_SECONDS) + 6)
    noted.note("is late", seconds_ago=round(2 * NOTE_SECONDS))
    late, reads, killed = noted.seen().workers  # by name
    assert (late.ready, late.is_alive) == (False, True)
    assert (reads.ready, reads.is_alive, reads.reads) == (None, True, True)
    assert (killed.ready, killed.is_alive, killed.reads) == (None, False, False)
    idle = msgspec.structs.replace(reads, idle_seconds=30.0)
    assert (idle.is_alive, idle.reads, idle.silent_seconds) == (False, False, 30.0)


def test_old_note_says_nothing_of_now(noted: NotedServer) -> None:
    """Readiness that was noted long ago is unknown, and not what it was then."""
    noted.note("reads", seconds_ago=3600)
    [worker] = noted.seen().workers
    assert (worker.ready, worker.why, worker.version) == (None, None, "1.0")
    assert worker.noted_seconds_ago is not None
    assert worker.noted_seconds_ago >= 3600


def test_what_is_no_note_is_no_worker_and_no_failure(noted: NotedServer) -> None:
    """Bytes that are not a note, and a key that is not a hash, leave the consumers as Redis knows them."""
    noted.client.hset(NOTES, mapping={"reads": "no json", "other": b"\xff"})
    assert [worker.consumer for worker in noted.seen().workers] == ["reads"]
    noted.client.set(NOTES, "text")
    seen = noted.seen()
    assert ([worker.consumer for worker in seen.workers], seen.notes_unknown) == (["reads"], "WRONGTYPE")


def test_streams_that_do_not_exist_have_no_workers(noted: NotedServer) -> None:
    """Before the first worker there is no stream and no group: this is no error."""
    noted.client.delete("in")
    assert noted.seen() == RouteWorkers(stream="in")


def test_notes_of_consumers_that_are_gone_are_swept(noted: NotedServer) -> None:
    """Fields of no consumer go; those of consumers stay, and those of workers that start now."""
    for consumer in ("reads", *(f"gone-{number}" for number in range(500))):
        noted.note(consumer, seconds_ago=STARTING_SECONDS + 5)
    noted.note("starts")
    noted.client.hset(NOTES, "garbage", "x")
    assert noted.drive(WorkerNotes([ROUTE], GROUP, "any").sweep([ROUTE])) == []
    assert set(noted.client.hkeys(NOTES)) == {b"reads", b"starts"}
    noted.client.xgroup_destroy("in", GROUP)  # then no field has a consumer
    noted.drive(WorkerNotes([ROUTE], GROUP, "any").sweep([ROUTE]))
    assert noted.client.hkeys(NOTES) == [b"starts"]


def test_notes_without_any_worker_expire(noted: NotedServer) -> None:
    """A route that no worker serves any more keeps no notes for ever."""
    noted.note("reads")
    assert 0 < noted.client.ttl(NOTES) <= 86_400


def test_notes_are_written_at_the_memory_limit(noted: NotedServer) -> None:
    """A server that is full takes the note: then those who watch need it most."""
    noted.client.config_set("maxmemory", "1")
    noted.note("reads")
    assert noted.seen().workers[0].version == "1.0"


def test_wrong_key_is_named_and_spares_the_other_routes(noted: NotedServer) -> None:
    """A key of another type is reported with its route, and the note of the next route is written."""
    other = Route("in2", "out", frozenset({Op.TOKENIZE}))
    noted.client.set(NOTES, "text")
    notes = WorkerNotes([ROUTE, other], GROUP, "me")
    assert noted.drive(notes.write(WorkerNote("1", "h", 1, ready=True, at=1))) == [("in", "WRONGTYPE")]
    assert noted.client.hlen(other.own_keys.workers) == 1
    assert noted.drive(notes.remove()) == [("in", "WRONGTYPE")]
    assert not noted.client.exists(other.own_keys.workers)


def test_worker_notes_itself_until_it_stops(stack: Stack, tmp_path: Path) -> None:
    """A worker notes itself on each route while it starts, says when it is ready, and removes its notes at the end."""
    tokenize, detokenize = (route.own_keys.workers for route in DEFAULT_ROUTES)
    stack.generate_key("shop-frontend")
    stack.streams.set(tokenize, "text")  # a key that it cannot write must not keep it from working
    log = tmp_path / "worker.log"
    worker = stack.start_worker(log=log, TOKEN_WORKER_CONSUMER="worker-1")
    stack.send([{"id": "r", "op": "tokenize", "client_id": "shop-frontend", "type": "str", "value": "some text"}])
    assert [reply["status"] for reply in stack.wait_for_replies(1)] == ["ok"]
    wait_until(lambda: stack.streams.hexists(detokenize, "worker-1"), "the note")
    note = msgspec.json.decode(stack.streams.hget(detokenize, "worker-1"))
    assert (note["version"], note["ready"]) == (__version__, True)
    assert abs(note["at"] - stack.streams.time()[0]) < 60
    assert worker.stop() == 0
    assert not stack.streams.exists(detokenize)
    assert stack.streams.get(tokenize) == b"text"
    assert log.read_text().count(EVENT) == 1


def test_worker_that_cannot_start_says_why(stack: Stack, tmp_path: Path) -> None:
    """A worker that waits for a server before it reads a request is seen, with the server that it waits for."""
    _, detokenize = (route.own_keys.workers for route in DEFAULT_ROUTES)
    log = tmp_path / "worker.log"
    away = f"redis://127.0.0.1:{free_port()}"
    more = {"TOKEN_WORKER_TOKENS_URL": away, "TOKEN_WORKER_DURABILITY": "fsync"}
    worker = stack.start_worker(log=log, TOKEN_WORKER_CONSUMER="worker-1", **more)
    wait_until(lambda: stack.streams.hexists(detokenize, "worker-1"), "the note")
    note = msgspec.json.decode(stack.streams.hget(detokenize, "worker-1"))
    assert not note["ready"]
    assert note["why"].startswith("Redis for tokens at ")
    assert worker.stop() == 0
    assert not stack.streams.exists(detokenize)
    assert not has_logged(log, EVENT)
