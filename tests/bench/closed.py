"""A worker at the concurrency that producers have: closed loops with few and with many requests in flight.

A load program keeps so many requests in flight. It sends new requests for the replies of one read by one write, or each
by a write of its own. The null worker is measured right before, with as many in flight. Beside the closed loops there
are open loops, whose latency counts from the arrival, so that no wait can hide.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import click

from bench import load, preload
from bench.cpu import ACRA_DETOKENIZE, ACRA_KNOWN, DETOKENIZE, KNOWN, NEW, NULL
from bench.figures import Row, row
from bench.load import Loop, Order
from bench.program import Program, program
from bench.sizes import Sizes
from bench.subject import CLIENT, Subject, subject

IN_FLIGHT = (1, 8, 64, 512)
GOAL_AT = 64
"""Requests in flight for which there are goals of throughput and latency, and whose rate the open loops share."""

CPU_MOST = {
    64: {KNOWN: 1.5, NEW: 2.5, DETOKENIZE: 1.7},
    8: {KNOWN: 1.4, NEW: 2, DETOKENIZE: 1.5},
    1: {KNOWN: 1.2, NEW: 1.8, DETOKENIZE: 1.3},
}
"""Goals by requests in flight: CPU of the worker for a request, as a multiple of the null worker's."""

RATE_LEAST = {KNOWN: 0.7, NEW: 0.45, DETOKENIZE: 0.6}
P99_MOST = {KNOWN: 2, NEW: 3, DETOKENIZE: 2}

PARTS = (30, 60)
"""Arrivals of the open loops, in per cent of the closed loop's rate."""

WARM_UP_PART = 0.25
"""Time before each loop that does not count, as a part of the time that counts."""

TOGETHER = "closed loop, refilled in one write"
ONE_BY_ONE = "closed loop, refilled one by one"
WAYS = {TOGETHER: False, ONE_BY_ONE: True}
OPEN = "open loop"

Figure = tuple[str, int, str]
"""Way of the load, requests in flight (or per cent of the closed loop's rate), and kind of work."""


class Work(NamedTuple):
    """A kind of work; ``values`` is None for new values, ``expected`` are the answers to ``values``."""

    name: str
    route: str
    values: list[str] | None
    expected: list[str] | None

    @property
    def is_acra(self) -> bool:
        return self.name in {ACRA_KNOWN, ACRA_DETOKENIZE}


class Round:
    """One round, on servers and workers of its own: tokens of new values would fill the storage otherwise."""

    def __init__(self, sizes: Sizes, system: Subject, loader: Program[Loop]) -> None:
        self._sizes = sizes
        self._system = system
        self._loader = loader
        self._worker, self._null = system.start_worker().pid, system.start_null().pid
        system.warm_up("null", "tokenize", "detokenize")
        values = system.values(sizes.requests)
        tokens = system.tokens(values)
        self.works = [
            Work(NULL, "null", values, values),
            Work(NEW, "tokenize", None, None),
            Work(KNOWN, "tokenize", values, tokens),
            Work(DETOKENIZE, "detokenize", tokens, values),
        ]
        if sizes.layout == "acra":
            acra = preload.acras(system, sizes.acra)
            acra_values, acra_tokens = [value for value, _ in acra], [token for _, token in acra]
            self.works += [
                Work(ACRA_KNOWN, "tokenize", acra_values, acra_tokens),
                Work(ACRA_DETOKENIZE, "detokenize", acra_tokens, acra_values),
            ]
        self._next: dict[str, int] = {}

    def loops(self) -> Iterator[tuple[Figure, Loop]]:
        """All loops of a round."""
        rates: dict[str, float] = {}
        for way, one_by_one in WAYS.items():
            for in_flight in IN_FLIGHT:
                for work in self.works:
                    if work.is_acra and one_by_one:
                        continue
                    loop = self._run(work, in_flight=in_flight, one_by_one=one_by_one)
                    if (way, in_flight) == (TOGETHER, GOAL_AT):
                        rates[work.name] = self._sizes.open_rate or loop.rate
                    yield (way, in_flight, work.name), loop
        null = self.works[0]
        for part in PARTS:
            for work in self.works[1:]:
                if not work.is_acra:
                    rate = rates[work.name] * part / 100
                    yield (OPEN, part, f"{work.name}, {NULL}"), self._run(null, rate=rate)
                    yield (OPEN, part, work.name), self._run(work, rate=rate)

    def _run(self, work: Work, *, in_flight: int = 0, one_by_one: bool = False, rate: float = 0) -> Loop:
        """One loop, with the answers checked."""
        system, route, values = self._system, work.route, work.values
        first = system.rng.randrange(10**15) if values is None else self._next.get(work.name, 0) % len(values)
        system.clear(route)
        loop = self._loader.run(
            Order(
                url=system.streams.url,
                route=route,
                head={"op": "detokenize" if route == "detokenize" else "tokenize", "client_id": CLIENT, "type": "str"},
                values=values,
                first=first,
                pids=[self._null if work.name == NULL else self._worker],
                seconds=self._sizes.loop,
                warm_up=self._sizes.loop * WARM_UP_PART,
                in_flight=in_flight,
                one_by_one=one_by_one,
                rate=rate,
            )
        )
        answers = system.answers(route, loop.sent)
        if work.expected is not None:
            count = len(work.expected)
            if answers != [work.expected[(first + number) % count] for number in range(loop.sent)]:
                raise click.ClickException(f"the answers of a loop to {route} are not those that there should be")
        self._next[work.name] = first + loop.sent
        return loop


def measure(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure the null worker and each kind of work in turn: both ways to send, each number in flight, each round."""
    rounds: dict[Figure, list[Loop]] = {}
    for number in range(sizes.rounds):
        with subject(sizes.layout) as system, program(load.__file__, Loop) as loader:
            for figure, loop in Round(sizes, system, loader).loops():
                rounds.setdefault(figure, []).append(loop)
                way, count, name = figure
                unit = "% of the rate" if way == OPEN else "in flight"
                tell(f"{way}, round {number + 1} of {sizes.rounds}: {count} {unit}, {name}")
    return [*(made for way in WAYS for made in _closed_rows(way, rounds)), *_open_rows(rounds)]


def _closed_rows(way: str, rounds: dict[Figure, list[Loop]]) -> Iterator[Row]:
    for title, field, unit in (
        ("CPU of the worker", "worker_us", "µs a request"),
        ("throughput", "rate", "requests/s"),
        ("p50", "p50_ms", "ms"),
        ("p99", "p99_ms", "ms"),
        ("mean batch of the worker", "batch", "requests"),
    ):
        for in_flight in IN_FLIGHT:
            null = [getattr(loop, field) for loop in rounds[way, in_flight, NULL]]
            for (its_way, its_count, name), loops in rounds.items():
                if (its_way, its_count) != (way, in_flight):
                    continue
                most, least = _goal(field, in_flight, name)
                own = [getattr(loop, field) for loop in loops]
                yield row(f"{way}: {title}", f"{in_flight}, {name}", unit, own, to=null, most=most, least=least)
    for in_flight in IN_FLIGHT:
        busy = [loop.own_busy for loop in rounds[way, in_flight, NULL]]
        yield row(f"{way}: CPU of the load program", f"{in_flight}, {NULL}", "% of a core", busy)


def _goal(field: str, in_flight: int, name: str) -> tuple[float | None, float | None]:
    """The most and the least that a ratio may be."""
    if field == "worker_us":
        return CPU_MOST.get(in_flight, {}).get(name), None
    if in_flight == GOAL_AT and field == "p99_ms":
        return P99_MOST.get(name), None
    if in_flight == GOAL_AT and field == "rate":
        return None, RATE_LEAST.get(name)
    return None, None


def _open_rows(rounds: dict[Figure, list[Loop]]) -> Iterator[Row]:
    for title, field, unit in (
        ("arrivals", "rate", "requests/s"),
        ("p50", "p50_ms", "ms"),
        ("p99", "p99_ms", "ms"),
        ("CPU of the worker", "worker_us", "µs a request"),
        ("mean batch of the worker", "batch", "requests"),
    ):
        for name in (NEW, KNOWN, DETOKENIZE):
            for part in PARTS:
                null = [getattr(loop, field) for loop in rounds[OPEN, part, f"{name}, {NULL}"]]
                own = [getattr(loop, field) for loop in rounds[OPEN, part, name]]
                yield row(f"{OPEN}: {title}", f"{part} % of its rate, {name}", unit, own, to=null)
