"""``token-worker lag --watch``: the tables of this moment, again and again, also while the streams are away.

While they are away the screen says so, since when and why, and keeps the last figures. It goes on by itself.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.styled import Styled
from rich.text import Text

from token_worker.admin.lag import Measured
from token_worker.admin.workers import RouteWorkers
from token_worker.cli.lag_view import BAD, QUIET, lag_table, workers_table
from token_worker.errors import Unavailable, in_words

INTERVAL_SECONDS = 1.0

OTHER_LINES = 10
"""Lines of the screen besides the rows of both tables: head, headings, captions."""

FEWEST_ROWS = 3
"""Rows of each table on the smallest screen."""


class Figures(NamedTuple):
    """The figures that are shown."""

    lag: Measured
    workers: Sequence[RouteWorkers]


class Screen:
    """The content of the screen, made of the last figures and of the error since then.

    Args:
        group: consumer group of the workers.
        server: address of the streams, as people know it.
    """

    def __init__(self, group: str, server: str) -> None:
        self._group = group
        self._server = server
        self._figures: Figures | None = None
        self._read_at: datetime | None = None
        self._away_since: datetime | None = None
        self._reason = ""

    def take(self, read: Callable[[], Figures]) -> None:
        """Read the figures, or note that the streams are away."""
        try:
            self._figures = read()
        except Unavailable as error:
            self._away_since = self._away_since or _now()
            self._reason = in_words(error.reason)
            return
        self._away_since, self._read_at = None, _now()

    def content(self, console: Console) -> RenderableType:
        """Return what is shown on this console now."""
        parts: list[RenderableType] = [self._head(), Text()]
        if self._figures is not None:
            rows = max(console.height - OTHER_LINES, 2 * FEWEST_ROWS)
            workers = sum(len({worker.consumer for worker in route.workers}) for route in self._figures.workers)
            for_workers = min(max(workers, FEWEST_ROWS), rows // 2)
            tables = Group(
                lag_table(self._figures.lag, self._group, rows - for_workers),
                Text(),
                workers_table(self._figures.workers, for_workers),
            )
            parts.append(tables if self._away_since is None else Styled(tables, QUIET))
        return Group(*parts)

    def _head(self) -> Text:
        if self._away_since is None:
            return Text(f"{self._server}  {_clock(self._read_at)}")
        head = Text(f"{self._server} is away since {_clock(self._away_since)}: {self._reason}", BAD)
        if self._read_at is not None:
            head.append(f"\nthe figures are of {_clock(self._read_at)}")
        return head


def watch(read: Callable[[], Figures], group: str, server: str) -> None:
    """Show the tables until Ctrl-C."""
    console = Console(markup=False, highlight=False)
    screen = Screen(group, server)
    try:
        screen.take(read)
        with Live(screen.content(console), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(INTERVAL_SECONDS)
                screen.take(read)
                live.update(screen.content(console), refresh=True)
    except KeyboardInterrupt:
        return


def watch_json(read: Callable[[], Measured], write: Callable[[Measured], None]) -> None:
    """Write all rows every second until Ctrl-C. While the streams are away, standard error says so once."""
    is_away = False
    try:
        while True:
            try:
                found = read()
            except Unavailable as error:
                if not is_away:
                    click.echo(f"{_clock(_now())} away: {error}", err=True)
                is_away = True
            else:
                if is_away:
                    click.echo(f"{_clock(_now())} available again", err=True)
                is_away = False
                write(found)
            time.sleep(INTERVAL_SECONDS)
    except KeyboardInterrupt:
        return


def _now() -> datetime:
    return datetime.now().astimezone()


def _clock(at: datetime | None) -> str:
    return "" if at is None else f"{at:%H:%M:%S}"
