"""Prometheus metrics of a worker's work. Some also have Acra's names, so that dashboards for Acra keep working.

Labels are streams of the settings, and operations, types, codes and reasons of the contract (``unknown`` if a request
names an unknown one). No label holds text of a client. Every series exists from the start, at 0: Prometheus sees an
increase only between two values, so the first dead letter would be missed if its series began at 1. There are
4 series for each route, and fewer than 400 besides.

Only the worker's thread counts, and it counts in plain numbers. What a scrape sees is made of them by the thread that
scrapes. The library's own counters lock for every value, which costs a batch of one request a tenth of its time.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby, product
from operator import attrgetter

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from token_worker.contract.decoded import UNANSWERABLE_REASONS
from token_worker.contract.messages import Op, TypeName
from token_worker.errors import Code
from token_worker.streams.delivery import EXHAUSTED
from token_worker.streams.entry import Answer, Committed
from token_worker.streams.reply_facts import ReplyFacts

LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
BATCH_ENTRIES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)

ACRA_NAMES = {"tokenize": "acra_tokenizations", "detokenize": "acra_detokenizations"}
"""Acra's names of the counters of items, by operation."""

STATUSES = ("ok", "partial", "error")
"""Statuses of a reply."""

REASONS = (*UNANSWERABLE_REASONS, EXHAUSTED)
"""Reasons for which an entry becomes a dead letter."""

REPLIES_KEPT = 256
"""Kinds of replies, by their outcomes, of which the numbers that they raise are kept."""

_UNKNOWN = "unknown"
_OPS = tuple(op.value for op in Op)
_TYPES = tuple(kind.value for kind in TypeName)
_CODES = tuple(code.value for code in Code)

ITEM_LABELS = (
    *product(_OPS, _TYPES, ("ok", *_CODES)),
    *product((*_OPS, _UNKNOWN), (_UNKNOWN,), _CODES),
)
"""Operation, type and outcome of items. An operation that is not known has items of type ``unknown`` only."""

_facts_of = attrgetter("facts")


def _runs(answers: Sequence[Answer]) -> Iterator[tuple[Answer, int]]:
    """Yield the first answer of each run of answers with the same facts, and how many these are."""
    for _, run in groupby(answers, _facts_of):
        first, *others = run
        yield first, 1 + len(others)


def _as_forbidden(answer: Answer) -> Answer:
    facts = ReplyFacts(answer.facts.op, "error", None, None, ((_UNKNOWN, Code.FORBIDDEN.value),))
    return Answer(answer.entry, b"", facts=facts)


class _Number:
    """A number that counts up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0


class _Count(Collector):
    """A counter for one thread, by labels. All labels that are known begin at 0."""

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str] = (), known: Iterable[tuple[str, ...]] = ((),)
    ) -> None:
        self._name, self._meaning, self._labels = name, meaning, labels
        self._numbers = {each: _Number() for each in known}

    def number(self, *labels: str) -> _Number:
        """The number with these labels."""
        return self._numbers.setdefault(labels, _Number())

    def add(self, labels: tuple[str, ...], number: int) -> None:
        """Count so many more."""
        self.number(*labels).value += number

    def numbers(self) -> list[tuple[tuple[str, ...], int]]:
        """Return labels and numbers, as they are now. Any thread may ask."""
        return [(labels, number.value) for labels, number in list(self._numbers.items())]

    def collect(self) -> Iterator[Metric]:
        """Return the current numbers."""
        family = CounterMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, number in self.numbers():
            family.add_metric(labels, number)
        yield family


class _AcraCounts(Collector):
    """Items by Acra's names and labels. They are made of our own counter of items, whose labels say more."""

    def __init__(self, items: _Count) -> None:
        self._items = items

    def collect(self) -> Iterator[Metric]:
        """Return the current numbers."""
        items = self._items.numbers()
        for op, name in ACRA_NAMES.items():
            totals: dict[tuple[str, str], int] = {}
            for (its_op, kind, outcome), number in items:
                if its_op == op:
                    labels = ("success" if outcome == "ok" else "fail", kind)
                    totals[labels] = totals.get(labels, 0) + number
            meaning = f"{name.removeprefix('acra_').capitalize()}, by Acra's name."
            family = CounterMetricFamily(name, meaning, labels=("status", "token_type"))
            for labels, number in totals.items():
                family.add_metric(labels, number)
            yield family


class _Distribution(Collector):
    """A histogram for one thread, without labels."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float]) -> None:
        self._name, self._meaning, self._bounds = name, meaning, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, number: int = 1) -> None:
        """Count a value so many times. A negative one adds nothing to the sum."""
        self._counts[bisect_left(self._bounds, value)] += number
        if value > 0:
            self._sum += value * number

    def collect(self) -> Iterator[Metric]:
        """Return the current histogram."""
        family = HistogramMetricFamily(self._name, self._meaning)
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family.add_metric([], list(zip(names, accumulate(self._counts), strict=True)), self._sum)
        yield family


class Metrics:
    """Metrics of the work of one worker.

    Args:
        registry: what is scraped.
        streams: the request streams of all routes.
    """

    def __init__(self, registry: CollectorRegistry, streams: Iterable[str]) -> None:
        self.registry = registry
        by_stream = [(stream,) for stream in streams]
        by_status = [(stream, status) for (stream,) in by_stream for status in STATUSES]
        by_reason = [(reason,) for reason in REASONS]
        self._requests = _Count("token_worker_requests", "Replies written.", ("stream", "status"), by_status)
        self._items = _Count("token_worker_items", "Values and tokens handled.", ("op", "type", "outcome"), ITEM_LABELS)
        self._redeliveries = _Count(
            "token_worker_redeliveries",
            "Isolated tries of entries after an earlier delivery.",
            ("stream",),
            by_stream,
        )
        self._suppressed = _Count("token_worker_replies_suppressed", "Replies another worker had written already.")
        self._dead_letters = _Count(
            "token_worker_dead_letters", "Entries moved to a dead-letter stream.", ("reason",), by_reason
        )
        self._groups = _Count("token_worker_groups_made_again", "Times consumer groups were gone and were made again.")
        self._latency = _Distribution(
            "token_worker_latency_seconds",
            "From the entry's id (the streams' clock) to its reply (this host's).",
            LATENCY_SECONDS,
        )
        self._batch = _Distribution("token_worker_batch_entries", "Entries of a batch.", BATCH_ENTRIES)
        counts = (self._requests, self._items, self._redeliveries, self._suppressed, self._dead_letters, self._groups)
        for collector in (*counts, _AcraCounts(self._items), self._latency, self._batch):
            registry.register(collector)
        self._numbers_of = lru_cache(REPLIES_KEPT)(self._find_numbers)

    def batch(self, entries: int) -> None:
        """Count the entries of a batch."""
        self._batch.add(entries)

    def redelivery(self, stream: str) -> None:
        """Count an isolated try of an entry."""
        self._redeliveries.add((stream,), 1)

    def committed(self, answers: Sequence[Answer], done: Committed) -> None:
        """Count the replies of a commit.

        Replies that another worker had written already are included, and counted as suppressed, too. Entries that
        stay pending are not counted. If the stream that a request named could not take the reply, it counts as
        ``forbidden``.
        """
        if done.stuck:
            stuck = set(map(id, done.stuck))
            answers = [answer for answer in answers if id(answer.entry) not in stuck]
        if done.forbidden:
            forbidden = set(map(id, done.forbidden))
            answers = [_as_forbidden(answer) if id(answer.entry) in forbidden else answer for answer in answers]
        runs = [(answers[0], 1)] if len(answers) == 1 else _runs(answers)
        for answer, replies in runs:
            facts = answer.facts
            key = answer.entry.route.requests, facts.op, facts.status, facts.outcomes
            for raised, times in self._numbers_of(*key):
                raised.value += times * replies
        now_ms = time.time() * 1000
        written: dict[bytes, int] = {}
        for answer in answers:
            written_ms = answer.entry.id.partition(b"-")[0]
            written[written_ms] = written.get(written_ms, 0) + 1
        for written_ms, number in written.items():
            self._latency.add((now_ms - int(written_ms)) / 1000, number)  # if clocks differ, it is negative
        if done.suppressed:
            self._suppressed.add((), done.suppressed)

    def _find_numbers(
        self, stream: str, op: str, status: str, outcomes: tuple[tuple[str, str], ...]
    ) -> list[tuple[_Number, int]]:
        """The numbers that a reply raises, each with how much. Mostly all replies raise the same few."""
        items = Counter(outcomes).items()
        raised = [(self._items.number(op, kind, outcome), times) for (kind, outcome), times in items]
        return [(self._requests.number(stream, status), 1), *raised]

    def dead_letter(self, reason: str) -> None:
        """Count an entry that was moved to its dead-letter stream."""
        self._dead_letters.add((reason,), 1)

    def group_made_again(self) -> None:
        """Count a consumer group that was missing and made again."""
        self._groups.add((), 1)
