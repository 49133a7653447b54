"""Lag as Prometheus metrics, read from the server at each scrape, so it is never out of date.

While streams cannot be read, ``token_worker_streams_reachable`` is 0, and their other metrics are absent, not 0.
"""

import threading
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from token_worker.admin.lag import GroupLag, Measured
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


class LagCollector(Collector):
    """Measures the lag at each scrape.

    Args:
        read: measures all groups, or raises a ``TokenWorkerError``. Only one thread at a time calls it.
    """

    def __init__(self, read: Callable[[], Measured]) -> None:
        self._read = read
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
