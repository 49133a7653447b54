"""Facts about the streams: lag, workers, reasons of dead letters. Sans-IO, and read-only.

No payload is read. A stream that cannot be read does not hide the others.
"""

from collections.abc import Sequence
from typing import NamedTuple

from token_worker.admin.lag import Measured, measure
from token_worker.admin.stream_ends import read_clock
from token_worker.admin.workers import SeenWorker, read_workers
from token_worker.errors import ReplyTooLarge, ServerError, Unavailable
from token_worker.monitor.reasons import Reasons, read_reasons
from token_worker.redis.exchange import Command, Exchange, T
from token_worker.streams.routes import Route


class StreamFacts(NamedTuple):
    """The facts of all routes.

    Attributes:
        now: the server's clock, in Unix seconds.
        measured: lag of all groups; ``unknown`` has the streams that could not be read.
        workers: workers by request stream.
        dead: reasons by dead-letter stream.
        refused: rights that the monitor's user lacks, in words.
    """

    now: float
    measured: Measured
    workers: dict[str, tuple[SeenWorker, ...]]
    dead: dict[str, Reasons]
    refused: list[str]


def read_streams(routes: Sequence[Route], group: str, known: dict[str, Reasons]) -> Exchange[StreamFacts]:
    """Read the facts of all routes.

    Args:
        routes: the routes.
        group: the workers' group.
        known: reasons of dead letters as they were read before.
    """
    now_ms = yield from read_clock()
    measured = yield from _measure(routes, group)
    found = StreamFacts(now_ms / 1000, measured, {}, {}, [])
    lengths = {row.stream: row.dead_letters for row in measured.rows if row.dead_letters is not None}
    readable = [route for route in routes if route.requests not in measured.unknown]
    for one in (yield from read_workers(readable, group)):
        found.workers[one.stream] = one.workers
        if one.unknown is not None:
            measured.unknown[one.stream] = one.unknown
        if one.notes_unknown is not None:
            found.refused.append(f"{one.stream}: notes of workers ({one.notes_unknown})")
    for route in readable:
        try:
            if route.dead_letters not in found.dead:
                dead = lengths.get(route.requests, 0)
                reasons = yield from read_reasons(route.dead_letters, dead, now_ms, known.get(route.dead_letters))
                if reasons is not None:
                    found.dead[route.dead_letters] = reasons
        except Unavailable as error:  # a node of a cluster
            measured.unknown[route.requests] = error.reason
        except ServerError as error:
            found.refused.append(f"{route.dead_letters}: reasons of dead letters ({error.code})")
    return found


def until_first_outage(exchange: Exchange[T]) -> Exchange[T]:
    """End an exchange at the first ``Unavailable``: it could wait for a server that hangs once for each stream."""
    try:
        command: Command = next(exchange)
        while True:
            try:
                reply = yield command
            except (ServerError, ReplyTooLarge) as error:
                command = exchange.throw(error)
            else:
                command = exchange.send(reply)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # StopIteration is not generic


def _measure(routes: Sequence[Route], group: str) -> Exchange[Measured]:
    """Measure all routes at once; each alone if a key of another type, or a missing right, stops that."""
    try:
        return (yield from measure(routes, group))
    except ServerError:
        found = Measured([], {}, {}, {})
    for route in routes:
        try:
            one = yield from measure([route], group)
        except ServerError as error:
            found.unknown[route.requests] = error.code
            continue
        known = {(row.stream, row.group) for row in found.rows}
        found.rows.extend(row for row in one.rows if (row.stream, row.group) not in known)
        found.unknown.update(one.unknown)
        found.ahead_seconds.update(one.ahead_seconds)
        found.ids.update(one.ids)
    return found
