"""A backlog of entries that were put off drains as a fresh one does, with one worker and no new traffic.

``LONG_TESTS=1`` makes it as deep as in an outage of minutes.
"""

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from conftest import Say
from harness.producer import sent_requests
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import GROUP, Stack, WorkerProcess, wait_until

KNOWN, OTHER = "shop-frontend", "another-client"
DEPTHS = (1000, 5000, 20_000) if os.environ.get("LONG_TESTS") else (5000,)
SLOWER = 3
"""Most that a backlog which was put off may take, as a multiple of a fresh one."""

LOST_READS = 3
BATCH = 250
"""Entries of a read that is worth losing."""

MARGIN_MS = 250
"""On top of it, for short times on a noisy machine."""


class Setting(NamedTuple):
    """A stack whose one worker reaches its keys by a proxy alone, and the streams by another."""

    stack: Stack
    keys: Proxy
    streams: Proxy
    worker: WorkerProcess


@pytest.fixture
def setting(streams_server: Valkey, storage_server: Valkey) -> Iterator[Setting]:
    """Keys of two clients, one of which the worker has cached.

    A second isolated try that counts would make an entry a dead letter.
    """
    with (
        Proxy(storage_server.port) as keys,
        Proxy(streams_server.port) as streams,
        Stack(streams_server, storage_server, settings={"TOKEN_WORKER_MAX_DELIVERIES": "1"}) as stack,
    ):
        stack.streams.config_resetstat()
        for client in (KNOWN, OTHER):
            stack.generate_key(client)
        worker = stack.start_worker(
            TOKEN_WORKER_STREAMS_URL=streams.url,
            TOKEN_WORKER_KEYS_URL=keys.url,
            TOKEN_WORKER_TOKENS_URL=storage_server.url,
        )
        assert sent_requests(stack, 10, KNOWN, 0).settle() == []
        yield Setting(stack, keys, streams, worker)
        worker.kill()


def duration_ms(stack: Stack, replies: int) -> int:
    """Between the first and the last of so many newest replies, by the clock of the server."""
    found = stack.streams.xrevrange("tokenize:responses", count=replies)
    return int(found[0][0].partition(b"-")[0]) - int(found[-1][0].partition(b"-")[0])


def are_put_off(stack: Stack) -> bool:
    """Tell whether a worker has read something, and has put off all of it: nothing is in its hand."""
    pending = stack.streams.xpending_range("tokenize:requests", GROUP, "-", "+", DEPTHS[-1])
    return bool(pending) and all(entry["times_delivered"] == 0 for entry in pending)


def drain_fresh(setting: Setting, depth: int, start: int) -> int:
    """Measure how long a worker takes for a backlog that it has not seen before."""
    setting.worker.signal(signal.SIGSTOP)
    producer = sent_requests(setting.stack, depth, KNOWN, start)
    setting.worker.signal(signal.SIGCONT)
    assert producer.settle() == []
    return duration_ms(setting.stack, depth)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("depth", DEPTHS)
def test_backlog_put_off_for_keys_drains_like_a_fresh_one(setting: Setting, depth: int, say: Say) -> None:
    """Entries that had to wait for the key storage take no more than three times as long as new ones."""
    stack, keys, *_ = setting
    fresh_ms = drain_fresh(setting, depth, 1000)
    keys.go_away()
    producer = sent_requests(stack, depth, OTHER, 1_000_000)
    wait_until(lambda: stack.streams.xpending("tokenize:requests", GROUP)["pending"] == depth, "all to be put off")
    keys.come_back()
    assert producer.settle(600) == []
    put_off_ms = duration_ms(stack, depth)
    say(f"{depth:,} entries: fresh {fresh_ms} ms, put off {put_off_ms} ms")
    assert stack.streams.xlen("tokenize:requests:dead") == 0
    assert put_off_ms <= SLOWER * fresh_ms + MARGIN_MS


def test_backlog_of_a_response_stream_that_cannot_be_used_drains_like_a_fresh_one(setting: Setting, say: Say) -> None:
    """Entries whose replies could not be written are taken again in batches when the response stream is mended."""
    stack, *_ = setting
    depth = DEPTHS[-1]
    fresh_ms = drain_fresh(setting, depth, 1000)
    stack.streams.rename("tokenize:responses", "elsewhere")
    stack.streams.set("tokenize:responses", "no stream")
    producer = sent_requests(stack, depth, KNOWN, 1_000_000)
    wait_until(lambda: are_put_off(stack), "all that were read to be put off")
    stack.streams.delete("tokenize:responses")
    assert producer.settle(600) == []
    stuck_ms = duration_ms(stack, depth)
    say(f"{depth:,} entries: fresh {fresh_ms} ms, after their response stream was mended {stuck_ms} ms")
    assert stack.streams.xlen("tokenize:requests:dead") == 0
    assert stuck_ms <= SLOWER * fresh_ms + MARGIN_MS


def test_backlog_after_lost_reads_drains_like_a_fresh_one(setting: Setting, say: Say) -> None:
    """Entries of reads whose replies were lost are taken without a wait in between, and the others follow at once."""
    stack, _, streams, worker = setting
    depth = DEPTHS[-1]
    fresh_ms = drain_fresh(setting, depth, 1000)
    lost: list[int] = []

    def hook(moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE or command.name != "XREADGROUP" or not command.reply:
            return Verdict.PASS
        entries = len(command.reply[0][1])
        if entries < BATCH or len(lost) == LOST_READS:
            return Verdict.PASS
        lost.append(entries)
        return Verdict.CUT

    worker.signal(signal.SIGSTOP)
    producer = sent_requests(stack, depth, KNOWN, 1_000_000)
    streams.hook = hook
    worker.signal(signal.SIGCONT)
    assert producer.settle(600) == []
    lost_ms = duration_ms(stack, depth)
    say(f"{depth:,} entries: fresh {fresh_ms} ms, with reads lost of {sum(lost)} entries {lost_ms} ms")
    assert stack.streams.xlen("tokenize:requests:dead") == 0
    assert lost_ms <= SLOWER * fresh_ms + MARGIN_MS
