"""The proxy passes commands on, and cuts or holds connections as its hook says."""

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.proxy import Command, Moment, Proxy, Relay, Verdict
from harness.servers import Valkey


def client(proxy: Proxy, seconds: float = 5) -> redis.Redis:
    return redis.Redis(port=proxy.port, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=seconds)


@pytest.mark.parametrize("kind", [Proxy, Relay])
def test_commands_go_there_and_back(streams_server: Valkey, kind: type[Proxy]) -> None:
    """A client behind either proxy reaches the server with commands and replies of any size."""
    with kind(streams_server.port) as proxy, client(proxy) as behind:
        behind.set("key", "x" * 1_000_000)
        assert behind.get("key") == b"x" * 1_000_000


@pytest.mark.parametrize(
    ("moment", "verdict", "error", "is_done"),
    [
        (Moment.BEFORE, Verdict.CUT, redis.ConnectionError, False),
        (Moment.BEFORE, Verdict.CUT_IN_THE_MIDDLE, redis.ConnectionError, False),
        (Moment.AFTER, Verdict.CUT, redis.ConnectionError, True),
        (Moment.AFTER, Verdict.CUT_IN_THE_MIDDLE, redis.ConnectionError, True),
        (Moment.BEFORE, Verdict.HOLD, redis.TimeoutError, False),
        (Moment.AFTER, Verdict.HOLD, redis.TimeoutError, True),
    ],
)
def test_connection_is_reset_or_left_half_open(
    streams_server: Valkey, moment: Moment, verdict: Verdict, error: type[Exception], is_done: bool
) -> None:
    """A reset is an error at once, a half-open connection just silent; both before or after the server's part."""

    def hook(now: Moment, command: Command) -> Verdict:
        return verdict if (now, command.name) == (moment, "SET") else Verdict.PASS

    with Proxy(streams_server.port, hook) as proxy, client(proxy, 0.3) as behind, streams_server.client() as beside:
        with pytest.raises(error):
            behind.set("key", "value")
        assert bool(beside.exists("key")) == is_done
        assert behind.ping()


def test_another_server_is_reached_by_new_connections(streams_server: Valkey, storage_server: Valkey) -> None:
    """After the server behind a proxy was exchanged and its connections cut, clients reach the other one."""
    with Proxy(streams_server.port) as proxy, client(proxy) as behind, storage_server.client() as other:
        assert behind.ping()
        proxy.server_port = storage_server.port
        proxy.cut_all()
        behind.set("key", "value")
        assert other.get("key") == b"value"
