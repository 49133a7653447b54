"""The subject of a measurement: servers, and real workers and null workers that work through a backlog on them.

CPU is the time that the operating system accounts to each process, not elapsed time: machines are shared and noisy. The
null worker has streams of its own, ``null:…``, so that both kinds can run at once and take turns.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from redis import ResponseError

from bench import null
from harness.ending import uninterrupted
from harness.servers import Valkey
from harness.stack import Stack, WorkerProcess, wait_until
from token_worker.keys.layout_record import LayoutName

CLIENT = "bench-client"
WARM_UP = 200
START_SECONDS = 60.0
ANSWER_SECONDS = 600.0


class Measured(NamedTuple):
    """One backlog.

    Attributes:
        rate: requests, or items, a second.
        worker_us: CPU microseconds of each, of the workers.
        streams_us: of the streams' server.
        storage_us: of the storage's server.
    """

    rate: float
    worker_us: float
    streams_us: float
    storage_us: float

    @property
    def redis_us(self) -> float:
        """CPU of both servers."""
        return self.streams_us + self.storage_us


def median(runs: Sequence[Measured]) -> Measured:
    """The median of each figure."""
    return Measured(*map(statistics.median, zip(*runs, strict=True)))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all its threads."""
    # What clock_getcpuclockid(3) gives on Linux. /proc/PID/stat has ticks of 10 ms, too coarse for runs of 150 ms.
    return time.clock_gettime(~pid << 3 | 2)


def _has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def message(op: str, values: Sequence[str], client: str = CLIENT, format_name: str | None = None) -> dict[str, Any]:
    """A request without an id: a single one of one value, else with items."""
    head = {"op": op, "client_id": client}
    kind = {"type": "str"} if format_name is None else {"type": "str", "format": format_name}
    if len(values) == 1:
        return {**head, **kind, "value": values[0]}
    return {**head, "items": [{**kind, "value": value} for value in values]}


def payloads(
    op: str,
    values: Sequence[str],
    items: int = 1,
    clients: Sequence[str] = (CLIENT,),
    first: int = 0,
    format_name: str | None = None,
) -> list[bytes]:
    """Requests for all values, of the clients in turn, with ``items`` values in each; ids count from ``first``."""
    made = []
    for number, start in enumerate(range(0, len(values), items)):
        request = message(op, values[start : start + items], clients[number % len(clients)], format_name)
        made.append(msgspec.json.encode({"id": str(first + number), **request}))
    return made


def _op(route: str) -> str:
    return "detokenize" if route == "detokenize" else "tokenize"


class Subject:
    """Servers, and the workers that run on them."""

    def __init__(self, streams: Valkey, storage: Valkey, stack: Stack, rng: random.Random | None = None) -> None:
        self.streams = streams
        self.storage = storage
        self.stack = stack
        self.rng = rng or random.Random(1)
        self._started = ExitStack()

    def close(self) -> None:
        """Stop the null workers; the stack stops the others."""
        self._started.close()

    def values(self, count: int) -> list[str]:
        """New values of 16 characters."""
        return [f"{self.rng.randrange(10**16):016}" for _ in range(count)]

    def used_memory(self) -> int:
        """Bytes that the storage's server has allocated, without buffers of its connections.

        It waits until the server's table of keys has grown to its new size: meanwhile there are two of them.
        """
        wait_until(
            lambda: not self.stack.storage.info("memory").get("mem_overhead_db_hashtable_rehashing"),
            "the server to move its keys into a larger table",
        )
        info = self.stack.storage.info("memory")
        return int(info["used_memory"]) - int(info["mem_clients_normal"])

    # -- processes

    def start_worker(self, route: str | None = None) -> WorkerProcess:
        """Start a real worker; with a route it tokenizes on that one alone."""
        if route is None:
            return self.stack.start_worker()
        served = {"requests": f"{route}:requests", "responses": f"{route}:responses", "ops": ["tokenize"]}
        return self.stack.start_worker(TOKEN_WORKER_ROUTES=msgspec.json.encode([served]).decode())

    def start_null(self, *more: str, route: str = "null") -> "subprocess.Popen[bytes]":
        """Start a null worker on a route."""
        streams = [f"{route}:requests", f"{route}:responses"]
        self.make_group(streams[0])
        command = [sys.executable, "-P", null.__file__, self.streams.url, *streams, *more]
        with uninterrupted():
            process = subprocess.Popen(
                command, env=self.stack.environment(), stdin=subprocess.DEVNULL, start_new_session=True
            )
            self._started.callback(process.wait)
            self._started.callback(process.kill)
        return process

    def make_group(self, stream: str) -> None:
        """Make the consumer group if the stream has none."""
        with suppress(ResponseError):  # BUSYGROUP
            self.stack.streams.xgroup_create(stream, null.GROUP, id="0", mkstream=True)

    def wait_for_consumers(self, route: str, count: int) -> None:
        """Wait until this many workers have begun to read a route."""
        groups = self.stack.streams.xinfo_groups
        there = self.stack.streams.exists
        stream = f"{route}:requests"
        wait_until(lambda: there(stream) and sum(group["consumers"] for group in groups(stream)) == count, "workers")

    def warm_up(self, *routes: str, count: int = WARM_UP) -> None:
        """Wait until the workers of these routes run, and have loaded their keys and scripts."""
        for route in routes:
            self.clear(route)
            self.stack.send(payloads(_op(route), self.values(count)), f"{route}:requests")
            self._wait_for_replies(route, count, ())

    # -- work

    def clear(self, route: str) -> None:
        """Empty a route's streams; their groups stay."""
        for stream in (f"{route}:requests", f"{route}:responses"):
            self.stack.streams.xtrim(stream, maxlen=0, approximate=False)

    def _wait_for_replies(self, route: str, count: int, pids: Sequence[int]) -> None:
        def are_here() -> bool:
            if any(map(_has_ended, pids)):
                raise click.ClickException(f"a worker of {route} ended")
            return bool(self.stack.streams.xlen(f"{route}:responses") >= count)

        wait_until(are_here, f"{count} replies of {route}", ANSWER_SECONDS if pids else START_SECONDS)

    def measure(self, pids: Sequence[int], route: str, requests: Sequence[bytes], units: int) -> Measured:
        """Time how workers go through a backlog that came while they were stopped.

        Args:
            pids: the workers of the route.
            route: its streams are ``<route>:requests`` and ``<route>:responses``.
            requests: payloads.
            units: number of units of the figures: requests, or items.
        """
        self.clear(route)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            self.stack.send(requests, f"{route}:requests")
            before = self._cpu(pids)
            started = time.time()
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        self._wait_for_replies(route, len(requests), pids)
        after = self._cpu(pids)
        # An entry's id is the millisecond it was written in: the end, however seldom it is looked for above.
        last = self.stack.streams.xinfo_stream(f"{route}:responses")["last-generated-id"]
        seconds = max(int(last.partition(b"-")[0]) / 1000 - started, 0.001)
        used = ((later - earlier) / units * 1e6 for later, earlier in zip(after, before, strict=True))
        return Measured(units / seconds, *used)

    def _cpu(self, pids: Sequence[int]) -> tuple[float, float, float]:
        return sum(map(cpu_seconds, pids)), cpu_seconds(self.streams.pid), cpu_seconds(self.storage.pid)

    def answers(self, route: str, count: int) -> list[str]:
        """The values in the replies to ``count`` requests, in the order of the requests' ids.

        Raises:
            ClickException: a request was refused, so the figure would be wrong.
        """
        found = sorted(self.stack.replies(f"{route}:responses"), key=lambda reply: int(reply["id"].rpartition("-")[2]))
        if refused := sum(reply["status"] != "ok" for reply in found):
            raise click.ClickException(f"{refused} of {len(found)} requests to {route} were refused")
        if len(found) != count:
            raise click.ClickException(f"{count} requests to {route} got {len(found)} replies")
        return [
            value
            for reply in found
            for value in ([item["value"] for item in reply["items"]] if "items" in reply else [reply["value"]])
        ]

    def tokens(self, values: Sequence[str]) -> list[str]:
        """Tokenize these values by the workers that run."""
        requests = payloads("tokenize", values, items=100)
        self.clear("tokenize")
        self.stack.send(requests, "tokenize:requests")
        self._wait_for_replies("tokenize", len(requests), ())
        return self.answers("tokenize", len(requests))

    def measure_checked(
        self,
        worker: int,
        route: str,
        values: Sequence[str],
        expected: Sequence[str] | None,
        *,
        items: int = 1,
        clients: Sequence[str] = (CLIENT,),
        format_name: str | None = None,
    ) -> tuple[Measured, list[str]]:
        """Measure requests for these values, and check the answers. Returns figures for one value, and the answers.

        Raises:
            ClickException: the answers are not ``expected``, or some are errors.
        """
        requests = payloads(_op(route), values, items, clients, format_name=format_name)
        measured = self.measure([worker], route, requests, len(values))
        answers = self.answers(route, len(requests))
        if len(answers) != len(values) or (expected is not None and answers != list(expected)):
            raise click.ClickException(f"the answers of {route} are not those that there should be")
        return measured, answers


@contextmanager
def subject(layout: LayoutName = "acra", *, storage_binary: str | None = None) -> Iterator[Subject]:
    """Two servers without persistence and one client, for as long as the body runs.

    Args:
        layout: of the tokens.
        storage_binary: the server of the storage; Valkey if left out.
    """
    with (
        Valkey() as streams,
        Valkey(binary=storage_binary) as storage,
        Stack(streams, storage, fresh=True, layout=layout) as stack,
    ):
        stack.generate_key(CLIENT)
        made = Subject(streams, storage, stack)
        try:
            yield made
        finally:
            made.close()
