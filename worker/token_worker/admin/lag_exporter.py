"""Lag as Prometheus metrics, read from the server at every scrape: nothing here is ever stale.

While streams cannot be read ``token_worker_streams_reachable`` is 0 and the other metrics of these are absent, not 0.
"""

import threading
from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from token_worker.admin.lag import GroupLag, Measured
from token_worker.errors import TokenWorkerError

_GAUGES: dict[str, tuple[str, Callable[[GroupLag], float | None]]] = {
    "undelivered_entries": ("Entries no consumer was given yet.", lambda row: row.undelivered),
    "pending_entries": ("Entries given to a consumer and not acknowledged.", lambda row: row.pending),
    "oldest_undelivered_age_seconds": (
        "Age of the oldest entry no consumer was given yet; absent where there is none, or it cannot be told.",
        lambda row: row.oldest_undelivered_age_seconds,
    ),
    "oldest_pending_age_seconds": (
        "Age of the oldest pending entry; absent where there is none, or it cannot be told.",
        lambda row: row.oldest_pending_age_seconds,
    ),
    "lag_known": ("Whether the server tells a lag of its own.", lambda row: row.lag_known),
    "undelivered_exact": ("Whether the undelivered entries are exactly so many, not at least.", lambda row: row.exact),
    "max_deliveries": ("ClusterDelivery of the worst pending entry.", lambda row: row.max_deliveries),
    "consumers": ("Consumers that asked for entries within a minute.", lambda row: row.consumers),
}


class LagCollector(Collector):
    """Measures when it is scraped.

    Args:
        read: measures all groups; raises a ``TokenWorkerError`` where that cannot be done. One thread at a time calls.
    """

    def __init__(self, read: Callable[[], Measured]) -> None:
        self._read = read
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """The metrics of this moment."""
        reachable = GaugeMetricFamily(
            "token_worker_streams_reachable", "Whether all streams could be read at this scrape."
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
