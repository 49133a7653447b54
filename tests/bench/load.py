"""A load program for one route: a closed loop, or an open loop with Poisson arrivals. A process of its own.

``python -P load.py`` takes an ``Order`` in each line of its standard input, and answers each with a line: a ``Loop``.
It has two bare sockets and hiredis, so that it is not the limit: one socket adds requests, the other reads replies. The
route's response stream has to be empty before each order.
"""

import random
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import hiredis
import msgspec

GIVE_UP_SECONDS = 30
"""Time that the program waits for one more reply."""

BLOCK_MS = 1000
READ_COUNT = 1000
START_SECONDS = 0.02
"""Time between the making of an open loop and its first arrival."""

_ID_AT = len(b'{"id":"')


class Order(msgspec.Struct):
    """One load.

    Attributes:
        url: address of the streams' server.
        route: its streams are ``<route>:requests`` and ``<route>:responses``.
        head: members of every request besides its id and its value.
        values: values that the requests take in turn. None: each request has a new value.
        first: number of the first value: its place in ``values``, or the new value itself.
        pids: processes whose CPU is counted.
        seconds: time that counts.
        warm_up: seconds before that.
        in_flight: requests without a reply in a closed loop.
        one_by_one: whether each request of a closed loop is written by itself. If not, one write sends all requests
            that take the place of the replies of one read.
        rate: arrivals a second of an open loop; 0 for a closed loop.
    """

    url: str
    route: str
    head: dict[str, str]
    values: list[str] | None
    first: int
    pids: list[int]
    seconds: float
    warm_up: float
    in_flight: int = 0
    one_by_one: bool = False
    rate: float = 0.0


class Loop(msgspec.Struct):
    """One load as it was answered.

    Attributes:
        sent: requests of the whole load, with ids from 0 on.
        rate: replies a second.
        worker_us: CPU microseconds of the worker for each reply.
        own_busy: CPU of this program, in per cent of a core.
        p50_ms, p99_ms: latency; in an open loop counted from the time of the arrival, however late it was sent.
        batch: mean number of requests that one commit answers.
    """

    sent: int
    rate: float
    worker_us: float
    own_busy: float
    p50_ms: float
    p99_ms: float
    batch: float


class _Snapshot(NamedTuple):
    """Counters at one time: monotonic nanoseconds, CPU seconds, scripts run by the server, and replies read."""

    at_ns: int
    worker_seconds: float
    own_seconds: float
    scripts: int
    replies: int


class _Connection:
    """One bare connection."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname or "", address.port or 6379))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A time-out of the kernel: one of Python's would poll before each call.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", GIVE_UP_SECONDS, 0))
        self._reader = hiredis.Reader()

    def replies(self, flags: int = 0) -> Iterator[Any]:
        """The replies that are here after one receive."""
        received = self.socket.recv(1 << 18, flags)
        if not received:
            raise SystemExit("the server closed the connection of the load program")
        self._reader.feed(received)
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                raise SystemExit(f"the server refused a command of the load program: {reply}")
            yield reply

    def send(self, *command: bytes | str | int) -> None:
        """Send one command."""
        self.socket.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub knows tuples of one element only

    def call(self, *command: bytes | str | int) -> Any:
        """Send one command and wait for its reply."""
        self.send(*command)
        while True:
            for reply in self.replies():
                return reply


class _Route:
    """Requests and replies of one order."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._adds, self._reads, self._control = (_Connection(order.url) for _ in range(3))
        stream = f"{order.route}:requests".encode()
        self._head = b"*5\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$1\r\n*\r\n$7\r\npayload\r\n" % (len(stream), stream)
        self._bodies = [self._body(value) for value in order.values or ()]
        self._last_id = b"0"
        self.sent = self.read = 0

    def close(self) -> None:
        for connection in (self._adds, self._reads, self._control):
            connection.socket.close()

    def fileno(self) -> int:
        return self._reads.socket.fileno()

    def _body(self, value: str) -> bytes:
        return msgspec.json.encode({**self._order.head, "value": value})[1:]

    def send(self, count: int, *, one_by_one: bool = False) -> None:
        """Add so many requests, by one write or by a write for each."""
        commands = [self._command(number) for number in range(self.sent, self.sent + count)]
        self.sent += count
        for part in commands if one_by_one else [b"".join(commands)]:
            self._adds.socket.sendall(part)
        for _ in self._added():
            pass

    def _command(self, number: int) -> bytes:
        at = self._order.first + number
        body = self._bodies[at % len(self._bodies)] if self._bodies else self._body(f"{at % 10**16:016}")
        payload = b'{"id":"%d",%b' % (number, body)
        return b"%b$%d\r\n%b\r\n" % (self._head, len(payload), payload)

    def _added(self) -> Iterator[Any]:
        """The replies to earlier requests' XADD, as far as they are here: nobody waits for them."""
        try:
            yield from self._adds.replies(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return

    def ask(self) -> None:
        """Ask for the next replies."""
        stream = f"{self._order.route}:responses"
        self._reads.send("XREAD", "COUNT", READ_COUNT, "BLOCK", BLOCK_MS, "STREAMS", stream, self._last_id)

    def take(self) -> list[int]:
        """The numbers of the requests whose replies are here."""
        numbers: list[int] = []
        until = time.monotonic() + GIVE_UP_SECONDS
        while not numbers:
            if time.monotonic() > until:
                raise SystemExit("no more replies came to the load program")
            try:
                found = [*self._reads.replies()]
            except BlockingIOError:
                continue
            for reply in found:
                if reply is None:
                    for _ in self._added():  # an error of XADD is the reason, most likely
                        pass
                    self.ask()
                    continue
                [[_, entries]] = reply
                self._last_id = entries[-1][0]
                numbers += [int(payload[_ID_AT : payload.index(b'"', _ID_AT)]) for _, (_, payload) in entries]
        self.read += len(numbers)
        return numbers

    def snapshot(self) -> _Snapshot:
        stats: bytes = self._control.call("INFO", "commandstats")
        _, found, rest = stats.partition(b"cmdstat_evalsha:calls=")
        scripts = int(rest.partition(b",")[0]) if found else 0
        worker = sum(time.clock_gettime(~pid << 3 | 2) for pid in self._order.pids)
        return _Snapshot(time.monotonic_ns(), worker, time.process_time(), scripts, self.read)


def closed(order: Order, route: _Route) -> Loop:
    """Keep so many requests in flight."""
    sent_ns: list[int] = []
    waits: list[int] = []

    def send(count: int) -> None:
        sent_ns.extend([time.monotonic_ns()] * count)
        route.send(count, one_by_one=order.one_by_one)

    first: _Snapshot | None = None
    last: _Snapshot | None = None
    route.ask()
    begin_ns = time.monotonic_ns() + round(order.warm_up * 1e9)
    send(order.in_flight)
    while route.read < route.sent:
        numbers = route.take()
        now = time.monotonic_ns()
        if first is not None and last is None:
            waits += [now - sent_ns[number] for number in numbers]
            if now >= begin_ns + order.seconds * 1e9:
                last = route.snapshot()
        if last is None:
            send(len(numbers))
        if route.read < route.sent:
            route.ask()
        if first is None and now >= begin_ns:
            first = route.snapshot()
    if first is None or last is None:
        raise SystemExit("the load had no time that counts")
    return _loop(route, first, last, waits)


def opened(order: Order, route: _Route) -> Loop:
    """Send at random times, whatever the replies do."""
    rng = random.Random(order.first)
    start = time.monotonic_ns() + round(START_SECONDS * 1e9)
    counts_from, end = start + order.warm_up * 1e9, start + (order.warm_up + order.seconds) * 1e9
    arrivals: list[float] = []
    at = start + rng.expovariate(order.rate) * 1e9
    while at < end or not arrivals:
        arrivals.append(at)
        at += rng.expovariate(order.rate) * 1e9
    first: _Snapshot | None = None
    waits: list[int] = []
    route.ask()
    while route.read < len(arrivals):
        left = len(arrivals) - route.sent
        wait = max(arrivals[route.sent] - time.monotonic_ns(), 0) / 1e9 if left else GIVE_UP_SECONDS
        is_readable = select.select([route], [], [], wait)[0]
        now = time.monotonic_ns()
        due = 0
        while due < left and arrivals[route.sent + due] <= now:
            due += 1
        if due:
            route.send(due)
        if first is None and now >= counts_from:
            first = route.snapshot()
        if is_readable or not left:
            numbers = route.take()
            now = time.monotonic_ns()
            waits += [round(now - arrivals[number]) for number in numbers if arrivals[number] >= counts_from]
            if route.read < len(arrivals):
                route.ask()
    last = route.snapshot()
    return _loop(route, first or last, last, waits or [round(now - arrivals[-1])])


def _loop(route: _Route, first: _Snapshot, last: _Snapshot, waits: list[int]) -> Loop:
    waits.sort()
    replies = max(last.replies - first.replies, 1)
    seconds = max((last.at_ns - first.at_ns) / 1e9, 1e-6)
    p50, p99 = (waits[len(waits) * part // 100] / 1e6 for part in (50, 99))
    return Loop(
        sent=route.sent,
        rate=replies / seconds,
        worker_us=(last.worker_seconds - first.worker_seconds) / replies * 1e6,
        own_busy=(last.own_seconds - first.own_seconds) / seconds * 100,
        p50_ms=p50,
        p99_ms=p99,
        batch=replies / max(last.scripts - first.scripts, 1),
    )


def run(order: Order) -> Loop:
    """Make one load."""
    route = _Route(order)
    way: Callable[[Order, _Route], Loop] = opened if order.rate else closed
    try:
        return way(order, route)
    finally:
        route.close()


if __name__ == "__main__":
    import gc

    gc.disable()  # a collection would count as latency of the worker
    for line in sys.stdin.buffer:
        print(msgspec.json.encode(run(msgspec.json.decode(line, type=Order))).decode(), flush=True)
        gc.collect()
