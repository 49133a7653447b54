"""CPU time of the worker and of both servers for each kind of work, and the throughput of one worker."""

import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bench import preload
from bench.figures import Row, row
from bench.sizes import ITEMS, Sizes
from bench.subject import Measured, Subject, median, payloads, subject

NULL = "null worker"
NEW = "new value"
KNOWN = "known value"
DETOKENIZE = "detokenize"
ACRA_KNOWN = "known value, Acra's entry"
ACRA_DETOKENIZE = "detokenize, Acra's entry"

SINGLE_MOST: dict[str, float | None] = {
    NEW: 8.1,
    KNOWN: 3.9,
    DETOKENIZE: 4.6,
    **dict.fromkeys((ACRA_KNOWN, ACRA_DETOKENIZE)),
}
"""Goals: CPU of the worker for a single request, as a multiple of what the null worker takes for one.

They are an eighth and a tenth of the CPU of AcraTranslator. Entries of Acra's have no goal.
"""

ITEM_MOST: dict[str, float | None] = {
    **dict.fromkeys((NEW, KNOWN, DETOKENIZE), 6.0),
    **dict.fromkeys((ACRA_KNOWN, ACRA_DETOKENIZE)),
}
"""Goals: the same for an item of a request of many, also as a multiple of the null worker's for a single request.

It is what OpenBao's transit takes for an item of a batch.
"""

RATE_LEAST = {NEW: 0.25, KNOWN: 0.5, DETOKENIZE: 0.5}
REDIS_MOST = 3
WORKERS_LEAST = 1.8
CORES = 4
"""Cores that two workers and two servers need, one each."""

Kind = tuple[str, int]
"""A kind of work, and the number of items in a request."""


def measure(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """A fresh worker each round, the null worker in between; a worker opens each of Acra's blocks once."""
    rounds: dict[Kind, list[Measured]] = defaultdict(list)
    is_acra = sizes.layout == "acra"
    with subject(sizes.layout) as system:
        acras = {items: preload.acras(system, sizes.acra) for items in (1, ITEMS) if is_acra}
        for number in range(sizes.rounds):
            tell(f"cpu, round {number + 1} of {sizes.rounds}")
            worker, null = system.start_worker(), system.start_null()
            system.warm_up("null", "tokenize", "detokenize")
            singles = []
            for items in (1, ITEMS):
                singles.append(_null(system, null.pid, sizes.requests))
                for name, measured in _kinds(system, worker.pid, sizes.requests, items):
                    rounds[name, items].append(measured)
                singles.append(_null(system, null.pid, sizes.requests))
                for name, measured in _acras(system, worker.pid, acras[items], items) if is_acra else ():
                    rounds[name, items].append(measured)
            values = system.values(sizes.requests)
            rounds[NULL, ITEMS].append(system.measure_checked(null.pid, "null", values, values, items=ITEMS)[0])
            singles.append(_null(system, null.pid, sizes.requests))
            rounds[NULL, 1].append(median(singles))
            worker.kill()
            null.kill()
    return rows(rounds)


def _null(system: Subject, pid: int, count: int) -> Measured:
    values = system.values(count)
    return system.measure_checked(pid, "null", values, values)[0]


def _kinds(system: Subject, pid: int, count: int, items: int) -> list[tuple[str, Measured]]:
    values = system.values(count)
    new, tokens = system.measure_checked(pid, "tokenize", values, None, items=items)
    known, _ = system.measure_checked(pid, "tokenize", values, tokens, items=items)
    back, _ = system.measure_checked(pid, "detokenize", tokens, values, items=items)
    return [(NEW, new), (KNOWN, known), (DETOKENIZE, back)]


def _acras(system: Subject, pid: int, acra: list[preload.Token], items: int) -> list[tuple[str, Measured]]:
    values, tokens = [value for value, _ in acra], [token for _, token in acra]
    known, _ = system.measure_checked(pid, "tokenize", values, tokens, items=items)
    back, _ = system.measure_checked(pid, "detokenize", tokens, values, items=items)
    return [(ACRA_KNOWN, known), (ACRA_DETOKENIZE, back)]


def rows(rounds: dict[Kind, list[Measured]]) -> list[Row]:
    """The rows of all rounds."""
    null = rounds[NULL, 1]
    null_us = [one.worker_us for one in null]
    made = []
    for items, goals, unit, section in (
        (1, SINGLE_MOST, "µs a request", "worker CPU, single requests"),
        (ITEMS, ITEM_MOST, "µs an item", f"worker CPU, requests of {ITEMS} items"),
    ):
        own = [one.worker_us for one in rounds[NULL, items]]
        made.append(row(section, NULL, unit, own, to=null_us))
        for name, most in goals.items():
            if (name, items) not in rounds:
                continue  # entries of Acra's, in the dense layout
            made.append(row(section, name, unit, [one.worker_us for one in rounds[name, items]], to=null_us, most=most))
    rates = [one.rate for one in null]
    made.append(row("throughput of one worker", NULL, "requests/s", rates, to=rates))
    for name, least in RATE_LEAST.items():
        own = [one.rate for one in rounds[name, 1]]
        made.append(row("throughput of one worker", name, "requests/s", own, to=rates, least=least))
    made += _redis_rows(rounds)
    return made


def _redis_rows(rounds: dict[Kind, list[Measured]]) -> list[Row]:
    section, unit = "Redis CPU, single requests", "µs a request"
    null_us = [one.redis_us for one in rounds[NULL, 1]]
    made = [row(section, NULL, unit, null_us, to=null_us)]
    for name in SINGLE_MOST:
        runs = rounds.get((name, 1))
        if runs is None:
            continue
        made += (
            row(section, f"{name}, streams", unit, [one.streams_us for one in runs]),
            row(section, f"{name}, storage", unit, [one.storage_us for one in runs]),
            row(section, f"{name}, both", unit, [one.redis_us for one in runs], to=null_us, most=REDIS_MOST),
        )
    return made


# -- two workers


def measure_two(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """The throughput of two workers as a ratio to one, if each process has a core of its own."""
    cores = free_cores()
    if len(cores) < CORES:
        there = len(os.sched_getaffinity(0))
        note = f"not measurable here ({len(cores)} of {there} cores are free)" if there >= CORES else ""
        note = note or f"not measurable here ({there} cores)"
        goal = f"≥ {WORKERS_LEAST} x one"
        return [Row(section="two workers", name=NEW, unit="requests/s", goal=goal, note=note)]
    return two_workers(sizes, tell, cores)


def two_workers(sizes: Sizes, tell: Callable[[str], None], cores: list[int]) -> list[Row]:
    """Measure a backlog of new values with one worker and with two; ``cores``: of the servers, then of the workers."""
    one: list[float] = []
    two: list[float] = []
    with subject(sizes.layout) as system:
        os.sched_setaffinity(system.streams.pid, {cores[0]})
        os.sched_setaffinity(system.storage.pid, {cores[1]})
        for number in range(sizes.rounds):
            tell(f"two workers, round {number + 1} of {sizes.rounds}")
            workers = []
            for count, rates in ((1, one), (2, two)):
                worker = system.start_worker()
                os.sched_setaffinity(worker.pid, {cores[1 + count]})
                workers.append(worker)
                system.wait_for_consumers("tokenize", count)
                system.warm_up("tokenize")
                requests = payloads("tokenize", system.values(sizes.requests * count))
                pids = [worker.pid for worker in workers]
                rates.append(system.measure(pids, "tokenize", requests, len(requests)).rate)
                system.answers("tokenize", len(requests))
            for worker in workers:
                worker.stop()
    section, unit = "two workers", "requests/s"
    return [row(section, "one", unit, one), row(section, NEW, unit, two, to=one, of="one", least=WORKERS_LEAST)]


def free_cores(seconds: float = 0.5) -> list[int]:
    """Cores that this process may use and that are idle for four fifths of the time, idle ones first."""
    before = _idle_and_all()
    time.sleep(seconds)
    idle = {}
    for core, (later_idle, later_all) in _idle_and_all().items():
        was_idle, was_all = before[core]
        idle[core] = (later_idle - was_idle) / max(later_all - was_all, 1)
    free = [core for core in sorted(idle, key=lambda core: -idle[core]) if idle[core] > 0.8]
    return [core for core in free if core in os.sched_getaffinity(0)]


def _idle_and_all() -> dict[int, tuple[int, int]]:
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            times = [int(tick) for tick in ticks[:8]]
            found[int(name.removeprefix("cpu"))] = (times[3] + times[4], sum(times))
    return found
