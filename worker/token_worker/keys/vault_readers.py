"""Several requests to Vault at the same time, each thread with a session of its own, since sessions cannot be shared.

The threads live as long as one call; sessions, and with them connections, are kept for the next one.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from hvac.adapters import JSONAdapter

READER_THREADS_MAX = 8
"""Requests at the same time."""

T = TypeVar("T")


class AskAgain(NamedTuple):
    """Stands for an answer that was refused: the token may have ended meanwhile."""


class Readers:
    """Does a job with a session for each of many paths.

    Args:
        make: a new session.
    """

    def __init__(self, make: Callable[[], JSONAdapter]) -> None:
        self._make = make
        self._idle: deque[JSONAdapter] = deque()

    def read(self, paths: Sequence[str], job: Callable[[JSONAdapter, str], T]) -> list[T]:
        """What the job gives for each path; once it raises an error, no more are begun, and that is raised."""
        left = deque(enumerate(paths))
        found: dict[int, T] = {}
        errors: list[Exception] = []

        def work() -> None:
            try:
                session: Any = self._idle.pop()
            except IndexError:
                session = self._make()
            while not errors:
                try:
                    number, path = left.popleft()
                except IndexError:
                    break
                try:
                    found[number] = job(session, path)
                except Exception as error:  # noqa: BLE001 - raised where it can be handled
                    errors.append(error)
            self._idle.append(session)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(READER_THREADS_MAX, len(paths)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [found[number] for number in range(len(paths))]

    def close(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().close()
