"""Lag and workers as Prometheus metrics, read from the server at each scrape, so they are never out of date.

While streams cannot be read, ``token_worker_streams_reachable`` is 0, and their other metrics are absent, not 0. There
are at most 20 series for each route with one group of readers.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from token_worker import __version__
from token_worker.admin.lag import GroupLag, Measured
from token_worker.admin.workers import RouteWorkers
from token_worker.errors import TokenWorkerError

_GAUGES: dict[str, tuple[str, Callable[[GroupLag], float | None]]] = {
    "undelivered_entries": ("Entries that were not delivered to any consumer yet.", lambda row: row.undelivered),
    "pending_entries": ("Entries that were delivered to a consumer and are not acknowledged.", lambda row: row.pending),
    "oldest_undelivered_age_seconds": (
        "Age of the oldest undelivered entry; absent if there is none, or its age is unknown.",
        lambda row: row.oldest_undelivered_age_seconds,
    ),
    "oldest_pending_age_seconds": (
        "Age of the oldest pending entry; absent if there is none, or its age is unknown.",
        lambda row: row.oldest_pending_age_seconds,
    ),
    "lag_known": ("1 if the server itself tells a lag, else 0.", lambda row: row.lag_known),
    "undelivered_exact": ("1 if undelivered_entries is exact, 0 if there are at least so many.", lambda row: row.exact),
    "max_deliveries": ("Deliveries of the pending entry with the most deliveries.", lambda row: row.max_deliveries),
    "consumers": ("Consumers that asked for entries within a minute.", lambda row: row.consumers),
}

_READINESS = {True: "ready", False: "not_ready", None: "unknown"}


class LagCollector(Collector):
    """Measures the lag at each scrape.

    Args:
        read: measures all groups, or raises a ``TokenWorkerError``.
        read_workers: reads the workers of all routes, or raises a ``TokenWorkerError``.

    Only one thread at a time calls them.
    """

    def __init__(self, read: Callable[[], Measured], read_workers: Callable[[], Sequence[RouteWorkers]]) -> None:
        self._read = read
        self._read_workers = read_workers
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Measure the lag, and yield the metrics."""
        reachable = GaugeMetricFamily(
            "token_worker_streams_reachable", "1 if all streams could be read at this scrape, else 0."
        )
        try:
            with self._lock:
                rows, unknown, ahead_seconds, _ = self._read()
        except TokenWorkerError:
            reachable.add_metric([], 0)
            yield reachable
            return
        reachable.add_metric([], not unknown)
        yield reachable
        for name, (meaning, figure) in _GAUGES.items():
            family = GaugeMetricFamily(f"token_worker_stream_{name}", meaning, labels=["stream", "group"])
            for row in rows:
                value = figure(row)
                if value is not None:
                    family.add_metric([row.stream, row.group], float(value))
            yield family
        dead = GaugeMetricFamily("token_worker_dead_letters", "Entries kept as dead letters.", labels=["stream"])
        for stream, count in {row.stream: row.dead_letters for row in rows if row.dead_letters is not None}.items():
            dead.add_metric([stream], count)
        yield dead
        ahead = GaugeMetricFamily(
            "token_worker_stream_ids_ahead_seconds", "How far ids lie ahead of the server's clock.", labels=["stream"]
        )
        for stream, seconds in ahead_seconds.items():
            ahead.add_metric([stream], seconds)
        yield ahead
        try:
            with self._lock:
                routes = self._read_workers()
        except TokenWorkerError:
            return
        yield _workers(routes)


def _workers(routes: Sequence[RouteWorkers]) -> Metric:
    """Count the workers that are alive. One that serves several routes counts once, and is ready if it is on each."""
    states: dict[tuple[str, str], list[bool | None]] = {}
    for worker in (worker for route in routes for worker in route.workers if worker.is_alive):
        states.setdefault((worker.consumer, worker.version or "unknown"), []).append(worker.ready)
    counts = Counter((version, None if None in ready else all(ready)) for (_, version), ready in states.items())
    family = GaugeMetricFamily(
        "token_worker_workers", "Workers that are alive, by what they say of themselves.", labels=["version", "state"]
    )
    for version in sorted({__version__, *(version for version, _ in counts)}):
        for ready, state in _READINESS.items():
            family.add_metric([version, state], counts[version, ready])
    return family
