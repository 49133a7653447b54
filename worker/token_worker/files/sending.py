"""Chunks are sent with several requests in flight, and come back in order with their answers.

An answer that may be asked for again (``internal``, ``expired``) is, a few times. Where none comes at all, because no
worker runs or the streams are away, the request is sent again until the wait is over. A refusal that no row can escape,
of the client, zone or operation, ends the run.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Protocol

from token_worker.client import (
    Answer,
    BadReply,
    NotAnswered,
    RequestRefused,
    StreamsRefused,
    StreamsUnavailable,
)
from token_worker.contract.messages import Op
from token_worker.errors import CheckFailed, Code, Retry, TokenWorkerError, Unavailable
from token_worker.files.columns import SentItem
from token_worker.files.rows import Chunk

IN_FLIGHT = 16
"""Chunks that are sent and not answered yet: work for some workers at once."""

IN_FLIGHT_BYTES = 4 << 20
"""What they weigh together; one there is in any case."""

TRIES = 5
"""How often a value is sent whose answer says that it may be sent again."""

BACK_OFF_SECONDS = (0.1, 5.0)
"""Shortest and longest wait before something is sent again; doubled each time, less up to half at random."""

LOOK_SECONDS = 0.2
"""How soon a request to stop is seen."""

NO_WORKER = "no worker answers; does one run, with these routes in its settings, and can it use its servers?"

QUIET_SECONDS = 5.0
"""Without an answer for so long, the user is told."""

_FOR_ALL = frozenset({Code.UNKNOWN_CLIENT, Code.UNKNOWN_ZONE, Code.FORBIDDEN, Code.KEY_UNREADABLE})
"""Refusals of a request that any other would get as well."""


class Client(Protocol):
    """What is needed of ``token_worker.client.TokenClient``."""

    def submit(self, op: Op, items: Sequence[SentItem]) -> Future[list[Answer]]:
        """Send items."""


class Stopped(TokenWorkerError):  # noqa: N818 - reads as what it says
    """The run was asked to stop, and does so between two chunks."""


class Sender:
    """Sends, and waits for answers.

    Args:
        client: knows whose keys are used.
        op: what is asked for.
        wait_seconds: how long there may be no answer at all.
        stopping: set when the run is to stop.
        tell: is told when answers begin to be missing, and when they come again.
        away: says why the server of the streams cannot be used just now, if so.
    """

    def __init__(
        self,
        client: Client,
        op: Op,
        wait_seconds: float,
        stopping: threading.Event,
        tell: Callable[[str], object] = lambda _: None,
        away: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._client = client
        self._op = op
        self._wait_seconds = wait_seconds
        self._stopping = stopping
        self._tell = tell
        self._away = away
        self._told: str | None = None
        """What was told of missing answers, until answers come again."""

    def answered(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, list[Answer]]]:
        """Each chunk with an answer for each of its items, in order.

        Raises:
            CheckFailed: no row can be done.
            Unavailable: no answer came for too long.
            Stopped: it was asked for.
        """
        window: deque[tuple[Chunk, Future[list[Answer]] | None]] = deque()
        weight = 0
        for chunk in chunks:
            while window and (len(window) >= IN_FLIGHT or weight + chunk.weight > IN_FLIGHT_BYTES):
                first, future = window.popleft()
                weight -= first.weight
                yield first, self._settle(first.items, future)
            window.append((chunk, self._client.submit(self._op, chunk.items) if chunk.items else None))
            weight += chunk.weight
        while window:
            first, future = window.popleft()
            yield first, self._settle(first.items, future)

    def _settle(self, items: Sequence[SentItem], future: Future[list[Answer]] | None) -> list[Answer]:
        """The last word on each item."""
        if self._stopping.is_set():
            raise Stopped
        if future is None:
            return []
        answers = self._outcome(items, future)
        for times in range(1, TRIES):
            missing = [
                place
                for place, answer in enumerate(answers)
                if isinstance(answer, RequestRefused) and answer.retry is Retry.YES
            ]
            if not missing:
                break
            self._back_off(times)
            again = [items[place] for place in missing]
            for place, answer in zip(missing, self._outcome(again, self._client.submit(self._op, again)), strict=True):
                answers[place] = answer
        return answers

    def _outcome(self, items: Sequence[SentItem], future: Future[list[Answer]]) -> list[Answer]:
        """What came of a request, once something did."""
        times, since = 0, time.monotonic()
        while True:
            while not wait([future], LOOK_SECONDS).done:
                if self._stopping.is_set():
                    raise Stopped
                if time.monotonic() - since >= QUIET_SECONDS:
                    self._tell_missing(self._away() or NO_WORKER)
            try:
                answers = future.result()
            except NotAnswered as error:
                if time.monotonic() - since > self._wait_seconds:
                    raise Unavailable("worker", f"{error}; waited for {self._wait_seconds:g} seconds") from None
                self._tell_missing(str(error) if isinstance(error, StreamsUnavailable) else NO_WORKER)
                times += 1
                self._back_off(times)
                future = self._client.submit(self._op, items)
                continue
            except (StreamsRefused, BadReply) as error:
                raise CheckFailed(str(error)) from None
            except RequestRefused as refused:
                self._tell_again()
                return self._refused(items, refused)
            self._tell_again()
            return answers

    def _tell_missing(self, why: str) -> None:
        """Tell why no answers come; another reason is told as well."""
        if why != self._told:
            self._told = why
            self._tell(f"no answers: {why}; waiting")

    def _tell_again(self) -> None:
        if self._told is not None:
            self._told = None
            self._tell("answers come again")

    def _refused(self, items: Sequence[SentItem], refused: RequestRefused) -> list[Answer]:
        """The request as a whole was: if not that any would be, it may be too large for the workers' settings."""
        if refused.code in _FOR_ALL:
            raise CheckFailed(f"the workers refuse: {refused}")
        if refused.code != Code.INVALID_REQUEST or len(items) == 1:
            return [refused] * len(items)
        half = len(items) // 2
        parts = items[:half], items[half:]
        return [answer for part in parts for answer in self._outcome(part, self._client.submit(self._op, part))]

    def _back_off(self, times: int) -> None:
        shortest, longest = BACK_OFF_SECONDS
        seconds = min(longest, shortest * 2 ** min(times - 1, 10)) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if self._stopping.wait(seconds):
            raise Stopped
