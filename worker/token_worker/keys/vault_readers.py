"""Several requests to Vault at the same time. Each thread has a connection of its own, because they cannot be shared.

The threads end with each call. The connections are kept for the next one.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from hvac.adapters import JSONAdapter

READER_THREADS_MAX = 8
"""Requests at the same time."""

T = TypeVar("T")


class AskAgain(NamedTuple):
    """Stands for an answer that Vault refused: perhaps the token ended meanwhile."""


class Readers:
    """Does one job for each of many paths, several at the same time.

    Args:
        make_adapter: makes a connection.
    """

    def __init__(self, make_adapter: Callable[[], JSONAdapter]) -> None:
        self._make_adapter = make_adapter
        self._idle: deque[JSONAdapter] = deque()

    def read(self, paths: Sequence[str], job: Callable[[JSONAdapter, str], T]) -> list[T]:
        """Do the job for each path, and return the results in order.

        After the first error no further job begins, and that error is raised.
        """
        waiting = deque(enumerate(paths))
        results: dict[int, T] = {}
        errors: list[Exception] = []

        def work() -> None:
            try:
                adapter = self._idle.pop()
            except IndexError:
                adapter = self._make_adapter()
            while not errors:
                try:
                    number, path = waiting.popleft()
                except IndexError:
                    break
                try:
                    results[number] = job(adapter, path)
                except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                    errors.append(error)
            self._idle.append(adapter)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(READER_THREADS_MAX, len(paths)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [results[number] for number in range(len(paths))]

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()
