"""Lag as metrics, without a server."""

from itertools import product

import msgspec
import pytest

from harness.looks import lag
from token_worker import __version__
from token_worker.admin.lag import Measured
from token_worker.admin.lag_exporter import LagCollector
from token_worker.admin.workers import RouteWorkers, SeenWorker
from token_worker.errors import Unavailable

ROW = lag("in", "group", undelivered=3, oldest_undelivered_age_seconds=1.0)


def nothing() -> Measured:
    """No route has a group."""
    return Measured([], {}, {}, {})


def figures(collector: LagCollector) -> dict[str, list[float]]:
    return {metric.name: [sample.value for sample in metric.samples] for metric in collector.collect()}


@pytest.mark.parametrize(("unknown", "reachable"), [({}, 1.0), ({"in2": "ConnectionRefusedError"}, 0.0)])
def test_streams_out_of_reach_take_no_others_along(unknown: dict[str, str], reachable: float) -> None:
    """If some streams cannot be read, a metric says so, and the figures of the other streams are there."""
    found = figures(LagCollector(lambda: Measured([ROW], unknown, {"in": 0.0, "out": 86_400.0}, {}), list))
    assert found["token_worker_streams_reachable"] == [reachable]
    assert found["token_worker_stream_undelivered_entries"] == [3.0]
    assert found["token_worker_stream_ids_ahead_seconds"] == [0.0, 86_400.0]


def test_worker_of_several_routes_counts_once() -> None:
    """Workers are counted by version and state. One that is not ready on one of its routes is not ready."""
    one = SeenWorker(consumer="one", idle_seconds=1.0, pending=0, version=__version__, ready=True)
    two = msgspec.structs.replace(one, consumer="two")
    waiting = msgspec.structs.replace(two, ready=False)
    silent = SeenWorker(consumer="old", idle_seconds=1.0, pending=0)
    dead = SeenWorker(consumer="dead", idle_seconds=600.0, pending=3, version="0.0.1")
    routes = [
        RouteWorkers(stream="a", workers=(one, two, silent, dead)),
        RouteWorkers(stream="b", workers=(one, waiting)),
        RouteWorkers(stream="c", unknown="streams: ConnectionRefusedError"),
    ]
    [metric] = [metric for metric in LagCollector(nothing, lambda: routes).collect() if "workers" in metric.name]
    counts = {(sample.labels["version"], sample.labels["state"]): sample.value for sample in metric.samples}
    of_none = dict.fromkeys(product((__version__, "unknown"), ("ready", "not_ready", "unknown")), 0)
    assert counts == {
        **of_none,
        (__version__, "ready"): 1,
        (__version__, "not_ready"): 1,
        ("unknown", "unknown"): 1,
    }


def test_workers_that_cannot_be_read_take_no_others_along() -> None:
    """If the streams go away between the two looks, the lag is there."""

    def away() -> list[RouteWorkers]:
        raise Unavailable("streams", "ConnectionRefusedError")

    found = figures(LagCollector(nothing, away))
    assert found["token_worker_streams_reachable"] == [1.0]
    assert "token_worker_workers" not in found


def test_routes_have_few_series() -> None:
    """With 200 routes, each with a group of readers, the exporter has at most 20 series for each, and 600 besides."""
    names = [f"route-{number}" for number in range(200)]
    row = msgspec.structs.replace(ROW, pending=1, oldest_pending_age_seconds=1.0)
    rows = [msgspec.structs.replace(row, stream=name) for name in names]
    rows += [msgspec.structs.replace(row, stream=f"{name}:replies", dead_letters=None) for name in names]
    ahead = {f"{name}{role}": 0.0 for name in names for role in ("", ":dead", ":replies")}
    found = figures(LagCollector(lambda: Measured(rows, {}, ahead, {}), list))
    assert sum(map(len, found.values())) <= 200 * 20 + 600


def test_server_that_is_away_has_no_figures() -> None:
    """If no stream can be read, there is one metric, which says so."""

    def away() -> Measured:
        raise Unavailable("streams", "ConnectionRefusedError")

    assert figures(LagCollector(away, list)) == {"token_worker_streams_reachable": [0.0]}
