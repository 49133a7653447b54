"""What is counted of a commit: what was really answered."""

from prometheus_client import CollectorRegistry

from token_worker.contract.messages import Op
from token_worker.service.handler import Account
from token_worker.streams.delivery import Answer, Committed, Entry
from token_worker.streams.routes import Route
from token_worker.telemetry.metrics import Metrics

ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}))


def test_replies_that_were_not_written_are_not_counted() -> None:
    """What stays pending is not counted, and what the named stream could not take is counted as ``forbidden``."""
    registry = CollectorRegistry()
    account = Account("tokenize", "ok", "id", "client", None, (("str", "ok"),))
    answers = [Answer(Entry(ROUTE, b"%d-0" % number, {}), b"reply", account=account) for number in range(1, 7)]
    written, stuck, forbidden = answers[:3], answers[3:5], answers[5:]
    done = Committed(3, 0, [it.entry for it in forbidden], [it.entry for it in stuck], {"out": "ids used up"})

    Metrics(registry).committed(answers, done)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("token_worker_requests_total", stream="in", status="ok") == len(written)
    assert value("token_worker_requests_total", stream="in", status="error") == len(forbidden)
    items = {"op": "tokenize", "type": "str", "outcome": "ok"}
    assert value("token_worker_items_total", **items) == len(written)
    assert value("token_worker_items_total", op="tokenize", type="unknown", outcome="forbidden") == len(forbidden)
    assert value("token_worker_latency_seconds_count") == len(written) + len(forbidden)
