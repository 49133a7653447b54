"""Jobs in a background thread: the loop hands a job over, goes on, and takes the result when it comes by.

A job is given all that it needs, and returns all that it found. Loop and thread share nothing else, so nothing is
locked. Commands and tests use no thread: there, a job is done at once.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Protocol, TypeVar

T = TypeVar("T")


class Executor(Protocol):
    """Does jobs."""

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        """Hand a job over. The future gets its result or its error."""
        ...

    def close(self) -> None:
        """End after the jobs that were submitted."""
        ...


class InlineExecutor:
    """Does each job at once, in the thread of the caller."""

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        _run(job, future)
        return future

    def close(self) -> None:
        """End without delay: there is no thread."""


class ThreadExecutor:
    """Does jobs in one thread, in the order of their submission.

    It is a daemon thread: a server that hangs never keeps the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def submit(self, job: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        self._jobs.put(lambda: _run(job, future))
        return future

    def close(self) -> None:
        self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # else its result stays in memory until the next job comes


class WaitBudget:
    """Limits how long the loop waits for jobs in one batch.

    After a wait that was in vain, the loop does not wait for any job until that job is done.

    Args:
        seconds: longest time of all waits in one batch.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seconds_left = seconds
        self._late: Future[object] | None = None

    @property
    def is_late(self) -> bool:
        """True if the loop waited for a job in vain, and the job is not done yet."""
        return self._late is not None and not self._late.done()

    def renew(self) -> None:
        """Begin a new batch."""
        self._seconds_left = self._seconds

    def wait(self, future: "Future[T]") -> bool:
        """Wait for a job as long as the budget allows. Returns True if the job is done."""
        if future.done():
            return True
        if self.is_late:
            return False
        begin = time.monotonic()
        try:
            future.exception(max(self._seconds_left, 0.0))
        except TimeoutError:
            self._late = future  # type: ignore[assignment]  # its result is never read
        self._seconds_left -= time.monotonic() - begin
        return future.done()


def _run(job: Callable[[], T], future: "Future[T]") -> None:
    try:
        future.set_result(job())
    except BaseException as error:  # noqa: BLE001 - raised where the result is taken
        future.set_exception(error)
