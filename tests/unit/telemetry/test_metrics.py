"""A worker's metrics count each reply once, by its outcome."""

from itertools import product

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from token_worker.contract.decoded import UNANSWERABLE_REASONS
from token_worker.contract.messages import Op, TypeName
from token_worker.errors import Code
from token_worker.service.state import WorkerState
from token_worker.streams.delivery import EXHAUSTED
from token_worker.streams.entry import Answer, Committed, Entry
from token_worker.streams.reply_facts import ReplyFacts
from token_worker.streams.routes import DEFAULT_ROUTES, Route
from token_worker.telemetry.health import Health
from token_worker.telemetry.metrics import REPLIES_KEPT, Metrics

ROUTE = DEFAULT_ROUTES[0]


Outcomes = tuple[tuple[str, str], ...]


def answers_of(
    count: int, op: str = "tokenize", status: str = "ok", outcomes: Outcomes = (("str", "ok"),)
) -> list[Answer]:
    facts = ReplyFacts(op, status, "shop", None, outcomes)
    return [Answer(Entry(ROUTE, b"%d-0" % number, None), b"{}", facts=facts) for number in range(1, count + 1)]


def test_every_suppressed_reply_counts() -> None:
    """Of a batch whose replies others wrote meanwhile, each reply is counted as suppressed."""
    registry = CollectorRegistry()
    Metrics(registry, [ROUTE.requests]).committed(answers_of(5), Committed(written=2, suppressed=3))
    assert registry.get_sample_value("token_worker_replies_suppressed_total") == 3


def test_what_stays_pending_is_no_reply() -> None:
    """Entries that stay pending are counted neither as replies nor as items; the others of the batch are."""
    registry = CollectorRegistry()
    answers = answers_of(5)
    stuck = [answer.entry for answer in answers[:2]]
    Metrics(registry, [ROUTE.requests]).committed(answers, Committed(written=3, stuck=stuck))
    labels = {"stream": ROUTE.requests, "status": "ok"}
    assert registry.get_sample_value("token_worker_requests_total", labels) == 3
    items = {"op": "tokenize", "type": "str", "outcome": "ok"}
    assert registry.get_sample_value("token_worker_items_total", items) == 3
    assert registry.get_sample_value("token_worker_latency_seconds_count") == 3


def samples_of(registry: CollectorRegistry) -> dict[str, float]:
    """All series as they are scraped."""
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_every_counter_begins_at_zero() -> None:
    """All series are there before anything was counted: Prometheus sees an increase only between two values."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, ["a", "b"])
    before = samples_of(registry)
    assert set(before.values()) == {0.0}
    entry = Entry(Route("a", "out", frozenset({Op.TOKENIZE})), b"1-0", None)
    for status, op, kind, code in product(
        ("ok", "partial", "error"), ("tokenize", "detokenize"), (*TypeName, "unknown"), Code
    ):
        metrics.committed(
            [Answer(entry, b"", facts=ReplyFacts(op, status, None, None, ((str(kind), code.value),)))],
            Committed(written=1),
        )
    metrics.committed(answers_of(1, "unknown", "error", (("unknown", "invalid_request"),)), Committed(written=1))
    metrics.redelivery("b")
    for reason in (*UNANSWERABLE_REASONS, EXHAUSTED):
        metrics.dead_letter(reason)
    metrics.group_made_again()
    metrics.batch(3)
    new = samples_of(registry).keys() - before.keys()
    assert {name for name in new if ROUTE.requests not in name} == set()


def test_routes_have_few_series() -> None:
    """With 200 routes a worker has at most 20 series for each, and 600 besides."""
    alone, many = CollectorRegistry(), CollectorRegistry()
    Metrics(alone, [])
    Metrics(many, [f"route-{number}" for number in range(200)])
    for registry in (alone, many):
        registry.register(WorkerState(("streams", "tokens", "keys", "vault", "audit"), Health(30), lambda: 60.0))
        ProcessCollector(registry=registry)
    assert len(samples_of(alone)) <= 600
    assert len(samples_of(many)) <= len(samples_of(alone)) + 200 * 20


def test_replies_are_counted_by_their_labels() -> None:
    """Each reply counts by stream and status; each item by operation, type and outcome, and by Acra's names."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [ROUTE.requests])
    good = answers_of(3)
    several = answers_of(
        2, "detokenize", "partial", (("str", "ok"), ("str", "token_disabled"), ("str", "token_not_found"))
    )
    refused = answers_of(1, "unknown", "error", (("unknown", "invalid_request"),))
    of_others = [*answers_of(1), *answers_of(1)]
    metrics.committed([*good, *several, *refused, *of_others], Committed(written=8, forbidden=[good[0].entry]))
    metrics.committed(good[:1], Committed(written=1))
    metrics.redelivery(ROUTE.requests)
    metrics.dead_letter("payload_missing")
    metrics.group_made_again()
    stream = f'stream="{ROUTE.requests}"'
    counted = {name: value for name, value in samples_of(registry).items() if value and "_total" in name}
    assert counted == {
        "token_worker_groups_made_again_total": 1,
        f'token_worker_requests_total{{status="ok",{stream}}}': 5,
        f'token_worker_requests_total{{status="partial",{stream}}}': 2,
        f'token_worker_requests_total{{status="error",{stream}}}': 2,
        'token_worker_items_total{op="tokenize",outcome="ok",type="str"}': 5,
        'token_worker_items_total{op="tokenize",outcome="forbidden",type="unknown"}': 1,
        'token_worker_items_total{op="detokenize",outcome="ok",type="str"}': 2,
        'token_worker_items_total{op="detokenize",outcome="token_disabled",type="str"}': 2,
        'token_worker_items_total{op="detokenize",outcome="token_not_found",type="str"}': 2,
        'token_worker_items_total{op="unknown",outcome="invalid_request",type="unknown"}': 1,
        'acra_tokenizations_total{status="success",token_type="str"}': 5,
        'acra_tokenizations_total{status="fail",token_type="unknown"}': 1,
        'acra_detokenizations_total{status="success",token_type="str"}': 2,
        'acra_detokenizations_total{status="fail",token_type="str"}': 4,
        f"token_worker_redeliveries_total{{{stream}}}": 1,
        'token_worker_dead_letters_total{reason="payload_missing"}': 1,
    }


def test_any_number_of_outcomes_is_counted() -> None:
    """More kinds of replies than are kept are counted as well as a few: none is lost, and none counts twice."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [ROUTE.requests])
    lengths = [*range(1, REPLIES_KEPT + 3), 1, 2]
    for length in lengths:
        metrics.committed(answers_of(1, outcomes=(("str", "ok"),) * length), Committed(written=1))
    counted = samples_of(registry)
    assert counted['token_worker_items_total{op="tokenize",outcome="ok",type="str"}'] == sum(lengths)
    assert counted[f'token_worker_requests_total{{status="ok",stream="{ROUTE.requests}"}}'] == len(lengths)


def test_batches_are_counted_by_their_size() -> None:
    """Each bucket counts the batches that are not larger than its bound."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, [ROUTE.requests])
    for entries in (1, 5, 6, 9000):
        metrics.batch(entries)
    buckets = [
        registry.get_sample_value("token_worker_batch_entries_bucket", {"le": bound})
        for bound in ("1.0", "5.0", "10.0", "2500.0", "+Inf")
    ]
    assert buckets == [1, 2, 3, 3, 4]
    assert registry.get_sample_value("token_worker_batch_entries_sum") == 9012
