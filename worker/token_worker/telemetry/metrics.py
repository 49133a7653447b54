"""Prometheus metrics of a worker. Some also have Acra's names, so that dashboards for Acra keep working.

Labels are streams of the settings, and operations, types, codes and reasons of the contract (``unknown`` if a request
names an unknown one). No label holds text of a client.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate
from operator import attrgetter

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client import Counter as Count
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from token_worker.errors import Code
from token_worker.streams.entry import Answer, Committed

LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
BATCH_ENTRIES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)

_LABELS = attrgetter("entry.route.requests", "facts.op", "facts.status", "facts.outcomes")
_Labels = tuple[str, str, str, tuple[tuple[str, str], ...]]
_FORBIDDEN = (("unknown", Code.FORBIDDEN.value),)


def _forbidden(answer: Answer) -> _Labels:
    return answer.entry.route.requests, answer.facts.op, "error", _FORBIDDEN


class _Latency(Collector):
    """A histogram for one thread. It costs a fraction of the library's own, which locks for every value."""

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, now_ms: float, written_ms: Iterable[int]) -> None:
        """Count replies by the times at which their requests were written. If clocks differ, a latency is negative."""
        counts = self._counts
        for millisecond, number in Counter(written_ms).items():
            seconds = (now_ms - millisecond) / 1000
            counts[bisect_left(LATENCY_SECONDS, seconds)] += number
            self._sum += max(0.0, seconds) * number

    def collect(self) -> Iterator[Metric]:
        """Return the current histogram."""
        meaning = "From the entry's id (the streams' clock) to its reply (this host's)."
        family = HistogramMetricFamily("token_worker_latency_seconds", meaning)
        bounds = [*(str(float(bound)) for bound in LATENCY_SECONDS), "+Inf"]
        family.add_metric([], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        yield family


class Metrics:
    """Metrics of one worker."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def count(name: str, meaning: str, *labels: str) -> Count:
            return Count(name, meaning, labels, registry=registry)

        self._requests = count("token_worker_requests", "Replies written.", "stream", "status")
        self._items = count("token_worker_items", "Values and tokens handled.", "op", "type", "outcome")
        self._redeliveries = count(
            "token_worker_redeliveries", "Isolated tries of entries after an earlier delivery.", "stream"
        )
        self._suppressed = count("token_worker_replies_suppressed", "Replies another worker had written already.")
        self._dead_letters = count("token_worker_dead_letters", "Entries moved to a dead-letter stream.", "reason")
        self._groups = count("token_worker_groups_made_again", "Times consumer groups were gone and were made again.")
        self._acra = {
            "tokenize": count("acra_tokenizations", "Tokenizations, by Acra's name.", "status", "token_type"),
            "detokenize": count("acra_detokenizations", "Detokenizations, by Acra's name.", "status", "token_type"),
        }
        self._latency = _Latency()
        registry.register(self._latency)
        self._batch = Histogram(
            "token_worker_batch_entries", "Entries of a batch.", buckets=BATCH_ENTRIES, registry=registry
        )

        self._requests_of = cache(self._requests.labels)
        self._items_of = cache(self._counts_of_items)

    def _counts_of_items(self, op: str, kind: str, outcome: str) -> list[Count]:
        counts = [self._items.labels(op, kind, outcome)]
        if op in self._acra:
            counts.append(self._acra[op].labels("success" if outcome == "ok" else "fail", kind))
        return counts

    def add_gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read when it is scraped."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def batch(self, entries: int) -> None:
        """Count the entries of a batch."""
        self._batch.observe(entries)

    def redelivery(self, stream: str) -> None:
        """Count an isolated try of an entry."""
        self._redeliveries.labels(stream).inc()

    def committed(self, answers: Sequence[Answer], done: Committed) -> None:
        """Count the replies of a commit.

        Replies that another worker had written already are included, and counted as suppressed, too. Entries that
        stay pending are not counted. If the stream that a request named could not take the reply, it counts as
        ``forbidden``.
        """
        labels: Iterable[_Labels] = map(_LABELS, answers)
        if done.stuck or done.forbidden:
            stuck, forbidden = set(map(id, done.stuck)), set(map(id, done.forbidden))
            answers = [answer for answer in answers if id(answer.entry) not in stuck]
            labels = [_forbidden(answer) if id(answer.entry) in forbidden else _LABELS(answer) for answer in answers]
        for (stream, op, status, outcomes), alike in Counter(labels).items():
            self._requests_of(stream, status).inc(alike)
            for (kind, outcome), number in Counter(outcomes).items():
                for count in self._items_of(op, kind, outcome):
                    count.inc(alike * number)
        self._latency.observe(time.time() * 1000, [int(answer.entry.id.partition(b"-")[0]) for answer in answers])
        self._suppressed.inc(done.suppressed)

    def dead_letter(self, reason: str) -> None:
        """Count an entry that was moved to its dead-letter stream."""
        self._dead_letters.labels(reason).inc()

    def group_made_again(self) -> None:
        """Count a consumer group that was missing and made again."""
        self._groups.inc()
