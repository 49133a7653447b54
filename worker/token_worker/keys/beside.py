"""Work beside the loop: a thread does it, one job after the other; the loop takes results when it comes by.

A job gets all it needs when it is handed over, and gives back all it found. Nothing else is shared by the loop and a
thread, so nothing is locked. Without a thread (commands, tests) a job is done at once, in place.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Protocol, TypeVar

T = TypeVar("T")


class Beside(Protocol):
    """Who does jobs."""

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Hand a job over; its result or error comes by the future."""
        ...

    def close(self) -> None:
        """End after the jobs there are."""
        ...


class InPlace:
    """Does each job at once, in the caller's thread."""

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        _do(job, future)
        return future

    def close(self) -> None:
        """Nothing to end."""


class OneThread:
    """Does jobs in one thread, in the order they came.

    A daemon thread: a server that hangs never keeps the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._jobs.put(lambda: _do(job, future))
        return future

    def close(self) -> None:
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # else what it found stays until the next one comes


class Patience:
    """How long the loop waits for jobs: so long in one batch, and no more while a job it waited for is not done."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left = seconds
        self._late: Future[object] | None = None

    @property
    def is_late(self) -> bool:
        """Whether a job that was waited for in vain is not done yet."""
        return self._late is not None and not self._late.done()

    def renew(self) -> None:
        """A new batch begins."""
        self._left = self._seconds

    def wait(self, future: "Future[T]") -> bool:
        """Whether a job is done, or gets done within what is left."""
        if future.done():
            return True
        if self.is_late:
            return False
        begin = time.monotonic()
        try:
            future.exception(max(self._left, 0.0))
        except TimeoutError:
            self._late = future  # type: ignore[assignment]  # its result is never looked at
        self._left -= time.monotonic() - begin
        return future.done()


def _do(job: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001 - whoever takes the result gets it
        future.set_exception(error)
