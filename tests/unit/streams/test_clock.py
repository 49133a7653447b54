"""The estimated clock of a server: when it is asked for the time, and in which direction the estimate may be wrong."""

from typing import Any, cast

import pytest

from token_worker.errors import ServerError, Unavailable
from token_worker.redis.link import Link
from token_worker.streams.clock import CLOCK_SECONDS, ServerClock

UNIX = 1_700_000_000.5


class Server:
    """A server whose answers take a second there and one back; its clock and connection can be changed."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.ahead = UNIX - self.seconds
        self.connection = 1
        self.asked = 0
        self.error: Exception | None = None

    def connect(self) -> int:
        return self.connection

    def call(self, *command: Any) -> Any:
        assert command == ("TIME",)
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.seconds += 1
        now = self.seconds + self.ahead
        self.seconds += 1
        return [str(int(now)).encode(), str(int(now % 1 * 1_000_000)).encode()]

    @property
    def link(self) -> Link:
        return cast(Link, self)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock(server: Server) -> ServerClock:
    return ServerClock(lambda: server.seconds)


def test_neither_side_is_wrong_in_the_way_that_costs_a_request(server: Server, clock: ServerClock) -> None:
    """After a slow answer, the estimate for judging is never ahead of the server, the one for setting never behind."""
    clock.refresh(server.link)
    truth = server.seconds + server.ahead
    assert truth - 1 <= clock.now() <= truth
    assert truth * 1000 <= cast(int, clock.unix_ms(server.seconds)) <= (truth + 1) * 1000


def test_server_is_asked_again_in_time(server: Server, clock: ServerClock) -> None:
    """Not for each request; but soon after its clock may have been set, back or forth."""
    clock.refresh(server.link)
    clock.refresh(server.link)
    assert server.asked == 1
    for jump in (-7200, 3600):
        server.ahead += jump
        server.seconds += CLOCK_SECONDS
        clock.refresh(server.link)
        assert clock.now() == pytest.approx(server.seconds + server.ahead, abs=1)
    assert server.asked == 3


def test_other_server_is_asked_at_once(server: Server, clock: ServerClock) -> None:
    """A new connection may lead to another server, which has another clock."""
    clock.refresh(server.link)
    server.connection, server.ahead = 2, server.ahead + 3600
    clock.refresh(server.link)
    assert clock.now() == pytest.approx(server.seconds + server.ahead, abs=1)


def test_server_that_refuses_is_asked_once_a_connection(server: Server, clock: ServerClock) -> None:
    """Then ids of entries tell the time, and nothing of another server counts any more."""
    clock.refresh(server.link)
    server.connection, server.error = 2, ServerError("streams", "NOPERM")
    for _ in range(2):
        clock.refresh(server.link)
        server.seconds += 2 * CLOCK_SECONDS
    assert server.asked == 2
    assert clock.unix_ms(0.0) is None
    clock.learn_from_id(b"1700000000000-3", 50.0)
    assert clock.unix_ms(60.0) == 1_700_000_010_000
    server.connection, server.error = 3, None
    clock.refresh(server.link)
    clock.learn_from_id(b"9999999999999-3", 50.0)  # ids can be ahead: no more than a way out
    assert clock.now() == pytest.approx(server.seconds + server.ahead, abs=1)


def test_server_that_is_away_is_asked_the_next_time(server: Server, clock: ServerClock) -> None:
    """An outage leaves all as it was."""
    server.error = Unavailable("streams", "TimeoutError")
    with pytest.raises(Unavailable):
        clock.refresh(server.link)
    server.error = None
    clock.refresh(server.link)
    assert server.asked == 2


def test_host_has_the_last_word_where_nothing_else_does(clock: ServerClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose server never told its time judges by the clock of its host."""
    monkeypatch.setattr("time.time", lambda: 7.0)
    assert clock.now() == 7.0
