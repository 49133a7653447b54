"""Figures of a worker's state, read when they are scraped: version, readiness, servers, connections, keys, Vault.

All series exist from the start, also those of parts that the worker has not made yet. Any thread may scrape.
"""

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from token_worker import __version__
from token_worker.keys.cache import KeyCache
from token_worker.settings.options import Settings
from token_worker.telemetry.health import Health


def servers_of(settings: Settings) -> tuple[str, ...]:
    """Return what a worker with these settings waits for when it is away, named as by ``Unavailable``."""
    sources = (settings.master_key_source, settings.keys_source)
    is_used = {"keys": settings.keys_source == "redis", "vault": "vault" in sources}
    return ("streams", "tokens", *(server for server in is_used if is_used[server]), "audit")


_NOT_REDIS = frozenset({"vault", "audit"})


class WorkerState(Collector):
    """Figures of the parts of a worker.

    Args:
        servers: names of the servers, from ``servers_of``.
        health: the worker's health.
        vault_seconds: returns the seconds left of the Vault token, None if it does not end; None without Vault.

    Attributes:
        keys: the key cache, once it is there.
        has_routes_away: returns True if the servers of some routes are away, while those of others are not.
    """

    def __init__(
        self, servers: Iterable[str], health: Health, vault_seconds: Callable[[], float | None] | None = None
    ) -> None:
        self._health = health
        self._vault_seconds = vault_seconds
        self._servers = tuple(servers)
        self._connections: dict[str, Callable[[], int]] = {
            server: lambda: 0 for server in self._servers if server not in _NOT_REDIS
        }
        self.keys: KeyCache | None = None
        self.has_routes_away: Callable[[], bool] = lambda: False

    def count_connections(self, server: str, read: Callable[[], int]) -> None:
        """Take the number of connections to a server from ``read`` from now on."""
        self._connections[server] = read

    def collect(self) -> Iterator[Metric]:
        """Return the current figures."""
        info = GaugeMetricFamily(
            "token_worker_build_info", "1, with the versions of the worker and of Python.", labels=["version", "python"]
        )
        info.add_metric([__version__, platform.python_version()], 1)
        yield info
        is_ready = self._health.why_not_ready is None
        yield GaugeMetricFamily("token_worker_ready", "1 if the worker is ready, as /readyz says; else 0.", is_ready)
        available = GaugeMetricFamily(
            "token_worker_server_available", "0 if the worker waits for the server, else 1.", labels=["server"]
        )
        away = self._away()
        for server in dict.fromkeys((*self._servers, *away)):
            available.add_metric([server], server not in away)
        yield available
        connections = CounterMetricFamily(
            "token_worker_connections", "Connections made to a Redis, the first included.", labels=["server"]
        )
        for server, read in self._connections.items():
            connections.add_metric([server], read())
        yield connections
        hits, misses = (0, 0) if self.keys is None else (self.keys.hits, self.keys.misses)
        yield CounterMetricFamily("token_worker_key_cache_hits", "Look-ups of keys that were cached.", hits)
        yield CounterMetricFamily("token_worker_key_cache_misses", "Look-ups of keys that were not.", misses)
        if self._vault_seconds is not None:
            seconds = self._vault_seconds()
            yield GaugeMetricFamily(
                "token_worker_vault_token_seconds",
                "Seconds left of the Vault token; NaN where it does not end.",
                float("nan") if seconds is None else seconds,
            )

    def _away(self) -> set[str]:
        away = {self._health.server_away, "streams" if self.has_routes_away() else None}
        if self.keys is not None and self.keys.away is not None:
            away.add(self.keys.away.server)
        return {server for server in away if server is not None}
