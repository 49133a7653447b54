"""Lag as metrics, without a server."""

import pytest

from token_worker.admin.lag import GroupLag, Measured
from token_worker.admin.lag_exporter import LagCollector
from token_worker.errors import Unavailable

ROW = GroupLag(
    stream="in",
    group="group",
    undelivered=3,
    exact=True,
    pending=0,
    oldest_undelivered_age_seconds=1.0,
    oldest_pending_age_seconds=None,
    max_deliveries=0,
    consumers=1,
    dead_consumers=0,
    dead_letters=0,
    lag_known=True,
    ids_ahead_seconds=0.0,
)


def figures(collector: LagCollector) -> dict[str, list[float]]:
    return {metric.name: [sample.value for sample in metric.samples] for metric in collector.collect()}


@pytest.mark.parametrize(("unknown", "reachable"), [({}, 1.0), ({"in2": "ConnectionRefusedError"}, 0.0)])
def test_streams_out_of_reach_take_no_others_along(unknown: dict[str, str], reachable: float) -> None:
    """If some streams cannot be read, a metric says so, and the figures of the other streams are there."""
    found = figures(LagCollector(lambda: Measured([ROW], unknown, {"in": 0.0, "out": 86_400.0}, {})))
    assert found["token_worker_streams_reachable"] == [reachable]
    assert found["token_worker_stream_undelivered_entries"] == [3.0]
    assert found["token_worker_stream_ids_ahead_seconds"] == [0.0, 86_400.0]


def test_server_that_is_away_has_no_figures() -> None:
    """If no stream can be read, there is one metric, which says so."""

    def away() -> Measured:
        raise Unavailable("streams", "ConnectionRefusedError")

    assert figures(LagCollector(away)) == {"token_worker_streams_reachable": [0.0]}
