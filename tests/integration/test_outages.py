"""Servers that go away, lose their data or are full, and workers that are asked to stop: nothing is lost for it.

``LONG_TESTS=1`` makes the outage of the token storage a minute long.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import redis

from harness.producer import BatchProducer, sent_requests
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey, redis_binary, valkey_binary
from harness.stack import GROUP, Stack, has_logged, wait_until, workers_killed

CLIENT = "shop-frontend"
KEPT = ("appendonly yes", "appendfsync always")
"""A server that keeps what it has acknowledged."""

BACKLOG = 100_000 if os.environ.get("LONG_TESTS") else 10_000

OUTAGE_SECONDS = 60 if os.environ.get("LONG_TESTS") else 8


@pytest.fixture
def kept_streams() -> Iterator[Valkey]:
    """A Valkey of this test alone, which survives a kill."""
    with Valkey(*KEPT) as server:
        yield server


@pytest.fixture
def storage() -> Iterator[Valkey]:
    """A server for keys and tokens of this test alone."""
    with Valkey() as server:
        yield server


class Gate:
    """Holds back every command of a name, before the server sees it, until it is opened; opened at the end at last."""

    def __init__(self, proxy: Proxy, name: str) -> None:
        self.is_held = threading.Event()
        self._name = name
        self._opened = threading.Event()
        proxy.hook = self._hook

    def open(self) -> None:
        self._opened.set()

    def _hook(self, moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE and command.name == self._name:
            self.is_held.set()
            self._opened.wait()
        return Verdict.PASS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.open()


# -- token storage


@pytest.mark.parametrize("how", ["refuses", "hangs"])
@pytest.mark.timeout(OUTAGE_SECONDS + 120)
def test_token_storage_away_while_workers_restart_costs_no_entry(
    streams_server: Valkey, storage: Valkey, tmp_path: Path, how: str
) -> None:
    """Workers are killed and stopped again and again while the token storage is away: no entry is given up or lost."""
    settings = {
        "TOKEN_WORKER_CLAIM_IDLE_MS": "1000",
        "TOKEN_WORKER_MAX_DELIVERIES": "1",  # the second isolated try that counts would make an entry a dead letter
        "TOKEN_WORKER_DRAIN_SECONDS": "1",
    }
    with (
        Proxy(storage.port) as proxy,
        Gate(proxy, "MGET") as gate,
        workers_killed(
            Stack(streams_server, storage, settings={**settings, "TOKEN_WORKER_TOKENS_URL": proxy.url})
        ) as stack,
    ):
        # Given a worker with a batch in hand
        producer = sent_requests(stack, 300)
        first = stack.start_worker()
        assert gate.is_held.wait(90)

        # When the token storage goes away, and workers are killed and stopped again and again
        if how == "refuses":
            proxy.go_away()
        else:
            storage.signal(signal.SIGSTOP)
        first.kill()
        gate.open()
        end = time.monotonic() + OUTAGE_SECONDS
        for number, ending in enumerate(cycle([signal.SIGKILL, signal.SIGTERM])):
            log = tmp_path / f"{number}.log"
            worker = stack.start_worker(log=log)
            wait_until(lambda log=log: has_logged(log, "server unavailable"), "the worker to notice")  # type: ignore[misc]  # a default binds
            worker.signal(ending)
            assert worker.wait() == (0 if ending is signal.SIGTERM else -signal.SIGKILL)
            if time.monotonic() > end:
                break
        assert producer.replies_written() == 0

        # Then, when it is back, every request is answered, and none is a dead letter.
        if how == "refuses":
            proxy.come_back()
        else:
            storage.signal(signal.SIGCONT)
        for _ in range(2):
            stack.start_worker()
        assert producer.settle() == []
        assert stack.dead_letters() == 0


def test_token_storage_that_is_full_costs_no_entry(streams_server: Valkey, storage: Valkey, tmp_path: Path) -> None:
    """While the token storage has no memory left, entries wait, also through restarts; then all are answered."""
    # Given a token storage that cannot take a token,
    # and workers that would make an entry a dead letter at its second isolated try
    settings = {"TOKEN_WORKER_CLAIM_IDLE_MS": "1000", "TOKEN_WORKER_MAX_DELIVERIES": "1"}
    with workers_killed(
        Stack(streams_server, storage, settings={**settings, "TOKEN_WORKER_DRAIN_SECONDS": "1"})
    ) as stack:
        stack.storage.config_set("maxmemory", 1)
        producer = sent_requests(stack, 60)
        # When one worker has the entries in hand, and the next ones try some of them alone
        for number in range(3):
            log = tmp_path / f"{number}.log"
            worker = stack.start_worker(log=log)
            wait_until(lambda log=log: has_logged(log, "server unavailable", "tokens", "OOM"), "the worker to notice")  # type: ignore[misc]  # a default binds
            worker.signal(signal.SIGTERM)
            assert worker.wait() == 0
        # Then, when there is memory again, every request is answered, and none is a dead letter.
        stack.storage.config_set("maxmemory", 0)
        stack.start_worker()
        assert producer.settle() == []
        assert stack.dead_letters() == 0


@pytest.mark.parametrize("has_batch", [True, False], ids=["batch in hand", "nothing in hand"])
def test_streams_are_trimmed_while_the_token_storage_is_away(
    streams_server: Valkey, storage: Valkey, tmp_path: Path, has_batch: bool
) -> None:
    """Replies and dead letters past their time go while workers wait for the token storage."""
    log = tmp_path / "log"
    with (
        Proxy(storage.port) as proxy,
        Gate(proxy, "MGET") as gate,
        workers_killed(Stack(streams_server, storage, settings={"TOKEN_WORKER_TOKENS_URL": proxy.url})) as stack,
    ):
        # Given a worker that waits for the token storage, and has entries in hand or looks for pending ones
        producer = sent_requests(stack, 10)
        if has_batch:
            stack.start_worker(log=log)
            assert gate.is_held.wait(90)
            proxy.go_away()
        else:
            proxy.go_away()
            stack.start_worker(log=log)
        gate.open()
        wait_until(lambda: has_logged(log, "server unavailable", "tokens"), "the worker to notice")
        # When there are entries of long ago, then they go,
        for stream in ("tokenize:responses", "tokenize:requests:dead"):
            stack.streams.xadd(stream, {"payload": "x"}, id="1-0")
        wait_until(lambda: producer.replies_written() == 0 and stack.dead_letters() == 0, "the streams to be trimmed")
        # and when it is back, the requests are answered.
        proxy.come_back()
        assert producer.settle() == []


# -- key storage


def test_key_storage_away_holds_up_only_who_needs_it(streams_server: Valkey, storage_server: Valkey) -> None:
    """While the key storage is away, clients whose keys are at hand are served; others' entries wait, uncounted."""
    # Given a worker that has one client's key at hand, and would make an entry a dead letter at its second isolated try
    settings = {"TOKEN_WORKER_MAX_DELIVERIES": "1"}
    with (
        Proxy(storage_server.port) as proxy,
        workers_killed(Stack(streams_server, storage_server, settings=settings)) as stack,
    ):
        stack.generate_key("another-client")
        stack.start_worker(TOKEN_WORKER_KEYS_URL=proxy.url, TOKEN_WORKER_TOKENS_URL=storage_server.url)
        assert sent_requests(stack, 10).settle() == []
        # When the key storage goes away
        proxy.go_away()
        other = sent_requests(stack, 50, client_id="another-client")
        one = sent_requests(stack, 50, start=100)
        # Then the one client is served, the other's entries are put off more often than they could be if it counted,
        wait_until(lambda: one.replies_written() == 60, "one client's replies")
        assert one.compare() == []
        tries = stack.calls("xclaim")  # one of all entries, then one of each to take that back
        wait_until(lambda: stack.calls("xclaim") > tries + 300, "six tries of each")
        assert other.replies_written() == 60
        # and are answered when it is back.
        proxy.come_back()
        assert other.settle() == []
        assert stack.dead_letters() == 0


# -- streams


def test_streams_server_killed_under_load_loses_nothing(kept_streams: Valkey, storage_server: Valkey) -> None:
    """Each time the server of the streams is killed and started again, workers go on; every request has one reply."""
    with workers_killed(Stack(kept_streams, storage_server)) as stack:
        producer = BatchProducer(stack)
        for _ in range(2):
            stack.start_worker()
        kills = 0
        while kills < 3:
            answered = len(producer)
            producer.add_new(3000, start=answered)
            producer.send()
            wait_until(lambda answered=answered: producer.replies_written() > answered, "a reply to the new ones")  # type: ignore[misc]  # a default binds
            kept_streams.kill()
            kept_streams.start()
            kills += not producer.is_settled()  # else it came too late
        assert producer.settle() == []


def flush(client: redis.Redis) -> None:
    client.flushall()


def destroy_groups(client: redis.Redis) -> None:
    for stream in ("tokenize:requests", "detokenize:requests"):
        client.xgroup_destroy(stream, GROUP)


def delete_streams(client: redis.Redis) -> None:
    client.delete("tokenize:requests", "detokenize:requests")


@pytest.mark.parametrize("lose", [flush, destroy_groups, delete_streams])
def test_lost_groups_are_made_again(stack: Stack, lose: Callable[[redis.Redis], None]) -> None:
    """After a flush, or the loss of groups or streams, workers that were waiting serve new requests."""
    for _ in range(2):
        stack.start_worker()
    assert sent_requests(stack, 50).settle() == []
    wait_until(lambda: blocked(stack) == 2, "both workers to wait for entries")
    lose(stack.streams)
    wait_until(lambda: blocked(stack) == 2, "both workers to wait for entries")
    after = sent_requests(stack, 50, start=100)
    assert after.settle() == []
    for worker in stack.workers:
        assert worker.is_alive
        worker.kill()


def test_streams_that_are_none_are_waited_for(stack: Stack, tmp_path: Path) -> None:
    """A worker none of whose routes can be served says so, waits, and serves as soon as they can."""
    log = tmp_path / "log"
    for op in ("tokenize", "detokenize"):
        stack.streams.set(f"{op}:requests", "no stream")
    worker = stack.start_worker(log=log)
    wait_until(lambda: has_logged(log, "no route can be served"), "the worker to say so")
    flush(stack.streams)
    assert sent_requests(stack, 10).settle() == []
    worker.kill()


def blocked(stack: Stack) -> int:
    """Number of workers that wait for entries."""
    return int(stack.streams.info("clients")["blocked_clients"])


@pytest.mark.parametrize("binary", [valkey_binary, redis_binary])
def test_backlog_is_answered_while_streams_are_full(storage_server: Valkey, binary: Callable[[], str]) -> None:
    """At the memory limit of the streams' server, where producers are refused, workers answer what is there."""
    with (
        Valkey(binary=binary()) as streams,
        Proxy(storage_server.port) as proxy,
        Gate(proxy, "MGET") as gate,
        workers_killed(Stack(streams, storage_server, settings={"TOKEN_WORKER_CLAIM_IDLE_MS": "1000"})) as stack,
    ):
        # Given a group, a backlog, an unreadable entry in it, and entries of a worker that died
        stack.streams.xgroup_create("tokenize:requests", GROUP, "0", mkstream=True)
        producer = sent_requests(stack, BACKLOG)
        unreadable = stack.streams.xadd("tokenize:requests", {"payload": "no"})
        dead = stack.start_worker(TOKEN_WORKER_TOKENS_URL=proxy.url)
        assert gate.is_held.wait(90)
        dead.kill()
        gate.open()
        assert stack.streams.xpending("tokenize:requests", GROUP)["pending"] > 0
        # When the server is full, and workers start
        stack.streams.config_set("maxmemory", 1)
        with pytest.raises(redis.OutOfMemoryError):
            sent_requests(stack, 1)
        for _ in range(2):
            stack.start_worker(TOKEN_WORKER_TOKENS_URL=storage_server.url)
        # Then they answer all of it.
        assert producer.settle() == []
        [(_, letter)] = stack.streams.xrange("tokenize:requests:dead")
        assert letter[b"dead_entry"] == unreadable


@pytest.mark.parametrize("role", ["streams", "keys", "tokens"])
def test_server_away_at_start_is_waited_for(
    streams_server: Valkey, storage_server: Valkey, tmp_path: Path, role: str
) -> None:
    """A worker that finds a server away says which, waits, and serves when it is there."""
    server = streams_server if role == "streams" else storage_server
    log = tmp_path / "log"
    with Proxy(server.port) as proxy, workers_killed(Stack(streams_server, storage_server)) as stack:
        stack.settings["TOKEN_WORKER_TOKENS_URL"] = storage_server.url
        stack.settings[f"TOKEN_WORKER_{role.upper()}_URL"] = proxy.url
        proxy.go_away()
        producer = sent_requests(stack, 10)
        worker = stack.start_worker(log=log)
        wait_until(lambda: has_logged(log, "unavailable", f'"{role}"'), "the worker to say so")
        proxy.come_back()
        assert producer.settle() == []
        assert worker.is_alive


# -- signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_batch_in_hand_is_answered_before_a_worker_ends(
    streams_server: Valkey, storage_server: Valkey, number: signal.Signals
) -> None:
    """Asked to end under load, a worker answers the entries in hand, leaves the rest, and exits with status 0."""
    with (
        Proxy(storage_server.port) as proxy,
        Gate(proxy, "MGET") as gate,
        workers_killed(Stack(streams_server, storage_server)) as stack,
    ):
        # Given a worker with a batch in hand
        producer = sent_requests(stack, 1000)
        worker = stack.start_worker(TOKEN_WORKER_TOKENS_URL=proxy.url)
        assert gate.is_held.wait(90)
        in_hand = stack.streams.xpending("tokenize:requests", GROUP)["pending"]
        assert 0 < in_hand < 1000
        # When it is asked to end
        worker.signal(number)
        gate.open()
        # Then it ends well, what it had is answered, and the rest is there for the next one.
        assert worker.wait() == 0
        assert producer.replies_written() == in_hand
        assert stack.streams.xpending("tokenize:requests", GROUP)["pending"] == 0
        stack.start_worker()
        assert producer.settle() == []


def times_slept(pid: int) -> int:
    """Number of times that a process has begun to wait."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def test_second_signal_ends_a_worker_at_once(streams_server: Valkey, storage_server: Valkey) -> None:
    """A worker that is asked twice ends without answering; its batch is left to the next one."""
    with (
        Proxy(storage_server.port) as proxy,
        Gate(proxy, "MGET") as gate,
        workers_killed(Stack(streams_server, storage_server, settings={"TOKEN_WORKER_CLAIM_IDLE_MS": "1000"})) as stack,
    ):
        producer = sent_requests(stack, 100)
        worker = stack.start_worker(TOKEN_WORKER_TOKENS_URL=proxy.url)
        assert gate.is_held.wait(90)
        slept = times_slept(worker.pid)
        worker.signal(signal.SIGTERM)
        wait_until(lambda: times_slept(worker.pid) > slept, "the worker to take the signal and to wait on")
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 128 + signal.SIGTERM
        assert producer.replies_written() == 0
        stack.start_worker(TOKEN_WORKER_TOKENS_URL=storage_server.url)
        assert producer.settle() == []


def test_rolling_restart_takes_nothing_over(stack: Stack) -> None:
    """Workers are replaced one by one under load: each answers what it has; nothing is ever claimed, or left behind."""
    # Given workers under load
    old = [stack.start_worker() for _ in range(3)]
    claims = stack.calls("xclaim")
    producer = BatchProducer(stack)

    def is_so_under_load(condition: Callable[[], bool]) -> bool:
        producer.add_new(20, start=len(producer))
        producer.send()
        return condition()

    def replies_after(count: int) -> Callable[[], bool]:
        before = producer.replies_written() if len(producer) else 0
        return lambda: producer.replies_written() > before + count

    wait_until(lambda: is_so_under_load(lambda: consumers(stack) == 3), "all to read")
    # When one after the other is asked to end, and another takes its place
    for worker in old:
        worker.signal(signal.SIGTERM)
        wait_until(lambda worker=worker: is_so_under_load(lambda: not worker.is_alive), "the worker to end")  # type: ignore[misc]  # defaults bind
        assert worker.wait() == 0
        assert consumers(stack) == 2
        stack.start_worker()
        wait_until(lambda: is_so_under_load(lambda: consumers(stack) == 3), "the next one to read")
        busy = replies_after(100)
        wait_until(lambda busy=busy: is_so_under_load(busy), "it to be busy")  # type: ignore[misc]  # defaults bind
    # Then every request is answered once, none of them was claimed from anybody,
    assert producer.settle() == []
    assert stack.calls("xclaim") == claims
    # and when all have ended, nothing of them is left.
    for worker in stack.workers:
        worker.signal(signal.SIGTERM)
    assert [worker.wait() for worker in stack.workers] == [0] * 6
    assert consumers(stack) == 0
    assert stack.streams.xpending("tokenize:requests", GROUP)["pending"] == 0


def consumers(stack: Stack) -> int:
    """Consumers of the group of requests to tokenize; 0 where there is none yet."""
    try:
        groups = stack.streams.xinfo_groups("tokenize:requests")
    except redis.ResponseError:
        return 0
    return sum(group["consumers"] for group in groups)
