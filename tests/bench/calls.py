"""Calls of ``TokenClient`` and ``AsyncTokenClient`` with known values, in a process of its own.

``python -P calls.py`` takes an ``Order`` in each line of its standard input, and answers each with a line: ``Calls``.
"""

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import msgspec

from token_worker.client import AsyncTokenClient, TokenClient
from token_worker.client.items import Answer


class Order(msgspec.Struct):
    """One load.

    Attributes:
        url: address of the streams' server.
        client_id: client of the requests.
        way: ``submit``, ``kept`` (submit, and keep all futures), ``threads`` (that block), ``async`` (tasks), or
            ``list`` (one call).
        in_flight: calls in flight.
        batch_ms: setting of the client.
        values: values that the calls take in turn.
        expected: the answers to them.
        seconds: time that counts.
        warm_up: seconds before that.
    """

    url: str
    client_id: str
    way: str
    in_flight: int
    batch_ms: float | None
    values: list[str]
    expected: list[str]
    seconds: float
    warm_up: float


class Calls(msgspec.Struct):
    """The calls of one load; of a list: its values.

    Attributes:
        rate: calls a second.
        cpu_us: CPU microseconds of this process for each call.
        p50_ms, p99_ms: time from the call to its answer.
    """

    rate: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


class _Record:
    """The calls that end in the time that counts. Many threads may tell it of them."""

    def __init__(self, order: Order) -> None:
        self._begin_ns = time.monotonic_ns() + round(order.warm_up * 1e9)
        self._end_ns = self._begin_ns + round(order.seconds * 1e9)
        self._lock = threading.Lock()
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None
        self._waits_ns: list[int] = []
        self.failure: BaseException | None = None
        self.is_over = False

    def done(self, started_ns: int) -> None:
        """Take note of a call that ends now."""
        now = time.monotonic_ns()
        if now < self._begin_ns or self.is_over:
            return
        self._waits_ns.append(now - started_ns)
        if self._first is None or now >= self._end_ns:
            with self._lock:
                if self._first is None:
                    self._first = now, time.process_time()
                    self._waits_ns.clear()
                elif now >= self._end_ns and not self.is_over:
                    self._last = now, time.process_time()
                    self.is_over = True

    def result(self) -> Calls:
        """The figures. Raises what was wrong with an answer."""
        if self.failure is not None:
            raise self.failure
        if self._first is None or self._last is None:
            raise SystemExit("the load had no time that counts")
        waits = sorted(self._waits_ns)
        (began, used_before), (ended, used) = self._first, self._last
        p50, p99 = (waits[len(waits) * part // 100] / 1e6 for part in (50, 99))
        return Calls(len(waits) / (ended - began) * 1e9, (used - used_before) / len(waits) * 1e6, p50, p99)


def _check(got: object, expected: object) -> None:
    if got != expected:
        raise SystemExit("an answer of the client is not what it should be")


def submit(order: Order) -> Calls:
    """One thread submits, and waits for room: the client's own bound keeps so many calls in flight."""

    def done(record: _Record, started_ns: int, expected: str, future: "Future[list[Answer]]") -> None:
        record.done(started_ns)
        try:
            _check(future.result(), [expected])
        except BaseException as error:  # noqa: BLE001 - raised by the thread that submits
            record.failure, record.is_over = error, True

    with TokenClient(
        order.url, client_id=order.client_id, batch_ms=order.batch_ms, max_in_flight=order.in_flight
    ) as client:
        _check(client.tokenize(order.values[0], type="str"), order.expected[0])  # connects
        record, at = _Record(order), 0
        latest: deque[Future[list[Answer]]] = deque(maxlen=None if order.way == "kept" else 2 * order.in_flight)
        while not record.is_over:
            started_ns = time.monotonic_ns()
            future = client.submit("tokenize", [("str", order.values[at])])
            future.add_done_callback(partial(done, record, started_ns, order.expected[at]))
            latest.append(future)
            at = (at + 1) % len(order.values)
        for future in latest:
            future.result()
    return record.result()


def threads(order: Order) -> Calls:
    """So many threads, each in a call that blocks."""

    def work(client: TokenClient, record: _Record, at: int) -> None:
        try:
            while not record.is_over:
                started_ns = time.monotonic_ns()
                token = client.tokenize(order.values[at], type="str")
                record.done(started_ns)
                _check(token, order.expected[at])
                at = (at + order.in_flight) % len(order.values)
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            record.failure, record.is_over = error, True

    with TokenClient(order.url, client_id=order.client_id, batch_ms=order.batch_ms) as client:
        _check(client.tokenize(order.values[0], type="str"), order.expected[0])
        record = _Record(order)
        all_threads = [
            threading.Thread(target=work, args=(client, record, number % len(order.values)))
            for number in range(order.in_flight)
        ]
        for thread in all_threads:
            thread.start()
        for thread in all_threads:
            thread.join()
    return record.result()


def in_tasks(order: Order) -> Calls:
    """So many tasks of one event loop, each in a call."""

    async def work(client: AsyncTokenClient, record: _Record, at: int) -> None:
        while not record.is_over:
            started_ns = time.monotonic_ns()
            token = await client.tokenize(order.values[at], type="str")
            record.done(started_ns)
            _check(token, order.expected[at])
            at = (at + order.in_flight) % len(order.values)

    async def run_all() -> Calls:
        async with AsyncTokenClient(order.url, client_id=order.client_id, batch_ms=order.batch_ms) as client:
            _check(await client.tokenize(order.values[0], type="str"), order.expected[0])
            record = _Record(order)
            await asyncio.gather(
                *(work(client, record, number % len(order.values)) for number in range(order.in_flight))
            )
            return record.result()

    return asyncio.run(run_all())


def listed(order: Order) -> Calls:
    """One call with a list of all values."""
    with TokenClient(order.url, client_id=order.client_id, batch_ms=order.batch_ms, timeout_seconds=120) as client:
        _check(client.tokenize(order.values[0], type="str"), order.expected[0])
        started, used = time.monotonic(), time.process_time()
        tokens = client.tokenize(order.values, type="str")
        seconds, cpu = time.monotonic() - started, time.process_time() - used
        _check(tokens, order.expected)
    count = len(order.values)
    return Calls(count / seconds, cpu / count * 1e6, seconds * 1e3, seconds * 1e3)


WAYS: dict[str, Callable[[Order], Calls]] = {
    "submit": submit,
    "kept": submit,
    "threads": threads,
    "async": in_tasks,
    "list": listed,
}

if __name__ == "__main__":
    for line in sys.stdin.buffer:
        order = msgspec.json.decode(line, type=Order)
        print(msgspec.json.encode(WAYS[order.way](order)).decode(), flush=True)
