"""The workers of each route: what Redis knows of their consumers, and what they say of themselves. Sans-IO, read-only.

A worker writes a note about itself (see ``streams.worker_notes``). A consumer without a note is a worker of a version
that writes none, one without the right to do so, or another program. A note without a consumer is that of a worker that
starts and has not read yet.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from token_worker.admin.stream_ends import by_name, read_clock
from token_worker.errors import ServerError, Unavailable
from token_worker.redis.exchange import Exchange
from token_worker.streams.routes import Route
from token_worker.streams.worker_notes import NOTE_SECONDS, WorkerNote

ALIVE_SECONDS = 60
"""A consumer without a note is alive if it asked for entries within this time."""

STALE_SECONDS = 2 * NOTE_SECONDS + 5
"""Age from which a note says nothing about the worker of now: two intervals at which it is written were missed."""

READS_SECONDS = 10
"""A worker whose note is out of date is alive if it asked for entries within this time: perhaps it may not write notes.

A worker asks every second, or is busy with a batch.
"""


class SeenWorker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker of a route, as its streams' server sees it. Members are those of ``--json``.

    Attributes:
        consumer: name of the consumer.
        idle_seconds: time since the consumer last asked for entries; None if it never did.
        pending: entries that were delivered to it and are not acknowledged.
        version, host: of the worker; None if there is no note.
        started: when the process started, in Unix seconds; None if there is no note.
        ready: whether it says that it is ready; None if there is no note, or the note is out of date.
        why: the reason why it is not ready.
        noted_seconds_ago: age of its note by the server's clock; None if there is no note.
    """

    consumer: str
    idle_seconds: float | None
    pending: int
    version: str | None = None
    host: str | None = None
    started: int | None = None
    ready: bool | None = None
    why: str | None = None
    noted_seconds_ago: float | None = None

    @property
    def reads(self) -> bool:
        """True if it asked for entries a moment ago, or says that it is ready.

        Redis before 7.2 keeps no consumer, or no time, of a read that brings nothing.
        """
        return self.is_alive and (bool(self.ready) or _is_within(self.idle_seconds, ALIVE_SECONDS))

    @property
    def is_alive(self) -> bool:
        """True if it wrote its note, or asked for entries, a moment ago. A worker that was killed soon does neither."""
        if self.noted_seconds_ago is None:
            return _is_within(self.idle_seconds, ALIVE_SECONDS)
        return self.noted_seconds_ago < STALE_SECONDS or _is_within(self.idle_seconds, READS_SECONDS)

    @property
    def silent_seconds(self) -> float:
        """Time since it last asked for entries or wrote its note."""
        return min((age for age in (self.idle_seconds, self.noted_seconds_ago) if age is not None), default=0.0)


def _is_within(age: float | None, seconds: float) -> bool:
    return age is not None and age < seconds


class RouteWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """The workers of one route.

    Attributes:
        stream: request stream of the route.
        workers: its workers, by name.
        unknown: the reason why the workers could not be read; None if they could.
        notes_unknown: the reason why their notes could not be read, such as a missing right; None if they could.
    """

    stream: str
    workers: tuple[SeenWorker, ...] = ()
    unknown: str | None = None
    notes_unknown: str | None = None


def read_workers(routes: Sequence[Route], group: str) -> Exchange[list[RouteWorkers]]:
    """Read the workers of each route. The result has the order of the routes.

    A route whose server refuses or is away has the reason in ``unknown``.

    Args:
        routes: the routes.
        group: consumer group of the workers.

    Raises:
        Unavailable: thrown in, while the clock of the server is read.
    """
    now_ms = yield from read_clock()
    found = []
    for route in routes:
        try:
            found.append((yield from read_route(route, group, now_ms)))
        except (Unavailable, ServerError) as error:
            found.append(RouteWorkers(stream=route.requests, unknown=str(error)))
    return found


def read_route(route: Route, group: str, now_ms: int) -> Exchange[RouteWorkers]:
    """Read the workers of one route. Errors of the server are raised, as they are thrown in."""
    consumers: list[dict[str, Any]] = []
    try:
        consumers = [by_name(raw) for raw in (yield "XINFO", "CONSUMERS", route.requests, group)]
    except ServerError as error:
        if error.code not in ("NOGROUP", "ERR"):  # no group, or no stream yet
            raise
    notes: dict[bytes, WorkerNote] = {}
    refused = None
    try:
        notes = _decoded((yield "HGETALL", route.own_keys.workers))
    except ServerError as error:
        refused = error.code
    seen = [_seen(bytes(each["name"]), each, notes.get(bytes(each["name"])), now_ms) for each in consumers]
    known = {bytes(each["name"]) for each in consumers}
    seen += [_seen(name, None, note, now_ms) for name, note in notes.items() if name not in known]
    by_consumer = tuple(sorted(seen, key=lambda worker: worker.consumer))
    return RouteWorkers(stream=route.requests, workers=by_consumer, notes_unknown=refused)


def _decoded(raw: list[bytes]) -> dict[bytes, WorkerNote]:
    """Decode notes by consumer. Bytes that are no note are left out: a newer version may write others."""
    notes = {}
    for name, text in zip(raw[::2], raw[1::2], strict=True):
        try:
            notes[name] = msgspec.json.decode(text, type=WorkerNote)
        except msgspec.DecodeError:
            continue
    return notes


def _seen(name: bytes, consumer: dict[str, Any] | None, note: WorkerNote | None, now_ms: int) -> SeenWorker:
    age = None if note is None else max(0.0, now_ms / 1000 - note.at)
    is_fresh = age is not None and age < STALE_SECONDS
    return SeenWorker(
        consumer=name.decode(errors="replace"),
        idle_seconds=None if consumer is None else consumer["idle"] / 1000,
        pending=0 if consumer is None else consumer["pending"],
        version=note.version if note else None,
        host=note.host if note else None,
        started=note.started if note else None,
        ready=note.ready if note and is_fresh else None,
        why=note.why if note and is_fresh else None,
        noted_seconds_ago=age,
    )
