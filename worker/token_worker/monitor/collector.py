"""Collects what the page shows. Uses connections of its own for each source, and never writes."""

import threading
import time
from collections.abc import Callable
from typing import Any

from token_worker.admin.lag import GroupLag
from token_worker.monitor.checks import Checks
from token_worker.monitor.history import History, Sample
from token_worker.monitor.key_names import KeyNames
from token_worker.monitor.look import Look, RouteHour
from token_worker.monitor.servers import ServerFacts, places, read_servers
from token_worker.monitor.source import Source
from token_worker.monitor.streams import StreamFacts, read_streams, until_first_outage
from token_worker.redis.address import RedisSettings
from token_worker.redis.connect import make_link, make_primary_link
from token_worker.redis.exchange import drive
from token_worker.redis.link import Link
from token_worker.settings.options import Settings

STREAMS_SECONDS = 5.0
SERVERS_SECONDS = 10.0
KEYS_SECONDS = 5.0
CHECKS_SECONDS = 60.0
"""Time between two reads of each source."""


class Collector:
    """Reads all sources in threads, and keeps an hour of each route.

    Args:
        settings: those of a worker, with the monitor's users.
        clock: Unix seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._histories = {route.requests: History() for route in settings.routes}
        self._lock = threading.Lock()  # of the histories
        self._streams_link = make_link("streams", settings.streams, raise_server_errors=True)
        self.streams = Source("streams", self._read_streams, STREAMS_SECONDS, clock)
        self.servers = {
            uses: Source(f"server-{uses}", _server_reader(uses, address), SERVERS_SECONDS, clock)
            for uses, address in places(settings).items()
        }
        self.keys = None
        if settings.keys_source == "redis":
            names = KeyNames(make_primary_link("keys", settings.keys, raise_server_errors=True), settings.keys_folder)
            self.keys = Source("keys", names.look, KEYS_SECONDS, clock)
        self.checks = Source("checks", Checks(settings).look, CHECKS_SECONDS, clock)

    @property
    def sources(self) -> list[Source[Any]]:
        """All sources."""
        return [self.streams, *self.servers.values(), *([] if self.keys is None else [self.keys]), self.checks]

    def start(self) -> None:
        """Start the threads."""
        for source in self.sources:
            source.start()

    def stop(self) -> None:
        """Let the threads end."""
        for source in self.sources:
            source.stop()

    def look(self) -> Look:
        """Everything that is known now."""
        with self._lock:
            hours = {name: RouteHour(history.hour(), history.rates()) for name, history in self._histories.items()}
        return Look(
            at=self._clock(),
            routes=self._settings.routes,
            group=self._settings.group,
            streams=self.streams.seen,
            hours=hours,
            servers={uses: source.seen for uses, source in self.servers.items()},
            keys=None if self.keys is None else self.keys.seen,
            checks=self.checks.seen,
        )

    def _read_streams(self) -> StreamFacts:
        before = self.streams.seen.value
        exchange = read_streams(self._settings.routes, self._settings.group, {} if before is None else before.dead)
        is_cluster = self._settings.streams.kind == "cluster"  # there, the other nodes are read all the same
        found = drive(exchange if is_cluster else until_first_outage(exchange), self._streams_link)
        at = self._clock()
        rows = {row.stream: row for row in found.measured.rows if row.group == self._settings.group}
        with self._lock:
            for stream, history in self._histories.items():
                if stream in rows and stream not in found.measured.unknown:
                    history.add(_sample(at, rows[stream]))
        return found


def _sample(at: float, row: GroupLag) -> Sample:
    waiting = row.undelivered + row.pending
    done = row.added - waiting if row.exact else None if row.read is None else row.read - row.pending
    return Sample(at, waiting, row.added, done, is_counted=row.exact)


def _server_reader(uses: str, address: RedisSettings) -> Callable[[], list[ServerFacts]]:
    use = uses.partition(",")[0]
    link: Link = make_link(use, address, raise_server_errors=True)
    return lambda: read_servers(link)
