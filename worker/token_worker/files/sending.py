"""Send chunks with several requests in flight, and return them in order with their answers.

If an answer says that the value may be sent again (``internal``, ``expired``), it is sent again a few times. If no
answer comes at all, because no worker runs or the streams are away, the request is repeated until ``wait_seconds`` are
over. A refusal that applies to every row (of the client, the zone, the operation or a format) ends the run.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Protocol

from token_worker.backoff import BackOffSeconds
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
from token_worker.files.columns import SentItem, without_path
from token_worker.files.rows import Chunk

CHUNKS_IN_FLIGHT = 16
"""Most chunks that wait for answers: enough work for several workers."""

BYTES_IN_FLIGHT = 4 << 20
"""Most bytes of these chunks in memory, unless a single chunk has more."""

MAX_SENDS = 5
"""Most times that a value is sent, if the answers say that it may be sent again."""

BACK_OFF_SECONDS = BackOffSeconds(0.1, 5.0)
"""Shortest and longest pause before a value is sent again. The pause doubles each time, and is up to half shorter."""

STOP_CHECK_SECONDS = 0.2
"""Time between two looks at ``stopping``."""

NO_WORKER = "no worker answers; does a worker run with these routes, and can it use its servers?"

QUIET_SECONDS = 5.0
"""Time without an answer before the user is told."""

_FOR_ALL = frozenset({Code.UNKNOWN_CLIENT, Code.UNKNOWN_ZONE, Code.FORBIDDEN, Code.KEY_UNREADABLE})
"""Refusals that every other request would get as well."""


class Client(Protocol):
    """The part of ``token_worker.client.TokenClient`` that is used here."""

    def submit(self, op: Op, items: Sequence[SentItem], *, mark_other: bool) -> Future[list[Answer]]:
        """Send items. With ``mark_other``, tokens of another format are ``OtherFormat``."""


class Stopped(TokenWorkerError):  # noqa: N818 - "except Stopped" reads well
    """The run stops between two chunks, because ``stopping`` is set."""


class Sender:
    """Sends chunks and waits for their answers.

    Args:
        client: the client, with the client id and zone of the job.
        op: tokenize or detokenize.
        wait_seconds: how long the workers may not answer at all.
        stopping: set when the run shall stop.
        tell: takes a line for the user when answers are missing, and when they come again.
        away: returns the reason why the Redis of the streams cannot be used now, or None.
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
        """Reason of missing answers that the user was told. None while answers come."""

    def answered(self, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, list[Answer]]]:
        """Yield each chunk with one answer for each of its items, in order.

        Raises:
            CheckFailed: no row can be done.
            Unavailable: the workers did not answer for too long.
            Stopped: ``stopping`` is set.
        """
        window: deque[tuple[Chunk, Future[list[Answer]] | None]] = deque()
        size = 0
        for chunk in chunks:
            while window and (len(window) >= CHUNKS_IN_FLIGHT or size + chunk.memory_bytes > BYTES_IN_FLIGHT):
                first, future = window.popleft()
                size -= first.memory_bytes
                yield first, self._final_answers(first.items, future)
            window.append((chunk, self._submit(chunk.items) if chunk.items else None))
            size += chunk.memory_bytes
        while window:
            first, future = window.popleft()
            yield first, self._final_answers(first.items, future)

    def _submit(self, items: Sequence[SentItem]) -> Future[list[Answer]]:
        return self._client.submit(self._op, items, mark_other=True)

    def _final_answers(self, items: Sequence[SentItem], future: Future[list[Answer]] | None) -> list[Answer]:
        """Return the answer to each item, after values that may be sent again were sent again."""
        if self._stopping.is_set():
            raise Stopped
        if future is None:
            return []
        answers = self._wait_for(items, future)
        for times in range(1, MAX_SENDS):
            missing = [
                place
                for place, answer in enumerate(answers)
                if isinstance(answer, RequestRefused) and answer.retry is Retry.YES
            ]
            if not missing:
                break
            self._back_off(times)
            again = [items[place] for place in missing]
            for place, answer in zip(missing, self._wait_for(again, self._submit(again)), strict=True):
                answers[place] = answer
        for answer in answers:
            if isinstance(answer, RequestRefused) and answer.code == Code.FORMAT_NOT_ALLOWED:
                raise CheckFailed(f"the workers refuse: {answer.code}: {without_path(answer.message)}")
        return answers

    def _wait_for(self, items: Sequence[SentItem], future: Future[list[Answer]]) -> list[Answer]:
        """Wait for the answers to a request. Send the request again while no worker answers."""
        times, since = 0, time.monotonic()
        while True:
            while not wait([future], STOP_CHECK_SECONDS).done:
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
                future = self._submit(items)
                continue
            except (StreamsRefused, BadReply) as error:
                raise CheckFailed(str(error)) from None
            except RequestRefused as refused:
                self._tell_again()
                return self._refused(items, refused)
            self._tell_again()
            return answers

    def _tell_missing(self, why: str) -> None:
        """Tell the user why no answers come, once for each reason."""
        if why != self._told:
            self._told = why
            self._tell(f"no answers: {why}; waiting")

    def _tell_again(self) -> None:
        if self._told is not None:
            self._told = None
            self._tell("the workers answer again")

    def _refused(self, items: Sequence[SentItem], refused: RequestRefused) -> list[Answer]:
        """Handle the refusal of a whole request.

        The request may be too large for the settings of the workers. Then its halves are sent.
        """
        if refused.code in _FOR_ALL:
            raise CheckFailed(f"the workers refuse: {refused}")
        if refused.code != Code.INVALID_REQUEST or len(items) == 1:
            return [refused] * len(items)
        half = len(items) // 2
        parts = items[:half], items[half:]
        return [answer for part in parts for answer in self._wait_for(part, self._submit(part))]

    def _back_off(self, times: int) -> None:
        seconds = BACK_OFF_SECONDS.after(times) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        if self._stopping.wait(seconds):
            raise Stopped
