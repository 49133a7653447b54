"""Trimming beside the work: it goes on through failures, and does not make them worse."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from token_worker.contract.messages import Op
from token_worker.errors import Unavailable
from token_worker.redis.exchange import Exchange, RunScript
from token_worker.service.committer import Committer
from token_worker.service.maintenance import PAUSE_SECONDS, Maintenance
from token_worker.service.runtime import Runtime
from token_worker.streams.delivery_protocol import DeliveryProtocol
from token_worker.streams.retention import INTERVAL_SECONDS, TRIM, Retention
from token_worker.streams.routes import Route

ROUTE = Route("in", "out", frozenset({Op.TOKENIZE}), request_retention_seconds=0)


class Stage:
    """A maintenance whose time and streams are set by hand.

    Attributes:
        seconds: the time.
        is_away: whether the streams' server is unavailable.
        asked: times at which it was asked.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.is_away = False
        self.asked: list[float] = []
        committer = cast(Committer, SimpleNamespace(drive=self._drive))
        delivery = cast(DeliveryProtocol, SimpleNamespace(away={}))
        retention = Retention([ROUTE], "group", "me")
        self.subject = Maintenance(retention, delivery, committer, Runtime(monotonic=lambda: self.seconds))

    def _drive(self, exchange: Exchange[Any]) -> Any:
        self.asked.append(self.seconds)
        try:
            command = next(exchange)
            if self.is_away:
                exchange.throw(Unavailable("streams", "ConnectionError"))
            while True:
                assert isinstance(command, RunScript)
                command = exchange.send([0, 0, 0, 0] if command.script is TRIM else 0)
        except StopIteration as end:
            return end.value


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_streams_that_are_unavailable_are_not_asked_again_at_once(stage: Stage) -> None:
    """A wait for another server calls ten times a second: each try could last a time-out, and each is logged."""
    stage.is_away = True
    for tenth in range(int(10 * PAUSE_SECONDS) + 1):
        stage.seconds = tenth / 10
        stage.subject.tend()
    assert stage.asked == [0.0, PAUSE_SECONDS]


def test_trimming_goes_on_when_the_streams_are_back(stage: Stage) -> None:
    """After the pause all streams that are due are trimmed as before."""
    stage.is_away = True
    stage.subject.tend()
    stage.is_away, stage.seconds = False, INTERVAL_SECONDS
    stage.subject.tend()
    stage.seconds += 0.1
    stage.subject.tend()
    assert stage.asked[0] == 0.0
    assert {INTERVAL_SECONDS, INTERVAL_SECONDS + 0.1} <= set(stage.asked)
