"""A producer that goes on sending while servers fail, and workers that must survive: for fail-overs under load."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count, cycle
from types import TracebackType
from typing import Self

import redis

from harness.producer import BatchProducer
from harness.stack import Stack, wait_until, workers_killed

AT_ONCE = 20
PAUSE_SECONDS = 0.02


@contextmanager
def running(stack: Stack, workers: int) -> Iterator[Stack]:
    """Start workers on a stack with a client's key. At the end every worker must still run, and is killed."""
    with workers_killed(stack):
        for _ in range(workers):
            stack.start_worker()
        yield stack
        assert all(worker.is_alive for worker in stack.workers)


class Load:
    """A context manager that sends requests to tokenize without a pause, whatever happens to the servers.

    Afterwards ``BatchProducer.take_stock`` finds out which requests got into a stream.

    Args:
        producer: used by this class alone within the ``with`` block.
        routes: each round of requests goes to the next of these routes.
    """

    def __init__(self, producer: BatchProducer, routes: Sequence[str] = ("tokenize",)) -> None:
        self._producer = producer
        self._routes = routes
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._rounds = 0
        self._error: BaseException | None = None

    def wait_for_replies(self) -> None:
        """Wait until workers answer on every route."""
        streams = [f"{route}:responses" for route in self._routes]
        wait_until(lambda: all(self._producer.stack.streams.xlen(stream) for stream in streams), "replies")

    def go_on(self, rounds: int = 10) -> None:
        """Wait until this many more rounds of requests were sent."""
        reached = self._rounds + rounds
        wait_until(lambda: self._rounds >= reached or self._error is not None, "the load to go on")

    def _run(self) -> None:
        try:
            for number, route in zip(count(), cycle(self._routes), strict=False):
                self._producer.add_new(AT_ONCE, start=number * AT_ONCE, route=route)
                with suppress(redis.RedisError, redis.exceptions.RedisClusterException):
                    self._producer.send()
                    self._rounds += 1
                if self._is_over.wait(PAUSE_SECONDS):
                    return
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._is_over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
