"""The connections of one route of a client: one with a thread that sends, and one with a thread that reads replies.

There are two connections because a connection that waits for replies cannot send at the same time. The send thread
works in rounds: one round sends all requests that were queued meanwhile. While no call waits, no thread does anything.

If the server is away, both threads try again until the calls reach their time-outs. Only then do the calls raise an
error. The first call starts the threads. They are daemons, so that they do not keep a program from ending.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

from token_worker.backoff import BackOffSeconds
from token_worker.client.calls import Call, CallOutcome, Part, Requests
from token_worker.client.errors import NotAnswered, StreamsRefused, StreamsUnavailable, TimedOut
from token_worker.client.items import RequestLimits
from token_worker.client.replies import Replies
from token_worker.client.tracing import SendSpans
from token_worker.errors import ServerError, SettingsError, TokenWorkerError, Unavailable
from token_worker.redis.address import RedisSettings
from token_worker.redis.connect import make_link
from token_worker.redis.link import Link
from token_worker.streams.clock import ServerClock
from token_worker.streams.routes import Route
from token_worker.streams.strays import EARLIER_MS, REFUSED_SECONDS, Strays

ROUND_REQUESTS: Final = 200
"""Most requests that are sent together."""

ROUND_BYTES: Final = 1_048_576
"""Most bytes that are sent together. A longer request is sent on its own."""

BLOCK_MS: Final = 500
"""Longest wait of one read. Closing takes as long, while calls wait."""

BACK_OFF_SECONDS: Final = BackOffSeconds(0.05, 1.0)
"""Pauses between tries while the server is away. Each pause is up to one half longer, at random."""

OnEnded = Callable[[list[tuple[Call, CallOutcome]]], None]


class RouteChannel:
    """Sends the requests of one route and reads their replies.

    Args:
        route: the route.
        routes: all routes of the settings.
        streams: the Redis of the streams.
        limits: limits of one request.
        gather_seconds: see ``Requests``.
        threads: takes the threads of this channel when they start.
        make_room: told how many parts are done and leave room for others.
        on_ended: takes calls that have ended, with their outcomes. The threads of this channel call it.

    Raises:
        ValueError: the route does not allow a reply stream of the client's own.
    """

    def __init__(
        self,
        route: Route,
        routes: Iterable[Route],
        streams: RedisSettings,
        *,
        limits: RequestLimits,
        gather_seconds: float | None,
        threads: set[threading.Thread],
        make_room: Callable[[int], object],
        on_ended: OnEnded,
    ) -> None:
        self._route = route
        self._streams = streams
        self._all_threads = threads
        self._make_room = make_room
        self._on_ended = on_ended
        self._requests = Requests(limits, gather_seconds, SendSpans(route.requests, streams))
        self._replies = Replies(route, routes)
        self._strays = Strays(route.responses)
        self._clock = ServerClock()
        self._lock = threading.Lock()
        self._to_send = threading.Condition(self._lock)
        self._to_read = threading.Condition(self._lock)
        self._closing = threading.Condition(self._lock)
        self._is_closed = False
        self._threads: list[threading.Thread] = []
        self._away: dict[str, str] = {}
        """Reason why the server cannot be used now, by the name of the thread that has found out."""
        self.timeout_error = self._timeout_error
        """Makes the error of a call at its deadline. One bound method for all calls: it is kept, because making one for
        each call costs a fifth of the speed, in garbage collections."""

    @property
    def away(self) -> str | None:
        """Reason why the server cannot be used now. None if it can be used."""
        return next(iter(self._away.values()), None)

    def _timeout_error(self) -> NotAnswered:
        if away := self.away:
            return StreamsUnavailable(away)
        return TimedOut("no reply came in time; does a worker run, with these routes in its settings?")

    def put(self, part: Part) -> None:
        """Queue a part. If its call has ended, make room instead: after ``close``, all calls have ended."""
        with self._lock:
            if part.call.has_ended:
                self._make_room(1)
                return
            now = time.monotonic()
            if self._requests.is_idle:
                self._replies.start(now)
                self._to_read.notify()
            if self._requests.add(part, now):
                self._to_send.notify()
            if not self._threads and not self._is_closed:
                self._start("send", self._send_round, lambda _: None)
                self._start("read", self._read_round, self._remove_reply_stream)

    def _start(self, name: str, one_round: Callable[[Link], None], clean_up: Callable[[Link], None]) -> None:
        thread = threading.Thread(
            target=self._run_thread, args=(name, one_round, clean_up), name=f"token-client {name}", daemon=True
        )
        self._away[name] = f"Redis for streams at {self._streams.server}: no connection yet"
        self._all_threads.add(thread)
        thread.start()
        self._threads.append(thread)

    def sweep(self) -> None:
        """Forget requests and parts that no call waits for any more, and make room."""
        with self._lock:
            self._requests.sweep()
            done = self._requests.take_done()
        self._end(done, [])

    def close(self) -> None:
        """Tell the threads to end, without waiting for requests in flight. All calls must have ended before."""
        with self._lock:
            self._is_closed = True
            for condition in (self._to_send, self._to_read, self._closing):
                condition.notify_all()
        self.sweep()

    def join(self) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            thread.join()
        self.sweep()  # requests that were being sent

    def _run_thread(self, name: str, one_round: Callable[[Link], None], clean_up: Callable[[Link], None]) -> None:
        link = make_link("streams", self._streams, raise_server_errors=True)
        failures = 0
        while not self._is_closed:
            try:
                one_round(link)
            except (Unavailable, ServerError, SettingsError) as error:
                self._away[name] = str(error)
                failures += 1
                pause = BACK_OFF_SECONDS.after(failures)
                with self._closing:
                    if not self._is_closed:
                        self._closing.wait(pause * random.uniform(1, 1.5))  # noqa: S311 - only spreads tries
            else:
                failures = 0
        if name not in self._away:
            with suppress(TokenWorkerError):  # a stream that is left behind expires
                clean_up(link)
        link.close()

    # _send_round and _read_round do one round on the link of their thread. They raise the errors of the server.

    def _send_round(self, link: Link) -> None:
        with self._lock:
            requests = self._wait_for_requests()
        if not requests:
            return
        try:
            self._clock.refresh(link)
            outcomes = self._send_all(link, requests)
        except TokenWorkerError:
            with self._lock:
                self._requests.requeue(requests)
            raise
        self._take_outcomes(requests, outcomes)

    def _wait_for_requests(self) -> list[Part]:
        while not self._is_closed:
            at = self._requests.next_at()
            wait_seconds = None if at is None else at - time.monotonic()
            if wait_seconds is not None and wait_seconds <= 0:
                requests = self._requests.take(ROUND_REQUESTS, self._replies.name)
                self._end(self._requests.take_done(), [])
                return requests
            self._to_send.wait(wait_seconds)
        return []

    def _send_all(self, link: Link, requests: Sequence[Part]) -> list[Any]:
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

    def _take_outcomes(self, requests: Sequence[Part], outcomes: Sequence[Any]) -> None:
        doubtful: list[Part] = []
        ended: list[tuple[Call, CallOutcome]] = []
        error: Unavailable | None = None
        with self._lock:
            for request, outcome in zip(requests, outcomes, strict=True):
                if request.span and not isinstance(outcome, Unavailable):
                    request.span.end(outcome)
                if isinstance(outcome, Unavailable):
                    error = outcome
                    doubtful.append(request)
                elif isinstance(outcome, ServerError):
                    ended += self._requests.fail(request, StreamsRefused(outcome.code))
            self._requests.requeue(doubtful)
            done = self._requests.take_done()
        if error is None:
            self._away.pop("send", None)
        self._end(done, ended)
        if error is not None:
            raise error

    def _read_round(self, link: Link) -> None:
        with self._lock:
            while not self._is_closed and self._requests.is_idle:
                self._to_read.wait()
            if self._is_closed:
                return
            is_away = "read" in self._away  # then do not block: find out at once if the server is back
            command = self._replies.read_command(1 if is_away else self._block_ms())
        try:
            found = link.call(*command)
        except ServerError:  # if the key is not a stream any more, workers cannot write to it either
            self._look_for_strays(link)
            raise
        self._away.pop("read", None)
        with self._lock:
            now = time.monotonic()
            ended = self._requests.take_replies(self._replies.take(found, now))
            done = self._requests.take_done()
            self._send_again(now)
            trim_commands = self._replies.trim_commands(now)
        self._end(done, ended)
        self._look_for_strays(link)
        for command in trim_commands:
            with suppress(ServerError):  # without permission to trim, the stream still expires
                link.call(*command)

    def _end(self, done: int, ended: list[tuple[Call, CallOutcome]]) -> None:
        """Make room for others, then end calls: their callbacks may need the room."""
        if done:
            self._make_room(done)
        if ended:
            self._on_ended(ended)

    def _block_ms(self) -> int:
        """Return how long to wait for replies before late ones are looked for on the shared stream."""
        now = time.monotonic()
        since = self._requests.waiting_since
        seconds = self._strays.next_at(now if since is None else since) - now
        return min(max(math.ceil(seconds * 1000), 1), BLOCK_MS)

    def _look_for_strays(self, link: Link) -> None:
        """Look for late replies on the shared stream: the worker may have put them there."""
        with self._lock:
            since, now = self._requests.waiting_since, time.monotonic()
            if since is None or now < self._strays.next_at(since):
                return
            since_ms = self._clock.unix_ms(since)
        self._strays.rest(now)
        if since_ms is None:  # no request was sent yet
            return
        try:
            found = self._strays.look(link, since_ms - EARLIER_MS)
        except ServerError:  # for example, no permission to read the shared stream
            self._strays.rest(now, REFUSED_SECONDS)
            return
        with self._lock:
            ended = self._requests.take_shared_replies(found)
            done = self._requests.take_done()
            self._send_again(now)
        self._end(done, ended)

    def _send_again(self, now: float) -> None:
        """Wake the thread that sends, if a reply has queued parts again."""
        at = self._requests.next_at()
        if at is not None and at <= now:
            self._to_send.notify()

    def _remove_reply_stream(self, link: Link) -> None:
        for command in self._replies.removal_commands():
            link.call(*command)
