"""``token-worker lag``: undelivered and pending entries of workers and of readers of replies."""

import os
import sys
from pathlib import Path

import click
import msgspec

from token_worker.admin.lag import Measured, measure
from token_worker.admin.workers import RouteWorkers, read_workers
from token_worker.cli.lag_view import lag_table, workers_table
from token_worker.cli.lag_watch import Figures, watch_json
from token_worker.cli.lag_watch import watch as watch_tables
from token_worker.cli.terminal import check_reach, table_console
from token_worker.redis.connect import make_link
from token_worker.redis.exchange import drive
from token_worker.settings import load
from token_worker.settings.options import Settings


@click.command(epilog="Example: token-worker lag --max-lag 10000 --max-age-seconds 60")
@click.option("--watch", is_flag=True, help="Refresh the tables every second, through outages, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, for programs.")
@click.option("--max-lag", type=click.IntRange(0), help="Exit status 1 if more entries are undelivered.")
@click.option("--max-pending", type=click.IntRange(0), help="Exit status 1 if more entries are pending.")
@click.option(
    "--max-age-seconds",
    type=click.FloatRange(0),
    help="Exit status 1 if an entry has waited longer, or for an unknown time.",
)
@click.option("--serve", metavar="HOST:PORT", help="Serve the metrics of `token-worker monitor` alone.")
@click.pass_obj
def lag(
    config: Path | None,
    *,
    watch: bool,
    as_json: bool,
    max_lag: int | None,
    max_pending: int | None,
    max_age_seconds: float | None,
    serve: str | None,
) -> None:
    """Show how many entries of each route are undelivered and pending, how old they are, and how many consumers read.

    Consumer groups of response streams are shown, too: a producer that stops reading is an outage as well. The command
    needs no key.

    Exit status 3: some streams cannot be reached. They are named. In a cluster, the other streams are still shown.
    """
    has_limits = any(limit is not None for limit in (max_lag, max_pending, max_age_seconds))
    if serve is not None and (watch or as_json or has_limits):
        raise click.UsageError("--serve exports metrics and checks no limits: leave the other options out")
    if watch and has_limits:
        raise click.UsageError("--watch checks no limits: leave it or the --max options out")
    if watch and not as_json and not sys.stdout.isatty():
        raise click.UsageError("--watch draws on a terminal: into a file or a pipe, add --json")
    settings = load(os.environ, config)
    if serve is not None:
        from token_worker.cli.monitor import serve_metrics  # noqa: PLC0415 - brings a template engine

        serve_metrics(serve, settings)
        return
    link = make_link("streams", settings.streams, raise_server_errors=True)

    def read() -> Measured:
        return drive(measure(settings.routes, settings.group), link)

    def read_all_workers() -> list[RouteWorkers]:
        return drive(read_workers(settings.routes, settings.group), link)

    if watch:
        if as_json:
            watch_json(read, _print_json)
        else:
            watch_tables(
                lambda: Figures(read(), read_all_workers()), settings.group, f"streams at {settings.streams.server}"
            )
        return
    found = read()
    if as_json:
        _print_json(found)
    else:
        table_console().print(lag_table(found, settings.group), "", workers_table(read_all_workers()), sep="\n")
    for stream, finding in found.ids.items():
        click.echo(f"{stream}: {finding.message}; {finding.remedy}", err=True)
    broken = [*_broken(found, settings, max_lag, max_pending, max_age_seconds)]
    for line in broken:
        click.echo(line, err=True)
    check_reach(found.unknown)
    if broken:
        raise SystemExit(1)


def _broken(
    found: Measured,
    settings: Settings,
    max_lag: int | None,
    max_pending: int | None,
    max_age_seconds: float | None,
) -> list[str]:
    """Return a line for every exceeded limit. Limits apply to the workers' group of each request stream."""
    requests = {route.requests for route in settings.routes}
    lines = []
    for row in found.rows:
        if row.stream not in requests or row.group != settings.group:
            continue
        ages = (row.oldest_undelivered_age_seconds, row.oldest_pending_age_seconds)
        oldest = max((age for age in ages if age is not None), default=0.0)
        for name, figure, limit in (
            ("--max-lag", row.undelivered, max_lag),
            ("--max-pending", row.pending, max_pending),
            ("--max-age-seconds", oldest, max_age_seconds),
        ):
            if limit is not None and figure > limit:
                lines.append(f"{row.stream}: {name} {limit:g} is exceeded: {figure:g}")
        if max_age_seconds is not None and oldest <= max_age_seconds and row.has_unknown_age:
            why = found.ids[row.stream].message if row.stream in found.ids else "ids are not times"
            lines.append(f"{row.stream}: --max-age-seconds {max_age_seconds:g} cannot be checked: {why}")
    return lines


def _print_json(found: Measured) -> None:
    for row in found.rows:
        click.echo(msgspec.json.encode(row).decode())
