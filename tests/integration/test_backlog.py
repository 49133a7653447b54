"""A backlog of entries that were put off drains as a fresh one does, with one worker and no new traffic.

``LONG_TESTS=1`` makes it as deep as in an outage of minutes.
"""

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from faults.proxy import Proxy
from servers import Valkey
from stack import Stack, WorkerProcess, wait_until

from conftest import Say
from ledger import GROUP, NONE, Ledger

KNOWN, OTHER = "shop-frontend", "another-client"
DEPTHS = (1000, 5000, 20_000) if os.environ.get("LONG_TESTS") else (5000,)
SLOWER = 3
"""How many times as long as a fresh backlog one that was put off may take: what is demanded of workers."""

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
    """Keys of two clients, one of which the worker has at hand; a second try alone that counts would bury an entry."""
    with (
        Proxy(storage_server.port) as keys,
        Proxy(streams_server.port) as streams,
        Stack(streams_server, storage_server, settings={"TOKEN_WORKER_MAX_DELIVERIES": "1"}) as stack,
    ):
        for client in (KNOWN, OTHER):
            stack.generate_key(client)
        worker = stack.start_worker(
            TOKEN_WORKER_STREAMS_URL=streams.url,
            TOKEN_WORKER_KEYS_URL=keys.url,
            TOKEN_WORKER_TOKENS_URL=storage_server.url,
        )
        assert requests(stack, 10, KNOWN, 0).settle() == NONE
        yield Setting(stack, keys, streams, worker)
        worker.kill()


def requests(stack: Stack, count: int, client: str, start: int) -> Ledger:
    ledger = Ledger(stack, client)
    ledger.add_new(count, start=start)
    ledger.send()
    return ledger


def duration_ms(stack: Stack, replies: int) -> int:
    """Between the first and the last of so many newest replies, by the clock of the server."""
    found = stack.streams.xrevrange("tokenize:responses", count=replies)
    return int(found[0][0].partition(b"-")[0]) - int(found[-1][0].partition(b"-")[0])


def drain_fresh(setting: Setting, depth: int, start: int) -> int:
    """How long a worker takes for a backlog that it has not seen before."""
    setting.worker.signal(signal.SIGSTOP)
    ledger = requests(setting.stack, depth, KNOWN, start)
    setting.worker.signal(signal.SIGCONT)
    assert ledger.settle() == NONE
    return duration_ms(setting.stack, depth)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("depth", DEPTHS)
def test_backlog_put_off_for_keys_drains_like_a_fresh_one(setting: Setting, depth: int, say: Say) -> None:
    """Entries that had to wait for the key storage take no more than three times as long as new ones."""
    stack, keys, *_ = setting
    fresh_ms = drain_fresh(setting, depth, 1000)
    keys.go_away()
    ledger = requests(stack, depth, OTHER, 1_000_000)
    wait_until(lambda: stack.streams.xpending("tokenize:requests", GROUP)["pending"] == depth, "all to be put off")
    keys.come_back()
    assert ledger.settle(600) == NONE
    put_off_ms = duration_ms(stack, depth)
    say(f"{depth:,} entries: fresh {fresh_ms} ms, put off {put_off_ms} ms")
    assert stack.streams.xlen("tokenize:requests:dead") == 0
    assert put_off_ms <= SLOWER * fresh_ms + MARGIN_MS
