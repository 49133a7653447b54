"""Ports of servers are held while in use, and chosen again if another process has taken them."""

import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from types import SimpleNamespace
from typing import cast

import pytest

from harness import ports
from harness.openbao import KeptOpenBao
from harness.server_process import ServerProcess
from harness.servers import Cluster, ClusterServer, OpenBao, Sentinel, Valkey, Watched, redis_binary


def occupy(port: int) -> socket.socket:
    """Listen on a port, as another program does."""
    listener = socket.create_server(("127.0.0.1", port))
    listener.listen()
    return listener


MAKERS: list[Callable[[], ServerProcess]] = [
    Valkey,
    lambda: Valkey(binary=redis_binary()),
    ClusterServer,
    OpenBao,
    KeptOpenBao,
    lambda: Sentinel(cast(Valkey, SimpleNamespace(port=1)), None),
]


@pytest.mark.parametrize("make", MAKERS, ids=["Valkey", "Redis", "cluster", "OpenBao", "OpenBao on disk", "Sentinel"])
def test_server_takes_another_port(make: Callable[[], ServerProcess]) -> None:
    """A port that is taken between its choice and the start costs nothing but a second start."""
    server = make()
    taken = server.port
    with closing(occupy(taken)), server:
        assert server.port != taken
        assert server.answers()


def test_bus_of_a_cluster_takes_another_port() -> None:
    """The same for the port between servers, and the cluster knows where it is."""
    cluster = Cluster(replicas=0)
    [first, second, _] = cluster.members
    assert isinstance(first, ClusterServer)
    taken = first.bus, second.port
    with closing(occupy(taken[0])), closing(occupy(taken[1])), cluster:
        assert (first.bus, second.port) != taken
        assert cluster.is_well()


def test_replicas_follow_a_primary_that_took_another_port() -> None:
    """Servers that name each other know what was chosen in the end."""
    watched = Watched(replicas=1)
    with closing(occupy(watched.members[0].port)), closing(occupy(watched.sentinels[1].port)), watched:
        assert watched.primary() is watched.members[0]


def test_another_server_is_not_taken_for_ours() -> None:
    """A Valkey of somebody else on the port answers, too: ours is the one that was started."""
    with Valkey() as other:
        server = Valkey()
        ports.release(server.port)
        server.port = other.port
        with server:
            assert server.port != other.port
            assert server.info("server")["process_id"] == server.pid


def test_server_that_ran_keeps_its_port() -> None:
    """A killed server starts again on its port, or says why it cannot."""
    with Valkey() as server:
        port = server.port
        server.kill()
        with closing(occupy(port)), pytest.raises(RuntimeError, match="already in use"):
            server.start()
        assert server.port == port


def test_port_is_given_out_once() -> None:
    """Other processes get other ports, until it is released or the process has ended."""
    ask = (
        "import sys; from harness import ports; ports.FIRST, ports.END = int(sys.argv[1]), int(sys.argv[1]) + 2;"
        "print(ports.reserve(), flush=True); sys.stdin.read()"
    )
    with ExitStack() as exits:
        first = pair()
        got = []
        for _ in range(2):
            process = exits.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ask, str(first)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            exits.callback(process.kill)
            assert process.stdout is not None
            got.append(int(process.stdout.readline()))
        assert sorted(got) == [first, first + 1]
        assert not ports.take(first)
    assert ports.take(first)
    ports.release(first)


def pair() -> int:
    """Two ports in a row that nobody has."""
    while True:
        first = ports.reserve()
        is_free = ports.take(first + 1)
        for port in (first, first + 1):
            ports.release(port)
        if is_free:
            return first
