"""Memory of a worker, and the time from its start to its first reply."""

import time
from collections.abc import Callable

import click

from bench.cpu import NULL
from bench.figures import Row, row
from bench.sizes import Sizes
from bench.subject import Subject, payloads, subject
from harness.processes import peak_mib

MEMORY_MOST = 80
START_MOST = 2
LARGE_ITEMS = 1000
LARGE_BYTES = 1 << 20
"""The default limits of a request."""

SMALL_BEFORE = 1000
"""Small requests that make a worker read many at once."""

ITEM_OVERHEAD = 27
"""Bytes of an item's JSON besides its value."""

START_SECONDS = 60


def measure_memory(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Tokenize and detokenize requests of the largest size, alone and in a backlog after small ones."""
    rest: list[float] = []
    peaks: dict[int, list[float]] = {0: [], SMALL_BEFORE: []}
    for number in range(sizes.few_rounds):
        tell(f"memory, round {number + 1} of {sizes.few_rounds}")
        for small, found in peaks.items():
            with subject(sizes.layout) as system:
                worker = system.start_worker()
                system.warm_up("tokenize", count=1)
                rest.append(peak_mib(worker.pid))
                _large(system, worker.pid, small, sizes.large)
                found.append(peak_mib(worker.pid))
    section, name = "resident peak of the worker", f"requests of 1 MiB and {LARGE_ITEMS:,} items"
    return [
        row(section, "after one request", "MiB", rest),
        row(section, name, "MiB", peaks[0], most=MEMORY_MOST),
        row(section, f"{name}, after {SMALL_BEFORE:,} small ones", "MiB", peaks[SMALL_BEFORE], most=MEMORY_MOST),
    ]


def _large(system: Subject, pid: int, small: int, count: int) -> None:
    length = (LARGE_BYTES - 200) // LARGE_ITEMS - ITEM_OVERHEAD
    before = system.values(small)
    values = [(value * (length // 16 + 1))[:length] for value in system.values(count * LARGE_ITEMS)]
    asked: list[str] = [*before, *values]
    for route in ("tokenize", "detokenize"):
        requests = payloads(route, asked[:small])
        requests += payloads(route, asked[small:], items=LARGE_ITEMS, first=small)
        system.measure([pid], route, requests, len(requests))
        asked = system.answers(route, len(requests))
    if asked != [*before, *values]:
        raise click.ClickException("tokens of large requests did not give their values back")


def measure_start(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure the time from the start of the process until it has answered a waiting request."""
    seconds: dict[str, list[float]] = {"null": [], "tokenize": []}
    with subject(sizes.layout) as system:
        system.make_group("tokenize:requests")
        for number in range(sizes.rounds):
            tell(f"start, round {number + 1} of {sizes.rounds}")
            for route, found in seconds.items():
                found.append(_start(system, route))
    section, null = "start to first reply", seconds["null"]
    name = f"{NULL} with the same imports"
    return [
        row(section, name, "s", null, to=null),
        row(section, "worker", "s", seconds["tokenize"], to=null, most=START_MOST),
    ]


def _start(system: Subject, route: str) -> float:
    system.clear(route)
    values = system.values(1)
    system.stack.send(payloads("tokenize", values), f"{route}:requests")
    started = time.monotonic()
    process = system.start_worker() if route == "tokenize" else system.start_null("everything")
    reply = None
    while not reply and time.monotonic() - started < START_SECONDS:
        reply = system.stack.streams.xread({f"{route}:responses": "0"}, block=1000)
    seconds = time.monotonic() - started
    system.answers(route, 1)
    process.kill()
    process.wait()
    return seconds
