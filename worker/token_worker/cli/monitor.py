"""``token-worker monitor``: a page for operators, and metrics for Prometheus."""

import os
import threading
from pathlib import Path

import click
import msgspec
from prometheus_client import CollectorRegistry

from token_worker.admin.lag import measure
from token_worker.admin.lag_exporter import LagCollector
from token_worker.admin.workers import read_workers
from token_worker.monitor.collector import Collector
from token_worker.monitor.guard import Guard, TokenFile, is_loopback
from token_worker.monitor.render import render_page
from token_worker.monitor.site import Site
from token_worker.monitor.streams import until_first_outage
from token_worker.monitor.view import make_page
from token_worker.redis.connect import make_link
from token_worker.redis.exchange import Exchange, T, drive
from token_worker.settings import load
from token_worker.settings.listen_address import ListenAddress
from token_worker.settings.options import Settings
from token_worker.telemetry.http_server import serve_pages

_SECRETS = ("ACRA_MASTER_KEY", "ACRA_MASTER_KEY_PREVIOUS", "VAULT_TOKEN", "VAULT_API_TOKEN", "BAO_TOKEN")


@click.command(epilog="Example: token-worker monitor --serve 127.0.0.1:9300")
@click.option("--serve", "address", metavar="HOST:PORT", default="127.0.0.1:9300", help="Where to listen.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with the password of the page (HTTP Basic, any user) and of the metrics (Basic or Bearer).",
)
@click.option("--metrics-open", is_flag=True, help="Serve the metrics to everybody, without a password.")
@click.pass_obj
def monitor(config: Path | None, *, address: str, token_file: Path | None, metrics_open: bool) -> None:
    """Serve a page that shows what waits, who works, what failed and what to do, and metrics for Prometheus.

    The page refreshes itself. It shows names and figures, and never a payload, a value or a key. The command only
    reads. Its settings are those of a worker, with the users `token-monitor` that `token-worker acl` prints for each
    server. It uses no master key and no Vault.

    Without --token-file, the page is served on this machine alone, for requests to localhost.
    """
    token = None if token_file is None else TokenFile(token_file)
    place = _place(address)
    settings = _without_secrets(load(os.environ, config))
    collector = Collector(settings)
    guard = Guard(token, metrics_open=metrics_open)

    def page(refreshes: bool) -> bytes:
        made = make_page(collector.look())
        return render_page(made, made.refresh_seconds if refreshes else None)

    site = Site(guard, metrics_of(settings), page, lambda: all(source.is_alive for source in collector.sources))
    in_use = serve_pages(place, site.handler(), "--serve")
    guard.is_local = is_loopback(in_use.host)
    if not guard.is_local and token is None and not metrics_open:
        raise click.UsageError("--serve listens beyond this machine: name a --token-file, or serve --metrics-open")
    collector.start()
    click.echo(f"the page is at http://{in_use}/", err=True)
    wait_for_end()
    collector.stop()


def serve_metrics(address: str, settings: Settings) -> None:
    """Serve the metrics alone, to everybody, until SIGINT. Errors as by ``serve_pages``."""
    site = Site(Guard(None, metrics_open=True), metrics_of(settings))
    serve_pages(_place(address), site.handler(), "--serve")
    wait_for_end()


SIGNAL_SECONDS = 1.0
"""Longest wait in a row. Python notices a signal that comes in the instant before a wait only after it."""


def wait_for_end() -> None:
    """Wait for SIGINT."""
    try:
        while not threading.Event().wait(SIGNAL_SECONDS):
            pass
    except KeyboardInterrupt:
        return


def _place(address: str) -> ListenAddress:
    try:
        return ListenAddress.parse(address)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--serve") from None


def metrics_of(settings: Settings) -> CollectorRegistry:
    """The metrics of all routes, measured at each scrape."""
    link = make_link("streams", settings.streams, raise_server_errors=True)

    def run(exchange: Exchange[T]) -> T:
        return drive(exchange if settings.streams.kind == "cluster" else until_first_outage(exchange), link)

    registry = CollectorRegistry()
    registry.register(
        LagCollector(
            lambda: run(measure(settings.routes, settings.group)),
            lambda: run(read_workers(settings.routes, settings.group)),
        )
    )
    return registry


def _without_secrets(settings: Settings) -> Settings:
    """Drop what the monitor must not have, and tell who left it in the environment."""
    for name in _SECRETS:
        if os.environ.pop(name, None) is not None:
            click.echo(f"{name} is set, and the monitor does not use it: leave it out of its environment", err=True)
    none: dict[str, None] = dict.fromkeys(("master_key", "master_key_file", "master_key_previous", "vault"))
    return msgspec.structs.replace(settings, **none)
