"""Rows of the tables of workers, dead letters and readers of replies. Pure."""

from typing import NamedTuple

from token_worker.admin.workers import SeenWorker
from token_worker.monitor import words
from token_worker.monitor.problems import NOT_READY, SIGNS, SILENT, Level, by_consumer, of_reader, silent_since
from token_worker.monitor.streams import StreamFacts
from token_worker.monitor.words import NONE


class WorkerRow(NamedTuple):
    """A row of the table of workers."""

    level: Level
    sign: str
    name: str
    host: str
    version: str
    state: str
    started: str
    idle: str
    pending: str
    streams: str


class DeadRow(NamedTuple):
    """A row of the table of dead letters."""

    stream: str
    reason: str
    number: str
    newest: str


class ReaderRow(NamedTuple):
    """A row of the table of readers of replies."""

    level: Level
    sign: str
    stream: str
    group: str
    undelivered: str
    pending: str
    oldest: str
    consumers: int


def worker_rows(facts: StreamFacts) -> list[WorkerRow]:
    """All workers, the worst first."""
    rows = [_worker(name, at, facts.now) for name, at in by_consumer(facts).items()]
    rows.sort(key=lambda row: (-row.level, row.name))
    return rows


def _worker(name: str, at: list[tuple[str, SeenWorker]], now: float) -> WorkerRow:
    """The row of a worker, which is a consumer of each of its streams."""
    same = [worker for _, worker in at]
    one = min(same, key=_age_of_note)
    idle = min((worker.idle_seconds for worker in same if worker.idle_seconds is not None), default=None)
    pending = sum(worker.pending for worker in same)
    level, state = _state(one, silent_since(same, now), pending)
    return WorkerRow(
        level=level,
        sign=SIGNS[level],
        name=name,
        host=one.host or NONE,
        version=one.version or NONE,
        state=state,
        started=NONE if one.started is None else f"{words.duration(now - one.started)} ago",
        idle="never read" if idle is None else words.duration(idle),
        pending=words.count(pending),
        streams=words.listed([stream for stream, _ in at], 2),
    )


def _age_of_note(worker: SeenWorker) -> float:
    return float("inf") if worker.noted_seconds_ago is None else worker.noted_seconds_ago


def _state(worker: SeenWorker, since: float | None, pending: int) -> tuple[Level, str]:
    if since is not None:
        silent = f"silent since {words.moment(since)} UTC"
        return SILENT.level, f"{silent}, and has pending entries" if pending else silent
    if worker.ready is None:
        return Level.GOOD, "reads"
    if worker.ready:
        return Level.GOOD, "ready"
    return NOT_READY.level, f"not ready: {worker.why or 'no reason is known'}"


def dead_rows(facts: StreamFacts) -> list[DeadRow]:
    """The reasons of each dead-letter stream, the newest first."""
    found = [
        (-1 if reason.newest_ms is None else -reason.newest_ms, stream, name, reason)
        for stream, reasons in facts.dead.items()
        for name, reason in reasons.by_reason.items()
    ]
    found.sort(key=lambda one: one[:3])
    return [
        DeadRow(
            stream,
            name,
            words.count(reason.count),
            "unknown"
            if reason.newest_ms is None
            else f"{words.moment(reason.newest_ms / 1000)} ({words.duration(facts.now - reason.newest_ms / 1000)} ago)",
        )
        for _, stream, name, reason in found
    ]


def dead_note(facts: StreamFacts) -> str:
    """The sentence about rows that are left out; empty if they are whole."""
    cut = [
        f"{stream}: the newest {words.count(found.looked_at)} of {words.count(found.length)}"
        for stream, found in facts.dead.items()
        if found.looked_at < found.length
    ]
    return f"Only the newest were looked at. {words.listed(cut)}." if cut else ""


def reader_rows(facts: StreamFacts, group: str) -> list[ReaderRow]:
    """Groups other than the workers', the one that is furthest behind first."""
    rows = []
    for row in facts.measured.rows:
        if row.group == group:
            continue
        level = max((trouble.kind.level for trouble in of_reader(row)), default=Level.GOOD)
        ages = (row.oldest_undelivered_age_seconds, row.oldest_pending_age_seconds)
        oldest = max((age for age in ages if age is not None), default=None)
        undelivered = f"{'' if row.exact else '≥ '}{words.count(row.undelivered)}"
        age = NONE if oldest is None else words.duration(oldest)
        rows.append(
            (
                -(oldest or 0),
                ReaderRow(
                    level,
                    SIGNS[level],
                    row.stream,
                    row.group,
                    undelivered,
                    words.count(row.pending),
                    age,
                    row.consumers,
                ),
            )
        )
    rows.sort(key=lambda one: (one[0], one[1].stream, one[1].group))
    return [row for _, row in rows]
