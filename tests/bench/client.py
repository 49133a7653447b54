"""One process that calls ``TokenClient`` with known values, in turn on two workers and on a null worker."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from bench import calls
from bench.calls import Calls, Order
from bench.cpu import NULL
from bench.figures import Row, row
from bench.program import program
from bench.sizes import Sizes
from bench.subject import CLIENT, subject

WORKERS = 2
WARM_UP_PART = 0.25
"""Time before each load that does not count, as a part of the time that counts."""

BATCHES_MS = (0.0, 1.0, None)
"""Values of ``batch_ms``. The goals are for 0, the default."""
LIST_LEAST = 100_000
P99_MOST = 4
"""Goal: the 99th percentile, as a multiple of the median."""


class Way(NamedTuple):
    """A way to call, its number of calls in flight, and its goals: calls a second, and µs of CPU a call."""

    name: str
    way: str
    in_flight: int
    rate_least: float | None
    cpu_most: float | None = None


CALLS = (  # who keeps futures makes the garbage collector look at more and more objects
    Way("submit, 512 in flight", "submit", 512, 20_000, 40),
    Way("submit, 64 in flight", "submit", 64, 15_000, 40),
    Way("submit, 64 in flight, futures kept", "kept", 64, None),
    Way("64 threads that block", "threads", 64, 8_000),
    Way("async, 512 in flight", "async", 512, 16_000, 60),
    Way("async, 64 in flight", "async", 64, 12_000, 60),
)
LIST = Way("one list", "list", 1, LIST_LEAST)

Figure = tuple[str, float | None]
"""Name of a way, and ``batch_ms``."""


def measure(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure every way to call on the null worker, and right after that on the workers, in each round."""
    own: dict[Figure, list[Calls]] = defaultdict(list)
    null: dict[Figure, list[Calls]] = defaultdict(list)
    with subject(sizes.layout) as system, subject() as other, program(calls.__file__, Calls) as caller:
        for _ in range(WORKERS):
            system.start_worker()
        system.wait_for_consumers("tokenize", WORKERS)
        other.start_null("client", route="tokenize")
        values = system.values(max(sizes.requests, sizes.listed))

        def run(way: Way, batch_ms: float | None, count: int, url: str, expected: list[str]) -> Calls:
            warm_up = sizes.loop * WARM_UP_PART
            order = Order(
                url, CLIENT, way.way, way.in_flight, batch_ms, values[:count], expected[:count], sizes.loop, warm_up
            )
            return caller.run(order)

        tokens = system.tokens(values)
        for number in range(sizes.rounds):
            for way, batch_ms in [*((way, batch_ms) for way in CALLS for batch_ms in BATCHES_MS), (LIST, 0.0)]:
                tell(f"client, round {number + 1} of {sizes.rounds}: {_name(way, batch_ms)}")
                count = sizes.listed if way is LIST else sizes.requests
                null[way.name, batch_ms].append(run(way, batch_ms, count, other.streams.url, values))
                own[way.name, batch_ms].append(run(way, batch_ms, count, system.streams.url, tokens))
    return _rows(own, null, sizes.listed)


def _name(way: Way, batch_ms: float | None) -> str:
    if batch_ms == 0:
        return way.name
    return f"{way.name}, own requests" if batch_ms is None else f"{way.name}, batch_ms={batch_ms:g}"


def _rows(own: dict[Figure, list[Calls]], null: dict[Figure, list[Calls]], listed: int) -> list[Row]:
    made: list[Row] = []
    ways = [(way, batch_ms) for way in CALLS for batch_ms in BATCHES_MS]

    def add(
        title: str,
        name: str,
        unit: str,
        field: str,
        figure: Figure,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        theirs = [getattr(one, field) for one in null[figure]]
        ours = [getattr(one, field) for one in own[figure]]
        made.append(row(title, f"{name}, {NULL}", unit, theirs, to=theirs))
        made.append(row(title, name, unit, ours, to=theirs, of_median=True, most=most, least=least))

    section = "client, known values, two workers"
    for way, batch_ms in ways:
        least = way.rate_least if batch_ms == 0 else None
        add(f"{section}: calls", _name(way, batch_ms), "calls/s", "rate", (way.name, batch_ms), least=least)
    for way, batch_ms in ways:
        most = way.cpu_most if batch_ms == 0 else None
        add(f"{section}: CPU", _name(way, batch_ms), "µs a call", "cpu_us", (way.name, batch_ms), most=most)
    for way, batch_ms in ways:
        add(f"{section}: p50", _name(way, batch_ms), "ms", "p50_ms", (way.name, batch_ms))
    for way, batch_ms in ways:
        for whose, its_calls in ((f", {NULL}", null[way.name, batch_ms]), ("", own[way.name, batch_ms])):
            p50 = [one.p50_ms for one in its_calls]
            p99 = [one.p99_ms for one in its_calls]
            most = P99_MOST if not whose and batch_ms == 0 else None
            made.append(
                row(f"{section}: p99", f"{_name(way, batch_ms)}{whose}", "ms", p99, to=p50, of="p50", most=most)
            )
    title = f"{section}: a list of {listed:,} values"
    add(title, "values", "values/s", "rate", (LIST.name, 0.0), least=LIST_LEAST)
    add(title, "CPU", "µs a value", "cpu_us", (LIST.name, 0.0))
    return made
