"""The dashboard and the scaler show what happens, in a real Prometheus that scrapes a real worker and two exporters."""

import json
import math
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from harness.prometheus import Prometheus, debian_program
from harness.servers import DEPLOY_FILES
from harness.stack import GROUP, wait_until
from harness.watched import CLIENT, Watched

DASHBOARD = json.loads((DEPLOY_FILES / "dashboard.json").read_text())
KEDA = yaml.safe_load((DEPLOY_FILES / "keda.yml").read_text())["spec"]

BURST_SECONDS = 2
EXTRAPOLATED = 0.35
"""Prometheus extends what it has seen to both ends of a range: a third more, if the range has four scrapes."""

BURST_REQUESTS = 50
"""Requests sent at once, again and again while a burst lasts."""


@pytest.fixture
def watched() -> Iterator[Watched]:
    """A worker and two exporters."""
    debian_program("prometheus")
    with Watched() as watched:
        yield watched


@pytest.fixture
def prometheus(watched: Watched) -> Iterator[Prometheus]:
    """A Prometheus that has scraped them before anything was asked."""
    with Prometheus(watched.targets) as prometheus:
        wait_until(lambda: len(prometheus.query("up == 1")) == 3, "the first scrapes")
        yield prometheus


def query_of(title: str) -> str:
    """The query of a panel that has one."""
    [panel] = [panel for panel in DASHBOARD["panels"] if panel["title"] == title]
    [target] = panel["targets"]
    return str(target["expr"])


def burst(watched: Watched) -> int:
    """Keep the worker busy for two seconds; returns the number of requests."""
    sent = 0
    end = time.monotonic() + BURST_SECONDS
    while time.monotonic() < end:
        common = {"op": "tokenize", "client_id": CLIENT, "type": "str"}
        watched.stack.ask([{**common, "id": str(sent + n), "value": f"value {n}"} for n in range(BURST_REQUESTS)])
        sent += BURST_REQUESTS
    return sent


def area(series: list[dict[str, Any]], step: int) -> float:
    """The area below the lines of a graph of rates."""
    return sum(float(value) * step for line in series for _, value in line["values"] if value != "NaN")


def test_figures_are_right_after_a_burst_of_two_seconds(watched: Watched, prometheus: Prometheus) -> None:
    """After a burst no panel is empty, the replies are as many as there were, and the scaler counts an entry once."""
    streams = watched.stack.streams
    streams.xgroup_create("tokenize:responses", "reader", id="0", mkstream=True)

    # Given a burst, and a reader that has one reply in hand and others before it
    began = time.time()
    sent = burst(watched)
    streams.xreadgroup("reader", "one", {"tokenize:responses": ">"}, count=1)
    detokenize = {"op": "detokenize", "client_id": CLIENT, "type": "str", "value": "no such token"}
    watched.stack.ask([{**detokenize, "id": "d"}], "detokenize")
    streams.xadd("tokenize:requests", {"no": "payload"})
    wait_until(lambda: prometheus.value("sum(token_worker_requests_total)") == sent + 1, "all replies")
    wait_until(lambda: prometheus.value("sum(token_worker_dead_letters_total)") == 1, "the dead letter")

    # Then no panel is empty
    replies = query_of("Replies")
    wait_until(lambda: not prometheus.graph(replies, 0), "the burst to be over in the graph, too")
    seconds = time.time() - began + 2
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            series = prometheus.graph(target["expr"], seconds)
            values = [float(value) for line in series for _, value in line["values"]]
            assert any(map(math.isfinite, values)), f"{panel['title']}: {target['expr']}"

    # And the figures are those of the burst. Where steps are of ten minutes, as in a graph of a week, it lies anywhere
    # between two of them.
    assert area(prometheus.graph(replies, seconds), 1) == pytest.approx(sent, rel=EXTRAPOLATED)
    for later in (0, 200, 500):
        assert area(prometheus.graph(replies, 600, step=600, later=later), 600) == pytest.approx(
            sent, rel=EXTRAPOLATED
        ), later
    counted = prometheus.graph(query_of("Replies in this time"), seconds)
    [ok] = [line for line in counted if line["metric"]["status"] == "ok"]
    assert float(ok["values"][-1][1]) == pytest.approx(sent, rel=EXTRAPOLATED)

    # When seven entries wait, which both exporters see, then the scaler counts seven
    [trigger] = KEDA["triggers"]
    scaler = trigger["metadata"]["query"]
    assert prometheus.value(scaler) == 0
    watched.worker.signal(signal.SIGSTOP)
    for number in range(7):
        streams.xadd("tokenize:requests", {"payload": str(number)})
    of_group = f'{{__name__=~"token_worker_stream_(undelivered|pending)_entries",group="{GROUP}"}}'
    wait_until(lambda: prometheus.value(f"sum({of_group})") == 14, "both exporters to see seven entries")
    assert prometheus.value(scaler) == 7

    # When nobody exports, then the scaler gets no figure, and falls back
    watched.stop_exporters()
    wait_until(lambda: prometheus.query(scaler) == [], "no figure")
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert KEDA["minReplicaCount"] < KEDA["fallback"]["replicas"] < KEDA["maxReplicaCount"]
