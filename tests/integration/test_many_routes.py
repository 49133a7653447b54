"""Twenty routes with requests of a thousand items do not harm memory, other users of the servers, or other routes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.messages import values
from harness.producer import BatchProducer
from harness.proxy import Command, Moment, Proxy, Verdict
from harness.servers import Valkey
from harness.stack import GROUP, Stack, wait_until

ROUTES = 20
REQUESTS_A_ROUTE = 4
ITEMS = 1000

MEMORY_MIB = 150
"""Bound of a worker's memory at its highest. Python and the libraries take 45 MiB; a batch in hand, about 4 MiB of
payloads and 2,000 items at a time, as much again. To keep a backlog (here 80,000 items) would take far more."""

SCRIPT_MICROSECONDS = 50_000
"""The longest that a script may keep a server's other users waiting."""

BATCH = 100


class Claims:
    """Counts claims of entries that were delivered before; with JUSTID, a worker prolongs the lease of its own."""

    def __init__(self) -> None:
        self.of_others = 0

    def hook(self, moment: Moment, command: Command) -> Verdict:
        if moment is Moment.BEFORE and command.name == "XCLAIM" and b"JUSTID" not in command.parts:
            self.of_others += 1
        return Verdict.PASS


@pytest.fixture
def servers() -> Iterator[tuple[Valkey, Valkey]]:
    """Servers for streams and storage of this test alone, which write down every slow command."""
    slow = f"slowlog-log-slower-than {SCRIPT_MICROSECONDS}"
    with Valkey(slow) as streams, Valkey(slow) as storage:
        yield streams, storage


@pytest.fixture
def stack(servers: tuple[Valkey, Valkey]) -> Iterator[Stack]:
    """Twenty routes of both operations."""
    routes = [
        {"requests": f"{name}:requests", "responses": f"{name}:responses", "ops": ["tokenize", "detokenize"]}
        for name in (f"route-{number}" for number in range(ROUTES))
    ]
    with Stack(*servers, settings={"TOKEN_WORKER_ROUTES": msgspec.json.encode(routes).decode()}, fresh=True) as stack:
        stack.generate_key("shop-frontend")
        yield stack
        for worker in stack.workers:
            worker.kill()


def highest_memory_mib(pid: int) -> float:
    """The most memory a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def slow_scripts(server: Valkey) -> list[tuple[str, int]]:
    """Scripts that took too long, with their microseconds."""
    with server.client() as client:
        log: list[dict[str, Any]] = client.slowlog_get(1000)
    names = [(entry["command"].split(b" ", 1)[0].decode().upper(), entry["duration"]) for entry in log]
    return [(name, microseconds) for name, microseconds in names if name in ("EVAL", "EVALSHA", "FCALL")]


def test_large_requests_on_many_routes_are_a_burden_to_nobody(stack: Stack, servers: tuple[Valkey, Valkey]) -> None:
    """Under large requests on 20 routes memory is bounded, no script is slow, no worker is robbed of its entries."""
    # Given small requests on every route, which make workers read many at a time, and large ones behind them
    producer = BatchProducer(stack)
    for number in range(ROUTES * 50):
        producer.add("tokenize", "int32", [number], route=f"route-{number % ROUTES}")
    sources = {kind: values(kind) for kind in ("str", "email")}
    for number in range(ROUTES * REQUESTS_A_ROUTE):
        kind = ("str", "email")[number % 2]
        items = [next(sources[kind]) for _ in range(ITEMS)]
        producer.add("tokenize", kind, items, route=f"route-{number % ROUTES}", packed=number % 3 == 0)
    producer.send()
    # When two workers serve them whose entries are soon idle enough to be taken over
    claims = Claims()
    with Proxy(servers[0].port, claims.hook) as proxy:
        workers = [
            stack.start_worker(TOKEN_WORKER_STREAMS_URL=proxy.url, TOKEN_WORKER_CLAIM_IDLE_MS="2500") for _ in range(2)
        ]
        assert producer.settle() == []
        # and turn all of it back,
        back = BatchProducer(stack)
        back.add_tokens_of(producer, ITEMS, [f"route-{number}" for number in range(ROUTES)])
        back.send()
        assert back.settle() == []
    # Then no entry was taken from one by the other, their memory stayed small, and no script was slow.
    assert claims.of_others == 0
    assert max(highest_memory_mib(worker.pid) for worker in workers) < MEMORY_MIB
    assert [slow_scripts(server) for server in servers] == [[], []]


def test_deep_backlog_of_one_route_does_not_starve_another(stack: Stack) -> None:
    """A request on a quiet route is answered within a few batches, however many entries wait on another route."""
    # Given a worker amid a backlog
    backlog = BatchProducer(stack)
    for number in range(20_000):
        backlog.add("tokenize", "int32", [number % 50], route="route-3")
    backlog.send()
    stack.start_worker(TOKEN_WORKER_BATCH_SIZE=str(BATCH))
    wait_until(lambda: stack.streams.xlen("route-3:responses") > 1000, "the worker to be amid the backlog")
    # When a request comes on another route
    quiet = BatchProducer(stack)
    quiet.add("tokenize", "int32", [1], route="route-7")
    quiet.send()
    # Then it is answered after no more of the backlog than the two batches in hand, and what comes in its own.
    assert quiet.settle() == []
    [(asked, _)] = stack.streams.xrange("route-7:requests")
    [(answered, _)] = stack.streams.xrange("route-7:responses")
    between = stack.streams.xrange("route-3:responses", min=asked, max=answered)
    assert 0 < len(between) <= 3 * BATCH
    assert stack.streams.xpending("route-3:requests", GROUP)["pending"] <= 2 * BATCH
    assert not backlog.is_settled()
