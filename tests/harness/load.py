"""A producer that goes on while servers fail, as real ones do, and workers that have to: for fail-overs under load."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, cycle
from types import TracebackType
from typing import Self

import redis

from harness.ledger import Ledger
from harness.stack import Stack, wait_until

AT_ONCE = 20
PAUSE_SECONDS = 0.02


@contextmanager
def running(stack: Stack, workers: int) -> Iterator[Stack]:
    """The stack with a client's key and so many workers; at the end all must live, and are killed."""
    with stack:
        stack.generate_key("shop-frontend")
        for _ in range(workers):
            stack.start_worker()
        yield stack
        for worker in stack.workers:
            assert worker.is_alive
            worker.kill()


class Load:
    """Sends requests to tokenize from the start to the end of a ``with`` block; ``Ledger.take_stock`` tells which came.

    Args:
        ledger: nobody else uses it meanwhile.
        routes: to be sent to in turn.
    """

    def __init__(self, ledger: Ledger, routes: Sequence[str] = ("tokenize",)) -> None:
        self._ledger = ledger
        self._routes = routes
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._rounds = 0
        self._failures = 0
        self._error: BaseException | None = None

    def wait_for_replies(self) -> None:
        """Wait until workers answer on every route."""
        streams = [f"{route}:responses" for route in self._routes]
        wait_until(lambda: all(self._ledger.stack.streams.xlen(stream) for stream in streams), "replies")

    def go_on(self, rounds: int = 10) -> None:
        """Wait until so many more times requests were sent."""
        reached = self._rounds + rounds
        wait_until(lambda: self._rounds >= reached or self._error is not None, "the load to go on")

    def _run(self) -> None:
        try:
            for number, route in zip(count(), cycle(self._routes), strict=False):
                self._ledger.add_new(AT_ONCE, start=number * AT_ONCE, route=route)
                try:
                    self._ledger.send()
                    self._rounds += 1
                except (redis.RedisError, redis.exceptions.RedisClusterException):
                    self._failures += 1
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
