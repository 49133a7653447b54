"""Rows of the table of routes, with their plots. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from token_worker.admin.lag import GroupLag
from token_worker.monitor import plot, words
from token_worker.monitor.look import Look, RouteHour
from token_worker.monitor.problems import ROUTE_KINDS, SIGNS, Level, Trouble, own_rows
from token_worker.monitor.streams import StreamFacts
from token_worker.monitor.words import NONE
from token_worker.streams.routes import Route

STEADY_PART = 0.05
"""Rates that differ by less are the same: a batch that was just read makes such a difference."""


class Plot(NamedTuple):
    """The hour of a route: paths of SVG, the values at the upper edges, and the same in words."""

    waiting: str
    come: str
    go: str
    most_waiting: str
    most_rate: str
    words: str


class RouteRow(NamedTuple):
    """A row of the table of routes."""

    level: Level
    sign: str
    name: str
    why: str
    undelivered: str
    pending: str
    oldest: str
    come: str
    go: str
    drain: str
    workers: int
    dead: str
    plot: Plot


def route_rows(look: Look, facts: StreamFacts, troubles: Iterable[Trouble]) -> list[RouteRow]:
    """All routes with their troubles, the worst first."""
    rows = own_rows(facts, look.group)
    of_streams: dict[str, list[Trouble]] = {}
    for trouble in troubles:
        if trouble.kind in ROUTE_KINDS:
            of_streams.setdefault(trouble.subject, []).append(trouble)
    found = []
    for route in look.routes:
        mine = [*dict.fromkeys(trouble for name in route.streams for trouble in of_streams.get(name, ()))]
        found.append(_route(route, facts, rows.get(route.requests), look.hours[route.requests], mine))
    found.sort(key=lambda one: (-one[1].level, -one[0], one[1].name))
    return [row for _, row in found]


def _route(
    route: Route, facts: StreamFacts, row: GroupLag | None, hour: RouteHour, troubles: list[Trouble]
) -> tuple[int, RouteRow]:
    """The row of a route, and how many requests wait."""
    level = max((trouble.kind.level for trouble in troubles), default=Level.GOOD)
    waiting = 0 if row is None else row.undelivered + row.pending
    ages = () if row is None else (row.oldest_undelivered_age_seconds, row.oldest_pending_age_seconds)
    oldest = max((age for age in ages if age is not None), default=None)
    come, go = hour.rates
    return waiting, RouteRow(
        level=level,
        sign=SIGNS[level],
        name=route.requests,
        why=". ".join(trouble.sentence for trouble in troubles),
        undelivered=NONE if row is None else f"{'' if row.exact else '≥ '}{words.count(row.undelivered)}",
        pending=NONE if row is None else words.count(row.pending),
        oldest=("unknown" if row is not None and waiting else NONE) if oldest is None else words.duration(oldest),
        come=words.rate(come),
        go=words.rate(go),
        drain=_drain(waiting, come, go),
        workers=sum(worker.is_alive for worker in facts.workers.get(route.requests, ())),
        dead=NONE if row is None or row.dead_letters is None else words.count(row.dead_letters),
        plot=_plot(hour),
    )


def _drain(waiting: int, come: float | None, go: float | None) -> str:
    """The time until nothing waits, if the rates stay."""
    if not waiting:
        return NONE
    if come is None or go is None:
        return "unknown"
    if go == come == 0:
        return "never"
    if abs(go - come) <= STEADY_PART * max(go, come):
        return "steady"
    if go < come:
        return "grows"
    return words.duration(waiting / (go - come))


def _plot(hour: RouteHour) -> Plot:
    waiting, come, go, end = hour.hour
    most_waiting = _most(waiting)
    most_rate = max(_most(come), _most(go))
    figures = [value for value in waiting if value is not None]
    text = "No figures yet"
    if figures:
        text = (
            f"The hour until {words.clock(end)} UTC: at most {words.count(most_waiting)} waited,"
            f" {words.count(figures[-1])} at the end; at most {words.rate(_most(come))} a second came and"
            f" {words.rate(_most(go))} were answered"
        )
    return Plot(
        waiting=plot.area(waiting, max(most_waiting, 1)),
        come=plot.line(come, max(most_rate, 1e-9)),
        go=plot.line(go, max(most_rate, 1e-9)),
        most_waiting=words.count(most_waiting),
        most_rate=words.rate(most_rate),
        words=text,
    )


def _most(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)
