"""How fast one worker is, as ratios to a null worker that runs in turn with it: machines are shared and noisy.

The null worker reads a batch, decodes each request, and echoes its value with the same commit script: what no worker on
Redis Streams can do without. CPU is what the operating system accounts to each process, not the clock's time.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.table import Table
from servers import Valkey
from stack import Stack, wait_until

from token_worker.contract.codec import Limits, decode, encode_reply
from token_worker.contract.messages import Reply
from token_worker.redis_link import RedisLink
from token_worker.settings import RedisSettings
from token_worker.streams.delivery import COMMIT

CLIENT = "bench-client"
GROUP = "token-workers"
TICKS = os.sysconf("SC_CLK_TCK")
BATCH = 500


class Measured(NamedTuple):
    """One run: requests a second; CPU microseconds a request of the worker, the streams' and the storage server."""

    rate: float
    worker_us: float
    streams_us: float
    storage_us: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def null_worker(url: str, route: str) -> None:
    """Read, decode, echo with the commit script, until killed."""
    link = RedisLink("streams", RedisSettings(url=url))
    limits = Limits(1 << 20, 1000)
    read = ("XREADGROUP", "GROUP", GROUP, "null", "COUNT", BATCH, "BLOCK", 1000, "STREAMS", f"{route}:requests", ">")
    keys = [f"{route}:requests", f"{route}:responses"]
    while True:
        for _, entries in link.call(*read) or ():
            args: list[Any] = [GROUP, 60]
            for entry_id, fields in entries:
                decoded = decode(fields[1], limits)
                request = decoded.request
                value = request.value if request is not None else None
                reply = Reply(id=decoded.id, op=decoded.op, request_entry=entry_id.decode(), status="ok", value=value)
                args += (entry_id, 2, encode_reply(reply, decoded.format), b"", b"", b"")
            link.run(COMMIT, keys, args)


class Bench:
    """Servers, and runs on them."""

    def __init__(self, streams: Valkey, storage: Valkey, stack: Stack, count: int) -> None:
        self._streams = streams
        self._storage = storage
        self._stack = stack
        self._count = count
        self._rng = random.Random(1)

    def measure(self, op: str, values: list[str], start: Callable[[str], Any]) -> Measured:
        """Put a backlog of requests there, start a worker, and let it go through them after the first batches."""
        route = op
        client = self._stack.streams
        client.delete(f"{route}:requests", f"{route}:responses")
        client.xgroup_create(f"{route}:requests", GROUP, id="0", mkstream=True)
        worker = start(route)
        try:
            # A request of a type of its own: the worker is up and warm before the clock runs.
            self._stack.send([self._message("warm", "tokenize", "warm up", route)] * 200, f"{route}:requests")
            wait_until(lambda: client.xlen(f"{route}:responses") == 200, "the worker")
            messages = [self._message(str(number), op, value, route) for number, value in enumerate(values)]
            payloads = [msgspec.json.encode(message) for message in messages]
            os.kill(worker.pid, signal.SIGSTOP)
            self._stack.send(payloads, f"{route}:requests")
            before = self._clock(worker.pid)
            os.kill(worker.pid, signal.SIGCONT)
            goal = 200 + len(values)
            wait_until(lambda: client.xlen(f"{route}:responses") >= goal, "all replies", 600)
            after = self._clock(worker.pid)
        finally:
            worker.kill()
            worker.wait()
        seconds, *cpu = (later - earlier for later, earlier in zip(after, before, strict=True))
        worker_us, streams_us, storage_us = (part / len(values) * 1e6 for part in cpu)
        return Measured(len(values) / seconds, worker_us, streams_us, storage_us)

    @staticmethod
    def _message(name: str, op: str, value: str, route: str) -> dict[str, Any]:
        kind = op if name != "warm" else route
        return {"id": name, "op": kind, "client_id": CLIENT, "type": "str", "value": value}

    def _clock(self, pid: int) -> tuple[float, float, float, float]:
        return time.perf_counter(), cpu_seconds(pid), cpu_seconds(self._streams.pid), cpu_seconds(self._storage.pid)

    def values(self) -> list[str]:
        """Values of 16 characters that nobody has seen."""
        return [f"{self._rng.randrange(10**16):016}" for _ in range(self._count)]

    def tokens(self) -> list[str]:
        """What the last run answered, in the order of its requests."""
        replies = {reply["id"]: reply.get("value") for reply in self._stack.replies()}
        return [str(replies[str(number)]) for number in range(self._count)]

    def worker(self, _route: str) -> Any:
        """Start the real worker."""
        return self._stack.start_worker()

    def null(self, route: str) -> Any:
        """Start the null worker."""
        return subprocess.Popen([sys.executable, __file__, "--null", self._streams.url, route])


@contextmanager
def bench(count: int) -> Iterator[Bench]:
    """Two servers without persistence and one client."""
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        stack.generate_key(CLIENT)
        yield Bench(streams, storage, stack, count)


def run(count: int, rounds: int) -> dict[str, list[Measured]]:
    """Each kind of work once a round, the null worker in between."""
    results: dict[str, list[Measured]] = {"null": [], "new value": [], "known value": [], "detokenize": []}
    with bench(count) as subject:
        for _ in range(rounds):
            values = subject.values()
            results["null"].append(subject.measure("tokenize", values, subject.null))
            results["new value"].append(subject.measure("tokenize", values, subject.worker))
            results["known value"].append(subject.measure("tokenize", values, subject.worker))
            tokens = subject.tokens()
            results["null"].append(subject.measure("detokenize", tokens, subject.null))
            results["detokenize"].append(subject.measure("detokenize", tokens, subject.worker))
    return results


def medians(results: dict[str, list[Measured]]) -> dict[str, dict[str, float]]:
    """The median of each figure, with ratios to the null worker."""
    rows = {}
    for name, runs in results.items():
        row = {field: statistics.median(getattr(run, field) for run in runs) for field in Measured._fields}
        rows[name] = row
    null = rows["null"]
    for row in rows.values():
        row["rate_ratio"] = row["rate"] / null["rate"]
        row["worker_ratio"] = row["worker_us"] / null["worker_us"] if null["worker_us"] else float("nan")
    return rows


@click.command(context_settings={"show_default": True})
@click.option("--requests", "count", type=click.IntRange(100), default=20_000, help="Requests of one run.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Runs of each kind; medians are shown.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
@click.option("--null", nargs=2, hidden=True)
def main(count: int, rounds: int, null: tuple[str, str] | None, *, as_json: bool) -> None:
    """Measure one worker: new values, known values, detokenize; single requests of 16 characters."""
    if null:
        null_worker(*null)
    rows = medians(run(count, rounds))
    if as_json:
        click.echo(msgspec.json.encode(rows).decode())
        return
    table = Table(title=f"one worker, {count:,} single requests a run, medians of {rounds}")
    for heading in ("", "req/s", "/ null", "CPU µs", "/ null", "streams µs", "storage µs"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        table.add_row(
            name,
            f"{row['rate']:,.0f}",
            f"{row['rate_ratio']:.2f}",
            f"{row['worker_us']:.1f}",
            f"{row['worker_ratio']:.1f}",
            f"{row['streams_us']:.1f}",
            f"{row['storage_us']:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
