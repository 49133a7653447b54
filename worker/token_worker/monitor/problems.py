"""Problems, the worst first: a level, a sentence, what to do, and the heading of docs/operations.md. Pure.

The limits are those of the alert rules, so that the page and a pager say the same.
"""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from token_worker.admin.check import Check
from token_worker.admin.lag import GroupLag
from token_worker.admin.workers import SeenWorker
from token_worker.errors import in_words
from token_worker.monitor.look import Look
from token_worker.monitor.servers import ServerFacts
from token_worker.monitor.source import OWN_ERROR, Seen
from token_worker.monitor.streams import StreamFacts
from token_worker.monitor.words import clock, count, duration, listed, moment
from token_worker.streams.routes import Route

FALLS_BEHIND_SECONDS = 300
STUCK_SECONDS = 900
REPLIES_UNREAD_SECONDS = 3600
"""Limits of the alerts TokenWorkerFallsBehind, TokenWorkerStuckEntries and TokenWorkerRepliesUnread."""

DEAD_SECONDS = 86_400
"""A dead letter that is younger is shown as a problem. An older one stays in its table."""

MEMORY_PART = 0.9
"""A server that uses more of its limit is nearly full."""


class Level(IntEnum):
    """The weight of a problem."""

    GOOD = 0
    WARN = 1
    BAD = 2


SIGNS = {Level.GOOD: "ok", Level.WARN: "look", Level.BAD: "act"}
"""The word for each level, for those who do not see the colour."""


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        anchor: the heading in docs/operations.md.
        many: the sentence if there are several; ``{}`` is their number.
        remedy: what to do.
    """

    level: Level
    anchor: str
    many: str
    remedy: str


AWAY = Kind(
    Level.BAD,
    "server-unavailable",
    "{} servers cannot be read",
    "Start the server, or fix the network, or the user and password of the monitor.",
)
UNREADABLE = Kind(
    Level.BAD, "tokenworkerstreamsunreachable", "{} streams cannot be read", "See the reason beside each stream."
)
NOBODY = Kind(Level.BAD, "tokenworkernobodyserves", "Nobody reads {} streams where requests wait", "Start workers.")
IDLE = Kind(Level.WARN, "tokenworkernobodyserves", "Nobody reads {} streams", "Start workers.")
NONE_READY = Kind(Level.BAD, "worker-not-ready", "No worker is ready on {} streams", "Do what the reason asks for.")
BEHIND = Kind(
    Level.BAD,
    "tokenworkerfallsbehind",
    "Requests wait for more than five minutes on {} streams",
    "Start more workers if they are busy.",
)
STUCK = Kind(
    Level.WARN,
    "tokenworkerstuckentries",
    "Requests stay pending on {} streams",
    "Look for the reason in the log of a worker.",
)
IDS = Kind(Level.WARN, "tokenworkeridsahead", "Ids of {} streams are not times", "Fix the producers, or the clock.")
NOT_READY = Kind(Level.WARN, "worker-not-ready", "{} workers are not ready", "Do what the reason asks for.")
SILENT = Kind(
    Level.WARN,
    "worker-silent",
    "{} workers are silent",
    "Find out why it ended, and start another one if it is missing.",
)
UNREAD = Kind(Level.WARN, "tokenworkerrepliesunread", "{} readers of replies are behind", "Start the readers.")
DEAD = Kind(
    Level.WARN,
    "tokenworkerdeadletters",
    "Requests were given up on {} streams",
    "Run `token-worker dead-letters list`, fix the cause, then replay or drop them.",
)
FULL = Kind(Level.WARN, "memory-nearly-full", "{} servers are nearly full", "Give the server more memory.")
EVICTED = Kind(
    Level.BAD,
    "eviction",
    "{} storages have evicted keys",
    "Set maxmemory-policy noeviction, and bring back from a backup what is missing.",
)
CHECK = Kind(Level.WARN, "findings-of-doctor", "{} findings of doctor", "See below.")
STARTING = Kind(Level.WARN, "the-page", "{} figures are missing", "Wait a moment.")
REFUSED = Kind(
    Level.WARN,
    "right-to-look",
    "{} rights are missing",
    "Send the users that `token-worker acl --passwords` prints to the server.",
)

KINDS = (
    *(AWAY, EVICTED, UNREADABLE, NONE_READY, NOBODY, BEHIND),
    *(NOT_READY, STUCK, IDLE, SILENT, DEAD, UNREAD, FULL, IDS, REFUSED, CHECK, STARTING),
)
"""All kinds, the worst first. A worker that is not ready tells a reason, so it stands before what follows from it."""

REASONS_MAX = 2
"""Most reasons of one kind in a sentence. The tables have all of them."""

ROUTE_KINDS = frozenset({UNREADABLE, NOBODY, IDLE, NONE_READY, BEHIND, STUCK, IDS})
"""Kinds whose subject is a stream of a route."""


class Trouble(NamedTuple):
    """One problem: its kind, what has it, and a sentence without a full stop.

    ``reason`` is a part of the sentence: what a worker says of itself. It is told, too, if several have the problem.
    """

    kind: Kind
    subject: str
    sentence: str
    reason: str = ""


class Problem(NamedTuple):
    """A line of the page: one problem, or several of a kind."""

    level: Level
    sentence: str
    remedy: str
    anchor: str


def find_troubles(look: Look) -> Iterator[Trouble]:
    """All problems, one by one."""
    yield from _away("streams", look.streams)
    for uses, seen in look.servers.items():
        if look.streams.trouble is None or "streams" not in uses:
            yield from _away(uses, seen)
        for server in seen.value or () if seen.trouble is None else ():
            yield from _server(uses, server)
    facts = look.streams.value
    if facts is None:
        if look.streams.trouble is None:
            yield Trouble(STARTING, "streams", "The first figures are on their way")
        return
    rows = own_rows(facts, look.group)
    for route in look.routes:
        yield from _of_route(route, facts, rows.get(route.requests))
    for row in facts.measured.rows:
        if row.group != look.group:
            yield from of_reader(row)
    yield from _dead(facts)
    yield from _workers(facts)
    refused = [*facts.refused]
    if look.keys is not None and look.keys.trouble is not None and look.keys.trouble.reason == "NOPERM":
        refused.append("names of keys (NOPERM)")
    for what in refused:
        if what.endswith("(NOPERM)"):
            yield Trouble(REFUSED, what, f"A right is missing: {what}")
        else:
            yield Trouble(UNREADABLE, what, f"Cannot be read: {what}")
    for check in look.checks.value or ():
        if check.status == "finding" and not is_shown_elsewhere(check):
            yield Trouble(CHECK, check.check, f"{check.check}: {check.message}")


def _of_route(route: Route, facts: StreamFacts, row: GroupLag | None) -> Iterator[Trouble]:
    """The problems of one route, ``row`` being the workers' group there."""
    stream = route.requests
    if stream in facts.measured.unknown:
        yield Trouble(UNREADABLE, stream, f"{stream} cannot be read ({facts.measured.unknown[stream]})")
        return
    if row is None:
        return
    alive = [worker for worker in facts.workers.get(stream, ()) if worker.is_alive]
    waiting = row.undelivered + row.pending
    if not alive and waiting:
        yield Trouble(NOBODY, stream, f"No worker reads {stream}, where {_requests(waiting)}")
    elif not alive:
        yield Trouble(IDLE, stream, f"No worker reads {stream}")
    elif all(worker.ready is False for worker in alive):
        yield Trouble(NONE_READY, stream, f"No worker of {stream} is ready: {_why(alive)}", _why(alive))
    oldest = row.oldest_undelivered_age_seconds
    if oldest is not None and oldest > FALLS_BEHIND_SECONDS:
        yield Trouble(BEHIND, stream, f"A request on {stream} has waited for {duration(oldest)}")
    oldest = row.oldest_pending_age_seconds
    if oldest is not None and oldest > STUCK_SECONDS:
        yield Trouble(STUCK, stream, f"A request on {stream} has been pending for {duration(oldest)}")
    for name in route.streams:
        if name in facts.measured.ids:
            yield Trouble(IDS, name, f"{name}: {facts.measured.ids[name].message}")


def of_reader(row: GroupLag) -> Iterator[Trouble]:
    """The problem of a group that reads replies."""
    oldest = row.oldest_undelivered_age_seconds
    if oldest is not None and oldest > REPLIES_UNREAD_SECONDS:
        sentence = f"Group {row.group} has not read the replies on {row.stream} for {duration(oldest)}"
        yield Trouble(UNREAD, f"{row.group} on {row.stream}", sentence)


def summed_up(troubles: list[Trouble]) -> list[Problem]:
    """Sum up problems of a kind. The worst kind comes first."""
    problems = []
    for kind in KINDS:
        found = list({trouble.subject: trouble for trouble in troubles if trouble.kind is kind}.values())
        if kind is CHECK and len(found) == 1:
            problems.append(Problem(kind.level, found[0].sentence, kind.remedy, anchor_of(found[0].subject)))
        elif len(found) == 1:
            problems.append(Problem(kind.level, found[0].sentence, kind.remedy, kind.anchor))
        elif found:
            problems.append(Problem(kind.level, _of_many(kind, found), kind.remedy, kind.anchor))
    return problems


def _of_many(kind: Kind, found: list[Trouble]) -> str:
    sentence, subjects = kind.many.format(len(found)), listed([trouble.subject for trouble in found])
    reasons = [*dict.fromkeys(trouble.reason for trouble in found if trouble.reason)]
    return f"{sentence} ({subjects}): {listed(reasons, REASONS_MAX)}" if reasons else f"{sentence}: {subjects}"


def own_rows(facts: StreamFacts, group: str) -> dict[str, GroupLag]:
    """The workers' group of each request stream."""
    return {row.stream: row for row in facts.measured.rows if row.group == group}


def by_consumer(facts: StreamFacts) -> dict[str, list[tuple[str, SeenWorker]]]:
    """The workers by name: their streams, and what each tells of them."""
    found: dict[str, list[tuple[str, SeenWorker]]] = {}
    for stream, workers in facts.workers.items():
        for worker in workers:
            found.setdefault(worker.consumer, []).append((stream, worker))
    return found


def silent_since(same: Sequence[SeenWorker], now: float) -> float | None:
    """The time of a worker's last sign on any stream, in Unix seconds; None if it is alive."""
    if any(worker.is_alive for worker in same):
        return None
    return now - min(worker.silent_seconds for worker in same)


def is_shown_elsewhere(check: Check) -> bool:
    """True for findings of ``doctor`` that the page shows in another way."""
    return check.check.endswith((": group", ": ids", ": reachable"))


def anchor_of(check: str) -> str:
    """The heading of a check of ``doctor``."""
    is_whole = check.startswith("layout: ")  # what others have there is the server, or the stream of a route
    return slug(check if is_whole else check.partition(": ")[2] or check)


def slug(heading: str) -> str:
    """The anchor of a heading, as repositories on the web make it."""
    return "".join(char for char in heading.lower().replace(" ", "-") if char.isalnum() or char in "-_")


def _away(name: str, seen: Seen[Any]) -> Iterator[Trouble]:
    if seen.trouble is not None:
        reason, since = seen.trouble
        does = f"{'cannot be used' if reason.isupper() else 'does not answer'}: {in_words(reason)}"
        if reason.startswith(OWN_ERROR):
            does = f"cannot be read ({reason})"
        yield Trouble(AWAY, name, f"The Redis for {name} {does}, since {clock(since)} UTC")


def _server(uses: str, server: ServerFacts) -> Iterator[Trouble]:
    name = f"{uses} at {server.node}" if server.node else uses
    if server.limit_bytes and server.used_bytes > MEMORY_PART * server.limit_bytes:
        part = server.used_bytes / server.limit_bytes
        yield Trouble(FULL, name, f"The Redis for {name} uses {part:.0%} of the memory that it may use")
    if server.evicted and "streams" not in uses:
        yield Trouble(
            EVICTED, name, f"The Redis for {name} has evicted {count(server.evicted)} keys: values may be lost"
        )


def _dead(facts: StreamFacts) -> Iterator[Trouble]:
    for stream, reasons in facts.dead.items():
        young = {
            name: reason
            for name, reason in reasons.by_reason.items()
            if reason.newest_ms is None or facts.now - reason.newest_ms / 1000 < DEAD_SECONDS
        }
        if young:
            yield Trouble(DEAD, stream, f"Requests were given up within a day, see {stream}: {listed([*young])}")


def _workers(facts: StreamFacts) -> Iterator[Trouble]:
    for name, at in by_consumer(facts).items():
        same = [worker for _, worker in at]
        since = silent_since(same, facts.now)
        if since is not None:
            yield Trouble(SILENT, name, f"Worker {name} is silent since {moment(since)} UTC")
        for worker in same:
            if worker.ready is False:
                yield Trouble(NOT_READY, name, f"Worker {name} is not ready: {_why([worker])}", _why([worker]))


def _why(workers: list[SeenWorker]) -> str:
    return next((worker.why for worker in workers if worker.why), "no reason is known")


def _requests(number: int) -> str:
    return "1 request waits" if number == 1 else f"{count(number)} requests wait"
