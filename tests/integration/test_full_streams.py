"""Workers recover by themselves from a full server of streams, and from entries larger than their own memory limit."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import redis

from harness.processes import peak_mib
from harness.servers import Valkey, redis_binary, valkey_binary
from harness.stack import GROUP, Stack, wait_until

CLIENT = "shop-frontend"
ROOM_BYTES = 3 << 20
"""Room until the server is full. Workers that answer quickly would never let much more be taken up."""

LARGE = 120 << 20


@pytest.fixture(params=[valkey_binary, redis_binary], ids=["valkey", "redis82"])
def streams(request: pytest.FixtureRequest) -> Iterator[Valkey]:
    """A server of this test's own: it is filled."""
    with Valkey(binary=request.param()) as server:
        yield server


@contextmanager
def serving(streams: Valkey, storage: Valkey, **members: Any) -> Iterator[Stack]:
    """A stack whose route has these members; no worker yet."""
    route = {"requests": "tokenize:requests", "responses": "tokenize:responses", "ops": ["tokenize"], **members}
    settings = {"TOKEN_WORKER_ROUTES": msgspec.json.encode([route]).decode()}
    with Stack(streams, storage, settings=settings, fresh=True) as stack:
        stack.streams.close()
        stack.streams = streams.client(socket_timeout=120)  # a large entry keeps a busy server from answering
        stack.generate_key(CLIENT)
        yield stack


@dataclass
class Producer:
    """Sends all the while, whether or not the server takes it.

    Attributes:
        sent: entries of requests that the server took.
        refused: how many it did not take, at its memory limit.
        since: how many it took since it last refused one.
    """

    server: Valkey
    sent: list[bytes] = field(default_factory=list)
    refused: int = 0
    since: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)

    def push(self) -> None:
        """Until it is over."""
        item = {"op": "tokenize", "client_id": CLIENT, "type": "str"}
        with self.server.client() as client:
            while not self.is_over.is_set():
                number = len(self.sent) + self.refused
                payload = msgspec.json.encode({**item, "id": str(number), "value": f"{number % 100:03}" * 700})
                try:
                    self.sent.append(client.xadd("tokenize:requests", {"payload": payload}))
                    self.since += 1
                except redis.exceptions.OutOfMemoryError:
                    self.refused += 1
                    self.since = 0

    @contextmanager
    def pushing(self) -> Iterator[None]:
        """While the block runs."""
        thread = threading.Thread(target=self.push)
        thread.start()
        try:
            yield
        finally:
            self.is_over.set()
            thread.join()


@pytest.mark.parametrize(("streams", "kept"), [(valkey_binary, 1), (redis_binary, 0)], indirect=["streams"])
def test_server_at_its_memory_limit_gets_well_while_producers_push(
    streams: Valkey, storage_server: Valkey, kept: int
) -> None:
    """At the limit entries past their retention go all the same: producers are let in again, all is answered once."""
    members = {"request_retention_seconds": kept, "response_retention_seconds": 1}
    with serving(streams, storage_server, **members) as stack:
        # Given a server that is full of what is answered, and workers
        for _ in range(2):
            stack.start_worker()
        wait_until(lambda: stack.streams.exists("tokenize:requests"), "the group")
        stack.streams.config_set("maxmemory", stack.streams.info("memory")["used_memory"] + ROOM_BYTES)
        producer = Producer(streams)
        with producer.pushing():
            wait_until(lambda: producer.refused > 100, "the memory limit")
            # Then it takes requests again, though nobody does anything about it.
            wait_until(lambda: producer.since > 200, "requests to be taken again", 60)
        wait_until(lambda: stack.streams.xpending("tokenize:requests", GROUP)["pending"] == 0, "all to be answered")
        wait_until(lambda: stack.streams.xlen("tokenize:requests") == 0, "all requests to go", 60)
        info = stack.streams.xinfo_stream("tokenize:responses")
        assert info["entries-added"] == len(producer.sent)


def test_group_is_made_at_the_memory_limit(streams: Valkey, storage_server: Valkey) -> None:
    """A server that is full and has lost its group is served: without a group nothing would ever be trimmed."""
    with serving(streams, storage_server) as stack:
        ids = stack.send([{"id": "1", "op": "tokenize", "client_id": CLIENT, "type": "int32", "value": 1}])
        stack.streams.config_set("maxmemory", 1)
        stack.start_worker()
        [reply] = stack.wait_for_replies(1)
        assert (reply["request_entry"], reply["status"]) == (ids[0].decode(), "ok")


# Entries larger than a worker may become


def test_large_entries_stay_on_the_server(streams: Valkey, storage_server: Valkey) -> None:
    """A worker makes its group and trims without holding the large entries at the ends of the streams."""
    request = {"op": "tokenize", "client_id": CLIENT, "type": "int32", "value": 1}
    with serving(streams, storage_server) as stack:
        # Given a stream that begins and ends with large entries, which a lost group had acknowledged, and such a reply
        large = [stack.streams.xadd("tokenize:requests", {"payload": b"x" * LARGE}) for _ in range(2)]
        stack.streams.set("tokenize:requests:low-water", large[1])
        stack.streams.xadd("tokenize:responses", {"payload": b"x" * LARGE})
        # When a worker makes the group, answers, and trims
        worker = stack.start_worker()
        ids = stack.send([{**request, "id": "1"}])
        wait_until(lambda: stack.streams.xlen("tokenize:responses") == 2, "the reply")
        wait_until(lambda: stack.streams.get("tokenize:requests:low-water") == ids[0], "the streams to be trimmed")
        # Then none of them came into its memory, and how far behind it is can be told without, too.
        assert peak_mib(worker.pid) < LARGE >> 20
        [(_, fields)] = stack.streams.xrevrange("tokenize:responses", count=1)
        assert msgspec.json.decode(fields[b"payload"])["request_entry"] == ids[0].decode()
        assert stack.run("lag", "--max-lag", "0").returncode == 0


UNDER_A_LIMIT = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, ({most}, {most}))
sys.argv[0] = "token-worker"
runpy.run_module("token_worker", run_name="__main__")
"""


@pytest.mark.parametrize(("streams", "place"), [(valkey_binary, "first"), (redis_binary, "last")], indirect=["streams"])
def test_entry_that_kills_workers_is_given_up(streams: Valkey, storage_server: Valkey, place: str) -> None:
    """An entry too large for any worker ends as a dead letter, after so many tries; its neighbours are served."""
    requests = [{"id": str(n), "op": "tokenize", "client_id": CLIENT, "type": "int32", "value": n} for n in range(10)]
    program = ("-c", UNDER_A_LIMIT.format(most=400 << 20))
    with serving(streams, storage_server) as stack:
        if place == "last":
            stack.send(requests)
        large = stack.streams.xadd("tokenize:requests", {"payload": b"x" * (2 * LARGE)})
        if place == "first":
            stack.send(requests)
        stack.settings |= {"TOKEN_WORKER_CLAIM_IDLE_MS": "1000", "TOKEN_WORKER_MAX_DELIVERIES": "2"}

        def is_given_up() -> bool:
            if not any(worker.is_alive for worker in stack.workers):
                stack.start_worker(program=program)
            return bool(stack.streams.exists("tokenize:requests:dead"))

        wait_until(is_given_up, "the dead letter", 120)
        replies = stack.wait_for_replies(len(requests))
        assert {reply["status"] for reply in replies} == {"ok"}
        shown = stack.run("dead-letters", "list", "--json")
        assert shown.returncode == 0, shown.stderr
        assert [msgspec.json.decode(line)["entry"] for line in shown.stdout.splitlines()] == [large.decode()]
