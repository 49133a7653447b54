"""Tables of lag and of workers, for a terminal of 80 columns. Names are folded; figures never are.

Colours say what needs a look: red for what somebody has to mend, yellow for what waits. ``NO_COLOR`` switches them off.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec
from rich.table import Table
from rich.text import Text

from token_worker.admin.lag import GroupLag, Measured
from token_worker.admin.workers import RouteWorkers, SeenWorker

BAD = "red"
WAITING = "yellow"
QUIET = "dim"

SLOW_SECONDS = 60.0
"""Age from which an entry that waits is shown as trouble."""


def lag_table(found: Measured, group: str, room: int | None = None) -> Table:
    """Make the table of the groups of all streams.

    Args:
        found: the lag.
        group: consumer group of the workers. Other groups are named below their stream.
        room: most rows to show. Rows of groups with nothing to do are left out first, and the caption tells how many.
    """
    table = _table("stream")
    for heading in ("undelivered", "age", "pending", "age", "tries", "alive", "dead\nletters"):
        table.add_column(heading, justify="right", no_wrap=True)
    rows, left_out = _fit(found.rows, room)
    for row in rows:
        table.add_row(*_lag_cells(row, group))
    captions = [f"and {left_out:,} more with nothing that waits longer"] if left_out else []
    captions += [f"out of reach: {', '.join(found.unknown)}"] if found.unknown else []
    captions += [f"{stream}: {finding.message}" for stream, finding in found.ids.items()]
    return _captioned(table, captions)


def workers_table(routes: Sequence[RouteWorkers], room: int | None = None) -> Table:
    """Make the table of all workers by name, each over all of its routes.

    Args:
        routes: the workers of each route.
        room: most workers to show. The caption tells how many are left out.
    """
    table = _table("worker")
    for heading in ("routes", "idle", "pending", "version", "state"):
        table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
    everybody = sorted((each for route in routes for each in route.workers), key=lambda each: each.consumer)
    rows = [_over_routes([*same]) for _, same in groupby(everybody, key=lambda each: each.consumer)]
    gone = [worker for worker, _ in rows if not worker.is_alive and not worker.pending]
    rows = [(worker, count) for worker, count in rows if worker not in gone]
    shown = rows if room is None else rows[:room]
    for worker, count in shown:
        table.add_row(*_worker_cells(worker, count))
    captions = [f"and {len(rows) - len(shown):,} more workers"] if len(shown) < len(rows) else []
    captions += [] if rows else ["no worker reads"]
    captions += [f"and {len(gone):,} that are gone and hold nothing"] if gone else []
    reasons = dict.fromkeys(route.notes_unknown for route in routes if route.notes_unknown)
    captions += [f"versions cannot be read: {', '.join(map(str, reasons))}"] if reasons else []
    return _captioned(table, captions)


def age(seconds: float | None) -> str:
    """Write an age in at most six characters; nothing for None."""
    if seconds is None:
        return ""
    for unit, size, most in (("s", 1.0, 100.0), ("min", 60.0, 6000.0), ("h", 3600.0, 360_000.0)):
        if seconds < most:
            return f"{seconds:.1f} s" if size == 1.0 else f"{int(seconds / size)} {unit}"
    return f"{int(seconds / 86_400):,} d"


def _table(name: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column(name, overflow="fold", min_width=12)
    return table


def _captioned(table: Table, captions: Iterable[str]) -> Table:
    table.caption = "\n".join(captions) or None
    return table


def _fit(rows: Sequence[GroupLag], room: int | None) -> tuple[Sequence[GroupLag], int]:
    """Choose the rows for which there is room, the longest waits. Returns also how many are left out."""
    if room is None or len(rows) <= room:
        return rows, 0

    def urgency(row: GroupLag) -> tuple[bool, float, int]:
        ages = (row.oldest_undelivered_age_seconds or 0.0, row.oldest_pending_age_seconds or 0.0)
        return row.has_unknown_age, max(ages), row.undelivered + row.pending

    chosen = {id(row) for row in sorted(rows, key=urgency, reverse=True)[:room]}
    return [row for row in rows if id(row) in chosen], len(rows) - room


def _lag_cells(row: GroupLag, group: str) -> list[Text]:
    name = Text(row.stream)
    if row.group != group:
        name.append(f"\n  {row.group}", QUIET)
    all_consumers = row.consumers + row.dead_consumers
    alive = f"{row.consumers} of {all_consumers}" if row.dead_consumers else str(row.consumers)
    waits = row.undelivered + row.pending > 0
    return [
        name,
        _count(row.undelivered, WAITING, suffix="" if row.exact else "+"),
        _waiting_age(row.undelivered, row.oldest_undelivered_age_seconds),
        _count(row.pending, ""),
        _waiting_age(row.pending, row.oldest_pending_age_seconds),
        _count(row.max_deliveries, WAITING if row.max_deliveries > 1 else ""),
        Text(alive, BAD if waits and not row.consumers else ""),
        Text("") if row.dead_letters is None else _count(row.dead_letters, BAD),
    ]


def _count(number: int, style: str, suffix: str = "") -> Text:
    return Text(f"{number:,}{suffix}", style if number else QUIET)


def _waiting_age(number: int, seconds: float | None) -> Text:
    if number and seconds is None:
        return Text("?", WAITING)
    return Text(age(seconds), BAD if seconds is not None and seconds >= SLOW_SECONDS else "")


def _over_routes(same: Sequence[SeenWorker]) -> tuple[SeenWorker, int]:
    """Join what the routes tell of one worker: the shortest time, all entries, the latest note."""
    newest = min(same, key=lambda worker: float("inf") if (noted := worker.noted_seconds_ago) is None else noted)
    idle = [worker.idle_seconds for worker in same if worker.idle_seconds is not None]
    pending = sum(worker.pending for worker in same)
    return msgspec.structs.replace(newest, idle_seconds=min(idle, default=None), pending=pending), len(same)


def _worker_cells(worker: SeenWorker, routes: int) -> list[Text]:
    state, style = _state(worker)
    name = Text(worker.consumer)
    if worker.why is not None:
        name.append(f"\n  {worker.why}", style)
    counts = (str(routes), age(worker.idle_seconds), f"{worker.pending:,}", worker.version or "")
    return [name, *map(Text, counts), Text(state, style)]


def _state(worker: SeenWorker) -> tuple[str, str]:
    if not worker.is_alive:
        return f"silent for {age(worker.silent_seconds)}", BAD
    if worker.ready is None:
        return "reads", ""
    return ("ready", "green") if worker.ready else ("not ready", BAD)
