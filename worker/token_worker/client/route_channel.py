"""One route of a client: a connection and a thread to send, another of each to read replies.

Two connections, since one alone would hold up what is to be sent while it waits for something to read. SendSpan goes in
rounds: all that has come up meanwhile is sent together. Nothing is read, and no time is spent, while no call waits.

What waits for a server that is away is told only when the call's time is up; until then both threads try again. Threads
are started by the first call, and are daemons: they never keep a program from ending.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from token_worker.client.calls import Call, CallOutcome, Part, Requests, StreamRequest
from token_worker.client.errors import NotAnswered, StreamsRefused, StreamsUnavailable, TimedOut
from token_worker.client.items import RequestLimits
from token_worker.client.replies import Replies
from token_worker.client.tracing import SendSpans
from token_worker.errors import ServerError, TokenWorkerError, Unavailable
from token_worker.redis.address import RedisSettings
from token_worker.redis.connect import make_link
from token_worker.redis.link import Link
from token_worker.streams.clock import ServerClock
from token_worker.streams.routes import Route
from token_worker.streams.strays import EARLIER_MS, REFUSED_SECONDS, Strays

ROUND: Final = 200
"""Requests that are sent together."""

ROUND_BYTES: Final = 1_048_576
"""Bytes that are sent together; a request that is longer goes alone."""

BLOCK_MS: Final = 500
"""How long one read waits: also how long closing takes at most, while calls wait."""

BACK_OFF_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries of a server that is away, with up to half as much by chance."""

OnEnded = Callable[[list[tuple[Call, CallOutcome]]], None]


class RouteChannel:
    """Calls on one route.

    Args:
        route: which.
        routes: all routes of the settings.
        streams: where they are.
        limits: of one request.
        gather_seconds: as for ``Requests``.
        shared: read replies on the route's own response stream.
        on_ended: takes calls that have ended, with their outcomes. The threads of this channel call it.

    Raises:
        ValueError: the route allows no stream for the reply.
    """

    def __init__(
        self,
        route: Route,
        routes: Iterable[Route],
        streams: RedisSettings,
        *,
        limits: RequestLimits,
        gather_seconds: float,
        shared: bool,
        on_ended: OnEnded,
    ) -> None:
        self._route = route
        self._streams = streams
        self._on_ended = on_ended
        self._requests = Requests(limits, gather_seconds, SendSpans(route.requests, streams))
        self._replies = Replies(route, routes, shared=shared)
        self._strays = None if shared else Strays(route.responses)
        self._clock = ServerClock()
        self._lock = threading.Lock()
        self._to_send = threading.Condition(self._lock)
        self._to_read = threading.Condition(self._lock)
        self._closing = threading.Condition(self._lock)
        self._is_closed = False
        self._threads: list[threading.Thread] = []
        self._away: dict[str, str] = {}
        """Why the server cannot be used now, by which of the threads says so."""
        self.timeout_error = self._timeout_error
        """What to end a call with at its deadline. One object for all: one for each costs a fifth, in collections."""

    @property
    def away(self) -> str | None:
        """Why the server cannot be used now; None while it can be."""
        away = [*self._away.values()]
        return f"streams: {away[0]}" if away else None

    def _timeout_error(self) -> NotAnswered:
        if away := self.away:
            return StreamsUnavailable(away)
        return TimedOut("no reply came in time; does a worker run, with these routes in its settings?")

    def put(self, part: Part) -> None:
        """A part that is to be sent, unless its call is over: all are, once the channel is closed."""
        with self._lock:
            if part.call.has_ended:
                part.release()
                return
            now = time.monotonic()
            if self._requests.is_idle:
                self._replies.start(now)
                self._to_read.notify()
            self._requests.add(part, now)
            self._to_send.notify()
            if not self._threads and not self._is_closed:
                self._start("send", self._send, lambda _: None)
                self._start("read", self._read, self._end)

    def _start(self, name: str, one_round: Callable[[Link], None], end: Callable[[Link], None]) -> None:
        thread = threading.Thread(
            target=self._work, args=(name, one_round, end), name=f"token-client {name}", daemon=True
        )
        self._away[name] = "no connection yet"
        thread.start()
        self._threads.append(thread)

    def sweep(self) -> None:
        """Let go of what nobody waits for any more."""
        with self._lock:
            self._requests.sweep()

    def close(self) -> None:
        """Have the threads end; what was in flight is not waited for. All calls must be over."""
        with self._lock:
            self._is_closed = True
            self._requests.sweep()
            for condition in (self._to_send, self._to_read, self._closing):
                condition.notify_all()

    def join(self) -> None:
        """Wait for the threads to end."""
        for thread in self._threads:
            thread.join()
        self.sweep()  # of what was being sent

    def owns_thread(self) -> bool:
        """Whether the caller is one of this channel's threads, on which nothing may wait for the channel."""
        return threading.current_thread() in self._threads

    def _work(self, name: str, one_round: Callable[[Link], None], end: Callable[[Link], None]) -> None:
        link = make_link("streams", self._streams, refusals=True)
        tries = 0
        while not self._is_closed:
            try:
                one_round(link)
            except (Unavailable, ServerError) as error:
                self._away[name] = error.reason if isinstance(error, Unavailable) else error.code
                pause = BACK_OFF_SECONDS[min(tries, len(BACK_OFF_SECONDS) - 1)]
                tries += 1
                with self._closing:
                    if not self._is_closed:
                        self._closing.wait(pause * random.uniform(1, 1.5))  # noqa: S311 - only spreads tries
            else:
                tries = 0
        if name not in self._away:
            with suppress(TokenWorkerError):  # what is left behind goes by its time to live
                end(link)
        link.close()

    # Each of these two does one round on its own link, and raises what keeps it from that.

    def _send(self, link: Link) -> None:
        with self._lock:
            requests = self._wait_for_requests()
            is_lost = self._replies.last is None
        if not requests:
            return
        try:
            if is_lost:
                self._find_end(link)
            self._clock.refresh(link)
            outcomes = self._send_all(link, requests)
        except TokenWorkerError:
            with self._lock:
                self._requests.requeue(requests)
            raise
        self._take_outcomes(requests, outcomes)

    def _wait_for_requests(self) -> list[StreamRequest]:
        while not self._is_closed:
            at = self._requests.next_at()
            wait = None if at is None else at - time.monotonic()
            if wait is not None and wait <= 0:
                return self._requests.take(ROUND, self._replies.reply_to)
            self._to_send.wait(wait)
        return []

    def _find_end(self, link: Link) -> None:
        with self._lock:
            command = self._replies.last_command()
        found = link.call(*command)
        with self._lock:
            self._replies.take_last(found)
            self._to_read.notify()

    def _send_all(self, link: Link, requests: Sequence[StreamRequest]) -> list[Any]:
        outcomes: list[Any] = []
        commands: list[tuple[Any, ...]] = []
        size = 0
        sent_at = time.monotonic()
        for request in requests:
            fields = request.fields(self._clock.unix_ms)
            more = sum(map(len, fields))
            if commands and size + more > ROUND_BYTES:
                outcomes += link.call_all(commands)
                commands, size = [], 0
            commands.append(("XADD", self._route.requests, "*", *fields))
            size += more
        outcomes += link.call_all(commands)
        if isinstance(outcomes[0], bytes):
            self._clock.learn_from_id(outcomes[0], sent_at)
        return outcomes

    def _take_outcomes(self, requests: Sequence[StreamRequest], outcomes: Sequence[Any]) -> None:
        doubtful: list[StreamRequest] = []
        ended: list[tuple[Call, CallOutcome]] = []
        error: Unavailable | None = None
        with self._lock:
            for request, outcome in zip(requests, outcomes, strict=True):
                if request.sending and not isinstance(outcome, Unavailable):
                    request.sending.end(outcome)
                if isinstance(outcome, Unavailable):
                    error = outcome
                    doubtful.append(request)
                elif isinstance(outcome, ServerError):
                    ended += self._requests.fail(request, StreamsRefused(outcome.code))
            self._requests.requeue(doubtful)
        if error is None:
            self._away.pop("send", None)
        self._on_ended(ended)
        if error is not None:
            raise error

    def _read(self, link: Link) -> None:
        with self._lock:
            while not self._is_closed and (self._requests.is_idle or self._replies.last is None):
                self._to_read.wait()
            if self._is_closed:
                return
            is_away = "read" in self._away  # whether it still is, is to be known at once
            command = self._replies.read_command(1 if is_away else self._block_ms())
        try:
            found = link.call(*command)
        except ServerError:  # our stream is none any more, say: then workers could not write to it, either
            self._look_for_strays(link)
            raise
        self._away.pop("read", None)
        ended: list[tuple[Call, CallOutcome]] = []
        with self._lock:
            now = time.monotonic()
            for payload in self._replies.take(found, now):
                ended += self._requests.reply(payload)
            tidy = self._replies.tidy_commands(now)
        self._on_ended(ended)
        self._look_for_strays(link)
        for command in tidy:
            with suppress(ServerError):  # no right to: it goes by its time to live
                link.call(*command)

    def _block_ms(self) -> int:
        """How long to wait for replies, before one that is not there yet is looked for elsewhere."""
        if self._strays is None:
            return BLOCK_MS
        now = time.monotonic()
        since = self._requests.waiting_since
        seconds = self._strays.next_at(now if since is None else since) - now
        return min(max(math.ceil(seconds * 1000), 1), BLOCK_MS)

    def _look_for_strays(self, link: Link) -> None:
        """Look on the shared stream for replies that could not come on ours, if one is late."""
        with self._lock:
            since, now = self._requests.waiting_since, time.monotonic()
            if self._strays is None or since is None or now < self._strays.next_at(since):
                return
            since_ms = self._clock.unix_ms(since)
        self._strays.rest(now)
        if since_ms is None:  # nothing was sent yet
            return
        try:
            found = self._strays.look(link, since_ms - EARLIER_MS)
        except ServerError:  # no right to, say
            self._strays.rest(now, REFUSED_SECONDS)
            return
        with self._lock:
            ended = self._requests.reply_among(found)
        self._on_ended(ended)

    def _end(self, link: Link) -> None:
        for command in self._replies.end_commands():
            link.call(*command)
