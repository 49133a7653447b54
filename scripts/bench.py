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
BATCH = 500


class Measured(NamedTuple):
    """One run: requests a second; CPU microseconds a request of the worker, the streams' and the storage server."""

    rate: float
    worker_us: float
    streams_us: float
    storage_us: float


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads."""
    # What clock_getcpuclockid(3) gives on Linux. /proc/PID/stat has ticks of 10 ms, too coarse for runs of 150 ms.
    return time.clock_gettime(~pid << 3 | 2)


def _message(name: str, op: str, value: str) -> dict[str, Any]:
    return {"id": name, "op": op, "client_id": CLIENT, "type": "str", "value": value}


def null_worker(url: str, op: str) -> None:
    """Read, decode, echo with the commit script, until killed."""
    link = RedisLink("streams", RedisSettings(url=url))
    limits = Limits(1 << 20, 1000)
    read = ("XREADGROUP", "GROUP", GROUP, "null", "COUNT", BATCH, "BLOCK", 1000, "STREAMS", f"{op}:requests", ">")
    keys = [f"{op}:requests", f"{op}:responses"]
    while True:
        for _, entries in link.call(*read) or ():
            args: list[Any] = [GROUP, 60]
            for entry_id, fields in entries:
                decoded = decode(fields[1], limits)
                request = decoded.request
                value = request.value if request is not None else None
                reply = Reply(id=decoded.id, op=decoded.op, request_entry=entry_id.decode(), status="ok", value=value)
                args += (entry_id, encode_reply(reply, decoded.format))
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
        """Start a worker, warm it up, and time how it goes through a backlog that came while it was stopped."""
        client = self._stack.streams
        client.delete(f"{op}:requests", f"{op}:responses")
        client.xgroup_create(f"{op}:requests", GROUP, id="0", mkstream=True)
        worker = start(op)
        try:
            # The worker is up and has its keys and scripts before the clock runs.
            self._stack.send([_message("warm", op, "warm up")] * 200, f"{op}:requests")
            wait_until(lambda: client.xlen(f"{op}:responses") == 200, "the worker")
            messages = [_message(str(number), op, value) for number, value in enumerate(values)]
            payloads = [msgspec.json.encode(message) for message in messages]
            os.kill(worker.pid, signal.SIGSTOP)
            self._stack.send(payloads, f"{op}:requests")
            before = self._cpu(worker.pid)
            started = time.time()
            os.kill(worker.pid, signal.SIGCONT)
            goal = 200 + len(values)
            wait_until(lambda: client.xlen(f"{op}:responses") >= goal, "all replies", 600)
            after = self._cpu(worker.pid)
        finally:
            worker.kill()
            worker.wait()
        # An entry's id is the millisecond it was written in: the end, however seldom it is looked for above.
        ended = int(client.xinfo_stream(f"{op}:responses")["last-generated-id"].partition(b"-")[0]) / 1000
        cpu = ((later - earlier) / len(values) * 1e6 for later, earlier in zip(after, before, strict=True))
        return Measured(len(values) / max(ended - started, 0.001), *cpu)

    def _cpu(self, pid: int) -> tuple[float, float, float]:
        return cpu_seconds(pid), cpu_seconds(self._streams.pid), cpu_seconds(self._storage.pid)

    def values(self) -> list[str]:
        """Values of 16 characters that nobody has seen."""
        return [f"{self._rng.randrange(10**16):016}" for _ in range(self._count)]

    def answers(self, op: str) -> list[str]:
        """What the last run answered, in the order of its requests.

        Raises:
            ClickException: a request was refused, so that something else was measured than what the row says.
        """
        replies = {reply["id"]: reply for reply in self._stack.replies(f"{op}:responses")}
        found = [replies[str(number)] for number in range(self._count)]
        if refused := sum(reply["status"] != "ok" for reply in found):
            raise click.ClickException(f"{refused} of {self._count} requests to {op} were refused")
        return [reply["value"] for reply in found]

    def worker(self, _op: str) -> Any:
        """Start the real worker."""
        return self._stack.start_worker()

    def null(self, op: str) -> Any:
        """Start the null worker."""
        return subprocess.Popen([sys.executable, __file__, "--null", self._streams.url, op])


@contextmanager
def bench(count: int) -> Iterator[Bench]:
    """Two servers without persistence and one client."""
    with Valkey() as streams, Valkey() as storage, Stack(streams, storage) as stack:
        stack.generate_key(CLIENT)
        yield Bench(streams, storage, stack, count)


def run(count: int, rounds: int) -> dict[str, list[Measured]]:
    """Each kind of work once a round, the null worker in between; checks that it was done right.

    Raises:
        ClickException: it was not, so the figures would mean nothing.
    """
    results: dict[str, list[Measured]] = {"null": [], "new value": [], "known value": [], "detokenize": []}
    with bench(count) as subject:
        for _ in range(rounds):
            values = subject.values()
            results["null"].append(subject.measure("tokenize", values, subject.null))
            results["new value"].append(subject.measure("tokenize", values, subject.worker))
            tokens = subject.answers("tokenize")
            results["known value"].append(subject.measure("tokenize", values, subject.worker))
            if subject.answers("tokenize") != tokens:
                raise click.ClickException("known values did not get the tokens that they have")
            results["null"].append(subject.measure("detokenize", tokens, subject.null))
            results["detokenize"].append(subject.measure("detokenize", tokens, subject.worker))
            if subject.answers("detokenize") != values:
                raise click.ClickException("tokens did not turn back into their values")
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
        row["worker_ratio"] = row["worker_us"] / null["worker_us"]
    return rows


@click.command(context_settings={"show_default": True})
@click.option("--requests", "count", type=click.IntRange(100), default=20_000, help="Requests of one run.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Runs of each kind; medians are shown.")
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
