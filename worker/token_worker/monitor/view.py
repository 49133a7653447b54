"""The page as plain text and numbers, ready for the template. Pure: the same look gives the same page."""

from collections.abc import Sequence
from typing import NamedTuple

from token_worker import __version__
from token_worker.monitor import words
from token_worker.monitor.look import Look
from token_worker.monitor.problems import AWAY, SIGNS, Level, Problem, find_troubles, summed_up
from token_worker.monitor.route_rows import RouteRow, route_rows
from token_worker.monitor.server_rows import (
    CheckRow,
    KeyRow,
    ServerRow,
    check_rows,
    checks_note,
    key_rows,
    left_out,
    server_rows,
)
from token_worker.monitor.stream_rows import (
    DeadRow,
    ReaderRow,
    WorkerRow,
    dead_note,
    dead_rows,
    reader_rows,
    worker_rows,
)
from token_worker.monitor.words import number_of

REFRESH_SECONDS = 5
AWAY_REFRESH_SECONDS = 2
"""Time after which the page refreshes itself, and while a server is away."""

ROWS_MAX = 500
"""Most rows of a table. The rest is counted."""


class Page(NamedTuple):
    """All that the template needs.

    Attributes:
        level, sign: of the worst problem.
        headline: one sentence: all is well, or the worst problem.
        problems: all problems, the worst first.
        refresh_seconds: time after which the page is made anew.
        stale: since when the streams are away; empty if they are not.
        read_at, read_iso: when the streams were read last.
        cut: by table, how many rows are left out.
    """

    level: Level
    sign: str
    headline: str
    problems: list[Problem]
    refresh_seconds: int
    stale: str
    read_at: str
    read_iso: str
    routes: list[RouteRow]
    workers: list[WorkerRow]
    dead: list[DeadRow]
    dead_note: str
    readers: list[ReaderRow]
    servers: list[ServerRow]
    keys: list[KeyRow]
    keys_note: str
    checks: list[CheckRow]
    checks_note: str
    left_out: list[tuple[str, str]]
    cut: dict[str, int]
    version: str
    group: str


def make_page(look: Look) -> Page:
    """Make the page from what is known."""
    troubles = [*find_troubles(look)]
    problems = summed_up(troubles)
    level = max((problem.level for problem in problems), default=Level.GOOD)
    facts = look.streams.value
    routes = [] if facts is None else route_rows(look, facts, troubles)
    workers = [] if facts is None else worker_rows(facts)
    dead = [] if facts is None else dead_rows(facts)
    readers = [] if facts is None else reader_rows(facts, look.group)
    tables: dict[str, Sequence[object]] = {"routes": routes, "workers": workers, "dead": dead, "readers": readers}
    keys, keys_note = key_rows(look)
    read_at = words.moment(look.streams.at or look.at)
    return Page(
        level=level,
        sign=SIGNS[level],
        headline=_headline(problems, routes, workers),
        problems=problems,
        refresh_seconds=AWAY_REFRESH_SECONDS if any(it.kind is AWAY for it in troubles) else REFRESH_SECONDS,
        stale=_stale(look),
        read_at=read_at,
        read_iso=f"{read_at.replace(' ', 'T')}Z",
        routes=routes[:ROWS_MAX],
        workers=workers[:ROWS_MAX],
        dead=dead[:ROWS_MAX],
        dead_note="" if facts is None else dead_note(facts),
        readers=readers[:ROWS_MAX],
        servers=server_rows(look, troubles),
        keys=keys,
        keys_note=keys_note,
        checks=check_rows(look),
        checks_note=checks_note(look),
        left_out=left_out(look),
        cut={name: len(rows) - ROWS_MAX for name, rows in tables.items() if len(rows) > ROWS_MAX},
        version=__version__,
        group=look.group,
    )


def _headline(problems: list[Problem], routes: list[RouteRow], workers: list[WorkerRow]) -> str:
    if problems:
        return problems[0].sentence
    alive = sum(row.level == Level.GOOD for row in workers)
    return f"All is well: {number_of(alive, 'worker')} on {number_of(len(routes), 'route')}"


def _stale(look: Look) -> str:
    if look.streams.trouble is None or look.streams.value is None:
        return ""
    since = look.streams.trouble.since
    return (
        f"The streams have been away since {words.clock(since)} UTC, for {words.duration(look.at - since)}."
        f" What is below was read at {words.moment(look.streams.at)} UTC."
    )
