"""Outages count as no try: servers go away again and again during isolated tries, and no entry is dead-lettered."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from harness.producer import BatchProducer, sent_requests
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import GROUP, Stack

ENTRIES = 12
OUTAGES = 10
OUTAGE_SECONDS = 0.5
STREAM = "tokenize:requests"
SETTINGS = {"TOKEN_WORKER_CLAIM_IDLE_MS": "1000", "TOKEN_WORKER_MAX_DELIVERIES": "1"}
"""The second isolated try that counts would make an entry a dead letter."""


@pytest.fixture
def stack(streams_server: Valkey) -> Iterator[Stack]:
    """Streams, keys and tokens on one server; no worker yet."""
    with Stack(streams_server, streams_server, settings=SETTINGS) as stack:
        stack.generate_key("shop-frontend")
        yield stack
        for worker in stack.workers:
            worker.kill()


def requests_of_a_dead_worker(stack: Stack, count: int, *, put_off: bool) -> BatchProducer:
    """So many requests, delivered to a worker that is no more; ``put_off``: it had put them off before."""
    producer = sent_requests(stack, count)
    stack.streams.xgroup_create(STREAM, GROUP, "0")
    [(_, found)] = stack.streams.xreadgroup(GROUP, "dead", {STREAM: ">"})
    if put_off:
        ids = [entry for entry, _ in found]
        stack.streams.xclaim(STREAM, GROUP, "dead", 0, ids, retrycount=0, justid=True)
    return producer


@pytest.mark.parametrize("put_off", [False, True], ids=["isolated", "put off"])
def test_claims_whose_replies_are_lost_count_as_no_try(stack: Stack, streams_server: Valkey, put_off: bool) -> None:
    """Each entry's claim is done and its reply lost: the entries are claimed again, and none is given up."""
    producer = requests_of_a_dead_worker(stack, ENTRIES, put_off=put_off)
    lost: Counter[bytes] = Counter()

    def hook(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE or command.name != "XCLAIM" or not command.reply:
            return Verdict.PASS
        first, *_ = (entry for entry, _ in command.reply)
        lost[first] += 1
        return Verdict.CUT if lost[first] == 1 else Verdict.PASS

    with Proxy(streams_server.port, hook) as proxy:
        stack.start_worker(TOKEN_WORKER_STREAMS_URL=proxy.url)
        assert producer.settle() == []
    assert len(lost) == ENTRIES if not put_off else len(lost) > 1
    assert stack.streams.xlen(f"{STREAM}:dead") == 0


def test_server_of_everything_that_goes_away_during_tries_costs_no_try(stack: Stack, streams_server: Valkey) -> None:
    """A try that failed for an outage is taken back even where that needs the very server that is away."""
    producer = requests_of_a_dead_worker(stack, 2, put_off=False)
    timers: list[threading.Timer] = []

    def hook(moment: Moment, command: Command) -> Verdict:
        is_try = moment is Moment.BEFORE and command.name == "MGET" and command.parts[1].startswith(b"tokens/")
        if not is_try or len(timers) == OUTAGES:
            return Verdict.PASS
        proxy.go_away()
        timers.append(threading.Timer(OUTAGE_SECONDS, proxy.come_back))
        timers[-1].start()
        return Verdict.CUT

    with Proxy(streams_server.port, hook) as proxy:
        stack.settings |= {f"TOKEN_WORKER_{use}_URL": proxy.url for use in ("STREAMS", "KEYS", "TOKENS")}
        stack.start_worker()
        assert producer.settle(120) == []
        for timer in timers:
            timer.join()
    assert len(timers) == OUTAGES
    assert stack.streams.xlen(f"{STREAM}:dead") == 0
