"""A worker's metrics count each reply once, by its outcome."""

from prometheus_client import CollectorRegistry, generate_latest

from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.streams.routes import DEFAULT_ROUTES
from token_worker.telemetry.metrics import Metrics

ROUTE = DEFAULT_ROUTES[0]


Outcomes = tuple[tuple[str, str], ...]


def answers_of(
    count: int, op: str = "tokenize", status: str = "ok", outcomes: Outcomes = (("str", "ok"),)
) -> list[Answer]:
    facts = ReplyFacts(op, status, "r", "shop", None, outcomes)
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


def counters_of(registry: CollectorRegistry) -> set[str]:
    """The counters as they are scraped, without the times of their first values."""
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if "_total" in line and not line.startswith("#")}


def test_scrape_has_each_counter_with_its_labels() -> None:
    """Counters without labels are there from the start; the others have one line for each labels that were counted."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    without_labels = {
        "token_worker_replies_suppressed_total 0.0",
        "token_worker_groups_made_again_total 0.0",
    }
    assert counters_of(registry) == without_labels
    good = answers_of(3)
    several = answers_of(
        2, "detokenize", "partial", (("str", "ok"), ("str", "token_disabled"), ("str", "token_not_found"))
    )
    refused = answers_of(1, "unknown", "error", (("unknown", "invalid_request"),))
    metrics.committed([*good, *several, *refused], Committed(written=6, forbidden=[good[0].entry]))
    metrics.committed(good, Committed(written=3))
    metrics.redelivery(ROUTE.requests)
    metrics.dead_letter("payload_missing")
    metrics.group_made_again()
    stream = f'stream="{ROUTE.requests}"'
    assert counters_of(registry) == {
        "token_worker_replies_suppressed_total 0.0",
        "token_worker_groups_made_again_total 1.0",
        f'token_worker_requests_total{{status="ok",{stream}}} 5.0',
        f'token_worker_requests_total{{status="partial",{stream}}} 2.0',
        f'token_worker_requests_total{{status="error",{stream}}} 2.0',
        'token_worker_items_total{op="tokenize",outcome="ok",type="str"} 5.0',
        'token_worker_items_total{op="tokenize",outcome="forbidden",type="unknown"} 1.0',
        'token_worker_items_total{op="detokenize",outcome="ok",type="str"} 2.0',
        'token_worker_items_total{op="detokenize",outcome="token_disabled",type="str"} 2.0',
        'token_worker_items_total{op="detokenize",outcome="token_not_found",type="str"} 2.0',
        'token_worker_items_total{op="unknown",outcome="invalid_request",type="unknown"} 1.0',
        'acra_tokenizations_total{status="success",token_type="str"} 5.0',
        'acra_tokenizations_total{status="fail",token_type="unknown"} 1.0',
        'acra_detokenizations_total{status="success",token_type="str"} 2.0',
        'acra_detokenizations_total{status="fail",token_type="str"} 4.0',
        f"token_worker_redeliveries_total{{{stream}}} 1.0",
        'token_worker_dead_letters_total{reason="payload_missing"} 1.0',
    }


def test_every_series_tells_since_when_it_counts() -> None:
    """The time of the first value is scraped beside the number, as by the library's own counters."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.committed(answers_of(1), Committed(written=1))
    first = registry.get_sample_value("acra_tokenizations_created", {"status": "success", "token_type": "str"})
    metrics.committed(answers_of(1), Committed(written=1))
    items = {"op": "tokenize", "type": "str", "outcome": "ok"}
    assert first is not None
    assert first == registry.get_sample_value("token_worker_items_created", items)
    assert registry.get_sample_value("token_worker_batch_entries_created") is not None


def test_batches_are_counted_by_their_size() -> None:
    """Each bucket counts the batches that are not larger than its bound."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for entries in (1, 5, 6, 9000):
        metrics.batch(entries)
    buckets = [
        registry.get_sample_value("token_worker_batch_entries_bucket", {"le": bound})
        for bound in ("1.0", "5.0", "10.0", "2500.0", "+Inf")
    ]
    assert buckets == [1, 2, 3, 3, 4]
    assert registry.get_sample_value("token_worker_batch_entries_sum") == 9012
