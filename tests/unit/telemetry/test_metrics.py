"""A worker's metrics count each reply once, by its outcome."""

from prometheus_client import CollectorRegistry

from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.streams.routes import DEFAULT_ROUTES
from token_worker.telemetry.metrics import Metrics

ROUTE = DEFAULT_ROUTES[0]


def answers_of(count: int) -> list[Answer]:
    facts = ReplyFacts("tokenize", "ok", "r", "shop", None, (("str", "ok"),))
    return [Answer(Entry(ROUTE, b"%d-0" % number, {}), b"{}", facts=facts) for number in range(1, count + 1)]


def test_every_suppressed_reply_counts() -> None:
    """Of a batch whose replies others wrote meanwhile, each reply is counted as suppressed."""
    registry = CollectorRegistry()
    Metrics(registry).committed(answers_of(5), Committed(written=2, suppressed=3))
    assert registry.get_sample_value("token_worker_replies_suppressed_total") == 3


def test_what_stays_pending_is_no_reply() -> None:
    """Entries that stay pending are counted neither as replies nor as items; the others of the batch are."""
    registry = CollectorRegistry()
    answers = answers_of(5)
    stuck = [answer.entry for answer in answers[:2]]
    Metrics(registry).committed(answers, Committed(written=3, stuck=stuck))
    labels = {"stream": ROUTE.requests, "status": "ok"}
    assert registry.get_sample_value("token_worker_requests_total", labels) == 3
    items = {"op": "tokenize", "type": "str", "outcome": "ok"}
    assert registry.get_sample_value("token_worker_items_total", items) == 3
    assert registry.get_sample_value("token_worker_latency_seconds_count") == 3
