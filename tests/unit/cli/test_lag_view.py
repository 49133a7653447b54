"""The tables of lag and of workers fit a terminal of 80 columns, whatever they show."""

from io import StringIO
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec import structs
from rich.console import Console
from rich.table import Table

from token_worker.admin.lag import GroupLag, Measured
from token_worker.admin.workers import RouteWorkers, SeenWorker
from token_worker.cli.app import app
from token_worker.cli.lag_view import age, lag_table, workers_table

LONG = "a-tenant-with-a-rather-long-name:of-a-department:tokenize:requests"


def row(stream: str = LONG, **members: Any) -> GroupLag:
    """A row with the widest figures."""
    widest: dict[str, Any] = {
        "group": "workers",
        "undelivered": 1_234_567,
        "exact": False,
        "pending": 12_345,
        "oldest_undelivered_age_seconds": 5999.0,
        "oldest_pending_age_seconds": 99.94,
        "max_deliveries": 10,
        "consumers": 50,
        "dead_consumers": 7,
        "dead_letters": 1_234_567,
        "lag_known": True,
        "ids_ahead_seconds": 0.0,
    }
    return GroupLag(stream=stream, **{**widest, **members})


def measured(*rows: GroupLag) -> Measured:
    return Measured([*rows], {}, {}, {})


def worker(consumer: str, **members: Any) -> SeenWorker:
    known: dict[str, Any] = {"idle_seconds": 0.3, "pending": 0, "version": "10.20.30", "ready": True}
    return SeenWorker(consumer=consumer, **{**known, **members})


def lines(table: Table, width: int = 80) -> list[str]:
    """Return the text on a terminal of this width."""
    out = StringIO()
    Console(file=out, width=width, markup=False, highlight=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_widest_figures_fit_80_columns() -> None:
    """Headings and figures stand whole in 80 columns; long names are folded, and nothing of them is lost."""
    shown = lines(lag_table(measured(row(), row(group="their-readers")), "workers"))
    assert shown[1].split() == ["stream", "undelivered", "age", "pending", "age", "tries", "alive", "letters"]
    figures = "1,234,567+ 99 min 12,345 99.9 s 10 50 of 57 1,234,567"
    assert [line for line in shown if " ".join(line.split()).endswith(figures)] == [
        shown[2],
        shown[2 + len(shown[2:]) // 2],
    ]
    names = "".join(line[: shown[1].index("undelivered")].strip() for line in shown[2:])
    assert LONG in names
    assert "their-readers" in names


def test_worker_is_one_line_over_all_its_routes() -> None:
    """A worker of many routes has one line: the sum of its entries, the shortest idle time, and the reason below."""
    name = "token-worker-7d9f8c6b5d-x2x4z-1-0a1b2c3d"
    routes = [
        RouteWorkers(
            stream=f"in{n}", workers=(worker(name, pending=2, idle_seconds=5.0 + n, ready=False, why="vault"),)
        )
        for n in range(200)
    ]
    shown = lines(workers_table(routes))
    assert [" ".join(line.split()) for line in shown[1:3]] == [f"{name} 200 5.0 s 400 10.20.30 not ready", "vault"]
    assert max(map(len, shown)) <= 80


def test_workers_that_are_gone_are_counted() -> None:
    """Workers that are gone hide none that runs: they are counted unless they still hold entries."""
    gone = [worker(f"gone-{n}", idle_seconds=500.0, ready=None) for n in range(30)]
    holding = worker("holding", idle_seconds=500.0, pending=3, ready=None)
    shown = lines(workers_table([RouteWorkers(stream="in", workers=(*gone, holding, worker("runs")))]))
    assert [line.split()[0] for line in shown] == ["worker", "holding", "runs", "and"]
    assert shown[1].endswith("silent for 8 min")
    assert shown[-1].strip() == "and 30 that are gone and hold nothing"


def test_what_cannot_be_known_is_said() -> None:
    """Versions that may not be read, and workers that are not there, are said in words."""
    shown = lines(workers_table([RouteWorkers(stream="in", notes_unknown="NOPERM")]))
    assert [line.strip() for line in shown[1:]] == ["no worker reads", "versions cannot be read: NOPERM"]
    unknown = row("in", oldest_undelivered_age_seconds=None, undelivered=3, exact=True)
    assert lines(lag_table(measured(unknown), "workers"))[2].split()[1:3] == ["3", "?"]


def test_small_screen_shows_the_longest_waits() -> None:
    """If not all rows have room, the longest waits are shown, in their order, and the others are counted."""
    rows = [row(f"in{n}", pending=0, oldest_pending_age_seconds=None) for n in range(200)]
    rows = [structs.replace(row, oldest_undelivered_age_seconds=float(n % 50)) for n, row in enumerate(rows)]
    shown = lines(lag_table(measured(*rows), "workers", room=4))
    assert [line.split()[0] for line in shown[2:-1]] == ["in49", "in99", "in149", "in199"]
    assert shown[-1].strip().startswith("and 196 more")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (99.9, "99.9 s"),
        (100.0, "1 min"),
        (5999.0, "99 min"),
        (6000.0, "1 h"),
        (9e6, "104 d"),
    ],
)
def test_ages_are_short(seconds: float | None, text: str) -> None:
    """An age has one unit and at most six characters."""
    assert age(seconds) == text


def test_watch_needs_a_terminal() -> None:
    """Into a file or a pipe the tables are not drawn: the command says what to add."""
    done = CliRunner().invoke(app, ["lag", "--watch"])
    assert done.exit_code == 2
    assert "add --json" in done.output
