"""What a worker counts, as Prometheus metrics; and Acra's own names, so that its dashboards keep working.

Labels are streams of the settings, and operations, types, codes and reasons of the contract (``unknown`` where a
request names none that we know): nothing of a client's own.
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

_TOLD = attrgetter("entry.route.requests", "facts.op", "facts.status", "facts.outcomes")
_Told = tuple[str, str, str, tuple[tuple[str, str], ...]]
_FORBIDDEN = (("unknown", Code.FORBIDDEN.value),)


def _forbidden(answer: Answer) -> _Told:
    return answer.entry.route.requests, answer.facts.op, "error", _FORBIDDEN


class _Latency(Collector):
    """A histogram that costs a fraction of the library's own, which locks for every value; one thread observes."""

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, now_ms: float, written_ms: Iterable[int]) -> None:
        """Replies, by when their requests were written; clocks that differ can make it negative."""
        counts = self._counts
        for millisecond, number in Counter(written_ms).items():
            seconds = (now_ms - millisecond) / 1000
            counts[bisect_left(LATENCY_SECONDS, seconds)] += number
            self._sum += max(0.0, seconds) * number

    def collect(self) -> Iterator[Metric]:
        """The histogram of this moment."""
        meaning = "From the entry's id (the streams' clock) to its reply (this host's)."
        family = HistogramMetricFamily("token_worker_latency_seconds", meaning)
        bounds = [*(str(float(bound)) for bound in LATENCY_SECONDS), "+Inf"]
        family.add_metric([], list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        yield family


class Metrics:
    """One worker's metrics, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def count(name: str, meaning: str, *labels: str) -> Count:
            return Count(name, meaning, labels, registry=registry)

        self._requests = count("token_worker_requests", "Replies written.", "stream", "status")
        self._items = count("token_worker_items", "Values and tokens handled.", "op", "type", "outcome")
        self._redeliveries = count(
            "token_worker_redeliveries", "Entries tried alone after an earlier delivery.", "stream"
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

    def watch(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is scraped."""
        Gauge(name, meaning, registry=self.registry).set_function(read)

    def batch(self, entries: int) -> None:
        """Entries were read as one batch."""
        self._batch.observe(entries)

    def redelivery(self, stream: str) -> None:
        """An entry that was delivered before is tried alone."""
        self._redeliveries.labels(stream).inc()

    def committed(self, answers: Sequence[Answer], done: Committed) -> None:
        """Answers were committed; those that another worker had answered already are among them, and counted apart.

        Entries that stay pending are not counted. Where the stream of the request could not take the reply, it is
        ``forbidden`` that was answered.
        """
        told: Iterable[_Told] = map(_TOLD, answers)
        if done.stuck or done.forbidden:
            stuck, forbidden = set(map(id, done.stuck)), set(map(id, done.forbidden))
            answers = [answer for answer in answers if id(answer.entry) not in stuck]
            told = [_forbidden(answer) if id(answer.entry) in forbidden else _TOLD(answer) for answer in answers]
        for (stream, op, status, outcomes), alike in Counter(told).items():
            self._requests_of(stream, status).inc(alike)
            for (kind, outcome), number in Counter(outcomes).items():
                for count in self._items_of(op, kind, outcome):
                    count.inc(alike * number)
        self._latency.observe(time.time() * 1000, [int(answer.entry.id.partition(b"-")[0]) for answer in answers])
        self._suppressed.inc(done.suppressed)

    def dead_letter(self, reason: str) -> None:
        """An entry was moved to its dead-letter stream."""
        self._dead_letters.labels(reason).inc()

    def group_made_again(self) -> None:
        """A consumer group was gone."""
        self._groups.inc()
