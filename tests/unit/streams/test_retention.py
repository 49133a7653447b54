"""If the server of one route is away, the streams of the other routes are trimmed all the same."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from token_worker.contract.messages import Op
from token_worker.errors import Unavailable
from token_worker.redis.exchange import Exchange, drive
from token_worker.redis.link import Link
from token_worker.redis.script import Script
from token_worker.streams.retention import TRIM, Retention, Trimmed
from token_worker.streams.routes import Route

ROUTES = [Route(f"in{n}", f"out{n}", frozenset({Op.TOKENIZE}), request_retention_seconds=0) for n in range(3)]
JOBS: list[Callable[..., Exchange[Trimmed]]] = [Retention.tend, Retention.clear, Retention.leave]


class Streams:
    """A link to several servers, of which that of ``in1`` is away; each script deletes one thing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def call(self, *command: Any) -> Any:
        self._ask(command[1] if len(command) > 1 else "")
        return [b"1", b"0"] if command == ("TIME",) else b"OK"

    def run(self, script: Script, keys: Sequence[str], _args: Sequence[Any]) -> Any:
        self._ask(keys[0])
        return [1, 0, 0, 0] if script is TRIM else 1

    def _ask(self, key: str) -> None:
        self.asked.append(key)
        if key.startswith("in1"):
            raise Unavailable("streams", "ConnectionRefusedError")


@pytest.mark.parametrize("job", JOBS)
def test_route_whose_server_is_away_holds_up_no_other(job: Callable[..., Exchange[Trimmed]]) -> None:
    """The others are tended, and it is told which one was not, and why."""
    streams, subject = Streams(), Retention(ROUTES, "group", "me", is_apart=True)
    assert subject.is_due(0.0)
    done = drive(job(subject), cast(Link, streams))
    assert done.refused == [("in1", "Redis for streams: connection refused")]
    assert done.deleted + done.consumers > 0
    assert {key.partition(":")[0] for key in streams.asked} >= {"in0", "in1", "in2"}


@pytest.mark.parametrize("job", JOBS)
def test_route_that_rests_is_not_asked_for(job: Callable[..., Exchange[Trimmed]]) -> None:
    """No route waits for a server that is known to be away."""
    streams, subject = Streams(), Retention(ROUTES, "group", "me", is_apart=True)
    assert subject.is_due(0.0)
    assert drive(job(subject, {ROUTES[1]: "TimeoutError"}), cast(Link, streams)).refused == []
    assert {"in0", "in2"} <= {key.partition(":")[0] for key in streams.asked}
    assert not any(key.startswith("in1") for key in streams.asked)


@pytest.mark.parametrize("job", JOBS)
def test_one_server_that_is_away_is_asked_once(job: Callable[..., Exchange[Trimmed]]) -> None:
    """If all routes have one server, only one of them waits for it."""
    streams, subject = Streams(), Retention(ROUTES[1:], "group", "me")
    assert subject.is_due(0.0)
    with pytest.raises(Unavailable):
        drive(job(subject), cast(Link, streams))
    assert len(streams.asked) == 1
