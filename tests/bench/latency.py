"""Latency and CPU at a steady rate, far below a worker's limit, and CPU of an idle worker."""

import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import click
import msgspec

from bench import pace
from bench.cpu import KNOWN, NEW, NULL
from bench.figures import Row, row
from bench.sizes import Sizes
from bench.subject import Subject, cpu_seconds, message, subject
from harness.ending import uninterrupted

LATENCY_MOST = 1.5
BUSY_MOST = 15
IDLE_MOST = 0.5
WARM_UP_SECONDS = 0.5


class Steady(NamedTuple):
    """One steady load: latency in milliseconds, CPU in per cent of a core, and requests sent a second."""

    p50_ms: float
    p99_ms: float
    busy: float
    rate: float


def measure(sizes: Sizes, tell: Callable[[str], None]) -> list[Row]:
    """Measure the null worker, new values and known values in turn, with the same two processes throughout."""
    runs: dict[str, list[Steady]] = defaultdict(list)
    with subject(sizes.layout) as system:
        worker, null = system.start_worker(), system.start_null()
        system.warm_up("null", "tokenize", "detokenize")
        count = round(sizes.rate * (sizes.seconds + WARM_UP_SECONDS))
        for number in range(sizes.rounds):
            tell(f"latency, round {number + 1} of {sizes.rounds}")
            values = system.values(count)
            runs[NULL].append(steady(system, null.pid, "null", values, sizes.rate))
            _expect(system.answers("null", count), values)
            runs[NEW].append(steady(system, worker.pid, "tokenize", values, sizes.rate))
            tokens = system.answers("tokenize", count)
            runs[KNOWN].append(steady(system, worker.pid, "tokenize", values, sizes.rate))
            _expect(system.answers("tokenize", count), tokens)
        tell(f"idle for {sizes.idle:g} seconds")
        idle = _idle([null.pid, worker.pid], sizes.idle)
    return _rows(runs, idle)


def _expect(answers: Sequence[str], expected: Sequence[str]) -> None:
    if list(answers) != list(expected):
        raise click.ClickException("the answers of the steady load are not those that there should be")


def _idle(pids: Sequence[int], seconds: float) -> list[float]:
    before, started = [cpu_seconds(pid) for pid in pids], time.monotonic()
    time.sleep(seconds)
    after, passed = [cpu_seconds(pid) for pid in pids], time.monotonic() - started
    return [(later - earlier) / passed * 100 for later, earlier in zip(after, before, strict=True)]


def steady(system: Subject, pid: int, route: str, values: Sequence[str], rate: int) -> Steady:
    """Single requests at a rate, sent and read by processes of their own; the first half second does not count."""
    system.clear(route)
    lines = b"\n".join(msgspec.json.encode(message("tokenize", [value])) for value in values)
    with ExitStack() as started:
        reader = _start(started, "read", system.streams.url, f"{route}:responses", str(len(values)))
        if reader.stdout is None or reader.stdout.readline() != b"ready\n":
            raise click.ClickException("the reader of replies did not start")
        sender = _start(started, "send", system.streams.url, f"{route}:requests", str(rate))
        before = cpu_seconds(pid)
        sender.communicate(lines)
        times: list[tuple[int, int]] = msgspec.json.decode(reader.communicate()[0])
        used = cpu_seconds(pid) - before
    if len(times) != len(values):
        raise click.ClickException(f"{len(values)} requests to {route} at a steady rate got {len(times)} replies")
    times.sort()
    seconds = (times[-1][0] - times[0][0]) / 1e9
    first = times[0][0] + WARM_UP_SECONDS * 1e9
    waits = sorted((came - sent) / 1e6 for sent, came in times if sent >= first)
    p99 = waits[min(len(waits) * 99 // 100, len(waits) - 1)]
    return Steady(statistics.median(waits), p99, used / seconds * 100, (len(times) - 1) / seconds)


def _start(started: ExitStack, *arguments: str) -> "subprocess.Popen[bytes]":
    with uninterrupted():
        process = subprocess.Popen(
            [sys.executable, "-P", pace.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        started.enter_context(process)
        started.callback(process.kill)
    return process


def _rows(runs: dict[str, list[Steady]], idle: list[float]) -> list[Row]:
    section, made = "steady single requests", []
    for what, figure in (("p50", "p50_ms"), ("p99", "p99_ms")):
        null = [getattr(run, figure) for run in runs[NULL]]
        made.append(row(section, f"{what}, {NULL}", "ms", null, to=null))
        for name in (NEW, KNOWN):
            own = [getattr(run, figure) for run in runs[name]]
            made.append(row(section, f"{what}, {name}", "ms", own, to=null, most=LATENCY_MOST))
    null = [run.busy for run in runs[NULL]]
    made.append(row(section, f"CPU, {NULL}", "% of a core", null, to=null))
    for name in (NEW, KNOWN):
        busy = [run.busy for run in runs[name]]
        made.append(row(section, f"CPU, {name}", "% of a core", busy, to=null, most=BUSY_MOST, of_median=True))
    sent = [run.rate for name in runs for run in runs[name]]
    made.append(row(section, "sent, all kinds", "requests/s", sent))
    made.append(row("idle", f"CPU, {NULL}", "% of a core", idle[:1]))
    made.append(row("idle", "CPU, worker", "% of a core", idle[1:], most=IDLE_MOST))
    return made
