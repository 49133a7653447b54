"""A worker reads the next batch while a commit is in flight: it saves time, and loses nothing."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from harness.load import running
from harness.producer import BatchProducer
from harness.proxy import Command, Hook, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import GROUP, Stack, wait_until
from token_worker.contract.messages import Op
from token_worker.redis.address import RedisSettings
from token_worker.redis.exchange import drive, start_pair
from token_worker.redis.link import RedisLink
from token_worker.streams.commit import COMMIT
from token_worker.streams.delivery import Delivery
from token_worker.streams.entry import Answer
from token_worker.streams.reads import FIRST_COUNT
from token_worker.streams.routes import Route
from token_worker.streams.stream_ids import order

BATCH = FIRST_COUNT  # so that the first batch is a full one
BATCHES = 10
SETTINGS = {
    "TOKEN_WORKER_BATCH_SIZE": str(BATCH),
    "TOKEN_WORKER_CLAIM_IDLE_MS": "600000",  # what is claimed was looked for by the worker that has it
}


def is_commit(command: Command) -> bool:
    """Tell whether a command is a commit, which is sent with the whole script the first time."""
    return command.name in {"EVAL", "EVALSHA"} and command.parts[1] in {COMMIT.sha.encode(), COMMIT.source}


@contextmanager
def backlog(streams: Valkey, storage: Valkey, hook: Hook, storage_hook: Hook | None = None) -> Iterator[BatchProducer]:
    """Requests for many batches, sent before any worker runs, with proxies between those and the servers."""
    with Proxy(streams.port, hook) as streams_proxy, Proxy(storage.port, storage_hook) as storage_proxy:
        urls = {"TOKEN_WORKER_STREAMS_URL": streams_proxy.url, "TOKEN_WORKER_TOKENS_URL": storage_proxy.url}
        with running(Stack(streams, storage, settings=SETTINGS | urls), workers=0) as stack:
            producer = BatchProducer(stack)
            producer.add_new(BATCH * BATCHES)
            producer.send()
            yield producer


def test_next_batch_is_handled_while_a_commit_is_on_its_way(streams_server: Valkey, storage_server: Valkey) -> None:
    """With more to read than a batch takes, a worker does not wait for the reply to a commit."""
    look_ups: list[Command] = []
    next_one = threading.Event()
    was_meanwhile: list[bool] = []

    def storage(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE and command.name == "MGET":
            look_ups.append(command)
            if len(look_ups) == 2:
                next_one.set()
        return Verdict.PASS

    def streams(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.AFTER and is_commit(command) and not was_meanwhile:
            was_meanwhile.append(next_one.wait(60))
        return Verdict.PASS

    with backlog(streams_server, storage_server, streams, storage) as producer:
        producer.stack.start_worker()
        assert producer.settle() == []
    assert was_meanwhile == [True]


@pytest.mark.parametrize("verdict", [Verdict.CUT, Verdict.CUT_IN_THE_MIDDLE])
@pytest.mark.parametrize("moment", Moment)
def test_commits_that_break_off_cost_nothing(
    streams_server: Valkey, storage_server: Valkey, moment: Moment, verdict: Verdict
) -> None:
    """A commit whose reply never comes is sent again before all else: each reply comes once, and none is claimed."""
    commits: list[Command] = []
    claims: list[Command] = []

    def hook(now: Moment, command: Command) -> Verdict:
        if command.name == "XCLAIM":
            claims.append(command)
        if now is not moment or not is_commit(command):
            return Verdict.PASS
        commits.append(command)
        return (
            verdict if len(commits) % 3 == 1 else Verdict.PASS
        )  # two in a row pass: a script may have to be sent whole

    with backlog(streams_server, storage_server, hook) as producer:
        producer.stack.start_worker()
        assert producer.settle() == []
    assert len(commits) > BATCHES
    assert claims == []


def test_worker_that_drains_answers_what_it_has_read_ahead(streams_server: Valkey, storage_server: Valkey) -> None:
    """SIGTERM while a commit is on its way: that batch and the one in hand are answered, and none is read any more."""
    first_commit = threading.Event()
    is_signalled = threading.Event()

    def hook(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.AFTER and is_commit(command) and not first_commit.is_set():
            first_commit.set()
            is_signalled.wait()
        return Verdict.PASS

    with backlog(streams_server, storage_server, hook) as producer:
        streams = producer.stack.streams
        worker = producer.stack.start_worker()
        assert first_commit.wait(90)
        worker.signal(signal.SIGTERM)
        is_signalled.set()
        assert worker.wait() == 0
        producer.stack.workers.remove(worker)
        [group] = streams.xinfo_groups("tokenize:requests")
        assert (group["name"], group["pending"], group["consumers"]) == (GROUP.encode(), 0, 0)
        assert 2 * BATCH <= streams.xlen("tokenize:responses") < BATCHES * BATCH
        # Then another worker answers the rest.
        producer.stack.start_worker()
        assert producer.settle() == []


def test_requests_of_one_write_are_one_batch_of_a_read_that_was_sent_with_a_commit(server: Valkey) -> None:
    """A read that waits is woken by the first of them, and takes the others: its second part comes after all."""
    route = Route("in", "out", frozenset({Op.TOKENIZE}))
    now = time.monotonic()
    delivery = Delivery([route], GROUP, "me", batch_size=500, claim_idle_ms=600_000, max_deliveries=2)
    link = RedisLink("streams", RedisSettings(url=server.url), raise_server_errors=True)
    with closing(link), server.client() as producer:

        def send(count: int) -> set[bytes]:
            with producer.pipeline(transaction=False) as requests:
                for _ in range(count):
                    requests.xadd(route.requests, {"payload": "{}"})
                return set(requests.execute())

        for _ in range(2):  # COUNT has to grow
            send(FIRST_COUNT)
            batch = drive(delivery.fetch(now, 0), link)
            drive(delivery.commit([[Answer(entry, b"reply") for entry in batch.entries]], now), link)
        send(2)
        batch = drive(delivery.fetch(now, 0), link)
        answers = [Answer(entry, b"reply") for entry in batch.entries]
        assert delivery.reads_at_once(now, len(answers))
        commit, fetch = delivery.commit([answers], now), delivery.fetch(now, 60_000, with_commit=True)
        start_pair(commit, fetch, link)
        wait_until(lambda: producer.info("clients")["blocked_clients"] == 1, "the read waits")
        sent = send(9)
        with pytest.raises(StopIteration) as end:
            commit.send(link.finish_first())
        assert end.value.value.written == 2
        batch = drive(fetch, link, receive=link.finish_second)
        assert [entry.id for entry in batch.entries] == sorted(sent, key=order)
